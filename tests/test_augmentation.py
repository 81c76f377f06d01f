import colorsys
import itertools

import numpy
import pytest
import torch
from PIL import Image, ImageEnhance

from cnn import augmentation
from cnn.augmentation import (
    BRIGHTNESS,
    CONTRAST,
    HUE,
    SATURATION,
    adjust,
    adjust_hue,
    affine,
    crop,
    cropped,
    cut,
    cutout,
    flipped,
    input_scaling,
    jitter,
    random_orders,
    transformed,
)
from stn.dropout import channel_dropout, dropout

OPERATIONS = (BRIGHTNESS, CONTRAST, SATURATION, HUE)
CORNERS = torch.tensor([*itertools.product((0.0, 0.5, 1.0), repeat=3)])  # the cube's corners, edges, faces and greys


def bytes_of(count, size=12):
    """Images of 8-bit levels, (count, 3, size, size): half over the whole range, half in a part of it."""
    levels = torch.randint(256, (count, 3, size, size))
    levels[::2] = levels[::2] // 4 + torch.randint(192, (len(levels[::2]), 3, 1, 1))
    return levels / 255


def corners():
    """(1, 3, 27, 1)"""
    return CORNERS.T[None, :, :, None].clone()


def adjust_one(images, operation, amounts):
    """One adjustment alone; amounts (B,)."""
    return adjust(images, amounts[:, None].expand(-1, 4), torch.full((len(images), 1), operation))


def turned_pixel(pixel, shift):
    hue, saturation, value = colorsys.rgb_to_hsv(*pixel)
    return colorsys.hsv_to_rgb((hue + shift) % 1, saturation, value)


def adjusted(image, operation, amount):
    """One image, a (H, W, 3) array, by the definitions."""
    if operation == HUE:
        return numpy.apply_along_axis(turned_pixel, 2, image, amount)
    grey = (image @ [0.299, 0.587, 0.114])[..., None]
    other = {BRIGHTNESS: 0, CONTRAST: grey.mean(), SATURATION: grey}[operation]
    return numpy.clip(amount * image + (1 - amount) * other, 0, 1)


def assert_uniform(numbers, low, high):
    """Kolmogorov and Smirnov's distance, which passes 2/√n once in 1,500 times, and both ends."""
    numbers = (numbers.double() - low) / (high - low)
    assert numbers.min() >= -1e-5 and numbers.max() <= 1 + 1e-5
    ideal = (torch.arange(len(numbers), dtype=torch.float64) + 0.5) / len(numbers)
    assert (numbers.sort().values - ideal).abs().max() < 2 / len(numbers) ** 0.5


def assert_all_alike(outcomes, kinds):
    """χ² of integers that should be uniform over `kinds`, within five standard deviations."""
    expected = len(outcomes) / kinds
    counts = torch.bincount(outcomes, minlength=kinds)
    assert len(counts) == kinds
    assert ((counts - expected) ** 2 / expected).sum() < kinds - 1 + 5 * (2 * (kinds - 1)) ** 0.5


def numbered(orders):
    """(B,) which of the 24 orders each row is."""
    permutations = torch.tensor([*itertools.permutations(range(4))])
    return (orders[:, None] == permutations).all(2).int().argmax(1)


# The adjustments


