"""Data sets in memory as streams of mini-batches."""

import pytest
import torch

from stn.streams import Shuffled

X, Y = torch.arange(10.0)[:, None], torch.arange(10)


def test_each_pass_has_every_example_once_in_an_order_of_its_own():
    stream = Shuffled((X, Y), 4)
    orders = []
    for epoch in range(3):
        inputs, targets = [], []
        for step in range(3):
            assert (stream.epochs, stream.steps) == (epoch, (step, 3))
            x, y = stream.next()
            assert torch.equal(x[:, 0], y.float()) and len(y) == (2 if step == 2 else 4)
            inputs.append(x)
            targets += y.tolist()
        assert sorted(targets) == list(range(10))
        orders.append(targets)
    assert len({*map(tuple, orders)}) == 3


def test_a_stream_goes_on_from_its_state():
    stream = Shuffled((X, Y), 4)
    stream.next()
    state = stream.state_dict()
    other = Shuffled((X, Y), 4)
    other.load_state_dict(state)
    assert torch.equal(stream.next()[1], other.next()[1])
    with pytest.raises(ValueError, match="of 10 examples, not of 9"):
        Shuffled((X[:9], Y[:9]), 4).load_state_dict(state)


@pytest.mark.parametrize(
    ("tensors", "batch_size", "words"),
    [
        ((X, Y[:3]), 4, r"\[3, 10\] examples"),
        ((X[:0],), 4, r"\[0\] examples"),
        ((X,), 0, "batch_size is 0"),
        ((X,), 2.5, "batch_size is 2.5"),
        (X, 4, "tuple of tensors"),
        ((X.numpy(), Y.numpy()), 4, "tuple of tensors"),
    ],
)
def test_what_is_no_data_set(tensors, batch_size, words):
    with pytest.raises((TypeError, ValueError), match=words):
        Shuffled(tensors, batch_size)


def test_a_seed_of_its_own_draws_the_orders_apart():
    """From the common generator nothing is drawn; the seed's orders are those of a generator that is seeded by it."""
    before = torch.get_rng_state()
    stream, again = Shuffled((X, Y), 4, seed=5), Shuffled((X, Y), 4, seed=5)
    orders = [torch.cat([stream.next()[1] for _ in range(3)]).tolist() for _ in range(3)]
    assert torch.equal(torch.get_rng_state(), before)
    generator = torch.Generator().manual_seed(5)
    assert orders == [torch.randperm(10, generator=generator).tolist() for _ in range(3)]
    again.next()
    state = again.state_dict()
    other = Shuffled((X, Y), 4, seed=6)
    other.load_state_dict(state)
    for _ in range(5):
        assert torch.equal(other.next()[1], again.next()[1])
    assert Shuffled((X, Y), 4, seed=5).another().order.tolist() != orders[0]
    assert "generator" not in Shuffled((X, Y), 4).state_dict()
