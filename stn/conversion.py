"""Any network into its self-tuning twin, and back into a plain network.

`convert` copies a network and replaces its linear, convolutional, embedding, LSTM, attention and dropout layers by
twins: the same layers, with the same parameters under the same keys, whose weights respond to the hyperparameters
(MacKay et al. 2019, eq. 9-11) and whose dropout rates are hyperparameters. The gates start at 0, as the Δ-STN's do
(Bae & Grosse 2020), so that at first the twin computes what the network does. `collapse` folds the response at the
current hyperparameters into the weights.
"""

import warnings
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from copy import deepcopy
from functools import cache
from typing import Any

import torch
from torch import nn
from torch.nn.utils import parametrize

from stn.hyperparameters import Draw, Hyperparameters, Tuned
from stn.layers import HyperLayer, split_parameters
from stn.patterns import Patterns
from stn.twins.affine import Conv1d, Conv2d, Embedding, Linear
from stn.twins.attention import MultiheadAttention
from stn.twins.draws import Draws, Place, Twin
from stn.twins.dropout import Dropout, Dropout1d, Dropout2d
from stn.twins.recurrent import LSTM

_AttentionOutput = nn.modules.linear.NonDynamicallyQuantizableLinear

Pattern = str | Sequence[str] | Callable[[str, nn.Module], bool]

TWINS: dict[type[nn.Module], type[Twin]] = {
    nn.Linear: Linear,
    nn.Conv1d: Conv1d,
    nn.Conv2d: Conv2d,
    nn.Embedding: Embedding,
    nn.LSTM: LSTM,
    nn.MultiheadAttention: MultiheadAttention,
    _AttentionOutput: Linear,
}
DROPOUT_TWINS: dict[type[nn.Module], type[Twin]] = {
    nn.Dropout: Dropout,
    nn.Dropout1d: Dropout1d,
    nn.Dropout2d: Dropout2d,
}


class SelfTuning(nn.Module):
    """A network that `convert` made self-tuning.

    module: the network, a copy. Its layers find the draw of the call under way. made: what became of each layer, by its
    name.

    forward: what the network takes, and draw=…, which has a row for each example or one for all.
    """

    def __init__(self, module: nn.Module, hyper: Hyperparameters, draws: Draws, made: Mapping[str, str]):
        super().__init__()
        self.module, self.draws, self.made = module, draws, dict(made)
        self.training = module.training
        self._hyper = (hyper,)  # not a part of the network: its parameters have optimizers of their own

    @property
    def hyper(self) -> Hyperparameters:
        return self._hyper[0]

    def forward(self, *inputs: Any, draw: Draw | None = None, **named: Any) -> Any:
        if draw is None:
            return self.module(*inputs, **named)  # inside `using`; elsewhere layers say what they miss
        with self.using(draw):
            return self.module(*inputs, **named)

    @contextmanager
    def using(self, draw: Draw) -> Iterator[None]:
        """While this lasts, calls of the network, or of a part of it, use this draw."""
        if not isinstance(draw, Draw) or draw.h.shape[-1] != self.hyper.num_tuned:
            raise TypeError(f"draw is {draw!r}: give one of this network's hyperparameters, such as hyper.current()")
        with self.draws.using(draw):
            yield


def convert(
    module: nn.Module,
    hyper: Hyperparameters,
    *,
    dropout: str | Mapping[str, str] | None = None,
    respond: Pattern = "*",
    batch_axis: int | Mapping[str, int] = 0,
) -> SelfTuning:
    """A self-tuning copy of a network.

    dropout: the hyperparameter that is the rate of all dropout layers, or one for each pattern of their names, of which
        the first that fits counts. LSTM and attention layers follow where their own rate is above 0; others keep it.
    respond: which layers respond: patterns of their names, such as "encoder.*", or a function of name and layer. Those
        that are frozen, or whose weight another layer has that responds, do not. A layer whose weight the network reads
        by itself, without calling the layer, must be left out: its response would be passed by.
    batch_axis: which axis of the inputs of linear, embedding and dropout layers is the batch, or which by patterns of
        their names. Convolutions have theirs first; LSTM and attention layers where their batch_first says. Checked at
        each call whose draw has a row for each example.

    A pattern is as in a shell: * stands for anything. Raises ValueError for a hyperparameter that is not there or no
    rate, a pattern that fits no layer, or an axis that contradicts a layer's batch_first; TypeError for a converted
    network.

    >>> import stn
    >>> hyper = stn.Hyperparameters(dropout=stn.Tuned(0.1, range=(0, 1)))
    >>> network = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Dropout(0.5), nn.Linear(8, 2))
    >>> net = convert(network, hyper, dropout="dropout")
    >>> net(torch.zeros(3, 4), draw=hyper.perturbed(3)).shape
    torch.Size([3, 2])
    """
    if any(isinstance(part, Twin | SelfTuning) for part in module.modules()):
        raise TypeError("the network, or a part of it, is converted already: convert the plain one")
    conversion = _Conversion(deepcopy(module), hyper, dropout, respond, batch_axis)
    conversion.convert()
    return SelfTuning(conversion.network, hyper, conversion.draws, conversion.made)


