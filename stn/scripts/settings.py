"""What a family of training scripts is set by, and what it makes of that: data, model, task and trainer."""

import random
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, ClassVar, Protocol

import torch

from stn.bilevel import Task
from stn.errors import UserError
from stn.hypergradients.policies import TunedRate
from stn.hyperparameters import Hyperparameters
from stn.kernels import precision
from stn.learning_rates import LearningRate
from stn.methods import HYPER_OPTIMIZERS, BestResponseMethod
from stn.recorder import Progress
from stn.runs.folder import RunFolder
from stn.schedules import Schedule
from stn.scripts import methods, rates
from stn.scripts.declared import Values
from stn.scripts.flags import MACHINE, MODEL, TRAINING, TUNED_RATE, TUNING, flag, flags_of
from stn.scripts.methods import METHODS
from stn.scripts.options import (
    discount,
    named,
    nonnegative,
    nonnegative_int,
    one_of,
    positive,
    positive_int,
    refuse_more_threads,
)
from stn.training import Plan, Stop, Trainer

# The flags' groups in the help.
of_model, of_training, of_tuning, of_rate, of_machine = (
    partial(flag, group=group) for group in (MODEL, TRAINING, TUNING, TUNED_RATE, MACHINE)
)
LONGER = {"may_change": True, "lengthens": True}  # of a flag that lets a run go on for longer


def data_flag(files: str, folder: str, builtin: str) -> Any:
    """--data: a folder of `files`, "builtin", or where it is not given the default `folder`, if that is there."""
    default = f"default: {folder}, and where that is absent the built-in {builtin}"
    words = f"folder of {files}, or 'builtin' for the built-in {builtin} ({default})"
    return of_machine(None, words, named, metavar="FOLDER")


class Data(Protocol):
    """What is trained on. checksum: tells it from other data. description: a line on it."""

    checksum: str
    description: str


@dataclass(frozen=True, kw_only=True)
class Settings:
    """A run's settings, which flags of the same names set; a family of scripts adds its own.

    Where it is None, the number of threads, the seed and the device are chosen here, as is the type where it is "auto".
    device, data_checksum: what the run computes on, and the data that it was started on, None for a new one.
    lr_schedule: what the learning rate follows in place of its flags, if anything.

    Raises UserError for a value that its flag would not take, or a device that is not there.
    """

    family: ClassVar[str]  # the scripts' folder, which tells those of one name apart: "lstm", "cnn"
    unit: ClassVar[str]  # of what training goes through: "tokens", "images"
    newest: ClassVar[str] = "the newest"  # which run is resumed where none is named
    cpu_flag: ClassVar[str] = "disable_cuda"  # what keeps a run off GPUs
    overwrites: ClassVar[bool] = False  # whether a new run may lie where one is
    PLACES: ClassVar[tuple[str, ...]]  # settings that say where runs lie
    DERIVED: ClassVar[tuple[str, ...]] = ("device", "data_checksum")  # settings that no flag sets, in args.yaml
    # The settings of a tuned learning rate's steps, which --find_hyper_lr searches for.
    STEP_FLAGS: ClassVar[Mapping[str, str]]

    seed: int = of_training(None, "random seed (default: a fresh one, recorded in args.yaml)", nonnegative_int)
    data: str
    dtype: str = of_machine(
        "auto",
        "type of matrix products; auto is bfloat16 where the processor multiplies it natively",
        one_of(*precision.CHOICES),
    )
    threads: int = of_machine(None, "CPU threads (default: as many as PyTorch chooses)", positive_int, may_change=True)
    gpu: int = of_machine(0, "which GPU to use", nonnegative_int, may_change=True)
    checkpoint_seconds: float = of_machine(60.0, "seconds between checkpoints", nonnegative, may_change=True)
    device: str | None = None
    data_checksum: str | None = None
    lr_schedule: Schedule | None = None

    def __post_init__(self):
        for own in flags_of(type(self)):
            if not own.accepts(value := getattr(self, own.name)):
                raise UserError(f"{own.name} cannot be {value!r}: give another value")
        refuse_more_threads(self.threads)
        device = torch.device(self.device or choose_device(getattr(self, self.cpu_flag), self.gpu))
        if device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count():
            remedy = f"go on there, or on another device with --gpu N or --{self.cpu_flag}"
            raise UserError(f"the run used {device}, which is not here: {remedy}")
        dtype, _ = precision.choose(self.dtype, device)
        chosen = {"device": str(device), "dtype": str(dtype).removeprefix("torch.")}
        chosen["threads"] = self.threads or torch.get_num_threads()
        chosen["seed"] = random.SystemRandom().randrange(2**32) if self.seed is None else self.seed
        for name, value in chosen.items():
            object.__setattr__(self, name, value)  # the one way into a frozen class

    @classmethod
    def tunes_rate(cls, values: Values) -> bool:
        """Whether these flags have the learning rate tuned."""

    @classmethod
    def has_alpha(cls, values: Values) -> bool:
        """Whether its step size is adapted then, or could be."""

    @classmethod
    def locate(cls, values: Values) -> tuple[str, str]:
        """Where the data lies that these flags name, and what to call it."""

    @classmethod
    def newest_run(cls, values: Values, unfinished: bool) -> Path:
        """The newest run where the flags place runs, of those unfinished if so asked. Raises UserError without one."""

    def new_folder(self, same: Callable[[Mapping[str, Any]], bool]) -> AbstractContextManager[Path]:
        """Where a new run is to be logged; no other run takes that place before the context ends.

        same: whether a run with these settings has the same configuration.
        """

    def read_data(self) -> Data:
        """The data, whatever it is now. Raises UserError where it cannot be used."""

    def load(self) -> Data:
        """The data. Raises UserError where it cannot be used, or is not what the run was started on."""
        data = self.read_data()
        if self.data_checksum not in (None, data.checksum):
            remedy = "restore it, name the folder that holds it by --data, or start a new run"
            raise UserError(f"{self.data} does not hold what the run was started on: {remedy}")
        return data

    def task(self, data: Any, num_hyper: int) -> Task:
        """Model and task, on the device. Raises UserError where they do not fit into memory."""

    def learning_rate(self, task: Any) -> LearningRate:
        """That of the weights' optimizer, as `lr_schedule` or else the flags say."""

    def plan(self, task: Any) -> Plan:
        """How long the run trains, and how its steps alternate."""

    def trainer(self, task: Any, hyper: Hyperparameters, run: RunFolder, progress: Progress, stop: Stop) -> Trainer:
        """The loop with its method, learning rate and recorder."""

    @property
    def model_file(self) -> str | None:
        """Where the best model is saved, if it is to be: a name in the run's folder, or an absolute path."""


