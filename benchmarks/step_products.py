"""The matrix products of a step of the language model: what each costs as the step does it, and by other routines."""

import statistics
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial

import torch
from timing import Seconds
from torch import Tensor

from stn.kernels.cross_entropy import CHUNK_ROWS
from stn.kernels.products import linear, multiplier, onednn_linear, onednn_packed, weight_gradient

# Given a weight and the rows of each x: the function x -> x weightᵀ.
Routine = Callable[[Tensor, int], Callable[[Tensor], Tensor]]


def _mkl_packed(weight: Tensor, rows: int) -> Callable[[Tensor], Tensor]:
    packed = torch.ops.mkl._mkl_reorder_linear_weight(weight, rows)
    return lambda x: torch.ops.mkl._mkl_linear(x, packed, weight, None, rows)


def _onednn_packed(weight: Tensor, rows: int) -> Callable[[Tensor], Tensor]:
    packed = onednn_packed(weight, rows)
    return lambda x: onednn_linear(x, packed)


ROUTINES: dict[str, Routine] = {
    "plain": lambda weight, _: lambda x: x @ weight.T,
    "plain swapped": lambda weight, _: lambda x: weight @ x.T,
    "MKL packed": _mkl_packed,
    "oneDNN": lambda weight, _: lambda x: onednn_linear(x, weight),
    "oneDNN swapped": lambda weight, _: lambda x: onednn_linear(weight, x),
    "oneDNN packed": _onednn_packed,
}
AS_DONE = "as done"