class _Conversion:
    """One call of `convert`. network: changed in place. made: what became of each layer."""

    def __init__(self, network, hyper, dropout, respond, batch_axis):
        self.network, self.hyper, self.draws = network, hyper, Draws()
        self.dropout = Patterns("dropout", {} if dropout is None else dropout)
        self.batch_axis = Patterns("batch_axis", batch_axis)
        patterns = [respond] if isinstance(respond, str) else respond
        self.respond = respond if callable(respond) else Patterns("respond", dict.fromkeys(patterns, True))
        self.made: dict[str, str] = {}
        self.owners: dict[nn.Parameter, str] = {}  # the layers that respond, by their weights
        self.read_by_parents: set[nn.Module] = set()  # layers that are not called
        for name in self.dropout.values:
            if name not in hyper.names:
                known = ", ".join(hyper.names) or "none"
                raise ValueError(f"dropout is to follow {name!r}, which is no hyperparameter: there are {known}")
            source = hyper.sources[name]
            if isinstance(source, Tuned) and not 0 <= source.range[0] < source.range[1] <= 1:
                raise ValueError(f"dropout is to follow {name}, which is no rate: give it a range within (0, 1)")
        for axis in self.batch_axis.values:
            if not isinstance(axis, int) or axis < 0:
                raise ValueError(f"batch_axis is {axis!r}: count axes from the first, which is 0")

    def convert(self) -> None:
        names: dict[nn.Module, list[str]] = {}
        for name, layer in self.network.named_modules(remove_duplicate=False):
            names.setdefault(layer, []).append(name)
        dropping = [name for layer, called in names.items() if _drops(layer) for name in called]
        for layer, (name, *others) in names.items():
            self.consider(name, layer)
            if name in self.made:
                self.made |= dict.fromkeys(others, f"is {name}")
        if self.dropout.by_pattern and not dropping:
            raise ValueError("dropout: the network has no dropout layer that could follow a hyperparameter")
        self.dropout.refuse_idle(dropping)
        for patterns in (self.batch_axis, self.respond):
            if isinstance(patterns, Patterns):
                patterns.refuse_idle(name for called in names.values() for name in called)

    def consider(self, name: str, layer: nn.Module) -> None:
        """Replace a layer by its twin, or note why it stays as it is."""
        kind, called = _kind(layer), parametrize.type_before_parametrizations(layer).__name__
        if ".parametrizations." in f".{name}.":
            return  # a part of a weight
        if kind in DROPOUT_TWINS:
            rate = self.dropout.of(name)
            if rate:
                self.replace(name, layer, DROPOUT_TWINS[kind], rate, 0)
            self.made[name] = f"{called}, rate: {rate or f'{layer.p:g}'}"
        elif kind in TWINS:
            rate = self.dropout.of(name) if _drops(layer) else None
            unsupported = _unsupported(layer)
            why_not = unsupported or self.why_plain(name, layer)
            # A plain attention layer reads its output projection's weight by itself; its twin calls the projection.
            if not unsupported and (rate or not why_not or kind is nn.MultiheadAttention):
                self.replace(name, layer, TWINS[kind], rate, 0 if why_not else self.hyper.num_tuned)
            elif kind is nn.MultiheadAttention:
                self.read_by_parents.add(layer.out_proj)
            self.made[name] = f"{called}, " + (f"plain: {why_not}" if why_not else "responds")
            self.made[name] += f", dropout: {rate}" if rate else ""
        elif isinstance(layer, HyperLayer) and layer.num_hyper:
            self.made[name] = f"{called}, responds by itself, to the draw that it is given"
        elif [*layer.parameters(recurse=False)] or isinstance(layer, nn.modules.dropout._DropoutNd):
            self.made[name] = f"{called}, plain: it has no twin"
            if isinstance(layer, nn.MultiheadAttention):
                self.read_by_parents.add(layer.out_proj)
        if isinstance(layer, nn.TransformerEncoder | nn.TransformerEncoderLayer):
            _keep_from_the_fast_path(layer)

    def why_plain(self, name: str, layer: nn.Module) -> str:
        """Why a layer that could respond is not to; empty where it is."""
        weights = _weights(layer)
        if not self.hyper.num_tuned:
            return "nothing is tuned"
        if not (self.respond(name, layer) if callable(self.respond) else self.respond.of(name)):
            return "not asked to respond"
        if not any(weight.requires_grad for weight in weights):
            return "frozen"
        if layer in self.read_by_parents:
            return "its attention layer is plain, and reads its weight without calling it"
        for weight in weights:
            if weight in self.owners:
                return f"shares its weight with {self.owners[weight]}"
        self.owners |= dict.fromkeys(weights, name)
        return ""

    def replace(self, name: str, layer: nn.Module, twin: type[Twin], rate: str | None, num_hyper: int) -> None:
        axis, plain_class, own = self.axis_of(name, layer), type(layer), {*layer._parameters}
        layer.__class__ = _twin_class(twin, plain_class, parametrize.is_parametrized(layer))
        layer.place, layer.num_hyper = Place(name, plain_class, axis, self.draws, rate), 0
        if num_hyper:
            layer.add_response(num_hyper)
            layer.place.response = frozenset(layer._parameters) - own

    def axis_of(self, name: str, layer: nn.Module) -> int:
        """Where the batch is, as the layer itself says, or else as it is stated."""
        if isinstance(layer, nn.Conv1d | nn.Conv2d | nn.Dropout1d | nn.Dropout2d | _AttentionOutput):
            return 0
        stated = self.batch_axis.of(name) or 0
        if hasattr(layer, "batch_first") and stated != (own := 0 if layer.batch_first else 1):
            raise ValueError(
                f"{name or 'the network'} has batch_first={layer.batch_first}, so that axis {own} is its batch, and "
                f"batch_axis says {stated}: state batch_axis={own}, or by patterns of names which layers have it where"
            )
        return stated


