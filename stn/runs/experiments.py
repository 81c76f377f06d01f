"""The experiments that lie beside the library in its repository, and are not installed with it."""

import sys
from importlib import import_module
from pathlib import Path
from types import ModuleType

REPOSITORY = Path(__file__).resolve().parent.parent.parent


def import_experiment(module: str) -> ModuleType:
    """A module by its full name. Raises ImportError where there is none, installed or in the repository."""
    beside = (REPOSITORY / module.partition(".")[0]).is_dir()
    if beside and str(REPOSITORY) not in sys.path:
        sys.path.append(str(REPOSITORY))
    return import_module(module)