@pytest.mark.parametrize(
    ("operation", "enhancer"),
    [
        (BRIGHTNESS, ImageEnhance.Brightness),
        (CONTRAST, ImageEnhance.Contrast),
        (SATURATION, ImageEnhance.Color),
    ],
)
def test_blends_are_pillows(operation, enhancer):
    images, factors = bytes_of(40), torch.linspace(0, 2.5, 40)
    results = 255 * adjust_one(images, operation, factors)
    for image, factor, result in zip(images, factors.tolist(), results, strict=True):
        pixels = (255 * image).round().byte().permute(1, 2, 0).numpy()
        expected = torch.tensor(numpy.array(enhancer(Image.fromarray(pixels)).enhance(factor))).permute(2, 0, 1)
        # Pillow cuts off the result's decimals, and rounds the grey or its mean.
        assert (result - expected).abs().max() <= 1.01 + 0.51 * abs(1 - factor)
        assert (result - expected).mean().abs() <= 0.6 + 0.51 * abs(1 - factor)


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 1e-5), (torch.float64, 1e-12)], ids=str)
@pytest.mark.parametrize("operation", OPERATIONS)
def test_adjustments_follow_their_definitions(operation, dtype, tolerance):
    low, high = (-1.5, 1.5) if operation == HUE else (0, 2.5)
    amounts = torch.linspace(low, high, 37, dtype=dtype)
    images = torch.cat([bytes_of(36, 6).to(dtype), torch.rand(1, 3, 6, 6, dtype=dtype)])
    results = adjust_one(images, operation, amounts)
    assert results.dtype == dtype
    for image, amount, result in zip(images, amounts.tolist(), results, strict=True):
        expected = adjusted(image.permute(1, 2, 0).double().numpy(), operation, amount)
        numpy.testing.assert_allclose(result.permute(1, 2, 0).numpy(), expected, rtol=0, atol=tolerance)


def test_hue_of_greys_and_of_the_colour_cubes_corners():
    for shift in (-1, -0.5, -1 / 3, -1 / 6, -0.1, 0.01, 1 / 6, 0.25, 1 / 3, 0.5, 0.9):
        result = adjust_hue(corners(), shift)[0, :, :, 0].T
        expected = torch.tensor([turned_pixel(pixel, shift) for pixel in CORNERS.tolist()])
        torch.testing.assert_close(result, expected, rtol=0, atol=1e-5)
        grey = (CORNERS.diff(dim=1) == 0).all(1)
        assert grey.sum() == 3
        assert torch.equal(result[grey], CORNERS[grey])


def test_hue_turns_red_to_green_to_blue():
    red, green, blue = torch.eye(3)[:, None, :, None, None].unbind()
    torch.testing.assert_close(adjust_hue(red, 1 / 3), green, rtol=0, atol=1e-6)
    torch.testing.assert_close(adjust_hue(red, -1 / 3), blue, rtol=0, atol=1e-6)


def test_hue_stays_in_range_for_the_nearly_grey_and_nearly_black():
    for scale in (1e-3, 1e-7, 1e-20, 1e-38, 1e-44):
        images = scale * torch.rand(50, 3, 8, 8)
        for near in (images, (1 - images).clamp(0, 1)):
            result = adjust_hue(near, torch.linspace(-0.5, 0.5, 50))
            assert result.isfinite().all() and result.min() >= 0 and result.max() <= near.max()


def test_every_order_of_the_four_is_one_after_the_other():
    orders = torch.tensor([*itertools.permutations(OPERATIONS)])[torch.randperm(24)]
    images = torch.rand(24, 3, 5, 5, dtype=torch.float64)
    amounts = torch.rand(24, 4, dtype=torch.float64) * 2
    results = adjust(images, amounts, orders)
    expected = [image.permute(1, 2, 0).numpy() for image in images]
    for example, position in itertools.product(range(24), range(4)):
        operation = orders[example, position].item()
        expected[example] = adjusted(expected[example], operation, amounts[example, operation].item())
    numpy.testing.assert_allclose(results.permute(0, 2, 3, 1).numpy(), numpy.stack(expected), rtol=0, atol=1e-12)


def test_orders_of_some_operations_leave_the_others_out():
    images, amounts = torch.rand(6, 3, 5, 5), torch.rand(6, 4)
    expected = adjust_hue(adjust_one(images, CONTRAST, amounts[:, CONTRAST]), amounts[:, HUE])
    assert torch.equal(adjust(images, amounts, torch.tensor([[CONTRAST, HUE]] * 6)), expected)


# Jitter's draws


def test_orders_are_uniform_and_rows_independent():
    drawn = numbered(random_orders(60_000, [0, 1, 2, 3]))
    assert_all_alike(drawn, 24)
    assert_all_alike(24 * drawn[::2] + drawn[1::2], 24 * 24)


