"""What a run shows on the screen: a progress bar within an epoch, a line after each."""

import sys
import textwrap
from collections.abc import Mapping

from tqdm import tqdm

from stn.training import Status

WIDTH = 80  # columns
INDENT = " " * 11
MEASURES = {"ppl": "ppl {:8.2f}", "acc": "accuracy {:5.1%}", "loss": "loss {:.3f}"}


class Screen:
    """Bars go to stderr, and only to a terminal; lines go to stdout.

    names: the hyperparameters to show. unit: what training goes through, "tokens" or "images". measure: which of a
    score's measures an epoch's line shows.
    """

    def __init__(self, names: tuple[str, ...], unit: str, measure: str):
        self.names, self.unit, self.measure = names, unit, measure
        self.bar: tqdm | None = None

    def update(self, status: Status) -> None:
        if self.bar is None or self.epoch != status.epoch:
            self.close()
            self.epoch = status.epoch
            layout = "{desc} {percentage:3.0f}% |{bar}| {n_fmt}/{total_fmt}{postfix}"
            self.bar = tqdm(
                total=status.length, desc=f"epoch {status.epoch}", bar_format=layout, leave=False, disable=None
            )
            self.values = tqdm(bar_format="{desc}", position=1, leave=False, disable=None)
        measures = " ".join(shown(name, value) for name, value in status.score.measures().items())
        self.bar.set_postfix_str(f"{measures} {status.speed:,.0f} {self.unit}/s", refresh=False)
        if not self.values.disable:
            words = in_words(self.names, status.values)
            line = textwrap.shorten(words, self.values.ncols or WIDTH, placeholder=" …")
            self.values.set_description_str(line, refresh=False)
            self.values.update(0)
        self.bar.update(status.position - self.bar.n)

    def epoch_ended(self, row: dict[str, float], best: bool) -> None:
        self.close()
        mark = "*" if best else " "
        train, valid = (shown(self.measure, row[f"{split}_{self.measure}"]) for split in ("train", "val"))
        say(f"epoch {row['epoch']:3d}  {row['time']:7.0f} s  train {train}  valid {valid}{mark} lr {row['lr']:.4g}")
        if self.names:
            say(textwrap.fill(in_words(self.names, row), WIDTH, initial_indent=INDENT, subsequent_indent=INDENT))

    def close(self) -> None:
        if self.bar is not None:
            self.values.close()
            self.bar.close()
            self.bar = None


def shown(measure: str, value: float) -> str:
    """A measure with its name, at a fixed width."""
    return MEASURES[measure].format(value)


def in_words(names: tuple[str, ...], values: Mapping[str, float]) -> str:
    """Names and values, short enough for a terminal of 80 columns: "alpha .050 dropo .123"."""
    return " ".join(f"{name.replace('dropout', 'drop')} {f'{values[name]:.3f}'.removeprefix('0')}" for name in names)


def say(line: str) -> None:
    """One line on stdout, at once."""
    print(line, flush=True)


def complain(script: str, error: object) -> None:
    """One line on stderr that names the script."""
    print(f"{script}: {error}", file=sys.stderr, flush=True)
