"""Black-box search from the command line: trials, each an ordinary run at fixed values."""

import warnings
from argparse import ArgumentTypeError
from collections.abc import Callable, Iterable, Mapping
from contextlib import nullcontext
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

from optuna.exceptions import ExperimentalWarning
from optuna.study import Study
from optuna.trial import Trial

from stn.errors import Diverged, UserError
from stn.figures import search as figures
from stn.figures.style import save
from stn.files import explaining_os_errors, write_atomically
from stn.kernels.memory import keep_freed_memory
from stn.runs.folder import ARGS, STATUS, RunFolder
from stn.runs.tables import csv_line
from stn.scripts import command
from stn.scripts.course import train
from stn.scripts.declared import Declared, Table, Values
from stn.scripts.flags import SEARCH, Flag, parse
from stn.scripts.options import (
    ROOT,
    OneLineParser,
    exit_status,
    folder_name,
    named,
    nonnegative_int,
    one_of,
    positive_int,
)
from stn.scripts.output import Lines
from stn.scripts.records import record_of
from stn.scripts.screen import duration, filled, in_words
from stn.scripts.script import Script
from stn.scripts.signals import BROKEN_PIPE, Interrupt, Stopped
from stn.scripts.trials import Watch, open_run, state_of
from stn.search import studies
from stn.search.budget import COST, cost, parse_budget
from stn.search.history import best_trial, lowest, rows
from stn.search.pbt import PARENT, Population
from stn.search.space import Range, Space, between, described
from stn.search.storages import JOURNAL, explaining_storage_errors, open_storage
from stn.search.studies import MOST_POINTS, run_of, size_of_grid
from stn.search.worker import COMPLETED, PRUNED, STOPPED, Plan, Turn, Worker

VALID = ("valid",)  # what a trial is evaluated on: the test set is not for choosing


def budget(text: str) -> str:
    """A budget, checked."""
    try:
        parse_budget(text)
    except ValueError as error:
        raise ArgumentTypeError(str(error)) from None
    return text


budget.metavar = "AMOUNT"


FLAGS = [
    Flag("sampler", "what proposes values; pbt is population-based training", one_of(*studies.SAMPLERS), "tpe"),
    Flag("pruner", "what ends trials early", one_of(*studies.PRUNERS), "none"),
    Flag("trials", "trials at most, of all workers together; more go on with the study", positive_int, None),
    Flag("budget", "training at most, of all trials together: 5000steps, 40epochs, 90s, 30min, 2h", budget, None),
    Flag("study", "the study's name (default: by sampler and pruner)", folder_name, None, metavar="NAME"),
    Flag(
        "storage",
        "where workers share the study: a journal's file, or a database's URL (default: a journal beside the trials)",
        named,
        None,
    ),
    Flag(
        "save_dir",
        "the studies' folder below logs/, in which each has one with its runs (default: searches/lstm or searches/cnn)",
        named,
        None,
    ),
    Flag("seed", "random seed of the search and of its trials", nonnegative_int, 1),
    Flag("grid_points", "with grid, values of each hyperparameter", positive_int, 3),
    Flag("startup_trials", "with tpe and gp, trials at random before they begin to learn", positive_int, 10),
    Flag("population", "with pbt, members", positive_int, 8),
    Flag("interval", "with pbt, epochs of a generation", positive_int, 1),
]
MAY_CHANGE = {"trials", "budget", "storage", "study"}
ACTING = {"grid_points": ("grid",), "startup_trials": ("tpe", "gp"), "population": ("pbt",), "interval": ("pbt",)}


