"""The multilayer perceptron of the Δ-STN's experiments."""

from functools import partial
from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from cnn.models.convnet import CLASSES, scaled
from stn.dropout import dropout
from stn.hyperparameters import Draw
from stn.kernels.precision import of_products
from stn.layers import HyperLinear, check_tensor


class MLP(nn.Module):
    """The multilayer perceptron for MNIST of Bae & Grosse 2020: two hidden layers of 1200 rectifiers.

    In training it reads `fcdropout0`, `fcdropout1` and `fcdropout2`, the dropout rates of the layers' inputs. Its
    arguments, `width` of the hidden layers, and `arguments` are as of the convolutional networks.
    """

    SIZES = (28 * 28, 1200, 1200)

    def __init__(
        self,
        num_hyper: int,
        dtype: torch.dtype | None = None,
        *,
        elementary_scale: bool = False,
        width: float = 1.0,
    ):
        super().__init__()
        self.arguments = {"num_hyper": num_hyper, "dtype": dtype, "elementary_scale": elementary_scale, "width": width}
        self.dtype = dtype or torch.get_default_dtype()
        linear = partial(HyperLinear, num_hyper=num_hyper, elementary_scale=elementary_scale)
        pixels, *hidden = self.SIZES
        sizes = pixels, *scaled(tuple(hidden), width)
        self.hidden = nn.ModuleList(linear(*pair) for pair in pairwise(sizes))
        self.classifier = linear(sizes[-1], CLASSES)

    def forward(self, images: Tensor, draw: Draw) -> Tensor:
        """images (B, 1, 28, 28), normalized -> logits (B, 10). Raises TypeError or ValueError for other images."""
        check_tensor(type(self).__name__, "images", images, "B", 1, 28, 28)
        x = images.to(of_products(self.dtype)).flatten(1)
        for layer, linear in enumerate(self.hidden):
            x = F.relu(linear(self.dropped(x, draw, layer), draw.h))
        return self.classifier(self.dropped(x, draw, len(self.hidden)), draw.h).to(self.classifier.weight.dtype)

    def dropped(self, x: Tensor, draw: Draw, layer: int) -> Tensor:
        """The input (B, F) of a layer, in training dropped at the layer's rate, if the draw has it."""
        name = f"fcdropout{layer}"
        return dropout(x, draw[name]) if self.training and name in draw else x
