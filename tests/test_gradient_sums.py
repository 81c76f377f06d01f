"""Sums of gradients over ranks: in buckets, begun when complete, in one order; here of two ranks that have the same."""

import pytest
import torch
from torch import nn

from stn import gradient_sums
from stn.gradient_sums import GradientSum, bucketed
from stn.methods import Update
from stn.ranks import LostRank, Ranks

WEIGHT_BYTES = 4 * 4 * 4
ranks = Ranks(rank=0, size=2)


class Work:
    def wait(self):
        pass


@pytest.fixture
def sums(monkeypatch):
    """The sizes of what has been summed so far, over two ranks that have the same gradients."""
    sizes = []

    def all_reduce(tensor, async_op):
        assert async_op
        sizes.append(tensor.numel())
        tensor.mul_(2)
        return Work()

    monkeypatch.setattr(gradient_sums.dist, "all_reduce", all_reduce)
    monkeypatch.setattr(gradient_sums, "BUCKET_BYTES", WEIGHT_BYTES)
    return sizes


@pytest.fixture
def net():
    return nn.Sequential(nn.Linear(4, 4), nn.Tanh(), nn.Linear(4, 4))


def gradients_of(net, passes=1):
    """Those of so many backward passes on the same data, in one process."""
    loss = passes * net(torch.ones(3, 4)).square().mean()
    return [2 * own for own in torch.autograd.grad(loss, [*net.parameters()])]


def assert_summed(net, expected):
    for parameter, gradient in zip(net.parameters(), expected, strict=True):
        torch.testing.assert_close(parameter.grad, gradient)


def test_buckets_hold_every_parameter_once_last_ones_first(net, monkeypatch):
    monkeypatch.setattr(gradient_sums, "BUCKET_BYTES", WEIGHT_BYTES)
    first, bias, second, last = net.parameters()
    assert [[*map(id, bucket)] for bucket in bucketed(net.parameters())] == [
        *([id(last)], [id(second)], [id(bias)], [id(first)])
    ]
    monkeypatch.setattr(gradient_sums, "BUCKET_BYTES", 10 * WEIGHT_BYTES)
    assert [[*map(id, bucket)] for bucket in bucketed(net.parameters())] == [[*map(id, (last, second, bias, first))]]


def test_a_bucket_is_of_one_type(net):
    others = nn.Linear(2, 2, dtype=torch.float64)
    buckets = bucketed([*net.parameters(), *others.parameters()])
    assert sorted(len(bucket) for bucket in buckets) == [2, 4]
    assert all(len({parameter.dtype for parameter in bucket}) == 1 for bucket in buckets)


@pytest.mark.parametrize("overlap", [True, False])
@pytest.mark.parametrize("weights", [1, 10])
def test_gradients_are_sums(net, sums, monkeypatch, overlap, weights):
    monkeypatch.setattr(gradient_sums, "BUCKET_BYTES", weights * WEIGHT_BYTES)
    expected = gradients_of(net)
    total = GradientSum(net.parameters(), ranks, overlap)
    for _ in range(2):
        net.zero_grad()
        total.expect()
        net(torch.ones(3, 4)).square().mean().backward()
        assert bool(sums) == overlap
        total.finish()
        assert_summed(net, expected)
        assert sum(sums) == 40
        sums.clear()


def test_only_the_last_backward_pass_of_a_step_is_followed_by_sums(net, sums):
    expected = gradients_of(net, passes=2)
    total = GradientSum(net.parameters(), ranks)
    net(torch.ones(3, 4)).square().mean().backward()
    assert not sums
    total.expect()
    net(torch.ones(3, 4)).square().mean().backward()
    total.finish()
    assert_summed(net, expected)


def test_a_gradient_that_is_not_contiguous_is_summed(sums):
    layer, images = nn.Conv2d(3, 4, 3, bias=False).to(memory_format=torch.channels_last), torch.randn(2, 3, 8, 8)
    total = GradientSum(layer.parameters(), ranks)
    layer(images.to(memory_format=torch.channels_last)).square().mean().backward()
    expected = 2 * layer.weight.grad
    assert not layer.weight.grad.is_contiguous()
    total.finish()
    torch.testing.assert_close(layer.weight.grad, expected)
    assert sum(sums) == expected.numel()


def test_parameters_without_a_gradient_stay_so(net, sums):
    """Those that are not trained at all, such as scales, and those of a layer that is held for a while."""
    first, bias, *rest = net.parameters()
    first.requires_grad_(False)
    total = GradientSum(net.parameters(), ranks)
    bias.requires_grad_(False)
    total.expect()
    net(torch.ones(3, 4)).square().mean().backward()
    assert len(sums) == 2  # at once
    total.finish()
    assert sum(sums) == 20 and first.grad is bias.grad is None
    assert all(parameter.grad is not None for parameter in rest)


def test_a_gradient_that_comes_later_is_summed_too(net, sums):
    """Of a parameter that was held when the sums were set up."""
    net[0].weight.requires_grad_(False)
    total = GradientSum(net.parameters(), ranks)
    net[0].weight.requires_grad_(True)
    expected = gradients_of(net)
    total.expect()
    net(torch.ones(3, 4)).square().mean().backward()
    total.finish()
    assert_summed(net, expected)
    assert sum(sums) == 40


@pytest.mark.parametrize("overlap", [True, False])
def test_a_rank_that_has_ended_is_told_wherever_a_sum_begins(net, monkeypatch, overlap):
    def all_reduce(*_, **__):
        raise RuntimeError("Connection closed by peer")

    monkeypatch.setattr(gradient_sums.dist, "all_reduce", all_reduce)
    total = GradientSum(net.parameters(), ranks, overlap)
    total.expect()
    with pytest.raises(LostRank):
        net(torch.ones(3, 4)).square().mean().backward()
        total.finish()


def test_an_update_clips_what_is_summed_and_weighs_its_part(net, sums):  # noqa: ARG001
    """Two objectives, of which each rank has a quarter: the norm is that of their mean's gradient, over ranks."""
    expected = gradients_of(net)
    norm = 0.25 * torch.cat([own.flatten() for own in expected]).norm()
    seen = []
    update = Update(torch.optim.SGD(net.parameters(), 0.0), clip=norm.item() / 2)
    update.sum_over_ranks = GradientSum(update.parameters, ranks)
    update.watchers.append(lambda parameters: seen.extend(own.grad.clone() for own in parameters))
    update.begin()
    for _ in range(2):
        update.add(net(torch.ones(3, 4)).square().mean(), 2, part=0.25)
    torch.testing.assert_close(update.end(), norm)
    for gradient, own in zip(seen, expected, strict=True):
        torch.testing.assert_close(gradient, own * 0.125, rtol=1e-4, atol=1e-6)