def test_orders_of_some_operations_are_uniform():
    orders = random_orders(10_000, [CONTRAST, HUE])
    assert torch.equal(orders.sort(1).values, torch.tensor([CONTRAST, HUE]).expand(10_000, 2))
    assert_all_alike((orders[:, 0] == HUE).long(), 2)


def test_jitter_draws_orders_and_amounts_of_one_another_independent(monkeypatch):
    monkeypatch.setattr(augmentation, "adjust", lambda _, amounts, orders: (amounts, orders))
    amounts, orders = jitter(torch.rand(48_000, 3, 1, 1), 0.5, 0.5, 0.5, 0.5)
    halves = (amounts > torch.tensor([1, 1, 1, 0])).long() @ torch.tensor([8, 4, 2, 1])
    assert_all_alike(16 * numbered(orders) + halves, 16 * 24)


# Images in which each factor shows: a pixel's level, the difference of two levels, of two channels.
LEVEL, LEVELS, CHANNELS = ([[0.4] * 2] * 3, [[0.4, 0.6]] * 3, [[0.4] * 2, [0.5] * 2, [0.6] * 2])


@pytest.mark.parametrize("strength", [0.05, 0.4, 1.0, 1.2])
@pytest.mark.parametrize(
    ("operation", "image", "shown"),
    [
        (BRIGHTNESS, LEVEL, lambda result: result[:, 0, 0, 0] / 0.4),
        (CONTRAST, LEVELS, lambda result: (result[:, 0, 0, 1] - result[:, 0, 0, 0]) / 0.2),
        (SATURATION, CHANNELS, lambda result: (result[:, 2, 0, 0] - result[:, 0, 0, 0]) / 0.2),
    ],
)
def test_factors_are_uniform_in_their_ranges(operation, image, shown, strength):
    strengths = [0.0] * 4
    strengths[operation] = torch.full((5000,), strength)
    results = jitter(torch.tensor(image)[:, None].expand(5000, 3, 1, 2), *strengths)
    assert_uniform(shown(results), max(0, 1 - strength), 1 + strength)


@pytest.mark.parametrize("strength", [0.02, 0.25, 0.5])
def test_shifts_of_hue_are_uniform_in_their_range(strength):
    images = torch.tensor([0.9, 0.1, 0.1])[:, None, None].expand(2000, 3, 1, 1)
    results = jitter(images, 0.0, 0.0, 0.0, torch.full((2000,), strength)).flatten(1).tolist()
    hues = torch.tensor([colorsys.rgb_to_hsv(*pixel)[0] for pixel in results])
    assert_uniform((hues + 0.5) % 1 - 0.5, -strength, strength)


# Cutout


def with_holes(images, rows, columns, holes, length):
    """Cutout's published loop, for one image at a time."""
    images = images.clone()
    height, width = images.shape[2:]
    for b, image in enumerate(images):
        for y, x in zip(rows[b, : int(holes[b])].tolist(), columns[b, : int(holes[b])].tolist(), strict=True):
            half = length[b].item() / 2
            y1, y2 = (int(numpy.clip(end, 0, height)) for end in (y - half, y + half))
            x1, x2 = (int(numpy.clip(end, 0, width)) for end in (x - half, x + half))
            image[:, y1:y2, x1:x2] = 0
    return images


@pytest.mark.parametrize("numbers", [torch.float32, torch.long], ids=str)
def test_holes_are_the_published_ones(numbers):
    batch, height, width = 400, 9, 12
    images = torch.randn(batch, 2, height, width)
    rows, columns = torch.randint(height, (batch, 4)), torch.randint(width, (batch, 4))
    holes, length = torch.randint(5, (batch,)).to(numbers), torch.randint(26, (batch,)).to(numbers)
    expected = with_holes(images, rows, columns, holes, length)
    assert torch.equal(cut(images, rows, columns, holes, length), expected)
    assert (expected == 0).any() and (expected != 0).any()


