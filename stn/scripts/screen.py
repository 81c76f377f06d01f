"""What a run shows on the screen: a progress bar within an epoch, a line after each."""

import textwrap
from collections.abc import Callable, Mapping

from tqdm import tqdm

from stn.hyperparameters import Hyperparameters
from stn.recorder import Status
from stn.runs.folder import RunFolder
from stn.scripts.course import Result
from stn.scripts.output import say
from stn.scripts.settings import Data
from stn.training import Trainer

WIDTH = 80  # columns
INDENT = " " * 11
RESULTS = {"loss": "loss {:.4f}", "ppl": "ppl {:.2f}", "acc": "accuracy {:.2%}"}
MEASURES = {"ppl": "ppl {:8.2f}", "acc": "accuracy {:5.1%}", "loss": "loss {:.3f}"}


class Screen:
    """Bars go to stderr, and only to a terminal; lines go to stdout.

    unit: what training goes through, "tokens" or "images". measure: which of a score's measures an epoch's line shows.
    introduction: the first line of a new run. why_dtype: why matrix products are computed in their type. at_end: what
    is called when training has ended, before the best model is evaluated.
    """

    at_end: Callable[[], None] = staticmethod(lambda: None)

    def __init__(self, unit: str, measure: str, introduction: str = "", why_dtype: str = "as before"):
        self.unit, self.measure, self.introduction, self.why_dtype = unit, measure, introduction, why_dtype
        self.names: tuple[str, ...] = ()  # of the hyperparameters to show
        self.bar: tqdm | None = None

    def started(self, trainer: Trainer, run: RunFolder, data: Data) -> None:
        """The run's first lines: what is trained on what, where, and where it is logged."""
        hyper, settings = trainer.hyper, run.settings
        self.names = hyper.changing
        say(self.introduction or f"resuming at epoch {trainer.epoch}, weight step {trainer.train_step}")
        say(data.description)
        weights = sum(weight.numel() for weight in trainer.task.model.parameters())
        say(f"{weights:,} weights; tuned: {', '.join(hyper.columns) or 'nothing'}")
        for schedule, names in changing_schedules(hyper).items():
            say(f"{', '.join(names)}: {schedule}")
        say(f"{settings['device']}, {settings['threads']} CPU threads, seed {settings['seed']}")
        say(f"products in {settings['dtype']}, {self.why_dtype}")
        say(f"logs in {run.path}")

    def update(self, status: Status) -> None:
        if self.bar is None or self.epoch != status.epoch:
            self.close()
            self.epoch = status.epoch
            layout = "{desc} {percentage:3.0f}% |{bar}| {n_fmt}/{total_fmt}{postfix}"
            self.bar = tqdm(
                total=status.length, desc=f"epoch {status.epoch}", bar_format=layout, leave=False, disable=None
            )
            self.values = tqdm(bar_format="{desc}", position=1, leave=False, disable=None)
        measures = " ".join(MEASURES[name].format(value) for name, value in status.score.measures().items())
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
        train, valid = (MEASURES[self.measure].format(row[f"{split}_{self.measure}"]) for split in ("train", "val"))
        say(f"epoch {row['epoch']:3d}  {row['time']:7.0f} s  train {train}  valid {valid}{mark} lr {row['lr']:.4g}")
        if self.names:
            say(textwrap.fill(in_words(self.names, row), WIDTH, initial_indent=INDENT, subsequent_indent=INDENT))

    def ended(self, completed: bool) -> None:
        self.at_end()
        self.close()
        if not completed:
            say("interrupted: evaluating the best model (Ctrl-C again to skip it); continue with --resume")

    def close(self) -> None:
        if self.bar is not None:
            self.values.close()
            self.bar.close()
            self.bar = None


def in_words(names: tuple[str, ...], values: Mapping[str, float]) -> str:
    """Names and values, short enough for a terminal of 80 columns: "alpha .050 dropo .123"."""
    return " ".join(f"{name.replace('dropout', 'drop')} {f'{values[name]:.3f}'.removeprefix('0')}" for name in names)


def changing_schedules(hyper: Hyperparameters) -> dict[str, list[str]]:
    """In words, each schedule that is not constant, and the hyperparameters that follow it."""
    schedules = {}
    for name in hyper.changing:
        if name in hyper.schedules:
            schedules.setdefault(str(hyper.schedules[name]), []).append(name)
    return schedules


def report(result: Result, where: str) -> None:
    """A line on a result: "best model, in logs/…: valid loss 4.2500, ppl 70.11; test loss …"."""
    splits = {"val": [], "test": []}
    for name, value in result.measures.items():
        split, _, measure = name.partition("_")
        splits[split].append(RESULTS[measure].format(value))
    words = "; ".join(f"{name} {', '.join(splits[split])}" for split, name in (("val", "valid"), ("test", "test")))
    say(f"{'best model' if result.best else 'current model, as no epoch has ended yet'}, {where}: {words}")
