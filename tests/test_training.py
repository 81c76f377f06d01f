import csv
import math

import pytest
import torch
from event_files import numbered_from_0, scalars  # noqa: F401
from torch import nn

from stn.bilevel import Loss, Score, perplexity
from stn.hyperparameters import Hyperparameters, Tuned
from stn.runs.checkpoints import read_checkpoint
from stn.runs.folder import RunFolder
from stn.schedules import Constant
from stn.training import Diverged, Settings, Trainer

NAN = math.nan


class Scripted:
    """A task whose losses are prescribed and that traces what is asked of it: w, v and E.

    The loss of weight step n is n, on as many targets as `targets` says at n's place in its epoch. The one weight
    counts the steps, at learning rate 1. spoil: maps what is asked, such as "w3", to a function of that step's loss.
    """

    batch_size = 1

    def __init__(self, targets=(1, 1, 1), val_losses=(), spoil=None):
        self.model = nn.Linear(1, 1, bias=False)
        nn.init.zeros_(self.model.weight)
        self.targets, self.val_losses, self.spoil = targets, val_losses, spoil or {}
        self.counts = {"w": 0, "v": 0}
        self.trace = ""

    @property
    def epochs(self):
        return self.counts["w"] // len(self.targets)

    @property
    def position(self):
        return self.counts["w"] % len(self.targets), len(self.targets)

    def training_loss(self, _):
        targets = self.targets[self.position[0]]
        return self._loss("w", -self.model.weight.sum(), targets)

    def validation_loss(self, draw):
        return self._loss("v", (1 + self.counts["v"]) * draw.h.sum(), 1)

    def evaluate(self, split, _):
        assert split == "valid"
        self.trace += "E"
        return Score(self.val_losses[self.epochs - 1] if self.val_losses else 1 / self.epochs)

    def _loss(self, kind, objective, targets):
        self.trace += kind
        self.counts[kind] += 1
        number = self.counts[kind]
        data = torch.tensor(float(number))
        spoil = self.spoil.get(f"{kind}{number}")
        return spoil(objective) if spoil else Loss(objective, data, targets)

    def state_dict(self):
        return {"counts": dict(self.counts)}

    def load_state_dict(self, state):
        self.counts = dict(state["counts"])


class Screen:
    def __init__(self):
        self.best = []

    def update(self, status):
        assert 0 <= status.position <= status.length

    def epoch_ended(self, _, best):
        self.best.append(best)


@pytest.fixture
def folder(tmp_path):
    return tmp_path / "run"


@pytest.fixture
def trainer(folder):
    """trainer(task, **settings): a trainer that logs to `folder`, at learning rate 1."""
    opened = []

    def make(task, tuned=True, stop=lambda: False, resume=False, **settings):
        hyper = Hyperparameters(rate=Tuned(0.5, range=(0, 1)) if tuned else Constant(0.5), other=Constant(2.0))
        for run in opened:
            run.close()
        run = RunFolder.open(folder) if resume else RunFolder.create(folder, {}, overwrite=True)
        opened.append(run)
        made = Trainer(task, hyper, Settings(**{"epochs": 3, "lr": 1.0, **settings}), run, Screen(), stop)
        if resume:
            made.load_state_dict(run.load_checkpoint())
        return made

    yield make
    for run in opened:
        run.close()


def rows(folder, table):
    path = folder / f"{table}.csv"
    if not path.exists():
        return []
    with path.open(newline="") as file:
        return [{name: float(cell) for name, cell in row.items()} for row in csv.DictReader(file)]


def column(folder, table, name):
    return [row[name] for row in rows(folder, table)]


def logged_steps(folder, tag):
    return [step for step, _ in scalars(folder).get(tag, [])]


def all_finite(state):
    if isinstance(state, dict):
        return all(map(all_finite, state.values()))
    if isinstance(state, list | tuple):
        return all(map(all_finite, state))
    return bool(state.isfinite().all()) if isinstance(state, torch.Tensor) else True


# Alternation and counting


@pytest.mark.parametrize(
    ("settings", "length", "trace"),
    [
        ({"warmup_steps": 2, "train_steps": 2, "val_steps": 1}, 3, "w w wwvE wwvE wwv wwvE"),
        ({"warmup_steps": 0, "train_steps": 1, "val_steps": 2}, 2, "wvv wvvE wvv wvvE wvv wvvE"),
        ({"warmup_steps": 4, "train_steps": 1, "val_steps": 1}, 2, "w wE w wE wv wvE"),
        ({"warmup_steps": 5, "train_steps": 3, "val_steps": 1}, 4, "w w w wE w wwwvE wwwv wwwvE"),
    ],
)
def test_trace(trainer, settings, length, trace):
    task = Scripted(targets=[1] * length)
    assert trainer(task, **settings).train() is True
    assert task.trace == trace.replace(" ", "")


