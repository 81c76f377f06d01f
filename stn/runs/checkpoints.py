"""Checkpoints: a run's state, and how long each of its tables was when the state was saved."""

import os
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any, BinaryIO

import torch

from stn.errors import UserError, one_line
from stn.files import explaining_os_errors, write_atomically
from stn.runs.tables import table_files

FORMAT = 3
KIND = "stn run checkpoint"
CHECKPOINT = "checkpoint.pt"
NEW_RUN = "start a new run (with --overwrite or another --prefix, where the script has them)"


def write_checkpoint(folder: Path, state: Mapping[str, Any], lengths: Mapping[str, int]) -> None:
    """Replace a run's checkpoint. lengths: in bytes, by file name. Raises UserError; the old one is then as it was."""
    content = {"format": FORMAT, "kind": KIND, "state": dict(state), "lengths": dict(lengths)}
    write_atomically(folder / CHECKPOINT, lambda file: save(content, file))


def save(content: dict, file: BinaryIO) -> None:
    """`torch.save`, but a full disk raises OSError, and Ctrl-C KeyboardInterrupt."""
    try:
        torch.save(content, file)
    except RuntimeError as error:
        # torch covers what stopped the writing with "unexpected pos".
        if isinstance(error.__context__, OSError | KeyboardInterrupt):
            raise error.__context__ from None
        raise


def read_checkpoint(folder: Path | str, map_location: Any = "cpu") -> dict:
    """The state in a run's checkpoint, leaving the run as it is.

    Raises UserError where there is no checkpoint, or it is damaged, foreign or of another format.
    """
    return read_content(Path(folder), map_location)["state"]


def read_content(folder: Path, map_location: Any) -> dict:
    """All of a run's checkpoint: its "state" and "lengths". Raises UserError as `read_checkpoint` does."""
    path = folder / CHECKPOINT
    if not path.exists():
        raise UserError(f"{folder} has no checkpoint yet, the run ended too early: {NEW_RUN}")
    with explaining_os_errors(path, "read"):
        path.open("rb").close()
    try:
        # torch.load does not compare checksums: it would not see a flipped bit.
        with zipfile.ZipFile(path) as archive:
            if archive.testzip() is not None:
                raise zipfile.BadZipFile("wrong checksum")
        content = torch.load(path, map_location=map_location, weights_only=True)
    except (MemoryError, torch.OutOfMemoryError):
        raise
    except Exception as error:  # damage shows as almost anything: bad zip, pickle, key, seek, …
        raise UserError(f"{path} is damaged or no checkpoint ({one_line(error)}): {NEW_RUN}") from error
    if not isinstance(content, dict) or content.get("kind") != KIND:
        raise UserError(f"{path} is not a checkpoint of a run: {NEW_RUN}")
    if (found := content.get("format")) != FORMAT:
        raise UserError(f"{path} has format {found}, this version reads format {FORMAT}: {NEW_RUN}")
    if not {"state", "lengths"} <= content.keys():
        raise UserError(f"{path} lacks the state or the lengths of the tables: {NEW_RUN}")
    return content


def refuse_lost_rows(folder: Path, lengths: Mapping[str, int]) -> None:
    """Raise UserError where a table is shorter than it was when the checkpoint was taken."""
    for name, length in lengths.items():
        file = folder / name
        found = file.stat().st_size if file.exists() else 0
        if found < length:
            cause = f"{file} has {found} bytes, fewer than the {length} that it had when the checkpoint was taken"
            raise UserError(f"{cause}: restore it, or {NEW_RUN}")


def rewind_tables(folder: Path, lengths: Mapping[str, int]) -> None:
    """Cut each table back to what it was when the checkpoint was taken."""
    for file in table_files(folder):
        if file.name in lengths:
            os.truncate(file, lengths[file.name])
        else:
            file.unlink()
