"""What cnn/train_lr.py is set by, and what it trains: a plain network and the learning rate of its weights.

Flags and defaults are those of AdaTune, the published code of Donini et al. 2020.
"""

import math
import os
from argparse import ArgumentTypeError
from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, ClassVar

import torch
from torch.optim import SGD, Adam, AdamW, Optimizer

from cnn.datasets import DATA_SETS
from cnn.models import PLAIN
from cnn.settings import ImageRunSettings
from cnn.task import PlainClassification, plain_network
from stn.datasets.images import ImageSets
from stn.errors import UserError
from stn.files import explaining_os_errors
from stn.hyperparameters import Hyperparameters
from stn.kernels.memory import explaining_out_of_memory
from stn.learning_rates import LearningRate, Replayed, exponential, staircase, warm_restarts
from stn.methods import STN
from stn.recorder import Progress, Recorder
from stn.runs.folder import RunFolder
from stn.scripts import rates
from stn.scripts.declared import Values
from stn.scripts.options import discount, fraction, named, nonnegative, one_of, positive, positive_int, rate
from stn.scripts.settings import LONGER, of_machine, of_model, of_rate, of_training
from stn.training import Plan, Stop, Trainer

SPELLED = ("mnist", "fashion_mnist", "cifar_10", "cifar_100")  # data sets, as published
OPTIMIZERS = ("sgd", "adam", "adamw")
EPSILON = 1e-4  # of Adam and AdamW, as published
MOMENTUM = {"rtho": 0.9, "marthe": 0.9}  # by scheduler, of the others 0
# The flags that act with each scheduler.
DECAYS = {
    "constant": set(),
    "staircase": {"step_size", "lr_decay"},
    "ed": {"lr_decay"},
    "cyclic": {"t_0", "t_mult"},
}
TUNED = {
    name: {"hyper_lr", *(flag.removeprefix("lr_") for flag in rates.ACTING[name])} for name in ("marthe", "rtho", "hd")
}
ACTING = {**TUNED, **DECAYS}


def data_set(text: str) -> str:
    """A data set's name, with or without its underscore."""
    names = {name.replace("_", ""): name for name in DATA_SETS}
    if (name := text.replace("_", "")) not in names:
        raise ArgumentTypeError(f"'{text}' is none of {', '.join(SPELLED)}")
    return names[name]


data_set.metavar = f"{{{','.join(SPELLED)}}}"


def file_path(text: str) -> str:
    """The absolute path of a file."""
    return str(Path(named(text)).absolute())


