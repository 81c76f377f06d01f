"""Best-response layers: layers whose weights respond to hyperparameters, example by example.

    y = W x + b + (V h) ⊙ (W' x) + (C h) ⊙ b'        (MacKay et al. 2019, eq. 9-11)

W and b are the elementary weights and keep `torch.nn`'s own names, so that a plain checkpoint loads into its
self-tuning twin. W' and b' are `response_weight` and `response_bias`; V and C, stacked, are `gate`. With no
tuned hyperparameter a layer is its plain counterpart: no response, no extra memory or time.

As in the published convolutional networks, `HyperLinear` and `HyperConv2d` can multiply W x + b by a learned scalar,
`elementary_scale`, that starts at 1. Its gradient step is up to 1,000 times larger than that of W, which speeds up the
start of training. It is an elementary parameter: a checkpoint must hold it if the layer has it.

How they linearize their response is in stn/response.py.

Example b of a batch responds to row b of h. Sequences have their steps first and the batch second, (T, B, …). Layers
raise TypeError or ValueError, before they compute anything, where the types and shapes of what they are given do not
fit. A batch-first x of as many examples as steps, or with a single row of h, is one that no shape gives away.
"""

import math
from collections.abc import Iterable

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd import forward_ad

from stn.kernels.products import linear
from stn.response import AffineResponse, RespondingWeight, gated, linearizes, respond

GATE_STD = 0.01  # MacKay et al. 2019: small, and not zero, so that W' has a gradient from the first step on


def check_tensor(taker: str, name: str, tensor: object, *sizes: int | str, integers: bool = False) -> None:
    """Raises unless it is a tensor of this shape, of floating-point numbers or, if asked for, of integers.

    taker, name: what takes it, and as what, for the message. sizes: a number is that size and a letter any; "…" stands
        for any number of dimensions. Reads no values: it never waits for a device.

    Raises TypeError for another type, ValueError for another shape.
    """
    if not isinstance(tensor, Tensor):
        raise TypeError(f"{taker} takes a tensor {name} {shown(sizes)}: found {type(tensor).__name__}")
    if integers and tensor.dtype not in (torch.int64, torch.int32):
        raise TypeError(f"{taker} takes {name} of torch.int64 or torch.int32: found {tensor.dtype}")
    if not integers and not tensor.is_floating_point():
        raise TypeError(f"{taker} takes {name} of floating-point numbers: found {tensor.dtype}")
    expected = sizes
    if "…" in sizes:
        place = sizes.index("…")
        expected = *sizes[:place], *["any"] * (tensor.dim() - len(sizes) + 1), *sizes[place + 1 :]
    fits = len(expected) == tensor.dim()
    for size, found in zip(expected, tensor.shape, strict=False):
        fits = fits and (size.__class__ is str or size == found)
    if not fits:
        raise ValueError(f"{taker} takes {name} {shown(sizes)}: found {shown(tensor.shape)}")


def shown(sizes: Iterable[int | str]) -> str:
    """A shape as a message shows it, such as (T, B, 20) or (20,)."""
    words = [*map(str, sizes)]
    return f"({words[0]},)" if len(words) == 1 else f"({', '.join(words)})"


class HyperLayer(nn.Module):
    """Base class of best-response layers. `num_hyper`: H, the number of tuned hyperparameters."""

    def __init__(self, num_hyper: int):
        super().__init__()
        self.num_hyper = num_hyper

    def check_inputs(self, name: str, x: Tensor, h: Tensor | None, *sizes: int | str, integers: bool = False) -> None:
        """Raises unless x has these sizes (as of `check_tensor`) and h is (B, H) or (1, H), for the B among them.

        A plain layer ignores h. Raises TypeError for a missing h and other types, ValueError for other shapes.
        """
        taker, tuned = type(self).__name__, self.num_hyper
        check_tensor(taker, name, x, *sizes, integers=integers)
        if not tuned:
            return
        if h is None:
            raise TypeError(
                f"{taker} responds to {tuned} hyperparameter{'s' * (tuned > 1)} and needs "
                f"h (B, {tuned}) or (1, {tuned}), such as hyper.perturbed(B).h or hyper.current().h"
            )
        check_tensor(taker, "h", h, "B or 1", tuned)
        rows = h.shape[0]
        if rows != 1 and rows != x.shape[sizes.index("B") - len(sizes)]:
            raise ValueError(
                f"{taker} takes {name} {shown(sizes)} with h (B, {tuned}) or (1, {tuned}): "
                f"found {name} {shown(x.shape)} with h {shown(h.shape)}"
            )

    def responding_weights(self) -> list[RespondingWeight]:
        """The weights, without biases, and how they respond."""
        raise NotImplementedError

    def declare(self, *names: str) -> None:
        """Register optional parameters: None until they are added."""
        for name in names:
            self.register_parameter(name, None)

    def add_parameter(self, name: str, *shape: int, bound: float) -> None:
        """Register a parameter of this shape, drawn from the uniform distribution on [−bound, bound]."""
        self.register_parameter(name, nn.Parameter(torch.empty(*shape).uniform_(-bound, bound)))

    def add_gate(self, name: str, rows: int) -> None:
        """Register a gate of shape (rows, H), drawn from N(0, 0.01²)."""
        self.register_parameter(name, nn.Parameter(torch.empty(rows, self.num_hyper).normal_(std=GATE_STD)))

    def _load_from_state_dict(self, state_dict, prefix, *args):
        # A plain layer's checkpoint has no response: this layer then keeps the one that it has.
        response = {prefix + name: value for name, value in self.state_dict().items() if is_response(name)}
        if not response.keys() & state_dict.keys():
            state_dict = {**state_dict, **response}
        super()._load_from_state_dict(state_dict, prefix, *args)


