import json

import pytest

from stn.learning_rates import LearningRate, NonMonotonicDecay

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


# Checkpoints


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
