import math
from copy import deepcopy
from functools import reduce

import pytest
import torch
from event_files import numbered_from_0  # noqa: F401
from training_runs import (  # noqa: F401
    KINDS,
    Scripted,
    column,
    logged_steps,
    rows,
    stop_before,
    trainer_fixture,
    without_time,
)

from stn.bilevel import Loss, Score, Step
from stn.errors import Diverged, UserError
from stn.hyperparameters import Hyperparameters, Tuned
from stn.learning_rates import LearningRate, NonMonotonicDecay
from stn.runs.checkpoints import read_checkpoint
from stn.schedules import Constant
from stn.training import Plan, final_result, restore

NAN = math.nan


def halved(lr, nonmono=0, divisor=2.0, **settings):
    return NonMonotonicDecay(lr, divisor, nonmono, **settings)


def all_finite(state):
    if isinstance(state, dict):
        return all(map(all_finite, state.values()))
    if isinstance(state, list | tuple):
        return all(map(all_finite, state))
    return bool(state.isfinite().all()) if isinstance(state, torch.Tensor) else True


# Stand-ins: a method and a learning rate of one's own are classes of their own


class Walk:
    """A method without gradients: a weight step adds the learning rate to the weight, another takes 0.1 from λ."""

    def __init__(self):
        self.lr, self.rates, self.steps = None, [], {"train": 0, "valid": 0}

    @torch.no_grad()
    def weight_step(self, task, _):
        self.rates.append(self.lr)
        task.model.weight += self.lr
        return self._step(task, "train")

    @torch.no_grad()
    def hyper_step(self, task, hyper):
        hyper.unconstrained -= 0.1
        return self._step(task, "valid")

    def _step(self, task, split):
        batch = task.batch(split)
        self.steps[split] += 1
        zero = torch.zeros(())
        return Step(zero + self.steps[split], zero, zero, batch.targets)

    def set_learning_rate(self, value):
        self.lr = value

    def state_dict(self):
        return {"steps": dict(self.steps)}

    def load_state_dict(self, state):
        self.steps = dict(state["steps"])


class Told(LearningRate):
    """A learning rate that grows by 1 with each step and by 100 with each evaluation, and keeps what it is told."""

    def __init__(self, most=math.inf):
        super().__init__(0.0)
        self.most, self.told = most, []

    @property
    def too_low(self):
        return self.value >= self.most

    def after_step(self):
        self.value += 1
        self.told.append("step")

    def after_evaluation(self, loss, epochs):
        self.value += 100
        self.told.append((loss, epochs))

    def state_dict(self):
        return {"value": self.value, "told": list(self.told)}


# Alternation and counting


TRACES = [
    ({"warmup_steps": 2, "train_steps": 2, "val_steps": 1}, 3, "w w wwvE wwvE wwv wwvE"),
    ({"warmup_steps": 0, "train_steps": 1, "val_steps": 2}, 2, "wvv wvvE wvv wvvE wvv wvvE"),
    ({"warmup_steps": 4, "train_steps": 1, "val_steps": 1}, 2, "w wE w wE wv wvE"),
    ({"warmup_steps": 5, "train_steps": 3, "val_steps": 1}, 4, "w w w wE w wwwvE wwwv wwwvE"),
]


@pytest.mark.parametrize(("plan", "length", "trace"), TRACES)
@pytest.mark.parametrize("method", [None, Walk], ids=["STN", "Walk"])
def test_trace(trainer, plan, length, trace, method):
    task = Scripted(targets=[1] * length)
    done = trainer(task, method=method and method(), **plan)
    assert done.train() is True
    assert task.trace == trace.replace(" ", "")
    weight_steps, hyper_steps = (task.trace.count(kind) for kind in KINDS.values())
    assert (done.train_step, done.global_step, done.epoch) == (weight_steps, weight_steps + hyper_steps, 3)
    if method:
        assert done.method.steps == {"train": weight_steps, "valid": hyper_steps}
        assert done.hyper.unconstrained.item() == pytest.approx(-0.1 * hyper_steps)


def test_nothing_tuned_means_no_hyperparameter_steps(trainer, folder):
    task = Scripted(targets=[1, 1])
    trainer(task, tuned=False).train()
    assert task.trace == "wwE" * 3
    assert rows(folder, "val") == []


def test_without_tuning_an_epoch_is_evaluated_right_at_its_end(trainer, folder):
    task = Scripted()
    trainer(task, tuned=False, epochs=2, train_steps=2).train()
    assert task.trace == "wwwEwwwE"
    assert logged_steps(folder, "hyper/rate") == [1, 2, 3, 4, 5, 6]


