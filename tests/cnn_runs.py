"""What the tests of the image classifiers share: a plain twin of each network, small runs, and what runs leave."""

import torch
from torch import nn

from cnn.hyperparameters import TABLE, names_of
from cnn.models import MLP
from stn.hyperparameters import Hyperparameters, Tuned

SMALL = "--data builtin --model small --dtype float32 --batch_size 32 --threads 1 --no_cuda --log_interval 2"
SHARED = ["hue", "contrast", "sat", "bright", "indropout", "inscale", "cutlength", "cutholes"]
SMALL_NAMES = [f"dropout{layer}" for layer in range(3)] + SHARED
MLP_NAMES = ["fcdropout0", "fcdropout1", "fcdropout2"]
ALEXNET_NAMES = [f"dropout{layer}" for layer in range(5)] + SHARED + ["fcdropout0", "fcdropout1"]


AFFINE = ["degrees", "translation", "zoom", "shear"]
JITTER = ["hue", "contrast", "sat", "bright"]
SIMPLE_CNN_NAMES = ["dropout0", "dropout1", "indropout2d", "cutlength", "cutholes", "fcdropout1"]
DELTA_STN_NAMES = [*JITTER, *AFFINE, "indropout2d", "cutlength", "cutholes", "fcdropout1", "fcdropout2"]
VGG16_NAMES = [f"dropout{layer}" for layer in range(13)] + DELTA_STN_NAMES
NAMES = {
    **{"small": SMALL_NAMES, "alexnet": ALEXNET_NAMES, "mlp": MLP_NAMES},
    **{"simple_cnn": SIMPLE_CNN_NAMES, "vgg16": VGG16_NAMES},
}
VGG16_CHANNELS = (2, 3, 4, 5, 4, 5, 4, 5, 6, 5, 4, 5, 6)  # of a narrow one


def tuned(model="small", shared_dropout=False, recipe=None):
    """All hyperparameters of a model, tuned from the published start."""
    return Hyperparameters(
        **{
            name: Tuned(
                TABLE[name].initial, TABLE[name].range, 0.5, discrete=TABLE[name].discrete, feed="unconstrained"
            )
            for name in names_of(model, shared_dropout, recipe)
        }
    )


def plain(model, hidden=(4096, 4096)):
    """The network in torch's own layers, without dropout."""
    if model == "small":
        layers = []
        for fan_in, fan_out in ((3, 10), (10, 20), (20, 40)):
            layers += [nn.Conv2d(fan_in, fan_out, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2)]
        return nn.Sequential(*layers, nn.Flatten(), nn.Linear(640, 10))
    first, second = hidden
    if model == "simple_cnn":
        convolutions = [nn.Conv2d(1, 16, 5, padding=2), nn.MaxPool2d(2), nn.ReLU()]
        convolutions += [nn.Conv2d(16, 32, 5, padding=2), nn.MaxPool2d(2), nn.ReLU()]
        return nn.Sequential(*convolutions, nn.Flatten(), nn.Linear(1568, first), nn.ReLU(), nn.Linear(first, 10))
    if model == "vgg16":
        layers, channels = [], 3
        for layer, size in enumerate(VGG16_CHANNELS, start=1):
            layers += [nn.Conv2d(channels, size, 3, padding=1), nn.ReLU()]
            layers += [nn.MaxPool2d(2)] if layer in (2, 4, 7, 10, 13) else []
            channels = size
        hidden_layers = (nn.Linear(channels, first), nn.ReLU(), nn.Linear(first, second), nn.ReLU())
        return nn.Sequential(*layers, nn.Flatten(), *hidden_layers, nn.Linear(second, 10))
    if model == "mlp":
        hidden_layers = (nn.Linear(784, first), nn.ReLU(), nn.Linear(first, second), nn.ReLU())
        return nn.Sequential(nn.Flatten(), *hidden_layers, nn.Linear(second, 10))
    return nn.Sequential(
        *(nn.Conv2d(3, 64, 3, stride=2, padding=1), nn.ReLU(), nn.MaxPool2d(2)),
        *(nn.Conv2d(64, 192, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2)),
        *(nn.Conv2d(192, 384, 3, padding=1), nn.ReLU()),
        *(nn.Conv2d(384, 256, 3, padding=1), nn.ReLU()),
        *(nn.Conv2d(256, 256, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2), nn.Flatten()),
        *(nn.Linear(1024, first), nn.ReLU(), nn.Linear(first, second), nn.ReLU(), nn.Linear(second, 10)),
    )


def layers_of(network):
    """The layers with weights, first to last, of a network of ours or of a plain one."""
    if isinstance(network, nn.Sequential):
        return [layer for layer in network if hasattr(layer, "weight")]
    convolutions = [] if isinstance(network, MLP) else network.convolutions
    return [*convolutions, *network.hidden, network.classifier]


@torch.no_grad()
def load_into(twin, network, h=None):
    """Put a network's weights into its plain twin: with the response to h (H,), if given, folded into them."""
    for theirs, ours in zip(layers_of(twin), layers_of(network), strict=True):
        scale = 1 if ours.elementary_scale is None else ours.elementary_scale
        theirs.weight.copy_(scale * ours.weight)
        theirs.bias.copy_(scale * ours.bias)
        if h is not None and ours.num_hyper:
            weight_gate, bias_gate = (ours.gate @ h).chunk(2)
            theirs.weight += weight_gate.reshape(-1, *[1] * (ours.weight.dim() - 1)) * ours.response_weight
            theirs.bias += bias_gate * ours.response_bias
    return twin


def runs(tmp_path):
    """All runs' folders below tmp_path/logs, by name of subfolder and folder."""
    return sorted(file.parent for file in (tmp_path / "logs").glob("*/*/*/args.yaml"))


def only_run(tmp_path):
    (folder,) = runs(tmp_path)
    return folder


def same(one, other):
    """Whether two states are equal, bit for bit."""
    if isinstance(one, dict):
        return one.keys() == other.keys() and all(same(one[name], other[name]) for name in one)
    if isinstance(one, list | tuple):
        return len(one) == len(other) and all(map(same, one, other))
    return torch.equal(one, other) if isinstance(one, torch.Tensor) else one == other
