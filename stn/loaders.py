"""A task made of loaders: any iterables of mini-batches, such as torch.utils.data.DataLoader's."""

import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping, MutableMapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from copy import copy
from dataclasses import dataclass, field
from itertools import islice
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from stn.bilevel import Loss, MeanScore, Score, StreamTask
from stn.errors import UserError
from stn.hyperparameters import Draw
from stn.kernels.precision import of_products
from stn.streams import LoaderStream, refuse_spent

TARGETS = ("target", "targets", "label", "labels", "y")  # what dictionaries may call what is to be predicted


Split = Callable[[Any], tuple[Sequence[Any], Mapping[str, Any], Any]]


class Portion(NamedTuple):
    """content: a mini-batch, or this rank's share of one. part: which part of the whole that is."""

    content: Any
    part: float = 1.0


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


@dataclass(frozen=True, eq=False)
class _Watched(Draw):
    """A draw that notes which hyperparameters are read."""

    read: set[str] = field(default_factory=set)

    def __getitem__(self, name: str) -> float | Tensor:
        self.read.add(name)
        return super().__getitem__(name)


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
        self.read: set[str] | None = set()  # hyperparameters, by the first training loss; None after it
        self.device, self.batch_axis, self.batches = torch.device(device), batch_axis, dict(batches or {})
        if unknown := [*self.batches.keys() - loaders.keys()]:
            raise UserError(f"batches names {unknown[0]!r}, which is no loader: there are {', '.join(loaders)}")
        self.streams = {
            split: LoaderStream(split, loaders[split], self.batches.get(split)) for split in ("train", "valid")
        }
        if "test" in loaders:
            refuse_spent("test", loaders["test"])
        self.batch_size = max(self._largest(loaders[split]) for split in self.streams)

    def batch(self, split: str) -> Portion:
        whole = super().batch(split)
        if self.ranks.size == 1:
            return Portion(whole)
        examples = self._examples(whole)
        return Portion(self._share(whole, examples), self.ranks.own(examples) / examples)

    def _share(self, whole: Any, examples: int) -> Any:
        """This rank's, of every tensor that has so many examples."""
        axis = self.batch_axis

        def share(tensor: Tensor) -> Tensor:
            has_examples = tensor.dim() > axis and tensor.shape[axis] == examples
            return self.ranks.share(tensor, axis) if has_examples else tensor

        return _mapped(whole, share)

    def predict(self, batch: Portion, draw: Draw) -> Predicted:
        batch = moved(batch.content, self.device)
        draw = self._of_these(draw, batch)
        if self.model.training and self.augment is not None:
            batch = self.augment(batch, draw)
        inputs, named, target = self.split(batch)
        with self._autocast():
            output = self.model(*inputs, draw=draw, **named)
        return Predicted(output if self.autocast_dtype is None else in_float32(output), target)

    def loss(self, prediction: Predicted, batch: Portion, draw: Draw) -> Loss:
        data = _scalar("the loss", self.loss_of(*prediction))
        objective = data
        if self.model.training and self.weight_decay is not None:
            objective = data + self.weight_decay(self._of_these(draw, batch.content))
        if self.model.training and self.read is not None:
            self._warn_of_unread(draw)
        accuracy = None
        if self.accuracy_of is not None:
            accuracy = _scalar("the accuracy", self.accuracy_of(*prediction)).detach().to(data.dtype)
        examples = self._examples(batch.content) if batch.part else 0
        return Loss(objective, data.detach(), examples, accuracy, batch.part)

    def evaluate(self, split: str, draw: Draw) -> Score:
        numbers, targets, number = [], [], -1
        for number, content in enumerate(self._evaluated(split)):
            if number % self.ranks.size != self.ranks.rank:
                continue
            batch = Portion(content)
            loss = self.loss(self.predict(batch, draw), batch, draw)
            numbers.append(torch.stack([loss.data, *([] if loss.accuracy is None else [loss.accuracy])]))
            targets.append(loss.targets)
        if number < 0:
            raise UserError(f"the {split} loader has no mini-batch: give it more data, or smaller mini-batches")
        if not targets:  # other ranks have them all
            return Score(0.0, None if self.accuracy_of is None else 0.0, 0)
        total = MeanScore()
        fetched = torch.stack(numbers).tolist()  # from the device at once
        for scores, count in zip(fetched, targets, strict=True):
            total.add(Score(*scores), count)
        if total.accuracy is not None and not 0 <= total.accuracy <= total.targets:
            raise UserError(
                "the accuracy is not between 0 and 1: give a function that returns the fraction that is right"
            )
        return total.mean()._replace(targets=total.targets)

    def _evaluated(self, split: str) -> Iterator[Any]:
        """A split's mini-batches. All ranks' loaders draw the same random numbers; what is done in between may not."""
        with self.ranks.shared_random_numbers():
            batches = islice(self.loaders[split], self.batches.get(split))
        ended = object()
        while True:
            with self.ranks.shared_random_numbers():
                content = next(batches, ended)
            if content is ended:
                return
            yield content

    def _of_these(self, draw: Draw, batch: Any) -> Draw:
        """The draw's rows for this mini-batch, the last of a pass being a smaller one."""
        examples = self._examples(batch)
        if 1 < len(draw.h) < examples:
            told = (
                f"a mini-batch has {examples} examples along axis {self.batch_axis}, more than the {len(draw.h)} of its"
            )
            sizes = "give mini-batches of one size, of which only a pass's last one is smaller"
            axis = "say with batch_axis= where the examples are"
            raise UserError(f"{told} loader's batch_size or first mini-batch: {sizes}, or {axis}")
        draw = draw.first(examples)
        return draw if self.read is None else _Watched(**vars(draw), read=self.read)

    def _warn_of_unread(self, draw: Draw) -> None:
        """Once, of hyperparameters that the first training loss has not read."""
        unread, self.read = [name for name in draw.columns if name not in self.read], None
        if unread:
            told = f"training does not read {', '.join(unread)}, so that nothing can be learned of that"
            warnings.warn(f"{told}: name it in stn.convert or stn.fit, or read it in `augment`", stacklevel=2)

    def _examples(self, batch: Any) -> int:
        """How many a mini-batch has: by its first tensor."""
        tensor = next(tensors_in(batch), None)
        if tensor is None or tensor.dim() <= self.batch_axis:
            raise TypeError(f"a mini-batch has no tensor with examples along axis {self.batch_axis}: give such tensors")
        return tensor.shape[self.batch_axis]

    def _largest(self, loader: Iterable) -> int:
        """The examples of a mini-batch, as the loader says, or its first one has."""
        if isinstance(size := getattr(loader, "batch_size", None), int):
            return size
        with torch.random.fork_rng():
            return self._examples(next(iter(loader)))

    def _autocast(self) -> AbstractContextManager:
        dtype = self.autocast_dtype and of_products(self.autocast_dtype)
        return nullcontext() if dtype in (None, torch.float32) else torch.autocast(self.device.type, dtype)


