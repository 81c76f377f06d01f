"""The training loss of the self-tuning language model at paper size, in float32 and in bfloat16, step by step.

All start from the same seed, so that they see the same weights, masks and mini-batches, and differ in the rounding of
their matrix products alone. At the published learning rate any difference grows; a float32 run from weights that differ
by a millionth shows how much of it is noise. Writes <out>.csv as it goes, and <out>.png and .pdf.
"""

import argparse
import sys
from collections.abc import Iterator
from pathlib import Path

import pandas
import torch
from lstm_step import CLIP, PAPER, Shape, tuned_hyperparameters
from matplotlib.figure import Figure
from timing import ROOT, prepare

from lstm.model import AWDLSTM
from lstm.settings import LanguageModelSettings
from lstm.task import LanguageModeling
from stn.datasets.text import Corpus, load_corpus
from stn.figures import style
from stn.methods import STN
from stn.scripts.options import positive_int

LR, HYPER_LR, SEED = 30.0, 0.01, 3
# Each curve's type, and what the initial weights are multiplied by.
CURVES = {
    "float32": (torch.float32, 1.0),
    "bfloat16": (torch.bfloat16, 1.0),
    "float32, weights nudged": (torch.float32, 1 + 1e-6),
}
SMOOTHING = 20  # steps
SHOWN = 0.96  # share of the steps that the figure has room for


def losses(corpus: Corpus, shape: Shape, dtype: torch.dtype, factor: float, steps: int) -> Iterator[float]:
    """Training loss of each weight step in nats per token; a hyperparameter step follows every second one.

    factor: what the initial embedding is multiplied by.
    """
    torch.manual_seed(SEED)
    hyper = tuned_hyperparameters(shape.tuned)
    model = AWDLSTM(len(corpus.vocabulary), shape.width, shape.width, 2, hyper.num_tuned, dtype)
    with torch.no_grad():
        model.embedding.weight *= factor
    task = LanguageModeling(model, corpus, shape.batch, shape.steps)
    method = STN(model, hyper, lr=LR, clip=CLIP, hyper_lr=HYPER_LR)
    for step in range(steps):
        yield method.weight_step(task, hyper).data.item()
        if step % 2:
            method.hyper_step(task, hyper)


@style.styled
def plot(table: pandas.DataFrame, path: Path) -> list[Path]:
    """table: a column of losses for each type, by step. The files written."""
    figure = Figure(figsize=(style.PAGE, 2.2), layout="constrained")
    left, right = figure.subplots(1, 2)
    smooth = table.rolling(SMOOTHING, center=True).mean()
    for color, name in zip(style.COLORS, table, strict=False):
        left.plot(table.index, table[name], color=color, alpha=0.25, linewidth=0.5)
        left.plot(smooth.index, smooth[name], color=color, label=name)
    left.set(xlabel="weight step", ylabel="training loss (nats a token)")
    left.set_ylim(float(table.min().min()) - 0.1, float(table.quantile(SHOWN).max()))  # a few steps leap far up
    left.legend(title=f"means of {SMOOTHING} steps")
    for color, name in zip(style.COLORS[1:], list(table)[1:], strict=False):
        right.plot(table.index, smooth[name] - smooth["float32"], color=color, linewidth=0.9, label=name)
    right.axhline(0, color="0.5", linewidth=0.7)
    right.set(xlabel="weight step", ylabel="less float32 (nats)")
    return style.save(figure, path)


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="loss_curves.py", description=__doc__)
    add = parser.add_argument
    add("--steps", type=positive_int, default=300, metavar="N", help="weight steps (default: %(default)s)")
    add("--threads", type=positive_int, default=None, metavar="N", help="CPU threads (default: what PyTorch chooses)")
    add("--curves", nargs="+", choices=CURVES, default=list(CURVES), help="which to compute (default: all)")
    add("--data", default=None, metavar="FOLDER", help="as of lstm/train.py")
    add("--out", type=Path, default=ROOT / "plots" / "loss_curves", metavar="PATH", help="the files' path")
    args = parser.parse_args(argv)
    prepare(args)
    corpus = load_corpus(LanguageModelSettings.locate(args.data)[0])
    args.out.parent.mkdir(parents=True, exist_ok=True)
    table = pandas.DataFrame(index=pandas.RangeIndex(args.steps, name="step"))
    for name in args.curves:
        table[name] = float("nan")
        for step, loss in enumerate(losses(corpus, PAPER, *CURVES[name], args.steps)):
            table.loc[step, name] = loss
            if step % 10 == 9 or step == args.steps - 1:
                table.to_csv(args.out.with_suffix(".csv"))
                print(f"{name} step {step}: loss {loss:.4f}", flush=True)
    print(table.describe())
    if "float32" in table:
        for file in plot(table, args.out):
            print(f"wrote {file}")


if __name__ == "__main__":
    sys.exit(main())
