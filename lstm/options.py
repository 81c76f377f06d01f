"""The command line of the language-model scripts: flags, their checks, and what they resolve to."""

import argparse
import math
import sys
from collections.abc import Callable
from pathlib import Path

from lstm.model import HYPERPARAMETERS
from stn.errors import UserError

ROOT = Path(__file__).resolve().parent.parent
PTB = ROOT / "data" / "penn"
RATES = ("dropouto", "dropouth", "dropouti", "dropoute", "wdrop")
# What a resumed run may change: none of it alters the steps that are taken.
ALTERABLE = ("epochs", "patience", "train_log_interval", "val_log_interval", "checkpoint_seconds")


class OneLineParser(argparse.ArgumentParser):
    """Says what is wrong with the command line in one line, without the usage."""

    def error(self, message: str):
        print(f"{self.prog}: {message} (see {self.prog} --help)", file=sys.stderr)
        raise SystemExit(2)


def parse(parser: argparse.ArgumentParser, argv: list[str] | None) -> tuple[argparse.Namespace, set[str]]:
    """The flags with their defaults, and the names of those that were given."""
    unset = object()
    probe = argparse.Namespace(**{action.dest: unset for action in parser._actions})
    given = {name for name, value in vars(parser.parse_args(argv, probe)).items() if value is not unset}
    return parser.parse_args(argv), given


