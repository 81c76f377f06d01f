"""One worker of a study: it takes trials from it, one after another, and runs them, until there are enough."""

import math
import socket
from collections.abc import Callable
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Protocol

import filelock
import numpy
from optuna.exceptions import TrialPruned, UpdateFinishedTrialError
from optuna.storages import BaseStorage, JournalStorage, fail_stale_trials
from optuna.study import Study
from optuna.trial import FrozenTrial, Trial, TrialState, create_trial

from stn.errors import Diverged, UserError
from stn.runs.folder import RunFolder, is_unused
from stn.search import pbt, storages, studies
from stn.search.budget import Budget
from stn.search.history import lowest
from stn.search.pbt import PARENT, Population
from stn.search.space import Space, distributions, suggest
from stn.search.studies import HOST, LEFT, run_of

COMPLETED, PRUNED, STOPPED = "completed", "pruned", "stopped"  # how a trial ended
LOCK_SECONDS = 600  # that a worker waits for another one to begin its trial


class Turn:
    """A context that the workers of a study enter one after another, on all machines that share its folder.

    stopped: asked while it waits.
    """

    def __init__(self, folder: Path, stopped: Callable[[], bool] = lambda: False):
        self.folder, self.stopped = folder, stopped
        self.lock = filelock.FileLock(folder / ".lock")

    def __enter__(self) -> "Turn":
        """Raises UserError where another one does not end its turn, KeyboardInterrupt where it is stopped."""
        try:
            for _ in range(LOCK_SECONDS):
                with suppress(filelock.Timeout):
                    self.lock.acquire(timeout=1.0)
                    return self
                if self.stopped():
                    raise KeyboardInterrupt
        except NotImplementedError as error:
            raise UserError(f"{self.folder} is on a file system without locks: choose another --save_dir") from error
        cause = f"another worker has been beginning a trial in {self.folder} for {LOCK_SECONDS} s"
        raise UserError(f"{cause}: end that process, and start this one again")

    def __exit__(self, *error: object) -> None:
        self.end()

    def end(self) -> None:
        """Let others have theirs; ending again does nothing."""
        self.lock.release(force=True)


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
        self.turn = Turn(folder, stopped)
        self.given_up = False  # whether others have taken the trial for dead

    @property
    def trials(self) -> list[FrozenTrial]:
        """Each run once."""
        return studies.current(self.study.get_trials(deepcopy=False))

    def work(self) -> str:
        """Run trials; why no other one is begun, empty where it was stopped.

        Raises UserError for a trial that cannot be run, which is left to be taken up.
        """
        while True:
            with self.turn:
                self.bury()
                if self.stopped():
                    return ""
                if why := self.done() or self.next():
                    return why

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
        own = self.space, plan.grid_points
        if plan.sampler == "grid" and not waiting and not studies.points_left(self.trials, *own):
            return "all points of the grid are done or under way"
        self.study.sampler = studies.make_sampler(plan.sampler, (plan.seed, count), *own, plan.startup_trials)
        self.study.pruner = studies.make_pruner(plan.pruner, plan.epochs)
        with ExitStack() as held:
            self.optimize(held)
        return ""

    def optimize(self, held: ExitStack) -> None:
        """Have the study run a trial, whose run is in use until the study knows how it ended."""
        try:
            self.study.optimize(partial(self.trial, held=held), n_trials=1, catch=(Diverged,))
        except (UpdateFinishedTrialError, ValueError) as error:
            if not self.given_up:
                raise
            cause = f"nothing was heard of this worker for over {2 * storages.HEARTBEAT} s, and its trial was given up"
            raise UserError(f"{cause}: start it again") from error

    def trial(self, trial: Trial, held: ExitStack) -> float:
        """Run a trial; its lowest validation loss, NaN where it was stopped. Raises TrialPruned where it was pruned."""

        def claim(folder: RunFolder) -> RunFolder:
            held.enter_context(folder)
            self.turn.end()
            return folder

        try:
            trial.set_user_attr(HOST, socket.gethostname())
            ended = self.run(trial, suggest(trial, self.space), claim)
        except UpdateFinishedTrialError:
            self.given_up = True
            raise
        except Diverged:
            raise
        except (UserError, OSError, KeyboardInterrupt):
            self.leave(trial)
            raise
        if ended == STOPPED:
            self.leave(trial)
        if ended == PRUNED:
            raise TrialPruned
        return math.nan if ended == STOPPED else lowest(self.frozen(trial))

    def leave(self, trial: Trial) -> None:
        """Have a trial taken up when the search goes on."""
        try:
            trial.set_user_attr(LEFT, studies.STOPPED)
        except UpdateFinishedTrialError:
            self.given_up = True

    def frozen(self, trial: Trial) -> FrozenTrial:
        return self.study.get_trials(deepcopy=False)[trial.number]

    def bury(self) -> None:
        """Take up trials that were stopped or whose workers have died; on a database its heartbeat tells the latter."""
        shared = isinstance(self.storage, JournalStorage)
        if shared:
            studies.fail_dead(self.study, self.storage, self.is_dead)
        else:
            fail_stale_trials(self.study)
        for trial in self.trials:
            # Workers on a database need not share a folder, in which they would take turns.
            ours = shared or trial.user_attrs.get(HOST) == socket.gethostname()
            if trial.state == TrialState.FAIL and LEFT in trial.user_attrs and ours:
                studies.take_up(self.study, trial)

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
