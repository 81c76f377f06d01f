"""A task made of loaders: any iterables of mini-batches, such as torch.utils.data.DataLoader's."""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from stn.bilevel import Loss, MeanScore, Score, StreamTask
from stn.errors import UserError
from stn.hyperparameters import Draw

TARGETS = ("target", "targets", "label", "labels", "y")  # what dictionaries may call what is to be predicted


class LoaderStream:
    """The mini-batches of a loader, pass after pass.

    name: of the loader, for messages. loader: can be gone through again. batches: of a pass, where the loader has no
    length. On resuming, the loader goes again through the mini-batches of the pass under way that are done, from the
    random numbers of PyTorch's that the pass began with.

    Raises UserError for a loader without mini-batches, or one whose number is not known.
    """

    def __init__(self, name: str, loader: Iterable, batches: int | None = None):
        self.name, self.loader = name, loader
        try:
            self.length = len(loader) if batches is None else batches
        except TypeError:
            remedy = f'give batches={{"{name}": N}}, the number of its mini-batches that make a pass'
            raise UserError(f"the {name} loader has no length: {remedy}") from None
        if self.length < 1:
            raise UserError(f"the {name} loader has no mini-batch: give it more data, or smaller mini-batches")
        self.epochs = self.done = 0
        self.began = torch.get_rng_state()
        self.iterator = None

    @property
    def steps(self) -> tuple[int, int]:
        """Mini-batches of this pass: done, and in all."""
        return self.done, self.length

    def next(self) -> Any:
        if self.iterator is None:
            self.began, self.iterator = torch.get_rng_state(), iter(self.loader)
        try:
            batch = next(self.iterator)
        except StopIteration:
            found = f"ended after {self.done} mini-batches, not {self.length}"
            raise UserError(f"the {self.name} loader {found}: give one that can be gone through again") from None
        self.done += 1
        if self.done == self.length:
            self.epochs, self.done, self.iterator = self.epochs + 1, 0, None
        return batch

    def state_dict(self) -> dict:
        return {"epochs": self.epochs, "done": self.done, "began": self.began}

    def load_state_dict(self, state: dict) -> None:
        if state["done"] >= self.length:
            raise ValueError(
                f"the checkpoint is of {state['done']} mini-batches and more, the loader has {self.length}"
            )
        self.epochs, self.done, self.iterator = state["epochs"], 0, None
        if state["done"]:
            now = torch.get_rng_state()
            torch.set_rng_state(state["began"])
            for _ in range(state["done"]):
                self.next()
            torch.set_rng_state(now)
        self.began = state["began"]


Split = Callable[[Any], tuple[Sequence[Any], Mapping[str, Any], Any]]


class Predicted(NamedTuple):
    """output: of the network. target: what it should be, as augmented with the inputs."""

    output: Any
    target: Any


def inputs_and_target(batch: Any) -> tuple[Sequence[Any], Mapping[str, Any], Any]:
    """The network's positional and named inputs, and the target: the last of a sequence, or what TARGETS name.

    Raises TypeError for a mini-batch of another kind.
    """
    if isinstance(batch, Mapping):
        for name in TARGETS:
            if name in batch:
                return (), {key: value for key, value in batch.items() if key != name}, batch[name]
        raise TypeError(f"a mini-batch has {', '.join(map(str, batch))}, none of {', '.join(TARGETS)}: give `split`")
    if isinstance(batch, tuple | list) and len(batch) > 1:
        return batch[:-1], {}, batch[-1]
    raise TypeError(
        f"a mini-batch is a {type(batch).__name__}, neither (inputs, target) nor a dictionary: give `split`"
    )


