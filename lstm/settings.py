"""What the language-model scripts are set by, and what they train: a corpus and an AWD-LSTM."""

import argparse
import math
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass
from datetime import date
from pathlib import Path
from typing import Any

import torch

from lstm.model import AWDLSTM
from lstm.task import LanguageModeling
from stn.datasets.builtin_text import write_builtin_corpus
from stn.datasets.text import Corpus, load_corpus
from stn.errors import UserError
from stn.hyperparameters import Hyperparameters
from stn.kernels.memory import explaining_out_of_memory
from stn.learning_rates import LearningRate, NonMonotonicDecay, Replayed
from stn.recorder import Progress, Recorder
from stn.runs.find import newest_run, run_names
from stn.runs.folder import RunFolder, claimed
from stn.scripts.declared import Values
from stn.scripts.options import ROOT, factor, find, nonnegative, nonnegative_int, positive, positive_int
from stn.scripts.settings import LONGER, SelfTuningSettings, data_flag, of_machine, of_model, of_training, of_tuning
from stn.training import Plan, Stop, Trainer

PTB = ROOT / "data" / "penn"
MIN_LR = 0.0003  # as published: below it training stops


def model_name(text: str) -> str:
    if Path(text).name != text or not text.endswith(".pt") or text == "checkpoint.pt":
        raise argparse.ArgumentTypeError(f"'{text}' is not a file name ending in .pt, other than checkpoint.pt")
    return text


@dataclass(frozen=True, kw_only=True)
class LanguageModelSettings(SelfTuningSettings):
    """Of lstm/train.py and lstm/train_basic.py. Raises UserError for a learning rate at which training stops."""

    family = "lstm"
    unit = "tokens"
    newest = "the newest of this --save_dir and --prefix"
    overwrites = True
    PLACES = ("save_dir", "prefix")
    RATE_FLAGS = ("lr", "lr_decay", "nonmono")

    emsize: int = of_model(650, "size of word embeddings", positive_int)
    nhid: int = of_model(650, "hidden units per layer", positive_int)
    nlayers: int = of_model(2, "number of LSTM layers", positive_int)

    lr: float = of_training(30.0, "initial learning rate of SGD", positive)
    clip: float = of_training(0.25, "largest norm of the gradient, 0 for none", nonnegative)
    wdecay: float = of_training(0.0, "weight decay", nonnegative)
    epochs: int = of_training(8000, "upper epoch limit", positive_int, **LONGER)
    batch_size: int = of_training(40, "batch size", positive_int)
    bptt: int = of_training(70, "sequence length in steps", positive_int)
    lr_decay: float = of_training(4.0, "what the learning rate is divided by", factor)

    hyper_lr: float = of_tuning(0.01, "learning rate of the hyperparameters", positive)
    train_steps: int = of_tuning(2, "weight steps in a row", positive_int)
    val_steps: int = of_tuning(1, "hyperparameter steps in a row", positive_int)
    warmup_steps: int = of_tuning(
        331,
        "weight steps before the hyperparameters start to train (331 is an epoch of Penn Treebank)",
        nonnegative_int,
    )
    tune_scales: bool = of_tuning(False, "tune the scales of the perturbation too")
    entropy_weight: float = of_tuning(1e-3, "weight of the perturbation's entropy, with --tune_scales", nonnegative)
    scale_lr: float = of_tuning(0.01, "learning rate of the scales, with --tune_scales", positive)
    val_penalties: bool = of_tuning(
        False,
        "add AR and TAR to the hyperparameters' objective, as the published code did: alpha and beta go up",
    )
    val_log_interval: int = of_tuning(1, "hyperparameter steps between log entries", positive_int, may_change=True)

    data: str = data_flag("train.txt, valid.txt and test.txt", "data/penn", "corpus")
    disable_cuda: bool = of_machine(False, "use the CPU even where there is a GPU", may_change=True)
    no_cuda_graphs: bool = of_machine(False, "on a GPU, launch a sequence's kernels one by one", may_change=True)
    save_dir: str = of_machine("saves", "the runs' folder below logs/", str)
    prefix: str | None = of_machine(None, "tells this run's folder from others of the same day", str)
    save: str = of_machine("model.pt", "file of the best model, in the run's folder", model_name, metavar="FILE")
    train_log_interval: int = of_machine(1, "weight steps between log entries", positive_int, may_change=True)

    def __post_init__(self):
        super().__post_init__()
        if self.lr < MIN_LR:
            raise UserError(f"--lr {self.lr:g} is below {MIN_LR:g}, where training stops: give a higher one")

    @classmethod
    def locate(cls, values: Values) -> tuple[str, str]:
        data = values["data"]
        if data is None and not PTB.exists():
            folder = write_builtin_corpus(ROOT / "data" / "builtin")
            return str(folder), "no data/penn (./getdata.sh fetches it): using the built-in corpus"
        if data == "builtin":
            return str(write_builtin_corpus(ROOT / "data" / "builtin")), "built-in corpus"
        folder = find(data, "--data") if data else PTB
        return str(folder), f"corpus {folder}"

    @classmethod
    def newest_run(cls, values: Values, unfinished: bool) -> Path:
        return newest_run(ROOT / "logs" / values["save_dir"], values["prefix"], unfinished)

    def new_folder(self, same: Callable[[Mapping[str, Any]], bool]) -> AbstractContextManager[Path]:
        return claimed(ROOT / "logs" / self.save_dir, run_names(self.prefix, date.today()), same)

    def read_data(self) -> Corpus:
        return load_corpus(find(self.data, "the run's --data"))

    def task(self, data: Corpus, num_hyper: int) -> LanguageModeling:
        sizes = len(data.vocabulary), self.emsize, self.nhid, self.nlayers, num_hyper
        with explaining_out_of_memory("the model does not fit into memory: lower --emsize, --nhid or --nlayers"):
            model = AWDLSTM(
                *sizes,
                dtype=getattr(torch, self.dtype),
                cuda_graphs=not self.no_cuda_graphs,
                checkpoint_activations=self.checkpoint_activations,
            ).to(self.device)
        return LanguageModeling(model, data, self.batch_size, self.bptt, self.val_penalties, self.device)

    def plan(self, task: LanguageModeling) -> Plan:  # noqa: ARG002
        alternation = self.warmup_steps, self.train_steps, self.val_steps
        return Plan(self.epochs, *alternation, self.patience, self.checkpoint_seconds)

    def learning_rate(self, task: LanguageModeling) -> LearningRate:  # noqa: ARG002
        if self.lr_schedule is not None:
            return Replayed(self.lr_schedule)
        if self.tune_lr is not None:
            return self.tuned_rate(self.lr, MIN_LR)
        return NonMonotonicDecay(self.lr, self.lr_decay, self.nonmono, lowest=MIN_LR)

    def trainer(
        self, task: LanguageModeling, hyper: Hyperparameters, run: RunFolder, progress: Progress, stop: Stop
    ) -> Trainer:
        rates = {"lr": self.lr, "weight_decay": self.wdecay, "hyper_lr": self.hyper_lr, "scale_lr": self.scale_lr}
        scales = {"tune_scales": self.tune_scales, "entropy_weight": self.entropy_weight}
        method = self.method_of(task, hyper, clip=self.clip or math.inf, **rates, **scales)
        recorder = Recorder(task, hyper, run, progress, self.train_log_interval, self.val_log_interval)
        return Trainer(task, hyper, method, self.learning_rate(task), recorder, self.plan(task), stop)

    @property
    def model_file(self) -> str:
        return self.save
