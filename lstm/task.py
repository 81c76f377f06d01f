"""Language modelling as a task for the training loop: streams of text, their hidden states and losses."""

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor, nn

from lstm.model import AWDLSTM, activation_penalty, temporal_penalty
from stn.bilevel import Loss, Score, StreamTask
from stn.datasets.text import Corpus, batchify, chunk, num_chunks
from stn.hyperparameters import Draw
from stn.kernels.cross_entropy import linear_cross_entropy
from stn.lstm import State
from stn.ranks import ALONE, Ranks

EVALUATION_BATCH = {"valid": 10, "test": 1}  # as published
EVALUATION_ROWS = 2800  # without dropout the chunks' length changes nothing but the speed


class Batch(NamedTuple):
    """inputs, targets: (T, B) word ids. state: each layer's at the first step; None for zeros."""

    split: str
    inputs: Tensor
    targets: Tensor
    state: list[State] | None


class Prediction(NamedTuple):
    """The last layer's outputs (T, B, emsize), after and before dropout, and each layer's state after the last step."""

    dropped: Tensor
    raw: Tensor
    state: list[State]


class Stream:
    """A text (N, B) read in chunks of bptt steps, for ever, with the hidden state carried from chunk to chunk.

    `epochs` counts the passes completed; the state is reset at the start of each. ranks: those that have a part of the
    text's N columns each; the states that are kept in a checkpoint are those of all.
    """

    def __init__(self, data: Tensor, bptt: int, ranks: Ranks = ALONE):
        self.columns, self.ranks = data.shape[1], ranks
        self.data, self.bptt = ranks.part(data, axis=1).contiguous(), bptt
        self.position = self.epochs = 0
        self.state: list[State] | None = None

    @property
    def steps(self) -> tuple[int, int]:
        """Chunks of this pass: done, and in all."""
        return num_chunks(self.data[: self.position + 1], self.bptt), num_chunks(self.data, self.bptt)

    def another(self) -> "Stream":
        if self.ranks.size > 1:
            raise ValueError("a text that ranks share has no other reader: take one before it is shared")
        return Stream(self.data, self.bptt)

    def next(self) -> tuple[Tensor, Tensor]:
        """The next chunk's inputs and targets, (T, B) each."""
        inputs, targets = chunk(self.data, self.position, self.bptt)
        self.position += len(inputs)
        if self.position >= len(self.data) - 1:
            self.position = 0
            self.epochs += 1
        return inputs, targets

    def carry(self, state: list[State]) -> None:
        """Keep the state after the last chunk for the next one; a new pass starts without."""
        self.state = [(hidden.detach(), cell.detach()) for hidden, cell in state] if self.position else None

    def state_dict(self) -> dict:
        state = _each(self.state, lambda part: self.ranks.whole(part, self.columns, axis=1))
        return {"position": self.position, "epochs": self.epochs, "state": state}

    def load_state_dict(self, state: dict) -> None:
        self.position, self.epochs = state["position"], state["epochs"]
        self.state = _each(state["state"], lambda whole: self.ranks.part(whole, axis=1).to(self.data.device))


def _each(state: list[State] | None, change: Callable[[Tensor], Tensor]) -> list[State] | None:
    """The state with each of its tensors (1, B, hidden) changed."""
    return state and [(change(hidden), change(cell)) for hidden, cell in state]


class LanguageModeling(StreamTask):
    """Train and validate an AWD-LSTM on a corpus.

    val_penalties: add AR and TAR, with their current coefficients held constant, to the hyperparameter step's
        objective, as the published code did; the paper's objective is the cross-entropy alone.

    Raises UserError where a split is too short for its batch.
    """

    def __init__(
        self,
        model: AWDLSTM,
        corpus: Corpus,
        batch_size: int,
        bptt: int,
        val_penalties: bool = False,
        device: torch.device | str = "cpu",
    ):
        self.model: nn.Module = model
        self.batch_size, self.bptt, self.val_penalties = batch_size, bptt, val_penalties
        self.streams = {
            split: Stream(batchify(getattr(corpus, split), batch_size, split).to(device), bptt)
            for split in ("train", "valid")
        }
        self.part = 1.0  # of a mini-batch's columns
        self.evaluation = {
            split: batchify(getattr(corpus, split), batch, split).to(device)
            for split, batch in EVALUATION_BATCH.items()
        }

    def batch(self, split: str) -> Batch:
        stream = self.streams[split]
        state = stream.state
        return Batch(split, *stream.next(), state)

    def predict(self, batch: Batch, draw: Draw) -> Prediction:
        return Prediction(*self.model.encode(batch.inputs, batch.state, draw))

    def loss(self, prediction: Prediction, batch: Batch, draw: Draw) -> Loss:
        dropped, raw, _ = prediction
        data = objective = self._cross_entropy(dropped, batch.targets)
        if self.model.training or self.val_penalties:
            objective = data + activation_penalty(dropped, draw["alpha"]) + temporal_penalty(raw, draw["beta"])
        return Loss(objective, data, batch.targets.numel(), part=self.part)

    def carry(self, batch: Batch, prediction: Prediction) -> None:
        self.streams[batch.split].carry(prediction.state)

    def share_among(self, ranks: Ranks) -> None:
        super().share_among(ranks)
        self.part = ranks.own(self.batch_size) / self.batch_size
        self.streams = {split: Stream(stream.data, self.bptt, ranks) for split, stream in self.streams.items()}
        self.evaluation = {split: ranks.part(data, axis=1) for split, data in self.evaluation.items()}

    def evaluate(self, split: str, draw: Draw) -> Score:
        data = self.evaluation[split]
        if not data.shape[1]:
            return Score(0.0, targets=0)  # other ranks have it all
        steps = max(self.bptt, EVALUATION_ROWS // data.shape[1])
        total, state = torch.zeros((), dtype=torch.float64, device=data.device), None
        for start in range(0, len(data) - 1, steps):
            inputs, targets = chunk(data, start, steps)
            outputs, _, state = self.model.encode(inputs, state, draw)
            total += self._cross_entropy(outputs, targets) * targets.numel()
        return Score(total.item() / data[1:].numel(), targets=data[1:].numel())

    def _cross_entropy(self, outputs: Tensor, targets: Tensor) -> Tensor:
        decoder = self.model.decoder
        return linear_cross_entropy(outputs, decoder.weight, decoder.bias, targets)