def test_global_step_counts_both_kinds_and_train_step_one(trainer, folder):
    done = trainer(Scripted(), warmup_steps=2)
    done.train()
    assert column(folder, "val", "global_step") == [5, 8, 11, 14]
    assert column(folder, "val", "train_step") == [4, 6, 8, 10]
    assert (done.global_step, done.train_step) == (14, 10)
    assert logged_steps(folder, "valid/step_loss") == logged_steps(folder, "hyper/rate") == [5, 8, 11, 14]
    assert logged_steps(folder, "train/step_loss") == [1, 2, 3, 4, 6, 7, 9, 10, 12, 13]
    assert logged_steps(folder, "epoch/val_loss") == [5, 8, 14]


def test_rows_hold_the_values_of_their_step(trainer, folder):
    done = trainer(Scripted(val_losses=[3.0, 2.0]), epochs=2, stn={"hyper_lr": 0.1})
    done.train()
    rates = column(folder, "val", "rate")
    assert rates[0] == pytest.approx(torch.tensor(-0.1).sigmoid().item())  # Adam's first step is hyper_lr long
    assert rates == sorted(rates, reverse=True) and len(set(rates)) == 3
    last = rows(folder, "epoch")[-1]
    assert (last["rate"], last["other"], last["rate_scale"], last["lr"]) == (rates[-1], 2.0, 1.0, 1.0)
    assert (last["val_loss"], last["val_ppl"]) == (2.0, math.exp(2.0))
    assert column(folder, "epoch", "time") == sorted(column(folder, "epoch", "time"))


def test_scales_are_tuned_on_request_at_their_own_rate(trainer, folder):
    trainer(Scripted(), stn={"tune_scales": True, "scale_lr": 0.2, "entropy_weight": 1e3}, epochs=1).train()
    start = math.log(math.e - 1)  # softplus of it is 1
    after_two_steps = math.log1p(math.exp(start + 2 * 0.2))
    assert column(folder, "epoch", "rate_scale") == pytest.approx([after_two_steps], rel=0.01)


# The learning rate


def test_the_learning_rate_is_asked_after_each_weight_step_and_each_evaluation(trainer, folder):
    """The third weight step ends an epoch; the fourth, of the same alternation, comes before the evaluation."""
    learning_rate, method = Told(), Walk()
    task = Scripted(val_losses=[3.0, 2.0, 4.0])
    trainer(task, method=method, learning_rate=learning_rate).train()
    assert task.trace == "wwv wwvE wwvE wwv wwvE".replace(" ", "")
    step = "step"
    expected = [*[step] * 4, (3.0, 1), *[step] * 2, (2.0, 2), *[step] * 4, (4.0, 3)]
    assert learning_rate.told == expected
    assert method.rates == [0, 1, 2, 3, 104, 105, 206, 207, 208, 209]  # each step at the rate after the one before
    assert column(folder, "epoch", "lr") == [4, 106, 210]  # in force as the epoch ended
    assert task.model.weight.item() == sum(method.rates)


@pytest.mark.parametrize("stop_at", range(5))
def test_a_resume_restores_what_the_learning_rate_and_the_method_remember(trainer, folder, stop_at):
    whole = trainer(Scripted(), method=Walk(), learning_rate=Told())
    whole.train()
    expected, weight = without_time(folder, "val", "epoch"), whole.task.model.weight.item()
    trainer(Scripted(), method=Walk(), learning_rate=Told(), stop=stop_before(stop_at)).train()
    rest = trainer(Scripted(), method=Walk(), learning_rate=Told(), resume=True)
    assert rest.learning_rate.value == rest.learning_rate.told.count("step") + 100 * rest.epoch
    assert rest.learning_rate.told.count("step") == rest.method.steps["train"] == 2 * stop_at
    rest.train()
    assert without_time(folder, "val", "epoch") == expected
    assert rest.learning_rate.told == whole.learning_rate.told and rest.method.steps == whole.method.steps
    assert rest.task.model.weight.item() == weight


def test_the_learning_rate_ends_training(trainer):
    done = trainer(Scripted(), epochs=100, method=Walk(), learning_rate=Told(most=300))
    assert done.train() is True and done.epoch == 3


def test_weights_are_stepped_at_the_decayed_rate(trainer, folder):
    task = Scripted(targets=[1], val_losses=[1, 2, 3])
    trainer(task, epochs=3, learning_rate=halved(8.0), train_steps=1).train()
    assert task.model.weight.item() == 8 + 8 + 4
    assert column(folder, "epoch", "lr") == [8, 8, 4]