def test_holes_of_one_number_and_length_for_all():
    images, rows, columns = torch.randn(50, 3, 8, 8), torch.randint(8, (50, 4)), torch.randint(8, (50, 4))
    expected = with_holes(images, rows, columns, torch.full((50,), 2), torch.full((50,), 5))
    assert torch.equal(cut(images, rows, columns, 2.0, 5), expected)
    assert torch.equal(cut(images, rows, columns, torch.tensor(2), torch.tensor(5.0)), expected)


def test_centres_are_uniform_over_the_pixels():
    height, width = 6, 5
    holes = cutout(torch.ones(9000, 1, height, width), 1, 2)[:, 0] == 0
    # A hole of two rows and columns ends at its centre; a corner's first row and column are cut off.
    assert (holes.flatten(1).sum(1) > 0).all()
    last_row = (holes.any(2) * torch.arange(height)).amax(1)
    last_column = (holes.any(1) * torch.arange(width)).amax(1)
    assert_all_alike(width * last_row + last_column, height * width)


def test_each_image_has_its_number_of_holes():
    holes = torch.arange(4.0).repeat_interleave(200)
    cut_out = (cutout(torch.ones(800, 2, 40, 40), holes, 1)[:, 1] == 0).flatten(1).sum(1).reshape(4, 200)
    assert cut_out.amax(1).tolist() == [0, 1, 2, 3]
    assert ((holes.reshape(4, 200) - cut_out).mean(1) < 0.3).all()  # a hole may lie on another or over the edge


def test_no_more_than_the_maximum_of_holes():
    cut_out = cutout(torch.ones(100, 1, 40, 40), 9, 1, max_holes=2) == 0
    assert cut_out.flatten(1).sum(1).max() == 2


# Scaling


@pytest.mark.parametrize("strength", [0.1, 1.0, 3.0])
def test_scaling_is_one_uniform_factor_an_image(strength):
    images = torch.randn(5000, 3, 2, 2)
    factors = input_scaling(images, torch.full((5000,), strength)) / images
    torch.testing.assert_close(factors, factors[:, :1, :1, :1].expand_as(factors))
    assert_uniform(factors[:, 0, 0, 0], 1 / (1 + strength), 1 + strength)


# What all of them keep to


def all_of(images, strength):
    """Every augmentation at this strength: (name, result)."""
    for operation, name in enumerate(("brightness", "contrast", "saturation", "hue")):
        one = [strength if number == operation else 0.0 for number in range(4)]
        yield name, jitter(images, *one)
    yield "jitter", jitter(images, *[strength] * 4)
    yield "holes", cutout(images, strength * 4, 6)
    yield "length", cutout(images, 2.0, strength * 12)
    yield "dropout", dropout(images, strength)
    yield "channel dropout", channel_dropout(images, strength)
    yield "scaling", input_scaling(images, strength)
    for place, (name, largest) in enumerate((("rotation", 180), ("shift", 1), ("zoom", 1), ("shear", 90))):
        one = [strength * largest if number == place else 0.0 for number in range(4)]
        yield name, affine(images, *one)
    yield "affine", affine(images, strength * 180, strength, strength, strength * 90)


@pytest.mark.parametrize("zero", [0.0, 0, torch.tensor(0.0), torch.zeros(64)], ids=["float", "int", "scalar", "each"])
def test_strength_zero_changes_no_bit(zero):
    images = torch.rand(64, 3, 9, 9)
    images[0, :, :, :3] = CORNERS.T.reshape(3, 9, 3)
    for name, result in all_of(images, zero):
        assert torch.equal(result, images), name


def test_strength_zero_as_a_float_does_nothing_at_all():
    images, before = torch.rand(6, 3, 8, 8), torch.get_rng_state()
    for name, result in all_of(images, 0.0):
        assert result is images, name
    assert torch.equal(torch.get_rng_state(), before)


