"""The AWD-LSTM language model (Merity et al. 2018), plain or self-tuning by its number of tuned hyperparameters."""

from itertools import pairwise

import torch
from torch import Tensor, nn

from stn.dropout import embedding_dropout, locked_dropout
from stn.hyperparameters import Draw
from stn.kernels.precision import of_products
from stn.layers import HyperEmbedding, check_tensor
from stn.lstm import HyperLSTM, State


class AWDLSTM(nn.Module):
    """Embedding, LSTM layers and an output layer tied to the embedding.

    The last LSTM layer is as wide as the embedding. In training the model reads these rates from a draw: `dropoute`
    (word types), `dropouti` (embedded inputs), `dropouth` (between layers), `dropouto` (last output), `wdrop`
    (recurrent weights).

    dtype: of activations between layers and of matrix products (default: the weights' dtype, which states and logits
        always have).
    cuda_graphs, checkpoint_activations: see HyperLSTM.

    arguments: what it was made with, from which `stn.load_model` makes it again.
    """

    def __init__(
        self,
        vocab_size: int,
        emsize: int,
        nhid: int,
        nlayers: int,
        num_hyper: int,
        dtype: torch.dtype | None = None,
        *,
        cuda_graphs: bool = True,
        checkpoint_activations: bool = False,
    ):
        super().__init__()
        sizes = {"vocab_size": vocab_size, "emsize": emsize, "nhid": nhid, "nlayers": nlayers, "num_hyper": num_hyper}
        options = {"cuda_graphs": cuda_graphs, "checkpoint_activations": checkpoint_activations}
        self.arguments = {**sizes, "dtype": dtype, **options}
        self.dtype = dtype or torch.get_default_dtype()
        widths = [emsize] + [nhid] * (nlayers - 1) + [emsize]
        self.embedding = HyperEmbedding(vocab_size, emsize, num_hyper)
        self.layers = nn.ModuleList(HyperLSTM(*sizes, num_hyper, **options) for sizes in pairwise(widths))
        self.decoder = nn.Linear(emsize, vocab_size)
        self.decoder.weight = self.embedding.weight

    def forward(self, tokens: Tensor, state: list[State] | None, draw: Draw) -> tuple[Tensor, list[State]]:
        """tokens (T, B), a state for each layer or None -> logits (T, B, vocab_size), states."""
        dropped, _, state = self.encode(tokens, state, draw)
        return self.decoder(dropped.to(self.decoder.weight.dtype)), state

    def encode(self, tokens: Tensor, state: list[State] | None, draw: Draw) -> tuple[Tensor, Tensor, list[State]]:
        """The last layer's outputs (T, B, emsize) with and without dropout, and each layer's last state.

        Raises TypeError or ValueError for tokens that are not (T, B), or a list of another number of states.
        """
        check_tensor("AWDLSTM", "tokens", tokens, "T", "B", integers=True)
        state = state or [None] * len(self.layers)
        if len(state) != len(self.layers):
            raise ValueError(f"AWDLSTM takes a state for each of its {len(self.layers)} layers: found {len(state)}")
        outputs = self.embedding(tokens, draw.h).to(of_products(self.dtype))
        if self.training:
            types = self.embedding.weight.shape[0]
            outputs = embedding_dropout(outputs, tokens, types, draw["dropoute"], draw.generator)
            outputs = locked_dropout(outputs, draw["dropouti"])
        new_state = []
        for layer, layer_state in zip(self.layers, state, strict=True):
            if self.training and new_state:
                outputs = locked_dropout(outputs, draw["dropouth"])
            weight_drop = draw["wdrop"] if self.training else 0.0
            outputs, layer_state = layer(outputs, layer_state, draw.h, weight_drop, draw.generator)
            new_state.append(layer_state)
        dropped = locked_dropout(outputs, draw["dropouto"]) if self.training else outputs
        return dropped, outputs, new_state


def activation_penalty(dropped: Tensor, alpha: float | Tensor) -> Tensor:
    """AR (Merity et al. 2018): alpha times the mean square of the dropped outputs (T, B, F)."""
    return alpha * _mean_square(dropped)


def temporal_penalty(raw: Tensor, beta: float | Tensor) -> Tensor:
    """TAR (Merity et al. 2018): beta times the mean square change of the raw outputs (T, B, F); 0 for a single step."""
    if len(raw) < 2:
        return raw.new_zeros(())
    return beta * _mean_square(raw[1:] - raw[:-1])


def _mean_square(x: Tensor) -> Tensor:
    return x.square().mean(dtype=torch.promote_types(x.dtype, torch.float32))
