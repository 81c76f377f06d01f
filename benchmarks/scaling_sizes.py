"""What is varied: dimensions of a step's shape, and for each size of the measurements the values that they take."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace

from shapes import Shape


@dataclass(frozen=True)
class Dimension:
    """field: of `Shape`. label: in tables and beneath axes."""

    field: str
    label: str


DIMENSIONS = {
    "hyperparameters": Dimension("tuned", "hyperparameters H"),
    "width": Dimension("width", "width n"),
    "depth": Dimension("layers", "layers L"),
    "vocabulary": Dimension("types", "vocabulary V"),
    "bptt": Dimension("steps", "bptt T"),
    "batch": Dimension("batch", "batch B"),
}


@dataclass(frozen=True)
class Size:
    """base: the shape from which one dimension at a time is changed. ranks: of processes; reduced: bytes they sum."""

    base: Shape
    values: Mapping[str, tuple[int, ...]]
    ranks: tuple[int, ...] = (1, 2, 4)
    reduced: tuple[int, ...] = tuple(2**power for power in (12, 16, 20, 22, 24, 26))

    def shape(self, dimension: str, value: int) -> Shape:
        """The base, changed to this value."""
        return replace(self.base, **{DIMENSIONS[dimension].field: value})

    def shapes(self, dimension: str) -> list[Shape]:
        """One for each of the dimension's values."""
        return [self.shape(dimension, value) for value in self.values[dimension]]

    def distinct_shapes(self, dimensions: Iterable[str]) -> list[Shape]:
        """Along all of these dimensions, which share the base."""
        return list(dict.fromkeys(shape for dimension in dimensions for shape in self.shapes(dimension)))


SIZES = {
    "small": Size(
        Shape(steps=35, batch=20, width=350, types=10_000, tuned=10),
        {
            "hyperparameters": (1, 10, 100, 300, 1000),
            "width": (100, 200, 350, 500, 700),
            "depth": (1, 2, 3, 4),
            "vocabulary": (1000, 5000, 10_000, 20_000, 30_000),
            "bptt": (5, 17, 35, 70, 140),
            "batch": (5, 10, 20, 40, 80),
        },
    ),
    "paper": Size(
        Shape(tuned=10),
        {
            "hyperparameters": (1, 10, 100, 300, 1000),
            "width": (150, 300, 450, 650, 850),
            "depth": (1, 2, 3, 4),
            "vocabulary": (1000, 5000, 10_000, 20_000, 30_000),
            "bptt": (10, 35, 70, 105, 140),
            "batch": (10, 20, 40, 60, 80),
        },
    ),
    "quick": Size(
        Shape(steps=5, batch=4, width=16, types=50, tuned=3),
        {
            "hyperparameters": (1, 48),
            "width": (8, 16),
            "depth": (1, 2),
            "vocabulary": (50, 100),
            "bptt": (3, 5),
            "batch": (2, 4),
        },
        ranks=(1, 2),
        reduced=(2**10, 2**16),
    ),
}
