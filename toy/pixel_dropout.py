"""A small network tunes its dropout, how many pixels it sees, and how often; or it holds them where they start.

    python toy/pixel_dropout.py                self-tuning
    python toy/pixel_dropout.py --no_tuning    the same network with all hyperparameters constant

With probability `augmented` a training image loses pixels: each is kept, in all its colours, with probability `keep`.
Both, and the dropout rates after each layer, differ between the examples of a mini-batch, so that the response layers
learn what the network would be under other values, among which the validation images choose. Drawing a mask is not
differentiated: the hyperparameters get their gradient through the response alone.

It learns 2,000 images of CIFAR-10 (./getdata.sh cifar10), or else as many built-in ones, few enough to overfit. Once
both runs are there, the second ends with a table and figures of the two.
"""

if __name__ == "__main__":
    import sys
    from pathlib import Path

    sys.path[0] = str(Path(__file__).resolve().parent.parent)  # the repository, installed or not
    from stn.scripts.launch import launch

    launch("toy.pixel_dropout")

from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from itertools import pairwise
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

import stn
from stn.datasets.builtin_images import builtin_images
from stn.datasets.images import CIFAR10_CLASSES, CIFAR10_NORMALIZATION, Images, load_cifar10, load_image_sets
from stn.dropout import drop
from stn.errors import UserError
from stn.figures.schedules import schedules
from stn.figures.scores import accuracies
from stn.runs.folder import read_status
from stn.runs.history import Run, read_result, read_run, require
from stn.scripts import figures
from stn.scripts.methods import METHODS
from stn.scripts.options import ROOT, OneLineParser, exit_status, nonnegative_int, positive_int, refuse_more_threads
from stn.scripts.output import say

TRAIN, VALID, TEST = 2000, 1000, 2000
BATCH, EPOCHS, WARMUP_EPOCHS = 50, 30, 2
CHANNELS, HIDDEN = (3, 16, 32, 64), 128
LEARNING_RATE, HYPER_LR = 1e-3, 0.03
LAYERS = len(CHANNELS)  # the convolutions and a hidden layer, each with dropout
# What each hyperparameter is called, where it starts, and its range.
TABLE = {
    "keep": ("pixel keep probability", 0.95, (0.25, 1)),
    "augmented": ("probability of augmentation", 0.5, (0, 1)),
    **{f"dropout{layer}": (f"dropout after layer {layer}", 0.05, (0, 1)) for layer in range(1, LAYERS + 1)},
}
RUNS = ("fixed", "tuned")
REMEDY = "remove that run's folder"


def network() -> nn.Sequential:
    """Images (B, 3, 32, 32) -> logits (B, 10): three convolutions and a hidden layer, with dropout after each."""
    net = nn.Sequential()
    for layer, (before, after) in enumerate(pairwise(CHANNELS), start=1):
        net.append(nn.Sequential(nn.Conv2d(before, after, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2)))
        net.add_module(f"dropout{layer}", nn.Dropout())
    net.append(nn.Sequential(nn.Flatten(), nn.Linear(CHANNELS[-1] * 4 * 4, HIDDEN), nn.ReLU()))
    net.add_module(f"dropout{LAYERS}", nn.Dropout())
    return net.append(nn.Linear(HIDDEN, len(CIFAR10_CLASSES)))


def hyperparameters(tuned: bool) -> stn.Hyperparameters:
    """All that `TABLE` holds: each differs between examples; without tuning, constants where tuning starts."""
    return stn.Hyperparameters(
        **{name: stn.Tuned(start, ends) if tuned else stn.Constant(start) for name, (_, start, ends) in TABLE.items()}
    )


def pixel_dropout(batch: tuple[Tensor, Tensor], draw: stn.Draw) -> tuple[Tensor, Tensor]:
    """Some of images (B, C, H, W) without some of their pixels, the kept ones scaled by 1 / keep; and their labels."""
    images, labels = batch
    count, _, height, width = images.shape
    some_pixels = drop(images, 1 - draw["keep"], (count, 1, height, width))
    chosen = torch.rand(count) < torch.as_tensor(draw["augmented"])
    return torch.where(chosen[:, None, None, None], some_pixels, images), labels


def accuracy(logits: Tensor, labels: Tensor) -> Tensor:
    return (logits.argmax(1) == labels).float().mean()


def loader(images: Images, count: int, shuffle: bool) -> DataLoader:
    """Mini-batches of the first so many images, normalized."""
    own = CIFAR10_NORMALIZATION
    mean, deviation = (torch.tensor(part)[:, None, None] for part in (own.mean, own.deviation))
    pixels = (images.pixels[:count] - mean) / deviation
    return DataLoader(TensorDataset(pixels, images.labels[:count]), BATCH, shuffle)