def _kind(layer: nn.Module) -> type[nn.Module] | None:
    """The class of torch.nn that has a twin and that the layer computes as; None where there is none."""
    own, computes = parametrize.type_before_parametrizations(layer), ("forward", "_conv_forward")
    for base in own.__mro__:
        if base in TWINS or base in DROPOUT_TWINS:
            same = all(getattr(own, name, None) is getattr(base, name, None) for name in computes)
            return base if same and not {*computes} & {*layer.__dict__} else None
    return None


def _drops(layer: nn.Module) -> bool:
    """Whether the layer has a dropout rate that could follow a hyperparameter."""
    kind = _kind(layer)
    if kind is nn.LSTM:
        return layer.dropout > 0 and layer.num_layers > 1
    return kind in DROPOUT_TWINS or (kind is nn.MultiheadAttention and layer.dropout > 0)


def _weights(layer: nn.Module) -> list[nn.Parameter]:
    """Its own, without biases and those of layers within it, but with what its parametrizations compute them from."""
    return [
        value
        for key, value in layer.named_parameters()
        if "weight" in key and (key.startswith("parametrizations.") or "." not in key)
    ]


def _unsupported(layer: nn.Module) -> str:
    """What a layer has that its twin could not do; empty where there is nothing."""
    for option in ("max_norm", "sparse", "proj_size", "bias_k", "add_zero_attn"):
        value = getattr(layer, option, None)
        if value is not None and (isinstance(value, torch.Tensor) or value):
            return f"it has {option}"
    for clash in ("place", "num_hyper"):
        if hasattr(layer, clash):
            return f"it has an attribute {clash} of its own"
    known = {*layer._parameters, *(layer.parametrizations if parametrize.is_parametrized(layer) else ())}
    if isinstance(layer, nn.Linear | nn.Conv1d | nn.Conv2d | nn.Embedding) and "weight" not in known:
        return "a hook computes its weight: take torch.nn.utils.parametrizations"
    return ""