def test_nothing_tuned_means_no_hyperparameter_steps(trainer, folder):
    task = Scripted(targets=[1, 1])
    trainer(task, tuned=False).train()
    assert task.trace == "wwE" * 3
    assert rows(folder, "val") == []


def test_global_step_counts_both_kinds_and_train_step_one(trainer, folder):
    done = trainer(Scripted(), warmup_steps=2)
    done.train()
    assert column(folder, "val", "global_step") == [5, 8, 11, 14]
    assert column(folder, "val", "train_step") == [4, 6, 8, 10]
    assert (done.global_step, done.train_step) == (14, 10)
    assert logged_steps(folder, "valid/step_loss") == logged_steps(folder, "hyper/rate") == [5, 8, 11, 14]
    assert logged_steps(folder, "train/step_loss") == [1, 2, 3, 4, 6, 7, 9, 10, 12, 13]
    assert logged_steps(folder, "epoch/val_loss") == [5, 8, 14]


def test_rows_at_the_intervals(trainer, folder):
    trainer(Scripted(), val_log_interval=3, train_log_interval=3, warmup_steps=2).train()
    assert column(folder, "val", "global_step") == [11]
    assert logged_steps(folder, "train/step_loss") == [3, 7, 12]


def test_columns(trainer, folder):
    trainer(Scripted(), epochs=1).train()
    assert list(rows(folder, "val")[0]) == ["global_step", "time", "rate", "other", "train_step"]
    assert list(rows(folder, "epoch")[0]) == [
        "epoch", "time", "train_loss", "val_loss", "train_ppl", "val_ppl", "rate", "other", "rate_scale", "lr"
    ]  # fmt: skip


def test_rows_hold_the_values_of_their_step(trainer, folder):
    done = trainer(Scripted(val_losses=[3.0, 2.0]), epochs=2, hyper_lr=0.1)
    done.train()
    rates = column(folder, "val", "rate")
    assert rates[0] == pytest.approx(torch.tensor(-0.1).sigmoid().item())  # Adam's first step is hyper_lr long
    assert rates == sorted(rates, reverse=True) and len(set(rates)) == 3
    last = rows(folder, "epoch")[-1]
    assert (last["rate"], last["other"], last["rate_scale"], last["lr"]) == (rates[-1], 2.0, 1.0, 1.0)
    assert (last["val_loss"], last["val_ppl"]) == (2.0, math.exp(2.0))
    assert column(folder, "epoch", "time") == sorted(column(folder, "epoch", "time"))


def test_scales_are_tuned_on_request_at_their_own_rate(trainer, folder):
    trainer(Scripted(), tune_scales=True, scale_lr=0.2, entropy_weight=1e3, epochs=1).train()
    start = math.log(math.e - 1)  # softplus of it is 1
    after_two_steps = math.log1p(math.exp(start + 2 * 0.2))
    assert column(folder, "epoch", "rate_scale") == pytest.approx([after_two_steps], rel=0.01)


def test_train_loss_is_the_mean_per_target_over_exactly_that_epoch(trainer, folder):
    """The fourth step belongs to the second epoch though the first is evaluated after it."""
    trainer(Scripted(targets=[10, 10, 3]), warmup_steps=2).train()
    expected = [(10 * a + 10 * (a + 1) + 3 * (a + 2)) / 23 for a in (1, 4, 7)]
    assert column(folder, "epoch", "train_loss") == pytest.approx(expected, rel=1e-12)
    assert column(folder, "epoch", "train_ppl") == pytest.approx([math.exp(loss) for loss in expected])
    assert column(folder, "epoch", "epoch") == [0, 1, 2]


def test_perplexity_overflows_to_infinity():
    assert perplexity(0.0) == 1.0 and perplexity(1e6) == math.inf


# Decay, patience, stopping


