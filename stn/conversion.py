"""Any network into its self-tuning twin, and back into a plain network.

`convert` copies a network and replaces its linear, convolutional, embedding, LSTM, attention and dropout layers by
twins: the same layers, with the same parameters under the same keys, whose weights respond to the hyperparameters
(MacKay et al. 2019, eq. 9-11) and whose dropout rates are hyperparameters. The gates start at 0, as the Δ-STN's do
(Bae & Grosse 2020), so that at first the twin computes what the network does. `collapse` folds the response at the
current hyperparameters into the weights.
"""

import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from copy import deepcopy
from typing import Any

import torch
from torch import nn
from torch.nn.utils import parametrize

from stn.hyperparameters import Draw, Hyperparameters
from stn.layers import is_response, split_parameters
from stn.patterns import Patterns
from stn.twins.affine import Conv1d, Conv2d, Embedding, Linear
from stn.twins.attention import MultiheadAttention
from stn.twins.draws import Draws, Twin
from stn.twins.dropout import Dropout, Dropout1d, Dropout2d
from stn.twins.recurrent import LSTM

_AttentionOutput = nn.modules.linear.NonDynamicallyQuantizableLinear
_OF_TWINS = ("plain_class", "layer", "batch_axis", "draws", "rate", "num_hyper")

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
WITH_DROPOUT = (nn.LSTM, nn.MultiheadAttention)  # layers that have a dropout rate of their own


class SelfTuning(nn.Module):
    """A network that `convert` made self-tuning.

    module: the network, a copy. Its layers find the draw of the call under way. made: what became of each layer, by its
    name.

    forward: what the network takes, and draw=…, which has a row for each example or one for all.
    """

    def __init__(self, module: nn.Module, hyper: Hyperparameters, draws: Draws, made: Mapping[str, str]):
        super().__init__()
        self.module, self.draws, self.made = module, draws, dict(made)
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
        that are frozen, or whose weight another layer has that responds, do not.
    batch_axis: which axis of the inputs of linear, embedding and dropout layers is the batch, or which by patterns of
        their names. Convolutions have theirs first; LSTM and attention layers where their batch_first says. Checked at
        each call whose draw has a row for each example.

    A pattern is as in a shell: * stands for anything. Raises ValueError for a hyperparameter that is not there, a
    pattern that fits no layer, or an axis that contradicts a layer's batch_first; TypeError for a converted network.

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
        for name in self.dropout.values:
            if name not in hyper.names:
                known = ", ".join(hyper.names) or "none"
                raise ValueError(f"dropout is to follow {name!r}, which is no hyperparameter: there are {known}")

    def convert(self) -> None:
        names: dict[nn.Module, list[str]] = {}
        for name, layer in self.network.named_modules(remove_duplicate=False):
            names.setdefault(layer, []).append(name)
        for layer, (name, *others) in names.items():
            self.consider(name, layer)
            if name in self.made:
                self.made |= dict.fromkeys(others, f"is {name}")
        for patterns in (self.dropout, self.batch_axis, self.respond):
            if isinstance(patterns, Patterns):
                patterns.refuse_idle()

    def consider(self, name: str, layer: nn.Module) -> None:
        """Replace a layer by its twin, or note why it stays as it is."""
        kind = _kind(layer)
        if kind in DROPOUT_TWINS:
            rate = self.dropout.of(name)
            if rate:
                self.replace(name, layer, DROPOUT_TWINS[kind], rate, 0)
            self.made[name] = f"{kind.__name__}, rate: {rate or f'{layer.p:g}'}"
        elif kind in TWINS:
            rate = self.dropout.of(name) if kind in WITH_DROPOUT and layer.dropout > 0 else None
            why_not = self.why_plain(name, layer)
            if rate or not why_not:
                self.replace(name, layer, TWINS[kind], rate, 0 if why_not else self.hyper.num_tuned)
            self.made[name] = f"{kind.__name__}, " + (f"plain: {why_not}" if why_not else "responds")
            self.made[name] += f", dropout: {rate}" if rate else ""
        elif [*layer.parameters(recurse=False)] and kind is not parametrize.ParametrizationList:
            self.made[name] = f"{kind.__name__}, plain: it has no twin"
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
        if reason := _unsupported(layer):
            return reason
        for weight in weights:
            if weight in self.owners:
                return f"shares its weight with {self.owners[weight]}"
        self.owners |= dict.fromkeys(weights, name)
        return ""

    def replace(self, name: str, layer: nn.Module, twin: type[Twin], rate: str | None, num_hyper: int) -> None:
        plain_class = type(layer)
        layer.__class__ = _twin_class(twin, plain_class)
        layer.plain_class, layer.layer, layer.draws, layer.rate = plain_class, name or "the network", self.draws, rate
        layer.batch_axis = self.axis_of(name, layer)
        layer.num_hyper = 0
        if num_hyper:
            layer.add_response(num_hyper)

    def axis_of(self, name: str, layer: nn.Module) -> int:
        """Where the batch is, as the layer itself says, or else as it is stated."""
        if isinstance(layer, nn.Conv1d | nn.Conv2d | nn.Dropout1d | nn.Dropout2d | _AttentionOutput):
            return 0
        stated = self.batch_axis.of(name) or 0
        if hasattr(layer, "batch_first") and stated != (own := 0 if layer.batch_first else 1):
            raise ValueError(
                f"{name} has batch_first={layer.batch_first}, so that axis {own} is its batch, and batch_axis says "
                f'{stated}: state batch_axis={own} for all, or batch_axis={{"{name}": {own}, "*": {stated}}}'
            )
        return stated


