"""Ten classes of drawn 32 x 32 colour images, for runs without a download.

Every image shows one object: a plain shape, or a patch with a texture. Its class has nothing to do with its place,
size, angle, proportions or colours, nor with the background, the clutter, what occludes it and the noise. Shapes are
drawn from signed distances in pixels, so that their edges are smooth without supersampling.

The draws are a fixed generator's, and only +, −, ×, ÷ and square roots follow, which every processor rounds alike.
"""

from collections.abc import Callable

import numpy
import torch

from stn.datasets.images import SHAPE, Images, Normalization

CLASSES = ("disc", "ring", "square", "triangle", "cross", "star", "crescent", "stripes", "checks", "dots")
SIZE = SHAPE[1]
SEED = 20_190_507
GREY_SIZE = 28  # of grey images
GREY_NORMALIZATION = Normalization((0.451,), (0.173,))
BATCH = 10  # images drawn at once, few enough for the processor's cache
CLUTTER = 2  # bars behind the object

Array = numpy.ndarray
Draw = Callable[..., Array]  # (low, high, *shape) -> float32, uniform


def builtin_images(train: int = 10_000, test: int = 2_000) -> tuple[Images, Images]:
    """As many images to train on and to test on, in shuffled order, the classes as evenly as the numbers allow.

    Every call gives the same images; another number gives others.
    """
    return _draw_set(train, split=0), _draw_set(test, split=1)


def builtin_grey_images() -> tuple[Images, Images]:
    """The built-in images in grey, without their outermost pixels: (N, 1, 28, 28)."""
    train, test = (Images(_grey(images.pixels), images.labels) for images in builtin_images())
    return train, test


def _grey(pixels: torch.Tensor) -> torch.Tensor:
    """pixels (N, 3, 32, 32) uint8 -> (N, 1, 28, 28) uint8, in whole numbers, which every processor rounds alike."""
    margin = (SIZE - GREY_SIZE) // 2
    inner = slice(margin, margin + GREY_SIZE)
    red, green, blue = pixels[:, :, inner, inner].int().unbind(1)
    grey = (299 * red + 587 * green + 114 * blue + 500) // 1000  # ITU-R BT.601, rounded
    return grey[:, None].to(torch.uint8)


def _draw_set(count: int, split: int) -> Images:
    shuffled = numpy.random.default_rng((SEED, split)).permutation(count)
    pixels, labels = numpy.empty((count, *SHAPE), dtype=numpy.uint8), numpy.empty(count, dtype=numpy.int64)
    for label in range(len(CLASSES)):
        places = shuffled[label :: len(CLASSES)]
        labels[places] = label
        generator = numpy.random.default_rng((SEED, split, label))
        for start in range(0, len(places), BATCH):
            batch = places[start : start + BATCH]
            pixels[batch] = _draw_class(label, len(batch), generator)
    return Images(torch.from_numpy(pixels), torch.from_numpy(labels))


def _draw_class(label: int, count: int, generator: numpy.random.Generator) -> Array:
    """(count, 3, 32, 32) uint8."""

    def draw(low: float, high: float, *shape: int) -> Array:
        uniform = generator.random((count, *shape), dtype=numpy.float32)
        return numpy.float32(low) + numpy.float32(high - low) * uniform

    image = _background(draw)
    for _ in range(CLUTTER):
        _paint(image, _bar(draw, reach=16), _color(draw))
    x, y, radius = _place(draw)
    inside, mark = _object(CLASSES[label], draw, x, y, radius)
    fill, other = _colors(draw, image)
    _paint(image, inside, fill + mark[:, None] * (other - fill))
    _paint(image, _bar(draw, reach=9), _color(draw))
    noise = draw(-1, 1, *SHAPE) + draw(-1, 1, *SHAPE)
    noise *= draw(0.01, 0.08, 1, 1, 1)
    image *= draw(0.7, 1.1, 1, 1, 1)
    image += noise
    return (image.clip(0, 1) * 255 + 0.5).astype(numpy.uint8)


# ---- the objects


def _object(name: str, draw: Draw, x: Array, y: Array, radius: Array) -> tuple[Array, Array]:
    """Coverage and second colour's share, both (count, 32, 32) in [0, 1], at coordinates x, y around the centre."""
    if name in ("stripes", "checks", "dots"):
        outline = numpy.where(draw(0, 1, 1, 1) < 0.5, _disc(x, y, radius), _polygon(x, y, 0.8 * radius, SQUARE))
        return _coverage(outline), _texture(name, x, y, draw(4.5, 7, 1, 1))
    shade = (0.5 + 0.5 * x / radius).clip(0, 1) * draw(0, 0.6, 1, 1)
    return _coverage(_distance(name, x, y, radius)), shade


def _distance(name: str, x: Array, y: Array, radius: Array) -> Array:
    """Pixels from the shape's edge, negative inside."""
    match name:
        case "disc":
            return _disc(x, y, 0.9 * radius)
        case "ring":
            return abs(_disc(x, y, 0.78 * radius)) - 0.22 * radius
        case "square":
            return _polygon(x, y, 0.76 * radius, SQUARE)
        case "triangle":
            return _polygon(x, y + 0.1 * radius, 0.58 * radius, TRIANGLE)
        case "cross":
            near, far = numpy.minimum(abs(x), abs(y)), numpy.maximum(abs(x), abs(y))
            return numpy.maximum(near - 0.3 * radius, far - 0.95 * radius)
        case "star":
            # A point of the pentagram lies behind all of its five lines but one.
            return numpy.sort(_lines(x, y, 0.42 * radius, PENTAGON), axis=0)[-2]
        case "crescent":
            return numpy.maximum(_disc(x, y, radius), -_disc(x - 0.55 * radius, y, 0.8 * radius))
    raise ValueError(name)


