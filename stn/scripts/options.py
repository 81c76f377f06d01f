"""The command line: a parser, checks of single values, exit statuses."""

import argparse
import math
import os
from collections.abc import Callable
from pathlib import Path

from stn.errors import UserError
from stn.files import cause, explaining_os_errors
from stn.scripts.output import complain
from stn.scripts.signals import BROKEN_PIPE, Stopped

ROOT = Path(__file__).resolve().parent.parent.parent


class OneLineParser(argparse.ArgumentParser):
    """Says what is wrong with the command line in one line, without the usage."""

    def __init__(self, **settings):
        super().__init__(usage="%(prog)s [flags]", allow_abbrev=False, **settings)

    def error(self, message: str):
        complain(self.prog, f"{message} (see {self.prog} --help)")
        raise SystemExit(2)


def exit_status(script: str, work: Callable[[], int | None], where_it_stands: str) -> int:
    """Do the work; its own exit status or 0, 2 for what the user can mend, that of the signal that stopped it.

    The latter two are said in a line on stderr. where_it_stands: what a stop leaves, and how to go on.
    """
    try:
        return work() or 0
    except UserError as error:
        complain(script, error)
        return 2
    except KeyboardInterrupt as stopped:
        complain(script, f"stopped; {where_it_stands}")
        return stopped.status if isinstance(stopped, Stopped) else Stopped().status
    except BrokenPipeError:
        return BROKEN_PIPE
    except OSError as error:
        complain(script, f"cannot use {error.filename or 'a file'}: {cause(error)}")
        return 2


def refuse_more_threads(threads: int | None) -> None:
    """Raise UserError for more threads than this machine has cores."""
    if threads and threads > (cores := os.cpu_count() or 1):
        raise UserError(f"--threads {threads} is more than the {cores} cores of this machine: lower it")


def find(path: str, what: str) -> Path:
    """A path that the user gave, from the caller's folder or else from the repository's root."""
    if not path:
        raise UserError(f"{what} is empty, as a variable of the shell that is not set: give its path")
    with explaining_os_errors(Path(path), "read"):
        for candidate in (Path(path), ROOT / path):
            if candidate.exists():
                return candidate.resolve()
    raise UserError(f"{what} {path} does not exist, neither here nor in {ROOT}: check the path")


def named(path: str) -> str:
    """A path that is not empty, as a variable of the shell that is not set is."""
    if not path:
        raise argparse.ArgumentTypeError("it is empty")
    return path


def folder_name(text: str) -> str:
    """A name that a folder can have, which is no path."""
    if not text or Path(text).name != text or text in (".", ".."):
        raise argparse.ArgumentTypeError(f"'{text}' is no name of a folder")
    return text


def one_of(*choices: str) -> Callable[[str], str]:
    """A check for one of these words, which --help shows."""

    def parse_choice(text: str) -> str:
        if text not in choices:
            raise argparse.ArgumentTypeError(f"'{text}' is none of {', '.join(choices)}")
        return text

    parse_choice.metavar = f"{{{','.join(choices)}}}"
    return parse_choice


def _number(convert: Callable, accept: Callable, wanted: str, metavar: str = "X") -> Callable:
    def parse_number(text: str):
        try:
            value = convert(text)
        except ValueError:
            value = math.nan
        if not (-math.inf < value < math.inf and accept(value)):
            raise argparse.ArgumentTypeError(f"'{text}' is not {wanted}")
        return value

    parse_number.metavar = metavar  # what the help calls the value
    return parse_number


positive_int = _number(int, lambda n: 0 < n < 2**31, "a whole number above 0 and below 2^31", "N")
nonnegative_int = _number(int, lambda n: 0 <= n < 2**63, "a whole number of 0 or more and below 2^63", "N")
positive = _number(float, lambda x: x > 0, "a number above 0")
nonnegative = _number(float, lambda x: x >= 0, "a number of 0 or more")
fraction = _number(float, lambda x: 0 < x <= 1, "a number above 0 and at most 1")
discount = _number(float, lambda x: x <= 1, "a number of at most 1")
share = _number(float, lambda x: 0 < x < 1, "a number above 0 and below 1")
width_factor = _number(float, lambda x: 0 < x <= 100, "a width, above 0 and at most 100")
factor = _number(float, lambda x: x > 1, "a number above 1")
rate = _number(float, lambda x: 0 <= x < 1, "a rate, 0 or more and below 1")
