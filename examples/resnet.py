"""A ResNet-18 for CIFAR-10, as anyone would write it, that tunes its own weight decay and augmentation.

    python examples/resnet.py            self-tuning
    python examples/resnet.py --fixed    the plain network at the values that tuning starts from, in the same loop

It learns CIFAR-10 (./getdata.sh cifar10), or else the built-in images, in logs/resnet. A run that was stopped goes on.
"""

import sys
from argparse import Namespace
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

import stn
from stn.datasets.builtin_images import builtin_images
from stn.datasets.images import CIFAR10_CLASSES, CIFAR10_NORMALIZATION, Images, load_cifar10, load_image_sets
from stn.scripts.options import OneLineParser, exit_status, nonnegative_int, one_of, positive_int

NAME, ROOT = "resnet.py", Path(__file__).resolve().parent.parent
BATCH = 128
NORMALIZATION = CIFAR10_NORMALIZATION.mean, CIFAR10_NORMALIZATION.deviation


class Block(nn.Module):
    """Two convolutions beside a shortcut (He et al. 2016)."""

    def __init__(self, before: int, after: int, stride: int):
        super().__init__()
        self.first = nn.Sequential(nn.Conv2d(before, after, 3, stride, 1, bias=False), nn.BatchNorm2d(after), nn.ReLU())
        self.second = nn.Sequential(nn.Conv2d(after, after, 3, 1, 1, bias=False), nn.BatchNorm2d(after))
        same = before == after and stride == 1
        plain = nn.Sequential(nn.Conv2d(before, after, 1, stride, bias=False), nn.BatchNorm2d(after))
        self.shortcut = nn.Identity() if same else plain

    def forward(self, x: Tensor) -> Tensor:
        return F.relu(self.second(self.first(x)) + self.shortcut(x))


def resnet18(width: int, classes: int = 10) -> nn.Sequential:
    """Images (B, 3, 32, 32) -> logits (B, classes). width: channels of the first stage, 64 as published."""
    stem = [nn.Conv2d(3, width, 3, 1, 1, bias=False), nn.BatchNorm2d(width), nn.ReLU()]
    blocks, channels = [], width
    for stage, stride in enumerate((1, 2, 2, 2)):
        for own in (stride, 1):
            blocks.append(Block(channels, channels := width * 2**stage, own))
    return nn.Sequential(*stem, *blocks, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(channels, classes))


def augment(batch: tuple[Tensor, Tensor], draw: stn.Draw) -> tuple[Tensor, Tensor]:
    """Mirrored at random, moved by up to `shift` pixels each way, with noise of deviation `noise`."""
    images, labels = batch
    count = len(images)
    turned = torch.where(torch.rand(count, 1, 1, 1) < 0.5, images, images.flip(3))
    shift = torch.as_tensor(draw["shift"]).expand(count)[:, None] / 16  # of the way from the middle to an edge
    place = torch.eye(2, 3).expand(count, 2, 3).clone()
    place[:, :, 2] = shift * (2 * torch.rand(count, 2) - 1)
    moved = F.grid_sample(turned, F.affine_grid(place, images.shape, align_corners=False), align_corners=False)
    return moved + torch.as_tensor(draw["noise"]).reshape(-1, 1, 1, 1) * torch.randn_like(moved), labels


def accuracy(logits: Tensor, labels: Tensor) -> Tensor:
    return (logits.argmax(1) == labels).float().mean()


def loader(images: Images, shuffle: bool) -> DataLoader:
    mean, deviation = (torch.tensor(part)[:, None, None] for part in NORMALIZATION)
    return DataLoader(TensorDataset((images.pixels - mean) / deviation, images.labels), BATCH, shuffle)


def train(args: Namespace) -> None:
    folder = ROOT / "data" / "cifar10"
    data, images = ("cifar10", load_cifar10(folder)) if folder.exists() else ("builtin", builtin_images())
    sets = load_image_sets(*images, 0.2, CIFAR10_CLASSES)
    name = f"{data}-{'fixed' if args.fixed else args.method}-width{args.width}-seed{args.seed}"
    torch.manual_seed(args.seed)
    start = {"shift": (2.0, (0, 8)), "noise": (0.05, (0, 1)), "decay": (5e-4, (0, float("inf")))}
    tuned = {name: stn.Tuned(value, ends, per_example=name != "decay") for name, (value, ends) in start.items()}
    hyper = stn.Hyperparameters(**{name: stn.Constant(start[name][0]) for name in start} if args.fixed else tuned)
    net = stn.convert(resnet18(args.width), hyper)
    optimizer = torch.optim.SGD(net.parameters(), lr=0.05, momentum=0.9, nesterov=True)
    stn.fit(
        net,
        hyper,
        loss=F.cross_entropy,
        accuracy=accuracy,
        train=loader(sets.train, shuffle=True),
        valid=loader(sets.valid, shuffle=True),
        test=loader(sets.test, shuffle=False),
        optimizer=optimizer,
        scheduler=torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, args.epochs),
        method=args.method,
        augment=augment,
        weight_decay="decay",
        epochs=args.epochs,
        run=ROOT / "logs" / "resnet" / name,
        resume=True,
    )


def main() -> int:
    parser = OneLineParser(prog=NAME, description=__doc__)
    parser.add_argument("--fixed", action="store_true", help="tune nothing")
    parser.add_argument("--method", type=one_of("stn", "delta_stn"), default="stn", help="(default: stn)")
    parser.add_argument("--width", type=positive_int, metavar="N", default=64, help="of the first stage (default: 64)")
    parser.add_argument("--epochs", type=positive_int, metavar="N", default=30, help="(default: 30)")
    parser.add_argument("--seed", type=nonnegative_int, metavar="N", default=1, help="(default: 1)")
    args = parser.parse_args()
    return exit_status(NAME, lambda: train(args), "start it again to continue")


if __name__ == "__main__":
    sys.exit(main())
