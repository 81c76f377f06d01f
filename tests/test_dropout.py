import math

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
