"""What a run shows: its first lines, its progress within an epoch, a line after each, its result."""

import math
import os
import sys
import textwrap
import time
from collections.abc import Callable, Mapping
from contextlib import suppress

from tqdm import tqdm

from stn.hypergradients.policies import TunedRate
from stn.hyperparameters import Hyperparameters
from stn.recorder import Status
from stn.runs.folder import RunFolder
from stn.scripts.course import Result
from stn.scripts.output import Lines
from stn.scripts.settings import Data
from stn.training import Trainer

WIDTH, NARROWEST = 80, 20  # columns: of a terminal that does not say, and below which one is taken for that
ROWS = 24  # for tqdm, which would hide its bars where a terminal says that it has none
REDRAWN = 0.1  # seconds between two looks of a bar, at least
EVERY = 60.0  # seconds between two lines of progress where there is no terminal
INDENT = " " * 11
RESULTS = {"loss": "loss {:.4f}", "ppl": "ppl {:.2f}", "acc": "accuracy {:.2%}"}
MEASURES = {"ppl": "ppl {:8.2f}", "acc": "accuracy {:5.1%}", "loss": "loss {:.3f}"}
LEAST = 0.0005  # what three decimals still show
UNITS = ((86400.0, "d"), (3600.0, "h"), (60.0, "min"))


class Screen:
    """Lines go to stdout; progress within an epoch goes to stderr, as bars on a terminal, else as a line a minute.

    unit: what training goes through, such as "tokens". introduction: the first line of a new run. why_dtype: why matrix
    products are computed in their type. lines: where the lines go. at_end: what is called when training has ended,
    before the best model is evaluated. resume: how a run is continued.
    """

    def __init__(
        self,
        unit: str = "targets",
        introduction: str = "",
        why_dtype: str = "as before",
        lines: Lines | None = None,
        at_end: Callable[[], None] = lambda: None,
        resume: str = "--resume",
    ):
        self.lines, self.unit = lines or Lines("stn"), unit
        self.introduction, self.why_dtype, self.at_end, self.resume = introduction, why_dtype, at_end, resume
        self.trainer: Trainer | None = None
        self.names: tuple[str, ...] = ()  # of the hyperparameters to show
        self.bars: Bars | None = None
        self.shown = time.monotonic()  # when something was last shown
        self.warm = True  # no warm-up is under way
        self.ended_at = self.epoch_seconds = 0.0  # when the last epoch ended, and how long it took

    def started(self, trainer: Trainer, run: RunFolder, data: Data | None = None) -> None:
        """The run's first lines: what is trained on what, where, and where it is logged, as far as its settings say."""
        self.trainer, hyper, settings = trainer, trainer.hyper, run.settings
        self.names = hyper.changing
        self.warm = trainer.train_step >= trainer.plan.warmup_steps or not hyper.num_tuned
        self.ended_at, self.epoch_seconds = trainer.recorder.epoch_started, 0.0
        if run.resumed:
            self.say(f"resuming at epoch {trainer.epoch}, weight step {trainer.train_step}")
        elif self.introduction:
            self.say(self.introduction)
        if data is not None:
            self.say(data.description)
        weights = sum(weight.numel() for weight in trainer.task.model.parameters())
        tuned = [*hyper.columns, *(["lr"] if isinstance(trainer.learning_rate, TunedRate) else [])]
        self.say(f"{weights:,} weights; tuned: {', '.join(tuned) or 'nothing'}")
        for schedule, names in changing_schedules(hyper).items():
            self.say(f"{', '.join(names)}: {schedule}")
        if trainer.learning_rate.tuned:
            self.say(f"learning rate: {trainer.learning_rate}")
        if not self.warm:
            steps, (_, length) = trainer.plan.warmup_steps, trainer.task.position
            self.say(f"warm-up until weight step {steps}, in epoch {steps // length}; tuning starts after it")
        known = {name: settings[name] for name in ("device", "threads", "seed", "dtype") if name in settings}
        words = {"device": "{}", "threads": "{} CPU thread" + "s" * (known.get("threads") != 1), "seed": "seed {}"}
        if machine := [words[name].format(value) for name, value in known.items() if name in words]:
            self.say(", ".join(machine))
        if "dtype" in known:
            self.say(f"products in {known['dtype']}, {self.why_dtype}")
        self.say(f"logs in {run.path}")

    def update(self, status: Status) -> None:
        if self.trainer is None:
            raise ValueError("the screen does not know the run yet: call its `started` first")
        if not self.warm and status.train_step > (steps := self.trainer.plan.warmup_steps):
            self.warm = True
            self.close()
            epoch = steps // status.length  # steps are shown some at a time, when the next one may have begun
            self.say(f"epoch {epoch:3d}  warm-up is over since weight step {steps}: tuning has started")
        if math.isnan(status.score.loss):  # the epoch has just begun
            return
        measures = status.score.measures(self.trainer.task.likelihood)
        score = "  ".join(MEASURES[name].format(value) for name, value in measures.items())
        speed, left = f"{status.speed:,.0f} {self.unit}/s", self.remaining(status)
        if sys.stderr.isatty():
            self.bars = self.bars or Bars(status)
            self.bars.show(status.position, left, f"{score}  {speed}", in_words(self.names, status.values))
        elif time.monotonic() - self.shown >= EVERY:
            words = f"epoch {status.epoch:3d}  {status.position / status.length:4.0%}  train {score}  {speed}  {left}"
            with suppress(OSError):
                print(words, file=sys.stderr, flush=True)
            self.shown = time.monotonic()

    def remaining(self, status: Status) -> str:
        """The time that the epoch still takes, and the run at most."""
        epoch = status.seconds / max(status.position, 1) * (status.length - status.position)
        whole = self.epoch_seconds or status.seconds + epoch
        run = epoch + (self.trainer.plan.epochs - status.epoch - 1) * whole
        return f"{duration(epoch)} left, run at most {duration(run)}"

    def epoch_ended(self, row: dict[str, float], best: bool) -> None:
        self.close()
        self.epoch_seconds, self.ended_at = row["time"] - self.ended_at, row["time"]
        mark = "*" if best else " "
        measure = next(name for name in ("acc", "ppl", "loss") if f"val_{name}" in row)
        train, valid = (MEASURES[measure].format(row[f"{split}_{measure}"]) for split in ("train", "val"))
        scores = f"train {train}  valid {valid}{mark}"
        self.say(f"epoch {row['epoch']:3d}  {row['time']:7.0f} s  {scores} lr {row['lr']:.4g}")
        if self.names:
            self.say(filled(in_words(self.names, row)))

    def ended(self, completed: bool) -> None:
        self.at_end()
        self.close()
        if completed:
            self.say(f"{self.trainer.done()}: evaluating the best model")
        else:
            self.say(f"interrupted: evaluating the best model (Ctrl-C again to skip it); continue with {self.resume}")

    def result(self, result: Result, where: str) -> None:
        """Lines on a result: its epoch and time, its measures, its hyperparameters."""
        splits: dict[str, list[str]] = {}
        for name, value in result.measures.items():
            split, _, measure = name.partition("_")
            splits.setdefault({"val": "valid"}.get(split, split), []).append(RESULTS[measure].format(value))
        words = "; ".join(f"{split} {', '.join(scores)}" for split, scores in splits.items())
        total = duration(result.seconds)
        if result.best is None:
            of = f"current model, as no epoch has ended yet, after {total}"
        else:
            of = f"best model, of epoch {result.best['epoch']}, after {duration(result.best['time'])} of {total}"
        self.say(f"{of}, {where}:")
        self.say(filled(words))
        if result.hyperparameters:
            self.say(filled(in_words(tuple(result.hyperparameters), result.hyperparameters)))

    def close(self) -> None:
        if self.bars is not None:
            self.bars.close()
            self.bars = None

    def say(self, line: str) -> None:
        self.lines.say(line)
        self.shown = time.monotonic()