def test_one_images_strength_zero_spares_that_image_alone():
    images = torch.rand(64, 3, 9, 9)
    strength = torch.full((64,), 0.4)
    strength[10] = 0
    for name, result in all_of(images, strength):
        changed = (result != images).flatten(1).any(1)
        assert not changed[10] and changed.sum() > 32, name


def test_no_image_depends_on_anothers_strength():
    images = torch.rand(64, 3, 9, 9)
    strengths, others = torch.rand(2, 64) / 2
    others[:8] = strengths[:8]
    others[8:16] = 0
    state = torch.get_rng_state()
    first = dict(all_of(images, strengths))
    torch.set_rng_state(state)
    second = dict(all_of(images, others))
    for name in first:
        assert torch.equal(first[name][:8], second[name][:8]), name
        assert not torch.equal(first[name][8:], second[name][8:]), name


def test_a_float_a_scalar_and_a_strength_for_each_are_the_same():
    images, state = torch.rand(64, 3, 9, 9), torch.get_rng_state()
    results = []
    for strength in (0.25, torch.tensor(0.25), torch.full((64,), 0.25), torch.full((64,), 0.25, dtype=torch.float64)):
        torch.set_rng_state(state)
        results.append(dict(all_of(images, strength)))
    for name, expected in results[0].items():
        assert expected.dtype == torch.float32
        assert all(torch.equal(other[name], expected) for other in results[1:]), name


def test_the_same_image_comes_out_different_each_time():
    images = torch.rand(1, 3, 9, 9).expand(64, 3, 9, 9)
    for name, result in all_of(images, 0.45):
        assert len(result.flatten(1).unique(dim=0)) > 4, name


def test_the_images_given_stay_as_they_are():
    images = torch.rand(64, 3, 9, 9)
    before = images.clone()
    for _ in all_of(images, torch.rand(64) / 2):
        assert torch.equal(images, before)


def test_jitter_stays_in_range_far_out():
    images = torch.cat([bytes_of(60, 8), corners()[:, :, :8].expand(4, 3, 8, 8)])
    result = jitter(images, 5.0, 5.0, 5.0, 0.5)
    assert result.min() == 0 and result.max() == 1


def test_nothing_waits_for_the_device():
    """The meta device has no numbers to wait for, and refuses tensors of another."""
    images = torch.rand(64, 3, 9, 9, device="meta")
    for strength in (0.3, torch.rand(64, device="meta"), torch.rand((), device="meta")):
        for name, result in all_of(images, strength):
            assert result.device.type == "meta" and result.shape == images.shape, name


# Affine maps


def backward_map(angle, translation, scale, shear, height, width):
    """(3, 3), from where a pixel's centre is to where it was; x and y in pixels from the upper left corner.

    By composition: to the centre, shear, rotate clockwise and scale, back, translate; and all that undone.
    """
    cos, sin = numpy.cos(numpy.deg2rad(angle)), numpy.sin(numpy.deg2rad(angle))
    to_centre = numpy.array([[1, 0, -width / 2], [0, 1, -height / 2], [0, 0, 1]])
    sheared = numpy.array([[1, -numpy.tan(numpy.deg2rad(shear)), 0], [0, 1, 0], [0, 0, 1]])
    turned = numpy.array([[cos, -sin, 0], [sin, cos, 0], [0, 0, 1]])
    translated = numpy.array([[1, 0, translation[0]], [0, 1, translation[1]], [0, 0, 1]])
    zoomed = numpy.diag([scale, scale, 1])
    return numpy.linalg.inv(translated @ numpy.linalg.inv(to_centre) @ zoomed @ turned @ sheared @ to_centre)


def by_pillow(image, backward):
    """One image (C, H, W) of 8-bit levels, transformed by Pillow."""
    height, width = image.shape[1:]
    planes = [Image.fromarray(plane.byte().numpy()) for plane in image]
    options = {"data": backward[:2].ravel().tolist(), "resample": Image.Resampling.NEAREST, "fillcolor": 0}
    results = [plane.transform((width, height), Image.Transform.AFFINE, **options) for plane in planes]
    return torch.stack([torch.tensor(numpy.array(result)) for result in results])


