import dataclasses
import math
import re

import pytest
import torch
from torch.testing import assert_close

from stn import Constant, Hyperparameters, Replay, Tuned, UserError
from stn.hyperparameters import neighbourhood

INF = math.inf
RANGES = {"bounded": (-2.0, 3.0), "above": (0.5, INF), "below": (-INF, 2.0), "unbounded": (-INF, INF)}
any_range = pytest.mark.parametrize("bounds", RANGES.values(), ids=RANGES)
any_dtype = pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)


def mixed():
    """Shared and per-example, discrete and squashed hyperparameters between constants."""
    return Hyperparameters(
        first=Constant(0.5),
        rate=Tuned(0.25, range=(0, 1), feed="unconstrained"),
        holes=Tuned(1, range=(0, 4), discrete=True, per_example=False, feed="unconstrained"),
        middle=Constant(7.0),
        alpha=Tuned(2.0, range=(0, INF), scale=0.3, feed="squashed"),
        shift=Tuned(-1.0, scale=2.0, feed="unconstrained"),
    )


def logged(hyper):
    return dict(zip(hyper.log_names, hyper.log_values().tolist(), strict=True))


@pytest.mark.usefixtures("double")
def test_golden_space(golden):
    numbers = golden("space")
    hyper = Hyperparameters(
        **{
            f"h{i}": Tuned(
                1.0 if high > 1 else 0.5, (low, high), per_example=per_example, discrete=discrete, feed="unconstrained"
            )
            for i, (low, high, per_example, discrete) in enumerate(
                zip(*(numbers[name].tolist() for name in ("low", "high", "per_example", "discrete")), strict=True)
            )
        }
    )
    hyper.load_state_dict({name: numbers[name] for name in ("unconstrained", "raw_scale")})
    draw = hyper.perturbed(5, noise=numbers["noise"])
    close = {"rtol": 0, "atol": 1e-10}
    assert_close(hyper.scale, numbers["scale"], check_dtype=True, **close)
    assert_close(draw.h, numbers["perturbed"], **close)
    assert_close(draw.tuned_values, numbers["values"], **close)
    assert_close(hyper.entropy(), numbers["entropy"], **close)
    for i in range(6):
        expected = numbers["values"][:, i] if numbers["per_example"][i] else numbers["values"][0, i]
        assert_close(draw[f"h{i}"], expected, **close)


@pytest.mark.usefixtures("double")
@any_range
@pytest.mark.parametrize("initial", [0.501, 1.0, 1.999])
def test_current_value_is_the_initial_value(bounds, initial):
    hyper = Hyperparameters(x=Tuned(initial, bounds))
    assert_close(hyper.current()["x"].item(), initial, rtol=0, atol=1e-12)


@pytest.mark.usefixtures("double")
@any_range
def test_value_and_back_gives_the_same_unconstrained_number(bounds):
    for number in torch.linspace(-10, 10, 81):
        value = Hyperparameters(x=Tuned(1.0, bounds)).constrain(number[None]).item()
        assert_close(Hyperparameters(x=Tuned(value, bounds)).unconstrained, number[None], rtol=0, atol=1e-9)


@any_range
@any_dtype
def test_values_are_finite_in_range_and_monotone(bounds, dtype):
    hyper = Hyperparameters(x=Tuned(1.0, bounds)).to(dtype)
    values = hyper.values(torch.linspace(-50, 50, 1001, dtype=dtype)[:, None])[:, 0]
    low, high = bounds
    assert values.dtype == dtype
    assert values.isfinite().all()
    assert ((low <= values) & (values <= high)).all()
    steps = values.diff()
    assert (steps <= 0).all() if bounds == RANGES["below"] else (steps >= 0).all()
    assert values[400] != values[600]


@any_range
def test_values_are_finite_far_out(bounds):
    hyper = Hyperparameters(x=Tuned(1.0, bounds))
    assert hyper.values(torch.tensor([[-1e4], [-200.0], [200.0], [1e4]])).isfinite().all()


@any_range
@any_dtype
def test_gradients_are_finite(bounds, dtype):
    hyper = Hyperparameters(x=Tuned(1.0, bounds)).to(dtype)
    unconstrained = torch.linspace(-50, 50, 1001, dtype=dtype)[:, None].requires_grad_()
    for function in (hyper.constrain, hyper.squash):
        (gradient,) = torch.autograd.grad(function(unconstrained).sum(), unconstrained)
        assert gradient.isfinite().all()
        assert (gradient[400:600] != 0).all()


