"""One worker of a study: it takes trials from it, one after another, and runs them, until there are enough."""

import math
import socket
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Protocol

import filelock
import numpy
from optuna.exceptions import TrialPruned
from optuna.storages import BaseStorage, JournalStorage
from optuna.study import Study
from optuna.trial import FrozenTrial, Trial, TrialState, create_trial

from stn.errors import UserError
from stn.recorder import Diverged
from stn.runs.folder import RunFolder, is_unused
from stn.search import pbt, studies
from stn.search.budget import Budget
from stn.search.history import lowest
from stn.search.pbt import PARENT, Population
from stn.search.space import Space, distributions, suggest
from stn.search.studies import run_of

HOST = "host"  # of a trial: the machine that it runs on
COMPLETED, PRUNED, STOPPED = "completed", "pruned", "stopped"  # how a trial ended
LOCK_SECONDS = 600.0  # that a worker waits for another one to begin its trial


@dataclass(frozen=True)
class Plan:
    """How a study goes on, and until when. epochs: of a trial that is not pruned. trials, budget: None for no end.

    grid_points, startup_trials: as in `make_sampler`. population: of population-based training.
    """

    sampler: str
    pruner: str
    seed: int
    epochs: int
    trials: int | None = None
    budget: Budget | None = None
    grid_points: int = 3
    startup_trials: int = 10
    population: Population | None = None


class Run(Protocol):
    """Trains a trial; how it ended: COMPLETED, PRUNED, or STOPPED, to be taken up again."""

    def __call__(self, trial: Trial, values: dict[str, float], claim: Callable[[RunFolder], RunFolder]) -> str:
        """claim: has others know that this run's folder is in use until the study knows how the trial ended."""


class Worker:
    """folder: of the runs, in which each trial has one. stopped: asked before each trial."""

    def __init__(
        self,
        study: Study,
        storage: BaseStorage,
        folder: Path,
        space: Space,
        plan: Plan,
        run: Run,
        stopped: Callable[[], bool] = lambda: False,
    ):
        self.study, self.storage, self.folder, self.space, self.plan = study, storage, folder, space, plan
        self.run, self.stopped = run, stopped
        self.lock = filelock.FileLock(folder / ".lock", timeout=LOCK_SECONDS)

    @property
    def trials(self) -> list[FrozenTrial]:
        """Each run once."""
        return studies.current(self.study.get_trials(deepcopy=False))

    def work(self) -> str:
        """Run trials; why no other one is begun, empty where it was stopped."""
        while not self.stopped():
            with self.turn():
                self.bury()
                if why := self.done() or self.next():
                    return why
        return ""

    def done(self) -> str:
        """Why no other trial is begun; empty where one is."""
        trials, plan = self.trials, self.plan
        begun = [trial for trial in trials if trial.state != TrialState.WAITING]
        if plan.budget and plan.budget.spent(trials) >= plan.budget.amount:
            return f"the budget of {plan.budget} is spent"
        if plan.trials is not None and len(begun) >= plan.trials and len(begun) == len(trials):
            return f"{len(begun)} trials are done or under way"
        return ""

    def next(self) -> str:
        """Begin and run the next trial; why there is none."""
        plan, count = self.plan, len(self.study.get_trials(deepcopy=False))
        waiting = any(trial.state == TrialState.WAITING for trial in self.trials)
        if plan.sampler == "pbt" and not waiting and not self.bear(numpy.random.default_rng((plan.seed, count))):
            return "all members are done or under way"
        # Anew for each trial, so that what a sampler draws depends on the trial and not on the worker.
        seed = plan.seed if plan.sampler == "grid" else plan.seed * 100_003 + count
        sampler = studies.make_sampler(plan.sampler, seed, self.space, plan.grid_points, plan.startup_trials)
        if plan.sampler == "grid" and not waiting and sampler.is_exhausted(self.study):
            return "all points of the grid are done"
        self.study.sampler, self.study.pruner = sampler, studies.make_pruner(plan.pruner, plan.epochs)
        with ExitStack() as held:
            self.study.optimize(partial(self.trial, held=held), n_trials=1, catch=(Diverged,))
        return ""

    def trial(self, trial: Trial, held: ExitStack) -> float:
        """Run a trial; its lowest validation loss, NaN where it was stopped. Raises TrialPruned where it was pruned."""

        def claim(folder: RunFolder) -> RunFolder:
            held.enter_context(folder)
            self.lock.release()
            return folder

        trial.set_user_attr(HOST, socket.gethostname())
        try:
            ended = self.run(trial, suggest(trial, self.space), claim)
        except Diverged:
            raise
        except (UserError, KeyboardInterrupt):
            self.take_up(trial)
            raise
        if ended == PRUNED:
            raise TrialPruned
        if ended == STOPPED:
            self.take_up(trial)
            return math.nan
        return lowest(self.frozen(trial))

    def frozen(self, trial: Trial) -> FrozenTrial:
        return self.study.get_trials(deepcopy=False)[trial.number]

    def take_up(self, trial: Trial) -> None:
        """Have a trial that was stopped run again when the search goes on."""
        studies.take_up(self.study, self.frozen(trial), died=False)

    @contextmanager
    def turn(self) -> Iterator[None]:
        """Workers begin trials one after another."""
        try:
            self.lock.acquire()
            yield
        except filelock.Timeout as error:
            cause = f"another worker has been beginning a trial in {self.folder} for {LOCK_SECONDS:.0f} s"
            raise UserError(f"{cause}: end that process, and start this one again") from error
        finally:
            self.lock.release(force=True)

    def bury(self) -> None:
        """Take up trials whose workers have died; on a database its heartbeat does so."""
        if isinstance(self.storage, JournalStorage):
            studies.take_up_dead(self.study, self.storage, self.is_dead)

    def is_dead(self, trial: FrozenTrial) -> bool:
        """Whether a trial that says running is not: its run's lock is free, or it has not come to a run."""
        path = self.folder / run_of(trial)
        return is_unused(path) if path.exists() else trial.user_attrs.get(HOST) in (None, socket.gethostname())

    def bear(self, random: numpy.random.Generator) -> bool:
        """Have the next generation of population-based training wait for a worker; whether there is one."""
        birth = pbt.next_birth(self.study.get_trials(deepcopy=False), self.plan.population, self.space, random)
        if birth is None:
            return False
        of_values = {"params": birth.values, "distributions": distributions(self.space)}
        self.study.add_trial(create_trial(state=TrialState.WAITING, user_attrs=birth.attributes, **of_values))
        return True

    def epochs(self, trial: Trial) -> int:
        """The epochs that a trial's run has when it is done."""
        attributes = trial.user_attrs
        return self.plan.population.ends(attributes[pbt.GENERATION]) if PARENT in attributes else self.plan.epochs

    def room(self, trial: Trial) -> float:
        """What the budget leaves for a trial, beside all others."""
        if self.plan.budget is None:
            return math.inf
        others = [other for other in self.trials if other.number != trial.number]
        return self.plan.budget.amount - self.plan.budget.spent(others)