def clear(backward, height, width):
    """(H, W): whether a pixel's centre was not within 0.001 of the border between two pixels.

    Pillow rounds coordinates to multiples of 2⁻¹⁶ pixels, the steps between neighbours too: in 32 x 32 pixels its error
    comes to 65 · 2⁻¹⁷, or 0.0005. That of float32 is smaller.
    """
    y, x = numpy.mgrid[:height, :width] + 0.5
    before = numpy.tensordot(backward[:2], numpy.stack([x, y, numpy.ones_like(x)]), axes=1)
    return torch.tensor((abs(before - before.round()) > 1e-3).all(axis=0))


def random_parameters(count):
    """Angles, translations, scales and shears, over more than their ranges in training."""
    uniform = numpy.random.default_rng(3).uniform
    angles, scales, shears = uniform(-180, 180, count), uniform(0.5, 1.7, count), uniform(-60, 60, count)
    return angles, uniform(-9, 9, (count, 2)).round(), scales, shears


def floats(numbers):
    return torch.tensor(numbers, dtype=torch.float32)


@pytest.mark.parametrize("shape", [(1, 28, 28), (3, 32, 32), (2, 17, 30)], ids=str)
def test_affine_maps_are_pillows(shape):
    count = 150
    images, parameters = torch.randint(1, 256, (count, *shape)).float(), random_parameters(count)
    results, compared, black = transformed(images, *map(floats, parameters)), 0, 0
    for image, result, *own in zip(images, results, *parameters, strict=True):
        backward = backward_map(*own, *shape[1:])
        safe = clear(backward, *shape[1:])
        assert torch.equal(result[:, safe], by_pillow(image, backward)[:, safe].float())
        compared, black = compared + safe.double().mean() / count, black + (result == 0).double().mean() / count
    assert compared > 0.99 and 0.2 < black < 0.8


def test_a_positive_angle_turns_clockwise_and_translations_go_right_and_down():
    images, zero, one = torch.rand(1, 2, 7, 7), torch.zeros(1), torch.ones(1)
    still = torch.zeros(1, 2)
    for quarters in range(-4, 5):
        turned = transformed(images, 90.0 * quarters * one, still, one, zero)
        assert torch.equal(turned, images.rot90(-quarters, (2, 3)))
    moved = transformed(images, zero, torch.tensor([[2.0, -1.0]]), one, zero)
    expected = torch.zeros_like(images)
    expected[:, :, :-1, 2:] = images[:, :, 1:, :-2]
    assert torch.equal(moved, expected)


def test_a_scale_of_three_makes_a_pixel_three_by_three():
    images = torch.rand(1, 1, 9, 9)
    zoomed = transformed(images, torch.zeros(1), torch.zeros(1, 2), torch.full((1,), 3.0), torch.zeros(1))
    assert torch.equal(zoomed, images[:, :, 3:6, 3:6].repeat_interleave(3, 2).repeat_interleave(3, 3))


def test_a_shear_moves_rows_along_x_and_the_centre_not_at_all():
    images = torch.rand(1, 1, 5, 9)
    sheared = transformed(images, torch.zeros(1), torch.zeros(1, 2), torch.ones(1), torch.full((1,), 45.0))
    for row, right in enumerate((2, 1, 0, -1, -2)):
        moved = torch.zeros(9)
        moved[max(right, 0) : 9 + min(right, 0)] = images[0, 0, row, max(-right, 0) : 9 - max(right, 0)]
        assert torch.equal(sheared[0, 0, row], moved)


@pytest.fixture
def drawn(monkeypatch):
    """drawn(images, strengths): the angles, translations, scales and shears that `affine` draws."""
    monkeypatch.setattr(augmentation, "transformed", lambda _, *parameters: parameters)
    return affine


