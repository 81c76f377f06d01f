"""The one error a user is meant to read."""


class UserError(Exception):
    """Something the user can mend: one line that names the cause and the remedy.

    Scripts print the message on stderr and exit non-zero, without a traceback. Anything else that
    escapes is a defect of ours and keeps its traceback.
    """


def one_line(error: object) -> str:
    """What an error says, as a part of one line."""
    return " ".join(str(error).split())[:200]
