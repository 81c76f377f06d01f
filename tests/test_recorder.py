import math
from itertools import pairwise

import pytest
import torch
from event_files import scalars
from training_runs import (  # noqa: F401
    Graded,
    Screen,
    Scripted,
    column,
    logged_steps,
    rows,
    stop_before,
    trainer_fixture,
    without_time,
)

from stn import recorder
from stn.bilevel import Loss, Score, Step
from stn.errors import UserError
from stn.hyperparameters import Hyperparameters, Tuned
from stn.learning_rates import LearningRate
from stn.recorder import FETCHED_STEPS, Diverged, Recorder
from stn.runs.folder import RunFolder
from stn.schedules import Constant


@pytest.fixture
def recording(folder):
    """recording(**settings): a recorder of its own, and the functions that take steps of either kind."""
    with RunFolder.create(folder, {}) as run:

        def make(**settings):
            hyper = Hyperparameters(rate=Tuned(0.5, range=(0, 1)), other=Constant(2.0))
            return Recorder(Scripted(), hyper, run, Screen(), **settings)

        yield make


class Steps:
    """Steps of both kinds in a row, counted as the loop counts them."""

    def __init__(self, recorder):
        self.recorder, self.counts = recorder, {"train": 0, "valid": 0}

    def __call__(self, kind, loss=1.0, targets=1, penalty=0.0, health=0.0, accuracy=None, ends_epoch=False):
        self.counts[kind] += 1
        loss, penalty, health = (torch.tensor(float(number)) for number in (loss, penalty, health))
        step = Step(loss, penalty, health, targets, accuracy if accuracy is None else torch.tensor(accuracy))
        self.recorder.step(kind, step, sum(self.counts.values()), self.counts["train"], ends_epoch=ends_epoch)


# Fetching


def test_numbers_are_fetched_in_groups(recording, folder, monkeypatch):
    """One transfer for so many steps, and nothing is logged or shown before it; a flush fetches what is left."""
    fetched, tolist = [], torch.Tensor.tolist
    kept = recording()
    monkeypatch.setattr(torch.Tensor, "tolist", lambda tensor: fetched.append(tensor.shape) or tolist(tensor))
    steps = Steps(kept)
    for _ in range(FETCHED_STEPS - 1):
        steps("valid")
    assert fetched == [] and rows(folder, "val") == [] and kept.progress.statuses == []
    steps("valid")
    assert [shape[0] for shape in fetched] == [FETCHED_STEPS] == [10]
    assert column(folder, "val", "global_step") == list(range(1, 11)) and len(kept.progress.statuses) == 1
    steps("valid")
    kept.flush()
    kept.flush()  # nothing is left
    assert [shape[0] for shape in fetched] == [10, 1] and len(kept.progress.statuses) == 2
    assert column(folder, "val", "global_step") == list(range(1, 12))


def test_values_are_those_of_each_step_though_fetched_later(recording, folder):
    kept = recording()
    steps = Steps(kept)
    for value in (-1.0, 0.0, 1.0):
        kept.hyper.unconstrained.data.fill_(value)
        steps("valid")
    kept.hyper.unconstrained.data.fill_(9.0)
    kept.flush()
    assert column(folder, "val", "rate") == pytest.approx([1 / (1 + math.exp(-x)) for x in (-1, 0, 1)])
    assert kept.values == pytest.approx({"rate": 1 / (1 + math.exp(-1)), "other": 2.0, "rate_scale": 1.0})


