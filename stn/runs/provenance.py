"""What made a run: the versions of the software, and the git revision of this source."""

import importlib.metadata
import platform
import subprocess
from pathlib import Path

import numpy
import torch


def provenance() -> dict[str, str | None]:
    """Versions of python, torch, numpy and stn, and the git revision; None for what cannot be told.

    The revision ends in "-dirty" where tracked files differ from it.
    """
    try:
        stn = importlib.metadata.version("stn")
    except importlib.metadata.PackageNotFoundError:
        stn = None
    return {
        "python": platform.python_version(),
        "torch": str(torch.__version__),
        "numpy": numpy.__version__,
        "stn": stn,
        "revision": _git_revision(),
    }


def _git_revision() -> str | None:
    here = Path(__file__)
    try:
        # An installed copy may lie inside some other project's repository, which does not track it.
        _git(here.parent, "ls-files", "--error-unmatch", here.name)
        return _git(here.parent, "describe", "--always", "--dirty", "--abbrev=40", "--exclude=*")
    except (OSError, subprocess.SubprocessError, UnicodeDecodeError):
        return None


def _git(folder: Path, *arguments: str) -> str:
    # Without optional locks git does not write to the index, which others may be using.
    command = ["git", "--no-optional-locks", *arguments]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=5, check=True)
    return done.stdout.strip()
