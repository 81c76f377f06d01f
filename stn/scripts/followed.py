"""A run's folder as the ranks see it that do not write it."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from stn.ranks import Ranks
from stn.recorder import Unlogged
from stn.runs.folder import RunFolder


class Followed(Unlogged):
    """What the ranks after the first have in place of its run folder: its settings, and nothing that is written."""

    def __init__(self, settings: Mapping[str, Any], path: Path, resumed: bool):
        super().__init__(dict(settings), path)
        self.resumed = resumed

    def load_checkpoint(self) -> None: ...

    def save_model(self, *_: object) -> None: ...

    def write_result(self, *_: object) -> None: ...

    def mark(self, *_: object) -> None: ...

    def __enter__(self) -> "Followed":
        return self

    def __exit__(self, *_: object) -> None: ...


def opened(ranks: Ranks, make: Callable[[], RunFolder]) -> RunFolder | Followed:
    """The run's folder, which the first rank makes or goes back to."""
    folders: list[RunFolder] = []  # of the first rank, one

    def make_and_tell() -> tuple[Mapping[str, Any], Path, bool]:
        folders.append(folder := make())
        return folder.settings, folder.path, folder.resumed

    told = ranks.from_first(make_and_tell)
    return folders[0] if folders else Followed(*told)
