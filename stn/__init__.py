"""Self-tuning networks: regularization hyperparameters learned inside one training run.

The library's functions and classes are imported when they are first used, from where `__init__.pyi` says: a script must
be able to explain that torch is missing, or that Ctrl-C stopped its import.
"""

import ast as _ast
from functools import cache as _cache
from importlib import import_module as _import_module
from pathlib import Path as _Path
from typing import Any as _Any


@_cache
def _homes() -> dict[str, str]:
    """The module of each public name."""
    stub = _ast.parse(_Path(__file__).with_suffix(".pyi").read_text(encoding="utf-8"))
    imports = [node for node in stub.body if isinstance(node, _ast.ImportFrom)]
    return {alias.name: str(node.module) for node in imports for alias in node.names}


def __getattr__(name: str) -> _Any:
    if name.startswith("__") or name not in _homes():
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(_import_module(_homes()[name]), name)


def __dir__() -> list[str]:
    return sorted(_homes())
