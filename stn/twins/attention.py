"""Twin of `nn.MultiheadAttention`."""

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from stn.dropout import drop
from stn.layers import HyperLayer, shown
from stn.response import AffineResponse, RespondingWeight, linearizes
from stn.twins.draws import Twin, same_kind

PARTS = ("q", "k", "v")
RESPONSE = ("response_{}_proj_weight", "response_{}_proj_bias", "gate_{}_proj")


@dataclass(frozen=True)
class _Projection(AffineResponse):
    """One of the three projections of the inputs."""

    num_hyper: int
    along_batch: Callable[[Tensor, int], Tensor]
    weight: Tensor
    bias: Tensor | None
    response_weight: Tensor | None
    response_bias: Tensor | None
    gate: Tensor | None
    elementary_scale: None = None

    def across(self, gate: Tensor, y: Tensor) -> Tensor:
        return self.along_batch(gate, y.dim())

    def plain_forward(self, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        return F.linear(x, weight, bias)


class MultiheadAttention(Twin, HyperLayer, nn.MultiheadAttention):
    """Inputs and outputs as `nn.MultiheadAttention`'s, of batches. `batch_first` says which axis is the batch.

    The projections respond: the input ones here, the output one as a twin of its own. Dropout of the attention's
    weights follows `rate`, if the layer has one.
    """

    def add_response(self, num_hyper: int) -> None:
        self.num_hyper = num_hyper
        for part in PARTS:
            weight = self._projection(part).weight
            bound = 1 / math.sqrt(weight.shape[1])
            self.register_parameter(f"response_{part}_proj_weight", same_kind(weight, *weight.shape, bound=bound))
            has_bias = self.in_proj_bias is not None
            if has_bias:
                self.register_parameter(f"response_{part}_proj_bias", same_kind(weight, len(weight), bound=bound))
            gate = same_kind(weight, (1 + has_bias) * len(weight), num_hyper, bound=0.0)
            self.register_parameter(f"gate_{part}_proj", gate)

    def forward(
        self,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        key_padding_mask: Tensor | None = None,
        need_weights: bool = True,
        attn_mask: Tensor | None = None,
        average_attn_weights: bool = True,
        is_causal: bool = False,
    ) -> tuple[Tensor, Tensor | None]:
        if query.dim() != 3:
            found = f"found {shown(query.shape)}"
            raise ValueError(f"{self.place.layer} is converted, and takes batches (3 dimensions): {found}")
        if is_causal and attn_mask is None:
            raise ValueError(f"{self.place.layer}: is_causal says what the mask is like: pass attn_mask too")
        h = self.draw_for(query).h
        heads = [self._heads(part, x, h) for part, x in zip(PARTS, (query, key, value), strict=True)]
        mask = self._mask(heads, attn_mask, key_padding_mask)
        attended, weights = self._attend(*heads, mask, need_weights or linearizes(query, h))
        output = self.out_proj(attended.transpose(1, 2).flatten(2))  # (B, L, E)
        output = output if self.batch_first else output.transpose(0, 1)
        if not need_weights:
            return output, None
        return output, weights.mean(1) if average_attn_weights else weights

    def _projection(self, part: str) -> "_Projection":
        place = PARTS.index(part)
        weight = (
            self.in_proj_weight.chunk(3)[place] if self._qkv_same_embed_dim else getattr(self, f"{part}_proj_weight")
        )
        bias = None if self.in_proj_bias is None else self.in_proj_bias.chunk(3)[place]
        own = (getattr(self, name.format(part), None) for name in RESPONSE)
        return _Projection(self.num_hyper, self.along_batch, weight, bias, *own)

    def _heads(self, part: str, x: Tensor, h: Tensor) -> Tensor:
        """(B, heads, length, width) of an input as the layer takes it."""
        y = self._projection(part).output(x, h)
        y = y if self.batch_first else y.transpose(0, 1)
        return y.unflatten(-1, (self.num_heads, self.head_dim)).transpose(1, 2)

    def _mask(self, heads: list[Tensor], attn_mask: Tensor | None, key_padding_mask: Tensor | None) -> Tensor | None:
        """What is added to the scores, (B or 1, heads or 1, L or 1, S), −∞ where True forbids to attend."""
        query = heads[0]
        masks = []
        if attn_mask is not None:
            if attn_mask.dim() == 3:
                attn_mask = attn_mask.unflatten(0, (len(query), self.num_heads))
            masks.append(attn_mask[(None,) * (4 - attn_mask.dim())])
        if key_padding_mask is not None:
            masks.append(key_padding_mask[:, None, None])
        scores = [
            torch.zeros_like(mask, dtype=query.dtype).masked_fill(mask, -math.inf) if mask.dtype == torch.bool else mask
            for mask in masks
        ]
        return sum(scores[1:], scores[0]).to(query.dtype) if scores else None

    def _attend(
        self, query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None, written_out: bool
    ) -> tuple[Tensor, Tensor | None]:
        """Attention's outputs, and its weights where it is written out."""
        rate = self.rate(self.dropout) if self.training else 0.0
        if not written_out and not isinstance(rate, Tensor):
            return F.scaled_dot_product_attention(query, key, value, mask, rate), None
        scores = query @ key.mT / math.sqrt(self.head_dim)
        weights = (scores if mask is None else scores + mask).softmax(-1)
        weights = drop(weights, rate, weights.shape)
        return weights @ value, weights

    def responding_weights(self) -> list[RespondingWeight]:
        return [weight for part in PARTS for weight in self._projection(part).responding_weights()]

    def folded(self, h: Tensor) -> dict[str, Tensor]:
        weights, biases = zip(*(self._projection(part).responding(h) for part in PARTS), strict=True)
        folded = {} if biases[0] is None else {"in_proj_bias": torch.cat(biases)}
        if self._qkv_same_embed_dim:
            return folded | {"in_proj_weight": torch.cat(weights)}
        return folded | {f"{part}_proj_weight": weight for part, weight in zip(PARTS, weights, strict=True)}
