"""A ReLU network learns y = x², and on which interval to learn it.

The training inputs are x = width · u with u uniform on [−1, 1]; the width is a hyperparameter that starts at 1. The
validation loss is the mean squared error on [−2, 2], so that the width has to grow to 2. Beyond 2 nothing pulls it
back: a wider interval costs the fit next to nothing, and where above 2 the width ends means little.

How it learns of widths that it has not reached: each example has a width of its own, perturbed around the current one,
and the response layers learn how the weights depend on it. The validation loss moves the width through that response.

The perturbation's scale is learned too, under a small weight of its entropy, 1e-4: the squared errors are small in the
end, and under a weight of 1e-3 entropy widens the perturbation and so the width, to 3 in longer runs. At a constant
scale the width stops near 2, in two of four runs a little below. Both methods find 2; the STN takes less time.
"""

if __name__ == "__main__":
    import sys
    from pathlib import Path

    sys.path[0] = str(Path(__file__).resolve().parent.parent)  # the repository, installed or not
    from stn.scripts.launch import launch

    launch("toy.relu_square")

import math
from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import NamedTuple

import torch
import torch.nn.functional as F
from matplotlib.animation import PillowWriter
from matplotlib.figure import Figure
from torch import Tensor, nn

import stn
from stn.figures import style
from stn.runs.history import Run, read_run
from stn.scripts import figures
from stn.scripts.methods import METHODS
from stn.scripts.options import OneLineParser, exit_status, nonnegative_int, positive_int, refuse_more_threads
from stn.scripts.output import say

BATCH, STEPS, EPOCHS, WARMUP = 128, 50, 40, 200  # an epoch is so many weight steps, and a frame of the animation
HIDDEN, LAYERS = 64, 3
START, SCALE, HALF = 1.0, 0.5, 2.0  # of the width, of its perturbation; validation is on [−HALF, HALF]
LEARNING_RATE, HYPER_LR, ENTROPY_WEIGHT = 3e-3, 0.03, 1e-4
GRID = torch.linspace(-1.5 * HALF, 1.5 * HALF, 601)[:, None]  # where the animation shows the network
FPS = 8
RUN = "run"  # below --out, so that no other run which lies there is redone


class Frame(NamedTuple):
    """What is known after so many weight steps. fitted: (601,) the network on GRID."""

    step: int
    width: float
    fitted: Tensor


class Uniform:
    """So many mini-batches of u uniform on [−1, 1], (B, 1), of which `widened` makes inputs and targets."""

    def __init__(self, steps: int):
        self.steps = steps

    def __len__(self) -> int:
        return self.steps

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        for _ in range(self.steps):
            u = 2 * torch.rand(BATCH, 1) - 1
            yield u, u


def widened(batch: tuple[Tensor, Tensor], draw: stn.Draw) -> tuple[Tensor, Tensor]:
    """x = width · u, each example by its own width, and y = x²."""
    width = draw["width"].reshape(-1, 1)
    x = width * batch[0]
    return x, x.square()


def network(hidden: int, layers: int) -> nn.Sequential:
    """A ReLU network from x (B, 1) to y (B, 1)."""
    parts, before = [], 1
    for _ in range(layers):
        parts += [nn.Linear(before, hidden), nn.ReLU()]
        before = hidden
    return nn.Sequential(*parts, nn.Linear(before, 1))


class Square(NamedTuple):
    """The network of the best epoch, its hyperparameters, and frames: one of the start, one after each epoch."""

    net: stn.SelfTuning
    hyper: stn.Hyperparameters
    frames: list[Frame]
    run: Path

    def largest_error(self) -> float:
        """The maximal |ŷ − x²| on [−2, 2]."""
        x = torch.linspace(-HALF, HALF, 4001)[:, None]
        return (evaluated(self.net, self.hyper, x) - x[:, 0].square()).abs().max().item()


def evaluated(net: stn.SelfTuning, hyper: stn.Hyperparameters, x: Tensor) -> Tensor:
    """x (N, 1) -> (N,), by the network for the current width."""
    net.eval()
    with torch.no_grad():
        return net(x, draw=hyper.current())[:, 0]


