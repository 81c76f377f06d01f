import pytest
import torch
from torch import nn
from torch.testing import assert_close

from lstm.hyperparameters import TABLE
from lstm.model import AWDLSTM
from lstm.task import LanguageModeling
from stn.bilevel import Loss, StreamTask
from stn.conversion import convert
from stn.datasets.text import Corpus
from stn.delta_stn import DeltaSTN
from stn.dropout import dropout
from stn.hypergradients.replay import Recorded, kept_random_state
from stn.hyperparameters import Hyperparameters, Tuned
from stn.layers import HyperLinear
from stn.loaders import LoaderTask
from stn.methods import STN
from stn.streams import Shuffled

METHODS = pytest.mark.parametrize("method", [STN, DeltaSTN])


class Regression(StreamTask):
    """With batch normalization, and dropout whose rate is tuned."""

    batch_size = 6

    def __init__(self):
        self.model = nn.Module()
        self.model.hidden, self.model.out, self.model.norm = (
            HyperLinear(3, 8, 1),
            HyperLinear(8, 2, 1),
            nn.BatchNorm1d(8),
        )
        for layer in (self.model.hidden, self.model.out):
            nn.init.normal_(layer.gate)
        self.streams = {
            split: Shuffled((torch.randn(24, 3), torch.randn(24, 2)), self.batch_size) for split in ("train", "valid")
        }

    def predict(self, batch, draw):
        hidden = self.model.norm(self.model.hidden(batch[0], draw.h)).tanh()
        return self.model.out(dropout(hidden, draw["rate"]) if self.model.training else hidden, draw.h)

    def loss(self, prediction, batch, draw):  # noqa: ARG002
        loss = (prediction - batch[1]).square().mean()
        return Loss(loss, loss.detach(), len(batch[1]))


def replayed(recorded, method, hyper):
    """A weight step's own gradients, those computed again right before its update, and the random numbers' states."""
    update, found = method.main_update, {}

    def watch(parameters):
        own = [torch.zeros_like(one) if one.grad is None else one.grad.clone() for one in parameters]
        before = torch.get_rng_state()
        again = recorded.gradients(parameters)
        found.update(own=own, again=again, random=(before, torch.get_rng_state()), passes=len(recorded.passes))
        recorded.end()

    update.watchers.append(watch)
    recorded.begin()
    method.weight_step(recorded, hyper)
    return found


def hyper_for(method):
    return Hyperparameters(rate=Tuned(0.4, (0, 1), feed="centred" if method is DeltaSTN else "unconstrained"))


@METHODS
@pytest.mark.parametrize("accumulate", [1, 3])
@pytest.mark.usefixtures("double")
def test_the_same_gradients_again(method, accumulate):
    task, hyper = Regression(), hyper_for(method)
    recorded, method = Recorded(task), method(task.model, hyper, lr=0.1, accumulate=accumulate)
    for _ in range(2):
        found = replayed(recorded, method, hyper)
        assert found["passes"] == accumulate
        for own, again in zip(found["own"], found["again"], strict=True):
            assert own.any() and torch.allclose(own, again, rtol=1e-12, atol=1e-15)
        assert torch.equal(*found["random"])
        method.main_update.watchers.clear()


@METHODS
def test_a_step_that_is_replayed_is_the_step_without(method):
    ends = []
    for replay in (False, True):
        torch.manual_seed(0)
        task, hyper = Regression(), hyper_for(method)
        made = method(task.model, hyper, lr=0.1)
        if replay:
            replayed(Recorded(task), made, hyper)
        else:
            made.weight_step(task, hyper)
        ends.append({**task.model.state_dict(), "random": torch.get_rng_state()})
    assert_close(*ends, rtol=0, atol=0)


