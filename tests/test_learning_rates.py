import json
import math
import warnings

import pytest

from stn.learning_rates import (
    LearningRate,
    NonMonotonicDecay,
    Replayed,
    TorchSchedule,
    exponential,
    staircase,
    warm_restarts,
)
from stn.schedules import Replay

# Losses of the epochs, and the learning rates in force during each, from 8, halved.
NONMONO = [
    # 3.6 is worse than 3, which is more than two epochs ago; 3.2 is not worse than 4 and 5. So again 3.1.
    (2, [5, 4, 3, 3.5, 3.2, 3.6, 2.9, 3.1, 1], [8, 8, 8, 8, 8, 8, 4, 4, 2]),
    (2, [5, 5, 5, 5, 5], [8, 8, 8, 8, 8]),
    (0, [3, 2, 2.5, 2.4, 1], [8, 8, 8, 4, 2]),
]
MILESTONES = [
    ((1, 3), [3, 2, 1, 0.5, 0.2], [8, 4, 4, 2, 2]),
    ((3,), [1, 2, 3, 1, 1], [8, 8, 4, 2, 2]),  # at 2 for want of progress, at 3 for both reasons but once
    ((2, 9), [3, 2, 1, 0.5, 0.2], [8, 8, 4, 4, 4]),
]


def rates(learning_rate, losses):
    """The learning rates in force while each epoch trained."""
    found = []
    for epochs, loss in enumerate(losses, start=1):
        learning_rate.after_step()
        found.append(learning_rate.value)
        learning_rate.after_evaluation(loss, epochs)
    return found


def merity(losses, nonmono):
    """Where Merity et al. 2018, algorithm 1, triggers, written as there: t > n and v > min of logs[0 … t − n − 1]."""
    logs, triggered = [], []
    for loss in losses:
        t = len(logs)
        triggered.append(t > nonmono and loss > min(logs[: t - nonmono]))
        logs.append(loss)
    return triggered


# Constant


def test_a_constant_learning_rate_stays():
    learning_rate = LearningRate(3.0)
    assert rates(learning_rate, [1, 2, 3, 2, 9, 9]) == [3.0] * 6
    assert learning_rate.value == 3.0 and not learning_rate.too_low


@pytest.mark.parametrize(("value", "too_low"), [(0.5, True), (1.0, False), (2.0, False)])
def test_training_ends_below_the_lowest_and_not_at_it(value, too_low):
    assert LearningRate(value, lowest=1.0).too_low is too_low
    assert NonMonotonicDecay(value, 2.0, nonmono=1, lowest=1.0).too_low is too_low


# Decay


@pytest.mark.parametrize(("nonmono", "losses", "expected"), NONMONO)
def test_the_learning_rate_decays_without_progress(nonmono, losses, expected):
    assert rates(NonMonotonicDecay(8.0, 2.0, nonmono), losses) == expected


@pytest.mark.parametrize("nonmono", [0, 1, 3, 5])
def test_the_condition_is_the_published_one(nonmono):
    losses = [9, 7, 8, 6, 6.5, 6.2, 7, 5, 6, 5.5, 5.5, 4, 8, 3, 3, 3.1]
    learning_rate, decays = NonMonotonicDecay(1.0, 2.0, nonmono), []
    for epochs, loss in enumerate(losses, start=1):
        before = learning_rate.value
        learning_rate.after_evaluation(loss, epochs)
        assert learning_rate.value in (before, before / 2)
        decays.append(learning_rate.value < before)
    assert decays == merity(losses, nonmono) and any(decays) and not all(decays)


@pytest.mark.parametrize(("milestones", "losses", "expected"), MILESTONES)
def test_the_learning_rate_decays_at_milestones(milestones, losses, expected):
    assert rates(NonMonotonicDecay(8.0, 2.0, 0, milestones), losses) == expected


def test_no_milestone_is_passed_unseen():
    """Where epochs end between two evaluations; several at once divide once."""
    learning_rate, found = NonMonotonicDecay(8.0, 2.0, 5, milestones=(3, 5, 6)), []
    for epochs in (2, 4, 6, 8):
        learning_rate.after_evaluation(9.0 - epochs, epochs)
        found.append(learning_rate.value)
    assert found == [8, 4, 2, 2]


def test_it_becomes_too_low_where_it_falls_below_the_lowest():
    learning_rate, found = NonMonotonicDecay(8.0, 4.0, 0, lowest=1.0), []
    for epochs, loss in enumerate([1, 2, 3], start=1):
        learning_rate.after_evaluation(loss, epochs)
        found.append((learning_rate.value, learning_rate.too_low))
    assert found == [(8, False), (2, False), (0.5, True)]


# Rules of decay

STEPS = 6  # weight steps in an epoch


