"""The obvious implementations that the fast ones are held against: in tests for their numbers, here for their time."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lstm.model import AWDLSTM, activation_penalty, temporal_penalty
from stn.dropout import drop_connect, embedding_dropout, locked_dropout
from stn.hyperparameters import Draw
from stn.lstm import HyperLSTM, State


def step_by_step(layer: HyperLSTM, x: Tensor, h0: Tensor, c0: Tensor, h: Tensor, mask: Tensor | float = 1.0):
    """A HyperLSTM's outputs (T, B, hidden) and state, a step and a product at a time, for autograd to differentiate.

    x (T, B, in), h0 and c0 (1, B, hidden), h (B or 1, H); mask: DropConnect's, of the recurrent weights.
    """

    def product(part, inputs, mask=1.0):
        weight, bias, response_weight, response_bias, gate = (
            getattr(layer, f"{name}_{part}_l0")
            for name in ("weight", "bias", "response_weight", "response_bias", "gate")
        )
        v, c = (h @ gate.T).chunk(2, dim=-1)
        return inputs @ (weight * mask).T + bias + v * (inputs @ (response_weight * mask).T) + c * response_bias

    hidden, cell, outputs = h0[0], c0[0], []
    for x_t in x:
        i, f, g, o = (product("ih", x_t) + product("hh", hidden, mask)).chunk(4, dim=-1)
        cell = f.sigmoid() * cell + i.sigmoid() * g.tanh()
        hidden = o.sigmoid() * cell.tanh()
        outputs.append(hidden)
    return torch.stack(outputs), (hidden[None], cell[None])


def training_loss(
    model: AWDLSTM, tokens: Tensor, targets: Tensor, state: list[State], draw: Draw
) -> tuple[Tensor, list[State]]:
    """A self-tuning model's regularized training loss and its state: whole tables dropped out, all logits at once.

    tokens, targets (T, B). Its masks are drawn as the model draws them, from the same random numbers.
    """
    embedding = model.embedding
    types = torch.arange(len(embedding.weight), device=tokens.device)[:, None]
    kept = embedding_dropout(torch.ones_like(embedding.weight)[:, None], types, len(types), draw["dropoute"])[:, 0]
    gate = F.linear(draw.h, embedding.gate)
    outputs = F.embedding(tokens, embedding.weight * kept)
    outputs = outputs + gate * F.embedding(tokens, embedding.response_weight * kept)
    outputs = locked_dropout(outputs, draw["dropouti"])
    states = []
    for layer, (hidden, cell) in zip(model.layers, state, strict=True):
        if states:
            outputs = locked_dropout(outputs, draw["dropouth"])
        (mask,) = drop_connect(draw["wdrop"], torch.ones_like(layer.weight_hh_l0))
        outputs, layer_state = step_by_step(layer, outputs, hidden, cell, draw.h, mask)
        states.append(layer_state)
    dropped = locked_dropout(outputs, draw["dropouto"])
    loss = F.cross_entropy(model.decoder(dropped).flatten(0, 1), targets.flatten())
    loss = loss + activation_penalty(dropped, draw["alpha"]) + temporal_penalty(outputs, draw["beta"])
    return loss, states


class PlainModel(nn.Module):
    """The same architecture in PyTorch's own layers, at fixed dropout rates: what tuning nothing costs.

    forward: tokens, targets (T, B), each layer's state -> loss, states.
    """

    def __init__(self, vocab_size: int, width: int, hidden: int, rate: float):
        super().__init__()
        self.rate = rate
        self.embedding = nn.Embedding(vocab_size, width)
        self.layers = nn.ModuleList([nn.LSTM(width, hidden), nn.LSTM(hidden, width)])
        self.decoder = nn.Linear(width, vocab_size)
        self.decoder.weight = self.embedding.weight

    def forward(self, tokens: Tensor, targets: Tensor, state: list[State | None]) -> tuple[Tensor, list[State]]:
        outputs, states = self.embedding(tokens), []
        for layer, layer_state in zip(self.layers, state, strict=True):
            outputs, layer_state = layer(locked_dropout(outputs, self.rate), layer_state)
            states.append(layer_state)
        logits = self.decoder(locked_dropout(outputs, self.rate))
        return F.cross_entropy(logits.flatten(0, 1), targets.flatten()), states