def train(
    run: Path,
    seed: int = 1,
    method: str = "stn",
    *,
    hidden: int = HIDDEN,
    steps: int = STEPS,
    epochs: int = EPOCHS,
    warmup: int = WARMUP,
    lr: float = LEARNING_RATE,
    hyper_lr: float = HYPER_LR,
) -> Square:
    """Train the network and its width, anew, with tables in the folder `run`.

    steps: weight steps of an epoch. Raises KeyboardInterrupt where it is stopped.
    """
    torch.manual_seed(seed)
    hyper = stn.Hyperparameters(width=stn.Tuned(START, range=(0, math.inf), scale=SCALE))
    net = stn.convert(network(hidden, LAYERS), hyper)
    frames = [Frame(0, START, evaluated(net, hyper, GRID))]

    def keep(trainer: stn.Trainer, row: dict[str, float]) -> None:
        frames.append(Frame(trainer.train_step, row["width"], evaluated(net, hyper, GRID)))

    x = torch.linspace(-HALF, HALF, BATCH)[:, None]
    optimizer = torch.optim.Adam(net.parameters(), lr)
    result = stn.fit(
        net,
        hyper,
        loss=F.mse_loss,
        train=Uniform(steps),
        valid=[(x, x.square())],
        augment=widened,
        optimizer=optimizer,
        scheduler=torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, epochs),
        method=partial(
            METHODS[method], hyper_lr=hyper_lr, scale_lr=hyper_lr, tune_scales=True, entropy_weight=ENTROPY_WEIGHT
        ),
        epochs=epochs,
        warmup_steps=warmup,
        run=run,
        overwrite=True,
        on_epoch=keep,
    )
    if not result.completed:
        raise KeyboardInterrupt
    return Square(net, hyper, frames, run)


@style.styled
def trajectories(run: Run) -> Figure:
    """The width with the band of its perturbation, the perturbation's scale, and the losses, against weight steps."""
    figure = Figure(figsize=(style.PAGE, 1.9), layout="constrained")
    width, scale, loss = figure.subplots(1, 3)
    steps = run.settings["mini_batches"][0] * (run.epoch["epoch"] + 1)  # of an epoch, and those before it
    blue, orange = style.COLORS[:2]
    width.fill_between(steps, *run.band("width", "epoch"), color=blue, label="± 1 scale", **style.BAND)
    width.plot(steps, run.epoch["width"], color=blue, label="width")
    width.axhline(HALF, color="0.35", label="end of validation", **style.CONSTANT)
    scale.plot(steps, run.epoch["width_scale"], color=blue)
    loss.plot(steps, run.epoch["train_loss"], color=orange, linestyle=style.DASHES[1], label="training")
    loss.plot(steps, run.epoch["val_loss"], color=blue, label="validation")
    loss.set_yscale("log")
    loss.yaxis.set_major_formatter(lambda value, _: f"{value:.0e}".replace("e-0", "e-"))
    width.set_ylim(0, None)
    scale.set_ylim(0, None)
    for panel, title in zip((width, scale, loss), ("width", "scale of its perturbation", "squared error"), strict=True):
        panel.set(title=title, xlabel="weight step", xlim=(0, None))
    width.legend(loc="lower right")
    loss.legend(loc="upper right")
    return figure


@style.styled
def animate(frames: Sequence[Frame], path: Path) -> None:
    """Write an animated GIF: the network's function in each frame, and, shaded, the interval that it learns on."""
    figure = Figure(figsize=(4, 2.8), layout="constrained")
    panel = figure.subplots()
    blue, orange = style.COLORS[:2]
    x, bounds = GRID[:, 0], (GRID[0].item(), GRID[-1].item())
    writer = PillowWriter(fps=FPS)
    with writer.saving(figure, str(path), dpi=110):
        for frame in frames:
            panel.clear()
            panel.axvspan(-frame.width, frame.width, color=blue, label="learned on", **style.BAND)
            panel.plot(x, x.square(), color="0.35", label="y = x²", **style.CONSTANT)
            panel.plot(x, frame.fitted, color=orange, label="network")
            for end in (-HALF, HALF):
                panel.axvline(end, color="0.35", linewidth=0.7, label="validated up to here" if end > 0 else None)
            panel.set(xlim=bounds, ylim=(-0.6, 8), xlabel="x", ylabel="y")
            panel.set_title(f"weight step {frame.step:,}: width {frame.width:.2f}")
            panel.legend(loc="upper center")
            writer.grab_frame()


def main(argv: Sequence[str] | None = None) -> int:
    """Train, draw and animate; the exit status: 0, 2 for what the user can mend, 130 where interrupted."""
    parser = OneLineParser(prog="relu_square.py", description=__doc__.partition("\n")[0])
    parser.add_argument("--method", choices=METHODS, default="stn", help="what tunes (default: stn)")
    parser.add_argument("--seed", type=nonnegative_int, default=1, metavar="N", help="(default: 1)")
    parser.add_argument("--threads", type=positive_int, default=1, metavar="N", help="CPU threads (default: 1)")
    figures.add_out(parser, "logs/toy/relu_square", "FOLDER", "where figures go and, in run/, the run, which is redone")
    args = parser.parse_args(argv)

    def work() -> None:
        refuse_more_threads(args.threads)
        torch.set_num_threads(args.threads)
        square = train(args.out / RUN, args.seed, args.method)
        width = square.hyper.current()["width"].item()
        say(f"width {START:g} -> {width:.2f}; largest error on [−2, 2]: {square.largest_error():.4f}")
        figures.write(trajectories(read_run(square.run)), args.out / "trajectories")
        animate(square.frames, args.out / "fit.gif")
        say(f"wrote {args.out / 'fit.gif'}, {len(square.frames)} frames")

    return exit_status(parser.prog, work, "start it again")
