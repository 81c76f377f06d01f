import math
from copy import deepcopy
from functools import partial

import pytest
import torch
from only_once import OnlyOnce
from torch import nn

from stn.bilevel import Loss, Score, StreamTask, evaluate
from stn.dropout import dropout
from stn.errors import UserError
from stn.hypergradients.policies import HD, MARTHE, RTHO
from stn.hypergradients.search import PROBES, Probe, find_hyper_lr, recommended
from stn.hyperparameters import Hyperparameters, Tuned
from stn.layers import HyperLinear
from stn.learning_rates import LearningRate
from stn.methods import STN
from stn.recorder import Recorder
from stn.runs.folder import RunFolder
from stn.streams import Shuffled
from stn.training import Plan, Trainer

STEPS = 6


class Silent:
    def update(self, status):
        pass

    def epoch_ended(self, row, best):
        pass


class Regression(StreamTask):
    """With dropout, whose rate is tuned; it notes the weights before, and the inputs of, each weight step."""

    batch_size = 5

    def __init__(self):
        torch.manual_seed(0)
        self.model = nn.Sequential(HyperLinear(3, 6, 1), HyperLinear(6, 1, 1))
        inputs = torch.randn(2, 15, 3)
        targets = inputs.sum(-1, keepdim=True).sin()
        data = zip(inputs, targets, strict=True)
        self.streams = {split: Shuffled(pair, 5) for split, pair in zip(("train", "valid"), data, strict=True)}
        self.seen = []

    def predict(self, batch, draw):
        hidden = self.model[0](batch[0], draw.h).tanh()
        if self.model.training:
            mask = dropout(torch.ones_like(hidden), draw["rate"])
            self.seen.append((batch[0].clone(), mask, self.model[0].weight.detach().clone()))
            hidden = hidden * mask
        return self.model[1](hidden, draw.h)

    def loss(self, prediction, batch, draw):  # noqa: ARG002
        loss = (prediction - batch[1]).square().mean()
        return Loss(loss, loss.detach(), len(batch[1]))

    def evaluate(self, split, draw):
        inputs, targets = self.streams[split].tensors
        return Score((self.predict((inputs,), draw) - targets).square().mean().item())


@pytest.fixture(name="trainer")
def trainer_fixture(folder):
    """trainer(rate): a trainer that has taken a few steps of both kinds."""
    opened = []

    def make(rate, task=None, momentum=0.5):
        task = task or Regression()
        hyper = Hyperparameters(rate=Tuned(0.1, (0, 1)))
        for run in opened:
            run.close()
        opened.append(RunFolder.create(folder, {}, overwrite=True))
        method = STN(task.model, hyper, lr=0.01, momentum=momentum, tune_scales=True)
        made = Trainer(task, hyper, method, rate, Recorder(task, hyper, opened[-1], Silent()), Plan(9))
        for _ in range(2):
            made.alternate()
        task.seen.clear()
        return made

    yield make
    for run in opened:
        run.close()


def state(trainer):
    """All but the time that training took."""
    trainer.recorder.flush()
    found = deepcopy(trainer.state_dict())
    del found["recorder"]["elapsed"]
    found["learning_rate"]["way"] = [*found["learning_rate"].get("way", "").encode()]  # numbers, to be compared
    return found


RATES = {
    "hd": lambda: HD(0.02, hyper_lr=1e-3),
    "marthe": lambda: MARTHE(0.02, hyper_lr=1e-3, mu=0.9),
    "adaptive": lambda: MARTHE(0.02, hyper_lr=1e-3, mu=-1.0),
    "rtho": lambda: RTHO(0.02, hyper_lr=1e-3, products="differences"),
}


@pytest.mark.parametrize("name", RATES)
def test_the_trainer_ends_where_it_began(name, trainer):
    trainer = trainer(RATES[name]())
    before = state(trainer)
    find_hyper_lr(trainer, STEPS)
    torch.testing.assert_close(state(trainer), before, rtol=0, atol=0)
    rate = trainer.learning_rate
    assert rate.hyper_lr == 1e-3 and getattr(rate, "alpha", 0.0) == 0


@pytest.mark.parametrize("name", RATES)
def test_and_goes_on_as_without(name, trainer):
    ends = []
    for searched in (False, True):
        made = trainer(RATES[name]())
        if searched:
            find_hyper_lr(made, STEPS)
        for _ in range(3):
            made.alternate()
        made.recorder.flush()
        ends.append(state(made))
    torch.testing.assert_close(*ends, rtol=0, atol=0)


@pytest.mark.parametrize("name", RATES)
def test_each_probe_starts_from_the_same_state(name, trainer):
    """The same mini-batches and masks, and at first the same weights."""
    trainer = trainer(RATES[name]())
    seen, runs = trainer.task.seen, []

    def tell(probe):  # noqa: ARG001
        runs.append([*seen])
        seen.clear()

    find_hyper_lr(trainer, STEPS, tell=tell)
    assert len(runs) == PROBES + 1
    firsts = [run[0] for run in runs]
    assert all(all(map(torch.equal, first, firsts[0])) for first in firsts)
    assert not torch.equal(runs[0][-1][2], runs[1][-1][2])  # at the end their weights differ
    for run in runs:
        assert [inputs.tolist() for inputs, _, _ in run] == [inputs.tolist() for inputs, _, _ in runs[0]]