@pytest.mark.parametrize(
    ("nonmono", "milestones", "val_losses", "rates"),
    [
        (2, (), [5, 4, 3, 3.5, 3.2, 3.6, 2.9, 3.1, 1], [8, 8, 8, 8, 8, 8, 4, 4, 2]),
        (0, (3,), [1, 2, 3, 1, 1], [8, 8, 4, 2, 2]),
    ],
)
def test_the_learning_rate_logged_is_the_epochs(trainer, folder, nonmono, milestones, val_losses, rates):
    task = Scripted(targets=[1], val_losses=val_losses)
    learning_rate = halved(8.0, nonmono, milestones=milestones)
    trainer(task, epochs=len(val_losses), learning_rate=learning_rate, train_steps=1).train()
    assert column(folder, "epoch", "lr") == rates


def test_no_milestone_is_passed_unseen(trainer, folder):
    """Where an alternation is longer than an epoch."""
    task = Scripted(targets=[1], val_losses=[9 - epoch for epoch in range(9)])
    trainer(task, epochs=8, learning_rate=halved(8.0, 5, milestones=(3,)), train_steps=2).train()
    assert column(folder, "epoch", "epoch") == [1, 3, 5, 7]
    assert column(folder, "epoch", "lr") == [8, 8, 4, 4]


def test_a_learning_rate_below_the_least_ends_training(trainer, folder):
    task = Scripted(targets=[1], val_losses=[1, 2, 3, 4, 5])
    trainer(task, epochs=100, learning_rate=halved(8.0, divisor=4.0, lowest=1.0), train_steps=1).train()
    assert column(folder, "epoch", "lr") == [8, 8, 2]


# Patience, the best model


@pytest.mark.parametrize(
    ("val_losses", "evaluated"),
    [([3, 2, 2.5, 2.1, 1, 1], 4), ([3, 2, 2.5, 1.9, 1.9, 1.9, 1], 6), ([3, 3, 3, 3], 3)],
)
def test_patience_ends_training_without_a_new_best(trainer, folder, val_losses, evaluated):
    task = Scripted(targets=[1], val_losses=val_losses)
    assert trainer(task, epochs=100, patience=2, train_steps=1).train() is True
    assert column(folder, "epoch", "val_loss") == val_losses[:evaluated]


def test_the_best_model_is_kept(trainer, folder):
    task = Scripted(targets=[1], val_losses=[3, 2, 4, 2, 5])
    done = trainer(task, epochs=5, train_steps=1)
    done.train()
    rate = done.hyper.current()["rate"].item()
    assert done.recorder.progress.best == [True, True, False, False, False]
    assert done.best_loss == 2
    done.load_best()
    assert task.model.weight.item() == 2  # as after two steps
    assert done.hyper.current()["rate"].item() > rate
    assert read_checkpoint(folder).state["best"]["model"]["weight"].item() == 2


def test_a_new_best_model_is_saved_at_once(trainer, folder):
    """However rarely checkpoints are due; the checkpoint's counters are those after the evaluation."""
    saved = []
    task = Scripted(targets=[1], val_losses=[3, 4, 2])
    done = trainer(task, epochs=3, train_steps=1, checkpoint_seconds=1e9)
    done.stop = lambda: saved.append(read_checkpoint(folder).state["epoch"])
    done.train()
    assert saved == [0, 1, 1] and read_checkpoint(folder).state["epoch"] == 3


def test_without_a_best_model_the_current_one_stays(trainer):
    done = trainer(Scripted(), stop=stop_before(1))
    done.train()
    done.load_best()
    assert done.task.model.weight.item() == 2


@pytest.mark.parametrize(("clip", "weight"), [(math.inf, 3.0), (0.5, 1.5)])
def test_gradients_are_clipped_on_request(trainer, clip, weight):
    task = Scripted()
    trainer(task, epochs=1, stn={"clip": clip}, warmup_steps=3).train()
    assert task.model.weight.item() == pytest.approx(weight, rel=1e-5)


@pytest.mark.parametrize("momentum", [0.0, 0.5, 0.9])
def test_momentum(trainer, momentum):
    """Each step's gradient is −1: the n-th velocity is a geometric sum."""
    task = Scripted(targets=[1] * 6)
    trainer(task, tuned=False, epochs=1, stn={"momentum": momentum}, learning_rate=LearningRate(0.5)).train()
    velocities = [sum(momentum**age for age in range(step)) for step in range(1, 7)]
    assert task.model.weight.item() == pytest.approx(0.5 * sum(velocities))


