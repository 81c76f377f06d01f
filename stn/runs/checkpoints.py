"""Checkpoints: a run's state, and what its other files were when the state was saved."""

import hashlib
import os
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import torch

from stn.errors import UserError, one_line
from stn.files import explaining_os_errors, write_atomically
from stn.runs.tables import Extent, table_files

FORMAT = 4
KIND = "stn run checkpoint"
CHECKPOINT = "checkpoint.pt"
NEW_RUN = "start a new run"


@dataclass(frozen=True)
class Checkpoint:
    """state: what training goes on from. settings: those of args.yaml. tables: how far each went, by file name.

    events: the names of TensorBoard's files.
    """

    state: dict[str, Any]
    settings: dict[str, Any]
    tables: dict[str, Extent]
    events: list[str]


def write_checkpoint(folder: Path, checkpoint: Checkpoint) -> None:
    """Replace a run's checkpoint. Raises UserError; the old one is then as it was."""
    fields = {**vars(checkpoint), "tables": {name: tuple(extent) for name, extent in checkpoint.tables.items()}}
    content = {"format": FORMAT, "kind": KIND, **fields}
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


def load(path: Path, otherwise: str, remedy: str) -> Any:
    """What `torch.save` has written, its tensors on the CPU. Raises UserError where the file is damaged or foreign."""
    with explaining_os_errors(path, "read"):
        path.open("rb").close()
    try:
        # torch.load does not compare checksums: it would not see a flipped bit.
        with zipfile.ZipFile(path) as archive:
            if archive.testzip() is not None:
                raise zipfile.BadZipFile("wrong checksum")
        return torch.load(path, map_location="cpu", weights_only=True)
    except (MemoryError, torch.OutOfMemoryError):
        raise
    except Exception as error:  # damage shows as almost anything: bad zip, pickle, key, seek, …
        raise UserError(f"{path} is damaged or {otherwise} ({one_line(error)}): {remedy}") from error


def read_checkpoint(folder: Path | str) -> Checkpoint:
    """A run's checkpoint, its tensors on the CPU, leaving the run as it is.

    Raises UserError where there is no checkpoint, or it is damaged, foreign or of another format.
    """
    path = Path(folder) / CHECKPOINT
    with explaining_os_errors(path, "read"):
        if not path.exists():
            raise UserError(f"{folder} has no checkpoint yet, the run ended too early: {NEW_RUN}")
    content = load(path, "no checkpoint", NEW_RUN)
    if not isinstance(content, dict) or content.get("kind") != KIND:
        raise UserError(f"{path} is not a checkpoint of a run: {NEW_RUN}")
    if (found := content.get("format")) != FORMAT:
        raise UserError(f"{path} has format {found}, this version reads format {FORMAT}: {NEW_RUN}")
    state, settings, tables, events = (content.get(part) for part in ("state", "settings", "tables", "events"))
    dictionaries = all(isinstance(part, dict) for part in (state, settings, tables)) and isinstance(events, list)
    if not dictionaries or not all(map(_is_extent, tables.values())) or {*map(type, [*tables, *events])} - {str}:
        raise UserError(f"{path} lacks a part of a checkpoint: {NEW_RUN}")
    return Checkpoint(state, settings, {name: Extent(*extent) for name, extent in tables.items()}, events)


def _is_extent(value: object) -> bool:
    return isinstance(value, tuple) and [type(part) for part in value] == [int, str]


def refuse_changed_tables(folder: Path, tables: Mapping[str, Extent]) -> None:
    """Raise UserError where a table does not begin with what it held when the checkpoint was taken."""
    for name, extent in tables.items():
        file = folder / name
        content = file.read_bytes() if file.exists() else b""
        if len(content) < extent.length:
            cause = f"{file} has {len(content)} bytes, fewer than the {extent.length} that"
        elif hashlib.sha256(content[: extent.length]).hexdigest() != extent.checksum:
            cause = f"{file} does not hold what"
        else:
            continue
        raise UserError(f"{cause} it had when the checkpoint was taken: restore it, or {NEW_RUN}")


def rewind_tables(folder: Path, tables: Mapping[str, Extent]) -> None:
    """Cut each table back to what it was when the checkpoint was taken."""
    for file in table_files(folder):
        with explaining_os_errors(file):
            if file.name in tables:
                os.truncate(file, tables[file.name].length)
            else:
                file.unlink()