def test_probes_are_a_factor_of_ten_apart(trainer):
    told, made = [], trainer(RATES["marthe"]())
    lr = made.learning_rate.value
    probes = find_hyper_lr(made, STEPS, tell=told.append)
    assert told == probes and len(probes) == PROBES + 1
    constant, largest, *others = probes
    assert constant.value == 0 and constant.lr == lr
    for place, probe in enumerate(others):
        assert probe.value == pytest.approx(largest.value / 10 ** (place + 1))
    assert all(math.isfinite(probe.loss) and probe.lr > 0 for probe in probes)
    assert probes[-1].lr == pytest.approx(lr, rel=1e-4)
    assert max(probe.lr for probe in probes) > 1.1 * lr


def test_the_largest_changes_the_learning_rate_ten_times_over(trainer):
    """At the median size of the hypergradients at a constant learning rate."""
    rate = HD(0.02, hyper_lr=0.0)
    made = trainer(rate)
    before, slopes = deepcopy(made.state_dict()), []
    for _ in range(2):  # of two weight steps and one of the other kind
        made.on_step = lambda trainer: slopes.append(abs(trainer.learning_rate.slope))
        made.alternate()
    made.recorder.flush()
    made.on_step = lambda _: None
    made.load_state_dict(before)
    probes = find_hyper_lr(made, 4)
    # As the search looks once for each alternation, at its second weight step:
    assert probes[1].value * sum(slopes[1::2]) / 2 == pytest.approx(10 * 0.02)


def watch(trainer, do):
    """Have this done after each weight step, probes' as well; what ends that."""
    own = trainer.weight_step

    def weight_step():
        own()
        do(trainer)

    trainer.weight_step = weight_step
    return partial(setattr, trainer, "weight_step", own)


def test_probes_leave_no_trace_in_the_run(trainer, folder):
    made, told = trainer(RATES["marthe"]()), []
    made.on_step = told.append
    made.recorder.flush()
    before = {file: file.read_bytes() for file in folder.iterdir() if file.suffix == ".csv"}
    find_hyper_lr(made, STEPS)
    assert {file: file.read_bytes() for file in folder.iterdir() if file.suffix == ".csv"} == before and not told
    made.weight_step()
    assert told == [made]


def test_a_probe_takes_so_many_weight_steps(trainer):
    made = trainer(HD(0.02, hyper_lr=0.1))
    counts, done = [], []
    watch(made, lambda _: done.append(1))

    def tell(probe):  # noqa: ARG001
        counts.append(len(done))
        done.clear()

    find_hyper_lr(made, 6, tell=tell)
    assert {*counts} == {6}


def test_the_losses_are_those_of_training_on(trainer):
    """Their mean in the second half of six steps, of which an alternation takes two at once."""
    made = trainer(RATES["marthe"]())
    probe = find_hyper_lr(made, STEPS)[2]
    again, losses = trainer(RATES["marthe"]()), {}
    again.learning_rate.hyper_lr = probe.value
    for steps in range(2, STEPS + 1, 2):
        again.alternate()
        losses[steps] = evaluate(again.task, again.hyper, "valid").loss
    assert probe.lr == again.learning_rate.value
    assert probe.loss == pytest.approx((losses[4] + losses[6]) / 2, rel=1e-12)


class Breaks(Regression):
    """Its losses are not finite once the weights have gone far, as they do at a large learning rate."""

    def __init__(self):
        super().__init__()
        self.start = self.model[0].weight.detach().clone()

    def loss(self, prediction, batch, draw):
        found = super().loss(prediction, batch, draw)
        broken = (self.model[0].weight - self.start).norm() > 0.5
        return found._replace(objective=found.objective + (math.nan if broken else 0.0))


@pytest.mark.filterwarnings("ignore:a learning rate's hypergradient is not finite")
def test_probes_that_diverge_have_an_infinite_loss(trainer, monkeypatch):
    monkeypatch.setattr("stn.hypergradients.search.PROBES", 4)
    made = trainer(MARTHE(0.02, hyper_lr=1e-4, mu=1.0), Breaks())
    before = state(made)
    probes = find_hyper_lr(made, 20)
    losses = [probe.loss for probe in probes]
    assert math.inf in losses and not any(map(math.isnan, losses))
    assert recommended(probes).loss < math.inf
    torch.testing.assert_close(state(made), before, rtol=0, atol=0)


class Worthless(Regression):
    def evaluate(self, *_):
        return Score(math.nan)


def test_training_that_diverges_without_tuning_is_told(trainer):
    with pytest.raises(UserError, match="diverges at the constant learning rate: start at a lower one"):
        find_hyper_lr(trainer(RATES["hd"](), Worthless()), 2)


