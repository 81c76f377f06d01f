"""CSV tables that only grow, by whole rows."""

import contextlib
import csv
import hashlib
import io
import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

TABLES = ("train", "valid", "val", "epoch")


class Extent(NamedTuple):
    """How far a table went: its length in bytes and the SHA-256 of them, in hexadecimal."""

    length: int
    checksum: str


class Table:
    """One CSV file, with a header; a row that cannot be written whole is taken back.

    Attributes: path; length, in bytes, of the header and the whole rows.
    """

    def __init__(self, path: Path):
        self.path = path
        # Not in append mode: the next row must also overwrite one that could not be taken back.
        self._file = path.open("r+b" if path.exists() else "x+b", buffering=0)
        content = self._file.read()
        self._columns = next(csv.reader([content.partition(b"\n")[0].decode()]))
        self.length, self._checksum = len(content), hashlib.sha256(content)

    def append(self, row: Mapping[str, Any]) -> None:
        """Add a row, the header before the first; with the operating system on return.

        Raises ValueError for columns other than the header's, OSError where the row cannot be written.
        """
        columns = self._columns or list(row)
        if set(columns) != set(row):
            raise ValueError(f"{self.path.name} has the columns {columns}, this row {list(row)}")
        header = "" if self._columns else csv_line(columns)
        lines = (header + csv_line(row[name] for name in columns)).encode()
        rest = memoryview(lines)
        try:
            self._file.seek(self.length)
            while rest:
                rest = rest[self._file.write(rest) :]
            self.length += len(lines)
            self._checksum.update(lines)
        except BaseException:
            with contextlib.suppress(OSError):
                self._file.truncate(self.length)
            raise
        self._columns = columns

    def sync(self) -> Extent:
        """How far the table goes; on return all of that is on disk, in its file, even if somebody has removed that."""
        if not self.path.exists():
            self._file.seek(0)
            content = self._file.read(self.length)
            self._file.close()
            self.path.write_bytes(content)
            self._file = self.path.open("r+b", buffering=0)
        os.fsync(self._file.fileno())
        return Extent(self.length, self._checksum.hexdigest())

    def close(self) -> None:
        self._file.close()


def table_files(folder: Path) -> list[Path]:
    """The tables that are in a run's folder."""
    return [file for table in TABLES if (file := folder / f"{table}.csv").exists()]


def csv_line(cells: Iterable[Any]) -> str:
    """A line of CSV. Numbers read back exactly; 0-d tensors, arrays and NumPy scalars become numbers."""
    line = io.StringIO()
    plain = (cell.item() if hasattr(cell, "item") else cell for cell in cells)
    csv.writer(line, lineterminator="\n").writerow(plain)
    return line.getvalue()