def tensors_in(batch: Any) -> Iterator[Tensor]:
    """Those of a tensor, sequence or dictionary, in order."""
    if isinstance(batch, Tensor):
        yield batch
    elif isinstance(batch, Mapping | tuple | list):
        for part in batch.values() if isinstance(batch, Mapping) else batch:
            yield from tensors_in(part)


def _scalar(what: str, value: Any) -> Tensor:
    """Raises UserError for what is no scalar tensor."""
    if isinstance(value, Tensor) and value.dim() == 0:
        return value
    found = f"a tensor {tuple(value.shape)}" if isinstance(value, Tensor) else f"a {type(value).__name__}"
    raise UserError(f"{what} is {found}: give a function that returns a scalar tensor, the mean over a mini-batch")


def in_float32(output: Any) -> Any:
    """With the tensors that autocast has left in a shorter type, so that losses are not rounded to it."""
    short = (torch.bfloat16, torch.float16)
    return _mapped(output, lambda tensor: tensor.float() if tensor.dtype in short else tensor)


def moved(batch: Any, device: torch.device) -> Any:
    """The batch with its tensors on the device."""
    return _mapped(batch, lambda tensor: tensor.to(device, non_blocking=True))


def _mapped(value: Any, change: Callable[[Tensor], Tensor]) -> Any:
    """The same with each tensor of a tensor, sequence or dictionary changed."""
    if isinstance(value, Tensor):
        return change(value)
    if type(value) is dict:
        return {key: _mapped(part, change) for key, part in value.items()}
    if isinstance(value, MutableMapping):  # of Hugging Face, say, which are also read as attributes
        new = copy(value)
        for key, part in value.items():
            new[key] = _mapped(part, change)
        return new
    if isinstance(value, tuple | list):
        parts = [_mapped(part, change) for part in value]
        return type(value)(*parts) if hasattr(value, "_fields") else type(value)(parts)
    return value