def add_model_flags(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument_group("model").add_argument
    add("--emsize", type=positive_int, default=650, help="size of word embeddings (default: %(default)s)")
    add("--nhid", type=positive_int, default=650, help="hidden units per layer (default: %(default)s)")
    add("--nlayers", type=positive_int, default=2, help="number of LSTM layers (default: %(default)s)")


def add_training_flags(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument_group("training").add_argument
    add("--lr", type=positive, default=30.0, help="initial learning rate of SGD (default: %(default)g)")
    add(
        "--clip", type=nonnegative, default=0.25, help="largest norm of the gradient, 0 for none (default: %(default)g)"
    )
    add("--wdecay", type=nonnegative, default=0.0, help="weight decay (default: %(default)g)")
    add("--epochs", type=positive_int, default=8000, help="upper epoch limit (default: %(default)s)")
    add("--batch_size", type=positive_int, default=40, metavar="N", help="batch size (default: %(default)s)")
    add("--bptt", type=positive_int, default=70, help="sequence length (default: %(default)s)")
    add("--nonmono", type=nonnegative_int, default=5, help="decay the learning rate when the validation loss is no "
        "better than it was more than this many epochs ago (default: %(default)s)")  # fmt: skip
    add("--lr_decay", type=factor, default=4.0, help="what the learning rate is divided by (default: %(default)g)")
    add("--patience", type=positive_int, default=20, help="epochs without a better validation loss before training "
        "stops (default: %(default)s)")  # fmt: skip
    add("--seed", type=nonnegative_int, default=None, help="random seed (default: a fresh one, recorded in args.yaml)")


def add_hyperparameter_flags(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument_group("regularization").add_argument
    add("--dropouto", type=rate, default=0.05, help="dropout of the last layer's output (default: %(default)g)")
    add("--dropouth", type=rate, default=0.05, help="dropout between layers (default: %(default)g)")
    add("--dropouti", type=rate, default=0.05, help="dropout of the embedded input (default: %(default)g)")
    add("--dropoute", type=rate, default=0.05, help="dropout of word types (default: %(default)g)")
    add("--wdrop", type=rate, default=0.05, help="DropConnect on the recurrent weights (default: %(default)g)")
    add("--alpha", type=nonnegative, default=0.0, help="activation regularization, AR (default: %(default)g)")
    add("--beta", type=nonnegative, default=0.0, help="temporal activation regularization, TAR (default: %(default)g)")


def add_tuning_flags(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument_group("self-tuning").add_argument
    for name in HYPERPARAMETERS:
        add(f"--tune_{name}", action="store_true", help=f"tune {name}")
    add("--tune_all", action="store_true", help="tune all seven; unless given otherwise, start alpha and beta at 0.05, "
        "with --drop_transform sigmoid and --alpha_beta_transform softplus as published (the authors found 'none' "
        "more robust for both)")  # fmt: skip
    add("--hyper_lr", type=positive, default=0.01, metavar="LR", help="learning rate of Adam for the hyperparameters "
        "(default: %(default)g)")  # fmt: skip
    add("--train_steps", type=positive_int, default=2, help="weight steps in a row (default: %(default)s)")
    add("--val_steps", type=positive_int, default=1, help="hyperparameter steps in a row (default: %(default)s)")
    add("--warmup_steps", type=nonnegative_int, default=331, help="weight steps before the hyperparameters start to "
        "train (default: %(default)s, an epoch of Penn Treebank)")  # fmt: skip
    add("--perturb_scale", type=positive, default=1.0, help="standard deviation of the perturbation of unconstrained "
        "hyperparameters (default: %(default)g)")  # fmt: skip
    add("--drop_transform", choices=["none", "sigmoid"], default="none", help="what dropout rates pass through on "
        "their way into the response (default: %(default)s)")  # fmt: skip
    add("--alpha_beta_transform", choices=["none", "softplus"], default="none", help="the same for alpha and beta "
        "(default: %(default)s)")  # fmt: skip
    add("--tune_scales", action="store_true", help="tune the scales of the perturbation too")
    add("--entropy_weight", type=nonnegative, default=1e-3, help="weight of the perturbation's entropy, with "
        "--tune_scales (default: %(default)g)")  # fmt: skip
    add("--scale_lr", type=positive, default=0.01, metavar="LR", help="learning rate of Adam for the scales, with "
        "--tune_scales (default: %(default)g)")  # fmt: skip
    add("--val_penalties", action="store_true", help="add AR and TAR to the hyperparameters' objective, as the "
        "published code did; it pushes alpha and beta up")  # fmt: skip


def add_run_flags(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument_group("data, device and logs").add_argument
    add("--data", default=None, metavar="FOLDER", help="folder of train.txt, valid.txt and test.txt, or 'builtin' for "
        "the built-in corpus (default: data/penn, and where that is absent the built-in corpus)")  # fmt: skip
    add("--disable_cuda", action="store_true", help="use the CPU even where there is a GPU")
    add("--gpu", type=nonnegative_int, default=0, help="which GPU to use (default: %(default)s)")
    add("--threads", type=positive_int, default=None, metavar="N", help="CPU threads (default: all cores)")
    add("--save_dir", default="saves", help="the runs' folder below logs/ (default: %(default)s)")
    add("--prefix", default=None, help="tells this run's folder from others of the same day")
    add("--save", type=model_name, default="model.pt", metavar="FILE", help="name of the best model's file in the run's folder "
        "(default: %(default)s)")  # fmt: skip
    add("--train_log_interval", type=positive_int, default=1, metavar="N", help="weight steps from one log entry to "
        "the next (default: %(default)s)")  # fmt: skip
    add("--val_log_interval", type=positive_int, default=1, metavar="N", help="hyperparameter steps from one log entry "
        "to the next (default: %(default)s)")  # fmt: skip
    add("--checkpoint_seconds", type=nonnegative, default=60.0, metavar="S", help="time from one checkpoint to the "
        "next (default: %(default)g)")  # fmt: skip
    add("--overwrite", action="store_true", help="redo a run that is there, removing what it wrote")
    add("--resume", nargs="?", const="", default=None, metavar="FOLDER", help="continue an unfinished run (default: "
        "the newest of this --save_dir and --prefix); only " + ", ".join(f"--{name}" for name in ALTERABLE) + " may "
        "differ")  # fmt: skip
    add("--test", action="store_true", help="train nothing: evaluate the best model of a run (--resume FOLDER; "
        "default: the newest of this --save_dir and --prefix)")  # fmt: skip


def resolve_tuning(args: argparse.Namespace, given: set[str]) -> None:
    """What --tune_all stands for, in place, and never over a value that the user gave.

    Raises UserError where a tuned hyperparameter starts at an end of its range.
    """
    if args.tune_all:
        implied = {"alpha": 0.05, "beta": 0.05, "drop_transform": "sigmoid", "alpha_beta_transform": "softplus"}
        for name, value in implied.items():
            if name not in given:
                setattr(args, name, value)
        for name in HYPERPARAMETERS:
            setattr(args, f"tune_{name}", True)
    for name, spec in HYPERPARAMETERS.items():
        low, high = spec.range
        value = getattr(args, name)
        if getattr(args, f"tune_{name}") and not low < value < high:
            raise UserError(
                f"--tune_{name} cannot start at --{name} {value:g}: give --{name} a value strictly between "
                f"{low:g} and {high:g}, for example 0.05"
            )


def find(path: str, what: str) -> Path:
    """A path that the user gave, from the caller's folder or else from the repository's root."""
    for candidate in (Path(path), ROOT / path):
        if candidate.exists():
            return candidate.resolve()
    raise UserError(f"{what} {path} does not exist, neither here nor in {ROOT}")


def _number(convert: Callable, accept: Callable, wanted: str) -> Callable:
    def parse_number(text: str):
        try:
            value = convert(text)
        except ValueError:
            value = math.nan
        if not (math.isfinite(value) and accept(value)):
            raise argparse.ArgumentTypeError(f"'{text}' is not {wanted}")
        return value

    return parse_number


def model_name(text: str) -> str:
    if Path(text).name != text or not text.endswith(".pt") or text == "checkpoint.pt":
        raise argparse.ArgumentTypeError(f"'{text}' is not a file name ending in .pt, other than checkpoint.pt")
    return text


positive_int = _number(int, lambda n: n > 0, "a whole number above 0")
nonnegative_int = _number(int, lambda n: 0 <= n < 2**63, "a whole number of 0 or more")
positive = _number(float, lambda x: x > 0, "a number above 0")
nonnegative = _number(float, lambda x: x >= 0, "a number of 0 or more")
factor = _number(float, lambda x: x > 1, "a number above 1")
rate = _number(float, lambda x: 0 <= x < 1, "a rate, 0 or more and below 1")
