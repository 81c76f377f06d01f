"""The command line: parsing, checks of single values, exit statuses, and flags that all training scripts have."""

import argparse
import math
import os
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from stn.errors import UserError
from stn.kernels import precision
from stn.scripts.screen import complain

ROOT = Path(__file__).resolve().parent.parent.parent
INTERRUPTED, BROKEN_PIPE = 130, 141  # the exit status that shells give a process stopped by SIGINT, by SIGPIPE


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
        has_none = action.default is None or action.default is False or action.default in ("", argparse.SUPPRESS)
        return action.help if has_none else f"{action.help} (default: %(default)s)"


def parse(parser: argparse.ArgumentParser, argv: list[str] | None) -> tuple[argparse.Namespace, set[str]]:
    """The flags with their defaults, and the names of those that were given."""
    unset = object()
    names = {action.dest for action in parser._actions} | parser._defaults.keys()
    probe = argparse.Namespace(**dict.fromkeys(names, unset))
    given = {name for name, value in vars(parser.parse_args(argv, probe)).items() if value is not unset}
    return parser.parse_args(argv), given


def unfit(parser: argparse.ArgumentParser, settings: Mapping[str, object]) -> str | None:
    """The first setting that its flag would not take, if any; settings without a flag are not asked."""
    for action in parser._actions:
        value = settings.get(action.dest, action.default)
        if value != action.default and not _takes(parser, action, value):
            return action.dest
    return None


def _takes(parser: argparse.ArgumentParser, action: argparse.Action, value: object) -> bool:
    if action.nargs == 0:
        return isinstance(value, bool)
    if isinstance(value, list) != (action.nargs == "+"):
        return False
    try:
        for text in map(str, value if isinstance(value, list) else [value]):
            parser._check_value(action, parser._get_value(action, text))
    except argparse.ArgumentError:
        return False
    return True


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


def add_machine_flags(add: Callable) -> None:
    """Flags for how to compute; `add`: a parser's or group's add_argument."""
    add(
        "--dtype",
        choices=precision.CHOICES,
        default="auto",
        help="what matrix products are computed in; auto is bfloat16 where the processor multiplies it natively",
    )
    add(
        "--threads",
        type=positive_int,
        default=None,
        metavar="N",
        help="CPU threads (default: as many as PyTorch chooses)",
    )
    add(
        "--checkpoint_seconds", type=nonnegative, default=60.0, metavar="S", help="time from one checkpoint to the next"
    )


def add_data_flag(add: Callable, files: str, default: str, builtin: str) -> None:
    """files: what its folder holds. default: that folder, from the root. builtin: what there is without one."""
    add(
        "--data",
        type=named,
        default=None,
        metavar="FOLDER",
        help=f"folder of {files}, or 'builtin' for the built-in {builtin} "
        f"(default: {default}, and where that is absent the built-in {builtin})",
    )


def add_progress_flags(add: Callable, nonmono: int, patience: int, short: Sequence[str] = ()) -> None:
    """What a lack of progress does; the two defaults, and the two short names, if any."""
    add(
        "--nonmono",
        *short[:1],
        type=nonnegative_int,
        default=nonmono,
        metavar="N",
        help="decay the learning rate when the validation loss is no better than it was more than this many epochs ago",
    )
    add(
        "--patience",
        *short[1:],
        type=positive_int,
        default=patience,
        metavar="N",
        help="epochs without a better validation loss before training stops",
    )


def find(path: str, what: str) -> Path:
    """A path that the user gave, from the caller's folder or else from the repository's root."""
    for candidate in (Path(path), ROOT / path):
        if candidate.exists():
            return candidate.resolve()
    raise UserError(f"{what} {path} does not exist, neither here nor in {ROOT}: check the path")


def add_resume_flags(add: Callable, newest: str, may_differ: str) -> None:
    """newest: which run is taken where none is named. may_differ: what may, in a run that goes on."""
    add(
        "--resume",
        nargs="?",
        const="",
        default=None,
        metavar="FOLDER",
        help=f"continue an unfinished run (default: {newest}); only {may_differ} may differ",
    )
    add(
        "--test",
        action="store_true",
        help=f"train nothing: evaluate the best model of a run (--resume FOLDER; default: {newest})",
    )


def named(path: str) -> str:
    """A path that is not empty, as a variable of the shell that is not set is."""
    if not path:
        raise argparse.ArgumentTypeError("it is empty")
    return path


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


positive_int = _number(int, lambda n: 0 < n < 2**31, "a whole number above 0 and below 2^31")
nonnegative_int = _number(int, lambda n: 0 <= n < 2**63, "a whole number of 0 or more and below 2^63")
positive = _number(float, lambda x: x > 0, "a number above 0")
nonnegative = _number(float, lambda x: x >= 0, "a number of 0 or more")
share = _number(float, lambda x: 0 < x <= 1, "a number above 0 and at most 1")
factor = _number(float, lambda x: x > 1, "a number above 1")
rate = _number(float, lambda x: 0 <= x < 1, "a rate, 0 or more and below 1")
