"""What a run shows on the screen: a progress bar within an epoch, a line after each."""

import sys

from tqdm import tqdm

from stn.training import Status, perplexity


class Screen:
    """Bars go to stderr, and only to a terminal; lines go to stdout. tuned: names of the tuned hyperparameters."""

    def __init__(self, names: tuple[str, ...]):
        self.names = names
        self.bar: tqdm | None = None

    def update(self, status: Status) -> None:
        if self.bar is None:
            self.bar = tqdm(total=status.length, desc=f"epoch {status.epoch}", unit="step", leave=False, disable=None)
        values = " ".join(f"{name} {status.values[name]:.3f}" for name in self.names)
        self.bar.set_postfix_str(
            f"loss {status.train_loss:.3f} ppl {perplexity(status.train_loss):.1f} "
            f"{status.tokens_per_second:,.0f} tokens/s {values}",
            refresh=False,
        )
        self.bar.update(status.position - self.bar.n)

    def epoch_ended(self, row: dict[str, float], best: bool) -> None:
        self.close()
        values = "".join(f"  {name} {row[name]:.3f}" for name in self.names)
        mark = "*" if best else " "
        say(
            f"epoch {row['epoch']:3d}  {row['time']:7.0f} s  train ppl {row['train_ppl']:8.2f}  "
            f"valid ppl {row['val_ppl']:8.2f}{mark} lr {row['lr']:<8.4g}{values}"
        )

    def close(self) -> None:
        if self.bar is not None:
            self.bar.close()
            self.bar = None


def say(line: str) -> None:
    """One line on stdout, at once."""
    print(line, flush=True)


def complain(script: str, error: object) -> None:
    """One line on stderr that names the script."""
    print(f"{script}: {error}", file=sys.stderr, flush=True)
