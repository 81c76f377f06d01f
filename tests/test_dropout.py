import math
import re
from itertools import product

import pytest
import torch

from stn.dropout import channel_dropout, drop_connect, dropout, embedding_dropout, locked_dropout

STEPS, BATCH, WIDTH, TYPES = 4, 6, 4000, 11


def assert_rate(dropped, rate):
    """The fraction of zeros is within five standard deviations of the rate."""
    deviation = math.sqrt(rate * (1 - rate) / dropped.numel())
    assert abs((dropped == 0).float().mean().item() - rate) <= 5 * deviation


rates = pytest.mark.parametrize(
    "rate",
    [0.3, torch.tensor(0.3), torch.tensor([0.05, 0.2, 0.4, 0.6, 0.8, 0.95])],
    ids=["float", "scalar", "per-example"],
)


@rates
def test_locked_dropout_drops_each_example_at_its_rate(rate):
    dropped = locked_dropout(torch.ones(STEPS, BATCH, WIDTH), rate)
    for example, expected in enumerate(torch.as_tensor(rate).expand(BATCH).tolist()):
        assert_rate(dropped[0, example], expected)


@pytest.mark.parametrize("rows", [1, 2])
def test_locked_dropout_drops_each_unit_at_its_rate(rows):
    rates = torch.tensor([[0.1, 0.5, 0.9], [0.7, 0.3, 0.2]])[:rows]
    dropped = locked_dropout(torch.ones(STEPS, 2, 3 * WIDTH), rates.repeat_interleave(WIDTH, 1))
    for example, expected in enumerate(rates.expand(2, 3)):
        for part, rate in zip(dropped[0, example].chunk(3), expected.tolist(), strict=True):
            assert_rate(part, rate)
            torch.testing.assert_close(part[part != 0], torch.full_like(part[part != 0], 1 / (1 - rate)))
    assert torch.equal(dropped, dropped[:1].expand_as(dropped))


def test_locked_dropout_refuses_other_rates_of_units():
    with pytest.raises(ValueError, match=re.escape("rate (B, F) or (1, F): found x (4, 6, 8) with a rate (6, 7)")):
        locked_dropout(torch.ones(4, 6, 8), torch.full((6, 7), 0.5))


@rates
def test_locked_dropout_scales_what_it_keeps(rate):
    dropped = locked_dropout(torch.ones(STEPS, BATCH, WIDTH), rate)
    for example, expected in enumerate(torch.as_tensor(rate).expand(BATCH).tolist()):
        kept = dropped[:, example][dropped[:, example] != 0]
        torch.testing.assert_close(kept, torch.full_like(kept, 1 / (1 - expected)))


@rates
def test_locked_dropout_keeps_one_mask_over_time(rate):
    dropped = locked_dropout(torch.ones(STEPS, BATCH, WIDTH), rate)
    assert torch.equal(dropped, dropped[:1].expand_as(dropped))


def test_locked_dropout_masks_differ_between_examples_and_calls():
    x = torch.ones(STEPS, BATCH, WIDTH)
    dropped = locked_dropout(x, 0.5)
    assert len(dropped[0].unique(dim=0)) == BATCH
    assert not torch.equal(locked_dropout(x, 0.5), dropped)


def test_locked_dropout_preserves_the_expectation():
    x = torch.arange(1.0, 9.0)
    mean = locked_dropout(x.expand(1, 50_000, 8), 0.4)[0].mean(0)
    torch.testing.assert_close(mean, x, rtol=0.03, atol=0)


@rates
def test_dropout_drops_each_examples_entries_at_its_rate(rate):
    dropped = dropout(torch.ones(BATCH, 4, 40, 50), rate)
    for example, expected in zip(dropped, torch.as_tensor(rate).expand(BATCH).tolist(), strict=True):
        assert_rate(example, expected)
        torch.testing.assert_close(example.unique(), torch.tensor([0, 1 / (1 - expected)]))


@rates
def test_channel_dropout_drops_each_examples_whole_channels_at_its_rate(rate):
    dropped = channel_dropout(torch.ones(BATCH, WIDTH, 2, 3), rate)
    assert torch.equal(dropped, dropped[..., :1, :1].expand_as(dropped))
    for example, expected in zip(dropped[..., 0, 0], torch.as_tensor(rate).expand(BATCH).tolist(), strict=True):
        assert_rate(example, expected)
        torch.testing.assert_close(example.unique(), torch.tensor([0, 1 / (1 - expected)]))


def test_masks_differ_between_examples_channels_and_entries():
    dropped = dropout(torch.ones(BATCH, 5, 8, 8), 0.5)
    assert len(dropped.reshape(BATCH * 5 * 8, 8).unique(dim=0)) > 100
    assert len(dropped.reshape(BATCH * 5, 64).unique(dim=0)) == BATCH * 5
    assert len(channel_dropout(torch.ones(BATCH, 40, 2, 2), 0.5)[..., 0, 0].unique(dim=0)) == BATCH


