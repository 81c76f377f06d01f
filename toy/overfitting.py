"""A perceptron that overfits: examples few enough, and labels noisy enough, that regularization decides.

Four causes decide the class, each seen in eight noisy copies, and a tenth of the labels are wrong. Three
hyperparameters: the dropout rates of the inputs and of the hidden units, and the coefficient of weight decay. A
training takes seconds.
"""

from collections.abc import Callable
from functools import partial
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

import stn
from stn.recorder import Unseen
from stn.scripts.course import Result, RunProgress

CAUSES, COPIES, UNITS = 4, 8, 100
INPUTS = CAUSES * COPIES
SIZES = {"train": 800, "valid": 800, "test": 2000}
WRONG = 0.1  # labels
START = {"input_dropout": 0.05, "hidden_dropout": 0.05, "weight_decay": 1e-3}  # hardly any regularization
LAYERS = {"0": "input_dropout", "*": "hidden_dropout"}  # whose rate each is
LR, HYPER_LR, CLIP = 0.01, 0.02, 1.0


def loaders(seed: int = 0) -> dict[str, DataLoader]:
    """Mini-batches of "train", "valid" and "test": inputs (B, 32), classes (B,)."""
    generator = torch.Generator().manual_seed(seed)
    found = {}
    for split, size in SIZES.items():
        cause = torch.randn(size, CAUSES, generator=generator)
        x = cause.repeat(1, COPIES) + torch.randn(size, INPUTS, generator=generator)
        right = cause[:, 0] * cause[:, 1] + cause[:, 2] * cause[:, 3] > 0
        labels = (right ^ (torch.rand(size, generator=generator) < WRONG)).long()
        batch = 40 if split == "train" else 100
        found[split] = DataLoader(TensorDataset(x, labels), batch, shuffle=split != "test")
    return found


def network() -> nn.Sequential:
    """One hidden layer, plain; (B, 32) -> logits (B, 2)."""
    return nn.Sequential(nn.Dropout(0.05), nn.Linear(INPUTS, UNITS), nn.ReLU(), nn.Dropout(0.05), nn.Linear(UNITS, 2))


def tuned() -> stn.Hyperparameters:
    """The three, learned from START on."""
    rates = {name: stn.Tuned(START[name], range=(0, 1)) for name in LAYERS.values()}
    decay = stn.Tuned(START["weight_decay"], transform="exp", per_example=False)
    return stn.Hyperparameters(**rates, weight_decay=decay)


def fixed(**values: float) -> stn.Hyperparameters:
    """The three at these values, elsewhere at START's."""
    return stn.Hyperparameters(**{name: stn.Constant(value) for name, value in {**START, **values}.items()})


def accuracy(logits: Tensor, classes: Tensor) -> Tensor:
    return (logits.argmax(1) == classes).float().mean()


def train(
    hyper: stn.Hyperparameters,
    run: Path | str,
    epochs: int = 50,
    seed: int = 0,
    progress: RunProgress | None = None,
    stop: Callable[[], bool] = lambda: False,
) -> Result:
    """Train the perceptron with these hyperparameters; redoes the run that is there."""
    torch.manual_seed(seed)
    net = stn.convert(network(), hyper, dropout=LAYERS)
    return stn.fit(
        net,
        hyper,
        loss=F.cross_entropy,
        accuracy=accuracy,
        weight_decay="weight_decay",
        **loaders(),
        optimizer=torch.optim.SGD(net.parameters(), lr=LR, momentum=0.9),
        method=partial(stn.STN, hyper_lr=HYPER_LR),
        clip=CLIP,
        epochs=epochs,
        run=run,
        overwrite=True,
        progress=progress or Unseen(),
        stop=stop,
    )
