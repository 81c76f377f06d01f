"""How the cost of a weight step grows: measured along each dimension of its shape, and fitted by one model.

    seconds = c0 + c1·T + c2·T·B·(8 n) + c3·T·B·n² + c4·T·B·n·V + c5·n·(n + V) + c6·B·n·H

The terms are steps one after another, activations, the products of the LSTM and of the decoder, weights to update,
and gates. All coefficients are at least 0, and fitted to relative errors.
"""

import statistics
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy
from matplotlib.figure import Figure
from scipy.optimize import nnls

from stn.figures import style

SWEEPS = {
    "steps": (10, 35, 70, 105, 140),
    "batch": (10, 20, 40, 60, 80),
    "width": (150, 300, 450, 650, 850),
    "tuned": (1, 2, 4, 7),
    "types": (1000, 5000, 10_000, 20_000, 30_000),
}
LABELS = {
    "steps": "steps T (bptt)",
    "batch": "batch B",
    "width": "width n",
    "tuned": "hyperparameters H",
    "types": "vocabulary V",
}
TERMS: dict[str, Callable] = {
    "fixed": lambda s: 1.0,  # noqa: ARG005
    "T": lambda s: s.steps,
    "T B 8n": lambda s: s.tokens * 8 * s.width,
    "T B n^2": lambda s: s.tokens * s.width**2,
    "T B n V": lambda s: s.tokens * s.width * s.types,
    "n (n + V)": lambda s: s.width * (s.width + s.types),
    "B n H": lambda s: s.batch * s.width * s.tuned,
}


def fit(shapes: Sequence, seconds: Sequence[float]) -> numpy.ndarray:
    """The model's coefficients, by non-negative least squares of the relative errors."""
    terms = numpy.array([[term(shape) for term in TERMS.values()] for shape in shapes]) / numpy.array(seconds)[:, None]
    scale = numpy.linalg.norm(terms, axis=0)  # the terms differ by many orders of magnitude
    return nnls(terms / scale, numpy.ones(len(seconds)))[0] / scale


def predict(shape, coefficients: numpy.ndarray) -> float:
    """Seconds of a weight step by the model."""
    return float(sum(c * term(shape) for c, term in zip(coefficients, TERMS.values(), strict=True)))


@style.styled
def plot(sweeps: dict[str, list[tuple]], coefficients: numpy.ndarray, path: Path) -> list[Path]:
    """Measured and modelled seconds by dimension, of which sweeps has (shape, seconds) each; the files written."""
    figure = Figure(figsize=(style.PAGE, 1.9), layout="constrained")
    panels = figure.subplots(1, len(sweeps), sharey=True)
    for panel, (name, points) in zip(panels, sweeps.items(), strict=True):
        x = [getattr(shape, name) for shape, _ in points]
        panel.plot(x, [predict(shape, coefficients) for shape, _ in points], color="0.5", label="model")
        panel.plot(x, [seconds for _, seconds in points], "o", color=style.COLORS[0], markersize=4, label="measured")
        panel.set_xlabel(LABELS[name])
        panel.set_xlim(left=0)
        panel.set_ylim(bottom=0)
    panels[0].set_ylabel("seconds a weight step")
    panels[0].legend(loc="upper left")
    return style.save(figure, path)


def in_words(sweeps: dict[str, list[tuple]], coefficients: numpy.ndarray) -> str:
    """The model's coefficients and errors, and every measurement beside it."""
    lines = [f"  {name:<12}{c:>12.3g} s" for name, c in zip(TERMS, coefficients, strict=True)]
    errors = []
    for name, points in sweeps.items():
        for shape, seconds in points:
            model = predict(shape, coefficients)
            errors.append(abs(model / seconds - 1))
            measured = f"{getattr(shape, name):>8}{seconds:>10.3f} s"
            lines.append(f"  {LABELS[name]:<20}{measured}{model:>10.3f} s by the model")
    lines.append(f"  median error of the model {statistics.median(errors):.1%}, largest {max(errors):.1%}")
    return "\n".join(lines)