@pytest.mark.parametrize("bounds", [(0.0, 1.0), (-1e-3, 1.0), (0.25, 4.75), (1.0, 1e9), (0.5, INF), (-INF, 2.0)])
def test_it_can_start_just_inside_its_ends(bounds):
    for end, other in (bounds, bounds[::-1]):
        if math.isfinite(end):
            hyper = Hyperparameters(x=Tuned(math.nextafter(end, other), bounds))
            assert hyper.unconstrained.isfinite().all()
            assert_close(hyper.current()["x"].item(), end)


@pytest.mark.parametrize("initial", [0, 1, 2, 3])
def test_a_discrete_one_starts_in_the_middle_of_its_integer(initial):
    hyper = Hyperparameters(holes=Tuned(initial, range=(0, 4), discrete=True))
    assert hyper.current()["holes"].item() == initial
    assert_close(logged(hyper)["holes"], initial + 0.5)


def test_a_discrete_one_is_rounded_down():
    hyper = Hyperparameters(shift=Tuned(0, discrete=True))
    for unconstrained, value in [(1.99, 1), (2.0, 2), (2.01, 2), (-0.01, -1), (-1.0, -1)]:
        hyper.unconstrained.data.fill_(unconstrained)
        assert hyper.current()["shift"].item() == value
        assert_close(logged(hyper)["shift"], unconstrained, rtol=0, atol=1e-6)


@pytest.mark.parametrize(
    ("initial", "bounds", "discrete"),
    [
        (0, (0, INF), False),
        (-1, (0, INF), False),
        (0, (0, 1), False),
        (1, (0, 1), False),
        (1.5, (0, 1), False),
        (2, (-INF, 2), False),
        (3, (-INF, 2), False),
        (INF, (0, INF), False),
        (-INF, (-INF, 0), False),
        (INF, (-INF, INF), False),
        (math.nan, (-INF, INF), False),
        (math.nan, (0, 1), False),
        (4, (0, 4), True),
        (-1, (0, 4), True),
    ],
)
def test_an_initial_value_not_inside_its_range_is_an_error(initial, bounds, discrete):
    with pytest.raises(UserError, match="dropouto"):
        Hyperparameters(dropouto=Tuned(initial, bounds, discrete=discrete))


@pytest.mark.parametrize("scale", [-1, INF, -INF, math.nan])
def test_a_scale_that_is_negative_or_not_finite_is_an_error(scale):
    with pytest.raises(UserError, match="dropouto"):
        Hyperparameters(dropouto=Tuned(0.5, (0, 1), scale=scale))


def test_a_scale_of_0_is_no_perturbation():
    """Of this one, whatever the others' scales."""
    hyper = Hyperparameters(
        still=Tuned(0.3, (0, 1), scale=0.0, feed="unconstrained"),
        moved=Tuned(0.3, (0, 1), scale=0.5, feed="unconstrained"),
    )
    draw, current = hyper.perturbed(100), hyper.current()
    assert torch.equal(draw["still"], current["still"].expand(100)) and torch.equal(
        draw.h[:, 0], current.h[0, :1].expand(100)
    )
    assert len(set(draw["moved"].tolist())) == 100
    assert hyper.scale.tolist() == pytest.approx([0.0, 0.5]) and hyper.log_values().isfinite().all()
    hyper.current().h.sum().backward()
    assert hyper.unconstrained.grad.tolist() == [1.0, 1.0]


@pytest.mark.usefixtures("double")
@pytest.mark.parametrize("scale", [1e-6, 0.5, 1.0, 30.0, 1e4])
def test_scale_starts_as_given(scale):
    assert_close(Hyperparameters(x=Tuned(0, scale=scale)).scale.item(), scale, rtol=1e-9, atol=0)


def test_constants_are_floats_in_the_same_draw():
    for draw in (mixed().current(), mixed().perturbed(3)):
        assert (draw["first"], draw["middle"]) == (0.5, 7.0)
        assert isinstance(draw["first"], float)


def test_an_unknown_name_is_an_error_that_names_all():
    with pytest.raises(KeyError, match="'dropouto': there are rate, holes, alpha, shift, first, middle"):
        mixed().current()["dropouto"]
    with pytest.raises(KeyError, match="there are none"):
        Hyperparameters().current()["dropouto"]


def test_per_example_values_differ_and_shared_ones_do_not():
    draw = mixed().perturbed(5)
    assert draw.h.shape == (5, 4)
    assert draw["rate"].shape == draw["alpha"].shape == draw["shift"].shape == (5,)
    assert len(draw["rate"].unique()) == 5
    assert draw["holes"].shape == ()
    assert (draw.h[:, 1] == draw.h[0, 1]).all()


