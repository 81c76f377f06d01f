"""What a run shows on the screen: a progress bar within an epoch, a line after each."""

import sys
from collections.abc import Mapping

from tqdm import tqdm

from stn.training import Status, perplexity


class Screen:
    """Bars go to stderr, and only to a terminal; lines go to stdout. names: the hyperparameters to show."""

    def __init__(self, names: tuple[str, ...]):
        self.names = names
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
        loss = status.train_loss
        self.bar.set_postfix_str(
            f"loss {loss:.3f} ppl {perplexity(loss):.1f} {status.tokens_per_second:,.0f} tokens/s", refresh=False
        )
        self.values.set_description_str(in_words(self.names, status.values), refresh=False)
        self.values.update(0)
        self.bar.update(status.position - self.bar.n)

    def epoch_ended(self, row: dict[str, float], best: bool) -> None:
        self.close()
        mark = "*" if best else " "
        say(
            f"epoch {row['epoch']:3d}  {row['time']:7.0f} s  train ppl {row['train_ppl']:8.2f}  "
            f"valid ppl {row['val_ppl']:8.2f}{mark} lr {row['lr']:.4g}"
        )
        if self.names:
            say(f"           {in_words(self.names, row)}")

    def close(self) -> None:
        if self.bar is not None:
            self.values.close()
            self.bar.close()
            self.bar = None


def in_words(names: tuple[str, ...], values: Mapping[str, float]) -> str:
    """Names and values, short enough for a terminal of 80 columns: "alpha .050 dropo .123"."""
    return " ".join(f"{name.replace('dropout', 'drop')} {f'{values[name]:.3f}'.removeprefix('0')}" for name in names)


def say(line: str) -> None:
    """One line on stdout, at once."""
    print(line, flush=True)


def complain(script: str, error: object) -> None:
    """One line on stderr that names the script."""
    print(f"{script}: {error}", file=sys.stderr, flush=True)