def _texture(name: str, x: Array, y: Array, period: Array) -> Array:
    """The second colour's share, in [0, 1]; the period is in pixels."""
    across, along = (abs((axis / period) % 1 - 0.5) * 4 - 1 for axis in (x, y))  # triangle waves in [-1, 1]
    wave = {"stripes": across, "checks": across * along * 2, "dots": numpy.minimum(across, along) * 2 - 0.3}[name]
    return (0.5 + 0.5 * wave * period / 2).clip(0, 1)


# Unit normals of regular polygons' sides, to six digits.
TRIANGLE = ((0, -1), (0.866025, 0.5), (-0.866025, 0.5))
SQUARE = ((1, 0), (0, 1), (-1, 0), (0, -1))
PENTAGON = ((0, -1), (0.951057, -0.309017), (0.587785, 0.809017), (-0.587785, 0.809017), (-0.951057, -0.309017))


def _disc(x: Array, y: Array, radius: Array) -> Array:
    return numpy.sqrt(x * x + y * y) - radius


def _polygon(x: Array, y: Array, radius: Array, normals: tuple) -> Array:
    """Of the polygon whose sides are `radius` from the centre."""
    return _lines(x, y, radius, normals).max(axis=0)


def _lines(x: Array, y: Array, radius: Array, normals: tuple) -> Array:
    return numpy.stack([numpy.float32(a) * x + numpy.float32(b) * y - radius for a, b in normals])


def _coverage(distance: Array) -> Array:
    return (0.5 - distance).clip(0, 1)


# ---- where things are, and what is around them


def _place(draw: Draw) -> tuple[Array, Array, Array]:
    """Coordinates (count, 32, 32) around an object's centre, turned and stretched; its radius (count, 1, 1)."""
    radius = draw(8, 13, 1, 1)
    room = SIZE / 2 - radius
    x, y = _turned(draw, room * draw(-1, 1, 1, 1), room * draw(-1, 1, 1, 1), tilt=0.6)
    stretch = draw(0.85, 1.18, 1, 1)
    return x * stretch, y / stretch, radius


def _turned(draw: Draw, x0: Array, y0: Array, tilt: float | None = None) -> tuple[Array, Array]:
    """Pixel coordinates (count, 32, 32) around (x0, y0), which count from the middle, turned.

    By any angle, or by one whose tangent is at most `tilt`.
    """
    axis = numpy.arange(SIZE, dtype=numpy.float32) - (SIZE - 1) / 2
    x, y = axis[None, None, :] - x0, axis[None, :, None] - y0
    cos, sin = _direction(draw, tilt)
    return cos * x + sin * y, cos * y - sin * x


def _direction(draw: Draw, tilt: float | None) -> tuple[Array, Array]:
    """Cosine and sine (count, 1, 1) of random angles."""
    x, y = (draw(-1, 1, 1, 1), draw(-1, 1, 1, 1)) if tilt is None else (1, draw(-tilt, tilt, 1, 1))
    length = numpy.sqrt(x * x + y * y) + numpy.float32(1e-6)
    return x / length, y / length


def _background(draw: Draw) -> Array:
    """Two colours (count, 3, 32, 32) that blend along a direction, under a coarse texture."""
    x, _ = _turned(draw, draw(-8, 8, 1, 1), draw(-8, 8, 1, 1))
    share = (0.5 + x / 30).clip(0, 1)[:, None]
    return _color(draw) + share * draw(-0.3, 0.3, 3, 1, 1) + _coarse(draw) * draw(0.02, 0.15, 1, 1, 1)


def _coarse(draw: Draw, cells: int = 6) -> Array:
    """Noise in [-1, 1], (count, 3, 32, 32), interpolated between the corners of cells x cells."""
    corners = draw(-1, 1, 3, cells + 1, cells + 1)
    position = (numpy.arange(SIZE, dtype=numpy.float32) + 0.5) * (cells / SIZE)
    low = position.astype(int)
    share = position - low
    rows = corners[:, :, low] * (1 - share)[:, None] + corners[:, :, low + 1] * share[:, None]
    return rows[..., low] * (1 - share) + rows[..., low + 1] * share


def _bar(draw: Draw, reach: float) -> Array:
    """Coverage (count, 32, 32) of a bar up to `reach` pixels from the middle."""
    x, y = _turned(draw, draw(-reach, reach, 1, 1), draw(-reach, reach, 1, 1))
    return _coverage(numpy.maximum(abs(x) - draw(0.6, 1.6, 1, 1), abs(y) - draw(3, 10, 1, 1)))


def _paint(image: Array, coverage: Array, color: Array) -> None:
    """Over the image (count, 3, 32, 32), in place: new arrays of this size cost more than the sums."""
    change = color - image
    change *= coverage[:, None]
    image += change


def _color(draw: Draw) -> Array:
    return draw(0, 1, 3, 1, 1)


def _colors(draw: Draw, image: Array) -> tuple[Array, Array]:
    """Two colours (count, 3, 1, 1) of an object, each set off from its surroundings' mean and from one another."""
    # In float64, so that the order in which a processor sums leaves no trace.
    behind = image.mean(axis=(2, 3), keepdims=True, dtype=numpy.float64).astype(numpy.float32)
    first = _apart(draw, behind)
    return first, _apart(draw, first)


def _apart(draw: Draw, color: Array) -> Array:
    """A colour at least a tenth from `color` in every channel, to the side that has more room."""
    gap = draw(0.1, 0.6, 3, 1, 1)
    return numpy.where(color < 0.5, color + gap, color - gap)
