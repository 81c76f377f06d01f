"""The command line of the language-model scripts: flags, their checks, and what they resolve to."""

import argparse
import math
import os
import sys
from collections.abc import Callable
from pathlib import Path

from lstm.progress import complain
from stn import precision
from stn.errors import UserError

ROOT = Path(__file__).resolve().parent.parent
PTB = ROOT / "data" / "penn"
INTERRUPTED, BROKEN_PIPE = 130, 141  # the exit status that shells give a process stopped by SIGINT, by SIGPIPE
# What a resumed run may change: none of it alters the steps that are taken.
ALTERABLE = ("epochs", "patience", "train_log_interval", "val_log_interval", "checkpoint_seconds")


class OneLineParser(argparse.ArgumentParser):
    """Says what is wrong with the command line in one line, without the usage."""

    def __init__(self, **settings):
        super().__init__(formatter_class=DefaultsFormatter, usage="%(prog)s [flags]", allow_abbrev=False, **settings)

    def error(self, message: str):
        print(f"{self.prog}: {message} (see {self.prog} --help)", file=sys.stderr)
        raise SystemExit(2)


class DefaultsFormatter(argparse.HelpFormatter):
    """Ends each flag's help with its default, where it has one."""

    def _get_help_string(self, action: argparse.Action) -> str:
        has_none = action.default is None or action.default is False or action.default == argparse.SUPPRESS
        return action.help if has_none else f"{action.help} (default: %(default)s)"


def parse(parser: argparse.ArgumentParser, argv: list[str] | None) -> tuple[argparse.Namespace, set[str]]:
    """The flags with their defaults, and the names of those that were given."""
    unset = object()
    probe = argparse.Namespace(**{action.dest: unset for action in parser._actions})
    given = {name for name, value in vars(parser.parse_args(argv, probe)).items() if value is not unset}
    return parser.parse_args(argv), given


def exit_status(script: str, work: Callable[[], int | None], where_it_stands: str) -> int:
    """Do the work; its own exit status or 0, 2 for what the user can mend, INTERRUPTED after Ctrl-C.

    The latter two are said in a line on stderr. where_it_stands: what Ctrl-C leaves, and how to go on.
    """
    try:
        return work() or 0
    except UserError as error:
        complain(script, error)
        return 2
    except KeyboardInterrupt:
        complain(script, f"stopped; {where_it_stands}")
        return INTERRUPTED
    except BrokenPipeError:  # whoever read the output has gone: what is left of it must not fail again at the exit
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return BROKEN_PIPE