def test_momentum_goes_on_after_a_stop(trainer):
    settings = {"epochs": 2, "stn": {"momentum": 0.9}}
    task = Scripted(targets=[1] * 6)
    trainer(task, **settings).train()
    trainer(Scripted(targets=[1] * 6), stop=stop_before(2), **settings).train()
    rest = Scripted(targets=[1] * 6)
    trainer(rest, resume=True, **settings).train()
    assert rest.model.weight.item() == task.model.weight.item()


# What is not finite


def spoiled_loss(_):
    return Loss(torch.tensor(NAN, requires_grad=True), torch.tensor(NAN), 1)


def spoiled_gradient(objective):
    return Loss((objective * 0).sqrt(), torch.tensor(1.0), 1)  # 0, with a gradient of 0·∞


@pytest.mark.parametrize(
    ("spoil", "val_losses", "step", "saved_at", "logged"),
    [
        ({"w7": spoiled_loss}, (), 10, 6, [3, 6, 9]),
        ({"w7": spoiled_gradient}, (), 10, 6, [3, 6, 9]),
        ({"v3": spoiled_loss}, (), 9, 4, [3, 6]),
        ({"v3": spoiled_gradient}, (), 9, 4, [3, 6]),
        ({}, [1.0, NAN], 12, 6, [3, 6, 9, 12]),
    ],
)
@pytest.mark.parametrize("fetched_steps", [1, 4, 1000])
def test_what_is_not_finite_stops_training(
    trainer, folder, monkeypatch, spoil, val_losses, step, saved_at, logged, fetched_steps
):
    monkeypatch.setattr("stn.recorder.FETCHED_STEPS", fetched_steps)
    task = Scripted(targets=[1] * 4, val_losses=val_losses, spoil=spoil)
    with pytest.raises(Diverged) as caught:
        trainer(task, epochs=5, checkpoint_seconds=0.0).train()
    assert f"at step {step} (loss " in str(caught.value)
    assert "; rate " in str(caught.value) and str(folder) in str(caught.value)
    assert column(folder, "val", "global_step") == logged
    assert column(folder, "epoch", "epoch") == [0]
    state = read_checkpoint(folder).state
    assert state["train_step"] == saved_at
    assert all_finite(state)


def test_weights_that_overflow_in_a_step_are_not_saved(trainer, folder):
    """At 1e38 a step, four of them pass the largest float32; gradients and losses are finite until the fifth."""
    with pytest.raises(Diverged):
        trainer(Scripted(), epochs=5, learning_rate=LearningRate(1e38), train_steps=1, checkpoint_seconds=0.0).train()
    assert all_finite(read_checkpoint(folder).state)


# Stop and resume


@pytest.mark.usefixtures("numbered_from_0")
@pytest.mark.parametrize("stop_at", range(9))
def test_a_stopped_run_goes_on_as_if_it_had_not_been(trainer, folder, stop_at):
    """Stopped before each alternation in turn, while both the rate and the learning rate change."""
    val_losses = [3.0, 2.0, 2.5, 2.2, 1.0]

    def make(**others):
        learning_rate = halved(1.0, nonmono=1, divisor=4.0)
        task = Scripted(val_losses=val_losses)
        return trainer(task, learning_rate=learning_rate, epochs=5, warmup_steps=3, patience=4, **others)

    def logs():
        tags = ("train/step_loss", "hyper/rate", "epoch/val_loss")
        return without_time(folder, "val", "epoch"), [logged_steps(folder, tag) for tag in tags]

    whole = make()
    whole.train()
    expected, weight = logs(), whole.task.model.weight.item()
    assert len(set(column(folder, "epoch", "lr"))) > 1
    whole.load_best()
    best = whole.task.model.weight.item()

    part = make(stop=stop_before(stop_at))
    assert part.train() is False
    assert read_checkpoint(folder).state["train_step"] == part.train_step  # no step is lost
    rest = make(resume=True)
    assert rest.train() is True
    assert logs() == expected
    assert rest.task.model.weight.item() == weight
    rest.load_best()
    assert rest.task.model.weight.item() == best