def is_response(name: str) -> bool:
    """Whether a best-response layer's parameter of this name belongs to its response."""
    return name.startswith(("response_", "gate"))


def split_parameters(module: nn.Module) -> tuple[list[nn.Parameter], list[nn.Parameter]]:
    """The elementary and the response parameters of a module and its submodules, as `module.parameters()` orders them.

    Responses belong to `HyperLayer`s alone: all parameters of other modules are elementary.

    >>> elementary, response = split_parameters(nn.Sequential(HyperLinear(3, 2, 1), nn.LayerNorm(2)))
    >>> len(elementary), len(response)
    (4, 3)
    """
    response = {
        parameter
        for layer in module.modules()
        if isinstance(layer, HyperLayer)
        for name, parameter in layer.named_parameters(recurse=False)
        if is_response(name)
    }
    elementary = [parameter for parameter in module.parameters() if parameter not in response]
    return elementary, [parameter for parameter in module.parameters() if parameter in response]


class HyperAffine(AffineResponse, HyperLayer):
    """Base class of `HyperLinear` and `HyperConv2d`. fan_in: the shape of one output's weights."""

    def __init__(self, outputs: int, fan_in: tuple[int, ...], num_hyper: int, bias: bool, elementary_scale: bool):
        super().__init__(num_hyper)
        bound = 1 / math.sqrt(math.prod(fan_in))
        self.add_parameter("weight", outputs, *fan_in, bound=bound)
        self.declare("bias", "elementary_scale", "response_weight", "response_bias", "gate")
        if bias:
            self.add_parameter("bias", outputs, bound=bound)
        if elementary_scale:
            self.elementary_scale = nn.Parameter(torch.ones(()))
        if num_hyper:
            self.add_parameter("response_weight", outputs, *fan_in, bound=bound)
            if bias:
                self.add_parameter("response_bias", outputs, bound=bound)
            self.add_gate("gate", 2 * outputs if bias else outputs)

    def check(self, x: Tensor, h: Tensor | None) -> None:
        """Raises TypeError or ValueError where x or h is not what `forward` takes."""
        raise NotImplementedError

    def forward(self, x: Tensor, h: Tensor | None = None) -> Tensor:
        self.check(x, h)
        return self.output(x, h)

    def extra_repr(self) -> str:
        scale = "" if self.elementary_scale is None else ", elementary_scale=True"
        return f"num_hyper={self.num_hyper}, bias={self.bias is not None}{scale}"


