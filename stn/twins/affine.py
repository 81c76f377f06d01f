"""Twins of linear, convolutional and embedding layers."""

import math

import torch.nn.functional as F
from torch import Tensor, nn

from stn.layers import HyperAffine, HyperEmbedding
from stn.response import gated, respond
from stn.twins.draws import Twin, same_kind


class _Affine(Twin, HyperAffine):
    """What linear and convolutional twins share. least_dimensions: of their inputs."""

    least_dimensions: int

    def add_response(self, num_hyper: int) -> None:
        self.num_hyper = num_hyper
        self.register_parameter("elementary_scale", None)
        weight, outputs = self.weight, len(self.weight)
        bound = 1 / math.sqrt(weight[0].numel())
        self.response_weight = same_kind(weight, *weight.shape, bound=bound)
        bias = None if self.bias is None else same_kind(weight, outputs, bound=bound)
        self.register_parameter("response_bias", bias)
        self.gate = same_kind(weight, outputs if self.bias is None else 2 * outputs, num_hyper, bound=0.0)

    def forward(self, input: Tensor) -> Tensor:
        return HyperAffine.forward(self, input, self.draw_for(input, self.least_dimensions).h)

    def check(self, x: Tensor, h: Tensor) -> None:
        """Nothing: the plain layer's own operations do."""

    def folded(self, h: Tensor) -> dict[str, Tensor]:
        weight, bias = self.responding(h)
        return {"weight": weight} | ({} if bias is None else {"bias": bias})


class Linear(_Affine, nn.Linear):
    """Twin of `nn.Linear`: inputs (…, in) of any dimensions, one of them the batch."""

    @property
    def least_dimensions(self) -> int:
        return self.place.batch_axis + 2  # the last one is the features'

    def across(self, gate: Tensor, y: Tensor) -> Tensor:
        return self.along_batch(gate, y.dim())

    def plain_forward(self, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        return F.linear(x, weight, bias)


class _Convolution(_Affine):
    """Twin of a convolution, whose batch comes first."""

    def across(self, gate: Tensor, y: Tensor) -> Tensor:
        return gate.reshape(*gate.shape, *[1] * (y.dim() - 2))

    def plain_forward(self, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        return self._conv_forward(x, weight, bias)

    def products(self, x: Tensor) -> tuple[Tensor, Tensor]:
        return super().products(x) if self.groups > 1 else self.stacked_products(x)


class Conv1d(_Convolution, nn.Conv1d):
    """Twin of `nn.Conv1d`: inputs (B, in, length)."""

    least_dimensions = 3


class Conv2d(_Convolution, nn.Conv2d):
    """Twin of `nn.Conv2d`: inputs (B, in, height, width)."""

    least_dimensions = 4


class Embedding(Twin, HyperEmbedding, nn.Embedding):
    """Twin of `nn.Embedding`: ids of any dimensions, one of them the batch. The padding does not respond."""

    def add_response(self, num_hyper: int) -> None:
        self.num_hyper = num_hyper
        self.response_weight = same_kind(self.weight, *self.weight.shape, bound=0.1)
        if self.padding_idx is not None:
            self.response_weight.data[self.padding_idx] = 0.0
        self.gate = same_kind(self.weight, self.embedding_dim, num_hyper, bound=0.0)

    def forward(self, input: Tensor) -> Tensor:
        return HyperEmbedding.forward(self, input, self.draw_for(input).h)

    def check(self, ids: Tensor, h: Tensor) -> None:
        """Nothing: the plain layer's own operations do."""

    def look_up(self, ids: Tensor, weight: Tensor) -> Tensor:
        return F.embedding(ids, weight, self.padding_idx, scale_grad_by_freq=self.scale_grad_by_freq)

    def across(self, gate: Tensor, y: Tensor) -> Tensor:
        return self.along_batch(gate, y.dim())

    def folded(self, h: Tensor) -> dict[str, Tensor]:
        return {"weight": respond(self.weight, gated(h, self.gate), self.response_weight)}