@pytest.mark.parametrize("kind", [dropout, channel_dropout])
def test_dropout_of_images_preserves_the_expectation(kind):
    x = torch.arange(1.0, 9.0).reshape(2, 2, 2)
    mean = kind(x.expand(50_000, 2, 2, 2), torch.tensor([0.2, 0.6]).repeat(25_000)).mean(0)
    torch.testing.assert_close(mean, x, rtol=0.03, atol=0)


def calls(rate):
    """Every kind of dropout at this rate, on ones."""
    ids = torch.randint(TYPES, (STEPS, BATCH))
    return (
        locked_dropout(torch.ones(STEPS, BATCH, 50), rate),
        embedding_dropout(torch.ones(STEPS, BATCH, 50), ids, TYPES, rate),
        *drop_connect(rate, torch.ones(50, 40), torch.ones(50, 40)),
        dropout(torch.ones(BATCH, 3, 8, 8), rate),
        channel_dropout(torch.ones(BATCH, 50, 2, 2), rate),
    )


@pytest.mark.parametrize("rate", [0.0, 0, torch.tensor(0.0)])
def test_rate_zero_changes_nothing(rate):
    for result in calls(rate):
        assert torch.equal(result, torch.ones_like(result))


def test_rate_zero_as_a_float_draws_no_random_number():
    x, before = torch.ones(STEPS, BATCH, 50), torch.get_rng_state()
    locked_dropout(x, 0.0)
    embedding_dropout(x, torch.zeros(STEPS, BATCH, dtype=torch.long), TYPES, 0.0)
    drop_connect(0.0, x)
    dropout(x, 0.0)
    channel_dropout(x[None], 0.0)
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.parametrize("rate", [1.0, 1 - 1e-9, torch.tensor(1.0), torch.tensor(1 - 1e-7)])
def test_rates_near_one_stay_finite_and_drop_nearly_all(rate):
    for _ in range(20):
        for result in calls(rate):
            assert result.isfinite().all()
            assert (result == 0).float().mean() > 0.9
    assert locked_dropout(torch.ones(1, BATCH, 50), torch.tensor(1.0).expand(BATCH)).isfinite().all()


@pytest.mark.parametrize("rate", [0.4, torch.tensor(0.4)], ids=["float", "scalar"])
def test_embedding_dropout_drops_word_types_wherever_they_occur(rate):
    types = 3000
    ids = torch.cat([torch.arange(types), torch.randint(types, (types,))]).reshape(-1, BATCH)
    dropped = embedding_dropout(torch.ones(*ids.shape, 3), ids, types, rate)
    by_type = dropped.flatten(0, 1)[:types]
    assert torch.equal(dropped, by_type[ids])
    assert torch.equal(by_type, by_type[:, :1].expand_as(by_type))
    assert_rate(by_type[:, 0], 0.4)
    torch.testing.assert_close(by_type.unique(), torch.tensor([0, 1 / 0.6]))


@pytest.mark.parametrize("rate", [0.4, torch.tensor(0.4)], ids=["float", "scalar"])
def test_drop_connect_shares_one_mask(rate):
    weight, response = torch.randn(80, 60), torch.randn(80, 60)
    dropped_weight, dropped_response = drop_connect(rate, weight, response)
    mask = dropped_weight / weight
    torch.testing.assert_close(dropped_response, response * mask)
    assert_rate(mask, 0.4)
    torch.testing.assert_close(mask[mask != 0], torch.full_like(mask[mask != 0], 1 / 0.6))


def test_gradients_flow_through_what_is_kept_alone():
    x, weight = torch.ones(STEPS, BATCH, 50, requires_grad=True), torch.ones(30, 20, requires_grad=True)
    ids = torch.randint(TYPES, (STEPS, BATCH))
    for source, dropped in (
        (x, locked_dropout(x, torch.linspace(0.1, 0.9, BATCH))),
        (x, embedding_dropout(x, ids, TYPES, 0.5)),
        (weight, drop_connect(0.5, weight)[0]),
        (x, dropout(x, torch.linspace(0.1, 0.9, STEPS))),
        (x, channel_dropout(x[..., None], torch.linspace(0.1, 0.9, STEPS))[..., 0]),
    ):
        (gradient,) = torch.autograd.grad(dropped.sum(), source)
        assert torch.equal(gradient, dropped)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16], ids=str)
def test_the_dtype_is_the_inputs_whatever_the_rates(dtype):
    rate = torch.full((BATCH,), 0.5, dtype=torch.float32)
    assert locked_dropout(torch.ones(STEPS, BATCH, 8, dtype=dtype), rate).dtype == dtype
    assert dropout(torch.ones(BATCH, 3, 8, 8, dtype=dtype), rate).dtype == dtype
    assert channel_dropout(torch.ones(BATCH, 3, 8, 8, dtype=dtype), rate).dtype == dtype
    assert drop_connect(rate[0], torch.ones(8, 8, dtype=dtype))[0].dtype == dtype


def test_a_rate_is_exact_in_bfloat16():
    """Which tells only 256 random numbers apart: a rate of 0.001 would drop nothing or four times too much."""
    x = torch.ones(1, 1000, 1000, dtype=torch.bfloat16)
    dropped = (locked_dropout(x, 0.001) == 0).double().mean().item()
    assert dropped == pytest.approx(0.001, abs=5 * (0.001 / 1e6) ** 0.5)
    assert locked_dropout(x, 0.5).dtype == torch.bfloat16