def add_model_flags(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument_group("model").add_argument
    add("--emsize", type=positive_int, default=650, help="size of word embeddings")
    add("--nhid", type=positive_int, default=650, help="hidden units per layer")
    add("--nlayers", type=positive_int, default=2, help="number of LSTM layers")


def add_training_flags(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument_group("training").add_argument
    add("--lr", type=positive, default=30.0, help="initial learning rate of SGD")
    add("--clip", type=nonnegative, default=0.25, help="largest norm of the gradient, 0 for none")
    add("--wdecay", type=nonnegative, default=0.0, help="weight decay")
    add("--epochs", type=positive_int, default=8000, help="upper epoch limit")
    add("--batch_size", type=positive_int, default=40, metavar="N", help="batch size")
    add("--bptt", type=positive_int, default=70, help="sequence length in steps")
    add(
        "--nonmono",
        type=nonnegative_int,
        default=5,
        help="decay the learning rate when the validation loss is no better than it was more than this many epochs ago",
    )
    add("--lr_decay", type=factor, default=4.0, help="what the learning rate is divided by")
    add(
        "--patience",
        type=positive_int,
        default=20,
        help="epochs without a better validation loss before training stops",
    )
    add("--seed", type=nonnegative_int, default=None, help="random seed (default: a fresh one, recorded in args.yaml)")


def add_hyperparameter_flags(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument_group("regularization").add_argument
    add("--dropouto", type=rate, default=0.05, help="dropout of the last layer's output")
    add("--dropouth", type=rate, default=0.05, help="dropout between layers")
    add("--dropouti", type=rate, default=0.05, help="dropout of the embedded input")
    add("--dropoute", type=rate, default=0.05, help="dropout of word types")
    add("--wdrop", type=rate, default=0.05, help="DropConnect on the recurrent weights")
    add("--alpha", type=nonnegative, default=0.0, help="activation regularization, AR")
    add("--beta", type=nonnegative, default=0.0, help="temporal activation regularization, TAR")


def add_run_flags(parser: argparse.ArgumentParser, log_interval: tuple[str, ...], every: int) -> None:
    """log_interval: the names of the flag for how many weight steps lie between log entries. every: its default."""
    add = parser.add_argument_group("data, device and logs").add_argument
    add(
        "--data",
        default=None,
        metavar="FOLDER",
        help="folder of train.txt, valid.txt and test.txt, or 'builtin' for the built-in corpus "
        "(default: data/penn, and where that is absent the built-in corpus)",
    )
    add(
        "--dtype",
        choices=precision.CHOICES,
        default="auto",
        help="what matrix products are computed in; auto is bfloat16 where the processor multiplies it natively",
    )
    add("--disable_cuda", action="store_true", help="use the CPU even where there is a GPU")
    add("--gpu", type=nonnegative_int, default=0, help="which GPU to use")
    add(
        "--threads",
        type=positive_int,
        default=None,
        metavar="N",
        help="CPU threads (default: as many as PyTorch chooses)",
    )
    add("--save_dir", default="saves", help="the runs' folder below logs/")
    add("--prefix", default=None, help="tells this run's folder from others of the same day")
    add(
        "--save",
        type=model_name,
        default="model.pt",
        metavar="FILE",
        help="file of the best model, in the run's folder",
    )
    add(
        *log_interval,
        dest="train_log_interval",
        type=positive_int,
        default=every,
        metavar="N",
        help="weight steps from one log entry to the next",
    )
    add(
        "--checkpoint_seconds", type=nonnegative, default=60.0, metavar="S", help="time from one checkpoint to the next"
    )
    add("--overwrite", action="store_true", help="redo a run that is there, removing what it wrote")
    add(
        "--resume",
        nargs="?",
        const="",
        default=None,
        metavar="FOLDER",
        help="continue an unfinished run (default: the newest of this --save_dir and --prefix); only the number of "
        "epochs, the patience and the log and checkpoint intervals may differ",
    )
    add(
        "--test",
        action="store_true",
        help="train nothing: evaluate the best model of a run "
        "(--resume FOLDER; default: the newest of this --save_dir and --prefix)",
    )


def find(path: str, what: str) -> Path:
    """A path that the user gave, from the caller's folder or else from the repository's root."""
    for candidate in (Path(path), ROOT / path):
        if candidate.exists():
            return candidate.resolve()
    raise UserError(f"{what} {path} does not exist, neither here nor in {ROOT}: check the path")


def _number(convert: Callable, accept: Callable, wanted: str) -> Callable:
    def parse_number(text: str):
        try:
            value = convert(text)
        except ValueError:
            value = math.nan
        if not (-math.inf < value < math.inf and accept(value)):
            raise argparse.ArgumentTypeError(f"'{text}' is not {wanted}")
        return value

    return parse_number


def model_name(text: str) -> str:
    if Path(text).name != text or not text.endswith(".pt") or text == "checkpoint.pt":
        raise argparse.ArgumentTypeError(f"'{text}' is not a file name ending in .pt, other than checkpoint.pt")
    return text


positive_int = _number(int, lambda n: 0 < n < 2**31, "a whole number above 0 and below 2^31")
nonnegative_int = _number(int, lambda n: 0 <= n < 2**63, "a whole number of 0 or more and below 2^63")
positive = _number(float, lambda x: x > 0, "a number above 0")
nonnegative = _number(float, lambda x: x >= 0, "a number of 0 or more")
factor = _number(float, lambda x: x > 1, "a number above 1")
rate = _number(float, lambda x: 0 <= x < 1, "a rate, 0 or more and below 1")
