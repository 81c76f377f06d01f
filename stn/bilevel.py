"""The words that tasks, methods and the loop share: task, loss, score, step."""

import math
from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol, TypeVar

import torch
from torch import Tensor, nn

from stn.hyperparameters import Draw, Hyperparameters
from stn.ranks import ALONE, Ranks

Batch = TypeVar("Batch")
Prediction = TypeVar("Prediction")


class Loss(NamedTuple):
    """objective: what a step minimizes. data: mean loss per target in nats, without penalties. targets: how many.

    accuracy: the fraction of targets that are predicted right, where the task tells. part: of the whole mini-batch's
    targets, where ranks have shared it (stn/ranks.py).
    """

    objective: Tensor
    data: Tensor
    targets: int
    accuracy: Tensor | None = None
    part: float = 1.0


class Step(NamedTuple):
    """What a step did, as scalars on the device.

    data: its mini-batch's mean loss per target. penalty: what the objective added to that. health: a number that is
    finite if objective and gradient were. accuracy: as in `Loss`. Of a mini-batch that ranks have shared, all are this
    rank's part, which add up to those of the whole one.
    """

    data: Tensor
    penalty: Tensor
    health: Tensor
    targets: int
    accuracy: Tensor | None = None


MEASURES = ("loss", "ppl", "acc")


class Score(NamedTuple):
    """loss: mean per target in nats. accuracy: the fraction of targets predicted right, where the task tells.

    targets: how many it is the mean of, where parts of a split are put together.
    """

    loss: float
    accuracy: float | None = None
    targets: int = 1

    def measures(self, likelihood: bool = True) -> dict[str, float]:
        """By the names that logs use: the loss, and the accuracy or else the perplexity.

        likelihood: whether the loss is a negative log-likelihood, without which there is no perplexity.
        """
        if self.accuracy is not None:
            return {"loss": self.loss, "acc": self.accuracy}
        return {"loss": self.loss} | ({"ppl": perplexity(self.loss)} if likelihood else {})


def perplexity(loss: float) -> float:
    """exp of a mean loss in nats; infinite where that overflows."""
    return math.exp(loss) if loss < 700 else math.inf


@dataclass
class MeanScore:
    """The mean over targets of mini-batches' mean scores; loss and accuracy are summed over targets."""

    loss: float = 0.0
    accuracy: float | None = None
    targets: int = 0

    def add(self, score: Score, targets: int) -> None:
        self.loss += score.loss * targets
        if score.accuracy is not None:
            self.accuracy = (self.accuracy or 0.0) + score.accuracy * targets
        self.targets += targets

    def mean(self) -> Score:
        """The mean so far; NaN without targets."""
        if not self.targets:
            return Score(math.nan)
        return Score(self.loss / self.targets, None if self.accuracy is None else self.accuracy / self.targets)


class Task(Protocol[Batch, Prediction]):
    """What is trained: a model, its mini-batches and its loss.

    Dropout, augmentation and penalties are applied where the model is in training mode.
    """

    model: nn.Module
    batch_size: int  # the largest number of examples in a mini-batch, on all ranks together
    likelihood: bool  # whether the loss is a negative log-likelihood, of which there is a perplexity
    epochs: int  # completed passes over the training data
    position: tuple[int, int]  # weight steps of this pass: done, and in all

    def batch(self, split: str) -> Batch:
        """The next mini-batch of "train" or "valid"; it moves the data stream on, and does nothing else."""

    def predict(self, batch: Batch, draw: Draw) -> Prediction:
        """The forward pass. Changes nothing that a second pass on the same batch would see, but the random numbers."""

    def loss(self, prediction: Prediction, batch: Batch, draw: Draw) -> Loss:
        """What a prediction costs, penalties included where the model is in training mode."""

    def carry(self, batch: Batch, prediction: Prediction) -> None:
        """Keep what the next mini-batch of this stream starts from, such as hidden states; once a step."""

    def add_reader(self, split: str) -> str:
        """Another reader of a split, with a place and hidden states of its own; its name, for `batch`."""

    def evaluate(self, split: str, draw: Draw) -> Score:
        """Over all of "valid" or "test", or this rank's part."""

    def share_among(self, ranks: Ranks) -> None:
        """From the first mini-batch on, take this rank's share of each."""

    def state_dict(self) -> dict:
        """Where the data streams are."""

    def load_state_dict(self, state: dict) -> None: ...


class StreamTask:
    """What tasks have in common that read mini-batches from `streams`, one for "train" and one for "valid".

    A stream gives the `next` mini-batch, counts its passes in `epochs` and the `steps` of one, has a state_dict, and
    gives `another` of the same data that begins anew (stn/streams.py).
    """

    streams: dict[str, Any]
    likelihood = True
    ranks = ALONE

    @property
    def epochs(self) -> int:
        return self.streams["train"].epochs

    @property
    def position(self) -> tuple[int, int]:
        return self.streams["train"].steps

    def batch(self, split: str) -> Any:
        with self.ranks.shared_random_numbers():
            return self.streams[split].next()

    def add_reader(self, split: str) -> str:
        name = f"{split}, second reader"
        self.streams[name] = self.streams[split].another()
        return name

    def carry(self, batch: Any, prediction: Any) -> None:
        """Nothing, as a mini-batch that was shuffled follows from none before it."""

    def share_among(self, ranks: Ranks) -> None:
        self.ranks = ranks

    def state_dict(self) -> dict:
        with self.ranks.shared_random_numbers():
            return {split: stream.state_dict() for split, stream in self.streams.items()}

    def load_state_dict(self, state: dict) -> None:
        with self.ranks.shared_random_numbers():
            for split, stream in self.streams.items():
                stream.load_state_dict(state[split])


@torch.no_grad()
def evaluate(task: Task, hyper: Hyperparameters, split: str, ranks: Ranks = ALONE) -> Score:
    """Over all of a split, with the best response to the current hyperparameters."""
    task.model.eval()
    score = task.evaluate(split, hyper.current())
    return score if ranks.size == 1 else _together(score, ranks)


def _together(part: Score, ranks: Ranks) -> Score:
    """The score of a split of which every rank has a part, maybe an empty one."""
    own = [part.loss * part.targets, (part.accuracy or 0.0) * part.targets, part.targets]
    loss, right, targets = ranks.total(torch.tensor(own, dtype=torch.float64)).tolist()
    return Score(loss / targets, None if part.accuracy is None else right / targets, int(targets))