def train(run: Path, tuned: bool, seed: int = 1, method: str = "stn", epochs: int = EPOCHS) -> None:
    """Train the network anew, in the folder `run`. Raises KeyboardInterrupt where it is stopped."""
    published = ROOT / "data" / "cifar10"
    pair = load_cifar10(published) if published.exists() else builtin_images(TRAIN + VALID, TEST)
    sets = load_image_sets(*pair, VALID / (TRAIN + VALID), CIFAR10_CLASSES)
    torch.manual_seed(seed)
    hyper = hyperparameters(tuned)
    rates = {name: name for name in TABLE if name.startswith("dropout")}
    net = stn.convert(network(), hyper, dropout=rates)
    train_loader = loader(sets.train, TRAIN, shuffle=True)
    result = stn.fit(
        net,
        hyper,
        loss=F.cross_entropy,
        accuracy=accuracy,
        train=train_loader,
        valid=loader(sets.valid, VALID, shuffle=True),
        test=loader(sets.test, TEST, shuffle=False),
        augment=pixel_dropout,
        optimizer=torch.optim.Adam(net.parameters(), LEARNING_RATE),
        method=partial(METHODS[method], hyper_lr=HYPER_LR),
        epochs=epochs,
        warmup_steps=WARMUP_EPOCHS * len(train_loader),
        run=run,
        overwrite=True,
    )
    if not result.completed:
        raise KeyboardInterrupt


def finished(out: Path, seed: int) -> list[Run]:
    """The runs of this seed that are there, finished."""
    paths = {name: folder(out, name, seed) for name in RUNS}
    words = {name: called for name, (called, *_) in TABLE.items()}
    there = {name: path for name, path in paths.items() if path.is_dir() and read_status(path) == "finished"}
    return [replace(read_run(path, words=words), name=name) for name, path in there.items()]


def folder(out: Path, name: str, seed: int) -> Path:
    """Where the run of this name lies."""
    return out / f"{name}-seed{seed}"


def result_of(run: Run) -> dict[str, float]:
    """The row of its result.csv. Raises UserError where that is not what a finished run writes."""
    file, row = run.path / "result.csv", read_result(run.path, growing=False, remedy=REMEDY)
    if not row:
        raise UserError(f"{file} is missing: restore it, or {REMEDY}")
    require(file, row, ("val_acc", "test_acc", *TABLE), REMEDY)
    return row


def table(runs: Sequence[Run]) -> str:
    """Of each run's best epoch, which the validation images choose: its accuracies and hyperparameters."""
    results = [result_of(run) for run in runs]
    lines = [f"{'':<28}" + "".join(f"{run.name:>9}" for run in runs)]
    for split, column in (("validation", "val_acc"), ("test", "test_acc")):
        lines.append(f"{f'{split} accuracy (%)':<28}" + "".join(f"{100 * result[column]:>9.1f}" for result in results))
    for name, (called, *_) in TABLE.items():
        lines.append(f"{called:<28}" + "".join(f"{result[name]:>9.3f}" for result in results))
    return "\n".join(lines)


def main(argv: Sequence[str] | None = None) -> int:
    """Train one run, and compare it with the other where that is there; the exit status, 2 for what can be mended."""
    parser = OneLineParser(prog="pixel_dropout.py", description=__doc__.partition("\n")[0])
    parser.add_argument("--no_tuning", action="store_true", help="hold all hyperparameters where tuning starts")
    parser.add_argument("--method", choices=METHODS, default="stn", help="what tunes (default: stn)")
    parser.add_argument("--epochs", type=positive_int, default=EPOCHS, metavar="N", help=f"(default: {EPOCHS})")
    parser.add_argument("--seed", type=nonnegative_int, default=1, metavar="N", help="(default: 1)")
    parser.add_argument("--threads", type=positive_int, default=1, metavar="N", help="CPU threads (default: 1)")
    figures.add_out(parser, "logs/toy/pixel_dropout", "FOLDER", "where runs and figures go; a run there is redone")
    args = parser.parse_args(argv)

    def work() -> None:
        refuse_more_threads(args.threads)
        torch.set_num_threads(args.threads)
        own = "fixed" if args.no_tuning else "tuned"
        train(folder(args.out, own, args.seed), not args.no_tuning, args.seed, args.method, args.epochs)
        runs = finished(args.out, args.seed)
        say(table(runs))
        for draw in (schedules, accuracies):
            figures.write(draw(runs).figure, args.out / draw.__name__)
        if len(runs) == 1:
            other = "" if args.no_tuning else " --no_tuning"
            say(f"to compare: python toy/pixel_dropout.py{other} --seed {args.seed}, into the same folder")

    return exit_status(parser.prog, work, "start it again")
