"""Population-based training (Jaderberg et al. 2017), asynchronous, over the checkpoints of runs.

A population of members trains in generations of some epochs each. A generation is a trial of its own, which goes on
from the checkpoint of the one before. After one, a member among the worst takes over weights and hyperparameters of one
among the best, and changes the latter at random (exploit and explore).
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy
from optuna.trial import FrozenTrial, TrialState

from stn.search.space import Space
from stn.search.studies import LEFT, STOPPED, current, run_of

MEMBER, GENERATION, PARENT = "member", "generation", "parent"  # what a trial has as attributes
TRUNCATION = 0.25  # of the population that is replaced, and that replaces it
STEP = 0.2  # of a range's scale, by which exploring moves a value at most
REDRAWN = 0.1  # probability that exploring draws a value anew instead


@dataclass(frozen=True)
class Population:
    size: int
    interval: int  # epochs of a generation
    epochs: int  # of a member in all

    @property
    def generations(self) -> int:
        return math.ceil(self.epochs / self.interval)

    def ends(self, generation: int) -> int:
        """The epochs that a member has trained for after a generation."""
        return min((generation + 1) * self.interval, self.epochs)


@dataclass(frozen=True)
class Birth:
    """What the next trial is: whose run it goes on from, if any, and at which values."""

    member: int
    generation: int
    parent: str | None
    values: dict[str, float]

    @property
    def attributes(self) -> dict[str, int | str | None]:
        return {MEMBER: self.member, GENERATION: self.generation, PARENT: self.parent}


def next_birth(
    trials: Sequence[FrozenTrial], population: Population, space: Space, random: numpy.random.Generator
) -> Birth | None:
    """The next generation of the member that is furthest behind; None where all are done, or under way."""
    trials = current(trials)
    newest = {trial.user_attrs[MEMBER]: trial for trial in trials if MEMBER in trial.user_attrs}
    if unborn := [member for member in range(population.size) if member not in newest]:
        return Birth(unborn[0], 0, None, {name: own.draw(random) for name, own in space.items()})
    ready = [trial for trial in newest.values() if trial.state in (TrialState.COMPLETE, TrialState.FAIL)]
    ready = [trial for trial in ready if trial.user_attrs.get(LEFT) != STOPPED]  # such a one will be taken up
    ready = [trial for trial in ready if trial.user_attrs[GENERATION] + 1 < population.generations]
    if not ready:
        return None
    trial = min(ready, key=lambda trial: (trial.user_attrs[GENERATION], trial.user_attrs[MEMBER]))
    member, generation = trial.user_attrs[MEMBER], trial.user_attrs[GENERATION] + 1
    chosen = exploited(trial, trials, random)
    if chosen is None:
        return Birth(member, generation, None, {name: own.draw(random) for name, own in space.items()})
    values = dict(chosen.params) if chosen is trial else explored(chosen.params, space, random)
    return Birth(member, generation, run_of(chosen), values)


def exploited(trial: FrozenTrial, trials: Sequence[FrozenTrial], random: numpy.random.Generator) -> FrozenTrial | None:
    """The trial whose run a member goes on from: its own, or where that is among the worst one of the best.

    None where it has failed, and there is no other.

    Compared are the latest generations of all members of this one's age, older or younger ones where they have gone.
    """
    age = trial.user_attrs[GENERATION]
    latest: dict[int, FrozenTrial] = {}
    for other in trials:
        if other.state == TrialState.COMPLETE and other.user_attrs[GENERATION] <= age:
            latest[other.user_attrs[MEMBER]] = other
    ranked = sorted(latest.values(), key=lambda other: last_value(other))
    count = max(1, int(TRUNCATION * len(ranked)))
    failed = trial.state != TrialState.COMPLETE
    if ranked and (failed or (len(ranked) > 1 and trial in ranked[-count:])):
        return ranked[random.integers(count)]
    return None if failed else trial


def last_value(trial: FrozenTrial) -> float:
    """The validation loss at the end of a generation."""
    return trial.intermediate_values[max(trial.intermediate_values)] if trial.intermediate_values else math.inf


def explored(values: dict[str, float], space: Space, random: numpy.random.Generator) -> dict[str, float]:
    """Values near these, or now and then anywhere."""
    found = {}
    for name, own in space.items():
        moved = own.place(values[name]) + random.uniform(-STEP, STEP)
        found[name] = own.draw(random) if random.random() < REDRAWN else own.at(min(max(moved, 0.0), 1.0))
    return found