@dataclass(frozen=True)
class Experiment:
    """An experiment whose hyperparameters can be searched.

    script: which trains at fixed values. setters: the flags that fix a hyperparameter. place: the settings that have a
    run lie in a folder below logs/. epochs: the flag of their number. without: the script's flags that a search lacks.
    table: the hyperparameters as a run with these values declares them (default: the script's table). asked: those
    that are searched only where --search_… asks for it.
    """

    script: Script
    setters: Callable[[str], Iterable[str]]
    place: Callable[[str], Values]
    epochs: str
    without: frozenset[str] = frozenset()
    table: Callable[[Values], Table] | None = None
    asked: tuple[str, ...] = ()

    @cached_property
    def flags(self) -> list[Flag]:
        without = {*self.script.settings.PLACES, "seed", "load_schedule", *self.without}
        own = [flag for flag in self.script.flags.values() if flag.name not in without]
        return [*own, *(replace(flag, group=SEARCH) for flag in (*FLAGS, *self.choices))]

    @property
    def choices(self) -> list[Flag]:
        """The flags that ask for a hyperparameter to be searched."""
        return [Flag(f"search_{name}", f"search the {self.script.table[name].label}, too") for name in self.asked]

    def space(self, names: Iterable[str], values: Values) -> Space:
        """Where these hyperparameters lie in runs with these values."""
        table = self.table(values) if self.table else self.script.table
        return {name: range_of(table[name]) for name in names}


def range_of(declared: Declared) -> Range:
    """Where a search looks for a hyperparameter."""
    return between(*declared.range, declared.searched, declared.discrete)


def main(experiment: Experiment, description: str, argv: list[str] | None = None) -> int:
    """Run the command line; the exit status."""

    def work() -> int:
        warnings.filterwarnings("ignore", category=ExperimentalWarning)  # the heartbeat is one of those features
        given = parse(OneLineParser(prog="search.py", description=description), experiment.flags, argv)
        keep_freed_memory()
        with explaining_storage_errors():
            return Search(experiment, given).run()

    with command.told_in_lines("search.py"), warnings.catch_warnings():
        return exit_status("search.py", work, "the same command goes on")