def test_current_values_are_scalars():
    draw = mixed().current()
    assert draw.h.shape == (1, 4)
    assert draw["rate"].shape == draw["holes"].shape == ()


def test_a_shared_one_takes_the_first_row_of_noise():
    hyper, noise = mixed(), torch.randn(5, 4)
    expected = hyper.unconstrained + hyper.scale * noise
    expected[:, 1] = expected[0, 1]
    assert_close(hyper.perturb(noise), expected)


def test_noise_is_standard_normal_scaled_and_independent():
    hyper, count = mixed(), 40_000
    noise = (hyper.perturb(torch.randn(count, 4)) - hyper.unconstrained).detach()
    drawn = hyper.perturbed(count).h
    for column, scale in ((0, 1.0), (3, 2.0)):
        assert_close(noise[:, column].std().item(), scale, rtol=0.02, atol=0)
        assert_close(drawn[:, column].std().item(), scale, rtol=0.02, atol=0)
        assert_close(drawn[:, column].mean(), hyper.unconstrained[column], rtol=0, atol=0.03)
    rate, shift = drawn[:, 0], drawn[:, 3]
    assert torch.stack([rate, shift]).corrcoef()[0, 1].abs() < 0.03
    assert torch.stack([rate[1:], rate[:-1]]).corrcoef()[0, 1].abs() < 0.03


def test_a_shared_one_is_perturbed_anew_in_each_draw():
    hyper = Hyperparameters(wdrop=Tuned(0.0, scale=0.5, per_example=False, feed="unconstrained"))
    drawn = torch.stack([hyper.perturbed(2).h[0, 0] for _ in range(2000)])
    assert_close(drawn.std().item(), 0.5, rtol=0.08, atol=0)


@pytest.mark.parametrize("shape", [(1, 4), (4,), (5, 1), (4, 4), (6, 4), (5, 5), (2, 5, 4), ()])
def test_noise_of_another_shape_is_named(shape):
    hyper, noise = mixed(), torch.zeros(shape)
    with pytest.raises(ValueError, match=rf"noise \(5, 4\): found {re.escape(str(shape))}"):
        hyper.perturbed(5, noise)
    if noise.dim() != 2 or shape[1] != 4:
        with pytest.raises(ValueError, match=rf"\(B, 4\): found {re.escape(str(shape))}"):
            hyper.perturb(noise)


@pytest.mark.parametrize("shape", [(1,), (5, 1), (5, 5), (4, 1), ()])
def test_unconstrained_values_of_another_shape_are_named(shape):
    hyper = mixed()
    for function in (hyper.squash, hyper.constrain, hyper.values):
        with pytest.raises(ValueError, match=rf"\(…, 4\): found {re.escape(str(shape))}"):
            function(torch.zeros(shape))


def test_the_feed_is_what_the_best_response_sees_and_centred_by_default():
    hyper = Hyperparameters(
        rate=Tuned(2.0, (1, 5), feed="squashed"),
        above=Tuned(2.0, (1, INF), feed="squashed"),
        below=Tuned(-2.0, (-INF, 1), feed="squashed"),
        free=Tuned(2.0, feed="squashed"),
        plain=Tuned(2.0, (1, 5), feed="unconstrained"),
        centred=Tuned(2.0, (1, 5), scale=0.5),
    )
    assert_close(hyper.current().h, torch.tensor([[0.25, 1.0, 3.0, 2.0, -math.log(3), 0.0]]))
    noise = torch.randn(3, 6)
    perturbed, draw = hyper.perturb(noise), hyper.perturbed(3, noise)
    assert_close(draw.h[:, 0], perturbed[:, 0].sigmoid())
    assert_close(draw.h[:, 1], perturbed[:, 1].exp().log1p())
    assert_close(draw.h[:, 4], perturbed[:, 4])
    assert_close(draw.h[:, 5], 0.5 * noise[:, 5])


def test_current_is_differentiable():
    hyper = mixed()
    hyper.current().h.sum().backward()
    squashed = hyper.unconstrained[2].sigmoid()
    assert_close(hyper.unconstrained.grad, torch.stack([*torch.ones(2), squashed.detach(), torch.ones(())]))
    assert hyper.raw_scale.grad is None


def test_perturbed_is_differentiable_on_request_only():
    hyper, noise = mixed(), torch.randn(3, 4)
    assert not hyper.perturbed(3).h.requires_grad
    hyper.perturbed(3, noise, differentiable=True).h.sum().backward()
    assert (hyper.unconstrained.grad != 0).all()
    expected = noise[:, 3].sum() * hyper.raw_scale[3].sigmoid()
    assert_close(hyper.raw_scale.grad[3], expected.detach())
    with torch.no_grad():
        assert not hyper.perturbed(3, differentiable=True).h.requires_grad


