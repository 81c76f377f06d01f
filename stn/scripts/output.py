"""Lines on stdout and stderr."""

import os
import sys
from contextlib import suppress
from typing import TextIO

from stn.errors import UserError
from stn.files import cause


def printable(text: str) -> str:
    """Without what would upset a terminal or a line; a file may be called anything."""
    return "".join(letter if letter.isprintable() else "?" for letter in text)


def say(text: str) -> None:
    """A line on stdout, or several, at once.

    Raises BrokenPipeError where its reader has gone, UserError where it is full.
    """
    try:
        print("\n".join(map(printable, text.split("\n"))), flush=True)
    except BrokenPipeError:
        silence(sys.stdout)
        raise
    except OSError as error:
        silence(sys.stdout)
        raise UserError(f"cannot write to stdout: {cause(error)}") from error


def complain(script: str, error: object) -> None:
    """One line on stderr that names the script; nothing where that cannot be written."""
    with suppress(OSError):
        print(printable(f"{script}: {error}"), file=sys.stderr, flush=True)


class Lines:
    """Lines on stdout for as long as it takes them: no work is lost because nobody can read of it.

    Where it takes no more, a line on stderr says so, and what is said from then on is dropped. script: who says it.
    broken: whoever read the lines has gone.
    """

    def __init__(self, script: str):
        self.script = script
        self.broken = self.lost = False

    def say(self, line: str) -> None:
        if self.lost:
            return
        try:
            say(line)
        except BrokenPipeError:
            self.lost = self.broken = True
        except UserError as error:
            self.lost = True
            complain(self.script, f"going on without a word: {error}")


def silence(stream: TextIO) -> None:
    """Drop what the stream still holds and all that follows: it must not fail again when Python exits."""
    with suppress(OSError, ValueError):  # ValueError: it has no file descriptor
        os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())


def open_streams(script: str) -> None:
    """Make stdout and stderr safe to write to: open, and able to show every character in some way.

    A closed one would hand its number, and so all that is printed, to the next file that is opened.
    """
    for number in range(3):
        with suppress(OSError):
            os.fstat(number)
            continue
        os.open(os.devnull, os.O_RDWR)
    for name in ("stdout", "stderr"):
        if getattr(sys, name) is None:
            setattr(sys, name, open(os.devnull, "w"))  # noqa: SIM115, PTH123
            other = sys.stdout if name == "stderr" else sys.stderr
            with suppress(OSError):
                print(f"{script}: {name} is closed: nothing is shown there", file=other, flush=True)
        elif hasattr(stream := getattr(sys, name), "reconfigure"):
            stream.reconfigure(errors="backslashreplace")