class HyperLinear(HyperAffine):
    """`nn.Linear` with a best response.

    `weight` and `response_weight` (out, in), `bias` and `response_bias` (out,), `gate` (2·out, H), without a
    bias (out, H); `elementary_scale` () if asked for.

    forward: x (…, B, in), h (B, H) or (1, H) -> (…, B, out). The batch comes last but one: sequences are (T, B, in).
    A plain layer takes any x (…, in) and ignores h. Raises TypeError or ValueError for anything else.
    """

    def __init__(
        self, in_features: int, out_features: int, num_hyper: int, bias: bool = True, *, elementary_scale: bool = False
    ):
        super().__init__(out_features, (in_features,), num_hyper, bias, elementary_scale)
        self.in_features, self.out_features = in_features, out_features

    def check(self, x: Tensor, h: Tensor | None) -> None:
        self.check_inputs("x", x, h, "…", *(("B",) if self.num_hyper else ()), self.in_features)

    def extra_repr(self) -> str:
        return f"in_features={self.in_features}, out_features={self.out_features}, {super().extra_repr()}"

    def across(self, gate: Tensor, y: Tensor) -> Tensor:  # noqa: ARG002
        return gate

    def plain_forward(self, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        return linear(x, weight, bias)


class HyperConv2d(HyperAffine):
    """`nn.Conv2d` with a best response, gated per output channel; kernels are square.

    `weight` and `response_weight` (out, in, k, k), `bias` and `response_bias` (out,), `gate` (2·out, H), without a
    bias (out, H); `elementary_scale` () if asked for.

    forward: x (B, in, height, width), h (B, H) or (1, H) -> (B, out, …, …). A plain layer ignores h. Raises TypeError
    or ValueError for anything else, a single image without B too.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: int,
        num_hyper: int,
        stride: int = 1,
        padding: int = 0,
        bias: bool = True,
        *,
        elementary_scale: bool = False,
    ):
        super().__init__(out_channels, (in_channels, kernel_size, kernel_size), num_hyper, bias, elementary_scale)
        self.in_channels, self.out_channels, self.kernel_size = in_channels, out_channels, kernel_size
        self.stride, self.padding = stride, padding

    def check(self, x: Tensor, h: Tensor | None) -> None:
        self.check_inputs("x", x, h, "B", self.in_channels, "height", "width")

    def extra_repr(self) -> str:
        return (
            f"in_channels={self.in_channels}, out_channels={self.out_channels}, kernel_size={self.kernel_size}, "
            f"stride={self.stride}, padding={self.padding}, {super().extra_repr()}"
        )

    def across(self, gate: Tensor, y: Tensor) -> Tensor:  # noqa: ARG002
        return gate[..., None, None]

    def plain_forward(self, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        return F.conv2d(x, weight, bias, self.stride, self.padding)

    def products(self, x: Tensor) -> tuple[Tensor, Tensor]:
        return self.stacked_products(x)


class HyperEmbedding(HyperLayer):
    """`nn.Embedding` with a best response: `weight` and `response_weight` (vocab_size, dim), `gate` (dim, H)."""

    def __init__(self, num_embeddings: int, embedding_dim: int, num_hyper: int):
        super().__init__(num_hyper)
        self.num_embeddings, self.embedding_dim = num_embeddings, embedding_dim
        self.add_parameter("weight", num_embeddings, embedding_dim, bound=0.1)
        self.declare("response_weight", "gate")
        if num_hyper:
            self.add_parameter("response_weight", num_embeddings, embedding_dim, bound=0.1)
            self.add_gate("gate", embedding_dim)

    def forward(self, ids: Tensor, h: Tensor | None = None) -> Tensor:
        """ids (…, B), h (B, H) or (1, H) -> (…, B, dim). The batch comes last: sequences are (T, B).

        A plain layer takes ids of any shape and ignores h. Raises TypeError for ids that are no integers, and
        TypeError or ValueError for anything else.
        """
        self.check(ids, h)
        elementary = self.look_up(ids, self.weight)
        if not self.num_hyper:
            return elementary
        response = self.look_up(ids, self.response_weight)
        if linearizes(h):
            gate = gated(forward_ad.unpack_dual(h).tangent, self.gate)
            return forward_ad.make_dual(elementary, self.across(gate, elementary) * response)
        return respond(elementary, self.across(gated(h, self.gate), elementary), response)

    def check(self, ids: Tensor, h: Tensor | None) -> None:
        """Raises TypeError or ValueError where ids or h is not what `forward` takes."""
        self.check_inputs("ids", ids, h, "…", *(("B",) if self.num_hyper else ()), integers=True)

    def responding_weights(self) -> list[RespondingWeight]:
        return [RespondingWeight(self.weight, self.response_weight, self.gate, axis=1)]

    def look_up(self, ids: Tensor, weight: Tensor) -> Tensor:
        """The plain layer's output for these weights."""
        return F.embedding(ids, weight)

    def across(self, gate: Tensor, y: Tensor) -> Tensor:  # noqa: ARG002
        """(B or 1, dim), as it broadcasts over outputs like y."""
        return gate

    def extra_repr(self) -> str:
        return f"num_embeddings={self.num_embeddings}, embedding_dim={self.embedding_dim}, num_hyper={self.num_hyper}"


def zero_gates(module: nn.Module) -> None:
    """Have the module's best-response layers start as their plain twins, as the Δ-STN does: with gates of 0.

    W' is random, so that the gates have a gradient, and W' has one from the second step on.
    """
    for gate in gates(module):
        nn.init.zeros_(gate)


def gates(module: nn.Module) -> list[nn.Parameter]:
    """The gates of the module's best-response layers, (rows, H) each."""
    return [
        parameter
        for layer in module.modules()
        if isinstance(layer, HyperLayer)
        for name, parameter in layer.named_parameters(recurse=False)
        if name.startswith("gate")
    ]