def test_values_carry_no_gradient():
    hyper = mixed()
    for draw in (hyper.current(), hyper.perturbed(3, differentiable=True)):
        assert not any(draw[name].requires_grad for name in hyper.columns)


def test_a_draw_cannot_be_changed():
    draw = mixed().current()
    with pytest.raises(dataclasses.FrozenInstanceError):
        draw.h = torch.zeros(1, 4)
    with pytest.raises(TypeError):
        draw["rate"] = 0.5


@pytest.mark.parametrize("hyper", [mixed(), Hyperparameters(x=Tuned(0.0))], ids=["mixed", "unconstrained"])
def test_a_draw_keeps_its_values_when_the_hyperparameters_move(hyper):
    draws = hyper.current(), hyper.perturbed(3)
    before = [(draw.h.clone(), draw.tuned_values.clone()) for draw in draws]
    with torch.no_grad():
        hyper.unconstrained += 1
    for draw, (h, values) in zip(draws, before, strict=True):
        assert_close(draw.h, h)
        assert_close(draw.tuned_values, values)


@pytest.mark.usefixtures("double")
def test_entropy_is_that_of_the_normal_distribution():
    hyper = mixed()
    assert_close(hyper.entropy(), torch.distributions.Normal(hyper.unconstrained, hyper.scale).entropy().sum())
    hyper.entropy().backward()
    assert (hyper.raw_scale.grad > 0).all()


def test_logs_hold_values_in_the_order_given_not_rounded_then_scales():
    hyper = mixed()
    assert hyper.names == ("first", "rate", "holes", "middle", "alpha", "shift")
    assert hyper.log_names == (*hyper.names, "rate_scale", "holes_scale", "alpha_scale", "shift_scale")
    assert_close(hyper.log_values().float(), torch.tensor([0.5, 0.25, 1.5, 7.0, 2.0, -1.0, 1.0, 1.0, 0.3, 2.0]))
    assert not hyper.log_values().requires_grad


def test_logs_do_not_change_afterwards():
    hyper = mixed()
    logs = hyper.log_values()
    before = logs.clone()
    with torch.no_grad():
        hyper.unconstrained += 1
        hyper.raw_scale += 1
    assert torch.equal(logs, before)


@pytest.mark.parametrize("sources", [{}, {"dropouto": Constant(0.5)}])
def test_nothing_tuned(sources):
    hyper = Hyperparameters(**sources)
    assert hyper.num_tuned == 0
    assert hyper.current().h.shape == (1, 0)
    assert hyper.perturbed(4).h.shape == (4, 0)
    assert {name: hyper.perturbed(4)[name] for name in hyper.names} == dict.fromkeys(sources, 0.5)
    assert hyper.log_values().tolist() == [0.5] * len(sources)
    assert hyper.entropy().item() == 0


def test_nothing_tuned_draws_no_random_number():
    before = torch.get_rng_state()
    Hyperparameters(dropouto=Constant(0.5)).perturbed(4)
    assert torch.equal(torch.get_rng_state(), before)


def test_state_dict_round_trip():
    trained, fresh = mixed(), mixed()
    with torch.no_grad():
        trained.unconstrained += torch.randn(4)
        trained.raw_scale += torch.randn(4)
    assert set(trained.state_dict()) == {"unconstrained", "raw_scale"}
    fresh.load_state_dict(trained.state_dict())
    assert_close(fresh.log_values(), trained.log_values())
    assert_close(fresh.entropy(), trained.entropy())


# Schedules


def scheduled():
    return Hyperparameters(
        fixed=Constant(1.5),
        moving=Replay("epoch", [0, 1], [0.25, 0.5]),
        rate=Tuned(0.5, range=(0, 1)),
        stepping=Replay("step", [0, 10], [0.0, 1.0]),
    )


def test_advance_moves_what_follows_a_schedule():
    hyper = scheduled()
    before = hyper.current()
    hyper.advance(5, 1)
    for draw in (hyper.current(), hyper.perturbed(3)):
        assert (draw["fixed"], draw["moving"], draw["stepping"]) == (1.5, 0.5, 0.5)
    assert (before["moving"], before["stepping"]) == (0.25, 0.0)  # a draw is for good
    logged = dict(zip(hyper.log_names, hyper.log_values().tolist(), strict=True))
    assert {name: logged[name] for name in hyper.names} == {"fixed": 1.5, "moving": 0.5, "rate": 0.5, "stepping": 0.5}


