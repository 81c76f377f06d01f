"""Data augmentation of whole batches on their own device, with strengths that may differ per example.

Strengths are floats or tensors, a scalar or (B,). Strength zero leaves an image exactly as it is, and a zero that is a
float skips the operation. No example's result depends on another's strength, and the host never waits for the device.
These functions always augment: do not call them at evaluation. Dropout of the input is `stn.dropout.dropout`.
"""

import torch
import torch.nn.functional as F
from torch import Tensor

from stn.dropout import is_zero

Strength = float | Tensor
BRIGHTNESS, CONTRAST, SATURATION, HUE = range(4)  # the numbers of jitter's operations


def jitter(images: Tensor, brightness: Strength, contrast: Strength, saturation: Strength, hue: Strength) -> Tensor:
    """Colour jitter, as torchvision's ColorJitter on Pillow's ImageEnhance: images (B, 3, H, W), RGB in [0, 1] -> same.

    brightness, contrast, saturation: v ≥ 0, for a factor uniform in [max(0, 1 − v), 1 + v].
    hue: v in [0, 1], for a shift uniform in [−v, v], where 1 is a full turn.

    The order of the four is drawn anew for each image, uniformly.
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
    """(count, len(operations)) on the host: in each row the operations in a random order, uniformly drawn."""
    return torch.tensor(operations)[torch.rand(count, len(operations)).argsort(1)]


def adjust(images: Tensor, amounts: Tensor, orders: Tensor) -> Tensor:
    """Adjust each image in its own order of operations: images (B, 3, H, W), RGB in [0, 1] -> same.

    amounts: (B, 4), factors of brightness, contrast and saturation, and the shift of hue.
    orders: (B, N), numbers of operations, first to last; on the host.
    """
    # The orders are on the host, so that it knows without waiting for the device how many images turn their hue next.
    for on_host, on_device in zip(orders.T, _to(orders, images).T, strict=True):
        amount = amounts.gather(1, on_device[:, None])[:, 0]
        images = _blend(images, _wide(on_device), _wide(amount.where(on_device != HUE, 1)))
        rows = _to((on_host == HUE).nonzero()[:, 0], images)
        if len(rows):
            images.index_copy_(0, rows, adjust_hue(images[rows], amount[rows]))
    return images


def adjust_hue(images: Tensor, shift: Strength) -> Tensor:
    """Turn the hues (HSV; Smith 1978) of images (B, 3, H, W) in [0, 1] by any `shift`, of which 1 is a full turn."""
    red, green, blue = images.unbind(1)
    value = torch.maximum(torch.maximum(red, green), blue)
    chroma = value - torch.minimum(torch.minimum(red, green), blue)
    # Grey has no hue; here it gets a finite one.
    scale = chroma.clamp(min=torch.finfo(images.dtype).tiny).reciprocal()
    after_blue = torch.where(value == green, (blue - red) * scale + 2, (red - green) * scale + 4)
    hue = torch.where(value == red, (green - blue) * scale, after_blue) / 6  # in turns
    shift = _strength(shift, images)
    hue = hue + shift[:, None, None]
    sixth = 6 * (hue - hue.floor())
    # Each channel's distance from the largest value, in units of the chroma; red is at 0 and 6, green at 2, blue at 4.
    distances = (2 - (sixth - 3).abs(), (sixth - 2).abs() - 1, (sixth - 4).abs() - 1)
    turned = torch.stack([value - chroma * distance.clamp(0, 1) for distance in distances], dim=1)
    return torch.where(_wide(shift == 0), images, turned)


def cutout(images: Tensor, holes: Strength, length: Strength, max_holes: int = 4) -> Tensor:
    """Cutout (DeVries & Taylor 2017): square holes of zeros, the same in all channels: images (B, C, H, W) -> same.

    holes: an integer, 0 to max_holes; length: an integer, the side of a hole in pixels. A hole's centre is uniform over
    all pixels, and what lies outside the image is cut off.
    """
    if is_zero(holes) or is_zero(length):
        return images
    batch, _, height, width = images.shape
    rows, columns = (torch.randint(size, (batch, max_holes), device=images.device) for size in (height, width))
    return cut(images, rows, columns, holes, length)


def cut(images: Tensor, rows: Tensor, columns: Tensor, holes: Strength, length: Strength) -> Tensor:
    """Cut holes at given centres: images (B, C, H, W); rows and columns (B, N), of which the first `holes` are used.

    As published, a hole of odd length is shifted half a pixel up and left: one of length 5 at c covers c − 3 to c + 1.
    """
    half, holes = (_strength(number, images)[:, None] for number in (length / 2, holes))
    used = torch.arange(rows.shape[1], device=images.device) < holes
    in_rows = (_covered(rows, half, images.shape[2]) & used[..., None]).to(images.dtype)
    in_columns = _covered(columns, half, images.shape[3]).to(images.dtype)
    covering_holes = in_rows.mT @ in_columns  # (B, H, W), how many cover each pixel
    return images.masked_fill(covering_holes[:, None] > 0, 0)


def input_scaling(images: Tensor, strength: Strength) -> Tensor:
    """Multiply each of images (B, C, H, W) by a factor uniform in [1/(1 + v), 1 + v], for a strength v ≥ 0."""
    if is_zero(strength):
        return images
    most = 1 + _strength(strength, images)
    return images * _wide(_uniform(1 / most, most, images))


def affine(images: Tensor, degrees: Strength, translation: Strength, scale: Strength, shear: Strength) -> Tensor:
    """Rotate, shift, scale and shear each of images (B, C, H, W), as torchvision's RandomAffine -> same.

    degrees: v ≥ 0, for an angle uniform in [−v, v].
    translation: v ≥ 0, for shifts along x and y, uniform in ±v times the width and the height, rounded to whole pixels.
    scale: v in [0, 1), for a factor uniform in [1 − v, 1 + v].
    shear: v in [0, 90) degrees, for an angle along x uniform in [−v, v].

    No gradient reaches the strengths: nearest neighbour has none.
    """
    strengths = (degrees, translation, scale, shear)
    if all(is_zero(strength) for strength in strengths):
        return images
    turn, shift, spread, slant = (_strength(strength, images).detach() for strength in strengths)
    height, width = images.shape[2:]
    pixels = [_uniform(-shift * size, shift * size, images).round() for size in (width, height)]
    angles, shears = (_uniform(-most, most, images) for most in (turn, slant))
    return transformed(images, angles, torch.stack(pixels, dim=1), _uniform(1 - spread, 1 + spread, images), shears)


def transformed(images: Tensor, angles: Tensor, translations: Tensor, scales: Tensor, shears: Tensor) -> Tensor:
    """Transform each image by its own affine map: nearest neighbour, black outside: images (B, C, H, W) -> same.

    angles, shears: (B,), degrees; translations: (B, 2), pixels to the right and down; scales: (B,), factors.

    From the image's centre, x to the right and y down, what was at p comes to A p + t, with t the translation and

        A = scale · | cos a  −sin a | · | 1  −tan s |
                    | sin a   cos a |   | 0     1   |

    for an angle a (clockwise) and a shear s. So what is at q afterwards was at A⁻¹ (q − t), and

        A⁻¹ = 1/scale · | 1  tan s | · |  cos a  sin a |
                        | 0    1   |   | −sin a  cos a |
    """
    height, width = images.shape[2:]
    angles, slope = angles.deg2rad(), shears.deg2rad().tan()
    cos, sin = angles.cos() / scales, angles.sin() / scales
    right, down = translations.unbind(1)
    x_of_x, x_of_y, y_of_x, y_of_y = cos - slope * sin, sin + slope * cos, -sin, cos
    # For `affine_grid` the image reaches from −1 to 1 in either direction: half a width and half a height are 1.
    maps = [
        *(x_of_x, x_of_y * (height / width), -(x_of_x * right + x_of_y * down) * (2 / width)),
        *(y_of_x * (width / height), y_of_y, -(y_of_x * right + y_of_y * down) * (2 / height)),
    ]
    grid = F.affine_grid(torch.stack(maps, dim=1).view(-1, 2, 3), list(images.shape), align_corners=False)
    return F.grid_sample(images, grid, mode="nearest", padding_mode="zeros", align_corners=False)


def cropped(images: Tensor, padding: int = 4) -> Tensor:
    """Crop each of images (B, C, H, W), of any type, to its own size at a random place of it padded with zeros."""
    rows, columns = (torch.randint(2 * padding + 1, (len(images),), device=images.device) for _ in range(2))
    return crop(F.pad(images, (padding,) * 4), rows, columns, *images.shape[2:])


def crop(images: Tensor, rows: Tensor, columns: Tensor, height: int, width: int) -> Tensor:
    """The part of each image (B, C, H, W) that starts at its own row and column (B,): (B, C, height, width)."""
    batch, channels = (torch.arange(size, device=images.device) for size in images.shape[:2])
    in_rows = rows[:, None] + torch.arange(height, device=images.device)
    in_columns = columns[:, None] + torch.arange(width, device=images.device)
    return images[_wide(batch), channels[:, None, None], in_rows[:, None, :, None], in_columns[:, None, None, :]]


def flipped(images: Tensor) -> Tensor:
    """Flip each of images (B, C, H, W), of any type, from left to right with probability one half."""
    chosen = torch.rand(len(images), device=images.device) < 0.5
    return torch.where(_wide(chosen), images.flip(3), images)


def _blend(images: Tensor, operation: Tensor, factor: Tensor) -> Tensor:
    """Brightness, contrast or saturation: the blend with black, the mean grey level or grey, clipped to [0, 1].

    operation, factor: (B, 1, 1, 1).
    """
    red, green, blue = images.unbind(1)
    grey = (0.299 * red + 0.587 * green + 0.114 * blue)[:, None]  # ITU-R BT.601, as Pillow's
    other = grey * (operation == SATURATION) + grey.mean((2, 3), keepdim=True) * (operation == CONTRAST)
    return torch.addcmul(other * (1 - factor), images, factor).clamp_(0, 1)


def _covered(centres: Tensor, half: Tensor, size: int) -> Tensor:
    """(B, N, size): whether each row or column is in the hole of this centre (B, N) and half length (B or 1, 1)."""
    first, end = ((centres + side * half).floor()[..., None] for side in (-1, 1))
    pixels = torch.arange(size, device=centres.device)
    return (pixels >= first) & (pixels < end)


def _strength(strength: Strength, images: Tensor) -> Tensor:
    """As a tensor (B,), or (1,) where all images share it."""
    if isinstance(strength, Tensor):
        return strength.to(images).reshape(-1)
    return images.new_full((1,), strength)


def _uniform(low: Tensor, high: Tensor, images: Tensor) -> Tensor:
    """(B,) random numbers, each uniform in its own [low, high]."""
    return low + (high - low) * torch.rand(len(images), dtype=images.dtype, device=images.device)


def _wide(numbers: Tensor) -> Tensor:
    return numbers[:, None, None, None]


def _to(numbers: Tensor, images: Tensor) -> Tensor:
    return numbers.to(images.device, non_blocking=True)