@cache
def _twin_class(twin: type[Twin], plain_class: type[nn.Module], parametrized: bool = False) -> type[Twin]:
    """The twin of a layer whose class is derived from that of torch.nn, by its author or by a parametrization."""
    if issubclass(twin, plain_class):
        return twin
    own = {} if parametrized else {"__reduce__": _reduced}  # PyTorch pickles no parametrized layer, and says so
    return type(plain_class.__name__, (twin, plain_class), {"twin": twin, **own})


def _reduced(layer: Twin) -> tuple:
    return _blank, (type(layer).twin, layer.place.plain_class), layer.__dict__.copy()


def _blank(twin: type[Twin], plain_class: type[nn.Module]) -> Twin:
    made = _twin_class(twin, plain_class)
    return made.__new__(made)


def _keep_from_the_fast_path(layer: nn.Module) -> None:
    """Have PyTorch call a Transformer's layers in evaluation, too, where it would else read only their weights."""
    if isinstance(layer, nn.TransformerEncoder):
        layer.nested_before, layer.use_nested_tensor = layer.use_nested_tensor, False
    else:
        layer.register_forward_pre_hook(_no_fast_path)  # a layer with hooks is never bypassed


def _no_fast_path(*_: object) -> None:
    """A hook that does nothing."""


def collapse(net: SelfTuning) -> nn.Module:
    """The plain network that a converted one is at the current hyperparameters: of the original class, with its keys.

    Its dropout rates are the current ones. A parameter that two layers share, and that does not respond alike in both,
    is two parameters then, which a warning says.

    >>> import stn
    >>> hyper = stn.Hyperparameters(dropout=stn.Tuned(0.1, range=(0, 1)))
    >>> net = convert(nn.Sequential(nn.Linear(4, 2), nn.Dropout(0.5)), hyper, dropout="dropout")
    >>> collapse(net)
    Sequential(
      (0): Linear(in_features=4, out_features=2, bias=True)
      (1): Dropout(p=0.10000000149011612, inplace=False)
    )
    """
    network = deepcopy(net.module)
    uses = Counter(parameter for layer in network.modules() for parameter in layer.parameters(recurse=False))
    with torch.no_grad():
        draw = net.hyper.current()
        for name, layer in network.named_modules():
            if isinstance(layer, Twin):
                folded = layer.folded(draw.h) if layer.num_hyper else {}
                _make_plain(layer, draw)
                for key, value in folded.items():
                    _assign(layer, key, value, f"{name}.{key}", uses)
            for place, hook in [*layer._forward_pre_hooks.items()]:
                if hook is _no_fast_path:
                    del layer._forward_pre_hooks[place]
            if "nested_before" in layer.__dict__:
                layer.use_nested_tensor = layer.__dict__.pop("nested_before")
    return network


def _assign(layer: nn.Module, key: str, value: torch.Tensor, name: str, uses: Mapping[nn.Parameter, int]) -> None:
    """Give a parameter of a layer another value, apart from those of other layers."""
    old = getattr(layer, key)
    if torch.equal(old, value):
        return
    if parametrize.is_parametrized(layer, key):
        try:
            setattr(layer, key, value)
            fits = torch.allclose(getattr(layer, key), value, rtol=1e-4, atol=1e-6)
        except (NotImplementedError, RuntimeError, ValueError):  # it has no inverse, or none for this value
            fits = False
        if not fits:
            warnings.warn(f"{name}: its parametrization cannot have the response's value, and is removed", stacklevel=3)
            parametrize.remove_parametrizations(layer, key)
            getattr(layer, key).copy_(value)
    elif uses[old] > 1:
        told = "does not respond alike in all layers that share it: it is a parameter of its own now"
        warnings.warn(f"{name} {told}", stacklevel=3)
        setattr(layer, key, nn.Parameter(value.clone(), old.requires_grad))
    else:
        old.copy_(value)


def _make_plain(layer: Twin, draw: Draw) -> None:
    place = layer.place
    if place.rate is not None:
        setattr(layer, "p" if hasattr(layer, "p") else "dropout", float(draw[place.rate]))
    for key in place.response:
        delattr(layer, key)
    del layer.place, layer.num_hyper
    layer.__class__ = place.plain_class


def summary(net: SelfTuning) -> str:
    """A table of what became of each layer, for print."""
    width = max(map(len, net.made), default=0)
    elementary, response = (sum(weight.numel() for weight in part) for part in split_parameters(net))
    lines = [f"{name.ljust(width)}  {what}" for name, what in net.made.items()]
    return "\n".join([*lines, f"{elementary:,} elementary parameters, {response:,} of the response"])
