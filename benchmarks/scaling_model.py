"""The models that explain what a weight step costs: sums of terms that follow from its shape.

    seconds = fixed + a · time steps + b · FLOPs of products + c · bytes moved      (of each kind, see `time_terms`)
    MiB     = process + d · weights, gradients and copies + e · saved activations + f · logits
    all-reduce of n bytes among N processes, in a ring: seconds = latency · 2 (N − 1) + 2 (N − 1) / N · n / rate

All coefficients are at least 0, and fitted to relative errors. A curve is what was measured, with its model.
"""

import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy
from scipy.optimize import nnls
from shapes import UPDATES, Shape, Update

MIB = 2**20
Terms = Mapping[str, Callable[[Any], float]]


@dataclass(frozen=True)
class AllReduce:
    """Of so many bytes, among so many processes."""

    ranks: int
    size: int


@dataclass(frozen=True)
class Model:
    """Predicts Σ coefficient · term."""

    terms: Terms
    coefficients: dict[str, float]

    @classmethod
    def fit(cls, terms: Terms, points: Sequence[Any], measured: Sequence[float]) -> "Model":
        """By non-negative least squares of the relative errors."""
        columns = numpy.array([[term(point) for term in terms.values()] for point in points], dtype=float)
        columns /= numpy.array(measured)[:, None]
        scale = numpy.linalg.norm(columns, axis=0)  # the terms differ by many orders of magnitude
        scale[scale == 0] = 1
        found = nnls(columns / scale, numpy.ones(len(measured)))[0] / scale
        return cls(terms, dict(zip(terms, map(float, found), strict=True)))

    def __call__(self, point: Any) -> float:
        return sum(self.coefficients[name] * term(point) for name, term in self.terms.items())

    def errors(self, points: Sequence[Any], measured: Sequence[float]) -> tuple[float, float]:
        """The median and the largest relative error."""
        errors = [abs(self(point) / found - 1) for point, found in zip(points, measured, strict=True)]
        return statistics.median(errors), max(errors)


@dataclass(frozen=True)
class Curve:
    """What was measured of one thing, by shape or all-reduce, and the model that was fitted to it."""

    name: str
    measured: dict[Any, float]
    model: Model

    @classmethod
    def of(cls, name: str, measured: dict[Any, float], terms: Terms) -> "Curve":
        return cls(name, measured, Model.fit(terms, [*measured], [*measured.values()]))

    def errors(self) -> tuple[float, float]:
        """The model's, of what was measured: the median and the largest relative error."""
        return self.model.errors([*self.measured], [*self.measured.values()])

    def numbers(self) -> dict[str, Any]:
        """For JSON."""
        points = [{**asdict(point), "measured": found} for point, found in self.measured.items()]
        return {"coefficients": self.model.coefficients, "points": points}


def time_terms(update: Update, size: int) -> Terms:
    """Of an update's seconds; size: bytes of a number of the products' type."""
    return {
        "fixed": lambda _: 1,
        "time steps": lambda shape: shape.steps * shape.layers,
        "layers' FLOPs": lambda shape: shape.product_flops(update) - shape.decoder_flops(update),
        "decoder's FLOPs": lambda shape: shape.decoder_flops(update),
        "gates' FLOPs": lambda shape: shape.gate_flops(update),
        "activations' bytes": lambda shape: shape.saved_activations(update, size),
        "logits' bytes": lambda shape: 4 * shape.tokens * shape.types,
        "updated weights' bytes": lambda shape: 4 * shape.updated(update),
    }


def memory_terms(method: str, size: int) -> Terms:
    """Of a process's peak in MiB. The coefficients of bytes would be 1 if nothing else were held beside them."""

    def kept(shape: Shape) -> int:
        """Weights, gradients, and the layers' weights stacked and dropped out. SGD without momentum has no state."""
        return 4 * (2 * shape.parameters + 16 * shape.layers * shape.width**2)

    return {
        "process": lambda _: 1,
        "weights and gradients": lambda shape: kept(shape) / MIB,
        "saved activations": lambda shape: max(shape.saved_activations(u, size) for u in UPDATES[method]) / MIB,
        "logits": lambda shape: size * shape.logits() / MIB,
    }


RING: Terms = {
    "latency": lambda reduced: 2 * (reduced.ranks - 1),
    "bytes": lambda reduced: ring_bytes(reduced.ranks, reduced.size),
}


def ring_bytes(ranks: int, size: int) -> float:
    """Bytes that each of these processes sends to sum `size` bytes over all, by a ring (reduce-scatter, all-gather)."""
    return 2 * (ranks - 1) / ranks * size


def in_words(model: Model, unit: str) -> dict[str, str]:
    """Each coefficient: seconds as times and the rates that are their inverses, other units as they are."""
    words = {}
    for name, value in model.coefficients.items():
        if unit != "seconds" or not value:
            words[name] = f"{value:,.3g}"
        elif name.endswith("FLOPs"):
            words[name] = f"{1e-9 / value:,.3g} GFLOP/s"
        elif name.endswith("bytes"):
            words[name] = f"{1e-9 / value:,.3g} GB/s"
        else:
            words[name] = f"{1000 * value:,.3g} ms"
    return words