class LoaderTask(StreamTask):
    """What `stn.fit` trains: a network, called as net(…, draw=draw), on loaders.

    loss: of (output, target), averaged over what is predicted. split: of a mini-batch into the network's positional and
    named inputs and the target. augment: of (mini-batch, draw), in training only. weight_decay: of a draw, added to the
    training loss. accuracy: of (output, target), the fraction that is right. likelihood: whether the loss is a negative
    log-likelihood, so that logs may have the perplexity. autocast: the type of matrix products. device: where
    mini-batches go. batch_axis: of their tensors. batches: of a pass, by loader, for those without a length.
    """

    def __init__(
        self,
        model: nn.Module,
        loss: Callable[[Any, Any], Tensor],
        loaders: Mapping[str, Iterable],
        *,
        split: Split = inputs_and_target,
        augment: Callable[[Any, Draw], Any] | None = None,
        weight_decay: Callable[[Draw], Tensor] | None = None,
        accuracy: Callable[[Any, Any], Tensor] | None = None,
        likelihood: bool = False,
        autocast: torch.dtype | None = None,
        device: torch.device | str = "cpu",
        batch_axis: int = 0,
        batches: Mapping[str, int] | None = None,
    ):
        self.model, self.loss_of, self.loaders, self.split, self.augment = model, loss, loaders, split, augment
        self.weight_decay, self.accuracy_of, self.autocast_dtype = weight_decay, accuracy, autocast
        self.likelihood = likelihood
        self.device, self.batch_axis, self.batches = torch.device(device), batch_axis, dict(batches or {})
        self.streams = {
            split: LoaderStream(split, loaders[split], self.batches.get(split)) for split in ("train", "valid")
        }
        self.batch_size = max(self._largest(loader) for loader in loaders.values())

    def predict(self, batch: Any, draw: Draw) -> Predicted:
        batch = moved(batch, self.device)
        draw = self._of_these(draw, batch)
        if self.model.training and self.augment is not None:
            batch = self.augment(batch, draw)
        inputs, named, target = self.split(batch)
        with self._autocast():
            return Predicted(self.model(*inputs, draw=draw, **named), target)

    def loss(self, prediction: Predicted, batch: Any, draw: Draw) -> Loss:
        with self._autocast():
            data = self.loss_of(*prediction)
        objective = data
        if self.model.training and self.weight_decay is not None:
            objective = data + self.weight_decay(self._of_these(draw, batch))
        accuracy = None if self.accuracy_of is None else self.accuracy_of(*prediction).detach().to(data.dtype)
        return Loss(objective, data.detach(), self._examples(batch), accuracy)

    def evaluate(self, split: str, draw: Draw) -> Score:
        total = MeanScore()
        for number, batch in enumerate(self.loaders[split]):
            if number == self.batches.get(split):
                break
            loss = self.loss(self.predict(batch, draw), batch, draw)
            total.add(Score(loss.data.item(), None if loss.accuracy is None else loss.accuracy.item()), loss.targets)
        return total.mean()

    def _of_these(self, draw: Draw, batch: Any) -> Draw:
        """The draw's rows for this mini-batch, the last of a pass being a smaller one."""
        examples = self._examples(batch)
        if 1 < len(draw.h) < examples:
            raise UserError(
                f"a mini-batch has {examples} examples, more than the {len(draw.h)} of the first one: give the loader "
                "mini-batches of one size, of which only a pass's last one is smaller"
            )
        return draw.first(examples)

    def _examples(self, batch: Any) -> int:
        """How many a mini-batch has: by its first tensor."""
        tensor = next(tensors_in(batch), None)
        if tensor is None or tensor.dim() <= self.batch_axis:
            raise TypeError(f"a mini-batch needs a tensor with the examples along axis {self.batch_axis}")
        return tensor.shape[self.batch_axis]

    def _largest(self, loader: Iterable) -> int:
        """The examples of a mini-batch, as the loader says, or its first one has."""
        if isinstance(size := getattr(loader, "batch_size", None), int):
            return size
        with torch.random.fork_rng():
            return self._examples(next(iter(loader)))

    def _autocast(self) -> AbstractContextManager:
        return torch.autocast(self.device.type, self.autocast_dtype) if self.autocast_dtype else nullcontext()


def tensors_in(batch: Any) -> Iterator[Tensor]:
    """Those of a tensor, sequence or dictionary, in order."""
    if isinstance(batch, Tensor):
        yield batch
    elif isinstance(batch, Mapping | tuple | list):
        for part in batch.values() if isinstance(batch, Mapping) else batch:
            yield from tensors_in(part)


def moved(batch: Any, device: torch.device) -> Any:
    """The batch with its tensors on the device."""
    if isinstance(batch, Tensor):
        return batch.to(device, non_blocking=True)
    if isinstance(batch, Mapping):
        return {key: moved(part, device) for key, part in batch.items()}
    if isinstance(batch, tuple | list):
        parts = [moved(part, device) for part in batch]
        return type(batch)(*parts) if hasattr(batch, "_fields") else type(batch)(parts)
    return batch
