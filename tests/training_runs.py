"""What the tests of the training loop share: a scripted task, a trainer of it, and what its runs leave."""

import csv
from typing import NamedTuple

import pytest
import torch
from event_files import scalars
from torch import nn

from stn.bilevel import Loss, Score
from stn.hyperparameters import Hyperparameters, Tuned
from stn.learning_rates import LearningRate
from stn.methods import STN
from stn.recorder import Recorder
from stn.runs.folder import RunFolder
from stn.schedules import Constant
from stn.training import Plan, Trainer

KINDS = {"train": "w", "valid": "v"}


class Batch(NamedTuple):
    kind: str
    number: int
    targets: int


class Scripted:
    """A task whose losses are prescribed and that traces what is asked of it: w and v for mini-batches, E.

    The loss of weight step n is n, on as many targets as `targets` says at n's place in its epoch. The one weight
    counts the steps, at learning rate 1. spoil: maps what is asked, such as "w3", to a function of that step's loss.
    """

    batch_size, likelihood = 1, True

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

    def batch(self, split):
        kind = KINDS[split]
        targets = self.targets[self.position[0]] if kind == "w" else 1
        self.trace += kind
        self.counts[kind] += 1
        return Batch(kind, self.counts[kind], targets)

    def predict(self, batch, draw):
        return -self.model.weight.sum() if batch.kind == "w" else batch.number * draw.h.sum()

    def loss(self, prediction, batch, _):
        spoil = self.spoil.get(f"{batch.kind}{batch.number}")
        return spoil(prediction) if spoil else Loss(prediction, torch.tensor(float(batch.number)), batch.targets)

    def carry(self, batch, prediction):
        pass

    def evaluate(self, split, _):
        assert split == "valid"
        self.trace += "E"
        return Score(self.val_losses[self.epochs - 1] if self.val_losses else 1 / self.epochs)

    def state_dict(self):
        return {"counts": dict(self.counts)}

    def load_state_dict(self, state):
        self.counts = dict(state["counts"])


class Graded(Scripted):
    """Also tells accuracies: of step n, 1 / n."""

    def loss(self, prediction, batch, draw):
        return super().loss(prediction, batch, draw)._replace(accuracy=torch.tensor(1 / batch.number))

    def evaluate(self, split, draw):
        return Score(super().evaluate(split, draw).loss, 0.25 * self.epochs)


class Screen:
    """Who shows the progress: keeps what it was told."""

    def __init__(self):
        self.statuses, self.rows, self.best = [], [], []

    def update(self, status):
        assert 0 <= status.position <= status.length
        self.statuses.append(status)

    def epoch_ended(self, row, best):
        self.rows.append(row)
        self.best.append(best)


@pytest.fixture(name="trainer")
def trainer_fixture(folder):
    """trainer(task, **plan): a trainer that logs to `folder`, by default of an STN at the learning rate 1.

    method, stn: the method, or else the settings of an STN. log: the recorder's settings.
    """
    opened = []

    def make(
        task,
        tuned=True,
        stop=lambda: False,
        resume=False,
        method=None,
        stn=None,
        learning_rate=None,
        log=None,
        sources=None,
        **plan,
    ):
        sources = sources or {"rate": Tuned(0.5, range=(0, 1)) if tuned else Constant(0.5), "other": Constant(2.0)}
        hyper = Hyperparameters(**sources)
        for run in opened:
            run.close()
        run = RunFolder.open(folder) if resume else RunFolder.create(folder, {}, overwrite=True)
        opened.append(run)
        made = Trainer(
            task,
            hyper,
            method or STN(task.model, hyper, **{"lr": 1.0, **(stn or {})}),
            learning_rate or LearningRate(1.0),
            Recorder(task, hyper, run, Screen(), **(log or {})),
            Plan(**{"epochs": 3, **plan}),
            stop,
        )
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


def without_time(folder, *tables):
    return [[{**row, "time": None} for row in rows(folder, table)] for table in tables]


def stop_before(alternation):
    """A `stop` that is true before this alternation, counted from 0, and at no other time."""
    asked = iter(range(1000))
    return lambda: next(asked) == alternation