def test_angles_scales_and_shears_are_uniform_each_in_its_own_range(drawn):
    """Independent of one another, and of the other images'."""
    count = 6000
    degrees, scale, shear = (torch.linspace(0.2, 1, count) * most for most in (45, 0.5, 30))
    angles, _, scales, shears = drawn(torch.rand(count, 1, 4, 4), degrees, 0.1, scale, shear)
    shares = [angles / degrees, (scales - 1) / scale, shears / shear]
    for share in shares:
        assert_uniform(share, -1, 1)
    halves = (torch.stack(shares) > 0).long()
    assert_all_alike(torch.tensor([4, 2, 1]) @ halves, 8)
    assert_all_alike(torch.tensor([4, 2, 1]) @ halves[:, ::2] + 8 * (torch.tensor([4, 2, 1]) @ halves[:, 1::2]), 64)


def test_translations_are_whole_pixels_of_each_sides_own_share(drawn):
    """Up to 2.5 pixels of 10 and 3.5 of 14 either way, which rounded are five and seven numbers, alike likely."""
    _, translations, _, _ = drawn(torch.rand(20_000, 1, 10, 14), 0.0, torch.full((20_000,), 0.25), 0.0, 0.0)
    assert torch.equal(translations, translations.round())
    right, down = translations.long().unbind(1)
    assert (right.abs().max(), down.abs().max()) == (3, 2)
    assert_all_alike(5 * (right + 3) + down + 2, 35)


def test_each_image_is_translated_by_its_own_share(drawn):
    most = torch.tensor([0.0, 0.1, 0.3]).repeat_interleave(1000)
    _, translations, _, _ = drawn(torch.rand(3000, 1, 10, 10), 0.0, most, 0.0, 0.0)
    assert translations.abs().reshape(3, 1000, 2).amax(1).tolist() == [[0, 0], [1, 1], [3, 3]]


def test_what_is_not_to_be_changed_is_drawn_as_nothing(drawn):
    angles, translations, scales, shears = drawn(torch.rand(8, 1, 4, 4), 0.0, 0.0, 0.0, torch.zeros(8))
    assert not angles.any() and not translations.any() and not shears.any() and (scales == 1).all()


def test_no_gradient_reaches_the_strengths_of_affine_maps():
    strengths = [torch.full((4,), 0.3, requires_grad=True) for _ in range(4)]
    assert not affine(torch.rand(4, 1, 8, 8), *strengths).requires_grad


# Crops and flips


@pytest.mark.parametrize("dtype", [torch.uint8, torch.float32], ids=str)
def test_each_image_is_cropped_at_its_own_place(dtype):
    images = torch.randint(256, (5, 2, 9, 11)).to(dtype)
    rows, columns = torch.tensor([0, 1, 2, 3, 0]), torch.tensor([4, 0, 2, 1, 0])
    expected = [
        image[:, row : row + 6, column : column + 7] for image, row, column in zip(images, rows, columns, strict=True)
    ]
    assert torch.equal(crop(images, rows, columns, 6, 7), torch.stack(expected))


def test_crops_are_uniform_over_all_places():
    """The place of one bright pixel, which no crop by up to 2 pixels loses."""
    count = 20_000
    images = torch.zeros(1, 1, 6, 7)
    images[0, 0, 3, 2] = 1
    found = cropped(images.expand(count, 1, 6, 7), padding=2)
    assert found.shape == (count, 1, 6, 7) and (found.sum((1, 2, 3)) == 1).all()
    shares = found.mean((0, 1))[1:6, 0:5]
    assert shares.sum() == pytest.approx(1)
    assert (shares - 1 / 25).abs().max() < 5 * (0.04 * 0.96 / count) ** 0.5


def test_half_of_the_images_are_flipped():
    count = 10_000
    images = torch.arange(12.0).reshape(1, 3, 2, 2).expand(count, 3, 2, 2)
    found = flipped(images)
    turned = (found == images.flip(3)).all(3).all(2).all(1)
    assert torch.equal(found[~turned], images[~turned])
    assert turned.double().mean().item() == pytest.approx(0.5, abs=5 * 0.5 / count**0.5)