# What they are given

INPUTS = {dropout: (BATCH, 3), channel_dropout: (BATCH, 3, 2, 2), locked_dropout: (STEPS, BATCH, 3)}
any_kind = pytest.mark.parametrize("kind", INPUTS)
SHAPES = [(BATCH + 1,), (STEPS,), (BATCH, 1), (BATCH, 3), (1, BATCH), (1, 1), (0,), (2,)]
NO_ROWS = [*product(INPUTS, SHAPES)]
NO_ROWS.remove((locked_dropout, (BATCH, 3)))  # a rate of each unit


@pytest.mark.parametrize(("kind", "shape"), NO_ROWS)
def test_rates_that_are_no_row_of_the_batch_are_named(kind, shape):
    found = "rate " + (f"({shape[0]},)" if len(shape) == 1 else str(shape))
    with pytest.raises(ValueError, match=re.escape(f"found x {INPUTS[kind]} with a {found}")):
        kind(torch.ones(INPUTS[kind]), torch.full(shape, 0.5))


@any_kind
def test_rates_of_many_do_not_broadcast_over_one_example(kind):
    one = [1 if size == BATCH else size for size in INPUTS[kind]]
    with pytest.raises(ValueError, match="found"):
        kind(torch.ones(one), torch.full((BATCH,), 0.5))


@any_kind
def test_a_row_of_one_rate_holds_for_all(kind):
    x = torch.ones(INPUTS[kind])
    torch.manual_seed(1)
    expected = kind(x, torch.tensor(0.4))
    torch.manual_seed(1)
    assert torch.equal(kind(x, torch.tensor([0.4])), expected)


@pytest.mark.parametrize("rate", [0.0, 0.5, torch.tensor(0.5)])
@pytest.mark.parametrize(
    ("kind", "shape", "layout"),
    [
        (dropout, (), "(B, …)"), (locked_dropout, (BATCH, 3), "(T, B, F)"), (locked_dropout, (1, 2, 3, 4), "(T, B, F)"),
        (channel_dropout, (BATCH, 3), "(B, C, H, W)"), (channel_dropout, (1, BATCH, 3, 2, 2), "(B, C, H, W)"),
    ],
)  # fmt: skip
def test_inputs_of_another_shape_are_named_at_any_rate(kind, shape, layout, rate):
    with pytest.raises(ValueError, match=re.escape(f"{kind.__name__} takes x {layout}: found {shape}")):
        kind(torch.ones(shape), rate)


@pytest.mark.parametrize("rate", [-0.1, 1.1, 50, math.nan, math.inf])
def test_a_number_that_is_no_rate_is_named(rate):
    ids = torch.zeros(STEPS, BATCH, dtype=torch.long)
    for call in (
        lambda: dropout(torch.ones(BATCH, 3), rate),
        lambda: embedding_dropout(torch.ones(STEPS, BATCH, 3), ids, TYPES, rate),
        lambda: drop_connect(rate, torch.ones(3, 3)),
    ):
        with pytest.raises(ValueError, match=f"from 0 to 1: found {rate}"):
            call()


def test_integers_cannot_be_scaled():
    with pytest.raises(TypeError, match=r"torch\.int64"):
        dropout(torch.ones(BATCH, 3, dtype=torch.long), 0.5)


@pytest.mark.parametrize("count", [BATCH, TYPES, 40])
def test_what_all_examples_share_has_one_rate(count):
    """As many rates as word types, or as columns of the weights, would broadcast."""
    ids, rates = torch.zeros(STEPS, BATCH, dtype=torch.long), torch.full((count,), 0.5)
    for call in (
        lambda: embedding_dropout(torch.ones(STEPS, BATCH, 3), ids, TYPES, rates),
        lambda: drop_connect(rates, torch.ones(50, 40)),
    ):
        with pytest.raises(ValueError, match=rf"one rate .*: found \({count},\).*per_example=False"):
            call()


@pytest.mark.parametrize("rate", [0.0, 0.5])
def test_embedding_dropout_takes_the_ids_of_what_was_embedded(rate):
    embedded, ids = torch.ones(STEPS, BATCH, 3), torch.zeros(STEPS, BATCH, dtype=torch.long)
    for other in (ids[0], ids[:, :1], ids.T):
        with pytest.raises(ValueError, match=r"found \(4, 6, 3\)"):
            embedding_dropout(embedded, other, TYPES, rate)
    for dtype in (torch.bool, torch.uint8, torch.float32):  # the first two would index as masks
        with pytest.raises(TypeError, match=str(dtype)):
            embedding_dropout(embedded, ids.to(dtype), TYPES, rate)


def test_drop_connect_takes_weights_of_one_shape():
    with pytest.raises(ValueError, match=re.escape("(50, 40): found (50, 1)")):
        drop_connect(0.5, torch.ones(50, 40), torch.ones(50, 1))