class Once(Regression):
    def predict(self, batch, draw):
        return OnlyOnce.apply(super().predict(batch, draw))


@pytest.mark.filterwarnings("ignore:the network cannot be differentiated twice")
def test_probes_fall_back_on_differences_each(trainer):
    """The trainer has taken no product yet when they begin, so that each finds out anew."""
    task, hyper = Once(), Hyperparameters(rate=Tuned(0.1, (0, 1)))
    made = trainer(MARTHE(0.02, hyper_lr=1e-3), task)
    fresh = Trainer(task, hyper, STN(task.model, hyper, lr=0.01), MARTHE(0.02, hyper_lr=1e-3), made.recorder, Plan(9))
    probes = find_hyper_lr(fresh, STEPS)
    assert all(math.isfinite(probe.loss) for probe in probes)
    for _ in range(3):
        fresh.alternate()
    assert fresh.learning_rate.way == "differences"


# alpha


def test_alpha_is_searched_for_at_the_hyper_lr(trainer):
    made = trainer(MARTHE(0.02, hyper_lr=1e-3, alpha=1e-6))
    before, seen = state(made), []
    stop = watch(made, lambda trainer: seen.append((trainer.learning_rate.alpha, trainer.learning_rate.hyper_lr)))
    probes = find_hyper_lr(made, STEPS, option="alpha")
    torch.testing.assert_close(state(made), before, rtol=0, atol=0)
    assert made.learning_rate.alpha == 1e-6
    alphas = []
    stop()
    watch(made, lambda trainer: alphas.append(trainer.learning_rate.alpha))
    # The hypergradients' size is that of the search for hyper_lr: 10 β / (η |∂E/∂η|) against 10 η / |∂E/∂η|.
    by_hyper_lr = find_hyper_lr(made, STEPS)
    rate = made.learning_rate
    assert probes[1].value == pytest.approx(by_hyper_lr[1].value * rate.hyper_lr / rate.value**2)
    assert probes[0] == by_hyper_lr[0]
    assert {*alphas[:STEPS]} == {0.0} and {*alphas[STEPS:]} == {1e-6}
    assert [alpha for alpha, _ in seen[::STEPS]] == [probe.value for probe in probes]
    assert {hyper_lr for _, hyper_lr in seen[:STEPS]} == {0.0}
    # The smallest alpha leaves hyper_lr about as it is.
    assert seen[-1][1] == pytest.approx(rate.hyper_lr, rel=1e-4) and rate.hyper_lr > 0


# Recommendation


def test_the_recommendation_has_the_lowest_loss():
    probes = [Probe(0.0, 0.1, 0.6), Probe(10.0, 5.0, math.inf), Probe(1.0, 0.3, 0.5), Probe(0.1, 0.2, 0.4)]
    assert recommended(probes) == probes[3]
    assert recommended(probes[:3]) == probes[2]


def test_a_learning_rate_that_ran_away_is_not_recommended():
    probes = [Probe(0.0, 0.1, 0.6), Probe(100.0, 11.0, 0.1), Probe(10.0, 9.0, 0.5), Probe(1.0, 0.0009, 0.1)]
    assert recommended(probes) == probes[2]
    assert recommended([probes[0], probes[1], probes[3], Probe(0.1, 0.1, math.inf)]) is None


def test_of_equal_losses_the_smallest_step_size():
    probes = [Probe(0.0, 0.1, 0.5), Probe(1.0, 0.3, 0.4), Probe(0.1, 0.2, 0.4)]
    assert recommended(probes) == probes[2]


# What is refused


def test_a_learning_rate_that_is_not_tuned_is_refused(trainer):
    with pytest.raises(UserError, match=r"the learning rate is not tuned: give one of stn\.HD, stn\.RTHO, stn\.MARTHE"):
        find_hyper_lr(trainer(LearningRate(0.1)))


def test_options_that_there_are_not_are_refused(trainer):
    with pytest.raises(UserError, match="the hyper_lr that alpha is to change is 0: start it above 0"):
        find_hyper_lr(trainer(MARTHE(0.02, hyper_lr=0.0)), option="alpha")
    made = trainer(RATES["hd"]())
    for option in ("alpha", "mu"):
        with pytest.raises(UserError, match=f"HD has no {option} to search for: give one of hyper_lr"):
            find_hyper_lr(made, option=option)


class Flat(Regression):
    def loss(self, prediction, batch, draw):
        return super().loss(0 * prediction, batch, draw)


def test_hypergradients_of_0_are_refused(trainer):
    made = trainer(RATES["marthe"](), Flat())
    before = state(made)
    with pytest.raises(UserError, match="the first steps' hypergradients are 0 or not finite: start at another"):
        find_hyper_lr(made, STEPS)
    torch.testing.assert_close(state(made), before, rtol=0, atol=0)
    assert made.learning_rate.hyper_lr == 1e-3
