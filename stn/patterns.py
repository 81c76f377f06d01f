"""Values by patterns of layers' names."""

from collections.abc import Iterable, Mapping
from fnmatch import fnmatchcase
from typing import Any


class Patterns:
    """values: by pattern, of which the first that fits counts, or one value for all. what: they are, for messages.

    A pattern is as in a shell: * stands for anything.
    """

    def __init__(self, what: str, values: Any):
        self.what = what
        self.by_pattern: Mapping[str, Any] = values if isinstance(values, Mapping) else {"*": values}

    @property
    def values(self) -> list[Any]:
        return [*self.by_pattern.values()]

    def of(self, name: str) -> Any:
        """The value for this name; None where no pattern fits."""
        for pattern, value in self.by_pattern.items():
            if fnmatchcase(name, pattern):
                return value
        return None

    def refuse_idle(self, names: Iterable[str]) -> None:
        """Raise ValueError for a pattern that fits none of these names of layers; "*" may."""
        names = [*names]
        for pattern in self.by_pattern:
            if pattern != "*" and not any(fnmatchcase(name, pattern) for name in names):
                raise ValueError(f"{self.what}: {pattern!r} is the name of no layer that could follow it")