@pytest.mark.parametrize(
    ("nonmono", "val_losses", "rates"),
    [
        # 3.6 is worse than 3, which is more than two epochs ago; 3.2 is not worse than 4 and 5. So again 3.1.
        (2, [5, 4, 3, 3.5, 3.2, 3.6, 2.9, 3.1, 1], [8, 8, 8, 8, 8, 8, 4, 4, 2]),
        (2, [5, 5, 5, 5, 5], [8, 8, 8, 8, 8]),
        (0, [3, 2, 2.5, 2.4, 1], [8, 8, 8, 4, 2]),
    ],
)
def test_the_learning_rate_decays_without_progress(trainer, folder, nonmono, val_losses, rates):
    task = Scripted(targets=[1], val_losses=val_losses)
    trainer(task, epochs=len(val_losses), nonmono=nonmono, lr=8.0, lr_decay=2.0, train_steps=1).train()
    assert column(folder, "epoch", "lr") == rates


def test_weights_are_stepped_at_the_decayed_rate(trainer):
    task = Scripted(targets=[1], val_losses=[1, 2, 3])
    trainer(task, epochs=3, nonmono=0, lr=8.0, lr_decay=2.0, train_steps=1).train()
    assert task.model.weight.item() == 8 + 8 + 4


@pytest.mark.parametrize(
    ("val_losses", "evaluated"),
    [([3, 2, 2.5, 2.1, 1, 1], 4), ([3, 2, 2.5, 1.9, 1.9, 1.9, 1], 6), ([3, 3, 3, 3], 3)],
)
def test_patience_ends_training_without_a_new_best(trainer, folder, val_losses, evaluated):
    task = Scripted(targets=[1], val_losses=val_losses)
    assert trainer(task, epochs=100, patience=2, train_steps=1).train() is True
    assert column(folder, "epoch", "val_loss") == val_losses[:evaluated]


def test_a_learning_rate_below_the_least_ends_training(trainer, folder):
    task = Scripted(targets=[1], val_losses=[1, 2, 3, 4, 5])
    trainer(task, epochs=100, nonmono=0, lr=8.0, lr_decay=4.0, min_lr=1.0, train_steps=1).train()
    assert column(folder, "epoch", "lr") == [8, 8, 2]


def test_the_best_model_is_kept(trainer):
    task = Scripted(targets=[1], val_losses=[3, 2, 4, 2, 5])
    done = trainer(task, epochs=5, train_steps=1)
    done.train()
    rate = done.hyper.current()["rate"].item()
    assert done.progress.best == [True, True, False, False, False]
    done.load_best()
    assert task.model.weight.item() == 2  # as after two steps
    assert done.hyper.current()["rate"].item() > rate


@pytest.mark.parametrize(("clip", "weight"), [(0.0, 3.0), (0.5, 1.5)])
def test_gradients_are_clipped_but_not_at_zero(trainer, clip, weight):
    task = Scripted()
    trainer(task, epochs=1, clip=clip, warmup_steps=3).train()
    assert task.model.weight.item() == pytest.approx(weight, rel=1e-5)


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
@pytest.mark.parametrize("flush_steps", [1, 4, 1000])
def test_what_is_not_finite_stops_training(
    trainer, folder, monkeypatch, spoil, val_losses, step, saved_at, logged, flush_steps
):
    monkeypatch.setattr("stn.training.FLUSH_STEPS", flush_steps)
    task = Scripted(targets=[1] * 4, val_losses=val_losses, spoil=spoil)
    with pytest.raises(Diverged) as caught:
        trainer(task, epochs=5, checkpoint_seconds=0.0).train()
    assert f"at step {step} (loss " in str(caught.value)
    assert "; rate " in str(caught.value) and str(folder) in str(caught.value)
    assert column(folder, "val", "global_step") == logged
    assert column(folder, "epoch", "epoch") == [0]
    state = read_checkpoint(folder)
    assert state["train_step"] == saved_at
    assert all_finite(state)


def test_weights_that_overflow_in_a_step_are_not_saved(trainer, folder):
    """At 1e38 a step, four of them pass the largest float32; gradients and losses are finite until the fifth."""
    with pytest.raises(Diverged):
        trainer(Scripted(), epochs=5, lr=1e38, train_steps=1, checkpoint_seconds=0.0).train()
    assert all_finite(read_checkpoint(folder))


# Stop and resume