@pytest.mark.parametrize("fetched_steps", [1, 2, 10])
@pytest.mark.parametrize("health", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("kind", ["train", "valid"])
def test_a_step_that_is_not_finite_is_told_with_the_values_before_it(
    recording, folder, monkeypatch, fetched_steps, health, kind
):
    monkeypatch.setattr(recorder, "FETCHED_STEPS", fetched_steps)
    kept = recording()
    steps = Steps(kept)
    with pytest.raises(Diverged) as caught:
        steps("valid")
        kept.hyper.unconstrained.data.fill_(math.nan)  # what such a step leaves
        steps(kind, loss=2.5, health=health)
        steps("valid")
        kept.flush()
    assert str(caught.value) == (
        f"the {kind} loss or its gradient is not finite at step 2 (loss 2.5; rate 0.5, other 2, rate_scale 1): start "
        "anew with a lower learning rate or a smaller gradient clip; no epoch has ended, so that there is no model to "
        "fall back on"
    )
    assert column(folder, "val", "global_step") == [1]


@pytest.mark.parametrize("resumed", [False, True])
def test_a_run_that_diverges_later_says_where_its_best_model_is(recording, folder, resumed):
    kept = recording()
    steps = Steps(kept)
    for epoch, best in enumerate((False, True, False)):
        steps("train", ends_epoch=True)
        kept.flush()
        kept.task.counts["w"] = 3 * (epoch + 1)
        kept.epoch(Score(3.0 - epoch), epoch, {"lr": 1.0}, best)
    if resumed:
        state, kept = kept.state_dict(), recording()
        kept.load_state_dict(state)
    message = str(kept.diverged("train", math.nan, 7))
    assert message.endswith(f"the best model so far, of epoch 1, is in {folder}")


def test_what_library_runs_record_of_their_hyperparameters(recording):
    kept = recording()
    assert kept.run.settings == {"hyperparameters": ["rate", "other"], "ranges": {"rate": [0, 1]}}


@pytest.mark.parametrize(
    "name", ["time", "epoch", "lr", "hyper_lr", "mu", "val_acc", "train_loss", "train_step", "rate_scale"]
)
def test_a_hyperparameter_with_the_name_of_another_column_is_refused(folder, name):
    hyper = Hyperparameters(rate=Tuned(0.5, range=(0, 1)), **{name: Constant(1.0)})
    with RunFolder.create(folder, {}) as run, pytest.raises(UserError, match=f"cannot be called {name}"):
        Recorder(Scripted(), hyper, run, Screen())


# What is logged, and when


def test_scalars_of_a_step(recording, folder):
    steps = Steps(recording())
    steps("train", loss=2.0, penalty=0.5)
    steps("valid", loss=3.0, penalty=-0.25, accuracy=0.75)
    steps.recorder.flush()
    steps.recorder.run.close()
    found = scalars(folder)
    assert found["train/step_loss"] == [(1, 2.0)] and found["train/step_penalty"] == [(1, 0.5)]
    assert found["train/step_ppl"] == [(1, pytest.approx(math.exp(2)))]
    assert found["valid/step_loss"] == [(2, 3.0)] and found["valid/step_penalty"] == [(2, -0.25)]
    assert found["valid/step_acc"] == [(2, 0.75)] and "valid/step_ppl" not in found
    assert found["hyper/rate"] == [(2, 0.5)] and found["hyper/other"] == [(2, 2.0)]


@pytest.mark.parametrize(("train", "valid"), [(1, 1), (2, 3), (5, 4)])
def test_each_kind_is_logged_at_its_own_interval(recording, folder, train, valid):
    """Counted in steps of its own kind."""
    steps = Steps(recording(train_interval=train, valid_interval=valid))
    at = {"train": [], "valid": []}
    for number, letter in enumerate("wwwvwvvwwvwvwwvvwwwv", start=1):
        kind = {"w": "train", "v": "valid"}[letter]
        steps(kind)
        if steps.counts[kind] % {"train": train, "valid": valid}[kind] == 0:
            at[kind].append(number)
    steps.recorder.flush()
    steps.recorder.run.close()
    assert logged_steps(folder, "train/step_loss") == at["train"]
    assert column(folder, "val", "global_step") == logged_steps(folder, "valid/step_loss") == at["valid"]


def test_means_are_over_targets_since_the_row_before(recording, folder):
    steps = Steps(recording(train_interval=2, valid_interval=1, average=True))
    for loss, targets, accuracy in ((1.0, 3, 0.0), (2.0, 1, 1.0), (8.0, 1, 0.5), (9.0, 1, 0.5)):
        steps("train", loss, targets, accuracy=accuracy)
        steps("valid", 10 * loss, targets, accuracy=accuracy)
    steps.recorder.flush()
    assert column(folder, "train", "loss") == [5 / 4, 17 / 2] and column(folder, "train", "acc") == [1 / 4, 1 / 2]
    assert column(folder, "valid", "loss") == [10, 20, 80, 90]
    assert column(folder, "train", "train_step") == [2, 4] and column(folder, "train", "global_step") == [3, 7]
    assert rows(folder, "val") == []


def test_the_status_is_of_the_epoch_so_far(recording):
    steps = Steps(recording())
    steps("train", 1.0, 30)
    steps("train", 4.0, 10, ends_epoch=True)
    steps("train", 7.0, 5)
    steps("valid", 99.0, 5)
    steps("train", 8.0, 15)
    steps.recorder.flush()
    (status,) = steps.recorder.progress.statuses
    assert status.score == Score((7 * 5 + 8 * 15) / 20) and status.speed > 0
    assert (status.epoch, status.position, status.length) == (0, 0, 3)
    assert steps.recorder.ended_score.mean() == Score((30 + 40) / 40)


def test_an_epoch_is_told_as_it_is_logged(recording, folder):
    steps = Steps(recording())
    steps("train", 1.0, 30, accuracy=0.5)
    steps("train", 3.0, 10, accuracy=0.1, ends_epoch=True)
    steps.recorder.task.counts["w"] = 3
    steps.recorder.flush()
    steps.recorder.epoch(Score(2.0, 0.25), 2, {"lr": 0.125}, best=True)
    (row,) = rows(folder, "epoch")
    screen = steps.recorder.progress
    assert screen.best == [True] and screen.rows == [row]
    del row["time"]
    assert row == pytest.approx({
        "epoch": 0, "train_loss": 1.5, "val_loss": 2.0, "train_acc": 0.4, "val_acc": 0.25,
        "rate": 0.5, "other": 2.0, "rate_scale": 1.0, "lr": 0.125,
    })  # fmt: skip
    steps.recorder.run.close()
    found = scalars(folder)
    assert found["epoch/lr"] == [(2, 0.125)] and found["epoch/targets_per_second"][0][1] > 0
    assert "epoch/time" not in found


def test_an_epochs_speed_is_without_the_evaluations(recording, folder, monkeypatch):
    now = [0.0]
    monkeypatch.setattr(recorder.time, "perf_counter", lambda: now[0])
    kept = recording()
    steps = Steps(kept)
    for number in (1, 2):
        now[0] += 4.0
        steps("train", targets=40, ends_epoch=True)
        now[0] += 100.0  # the evaluation
        kept.flush()
        kept.epoch(Score(2.0), number, {"lr": 1.0}, best=False)
    kept.run.close()
    assert [value for _, value in scalars(folder)["epoch/targets_per_second"]] == [10.0, 10.0]
    assert column(folder, "epoch", "time") == [104.0, 208.0]


# In the loop


def test_rows_at_the_intervals(trainer, folder):
    trainer(Scripted(), log={"train_interval": 3, "valid_interval": 3}, warmup_steps=2).train()
    assert column(folder, "val", "global_step") == [11]
    assert logged_steps(folder, "train/step_loss") == [3, 7, 12]


def test_columns(trainer, folder):
    trainer(Scripted(), epochs=1).train()
    assert list(rows(folder, "val")[0]) == ["global_step", "time", "rate", "other", "train_step"]
    assert list(rows(folder, "epoch")[0]) == [
        "epoch", "time", "train_loss", "val_loss", "train_ppl", "val_ppl", "rate", "other", "rate_scale", "lr"
    ]  # fmt: skip


def test_columns_where_the_task_tells_accuracies(trainer, folder):
    trainer(Graded(), epochs=1, log={"average": True}).train()
    values = ["rate", "other", "rate_scale"]
    assert list(rows(folder, "train")[0]) == ["global_step", "time", "loss", "acc", "train_step"]
    assert list(rows(folder, "valid")[0]) == ["global_step", "time", "loss", "acc", "entropy", *values, "train_step"]
    losses = ["train_loss", "val_loss", "train_acc", "val_acc"]
    assert list(rows(folder, "epoch")[0]) == ["epoch", "time", *losses, *values, "lr"]
    assert rows(folder, "val") == [] and logged_steps(folder, "train/step_acc") == [1, 2, 4, 5]


def test_columns_of_means_where_it_does_not(trainer, folder):
    trainer(Scripted(), epochs=1, log={"average": True}).train()
    assert list(rows(folder, "train")[0]) == ["global_step", "time", "loss", "ppl", "train_step"]


def test_train_loss_is_the_mean_per_target_over_exactly_that_epoch(trainer, folder):
    """The fourth step belongs to the second epoch though the first is evaluated after it."""
    trainer(Scripted(targets=[10, 10, 3]), warmup_steps=2).train()
    expected = [(10 * a + 10 * (a + 1) + 3 * (a + 2)) / 23 for a in (1, 4, 7)]
    assert column(folder, "epoch", "train_loss") == pytest.approx(expected, rel=1e-12)
    assert column(folder, "epoch", "train_ppl") == pytest.approx([math.exp(loss) for loss in expected])
    assert column(folder, "epoch", "epoch") == [0, 1, 2]


def test_accuracies_of_epochs_are_means_per_target(trainer, folder):
    trainer(Graded(targets=[10, 10, 3]), tuned=False).train()
    expected = [(10 / a + 10 / (a + 1) + 3 / (a + 2)) / 23 for a in (1, 4, 7)]
    assert column(folder, "epoch", "train_acc") == pytest.approx(expected)
    assert column(folder, "epoch", "val_acc") == [0.25, 0.5, 0.75]


@pytest.mark.parametrize("fetched_steps", [1, 4, 1000])
def test_rows_of_means_are_over_the_steps_since_the_row_before(trainer, folder, monkeypatch, fetched_steps):
    monkeypatch.setattr(recorder, "FETCHED_STEPS", fetched_steps)
    targets, log = [10, 10, 3], {"average": True, "train_interval": 4, "valid_interval": 2}
    trainer(Graded(targets=targets), epochs=5, warmup_steps=2, log=log).train()
    train, valid = rows(folder, "train"), rows(folder, "valid")
    assert [row["train_step"] for row in train] == [4, 8, 12, 16]
    for row in train:
        steps = range(int(row["train_step"]) - 3, int(row["train_step"]) + 1)
        weights = [targets[(step - 1) % 3] for step in steps]
        for name, values in (("loss", steps), ("acc", [1 / step for step in steps])):
            expected = sum(map(math.prod, zip(weights, values, strict=True))) / sum(weights)
            assert row[name] == pytest.approx(expected)
    assert [row["loss"] for row in valid] == [1.5, 3.5, 5.5]
    assert [row["acc"] for row in valid] == pytest.approx([(1 + 1 / 2) / 2, (1 / 3 + 1 / 4) / 2, (1 / 5 + 1 / 6) / 2])
    assert [row["train_step"] for row in valid] == [6, 10, 14]
    assert [row["global_step"] for row in valid] == [8, 14, 20]


def test_rows_of_means_hold_the_values_and_the_entropy_of_their_last_step(trainer, folder):
    stn = {"tune_scales": True, "entropy_weight": 10.0, "scale_lr": 0.1, "hyper_lr": 0.1}
    trainer(Graded(), epochs=2, stn=stn, log={"average": True, "valid_interval": 3}).train()
    (row,) = rows(folder, "valid")
    normal = torch.distributions.Normal(0.0, row["rate_scale"])
    assert row["entropy"] == pytest.approx(normal.entropy().item(), rel=1e-5)
    last = rows(folder, "epoch")[-1]
    assert row["rate_scale"] == last["rate_scale"] != 1 and row["rate"] == last["rate"] != 0.5


# A tuned learning rate


class Learned(LearningRate):
    """A tuned one by script: 1/2 and then half as much after each weight step; its step size and discount grow."""

    tuned = True

    def __init__(self, value=0.5):
        super().__init__(value)

    def columns(self):
        return {"lr": self.value, "hyper_lr": 1 - self.value, "mu": 1 - self.value**2}

    def after_step(self):
        self.value /= 2


def rates_of(rows):
    return [(row["train_step"], row["lr"]) for row in rows]


def test_a_tuned_learning_rate_is_in_the_tables_of_steps_and_epochs(trainer, folder):
    """As the last weight step took it: step n at 1/2^(n-1)."""
    trainer(Scripted(), epochs=2, learning_rate=Learned()).train()
    values = ["rate", "other"]
    assert list(rows(folder, "val")[0]) == ["global_step", "time", *values, "lr", "hyper_lr", "mu", "train_step"]
    # After each weight step before the first hyperparameter step, then after each hyperparameter step.
    assert rates_of(rows(folder, "val")) == [(n, 0.5**n) for n in (1, 2, 2, 4, 6)]
    assert column(folder, "val", "global_step") == [1, 2, 3, 6, 9]
    last = rows(folder, "epoch")[-1]
    assert [*last][-3:] == ["lr", "hyper_lr", "mu"]
    assert (last["lr"], last["hyper_lr"], last["mu"]) == (0.5**6, 1 - 0.5**6, 1 - 0.5**12)


def test_a_step_is_recorded_with_the_learning_rate_that_it_took(trainer, folder):
    """The scripted task's gradient is -1, so that its weight is the sum of the learning rates."""
    made = trainer(Scripted(), tuned=False, epochs=2, learning_rate=Learned())
    weights = []
    made.on_step = lambda trainer: weights.append(trainer.task.model.weight.item())
    made.train()
    assert [after - before for before, after in pairwise([0.0, *weights])] == column(folder, "val", "lr")


def test_without_tuned_hyperparameters_the_learning_rate_is_logged_at_the_weight_steps_interval(trainer, folder):
    trainer(Scripted(), tuned=False, epochs=3, learning_rate=Learned(), log={"train_interval": 2}).train()
    assert rates_of(rows(folder, "val")) == [(n, 0.5**n) for n in (2, 4, 6, 8)]


def test_in_the_warm_up_the_learning_rate_is_logged_too(trainer, folder):
    log = {"train_interval": 2, "valid_interval": 2}
    trainer(Scripted(), epochs=4, warmup_steps=4, learning_rate=Learned(), log=log).train()
    # Weight steps 2, 4 and 6, then the second hyperparameter step and the fourth.
    assert column(folder, "val", "train_step") == [2, 4, 6, 8, 12]
    assert column(folder, "val", "global_step") == [2, 4, 6, 10, 16]
    assert column(folder, "val", "rate")[:3] == [0.5] * 3 and column(folder, "val", "rate")[3] != 0.5


def test_with_means_both_tables_of_steps_follow_it(trainer, folder):
    trainer(Graded(), epochs=2, learning_rate=Learned(), log={"average": True, "train_interval": 2}).train()
    names = ["lr", "hyper_lr", "mu", "train_step"]
    assert [*rows(folder, "train")[0]] == ["global_step", "time", "loss", "acc", *names]
    assert [*rows(folder, "valid")[0]][-5:] == ["rate_scale", *names]
    for table in ("train", "valid"):
        assert rates_of(rows(folder, table)) == [(n, 0.5**n) for n in (2, 4, 6)]
    assert rows(folder, "val") == []


def test_a_tuned_learning_rates_scalars(trainer, folder):
    made = trainer(Scripted(), epochs=2, learning_rate=Learned(), log={"train_interval": 3})
    made.train()
    made.recorder.run.close()
    found = scalars(folder)
    for name in ("lr", "hyper_lr", "mu"):
        assert [step for step, _ in found[f"rates/{name}"]] == [4, 8]  # after the third weight step and the sixth
        assert [step for step, _ in found[f"epoch/{name}"]] == [6, 9]
    assert [value for _, value in found["rates/lr"]] == [0.5**3, 0.5**6]


def test_another_learning_rate_has_no_such_scalars(trainer, folder):
    made = trainer(Scripted(), epochs=1)
    made.train()
    made.recorder.run.close()
    assert not any(tag.startswith("rates/") for tag in scalars(folder))


@pytest.mark.parametrize("average", [False, True])
@pytest.mark.parametrize("stop_at", range(6))
def test_a_tuned_learning_rates_rows_go_on_after_a_stop(trainer, folder, stop_at, average):
    settings = {"epochs": 4, "warmup_steps": 2, "log": {"average": average, "train_interval": 2}}
    tables = ("train", "valid", "val", "epoch")
    trainer(Scripted(), learning_rate=Learned(), **settings).train()
    expected = without_time(folder, *tables)
    trainer(Scripted(), learning_rate=Learned(), stop=stop_before(stop_at), **settings).train()
    trainer(Scripted(), learning_rate=Learned(9.0), resume=True, **settings).train()
    assert without_time(folder, *tables) == expected


# Stop and resume


@pytest.mark.parametrize("stop_at", range(1, 8))
def test_means_go_on_after_a_stop(trainer, folder, stop_at):
    log = {"average": True, "train_interval": 5, "valid_interval": 2}
    settings = {"epochs": 4, "warmup_steps": 2, "log": log}
    trainer(Graded([10, 10, 3]), **settings).train()
    expected = without_time(folder, "train", "valid", "epoch")
    done = trainer(Graded([10, 10, 3]), stop=stop_before(stop_at), **settings).train()
    if not done:
        trainer(Graded([10, 10, 3]), resume=True, **settings).train()
    assert without_time(folder, "train", "valid", "epoch") == expected and all(expected)


def test_time_goes_on_after_a_stop(trainer, folder):
    part = trainer(Scripted(), stop=stop_before(2))
    part.recorder.elapsed_before = 1000.0
    part.train()
    trainer(Scripted(), resume=True).train()
    times = column(folder, "epoch", "time")
    assert times == sorted(times) and times[0] > 1000


def test_a_run_that_diverges_right_after_a_resume_tells_the_values_it_went_on_from(trainer):
    """Not those that it had started from."""
    settings = {"stn": {"hyper_lr": 1.0}, "epochs": 9}
    part = trainer(Scripted(), stop=stop_before(2), **settings)
    part.train()
    rate = part.hyper.current()["rate"].item()
    assert abs(rate - 0.5) > 0.1

    def spoiled(objective):
        return Loss(objective * math.nan, torch.tensor(5.0), 1)

    with pytest.raises(Diverged, match=f"at step 7 .*; rate {rate:.4g}, other 2, "):
        trainer(Scripted(spoil={"w5": spoiled}), resume=True, **settings).train()
