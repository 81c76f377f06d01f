"""The error that a user is meant to read."""

import re


class UserError(Exception):
    """Something the user can mend: one line that names the cause and the remedy.

    Scripts print the message on stderr and exit non-zero, without a traceback. Anything else that
    escapes is a defect of ours and keeps its traceback.
    """


class Diverged(UserError):
    """A loss or gradient became infinite or not a number."""


def one_line(error: object, longest: int = 160) -> str:
    """What an error says, or a value is, as a part of one line: its beginning, without what a terminal would obey."""
    plain = re.sub(r"\x1b\[[0-9;]*m", "", str(error))
    line = " ".join("".join(c if c.isprintable() or c.isspace() else "?" for c in plain).split())
    return line if len(line) <= longest else f"{line[:longest]} …"