@dataclass(frozen=True, kw_only=True)
class SelfTuningSettings(Settings):
    """Of scripts that tune hyperparameters by a best response, and of their baselines."""

    RATE_FLAGS: ClassVar[tuple[str, ...]]  # settings of the weights' learning rate, the first one, and of its decay
    STEP_FLAGS: ClassVar[Mapping[str, str]] = {"hyper_lr": "lr_hyper_lr", "alpha": "lr_alpha"}

    nonmono: int = of_training(
        5,
        "decay the learning rate when the validation loss is no better than it was more than this many epochs ago",
        nonnegative_int,
    )
    patience: int = of_training(
        20, "epochs without a lower validation loss before training stops", positive_int, **LONGER
    )
    method: str = of_tuning(
        "stn",
        "how weights and hyperparameters learn: stn (MacKay et al. 2019) or delta_stn (Bae & Grosse 2020)",
        one_of(*METHODS),
        switches={"delta_stn": ("delta_stn", "the same as --method delta_stn")},
    )
    linearize: bool = of_tuning(
        True,
        "with delta_stn, train the response on a linearized prediction (the default)",
        switches={"no_linearize": (False, "with delta_stn, train the response on the network's own prediction")},
    )
    response_lr: float = of_tuning(
        None, "with delta_stn, learning rate of the response (default: that of the other weights)", positive
    )
    checkpoint_activations: bool = of_machine(
        False,
        "take less memory and more time: compute LSTM layers or convolutions again in the backward pass",
        may_change=True,
    )
    hyper_optimizer: str = of_tuning("adam", "optimizer of hyperparameters and scales", one_of(*HYPER_OPTIMIZERS))
    tune_lr: str = of_rate(
        None,
        "tune the weights' learning rate, in place of its decay: hd (Baydin et al. 2018), by the training loss's "
        "hypergradient, rtho (Franceschi et al. 2017) or marthe (Donini et al. 2020), by the validation loss's",
        one_of(*rates.RATES),
    )
    lr_hyper_lr: float = of_rate(None, "step size of the learning rate's hypergradient", nonnegative)
    lr_alpha: float = of_rate(
        0.0, "with rtho and marthe, step size of --lr_hyper_lr's own hypergradient, 0 to keep it", nonnegative
    )
    lr_mu: float = of_rate(0.99999, "with marthe, the discount of the past, at most 1; below 0 it adapts", discount)
    lr_first_order: bool = of_rate(False, "with rtho and marthe, leave the training loss's Hessian out")

    @classmethod
    def tunes_rate(cls, values: Values) -> bool:
        return values["tune_lr"] is not None

    @classmethod
    def has_alpha(cls, values: Values) -> bool:
        return values["tune_lr"] != "hd"

    def method_of(self, task: Task, hyper: Hyperparameters, **options: Any) -> BestResponseMethod:
        """The method, with the optimizers' options that this family of scripts has flags for."""
        own = {"response_lr": self.response_lr, "linearize": self.linearize}
        return methods.make(self.method, task.model, hyper, **own, hyper_optimizer=self.hyper_optimizer, **options)

    def tuned_rate(self, lr: float, lowest: float) -> TunedRate:
        """The learning rate as --tune_lr asks for it, from lr on and never below the lowest."""
        options = {name: getattr(self, f"lr_{name}") for name in ("hyper_lr", "alpha", "mu", "first_order")}
        return rates.make(self.tune_lr, lr, options, lowest)


def choose_device(disable_cuda: bool, gpu: int) -> torch.device:
    """The GPU asked for where there is one, else the CPU. Raises UserError for a GPU that is not there."""
    if disable_cuda or not torch.cuda.is_available():
        return torch.device("cpu")
    if gpu >= torch.cuda.device_count():
        raise UserError(f"--gpu {gpu}: there are {torch.cuda.device_count()} GPUs, counted from 0")
    return torch.device("cuda", gpu)
