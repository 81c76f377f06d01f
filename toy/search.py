"""Black-box search of the perceptron that overfits, by the same trials, samplers and budgets as any search here."""

import math
import shutil
from collections.abc import Mapping
from pathlib import Path

from optuna.storages import InMemoryStorage
from optuna.study import Study
from optuna.trial import Trial

from stn.scripts.trials import Watch
from stn.search import studies
from stn.search.budget import Budget
from stn.search.space import Range
from stn.search.worker import COMPLETED, STOPPED, Plan, Worker
from toy.overfitting import fixed, train

RATES = Range(0.0, 0.75)
SPACE = {"input_dropout": RATES, "hidden_dropout": RATES, "weight_decay": Range(1e-4, 1.0, log=True)}


def search(
    folder: Path | str,
    sampler: str = "tpe",
    seconds: float = math.inf,
    trials: int | None = None,
    epochs: int = 50,
    seed: int = 0,
) -> Study:
    """Search for so many seconds of training, or trials; redoes the search that is there.

    sampler: "grid", "random", "tpe" or "gp". Each trial's run lies in the folder; the study itself is in memory, as
    keeping it would take longer than these trials. A trial that the end of its seconds has stopped waits, and would go
    on with the next.
    """
    folder = Path(folder)
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    storage = InMemoryStorage()
    study = studies.open_study(storage, folder.name, {})
    budget = None if math.isinf(seconds) else Budget(seconds, "seconds")

    def run(trial: Trial, values: Mapping[str, float], _: object) -> str:
        watch = Watch(trial, budget, lambda: worker.room(trial))
        place = folder / studies.run_of(trial)
        result = train(fixed(**values), place, epochs, seed, watch, watch.asks_to_stop)
        return COMPLETED if result.completed else STOPPED

    plan = Plan(sampler, "none", seed, epochs, trials, budget, startup_trials=3)
    worker = Worker(study, storage, folder, SPACE, plan, run)
    worker.work()
    return study