@dataclass(frozen=True, kw_only=True)
class RateSettings(ImageRunSettings):
    """Of cnn/train_lr.py."""

    plain = True
    STEP_FLAGS: ClassVar[Mapping[str, str]] = {"hyper_lr": "hyper_lr", "alpha": "alpha"}

    network: str = of_model("vgg", "the network; mlp is for grey images", one_of(*PLAIN))
    num_epoch: int = of_training(200, "epochs", positive_int, **LONGER)
    optimizer: str = of_training(
        "sgd", f"optimizer of the weights; adam and adamw have an epsilon of {EPSILON:g}", one_of(*OPTIMIZERS)
    )
    lr: float = of_training(0.01, "learning rate of the weights, at the start", positive)
    momentum: float = of_training(0.9, "momentum of sgd; unless given, 0 with other than rtho and marthe", rate)
    nesterov: bool = of_training(False, "Nesterov's momentum, of sgd")
    wd: float = of_training(5e-4, "weight decay: an L2 penalty of sgd and adam, decoupled of adamw", nonnegative)
    grad_clipping: float = of_training(
        100.0, "largest absolute value of the gradient's entries, 0 for none", nonnegative
    )
    lr_scheduler: str = of_training(
        "marthe",
        "the learning rate: tuned by marthe (Donini et al. 2020), rtho (Franceschi et al. 2017) or hd (Baydin et al. "
        "2018), constant, or decayed: in a staircase, exponentially by epoch (ed), or along cosines with warm restarts "
        "(cyclic)",
        one_of(*ACTING),
    )
    step_size: int = of_training(30, "with staircase, epochs between two decays", positive_int)
    lr_decay: float = of_training(
        1.0,
        "with staircase and ed, factor of a decay; at the published default the learning rate is constant",
        fraction,
    )
    t_0: int = of_training(10, "with cyclic, epochs of the first cosine", positive_int)
    t_mult: int = of_training(
        2, "with cyclic, how many times as long as the one before each other cosine is", positive_int
    )

    hyper_lr: float = of_rate(1e-8, "with marthe, rtho and hd, step size of the hypergradient", nonnegative)
    alpha: float = of_rate(
        1e-6, "with marthe and rtho, step size of --hyper-lr's own hypergradient, 0 to keep it", nonnegative
    )
    mu: float = of_rate(0.99999, "with marthe, the discount of the past, at most 1; below 0 it adapts", discount)
    first_order: bool = of_rate(False, "with marthe and rtho, leave the training loss's Hessian out")

    dataset: str = of_machine("cifar10", "the data set", data_set)
    model_loc: str = of_machine(
        None,
        "where the best model is saved, too, when training ends: a file for stn.load_model",
        file_path,
        metavar="FILE",
        may_change=True,
    )

    @classmethod
    def tunes_rate(cls, values: Values) -> bool:
        return values["lr_scheduler"] in TUNED and values["load_schedule"] is None

    @classmethod
    def has_alpha(cls, values: Values) -> bool:
        return values["lr_scheduler"] != "hd"

    @classmethod
    def locate(cls, values: Values) -> tuple[str, str]:
        data, description = super().locate(values)
        return data, f"{values['network']}, learning rate {policy(values)}\n{description}"

    def task(self, data: ImageSets, num_hyper: int) -> PlainClassification:  # noqa: ARG002
        with explaining_out_of_memory("model and images do not fit into memory: try --network lenet"):
            model = plain_network(self.network, data).to(self.device)
            return PlainClassification(model, data, self.batch_size, self.device, getattr(torch, self.dtype))

    def plan(self, task: PlainClassification) -> Plan:  # noqa: ARG002
        return Plan(self.num_epoch, patience=self.num_epoch, checkpoint_seconds=self.checkpoint_seconds)

    def learning_rate(self, task: PlainClassification) -> LearningRate:
        if self.lr_schedule is not None:
            return Replayed(self.lr_schedule)
        if self.lr_scheduler in TUNED:
            options = {name: getattr(self, name) for name in TUNED["marthe"]}
            return rates.make(self.lr_scheduler, self.lr, options)
        _, steps_of_an_epoch = task.position
        decays = {
            "constant": LearningRate,
            "staircase": partial(staircase, epochs=self.step_size, factor=self.lr_decay),
            "ed": partial(exponential, factor=self.lr_decay),
            "cyclic": partial(warm_restarts, steps=self.t_0 * steps_of_an_epoch, growth=self.t_mult),
        }
        return decays[self.lr_scheduler](self.lr)

    def weights_optimizer(self, model: torch.nn.Module) -> Optimizer:
        options: dict[str, Any] = {"lr": self.lr, "weight_decay": self.wd, "fused": True}
        if self.optimizer == "sgd":
            return SGD(model.parameters(), momentum=self.momentum, nesterov=self.nesterov, **options)
        return (Adam if self.optimizer == "adam" else AdamW)(model.parameters(), eps=EPSILON, **options)

    def trainer(
        self, task: PlainClassification, hyper: Hyperparameters, run: RunFolder, progress: Progress, stop: Stop
    ) -> Trainer:
        refuse_unwritable(self.model_loc)
        optimizer, clip_value = self.weights_optimizer(task.model), self.grad_clipping or math.inf
        method = STN(task.model, hyper, optimizer=optimizer, clip_value=clip_value)
        recorder = Recorder(task, hyper, run, progress, self.log_interval, self.log_interval, average=True)
        return Trainer(task, hyper, method, self.learning_rate(task), recorder, self.plan(task), stop)

    @property
    def model_file(self) -> str | None:
        return self.model_loc


def policy(values: Values) -> str:
    """In a few words what the learning rate does."""
    if values["load_schedule"] is not None:
        return f"replayed from {values['load_schedule']}"
    name, decay = values["lr_scheduler"], f"times {values['lr_decay']:g}"
    words = {
        "constant": "constant",
        "staircase": f"{decay} after every {values['step_size']} epochs",
        "ed": f"{decay} after each epoch",
        "cyclic": f"along cosines with warm restarts, the first after {values['t_0']} epochs",
    }
    return f"{values['lr']:g}, {words.get(name) or f'tuned by {name}'}"


def refuse_unwritable(model_loc: str | None) -> None:
    """Raise UserError where --model-loc names no file that can be written."""
    if model_loc is None:
        return
    path = Path(model_loc)
    with explaining_os_errors(path):
        if path.is_dir():
            raise UserError(f"--model-loc {path} is a folder: name a file in it")
        if not path.parent.is_dir():
            raise UserError(f"--model-loc {path}: there is no folder {path.parent}: make it, or name another file")
        if not os.access(path.parent, os.W_OK | os.X_OK):
            raise UserError(f"--model-loc {path}: {path.parent} cannot be written to: name another file")
