"""A perceptron that overfits: examples few enough, and labels noisy enough, that regularization decides.

Twenty inputs, of which six decide the class, and a tenth of the labels wrong. Three hyperparameters: the dropout rates
of the inputs and of the hidden units, and the coefficient of weight decay. A training takes seconds.
"""

import math
import shutil
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path

import torch
import torch.nn.functional as F
from optuna.study import Study
from optuna.trial import Trial
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

import stn
from stn.recorder import Unseen
from stn.scripts.course import Result, RunProgress
from stn.scripts.trials import Watch
from stn.search import studies
from stn.search.budget import Budget
from stn.search.space import Range
from stn.search.storages import JOURNAL, open_storage
from stn.search.worker import COMPLETED, STOPPED, Plan, Worker

INPUTS, UNITS = 20, 100
SIZES = {"train": 400, "valid": 400, "test": 2000}
WRONG = 0.1  # labels
START = {"input_dropout": 0.05, "hidden_dropout": 0.05, "weight_decay": 1e-3}  # hardly any regularization
RATES = Range(0.0, 0.75)
SPACE = {"input_dropout": RATES, "hidden_dropout": RATES, "weight_decay": Range(1e-4, 1.0, log=True)}
LAYERS = {"0": "input_dropout", "*": "hidden_dropout"}  # whose rate each is
HYPER_LR = 0.05


def loaders(seed: int = 0) -> dict[str, DataLoader]:
    """Mini-batches of "train", "valid" and "test": inputs (B, 20), classes (B,)."""
    generator = torch.Generator().manual_seed(seed)
    found = {}
    for split, size in SIZES.items():
        x = torch.randn(size, INPUTS, generator=generator)
        right = x[:, 0] * x[:, 1] + x[:, 2:6].sum(1) / 2 > 0
        labels = (right ^ (torch.rand(size, generator=generator) < WRONG)).long()
        batch = 40 if split == "train" else 100
        found[split] = DataLoader(TensorDataset(x, labels), batch, shuffle=split != "test")
    return found


def network() -> nn.Sequential:
    """One hidden layer, plain; (B, 20) -> logits (B, 2)."""
    return nn.Sequential(nn.Dropout(0.05), nn.Linear(INPUTS, UNITS), nn.ReLU(), nn.Dropout(0.05), nn.Linear(UNITS, 2))


def tuned() -> stn.Hyperparameters:
    """The three, learned from START on."""
    rates = {name: stn.Tuned(START[name], range=(0, 1)) for name in LAYERS.values()}
    decay = stn.Tuned(START["weight_decay"], transform="exp", per_example=False)
    return stn.Hyperparameters(**rates, weight_decay=decay)


def fixed(**values: float) -> stn.Hyperparameters:
    """The three at these values, elsewhere at START's."""
    return stn.Hyperparameters(**{name: stn.Constant(value) for name, value in {**START, **values}.items()})


def accuracy(logits: Tensor, classes: Tensor) -> Tensor:
    return (logits.argmax(1) == classes).float().mean()


def train(
    hyper: stn.Hyperparameters,
    run: Path | str,
    epochs: int = 60,
    seed: int = 0,
    progress: RunProgress | None = None,
    stop: Callable[[], bool] = lambda: False,
) -> Result:
    """Train the perceptron with these hyperparameters; redoes the run that is there."""
    torch.manual_seed(seed)
    net = stn.convert(network(), hyper, dropout=LAYERS)
    return stn.fit(
        net,
        hyper,
        loss=F.cross_entropy,
        accuracy=accuracy,
        weight_decay="weight_decay",
        **loaders(),
        optimizer=torch.optim.SGD(net.parameters(), lr=0.05, momentum=0.9),
        method=partial(stn.STN, hyper_lr=HYPER_LR),
        epochs=epochs,
        run=run,
        overwrite=True,
        progress=progress or Unseen(),
        stop=stop,
    )


def search(
    folder: Path | str,
    sampler: str = "tpe",
    seconds: float = math.inf,
    trials: int | None = None,
    epochs: int = 60,
    seed: int = 0,
) -> Study:
    """Search the three at fixed values, for so many seconds of training or trials; redoes the search that is there.

    sampler: one of `stn.search.studies.SAMPLERS` but population-based training. Each trial's run lies in the folder.
    """
    folder = Path(folder)
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    storage = open_storage(str(folder / JOURNAL))
    study = studies.open_study(storage, folder.name, {"script": "toy/overfitting.py"})
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