def test_random_numbers_go_on_after_a_stop(trainer):
    class Noisy(Scripted):
        def predict(self, batch, draw):
            return super().predict(batch, draw) * torch.rand(())

    settings = {"epochs": 2, "stn": {"lr": 1.0}}
    torch.manual_seed(3)
    task = Noisy()
    trainer(task, **settings).train()
    torch.manual_seed(3)
    trainer(Noisy(), stop=stop_before(1), **settings).train()
    torch.manual_seed(4)
    rest = Noisy()
    trainer(rest, resume=True, **settings).train()
    assert rest.model.weight.item() == task.model.weight.item()


def test_a_checkpoint_of_another_model_is_refused(trainer):
    done = trainer(Scripted(), stop=stop_before(0))
    done.train()
    other = Scripted()
    other.model = torch.nn.Linear(2, 1)
    with pytest.raises(UserError, match="another model"):
        trainer(other, resume=True)


@pytest.mark.parametrize(
    ("number", "words"),
    [
        ({"train_steps": 0}, "train_steps is 0"),
        ({"val_steps": -1}, "val_steps is -1"),
        ({"epochs": 1.5}, "epochs is 1.5"),
        ({"epochs": 0}, "epochs is 0"),
        ({"patience": 0}, "patience is 0"),
        ({"warmup_steps": -1}, "warmup_steps is -1"),
    ],
)
def test_a_plan_that_cannot_be(number, words):
    with pytest.raises(ValueError, match=words):
        Plan(**{"epochs": 3, **number})


@pytest.mark.parametrize("part", ["train_step", "epoch", "best_loss", "best"])
@pytest.mark.parametrize("value", ["x", -1, NAN, [1]])
def test_a_checkpoint_with_a_part_of_another_type_is_refused(trainer, part, value):
    fresh = trainer(Scripted())
    with pytest.raises(UserError, match="start a new run"):
        fresh.load_state_dict({**fresh.state_dict(), part: value})


def test_a_checkpoint_that_lacks_a_part_is_refused(trainer):
    fresh = trainer(Scripted())
    state = fresh.state_dict()
    for path in paths(state):
        damaged = deepcopy(state)
        *outer, name = path
        del reduce(lambda part, key: part[key], outer, damaged)[name]
        try:
            fresh.load_state_dict(damaged)
        except UserError as error:
            assert "start a new run" in str(error)
        else:
            # The task is a stand-in, and torch's optimizers do without some of theirs.
            assert path[0] in ("method", "streams") and path[1:], path


def paths(state, outer=()):
    """The path to every entry of dictionaries in dictionaries."""
    for name, value in state.items():
        yield (*outer, name)
        if isinstance(value, dict):
            yield from paths(value, (*outer, name))


# Schedules


class Clock:
    """A schedule whose value says when it was asked."""

    def at(self, step, epoch):
        return step + 100.0 * epoch


@pytest.mark.parametrize("tuned", [True, False])
def test_schedules_advance_with_each_weight_step(trainer, folder, tuned):
    """Also within an alternation that an epoch's end divides; each step's value is what is logged."""

    class Seeing(Scripted):
        def predict(self, batch, draw):
            if batch.kind == "w":
                seen.append(draw["clock"])
            return super().predict(batch, draw)

    seen = []
    rate = Tuned(0.5, range=(0, 1)) if tuned else Constant(0.5)
    trainer(Seeing(), sources={"rate": rate, "clock": Clock()}, epochs=2).train()
    assert seen[:6] == [0.0, 1.0, 2.0, 103.0, 104.0, 105.0]
    if not tuned:
        assert column(folder, "epoch", "clock") == [2.0, 105.0] and len(seen) == 6
    else:
        assert column(folder, "val", "clock") == [1.0, 103.0, 105.0]


# The result


class Asked(Scripted):
    """Scores by split, and by its weight."""

    def evaluate(self, split, _):
        return Score({"valid": 2.0, "test": 3.0}[split] + self.model.weight.item(), 0.5)


def test_the_result_is_of_validation_and_test():
    hyper = Hyperparameters(rate=Tuned(0.5, range=(0, 1)))
    assert final_result(Asked(), hyper) == {"val_loss": 2.0, "val_acc": 0.5, "test_loss": 3.0, "test_acc": 0.5}


def test_a_model_is_put_in_place_with_its_hyperparameters():
    task, hyper = Asked(), Hyperparameters(rate=Tuned(0.5, range=(0, 1)))
    state = {"model": {"weight": torch.tensor([[7.0]])}, "hyper": {**hyper.state_dict()}}
    state["hyper"]["unconstrained"] = torch.tensor([1.0])
    restore(task, hyper, state)
    assert task.model.weight.item() == 7.0
    assert hyper.current()["rate"].item() == pytest.approx(1 / (1 + math.exp(-1)))
