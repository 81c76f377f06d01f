"""What a weight step of the language model consists of, from its shape alone: weights, operations, activations.

A step has one update by the STN, and two by the Δ-STN: of the elementary weights at h = 0, then of the response.
"""

from dataclasses import dataclass
from typing import Literal

import step_products
from step_products import Product

from stn.kernels.cross_entropy import CHUNK_ROWS

Update = Literal["stn", "elementary", "response"]
UPDATES: dict[str, tuple[Update, ...]] = {"stn": ("stn",), "delta_stn": ("elementary", "response")}  # by method


@dataclass(frozen=True)
class Shape:
    """steps: bptt. types: words of the vocabulary. tuned: hyperparameters. Every layer is as wide as the embedding."""

    steps: int = 70
    batch: int = 40
    width: int = 650
    types: int = 10_000
    tuned: int = 7
    layers: int = 2

    @property
    def tokens(self) -> int:
        return self.steps * self.batch

    @property
    def elementary(self) -> int:
        """Numbers in W and b: of the embedding, which is the decoder's too, the decoder's bias, and the layers."""
        return self.types * (self.width + 1) + self.layers * 8 * self.width * (self.width + 1)

    @property
    def gates(self) -> int:
        """Numbers in V and C: (width, H) of the embedding, two of (8·width, H) in each layer."""
        return self.tuned * self.width * (1 + 16 * self.layers)

    @property
    def response(self) -> int:
        """Numbers in W', b' and the gates."""
        if not self.tuned:
            return 0
        return self.types * self.width + self.layers * 8 * self.width * (self.width + 1) + self.gates

    @property
    def parameters(self) -> int:
        return self.elementary + self.response

    def updated(self, update: Update = "stn") -> int:
        """Numbers that an update changes."""
        return {"stn": self.parameters, "elementary": self.elementary, "response": self.response}[update]

    def products(self, update: Update = "stn") -> list[Product]:
        """The matrix products, without the gates'."""
        sizes = self.steps, self.batch, self.width, self.types
        if update == "response":
            return step_products.response_update(*sizes, layers=self.layers)
        responds = update == "stn" and self.tuned > 0
        return step_products.weight_step(*sizes, responds=responds, layers=self.layers)

    def product_flops(self, update: Update = "stn") -> int:
        """Two for each multiplication and addition."""
        return sum(product.flops * product.weights for product in self.products(update))

    def decoder_flops(self, update: Update = "stn") -> int:
        """Of these, the decoder's."""
        return (4 if update == "response" else 6) * self.tokens * self.width * self.types

    def gate_flops(self, update: Update = "stn") -> int:
        """Of V h and C h and, but for the elementary update with its single row of h, of the gates' gradients."""
        return 2 * self.gates if update == "elementary" else 4 * self.batch * self.gates

    def saved_activations(self, update: Update = "stn", size: int = 4) -> int:
        """Bytes that the forward pass keeps for the backward pass; size: of a number of the products' type.

        Sequences alone, (T, B, …): what does not grow with T is left out.
        """
        layer, ends = self._saved_numbers(update, size)
        return self.tokens * (self.width * (self.layers * layer + ends) + size)  # size: embedding dropout's mask

    def checkpointed_activations(self, update: Update = "stn", size: int = 4) -> int:
        """The same where each layer keeps its input alone, and is computed once more in the backward pass."""
        layer, ends = self._saved_numbers(update, size)
        return self.tokens * (self.width * (self.layers * size + layer + ends) + size)

    def _saved_numbers(self, update: Update, size: int) -> tuple[int, int]:
        """Bytes for each step, example and unit: of a layer, and of what comes before and after the layers."""
        activated, cells = 4 * 4, 2 * 4  # the gates, the cells and their tanh: in float32 always
        ends = 3 * size  # the dropped outputs, their gradient, and their changes from step to step
        if update == "elementary" or not self.tuned:
            return 2 * size + activated + cells, ends  # of a layer, its input and output too
        embedded = 4  # the embedding's response
        if update == "response":
            slopes = (3 + 2) * 4  # of the tangents' recurrence
            return activated + slopes + 10 * size, ends + embedded  # both responses and what they are products of
        responses = 8 * 2 + 4 * size  # the input's in bfloat16 shares its storage with as many elementary products
        return 2 * size + activated + cells + responses, ends + embedded

    def logits(self) -> int:
        """Numbers in the logits that are held at once."""
        return min(self.tokens, CHUNK_ROWS) * self.types
