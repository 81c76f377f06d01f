"""What a study has found, and at what cost: its best trial, its curve, its table, the hyperparameters' importances."""

import math
from collections.abc import Iterable, Sequence

import numpy
import optuna
from optuna.importance import PedAnovaImportanceEvaluator
from optuna.study import Study
from optuna.trial import FrozenTrial, TrialState, create_trial

from stn.search.budget import BY_EPOCH, cost
from stn.search.pbt import PARENT
from stn.search.studies import current, run_of

FEWEST = 4  # trials of which importances can be told


def best_trial(trials: Sequence[FrozenTrial]) -> FrozenTrial | None:
    """The trial with the lowest validation loss of all epochs; None where none has ended."""
    scored = [trial for trial in current(trials) if trial.intermediate_values]
    return min(scored, key=lowest, default=None)


def lowest(trial: FrozenTrial) -> float:
    """A trial's lowest validation loss so far; infinite where it has none."""
    return min(trial.intermediate_values.values(), default=math.inf)


def curve(trials: Sequence[FrozenTrial], kind: str) -> tuple[numpy.ndarray, numpy.ndarray]:
    """What was spent at the end of each epoch, and the lowest validation loss by then; trials count one after another.

    kind: "steps", "epochs" or "seconds"; a trial's epochs count as equally long. What one that has diverged, or was
    stopped within an epoch, has cost beyond its last whole epoch counts for those that follow.
    """
    spent, best = 0.0, math.inf
    x, losses = [], []
    for trial in current(trials):
        share = trial.user_attrs.get(BY_EPOCH, {}).get(kind, 0.0) / max(len(trial.intermediate_values), 1)
        for number, (_, loss) in enumerate(sorted(trial.intermediate_values.items()), start=1):
            best = min(best, loss)
            x.append(spent + number * share)
            losses.append(best)
        spent += cost(trial)[kind]
    return numpy.array(x), numpy.array(losses)


def rows(trials: Sequence[FrozenTrial], names: Iterable[str]) -> list[dict[str, float | str | int]]:
    """A row for each trial, as trials.csv has them. names: of the hyperparameters; not every trial has come to each.

    from: the run that a generation of population-based training goes on from.
    """
    return [
        {
            "trial": trial.number,
            "run": run_of(trial),
            "from": trial.user_attrs.get(PARENT) or "",
            "state": trial.state.name.lower(),
            "val_loss": lowest(trial) if trial.intermediate_values else "",
            **cost(trial),
            **{name: trial.params.get(name, "") for name in names},
        }
        for trial in current(trials)
    ]


def importances(study: Study) -> dict[str, float]:
    """How much each hyperparameter decides whether a trial is among the best (PED-ANOVA, Watanabe et al. 2023).

    By hyperparameter, the largest first; they sum to 1. Trials that were pruned count with the loss that they had come
    to. Empty where there are too few trials, or all have the same loss.
    """
    scored = [trial for trial in current(study.get_trials(deepcopy=False)) if trial.intermediate_values]
    if len(scored) < FEWEST or len({lowest(trial) for trial in scored}) == 1:
        return {}
    whole = optuna.create_study()
    for trial in scored:
        copied = {"params": trial.params, "distributions": trial.distributions, "value": lowest(trial)}
        whole.add_trial(create_trial(state=TrialState.COMPLETE, **copied))
    found = optuna.importance.get_param_importances(whole, evaluator=PedAnovaImportanceEvaluator())
    return found if sum(found.values()) > 0 else {}
