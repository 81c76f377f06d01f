"""Files written whole or not at all, and what the operating system refuses put into words."""

import contextlib
import errno
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import BinaryIO

from stn.errors import UserError

_SPACE = "free some space, then start it again (a training: with --resume)"
_PERMISSION = "get access to it, or choose another folder"
_IN_THE_WAY = "move away the file that is in the way, or choose another folder"
_REMEDIES = {
    errno.ENOSPC: _SPACE,
    errno.EDQUOT: _SPACE,
    errno.EFBIG: "raise the limit on file sizes (ulimit -f), then start it again (a training: with --resume)",
    errno.EACCES: _PERMISSION,
    errno.EPERM: _PERMISSION,
    errno.EROFS: _PERMISSION,
    errno.EEXIST: _IN_THE_WAY,
    errno.ENOTDIR: _IN_THE_WAY,
    errno.EISDIR: _IN_THE_WAY,
    errno.ENAMETOOLONG: "choose shorter names in the flags of its folder (such as --prefix or --subdir)",
}


@contextlib.contextmanager
def explaining_os_errors(path: Path, doing: str = "write") -> Iterator[None]:
    """Turn what the operating system refuses into a UserError with the path, the cause and the remedy."""
    try:
        yield
    except OSError as error:
        raise UserError(f"cannot {doing} {path}: {cause(error)}") from error


def cause(error: OSError) -> str:
    """What went wrong, and the remedy."""
    reason = os.strerror(error.errno) if error.errno else str(error)
    return f"{reason}; {_REMEDIES.get(error.errno, 'mend this, or choose another folder')}"


def read(path: Path, kind: str, remedy: str) -> bytes:
    """The content of a file of the user's: of this kind, or else to be had by this remedy. Raises UserError."""
    try:
        if path.is_dir():
            raise UserError(f"{path} is a folder, not {kind}: move it away and {remedy}")
        if path.exists() and not path.is_file():
            raise UserError(f"{path} is no regular file, so not {kind}: move it away and {remedy}")
        return path.read_bytes()
    except FileNotFoundError:
        raise UserError(f"{path} is missing: {remedy}") from None
    except OSError as error:
        raise UserError(f"cannot read {path} ({error.strerror}): check its permissions, or {remedy}") from error


def write_atomically(path: Path, write: Callable[[BinaryIO], object]) -> None:
    """Have a file replaced by what `write` puts into it, or left as it is; on disk on return."""
    temporary = path.with_name(f"{path.name}.tmp")
    with explaining_os_errors(path):
        try:
            with temporary.open("wb") as file:
                write(file)
                file.flush()
                os.fsync(file.fileno())
            temporary.replace(path)
        except BaseException:
            with contextlib.suppress(OSError):
                temporary.unlink(missing_ok=True)
            raise
        _sync_folder(path.parent)


def _sync_folder(path: Path) -> None:
    folder = os.open(path, os.O_RDONLY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)