@dataclass(frozen=True)
class Product:
    """x weightᵀ of x (rows, inner) and weight (columns, inner), `repeats` times with each of `weights` weights.

    gradient: of a weight, gradᵀ x, so that both factors are transposed views. large: no part of the recurrence.
    """

    name: str
    rows: int
    inner: int
    columns: int
    repeats: int = 1
    weights: int = 1
    gradient: bool = False
    large: bool = True

    @property
    def flops(self) -> int:
        """Of one weight."""
        return 2 * self.rows * self.inner * self.columns * self.repeats

    @property
    def as_done(self) -> Routine:
        """How the step computes it."""
        if self.gradient:
            return lambda weight, _: lambda x: weight_gradient(x.T, weight.T)
        return (lambda weight, _: lambda x: linear(x, weight)) if self.large else multiplier

    def factors(self, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
        sizes = (self.rows, self.inner), (self.columns, self.inner)
        if self.gradient:
            return tuple(torch.randn(size[::-1]).to(dtype).T for size in sizes)
        return tuple(torch.randn(size).to(dtype) for size in sizes)


def weight_step(steps: int, batch: int, width: int, types: int, responds: bool, layers: int = 2) -> list[Product]:
    """Of the layers and the decoder: forward, and for the gradients of inputs and weights.

    responds: elementary and response weights are stacked, 8·width rows in place of 4·width.
    """
    tokens, rows = steps * batch, (8 if responds else 4) * width
    return [
        Product("recurrence forward", batch, width, rows, steps, weights=layers, large=False),
        Product("recurrence backward", batch, rows, width, steps, weights=layers, large=False),
        Product("input forward", tokens, width, rows, weights=layers),
        Product("gradient of the input", tokens, rows, width, weights=layers),
        Product("gradient of a weight", rows, tokens, width, weights=2 * layers, gradient=True),
        *(product for rows in _chunks(tokens) for product in _decoder(rows, width, types)),
    ]


def response_update(steps: int, batch: int, width: int, types: int, layers: int = 2) -> list[Product]:
    """Of the Δ-STN's second update, of the response alone: a plain sequence without gradients, and its tangent."""
    tokens, rows = steps * batch, 4 * width
    return [
        Product("recurrence forward", batch, width, rows, steps, weights=layers, large=False),
        Product("tangent's recurrence forward", batch, width, rows, steps - 1, weights=layers, large=False),
        Product("tangent's recurrence backward", batch, rows, width, steps - 1, weights=layers, large=False),
        Product("input forward", tokens, width, rows, weights=layers),
        Product("tangent's input forward", tokens, width, rows, weights=layers),
        Product("gradient of the tangent's input", tokens, rows, width, weights=layers),
        Product("response forward", tokens, width, rows, weights=2 * layers),
        Product("gradient of a response weight", rows, tokens, width, weights=2 * layers, gradient=True),
        *(product for rows in _chunks(tokens) for product in _decoder(rows, width, types)[:2]),
    ]


def _chunks(tokens: int) -> list[int]:
    """The rows of the decoder's products."""
    return [len(range(start, min(start + CHUNK_ROWS, tokens))) for start in range(0, tokens, CHUNK_ROWS)]


def _decoder(rows: int, width: int, types: int) -> list[Product]:
    return [
        Product("decoder forward", rows, width, types),
        Product("gradient of the decoder's input", rows, types, width),
        Product("gradient of the decoder's weight", types, rows, width, gradient=True),
    ]


def evaluation(tokens: int, rows: int, batch: int, width: int, types: int) -> list[Product]:
    """Of `tokens` tokens, at most `rows` at a time, the response folded into the weights."""
    products = []
    while tokens:
        steps = min(tokens, rows) // batch
        products += [
            Product("recurrence forward", batch, width, 4 * width, steps, weights=2, large=False),
            Product("input forward", steps * batch, width, 4 * width, weights=2),
            *(_decoder(chunk, width, types)[0] for chunk in _chunks(steps * batch)),
        ]
        tokens -= steps * batch
    return products


class Products:
    """A step's products alone, as the step does them."""

    def __init__(self, products: Sequence[Product], dtype: torch.dtype):
        self.calls = [
            call
            for product in products
            for call in [partial(_multiply, product, product.as_done, *product.factors(dtype))] * product.weights
        ]

    def __call__(self) -> None:
        for call in self.calls:
            call()


def by_routine(products: Sequence[Product], dtype: torch.dtype) -> dict[tuple[Product, str], Callable[[], None]]:
    """Each product of one weight as it is done, and by each routine that this build of PyTorch has for this dtype."""
    calls = {}
    for product in dict.fromkeys(products):
        factors = product.factors(dtype)
        for name, routine in {AS_DONE: product.as_done, **ROUTINES}.items():
            call = partial(_multiply, product, routine, *factors)
            try:
                call()
            except (AttributeError, RuntimeError):
                continue
            calls[product, name] = call
    return calls


def _multiply(product: Product, routine: Routine, x: Tensor, weight: Tensor) -> None:
    multiply = routine(weight, product.rows)
    for _ in range(product.repeats):
        multiply(x)


def best(seconds: Seconds) -> tuple[Product, str]:
    """The large product and the routine of the highest median rate."""
    return max(
        ((product, name) for product, name in seconds if product.large),
        key=lambda key: key[0].flops / statistics.median(seconds[key]),
    )


def table(dtype: str, seconds: Seconds) -> list[str]:
    """Lines: the median rates of each product by all routines, and the rate as it is done beside the best."""
    names = [AS_DONE, *ROUTINES]
    heading = [name.split(" ", 1) if " " in name else ["", name] for name in (*names, "done /best")]
    lines = [f"{dtype}, GFLOP/s", *(" " * 53 + "".join(f"{words[row]:>9}" for words in heading) for row in (0, 1))]
    for product in dict.fromkeys(product for product, _ in seconds):
        rates = {
            name: product.flops / statistics.median(times) / 1e9
            for (measured, name), times in seconds.items()
            if measured == product
        }
        sizes = f"{product.rows} x {product.inner} x {product.columns}"
        cells = "".join(f"{rates[name]:>9,.0f}" if name in rates else f"{'-':>9}" for name in names)
        lines.append(f"  {product.name:<32} {sizes:<18}{cells}{rates[AS_DONE] / max(rates.values()):>9.2f}")
    return lines