def test_given_values_are_logged_exactly():
    hyper = Hyperparameters(x=Replay("epoch", [0, 1], [0.1, 1 / 3]), rate=Tuned(0.5, range=(0, 1)))
    hyper.advance(0, 1)
    assert hyper.log_values()[0].item() == 1 / 3


def test_changing_names_all_but_constants():
    assert scheduled().changing == ("moving", "rate", "stepping")


@pytest.mark.parametrize(
    ("bounds", "value", "to", "back"),
    [
        ((0, 1), 0.2, lambda v: math.log(v / (1 - v)), lambda x: 1 / (1 + math.exp(-x))),
        ((-2, 3), 0.2, lambda v: math.log((v + 2) / (3 - v)), lambda x: -2 + 5 / (1 + math.exp(-x))),
        ((0, math.inf), 0.2, lambda v: math.log(math.expm1(v)), lambda x: math.log1p(math.exp(x))),
        ((-math.inf, math.inf), 0.2, float, float),
    ],
)
def test_neighbourhood_is_one_scale_away_in_unconstrained_space(bounds, value, to, back):
    below, above = neighbourhood([value, value], [0.5, 2.0], bounds)
    assert below == pytest.approx([back(to(value) - 0.5), back(to(value) - 2)], rel=1e-5)
    assert above == pytest.approx([back(to(value) + 0.5), back(to(value) + 2)], rel=1e-5)


# Draws of fewer examples


def test_the_first_of_a_draw_are_its_first_examples():
    draw = mixed().perturbed(5)
    first = draw.first(3)
    assert torch.equal(first.h, draw.h[:3]) and torch.equal(first["rate"], draw["rate"][:3])
    assert torch.equal(first["holes"], draw["holes"]) and first["middle"] == 7.0
    assert len(draw.h) == len(draw["rate"]) == 5
    assert draw.first(5) is draw and draw.first(9) is draw
    one = draw.first(1)
    assert one.h.shape == (1, 4) and one["rate"].shape == (1,)


def test_one_row_is_everybodys():
    draw = mixed().current()
    assert draw.first(1) is draw and draw.first(3) is draw


def test_the_first_keep_the_gradient_and_current_values_under_a_perturbed_response():
    hyper = mixed()
    draw = dataclasses.replace(hyper.current(), h=hyper.perturbed(5, differentiable=True).h).first(2)
    assert draw.h.shape == (2, 4) and draw["rate"].item() == pytest.approx(0.25)
    draw.h.sum().backward()
    assert_close(hyper.unconstrained.grad[[0, 1, 3]], torch.full((3,), 2.0))


def test_a_draw_knows_its_names():
    for draw in (mixed().current(), mixed().perturbed(3), mixed().perturbed(3).first(2)):
        assert all(name in draw for name in mixed().names)
        assert "dropouto" not in draw and "rate_scale" not in draw


# How they show


def test_hyperparameters_show_values_ranges_scales_and_schedules():
    hyper = mixed()
    with torch.no_grad():
        hyper.unconstrained[0] = math.log(3)  # tuned since, to 3/4
    assert repr(hyper) == (
        "Hyperparameters(\n"
        "  first=0.5\n"
        "  rate=0.75 in (0, 1), scale=1, unconstrained\n"
        "  holes=1 in (0, 4), scale=1, discrete, shared, unconstrained\n"
        "  middle=7\n"
        "  alpha=2 in (0, inf), scale=0.3, squashed\n"
        "  shift=-1 in (-inf, inf), scale=2, unconstrained\n"
        ")"
    )
    assert "replayed by epoch" in repr(scheduled())
    assert repr(Hyperparameters()) == "Hyperparameters()"
    assert "in (0, 1)" in repr(mixed().to("meta"))


def test_a_draw_shows_its_values_in_a_line():
    hyper = Hyperparameters(fixed=Constant(1.5), rate=Tuned(0.0), alpha=Tuned(2.0, per_example=False))
    assert repr(hyper.current()) == "Draw(h: (1, 2), rate=0, alpha=2, fixed=1.5)"
    noise = torch.tensor([[0.5, 0.25], [-1.0, 9.0], [0.0, 9.0]])
    assert repr(hyper.perturbed(3, noise)) == "Draw(h: (3, 2), rate=-1 to 0.5, alpha=2.25, fixed=1.5)"
    assert repr(hyper.to("meta").perturbed(3)) == "Draw(h: (3, 2), rate=(3,), alpha=(), fixed=1.5)"
    assert repr(Hyperparameters().current()) == "Draw(h: (1, 0))"
