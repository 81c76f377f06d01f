"""Self-tuning beside black-box search at equal cost: one command for every method.

A fixed run is one training at fixed hyperparameters. Each method may spend what eight of them cost, counted in their
weight steps; a step of a self-tuned run counts as many as it costs, which is measured first. A self-tuned run that is
done starts again from other values while there is room. What each method has found is then trained anew, at fixed
values and, for the self-tuned, by replaying the schedule, and tested once. What is finished is not run again: stopped,
the command goes on where it was when started again.
"""

import json
import os
import shutil
import statistics
import sys
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import NamedTuple

import numpy
import pandas
import timing
from matplotlib.figure import Figure
from optuna.trial import FrozenTrial
from timing import ROOT

from cnn import hypertrain
from cnn import search as cnn_search
from lstm import demo, train
from lstm import search as lstm_search
from stn.datasets.builtin_text import write_builtin_corpus
from stn.datasets.text import first_lines
from stn.errors import UserError
from stn.figures.search import lowest_losses
from stn.figures.style import save
from stn.files import write_atomically
from stn.runs.history import Run
from stn.scripts import options
from stn.scripts.course import build, unlogged
from stn.scripts.jobs import Job, add_flags, finish
from stn.scripts.output import say
from stn.scripts.script import Script
from stn.scripts.search import Experiment
from stn.scripts.tables import markdown_table, with_spread, write_table
from stn.search import studies
from stn.search.history import best_trial, curve
from stn.search.storages import JOURNAL, open_storage
from stn.training import Trainer

RUNS = 8  # fixed runs that a method may cost
ROUNDS = 15  # of steps that are timed
SEARCHES = {
    "grid": ("grid search", "--sampler grid"),
    "random": ("random search", "--sampler random"),
    "tpe": ("Bayesian, TPE", "--sampler tpe --startup_trials 3"),
    "gp": ("Bayesian, GP", "--sampler gp --startup_trials 3"),
    "hyperband": ("Hyperband", "--sampler random --pruner hyperband"),
    "pbt": ("population-based", f"--sampler pbt --population {RUNS}"),
}
SELF_TUNED = {"stn": ("STN", "--method stn"), "delta_stn": ("Δ-STN", "--method delta_stn")}
METHODS = {name: words for name, (words, _) in (SELF_TUNED | SEARCHES).items()}


@dataclass(frozen=True)
class Size:
    """common: flags of all runs, beyond their scripts' defaults, their number of epochs among them.

    tuning: further ones, of self-tuned runs. interval: epochs of a generation of population-based training. lines: of
    the built-in corpus.
    """

    common: str
    tuning: str = ""
    interval: int = 1
    lines: Mapping[str, int] | None = None


@dataclass(frozen=True)
class Task:
    """experiment: what is searched. tuned: the script that tunes itself; tuning: what it is to tune.

    measure: what the table shows. published: by method, validation and test.
    """

    experiment: Experiment
    tuned: Script
    tuning: str
    measure: str
    sizes: Mapping[str, Size]
    published: Mapping[str, tuple[float, float]] = field(default_factory=dict)

    @property
    def module(self) -> str:
        return f"{self.experiment.script.settings.family}.search"