class Search:
    """A command line's part in a study. Raises UserError for flags that contradict each other."""

    def __init__(self, experiment: Experiment, given: Mapping[str, Any]):
        self.experiment, self.script = experiment, experiment.script
        self.options = {flag.name: given.get(flag.name, flag.default) for flag in FLAGS}
        self.asked = [name for name in experiment.asked if given.get(f"search_{name}")]
        own = {*self.options, *(flag.name for flag in experiment.choices)}
        self.fixed = {name: value for name, value in given.items() if name not in own}
        self.options["save_dir"] = self.options["save_dir"] or f"searches/{self.script.settings.family}"
        refuse_idle_options(given, self.options)
        sampler, pruner = self.options["sampler"], self.options["pruner"]
        self.name = self.options["study"] or (sampler if pruner == "none" else f"{sampler}-{pruner}")
        self.folder = ROOT / "logs" / self.options["save_dir"] / self.name
        self.lines = Lines("search.py")
        self.checksum = None
        self.values, self.description, _ = self.prepare({})
        self.space = self.searched()
        self.refuse_large_grid()
        self.data = self.script.make(self.values).load()
        self.checksum = self.data.checksum

    def prepare(self, values: Values, **others: Any) -> tuple[dict[str, Any], str, str]:
        """All values of a run in which these hyperparameters are fixed, and words as of `Script.prepare`."""
        place = self.experiment.place(f"{self.options['save_dir']}/{self.name}")
        own = {self.script.table[name].fix: value for name, value in values.items()}
        given = {**self.fixed, **own, **place, "seed": self.options["seed"], **others}
        return self.script.prepare(given, data_checksum=self.checksum)

    def searched(self) -> Space:
        """The hyperparameters that no flag fixes, and where they lie."""
        fixed = {name for name in self.script.table if {*self.experiment.setters(name)} & self.fixed.keys()}
        for name in fixed & {*self.asked}:
            raise UserError(f"--search_{name} searches what --{self.script.table[name].fix} fixes: leave one out")
        names = [name for name in (*self.script.sources(self.values), *self.asked) if name not in fixed]
        if not names:
            raise UserError("nothing is left to search: leave out the flag of a hyperparameter")
        return self.experiment.space(names, self.values)

    def refuse_large_grid(self) -> None:
        count = size_of_grid(self.space, self.options["grid_points"])
        if self.options["sampler"] == "grid" and count > MOST_POINTS:
            cause = f"the grid has {count:,} points, of {len(self.space)} hyperparameters, more than {MOST_POINTS:,}"
            raise UserError(f"{cause}: lower --grid_points, or fix some hyperparameters by their flags")

    def plan(self) -> Plan:
        own = {name: self.options[name] for name in ("sampler", "pruner", "seed", "trials")}
        own |= {name: self.options[name] for name in ("grid_points", "startup_trials")}
        epochs, amount = self.values[self.experiment.epochs], self.options["budget"]
        population = Population(self.options["population"], self.options["interval"], epochs)
        return Plan(**own, epochs=epochs, budget=parse_budget(amount) if amount else None, population=population)

    def command(self) -> dict[str, Any]:
        """What tells this search from others, in the study."""
        free = {*self.script.changeable - {self.experiment.epochs}, *self.script.course, *self.script.settings.PLACES}
        free |= {"label", "data_checksum", *(self.script.table[name].fix for name in self.space)}
        free |= {name for name, flag in self.script.flags.items() if flag.added and self.values[name] == flag.default}
        settings = {name: value for name, value in self.values.items() if name not in free}
        own = {name: value for name, value in self.options.items() if name not in MAY_CHANGE}
        known = {"experiment": self.script.path, "data": self.data.checksum}
        return {**known, **described(self.space), **own, **settings}

    def run(self) -> int:
        """Trials until the study has enough; the exit status."""
        with explaining_os_errors(self.folder):
            self.folder.mkdir(parents=True, exist_ok=True)
        storage = open_storage(self.options["storage"] or str(self.folder / JOURNAL))
        with Turn(self.folder):
            study = studies.open_study(storage, self.name, self.command())
            self.refuse_others_runs(study)
        with Interrupt() as interrupt:
            stopped = lambda: interrupt.asked() or self.lines.broken  # noqa: E731
            self.worker = Worker(study, storage, self.folder, self.space, self.plan(), self.trial, stopped)
            self.say_begun()
            self.mark("running")
            why = self.worker.work()
            if self.worker.trials:
                self.say_ended(why)
                with self.worker.turn:
                    self.write()
            self.mark("finished" if why else "interrupted")
        if why:
            return 0
        return BROKEN_PIPE if self.lines.broken else Stopped(interrupt.number or Stopped().number).status

    def refuse_others_runs(self, study: Study) -> None:
        """Raise UserError where the folder has a trial's run that the study does not know, as of one that was lost."""
        known = {run_of(trial) for trial in study.get_trials(deepcopy=False)}
        others = sorted({file.parent.name for file in self.folder.glob(f"trial*/{ARGS}")} - known)
        if others:
            cause = f"the study {self.name} does not know the run {self.folder / others[0]}"
            raise UserError(f"{cause}: give the --storage that does, move {self.folder} away, or give another --study")

    def trial(self, trial: Trial, values: dict[str, float], claim: Callable[[RunFolder], RunFolder]) -> str:
        """Train a trial's run, from where another worker has left it, or from its parent's checkpoint."""
        parent = trial.user_attrs.get(PARENT)
        all_values, _, _ = self.prepare(values, **{self.experiment.epochs: self.worker.epochs(trial)})
        settings, sources = self.script.make(all_values), self.script.sources(all_values)
        start = state_of(self.folder / parent) if parent else None
        watch = Watch(trial, self.worker.plan.budget, lambda: self.worker.room(trial), prune=parent is None)
        stop = lambda: watch.asks_to_stop() or self.worker.stopped()  # noqa: E731
        record = record_of(self.script, all_values, sources, self.data)
        folder = claim(open_run(self.folder / run_of(trial), record, self.script.changeable))
        if folder.resumed:
            self.lines.say(f"{run_of(trial)}  goes on from its checkpoint")
        try:
            result = train(settings, sources, lambda _: nullcontext(folder), watch, stop, VALID, start)
        except Diverged as error:
            folder.mark("diverged")
            self.lines.say(f"{run_of(trial)}  {error}")
            raise
        ended = COMPLETED if result.completed else PRUNED if watch.pruned else STOPPED
        if ended == PRUNED:
            folder.mark("pruned")
        self.say_trial(trial, values, "" if result.completed else ended)
        return ended

    def say_trial(self, trial: Trial, values: Mapping[str, float], ended: str) -> None:
        """A trial's lines: how it went, and at which values."""
        own, best = self.worker.frozen(trial), best_trial(self.worker.trials)
        mark = "*" if best is not None and run_of(best) == run_of(own) else " "
        score = f"valid loss {lowest(own):.4f}{mark}" if own.intermediate_values else "no epoch yet"
        parent = own.user_attrs.get(PARENT)
        words = [score, duration(cost(own)["seconds"]), f"from {parent}" if parent else "", ended]
        self.lines.say(f"{run_of(own)}  {' '.join(filter(None, words))}")
        self.lines.say(filled(in_words(tuple(values), values)))

    def say_begun(self) -> None:
        trials = self.worker.trials
        self.lines.say(f"{self.description}\n{self.data.description}")
        self.lines.say(filled(f"searched: {', '.join(self.space)}").strip())
        so_far = f"{len(trials)} trial{'s' * (len(trials) != 1)} so far" if trials else "begun"
        self.lines.say(f"study {self.name}, {so_far}, in {self.folder}")

    def say_ended(self, why: str) -> None:
        trials = self.worker.trials
        self.lines.say(f"{why}: the search has ended" if why else "interrupted: the same command goes on")
        best = best_trial(trials)
        if best is None:
            return
        spent = {kind: sum(cost(trial)[kind] for trial in trials) for kind in COST}
        steps, epochs, seconds = f"{spent['steps']:,.0f}", f"{spent['epochs']:.0f}", duration(spent["seconds"])
        self.lines.say(f"{len(trials)} trials: {steps} weight steps, {epochs} epochs, {seconds}")
        self.lines.say(f"best: {run_of(best)}, validation loss {lowest(best):.4f}")
        self.lines.say(filled(in_words(tuple(self.space), best.params)))
        self.lines.say(f"to train anew at these values: {self.script.path} --config {self.folder / run_of(best)}")

    def mark(self, status: str) -> None:
        """Say in the study's folder how the search is, as runs do."""
        write_atomically(self.folder / STATUS, lambda file: file.write(f"{status}\n".encode()))

    def write(self) -> None:
        """What the study has found, as a table and as figures in its folder."""
        study, trials = self.worker.study, self.worker.trials
        table = rows(trials, self.space)
        text = csv_line(table[0]) + "".join(csv_line(row.values()) for row in table)
        write_atomically(self.folder / "trials.csv", lambda file: file.write(text.encode()))
        if best_trial(trials) is None:
            return
        words = {name: self.script.table[name].label for name in self.space}
        kind = self.worker.plan.budget.kind if self.worker.plan.budget else "steps"
        for name, figure in {
            "best_so_far": figures.best_so_far(study, kind),
            "parallel_coordinates": figures.parallel_coordinates(study, self.space, words),
            "importances": figures.importance(study, words),
        }.items():
            if figure is not None:
                save(figure, self.folder / name)
        self.lines.say(f"table and figures in {self.folder}")


def refuse_idle_options(given: Mapping[str, Any], options: Mapping[str, Any]) -> None:
    """Raise UserError for a flag that has nothing to act on, or where nothing ends the search."""
    for flag, samplers in ACTING.items():
        if flag in given and options["sampler"] not in samplers:
            raise UserError(f"--{flag} is of --sampler {' or '.join(samplers)}: give that, or leave it out")
    if options["sampler"] == "pbt" and options["pruner"] != "none":
        raise UserError("--sampler pbt replaces its worst members itself: leave out --pruner")
    if options["trials"] is None and options["budget"] is None and options["sampler"] not in ("grid", "pbt"):
        raise UserError("nothing says when the search ends: give --trials, --budget, or both")
