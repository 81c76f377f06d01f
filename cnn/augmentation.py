"""Data augmentation of whole batches on their own device, with strengths that may differ per example.

Strengths are floats or tensors, a scalar or (B,). At zero an image passes unchanged, to the last bit, and a zero that
is a float skips the operation. No example's result depends on another's strength, and nothing waits for the device.
Nothing here knows training from evaluation: at evaluation, do not call it. Dropout of the input is
`stn.dropout.dropout`.
"""

import torch
from torch import Tensor

from stn.dropout import is_zero

BRIGHTNESS, CONTRAST, SATURATION, HUE = range(4)  # the numbers of jitter's operations


def jitter(
    images: Tensor,
    brightness: float | Tensor,
    contrast: float | Tensor,
    saturation: float | Tensor,
    hue: float | Tensor,
) -> Tensor:
    """Colour jitter, as torchvision's ColorJitter on Pillow's ImageEnhance: images (B, 3, H, W), RGB in [0, 1] -> same.

    brightness, contrast, saturation: v ≥ 0, for a factor uniform in [max(0, 1 − v), 1 + v].
    hue: v in [0, ½], for a shift uniform in [−v, v] of a turn.

    Each image has the four in an order of its own, uniform among all orders.
    """
    strengths = (brightness, contrast, saturation, hue)
    operations = [number for number, strength in enumerate(strengths) if not is_zero(strength)]
    if not operations:
        return images
    *spreads, turn = (_strength(strength, images) for strength in strengths)
    factors = [_uniform((1 - spread).clamp(min=0), 1 + spread, images) for spread in spreads]
    amounts = torch.stack([*factors, _uniform(-turn, turn, images)], dim=1)
    return adjust(images, amounts, random_orders(len(images), operations))


def random_orders(count: int, operations: list[int]) -> Tensor:
    """(count, len(operations)): each row an order of the operations, uniform among all; on the host."""
    return torch.tensor(operations)[torch.rand(count, len(operations)).argsort(1)]


def adjust(images: Tensor, amounts: Tensor, orders: Tensor) -> Tensor:
    """Each image through its own order of adjustments: images (B, 3, H, W), RGB in [0, 1] -> same.

    amounts: (B, 4), factors of brightness, contrast and saturation, and the shift of hue.
    orders: (B, N), numbers of operations, first to last; on the host.
    """
    # The host knows the orders, and with them how many rows turn their hue at a position, without asking the device.
    for here, there in zip(orders.T, _to(orders, images).T, strict=True):
        amount = amounts.gather(1, there[:, None])[:, 0]
        images = _blend(images, _wide(there), amount.where(there != HUE, 1))
        rows = _to((here == HUE).nonzero()[:, 0], images)
        if len(rows):
            images.index_copy_(0, rows, adjust_hue(images[rows], amount[rows]))
    return images


def adjust_brightness(images: Tensor, factor: float | Tensor) -> Tensor:
    """images (B, 3, H, W) in [0, 1] times a factor ≥ 0, clipped to [0, 1]."""
    return _blend(images, BRIGHTNESS, factor)


def adjust_contrast(images: Tensor, factor: float | Tensor) -> Tensor:
    """images (B, 3, H, W) in [0, 1] blended with their mean grey levels, clipped to [0, 1]; a factor 0 is all grey."""
    return _blend(images, CONTRAST, factor)


def adjust_saturation(images: Tensor, factor: float | Tensor) -> Tensor:
    """images (B, 3, H, W) in [0, 1] blended with themselves in grey, clipped to [0, 1]; a factor 0 is all grey."""
    return _blend(images, SATURATION, factor)