def _kind(layer: nn.Module) -> type[nn.Module]:
    """The class of torch.nn that the layer computes as; its own class where there is none."""
    own = parametrize.type_before_parametrizations(layer)
    for base in own.__mro__:
        if base in TWINS or base in DROPOUT_TWINS:
            return base if own.forward is base.forward else own
    return own


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
        if getattr(layer, option, None) not in (None, False, 0):
            return f"it has {option}"
    computed = {type(hook).__name__ for hook in layer._forward_pre_hooks.values()} & {"WeightNorm", "SpectralNorm"}
    return f"{computed.pop()} computes its weight: take torch.nn.utils.parametrizations" if computed else ""


def _twin_class(twin: type[Twin], plain_class: type[nn.Module]) -> type[Twin]:
    """The twin of a layer whose class is derived from that of torch.nn, by its author or by a parametrization."""
    if issubclass(twin, plain_class):
        return twin
    # A parametrized layer cannot be pickled: PyTorch says so.
    own = {} if plain_class.__name__.startswith("Parametrized") else {"__reduce__": _reduced}
    return type(plain_class.__name__, (twin, plain_class), {"twin": twin, **own})


def _reduced(layer: Twin) -> tuple:
    return _blank, (type(layer).twin, layer.plain_class), layer.__dict__.copy()


def _blank(twin: type[Twin], plain_class: type[nn.Module]) -> Twin:
    made = _twin_class(twin, plain_class)
    return made.__new__(made)


def _keep_from_the_fast_path(layer: nn.Module) -> None:
    """Have PyTorch call a Transformer's layers in evaluation, too, where it would else read only their weights."""
    if isinstance(layer, nn.TransformerEncoder):
        layer.use_nested_tensor = False
    else:
        layer.register_forward_pre_hook(_no_fast_path)  # a layer with hooks is never bypassed


def _no_fast_path(*_: object) -> None:
    """A hook that does nothing."""


def collapse(net: SelfTuning) -> nn.Module:
    """The plain network that a converted one is at the current hyperparameters: of the original class, with its keys.

    Its dropout rates are the current ones. A weight that two layers share, and that responds in one of them alone, is
    two weights then, which a warning says.
    """
    network = deepcopy(net.module)
    owners: dict[nn.Parameter, int] = {}
    for layer in network.modules():
        for parameter in layer.parameters(recurse=False):
            owners[parameter] = owners.get(parameter, 0) + 1
    with torch.no_grad():
        draw = net.hyper.current()
        for name, layer in network.named_modules():
            if isinstance(layer, Twin):
                for key, value in (layer.folded(draw.h) if layer.num_hyper else {}).items():
                    _assign(layer, key, value, f"{name}.{key}", owners)
                _make_plain(layer, draw)
            for place, hook in [*layer._forward_pre_hooks.items()]:
                if hook is _no_fast_path:
                    del layer._forward_pre_hooks[place]
    return network


def _assign(layer: Twin, key: str, value: torch.Tensor, name: str, owners: Mapping[nn.Parameter, int]) -> None:
    """Give a parameter of a layer another value, apart from those of other layers."""
    old = getattr(layer, key)
    if torch.equal(old, value):
        return
    if parametrize.is_parametrized(layer, key):
        setattr(layer, key, value)
        if not torch.allclose(getattr(layer, key), value, rtol=1e-4, atol=1e-6):
            warnings.warn(f"{name}: its parametrization cannot have the response's value, and is removed", stacklevel=3)
            parametrize.remove_parametrizations(layer, key)
            getattr(layer, key).copy_(value)
    elif owners[old] > 1:
        warnings.warn(f"{name} responds where others that share it do not: it is a weight of its own now", stacklevel=3)
        setattr(layer, key, nn.Parameter(value.clone(), old.requires_grad))
    else:
        old.copy_(value)


def _make_plain(layer: Twin, draw: Draw) -> None:
    if layer.rate is not None:
        setattr(layer, "p" if hasattr(layer, "p") else "dropout", float(draw[layer.rate]))
    for key in [*layer._parameters]:
        if is_response(key) or key == "elementary_scale":
            delattr(layer, key)
    layer.__class__ = layer.plain_class
    for attribute in _OF_TWINS:
        layer.__dict__.pop(attribute, None)


def summary(net: SelfTuning) -> str:
    """A table of what became of each layer, for print."""
    width = max(map(len, net.made), default=0)
    elementary, response = (sum(weight.numel() for weight in part) for part in split_parameters(net))
    lines = [f"{name.ljust(width)}  {what}" for name, what in net.made.items()]
    return "\n".join([*lines, f"{elementary:,} elementary parameters, {response:,} of the response"])