@pytest.mark.usefixtures("numbered_from_0")
@pytest.mark.parametrize("stop_at", range(9))
def test_a_stopped_run_goes_on_as_if_it_had_not_been(trainer, folder, stop_at):
    """Stopped before each alternation in turn, while both the rate and the learning rate change."""
    settings = {"epochs": 5, "warmup_steps": 3, "nonmono": 1, "patience": 4}
    val_losses = [3.0, 2.0, 2.5, 2.2, 1.0]

    def logs():
        tables = [[{**row, "time": None} for row in rows(folder, table)] for table in ("val", "epoch")]
        return tables, [logged_steps(folder, tag) for tag in ("train/step_loss", "hyper/rate", "epoch/val_loss")]

    task = Scripted(val_losses=val_losses)
    whole = trainer(task, **settings)
    whole.train()
    expected, weight = logs(), task.model.weight.item()
    whole.load_best()
    best = task.model.weight.item()

    asked = iter(range(100))
    part = trainer(Scripted(val_losses=val_losses), stop=lambda: next(asked) == stop_at, **settings)
    assert part.train() is False
    assert read_checkpoint(folder)["train_step"] == part.train_step  # no step is lost
    task = Scripted(val_losses=val_losses)
    rest = trainer(task, resume=True, **settings)
    assert rest.train() is True
    assert logs() == expected
    assert task.model.weight.item() == weight
    rest.load_best()
    assert task.model.weight.item() == best


def test_time_goes_on_after_a_stop(trainer, folder):
    asked = iter(range(100))
    part = trainer(Scripted(), stop=lambda: next(asked) == 2)
    part.elapsed_before = 1000.0
    part.train()
    trainer(Scripted(), resume=True).train()
    times = column(folder, "epoch", "time")
    assert times == sorted(times) and times[0] > 1000


# Schedules


class Clock:
    """A schedule whose value says when it was asked."""

    def at(self, step, epoch):
        return step + 100.0 * epoch


@pytest.mark.parametrize("tuned", [True, False])
def test_schedules_advance_with_each_weight_step(folder, tuned):
    """Also within an alternation that an epoch's end divides; each step's value is what is logged."""
    task, seen = Scripted(), []
    training_loss = task.training_loss
    task.training_loss = lambda draw: seen.append(draw["clock"]) or training_loss(draw)
    rate = Tuned(0.5, range=(0, 1)) if tuned else Constant(0.5)
    with RunFolder.create(folder, {}) as run:
        hyper = Hyperparameters(rate=rate, clock=Clock())
        Trainer(task, hyper, Settings(epochs=2, lr=1.0), run, Screen()).train()
    assert seen[:6] == [0.0, 1.0, 2.0, 103.0, 104.0, 105.0]
    if not tuned:
        assert column(folder, "epoch", "clock") == [2.0, 105.0] and len(seen) == 6
    else:
        assert column(folder, "val", "clock") == [1.0, 103.0, 105.0]


def test_without_tuning_an_epoch_is_evaluated_right_at_its_end(trainer, folder):
    task = Scripted()
    trainer(task, tuned=False, epochs=2, train_steps=2).train()
    assert task.trace == "wwwEwwwE"
    assert logged_steps(folder, "hyper/rate") == [1, 2, 3, 4, 5, 6]


# Momentum, milestones


@pytest.mark.parametrize("momentum", [0.0, 0.5, 0.9])
def test_momentum(trainer, momentum):
    """Each step's gradient is −1: the n-th velocity is a geometric sum."""
    task = Scripted(targets=[1] * 6)
    trainer(task, tuned=False, epochs=1, momentum=momentum, lr=0.5).train()
    velocities = [sum(momentum**age for age in range(step)) for step in range(1, 7)]
    assert task.model.weight.item() == pytest.approx(0.5 * sum(velocities))


def test_momentum_goes_on_after_a_stop(trainer):
    task = Scripted(targets=[1] * 6)
    trainer(task, epochs=2, momentum=0.9).train()
    asked = iter(range(100))
    trainer(Scripted(targets=[1] * 6), stop=lambda: next(asked) == 2, epochs=2, momentum=0.9).train()
    rest = Scripted(targets=[1] * 6)
    trainer(rest, resume=True, epochs=2, momentum=0.9).train()
    assert rest.model.weight.item() == task.model.weight.item()


@pytest.mark.parametrize(
    ("milestones", "val_losses", "rates"),
    [
        ((1, 3), [3, 2, 1, 0.5, 0.2], [8, 4, 4, 2, 2]),
        ((3,), [1, 2, 3, 1, 1], [8, 8, 4, 2, 2]),  # at 2 for want of progress, at 3 for both reasons but once
        ((2, 9), [3, 2, 1, 0.5, 0.2], [8, 8, 4, 4, 4]),
    ],
)
def test_the_learning_rate_decays_at_milestones(trainer, folder, milestones, val_losses, rates):
    task = Scripted(targets=[1], val_losses=val_losses)
    settings = {"milestones": milestones, "nonmono": 0, "lr": 8.0, "lr_decay": 2.0, "train_steps": 1}
    trainer(task, epochs=5, **settings).train()
    assert column(folder, "epoch", "lr") == rates