SGD = "--emsize 200 --nhid 200 --batch_size 20 --bptt 35 --nonmono 2"
TASKS = {
    "lstm": Task(
        lstm_search.EXPERIMENT,
        train.SCRIPT,
        "--tune_all",
        "ppl",
        {
            "demo": Size(
                f"{demo.NETWORK} --epochs 12",
                f"{demo.PACE} --warmup_steps 80",
                interval=2,
                lines=demo.LINES,
            ),
            "quick": Size(f"{demo.NETWORK} {demo.QUICK}", f"{demo.PACE} {demo.QUICK_TUNING}", lines=demo.QUICK_LINES),
            "small": Size(f"{SGD} --epochs 14", interval=2),
            "paper": Size("--epochs 200", interval=20),
        },
        {
            "grid": (97.32, 94.58),
            "random": (84.81, 81.46),
            "gp": (72.13, 69.29),
            "stn": (70.30, 67.68),
        },
    ),
    "cnn": Task(
        cnn_search.EXPERIMENT,
        hypertrain.SCRIPT,
        "--tune_all --tune_scales",
        "loss",
        {
            "demo": Size("--data builtin --model small --total_epochs 10 --checkpoint_seconds 15", "--warmup_epochs 1"),
            "small": Size("--model small --total_epochs 60", interval=6),
            "paper": Size("--model alexnet --total_epochs 200", interval=20),
        },
        {
            "grid": (0.794, 0.809),
            "random": (0.921, 0.752),
            "gp": (0.636, 0.651),
            "stn": (0.575, 0.576),
        },
    ),
    "mlp": Task(
        cnn_search.EXPERIMENT,
        hypertrain.SCRIPT,
        "--tune_all --tune_scales",
        "loss",
        {
            "demo": Size(
                "--data builtin --model mlp --num_train 3000 --batch_size 64 --train_lr 0.02 --total_epochs 24"
                " --checkpoint_seconds 15",  # images few enough to overfit
                "--warmup_epochs 1",
                interval=2,
            ),
            "quick": Size(
                "--data builtin --model mlp --num_train 640 --batch_size 64 --total_epochs 2", "--warmup_epochs 1"
            ),
            "small": Size("--model mlp --total_epochs 30", interval=3),
            "paper": Size("--model mlp --total_epochs 300", interval=30),
        },
    ),
}


DIGITS = {"ppl": 1, "loss": 3}  # after the point, in the table
SIZES = ("quick", "demo", "small", "paper")
SIZES_HELP = "quick: a trial, which shows nothing. demo: an hour. small: days. paper: the papers' own"


class Costs(NamedTuple):
    """Of a step, in weight steps of a fixed run: of a self-tuned one's weight step, and hyperparameter step."""

    weight: float
    hyper: float

    def of(self, steps: float, warm_up: float, train_steps: int, valid_steps: int) -> float:
        """What a run costs that has taken so many weight steps."""
        alternated = max(steps - warm_up, 0.0)
        return self.weight * steps + self.hyper * alternated * valid_steps / train_steps


@dataclass(frozen=True)
class SearchJob(Job):
    """A search as a process. module: its script. folder: of its study."""

    module: str = ""
    folder: Path = Path()

    @property
    def path(self) -> Path | None:
        return self.folder if self.folder.exists() else None

    def command(self, overwrite: bool) -> list[str] | None:
        if overwrite:
            shutil.rmtree(self.folder, ignore_errors=True)
        words = [*self.new_flags(), "--threads", str(self.threads)]
        return None if self.finished else [sys.executable, "-m", self.module, *words]

    def trials(self) -> list[FrozenTrial]:
        """Each run once."""
        storage = open_storage(str(self.folder / JOURNAL))
        return studies.current(studies.load_study(storage, self.folder.name).get_trials(deepcopy=False))


@dataclass(frozen=True)
class Entry:
    """A method with one seed.

    search: one study, or self-tuned runs. anew: a run at the best values. replay: one of the best schedule.
    """

    method: str
    seed: int
    search: list[Job]
    anew: Job
    replay: Job | None = None

    @property
    def jobs(self) -> list[Job]:
        return [*self.search, self.anew, *([self.replay] if self.replay else [])]

    @property
    def finished(self) -> bool:
        return all(job.finished for job in self.jobs)