def follow(learning_rate, last, first=0):
    """The value at each weight step from `first` to before `last`."""
    found = []
    for step in range(first, last):
        found.append(learning_rate.value)
        learning_rate.after_step()
        if (step + 1) % STEPS == 0:
            learning_rate.after_evaluation(1.0, (step + 1) // STEPS)
    return found


def cosine(step, first, growth):
    """Loshchilov & Hutter 2017, equation 5, from 8 to 8e-4, with the period that the step lies in found by trial."""
    period = first
    while step >= period:
        step, period = step - period, period * growth
    return 8e-4 + (8 - 8e-4) * (1 + math.cos(math.pi * step / period)) / 2


RULES = {
    "staircase": (lambda: staircase(8.0, 3, 0.5), lambda step: 8 * 0.5 ** (step // STEPS // 3)),
    "exponential": (lambda: exponential(8.0, 0.9), lambda step: 8 * 0.9 ** (step // STEPS)),
    "warm restarts": (lambda: warm_restarts(8.0, 2 * STEPS), lambda step: cosine(step, 2 * STEPS, 1)),
    "growing periods": (lambda: warm_restarts(8.0, STEPS, 2), lambda step: cosine(step, STEPS, 2)),
}


@pytest.mark.parametrize(("make", "closed"), RULES.values(), ids=RULES.keys())
def test_rules_follow_their_closed_forms(make, closed):
    with warnings.catch_warnings(action="error"):
        found = follow(make(), 9 * STEPS)
    assert found == pytest.approx([closed(step) for step in range(9 * STEPS)], rel=1e-9)


@pytest.mark.parametrize("make", [make for make, _ in RULES.values()], ids=RULES.keys())
@pytest.mark.parametrize("stop", [0, 1, STEPS, 2 * STEPS + 3, 5 * STEPS])
def test_a_restored_rule_goes_on_as_the_first(make, stop):
    whole, part, rest = make(), make(), make()
    expected = follow(whole, 9 * STEPS)
    follow(part, stop)
    rest.load_state_dict(json.loads(json.dumps(part.state_dict())))  # plain numbers
    assert follow(rest, 9 * STEPS, stop) == expected[stop:]


def test_a_rule_sets_the_methods_learning_rate():
    class Method:
        def set_learning_rate(self, value):
            self.value = value

    method, rule = Method(), exponential(8.0, 0.5)
    rule.after_evaluation(1.0, 1)
    rule.apply(method)
    assert method.value == 4.0


def test_a_rule_ends_the_training_below_its_lowest():
    rule, found = exponential(8.0, 0.5, lowest=4.0), []
    for epochs in (1, 2):
        rule.after_evaluation(1.0, epochs)
        found.append(rule.too_low)
    assert found == [False, True]
    assert not warm_restarts(1e-9, 3).too_low


def test_a_rule_is_stepped_each_step_or_epoch_and_nothing_else():
    with pytest.raises(ValueError, match="cannot be stepped each 'batch'"):
        TorchSchedule(1.0, lambda optimizer: None, each="batch")  # noqa: ARG005


# Replay


def test_a_replay_goes_by_weight_step():
    """Its value is that which the weight step of that number took, interpolated between, and held at the end."""
    learning_rate = Replayed(Replay("step", [1, 3, 6], [8.0, 4.0, 1.0]))
    assert follow(learning_rate, 12) == [8, 6, 4, 3, 2, 1, 1, 1, 1, 1, 1, 1]


def test_a_replay_goes_by_epoch():
    learning_rate = Replayed(Replay("epoch", [0, 2], [8.0, 4.0]))
    assert follow(learning_rate, 4 * STEPS) == [8.0] * 2 * STEPS + [4.0] * 2 * STEPS


def test_a_replay_never_ends_the_training_and_is_followed_in_the_tables():
    learning_rate = Replayed(Replay("epoch", [0], [1e-12]))
    assert not learning_rate.too_low and learning_rate.tuned
    assert learning_rate.columns() == {"lr": 1e-12, "hyper_lr": 0.0}


# Checkpoints


@pytest.mark.parametrize("stop", [0, 1, STEPS, STEPS + 2])
@pytest.mark.parametrize("by", ["step", "epoch"])
def test_a_restored_replay_goes_on_as_the_first(by, stop):
    def new():
        return Replayed(Replay(by, [0, 1, 2, 9], [8.0, 4.0, 2.0, 1.0]))

    whole, part, rest = new(), new(), new()
    expected = follow(whole, 3 * STEPS)
    follow(part, stop)
    rest.load_state_dict(json.loads(json.dumps(part.state_dict())))
    assert follow(rest, 3 * STEPS, stop) == expected[stop:]


@pytest.mark.parametrize("stop", range(10))
def test_a_restored_one_goes_on_as_the_first(stop):
    losses = NONMONO[0][1]

    def new(value):
        return NonMonotonicDecay(value, 2.0, nonmono=2, milestones=(2, 7), lowest=0.5)

    whole, part, rest = new(8.0), new(8.0), new(1.0)
    expected = rates(whole, losses)
    found = rates(part, losses[:stop])
    state = json.loads(json.dumps(part.state_dict()))  # plain numbers
    rest.load_state_dict(part.state_dict())
    for epochs, loss in enumerate(losses[stop:], start=stop + 1):
        found.append(rest.value)
        rest.after_evaluation(loss, epochs)
    assert found == expected and rest.value == whole.value
    assert rest.state_dict() == whole.state_dict()
    assert part.state_dict() == state  # what the restored one learns is not the other's


def test_a_constant_one_is_restored():
    rest = LearningRate(1.0, lowest=0.25)
    rest.load_state_dict(LearningRate(3.0).state_dict())
    assert (rest.value, rest.lowest) == (3.0, 0.25)
