"""Dropout for recurrent and convolutional networks, with rates that may differ per example.

Rates are floats or tensors, a scalar, which may be of shape (1,), or (B,); locked dropout also takes one for each unit,
(B, F) or (1, F). Kept entries are scaled by 1 / (1 − rate), so expectations are preserved. These functions always drop:
do not call them at evaluation.

They raise TypeError or ValueError for inputs of another type or shape than they say, for a tensor of rates that is no
row of B, and for a float that is no rate. A tensor's values are not read, as that would wait for its device.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

from stn.layers import check_tensor, shown

MIN_KEEP = 1e-3  # lower bound of 1 − rate, by which masks are divided


def dropout(x: Tensor, rate: float | Tensor) -> Tensor:
    """Dropout (Srivastava et al. 2014) of single entries: x (B, …), rate float, () or (B,)."""
    _check("dropout", x, rate, "B", "…")
    return drop(x, rate, x.shape)


def channel_dropout(x: Tensor, rate: float | Tensor) -> Tensor:
    """Dropout of whole feature maps (Tompson et al. 2015): x (B, C, H, W), rate float, () or (B,)."""
    _check("channel_dropout", x, rate, "B", "C", "H", "W")
    return drop(x, rate, (*x.shape[:2], 1, 1))


def locked_dropout(x: Tensor, rate: float | Tensor) -> Tensor:
    """Variational dropout (Gal & Ghahramani 2016): x (T, B, F); one mask for all T steps.

    rate: float, () or (B,), or one for each unit: (B, F) or (1, F).
    """
    if isinstance(rate, Tensor) and rate.dim() == 2:
        check_tensor("locked_dropout", "x", x, "T", "B", "F")
        if rate.shape not in (x.shape[1:], (1, x.shape[2])):
            raise ValueError(
                f"locked_dropout takes x (T, B, F) with a rate (B, F) or (1, F): found x {shown(x.shape)} "
                f"with a rate {shown(rate.shape)}"
            )
    else:
        _check("locked_dropout", x, rate, "T", "B", "F")
    return drop(x, rate, x.shape[1:])


def embedding_dropout(
    embedded: Tensor, ids: Tensor, vocab_size: int, rate: float | Tensor, generator: torch.Generator | None = None
) -> Tensor:
    """Drop whole word types (Gal & Ghahramani 2016): embedded (T, B, F) of ids (T, B), rate float or ().

    One mask over the vocabulary: a word is dropped at all of its places in the mini-batch. generator: of the mask.
    """
    _check_one_rate("embedding_dropout", rate)
    check_tensor("embedding_dropout", "ids", ids, "…", integers=True)
    check_tensor("embedding_dropout", "embedded of these ids", embedded, *ids.shape, "F")
    if is_zero(rate):
        return embedded
    mask = _mask(_as_tensor(rate, embedded), (vocab_size,), embedded, generator)
    return embedded * mask[ids].unsqueeze(-1)


def drop_connect(
    rate: float | Tensor, *weights: Tensor, generator: torch.Generator | None = None
) -> tuple[Tensor, ...]:
    """DropConnect (Wan et al. 2013) on weights of one shape, which share one mask; rate float or ().

    generator: of the mask.
    """
    _check_one_rate("drop_connect", rate)
    for weight in weights:
        check_tensor("drop_connect", "weights of one shape", weight, *weights[0].shape)
    if is_zero(rate):
        return weights
    mask = _mask(_as_tensor(rate, weights[0]), weights[0].shape, weights[0], generator)
    return tuple(weight * mask for weight in weights)


def is_zero(rate: float | Tensor) -> bool:
    """Whether the rate is the number 0; False for any tensor, as reading its value would wait for its device."""
    return not isinstance(rate, Tensor) and rate == 0


def _check(taker: str, x: Tensor, rate: float | Tensor, *sizes: int | str) -> None:
    """Raises unless x has these sizes (as of `check_tensor`) and the rate is one, or one for each of its B."""
    check_tensor(taker, "x", x, *sizes)
    batch = sizes.index("B")
    if _is_many(taker, rate) and rate.shape != x.shape[batch : batch + 1]:
        raise ValueError(
            f"{taker} takes x {shown(sizes)} with a rate (), (1,) or (B,): "
            f"found x {shown(x.shape)} with a rate {shown(rate.shape)}"
        )


def _check_one_rate(taker: str, rate: float | Tensor) -> None:
    if _is_many(taker, rate):
        raise ValueError(
            f"{taker} takes one rate for all examples, a float or (): found {shown(rate.shape)}; "
            "if it is tuned, declare it Tuned(…, per_example=False)"
        )


def _is_many(taker: str, rate: float | Tensor) -> bool:
    """Whether it is a tensor of several rates, or of none. Raises ValueError for a float that is no rate."""
    if isinstance(rate, Tensor):
        return rate.shape not in ((), (1,))
    if not 0 <= rate <= 1:
        raise ValueError(f"{taker} takes a rate from 0 to 1: found {rate}")
    return False


def drop(x: Tensor, rate: float | Tensor, shape: Sequence[int], axis: int = 0) -> Tensor:
    """x times a mask of this shape, which broadcasts to x's, B at this axis; rate float, (), (B,) or of two dimensions,
    which broadcasts to the mask. Checks nothing."""
    if is_zero(rate):
        return x
    rate = _as_tensor(rate, x)
    if rate.dim() == 1:
        rate = rate.reshape(*[1] * axis, -1, *[1] * (len(shape) - 1 - axis))
    return x * _mask(rate, shape, x)


def _as_tensor(rate: float | Tensor, like: Tensor) -> Tensor:
    # The mask is drawn in this dtype: bfloat16 has only 256 different random numbers, too few for a rate.
    dtype = torch.promote_types(like.dtype, torch.float32)
    if isinstance(rate, Tensor):
        return rate.to(like.device, dtype)
    return torch.full((), rate, dtype=dtype, device=like.device)  # filled on the device, not copied to it: no wait


def _mask(rate: Tensor, shape: Sequence[int], like: Tensor, generator: torch.Generator | None = None) -> Tensor:
    keep = (1 - rate).clamp(min=MIN_KEEP)
    drawn = torch.rand(shape, generator=generator, dtype=rate.dtype, device=like.device)
    return ((drawn < keep) / keep).to(like.dtype)
