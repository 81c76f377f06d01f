"""Twin of `nn.LSTM`, of any number of layers, in one direction or both."""

import math

import torch
from torch import Tensor, nn

from stn.dropout import drop
from stn.layers import HyperLayer, check_tensor, shown
from stn.lstm import State, Weights, sequence
from stn.response import RespondingWeight
from stn.twins.draws import Twin, same_kind


class LSTM(Twin, HyperLayer, nn.LSTM):
    """Inputs and outputs as `nn.LSTM`'s, of batches; no packed sequences. `batch_first` says which axis is the batch.

    Dropout between layers follows `rate`, if the layer has one.
    """

    def add_response(self, num_hyper: int) -> None:
        self.num_hyper = num_hyper
        for suffix in self.suffixes:
            for part in ("ih", "hh"):
                weight = getattr(self, f"weight_{part}{suffix}")
                rows, fan_in = weight.shape
                bound = 1 / math.sqrt(fan_in)
                self.register_parameter(f"response_weight_{part}{suffix}", same_kind(weight, rows, fan_in, bound=bound))
                if self.bias:
                    self.register_parameter(f"response_bias_{part}{suffix}", same_kind(weight, rows, bound=bound))
                gate = same_kind(weight, 2 * rows if self.bias else rows, num_hyper, bound=0.0)
                self.register_parameter(f"gate_{part}{suffix}", gate)

    @property
    def suffixes(self) -> list[str]:
        """Of the parameters' names: of each layer in turn, forward first."""
        directions = ("", "_reverse") if self.bidirectional else ("",)
        return [f"_l{layer}{direction}" for layer in range(self.num_layers) for direction in directions]

    def forward(self, input: Tensor, hx: State | None = None) -> tuple[Tensor, State]:
        if not isinstance(input, Tensor) or input.dim() != 3:
            found = shown(input.shape) if isinstance(input, Tensor) else type(input).__name__
            raise ValueError(f"{self.place.layer} is converted, and takes batches of sequences: found {found}")
        draw = self.draw_for(input)
        x = input.transpose(0, 1) if self.batch_first else input
        check_tensor(self.place.layer, "input", x, "T", "B", self.input_size)
        device = x.device.type
        if torch.is_autocast_enabled(device):
            x = x.to(torch.get_autocast_dtype(device))
        states = self._states(x, hx)
        directions, last = 1 + self.bidirectional, []
        for first in range(0, len(states), directions):
            if first and self.training:
                x = drop(x, self.rate(self.dropout), x.shape, axis=1)
            outputs = []
            for place in range(first, first + directions):
                backwards = place > first
                weights = Weights.of(self, self.suffixes[place])
                ordered = x.flip(0) if backwards else x
                output, state = sequence(weights, ordered, states[place], draw.h, cuda_graphs=True)
                outputs.append(output.flip(0) if backwards else output)
                last.append(state)
            x = torch.cat(outputs, -1) if directions > 1 else outputs[0]
        hidden, cell = (torch.cat(parts) for parts in zip(*last, strict=True))
        return x.transpose(0, 1) if self.batch_first else x, (hidden, cell)

    def _states(self, x: Tensor, hx: State | None) -> list[State]:
        """(1, B, hidden) hidden state and cell for each layer and direction."""
        count = len(self.suffixes)
        if hx is None:
            zeros = x.new_zeros(1, x.shape[1], self.hidden_size, dtype=self.weight_hh_l0.dtype)
            return [(zeros, zeros)] * count
        for part in hx:
            check_tensor(self.place.layer, "a state", part, count, x.shape[1], self.hidden_size)
        return list(zip(hx[0].split(1), hx[1].split(1), strict=True))

    def responding_weights(self) -> list[RespondingWeight]:
        return [weight for suffix in self.suffixes for weight in Weights.of(self, suffix).responding()]

    def folded(self, h: Tensor) -> dict[str, Tensor]:
        at = {suffix: Weights.of(self, suffix).at(h) for suffix in self.suffixes}
        names = ["weight_ih", "weight_hh", *(("bias_ih", "bias_hh") if self.bias else ())]
        return {name + suffix: getattr(weights, name) for suffix, weights in at.items() for name in names}