def adjust_hue(images: Tensor, shift: float | Tensor) -> Tensor:
    """images (B, 3, H, W) in [0, 1], their hues (HSV; Smith 1978) turned by any `shift`, 1 being a full turn."""
    red, green, blue = images.unbind(1)
    value = torch.maximum(torch.maximum(red, green), blue)
    chroma = value - torch.minimum(torch.minimum(red, green), blue)
    # A grey has no hue; it gets one that is finite.
    scale = chroma.clamp(min=torch.finfo(images.dtype).tiny).reciprocal()
    after_blue = torch.where(value == green, (blue - red) * scale + 2, (red - green) * scale + 4)
    hue = torch.where(value == red, (green - blue) * scale, after_blue) / 6  # in turns
    shift = _strength(shift, images)
    hue = hue + shift[:, None, None]
    sixth = 6 * (hue - hue.floor())
    # How much of the chroma each channel lacks; red stands at 0 and 6, green at 2, blue at 4.
    lacks = (2 - (sixth - 3).abs(), (sixth - 2).abs() - 1, (sixth - 4).abs() - 1)
    turned = torch.stack([value - chroma * lack.clamp(0, 1) for lack in lacks], dim=1)
    return torch.where(_wide(shift == 0), images, turned)


def cutout(images: Tensor, holes: float | Tensor, length: float | Tensor, max_holes: int = 4) -> Tensor:
    """Cutout (DeVries & Taylor 2017): square holes of zeros, alike in all channels: images (B, C, H, W) -> same.

    holes: an integer, 0 to max_holes; length: an integer, the side of a hole in pixels. A hole is centred on any pixel,
    so that it may reach over the edge.
    """
    if is_zero(holes) or is_zero(length):
        return images
    batch, _, height, width = images.shape
    rows, columns = (torch.randint(size, (batch, max_holes), device=images.device) for size in (height, width))
    return cut(images, rows, columns, holes, length)


def cut(images: Tensor, rows: Tensor, columns: Tensor, holes: float | Tensor, length: float | Tensor) -> Tensor:
    """Holes at given centres: images (B, C, H, W); rows and columns (B, N), of which the first `holes` count.

    As published, a hole of odd length lies half a pixel up and left of its centre: one of 5 at c covers c − 3 to c + 1.
    """
    half, holes = (_strength(number, images)[:, None] for number in (length / 2, holes))
    counts = torch.arange(rows.shape[1], device=images.device) < holes
    in_rows = (_covered(rows, half, images.shape[2]) & counts[..., None]).to(images.dtype)
    in_columns = _covered(columns, half, images.shape[3]).to(images.dtype)
    in_holes = in_rows.mT @ in_columns  # (B, H, W): in how many
    return images.masked_fill(in_holes[:, None] > 0, 0)


def input_scaling(images: Tensor, strength: float | Tensor) -> Tensor:
    """images (B, C, H, W), each times a factor uniform in [1/(1 + v), 1 + v], of strength v ≥ 0."""
    if is_zero(strength):
        return images
    most = 1 + _strength(strength, images)
    return images * _wide(_uniform(1 / most, most, images))


def _blend(images: Tensor, operation: int | Tensor, factor: float | Tensor) -> Tensor:
    """Brightness, contrast or saturation, the same for all or (B, 1, 1, 1): the blend with black, mean grey or grey."""
    red, green, blue = images.unbind(1)
    grey = (0.299 * red + 0.587 * green + 0.114 * blue)[:, None]  # ITU-R BT.601, as Pillow's
    other = grey * (operation == SATURATION) + grey.mean((2, 3), keepdim=True) * (operation == CONTRAST)
    factor = _wide(_strength(factor, images))
    return torch.addcmul(other * (1 - factor), images, factor).clamp_(0, 1)


def _covered(centres: Tensor, half: Tensor, size: int) -> Tensor:
    """(B, N, size): which pixels of a side lie in holes with centres (B, N) and half lengths (B or 1, 1)."""
    first, end = ((centres + side * half).floor()[..., None] for side in (-1, 1))
    pixels = torch.arange(size, device=centres.device)
    return (pixels >= first) & (pixels < end)


def _strength(strength: float | Tensor, images: Tensor) -> Tensor:
    """(B,), or (1,) for one that all images share."""
    if isinstance(strength, Tensor):
        return strength.to(images).reshape(-1)
    return images.new_full((1,), strength)


def _uniform(low: Tensor, high: Tensor, images: Tensor) -> Tensor:
    """(B,) numbers, each uniform between its own ends."""
    return low + (high - low) * torch.rand(len(images), dtype=images.dtype, device=images.device)


def _wide(numbers: Tensor) -> Tensor:
    return numbers[:, None, None, None]


def _to(numbers: Tensor, images: Tensor) -> Tensor:
    return numbers.to(images.device, non_blocking=True)
