"""Dropout for recurrent and convolutional networks, with rates that may differ per example.

Rates are floats or tensors, a scalar or (B,). Kept entries are scaled by 1 / (1 − rate), so expectations are
preserved. Nothing here knows training from evaluation: at evaluation, do not call it.
"""

import torch
from torch import Tensor

MIN_KEEP = 1e-3  # rates are kept this far off 1, so that no mask divides by zero


def dropout(x: Tensor, rate: float | Tensor) -> Tensor:
    """Dropout (Srivastava et al. 2014) of single entries: x (B, …), rate float, () or (B,)."""
    return _drop(x, rate, x.shape)


def channel_dropout(x: Tensor, rate: float | Tensor) -> Tensor:
    """Dropout of whole feature maps (Tompson et al. 2015): x (B, C, H, W), rate float, () or (B,)."""
    return _drop(x, rate, (*x.shape[:2], 1, 1))


def locked_dropout(x: Tensor, rate: float | Tensor) -> Tensor:
    """Variational dropout (Gal & Ghahramani 2016): x (T, B, F), rate float, () or (B,); one mask for all T steps."""
    return _drop(x, rate, x.shape[1:])


def embedding_dropout(embedded: Tensor, ids: Tensor, vocab_size: int, rate: float | Tensor) -> Tensor:
    """Drop whole word types (Gal & Ghahramani 2016): embedded (T, B, F) of ids (T, B), rate float or ().

    One mask over the vocabulary, so that a word is dropped wherever it occurs in the mini-batch.
    """
    if is_zero(rate):
        return embedded
    mask = _mask(_as_tensor(rate, embedded), (vocab_size,), embedded)
    return embedded * mask[ids].unsqueeze(-1)


def drop_connect(rate: float | Tensor, *weights: Tensor) -> tuple[Tensor, ...]:
    """DropConnect (Wan et al. 2013) on weights of one shape, all under one and the same mask; rate float or ()."""
    if is_zero(rate):
        return weights
    mask = _mask(_as_tensor(rate, weights[0]), weights[0].shape, weights[0])
    return tuple(weight * mask for weight in weights)


def is_zero(rate: float | Tensor) -> bool:
    """Whether this is a number 0; a tensor is not asked, for that would wait for its device."""
    return not isinstance(rate, Tensor) and rate == 0


def _drop(x: Tensor, rate: float | Tensor, shape: tuple[int, ...]) -> Tensor:
    """x under one mask of a shape that broadcasts to x's and starts with B."""
    if is_zero(rate):
        return x
    rate = _as_tensor(rate, x)
    return x * _mask(rate.reshape(-1, *[1] * (len(shape) - 1)), shape, x)


def _as_tensor(rate: float | Tensor, like: Tensor) -> Tensor:
    dtype = _at_least_single(like.dtype)
    if isinstance(rate, Tensor):
        return rate.to(like.device, dtype)
    return torch.full((), rate, dtype=dtype, device=like.device)  # filled there: a copy would wait for the device


def _mask(rate: Tensor, shape: tuple[int, ...], like: Tensor) -> Tensor:
    keep = (1 - rate).clamp(min=MIN_KEEP)
    # bfloat16 tells only 256 random numbers apart, too few for a rate.
    return ((torch.rand(shape, dtype=rate.dtype, device=like.device) < keep) / keep).to(like.dtype)


def _at_least_single(dtype: torch.dtype) -> torch.dtype:
    return torch.promote_types(dtype, torch.float32)