class Comparison:
    """All runs of one command, below a folder in logs/. Raises UserError where the data, or the size, is not there."""

    def __init__(self, task: str, size: str, seeds: int, at_once: int, folder: str):
        if size not in TASKS[task].sizes:
            raise UserError(f"--task {task} has no size {size}: give --size {' or '.join(TASKS[task].sizes)}")
        self.task, self.size, self.name = TASKS[task], TASKS[task].sizes[size], folder
        self.folder = ROOT / "logs" / folder
        self.script, self.table = self.task.experiment.script, self.task.experiment.script.table
        self.threads = 1 if size in ("quick", "demo") else max(1, (os.cpu_count() or 1) // at_once)
        self.data = self.corpus()
        values = self.values(self.script, [])
        self.space = self.task.experiment.space(self.script.sources(values), values)
        self.names, self.epochs = list(self.space), values[self.task.experiment.epochs]
        self.costs, self.length = self.measured()
        self.entries = [self.entry(method, seed) for method in METHODS for seed in range(1, seeds + 1)]

    def corpus(self) -> dict[str, str]:
        """Where the data is, as a flag; nothing for the default place."""
        if self.size.lines:
            builtin = write_builtin_corpus(ROOT / "data" / "builtin")
            return {"data": str(first_lines(builtin, self.folder / "corpus", self.size.lines))}
        _, description, _ = self.script.prepare(self.script.parse(self.size.common.split()))
        if description.startswith("no "):
            raise UserError(f"{description.partition(':')[0]}: fetch it, or take --size demo")
        return {}

    def values(self, script: Script, flags: Iterable[str]) -> dict:
        """All values of a run with these flags."""
        place = [word for name, value in self.data.items() for word in (f"--{name}", value)]
        return script.prepare(script.parse([*self.size.common.split(), *flags, *place]))[0]

    def tuning(self, method: str) -> list[str]:
        return f"{self.task.tuning} {SELF_TUNED[method][1]} {self.size.tuning}".split()

    # What it costs, in weight steps of a fixed run

    @property
    def budget(self) -> int:
        return RUNS * self.epochs * self.length

    def measured(self) -> tuple[dict[str, Costs], int]:
        """What steps cost, and how many weight steps an epoch has; kept, so that all runs go by the same."""
        file = self.folder / "costs.json"
        if not file.exists():
            self.folder.mkdir(parents=True, exist_ok=True)
            write_atomically(file, lambda new: new.write(json.dumps(self.measure(), indent=2).encode()))
        kept = json.loads(file.read_text())
        return {name: Costs(**cost) for name, cost in kept["costs"].items()}, kept["length"]

    def measure(self) -> dict:
        trainers = {"fixed": self.trainer(self.script, [])}
        trainers |= {method: self.trainer(self.task.tuned, self.tuning(method)) for method in SELF_TUNED}
        steps: dict[str, Callable[[], object]] = {name: trainer.weight_step for name, trainer in trainers.items()}
        steps |= {f"{method}, hyper": trainers[method].hyper_step for method in SELF_TUNED}
        seconds = timing.interleaved(steps, ROUNDS)
        ratios = {name: statistics.median(timing.ratios(seconds, name, "fixed")) for name in steps}
        costs = {method: {"weight": ratios[method], "hyper": ratios[f"{method}, hyper"]} for method in SELF_TUNED}
        _, length = trainers["fixed"].task.position
        return {"costs": costs, "length": length, "seconds": timing.medians(seconds)}

    def trainer(self, script: Script, flags: list[str]) -> Trainer:
        values = self.values(script, [*flags, "--seed", "1", "--threads", str(self.threads)])
        settings = script.make(values)
        _, hyper, task = build(settings, script.sources(values))
        return unlogged(settings, task, hyper)

    def cost(self, values: Mapping, method: str, epochs: int) -> float:
        """Of a self-tuned run of these settings."""
        warm_up = values["warmup_steps"] if "warmup_steps" in values else values["warmup_epochs"] * self.length
        valid_steps = values["val_steps"] if "val_steps" in values else values["valid_steps"]
        return self.costs[method].of(epochs * self.length, warm_up, values["train_steps"], valid_steps)

    # What is run

    def entry(self, method: str, seed: int) -> Entry:
        own, name = f"{self.name}/{method}-seed{seed}", f"{METHODS[method]}, seed {seed}"
        search = self.self_tuned(method, seed, own, name) if method in SELF_TUNED else [self.search(method, seed, name)]
        add = partial(self.job, seed=1000 + seed, needs=tuple(job.name for job in search))
        anew = add(f"{name}, anew", self.script, f"{own}-anew", lambda: self.fixing(self.best(method, search)))
        if method not in SELF_TUNED:
            return Entry(method, seed, search, anew)
        schedule = lambda: ["--load_schedule", f"{self.best_run(search).path}/epoch.csv"]  # noqa: E731
        return Entry(method, seed, search, anew, add(f"{name}, replayed", self.script, f"{own}-replay", schedule))

    def job(
        self, name: str, script: Script, folder: str, flags: Callable[[], list[str]], seed: int, needs: tuple = ()
    ) -> Job:
        common = [*self.size.common.split(), "--seed", str(seed)]
        place = {**self.task.experiment.place(folder), **self.data}
        return Job(name, script, place, lambda: [*common, *flags()], self.threads, needs)

    def search(self, method: str, seed: int, name: str) -> Job:
        study, budget = f"{method}-seed{seed}", f"{self.budget}steps"
        own = f"{SEARCHES[method][1]} --seed {seed} --budget {budget} --study {study}"
        own += f" --interval {self.size.interval}" if method == "pbt" else ""
        place = {"save_dir": self.name, **self.data}
        flags = [*self.size.common.split(), *own.split()]
        folder = {"module": self.task.module, "folder": self.folder / study}
        return SearchJob(name, self.script, place, lambda: flags, self.threads, **folder)

    def self_tuned(self, method: str, seed: int, folder: str, name: str) -> list[Job]:
        """As many runs as there is room for, the first from the default values, others from anywhere."""
        values = self.values(self.task.tuned, self.tuning(method))
        count = max(1, int(self.budget / self.cost(values, method, self.epochs)))
        jobs = []
        for number in range(count):
            start = self.anywhere(numpy.random.default_rng((seed, number))) if number else []
            flags = [*self.tuning(method), *start]
            jobs.append(
                self.job(f"{name}, run {number + 1}", self.task.tuned, f"{folder}-run{number}", lambda f=flags: f, seed)
            )
        return jobs

    def anywhere(self, random: numpy.random.Generator) -> list[str]:
        """Flags that start each hyperparameter somewhere in the range that is searched."""
        starts = {}
        for name, where in self.space.items():
            own, value = self.table[name], where.draw(random)
            starts[own.start] = value if own.discrete else max(value, 1e-3)
        return [word for flag, value in starts.items() for word in (f"--{flag}", f"{value:.4g}")]

    def fixing(self, values: Mapping[str, float]) -> list[str]:
        """Flags that fix hyperparameters at these values."""
        whole = {name: int(value) if self.table[name].discrete else value for name, value in values.items()}
        return [word for name, value in whole.items() for word in (f"--{self.table[name].fix}", str(value))]

    # What was found

    def best_run(self, runs: Iterable[Job]) -> Run:
        return min((job.read(self.names) for job in runs), key=lambda run: run.epoch["val_loss"].min())

    def best(self, method: str, search: list[Job]) -> dict[str, float]:
        """The values at the lowest validation loss. Raises UserError where no epoch has ended."""
        if method in SELF_TUNED:
            run = self.best_run(search)
            return {name: float(run.epoch[name].iloc[run.best()]) for name in self.names}
        trial = best_trial(search[0].trials())
        if trial is None:
            raise UserError(f"no trial in {search[0].folder} has ended an epoch: remove that folder, and start again")
        return trial.params

    def curve(self, entry: Entry) -> tuple[numpy.ndarray, numpy.ndarray]:
        """What was spent, in fixed runs, and the lowest validation loss by then."""
        fixed = self.epochs * self.length
        if entry.method not in SELF_TUNED:
            spent, best = curve(entry.search[0].trials(), "steps")
            return spent / fixed, best
        spent, losses, before = [], [], 0.0
        for job in entry.search:
            run = job.read(self.names)
            costs = [before + self.cost(run.settings, entry.method, number) for number in range(1, len(run.epoch) + 1)]
            spent, losses, before = [*spent, *costs], [*losses, *run.epoch["val_loss"]], costs[-1]
        return numpy.array(spent) / fixed, numpy.minimum.accumulate(losses)

    def seconds(self, entry: Entry) -> float:
        """Of training and evaluation, in the search."""
        if entry.method not in SELF_TUNED:
            return sum(trial.user_attrs.get("seconds", 0.0) for trial in entry.search[0].trials())
        return sum(float(job.read(self.names).epoch["time"].iloc[-1]) for job in entry.search)

    def results(self) -> pandas.DataFrame:
        """A row for each method and seed that is finished."""
        measure, rows = self.task.measure, []
        for entry in self.entries:
            if not entry.finished:
                continue
            spent, best = self.curve(entry)
            row = {"method": entry.method, "seed": entry.seed, "spent": spent[-1], "best_val_loss": best[-1]}
            row |= {"runs": self.count(entry), "seconds": self.seconds(entry)}
            for kind, job in (("anew", entry.anew), ("replay", entry.replay)):
                for split in ("val", "test"):
                    row[f"{kind}_{split}"] = job.result()[f"{split}_{measure}"] if job else numpy.nan
            rows.append(row)
        return pandas.DataFrame(rows)

    def count(self, entry: Entry) -> int:
        return len(entry.search) if entry.method in SELF_TUNED else len(entry.search[0].trials())

    def markdown(self) -> str:
        """A line for each method, means and standard deviations over seeds."""
        found = self.results()
        header = ["method", "runs", "fixed runs' cost", "hours", "best validation loss"]
        header += [f"anew: {split} {self.task.measure}" for split in ("validation", "test")]
        header += [f"replayed: {split}" for split in ("validation", "test")] + ["published"]
        lines = []
        for method, words in METHODS.items():
            own = found[found["method"] == method] if len(found) else found
            if own.empty:
                continue
            spread = lambda name, own=own, digits=3: with_spread(own[name].mean(), own[name].std(), digits)  # noqa: E731
            line = [words, f"{own['runs'].mean():.0f}", f"{own['spent'].mean():.2f}"]
            line += [f"{own['seconds'].mean() / 3600:.2g}", spread("best_val_loss")]
            digits = DIGITS[self.task.measure]
            line += [spread(f"{kind}_{of}", digits=digits) for kind in ("anew", "replay") for of in ("val", "test")]
            published = self.task.published.get(method)
            lines.append([*line, f"{published[0]:g} / {published[1]:g}" if published else "–"])
        return markdown_table(header, lines) if lines else "nothing is finished yet"

    def figure(self) -> Figure:
        """The lowest validation loss so far against what was spent: means over seeds, and bands to the extremes."""
        finished = [entry for entry in self.entries if entry.finished]
        curves = {
            words: [self.curve(entry) for entry in finished if entry.method == method]
            for method, words in METHODS.items()
        }
        return lowest_losses(curves, RUNS, "cost (fixed runs)", faint=[words for words, _ in SEARCHES.values()])

    def write(self) -> list[Path]:
        """hpo.csv, hpo.md and the figure, as far as methods are finished; the files written."""
        files = write_table(self.folder / "hpo", self.results(), self.markdown())
        return files + (save(self.figure(), self.folder / "best_so_far") if len(self.results()) else [])


def main(argv: list[str] | None = None) -> int:
    """Run the command line; the exit status: 0, 2 for what the user can mend, 130 where interrupted."""
    parser = options.OneLineParser(prog="hpo.py", description=__doc__)
    parser.add_argument(
        "--task", choices=TASKS, required=True, help="the language model, the image classifier, or the perceptron"
    )
    add_flags(parser, SIZES, "demo", SIZES_HELP, "hpo/TASK-SIZE")
    args = parser.parse_args(argv)
    return options.exit_status(parser.prog, lambda: compare(**vars(args)), "start it again to continue")


def compare(task: str, size: str, seeds: int, jobs: int, overwrite: bool, save_dir: str | None) -> None:
    """Run what is missing, writing the table and the figure after each run as far as they go."""
    comparison = Comparison(task, size, seeds, jobs, save_dir or f"hpo/{task}-{size}")
    for method, cost in comparison.costs.items():
        words = f"a weight step costs {cost.weight:.2f}, a hyperparameter step {cost.hyper:.2f} of a fixed run's"
        say(f"{METHODS[method]}: {words}")
    say(f"budget: {comparison.budget:,} weight steps, {RUNS} fixed runs of {comparison.epochs} epochs")
    everything = [job for entry in comparison.entries for job in entry.jobs]
    finish(everything, jobs, overwrite, done=comparison.write)
    say(f"\n{comparison.markdown()}\n")
    for file in comparison.write():
        say(f"wrote {file}")


if __name__ == "__main__":
    sys.exit(main())