def test_no_milestone_is_passed_unseen(trainer, folder):
    """Where an alternation is longer than an epoch."""
    task = Scripted(targets=[1], val_losses=[9 - epoch for epoch in range(9)])
    trainer(task, epochs=8, milestones=(3,), lr=8.0, lr_decay=2.0, train_steps=2).train()
    assert column(folder, "epoch", "epoch") == [1, 3, 5, 7]
    assert column(folder, "epoch", "lr") == [8, 8, 4, 4]


# Accuracy, means


class Graded(Scripted):
    """Also tells accuracies: of step n, 1 / n."""

    def _loss(self, kind, objective, targets):
        return super()._loss(kind, objective, targets)._replace(accuracy=torch.tensor(1 / self.counts[kind]))

    def evaluate(self, split, draw):
        return Score(super().evaluate(split, draw).loss, 0.25 * self.epochs)


def test_a_score_has_an_accuracy_or_a_perplexity():
    assert Score(2.0).measures() == {"loss": 2.0, "ppl": math.exp(2)}
    assert Score(2.0, 0.0).measures() == {"loss": 2.0, "acc": 0.0}


def test_columns_where_the_task_tells_accuracies(trainer, folder):
    trainer(Graded(), epochs=1, average_logs=True).train()
    values = ["rate", "other", "rate_scale"]
    assert list(rows(folder, "train")[0]) == ["global_step", "time", "loss", "acc", "train_step"]
    assert list(rows(folder, "valid")[0]) == ["global_step", "time", "loss", "acc", "entropy", *values, "train_step"]
    losses = ["train_loss", "val_loss", "train_acc", "val_acc"]
    assert list(rows(folder, "epoch")[0]) == ["epoch", "time", *losses, *values, "lr"]
    assert rows(folder, "val") == [] and logged_steps(folder, "train/step_acc") == [1, 2, 4, 5]


def test_columns_of_means_where_it_does_not(trainer, folder):
    trainer(Scripted(), epochs=1, average_logs=True).train()
    assert list(rows(folder, "train")[0]) == ["global_step", "time", "loss", "ppl", "train_step"]


def test_accuracies_of_epochs_are_means_per_target(trainer, folder):
    trainer(Graded(targets=[10, 10, 3]), tuned=False).train()
    expected = [(10 / a + 10 / (a + 1) + 3 / (a + 2)) / 23 for a in (1, 4, 7)]
    assert column(folder, "epoch", "train_acc") == pytest.approx(expected)
    assert column(folder, "epoch", "val_acc") == [0.25, 0.5, 0.75]


@pytest.mark.parametrize("flush_steps", [1, 4, 1000])
def test_rows_of_means_are_over_the_steps_since_the_row_before(trainer, folder, monkeypatch, flush_steps):
    monkeypatch.setattr("stn.training.FLUSH_STEPS", flush_steps)
    targets, every = [10, 10, 3], {"train_log_interval": 4, "val_log_interval": 2}
    trainer(Graded(targets=targets), epochs=5, warmup_steps=2, average_logs=True, **every).train()
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
    settings = {"tune_scales": True, "entropy_weight": 10.0, "scale_lr": 0.1, "hyper_lr": 0.1}
    done = trainer(Graded(), epochs=2, average_logs=True, val_log_interval=3, **settings)
    done.train()
    (row,) = rows(folder, "valid")
    normal = torch.distributions.Normal(0.0, row["rate_scale"])
    assert row["entropy"] == pytest.approx(normal.entropy().item(), rel=1e-5)
    last = rows(folder, "epoch")[-1]
    assert row["rate_scale"] == last["rate_scale"] != 1 and row["rate"] == last["rate"] != 0.5


@pytest.mark.parametrize("stop_at", range(1, 8))
def test_means_go_on_after_a_stop(trainer, folder, stop_at):
    settings = {"epochs": 4, "warmup_steps": 2, "average_logs": True, "train_log_interval": 5, "val_log_interval": 2}

    def logs():
        return [[{**row, "time": None} for row in rows(folder, table)] for table in ("train", "valid", "epoch")]

    trainer(Graded([10, 10, 3]), **settings).train()
    expected = logs()
    asked = iter(range(100))
    done = trainer(Graded([10, 10, 3]), stop=lambda: next(asked) == stop_at, **settings).train()
    if not done:
        trainer(Graded([10, 10, 3]), resume=True, **settings).train()
    assert logs() == expected and all(expected)