class Bars:
    """On a terminal: a bar of an epoch's progress, and lines of words below it.

    A terminal that has gone is no reason to end a run.
    """

    def __init__(self, status: Status):
        layout = "{desc} {percentage:3.0f}% |{bar}| {n_fmt}/{total_fmt} {unit}"
        self.bars: list[tqdm] = []
        self.drawn = -math.inf  # when
        with suppress(OSError):
            own = {"leave": False, "nrows": ROWS}
            self.bars.append(tqdm(total=status.length, desc=f"epoch {status.epoch}", bar_format=layout, unit="", **own))
            self.bars += [tqdm(bar_format="{desc}", position=line, **own) for line in (1, 2)]

    def show(self, position: int, left: str, *lines: str) -> None:
        """left: the time that is. lines: below the bar, cut between words where they are too long."""
        if time.monotonic() - self.drawn < REDRAWN:
            return
        self.drawn = time.monotonic()
        with suppress(OSError):
            for bar, line in zip(self.bars, (left, *lines), strict=False):
                bar.ncols = width()
                if bar is self.bars[0]:
                    bar.unit, bar.n = line, position
                else:
                    bar.set_description_str(textwrap.shorten(line, width() - 1, placeholder=" …"), refresh=False)
                bar.refresh()

    def close(self) -> None:
        for bar in reversed(self.bars):
            with suppress(OSError):
                bar.close()


def width() -> int:
    """The columns of the terminal that stderr is."""
    with suppress(OSError, ValueError):
        columns = os.get_terminal_size(sys.stderr.fileno()).columns
        if columns >= NARROWEST:
            return columns
    return WIDTH


def duration(seconds: float) -> str:
    """In the largest unit of which there are three, or seconds: "45 s", "12 min", "3 d"."""
    for length, unit in UNITS:
        if seconds >= 3 * length:
            return f"{seconds / length:.0f} {unit}"
    return f"{seconds:.0f} s"


def filled(words: str) -> str:
    """Indented lines of at most WIDTH columns."""
    return textwrap.fill(words, WIDTH, initial_indent=INDENT, subsequent_indent=INDENT)


def in_words(names: tuple[str, ...], values: Mapping[str, float]) -> str:
    """Names and values, short enough for a terminal of 80 columns: "alpha .050 dropo .123"."""
    return " ".join(f"{name.replace('dropout', 'drop')} {short(values[name])}" for name in names)


def short(value: float) -> str:
    """Three decimals, or a power of ten where these would be zeros: ".050", "2e-4"."""
    if 0 < abs(value) < LEAST:
        return f"{value:.0e}".replace("e-0", "e-")
    return f"{value:.3f}".removeprefix("0")


def changing_schedules(hyper: Hyperparameters) -> dict[str, list[str]]:
    """In words, each schedule that is not constant, and the hyperparameters that follow it."""
    schedules = {}
    for name in hyper.changing:
        if name in hyper.schedules:
            schedules.setdefault(str(hyper.schedules[name]), []).append(name)
    return schedules
