"""What the language-model scripts are set by, and what they train: a corpus and an AWD-LSTM."""

import argparse
import math
from collections.abc import Callable
from dataclasses import dataclass
from datetime import date
from pathlib import Path

import torch

from lstm.model import AWDLSTM
from lstm.task import LanguageModeling
from stn.datasets.builtin_text import write_builtin_corpus
from stn.datasets.text import Corpus, load_corpus
from stn.errors import UserError
from stn.hyperparameters import Hyperparameters
from stn.kernels.memory import explaining_out_of_memory
from stn.learning_rates import NonMonotonicDecay
from stn.methods import STN
from stn.recorder import Progress, Recorder
from stn.runs.find import newest_run, run_path
from stn.runs.folder import RunFolder
from stn.scripts.declared import Values
from stn.scripts.flags import Flag, flag, flags_of
from stn.scripts.options import ROOT, factor, find, named, nonnegative, nonnegative_int, positive, positive_int
from stn.scripts.script import choose_device, resume_flags
from stn.scripts.settings import MACHINE, Settings
from stn.training import Plan, Trainer

PTB = ROOT / "data" / "penn"
MIN_LR = 0.0003  # as published: below it training stops
TUNING = "self-tuning"


def model_name(text: str) -> str:
    if Path(text).name != text or not text.endswith(".pt") or text == "checkpoint.pt":
        raise argparse.ArgumentTypeError(f"'{text}' is not a file name ending in .pt, other than checkpoint.pt")
    return text


@dataclass(frozen=True, kw_only=True)
class LanguageModelSettings(Settings):
    """Of lstm/train.py and lstm/train_basic.py. Raises UserError for a learning rate at which training stops."""

    family = "lstm"
    unit = "tokens"
    measure = "ppl"

    emsize: int = flag(650, "size of word embeddings", positive_int, group="model")
    nhid: int = flag(650, "hidden units per layer", positive_int, group="model")
    nlayers: int = flag(2, "number of LSTM layers", positive_int, group="model")

    lr: float = flag(30.0, "initial learning rate of SGD", positive, group="training")
    clip: float = flag(0.25, "largest norm of the gradient, 0 for none", nonnegative, group="training")
    wdecay: float = flag(0.0, "weight decay", nonnegative, group="training")
    epochs: int = flag(8000, "upper epoch limit", positive_int, group="training", may_change=True, lengthens=True)
    batch_size: int = flag(40, "batch size", positive_int, metavar="N", group="training")
    bptt: int = flag(70, "sequence length in steps", positive_int, group="training")
    lr_decay: float = flag(4.0, "what the learning rate is divided by", factor, group="training")

    hyper_lr: float = flag(0.01, "learning rate of Adam for the hyperparameters", positive, metavar="LR", group=TUNING)
    train_steps: int = flag(2, "weight steps in a row", positive_int, group=TUNING)
    val_steps: int = flag(1, "hyperparameter steps in a row", positive_int, group=TUNING)
    warmup_steps: int = flag(
        331,
        "weight steps before the hyperparameters start to train (331 is an epoch of Penn Treebank)",
        nonnegative_int,
        group=TUNING,
    )
    tune_scales: bool = flag(False, "tune the scales of the perturbation too", group=TUNING)
    entropy_weight: float = flag(
        1e-3, "weight of the perturbation's entropy, with --tune_scales", nonnegative, group=TUNING
    )
    scale_lr: float = flag(
        0.01, "learning rate of Adam for the scales, with --tune_scales", positive, metavar="LR", group=TUNING
    )
    val_penalties: bool = flag(
        False,
        "add AR and TAR to the hyperparameters' objective, as the published code did; it pushes alpha and beta up",
        group=TUNING,
    )
    val_log_interval: int = flag(
        1,
        "hyperparameter steps from one log entry to the next",
        positive_int,
        metavar="N",
        group=TUNING,
        may_change=True,
    )

    data: str = flag(
        None,
        "folder of train.txt, valid.txt and test.txt, or 'builtin' for the built-in corpus "
        "(default: data/penn, and where that is absent the built-in corpus)",
        named,
        metavar="FOLDER",
        group=MACHINE,
    )
    disable_cuda: bool = flag(False, "use the CPU even where there is a GPU", group=MACHINE)
    gpu: int = flag(0, "which GPU to use", nonnegative_int, group=MACHINE)
    no_cuda_graphs: bool = flag(
        False, "on a GPU, launch a sequence's kernels one by one", group=MACHINE, may_change=True
    )
    save_dir: str = flag("saves", "the runs' folder below logs/", str, group=MACHINE)
    prefix: str | None = flag(None, "tells this run's folder from others of the same day", str, group=MACHINE)
    save: str = flag(
        "model.pt", "file of the best model, in the run's folder", model_name, metavar="FILE", group=MACHINE
    )
    train_log_interval: int = flag(
        1, "weight steps from one log entry to the next", positive_int, metavar="N", group=MACHINE, may_change=True
    )

    def __post_init__(self):
        if self.lr < MIN_LR:
            raise UserError(f"--lr {self.lr:g} is below {MIN_LR:g}, where training stops: give a higher one")

    @classmethod
    def choose_device(cls, values: Values) -> torch.device:
        return choose_device(not values["disable_cuda"], values["gpu"])

    @classmethod
    def locate(cls, data: str | None) -> tuple[str, str]:
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

    def new_folder(self) -> Path:
        return run_path(ROOT / "logs" / self.save_dir, self.prefix, date.today())

    def read_data(self) -> Corpus:
        return load_corpus(find(self.data, "the run's --data"))

    def task(self, data: Corpus, num_hyper: int) -> LanguageModeling:
        sizes = len(data.vocabulary), self.emsize, self.nhid, self.nlayers, num_hyper
        with explaining_out_of_memory("the model does not fit into memory: lower --emsize, --nhid or --nlayers"):
            model = AWDLSTM(*sizes, dtype=getattr(torch, self.dtype), cuda_graphs=not self.no_cuda_graphs)
            model = model.to(self.device)
        return LanguageModeling(model, data, self.batch_size, self.bptt, self.val_penalties, self.device)

    def trainer(
        self,
        task: LanguageModeling,
        hyper: Hyperparameters,
        run: RunFolder,
        progress: Progress,
        stop: Callable[[], bool],
    ) -> Trainer:
        method = STN(
            task.model,
            hyper,
            lr=self.lr,
            weight_decay=self.wdecay,
            clip=self.clip or math.inf,
            hyper_lr=self.hyper_lr,
            tune_scales=self.tune_scales,
            scale_lr=self.scale_lr,
            entropy_weight=self.entropy_weight,
        )
        learning_rate = NonMonotonicDecay(self.lr, self.lr_decay, self.nonmono, lowest=MIN_LR)
        recorder = Recorder(task, hyper, run, progress, self.train_log_interval, self.val_log_interval)
        plan = Plan(
            self.epochs, self.warmup_steps, self.train_steps, self.val_steps, self.patience, self.checkpoint_seconds
        )
        return Trainer(task, hyper, method, learning_rate, recorder, plan, stop)

    @property
    def model_file(self) -> str:
        return self.save


def setting_flags(without: str = "", **changes: dict) -> list[Flag]:
    """The settings' flags, but those of one group."""
    return [own for own in flags_of(LanguageModelSettings, **changes) if own.group != without]


def course_flags(flags: list[Flag]) -> list[Flag]:
    """--overwrite, --resume and --test."""
    overwrite = Flag("overwrite", "redo a run that is there, removing what it wrote", group=MACHINE)
    return [overwrite, *resume_flags("the newest of this --save_dir and --prefix", flags)]