def test_nothing_is_kept_of_passes_that_are_not_asked_for():
    task, hyper = Regression(), hyper_for(STN)
    recorded, method = Recorded(task), STN(task.model, hyper, lr=0.1)
    method.weight_step(recorded, hyper)
    assert recorded.passes == []
    recorded.begin()
    method.weight_step(recorded, hyper)
    assert len(recorded.passes) == 1
    recorded.begin()  # of the next step
    method.weight_step(recorded, hyper)
    assert len(recorded.passes) == 1
    recorded.end()
    method.weight_step(recorded, hyper)
    assert recorded.passes == []


def test_weights_as_they_are_now():
    """The gradients are not those of the weights at the time of the pass."""
    task, hyper = Regression(), hyper_for(STN)
    recorded, parameters = Recorded(task), [*task.model.parameters()]
    recorded.begin()
    STN(task.model, hyper, lr=0.1).weight_step(recorded, hyper)
    once, again = recorded.gradients(parameters), recorded.gradients(parameters)
    assert all(map(torch.equal, once, again))
    with torch.no_grad():
        task.model.out.bias += 1
    assert not torch.allclose(recorded.gradients(parameters)[-1], once[-1])


def test_parameters_without_a_part_have_zeros():
    task, hyper = Regression(), hyper_for(STN)
    task.model.hidden.weight.requires_grad_(False)
    unused = nn.Parameter(torch.ones(2))
    recorded = Recorded(task)
    recorded.begin()
    STN(task.model, hyper, lr=0.1).weight_step(recorded, hyper)
    first, second, third = recorded.gradients([task.model.hidden.weight, unused, task.model.out.weight])
    assert first.shape == (8, 3) and not first.any() and not second.any() and third.any()


# Products of matrices in float32


def language_modeling(dtype):
    torch.manual_seed(0)
    hyper = Hyperparameters(**{name: Tuned(0.3, own.range, per_example=own.per_example) for name, own in TABLE.items()})
    model = AWDLSTM(12, 6, 5, 2, hyper.num_tuned, dtype)
    words = [torch.randint(12, (90,)) for _ in range(3)]
    return LanguageModeling(model, Corpus(*words, tuple(map(str, range(12))), ""), 3, 7), hyper


def loaders(dtype):
    torch.manual_seed(0)
    hyper = Hyperparameters(rate=Tuned(0.3, (0, 1)))
    layers = nn.Sequential(nn.Linear(5, 16), nn.Tanh(), nn.Dropout(0.2), nn.Linear(16, 3))
    net = convert(layers, hyper, dropout={"*": "rate"})
    batches = {split: [(torch.randn(6, 5), torch.randn(6, 3))] for split in ("train", "valid")}
    return LoaderTask(net, nn.MSELoss(), batches, autocast=None if dtype == torch.float32 else dtype), hyper


@pytest.mark.parametrize("made", [language_modeling, loaders])
def test_products_are_of_float32_where_training_rounds_them(made):
    found = []
    for dtype in (torch.bfloat16, torch.float32):
        task, hyper = made(dtype)
        found.append(replayed(Recorded(task), STN(task.model, hyper, lr=0.1), hyper))
    rounded, whole = found
    assert all(map(torch.equal, rounded["again"], whole["again"]))
    assert not all(map(torch.allclose, rounded["own"], whole["own"]))


# A task like the one it remembers of


def test_all_else_is_the_tasks_own():
    task = Regression()
    recorded = Recorded(task)
    recorded.batch("train")
    assert recorded.model is task.model and recorded.batch_size == 6 and recorded.likelihood
    assert recorded.position == task.position == (1, 4) and recorded.epochs == 0
    assert recorded.state_dict().keys() == task.state_dict().keys()
    with pytest.raises(AttributeError, match="no_such_thing"):
        recorded.no_such_thing  # noqa: B018


def test_random_numbers_within_leave_no_trace():
    expected = torch.Generator().manual_seed(3)
    torch.manual_seed(3)
    with pytest.raises(ValueError), kept_random_state():
        torch.rand(5)
        raise ValueError
    assert torch.equal(torch.rand(4), torch.rand(4, generator=expected))
