"""What the image-classification scripts are set by, and what they train: image sets and a network.

Flags, short names and defaults are the published ones.
"""

import re
from collections.abc import Callable, Collection, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace
from datetime import date, datetime
from itertools import chain, count
from pathlib import Path
from typing import Any, ClassVar

import torch

from cnn import datasets
from cnn.datasets import DATA_SETS, datasets_of
from cnn.models import MODELS
from cnn.models.convnet import ConvNet
from cnn.task import ImageClassification
from stn.datasets.images import Images, ImageSets, Normalization
from stn.errors import UserError
from stn.hyperparameters import Hyperparameters
from stn.kernels.memory import explaining_out_of_memory
from stn.learning_rates import LearningRate, NonMonotonicDecay, Replayed
from stn.recorder import Progress, Recorder
from stn.runs.find import last_started
from stn.runs.folder import RunFolder, claimed
from stn.scripts.declared import Values
from stn.scripts.flags import refuse_idle
from stn.scripts.options import (
    ROOT,
    folder_name,
    fraction,
    nonnegative,
    nonnegative_int,
    one_of,
    positive,
    positive_int,
    rate,
    share,
    width_factor,
)
from stn.scripts.settings import (
    LONGER,
    SelfTuningSettings,
    Settings,
    data_flag,
    of_machine,
    of_model,
    of_training,
    of_tuning,
)
from stn.training import Plan, Stop, Trainer

AS_THEY_ARE = Normalization((0.0,), (1.0,))  # images in [0, 1], whatever their channels
LONGEST_LABEL = 150  # bytes of a folder's name that tell a run's flags


@dataclass(frozen=True, kw_only=True)
class ImageRunSettings(Settings):
    """Of every script that trains an image classifier: its images, and where its runs lie.

    label: tells the run's flags in its folder's name.
    """

    plain: ClassVar[bool] = False  # whether images are normalized for the plain networks
    family = "cnn"
    unit = "images"
    cpu_flag = "no_cuda"
    PLACES = ("logdir", "dir", "subdir")
    DERIVED = (*Settings.DERIVED, "label")

    batch_size: int = of_training(128, "images in a mini-batch", positive_int, "-bsz")
    dataset: str
    data: str = data_flag("the data set's files", "the one in data/ that is called like --dataset", "images")
    percent_valid: float = of_machine(
        0.2,
        "fraction of the training images that validate, the last of the file; of mnist and fashion_mnist 0.15",
        share,
        "-pval",
    )
    num_train: int = of_machine(
        None, "train on the first N only of the images that do not validate", positive_int, metavar="N"
    )
    no_cuda: bool = of_machine(False, "use the CPU even where there is a GPU", may_change=True)
    log_interval: int = of_machine(50, "steps that a log entry is the mean of", positive_int, may_change=True)
    logdir: str = of_machine("logs", "folder of all runs", str)
    dir: str = of_machine("hyper-training", "folder in --logdir", str)
    subdir: str = of_machine("", "folder in --dir (default: the date)", str)
    label: str

    @classmethod
    def locate(cls, values: Values) -> tuple[str, str]:
        return datasets.locate(values["dataset"], values["data"])

    @classmethod
    def newest_run(cls, values: Values, unfinished: bool) -> Path:
        remedy = "check --logdir and the folders in it, or name the run's"
        return last_started(_parent(values["logdir"], values["dir"], values["subdir"]), unfinished, remedy)

    def new_folder(self, same: Callable[[Mapping[str, Any]], bool]) -> AbstractContextManager[Path]:  # noqa: ARG002
        # The time tells runs of one configuration apart.
        label = self.label.encode()[:LONGEST_LABEL].decode(errors="ignore")
        name = f"{label}_{datetime.now():%H:%M:%S}"
        names = chain([name], (f"{name}_{number}" for number in count(2)))
        return claimed(_parent(self.logdir, self.dir, self.subdir), names)

    def read_data(self) -> ImageSets:
        sets = datasets.load(self.dataset, self.data, self.percent_valid, self.plain)
        if self.num_train is not None:
            sets = replace(sets, train=self.first(sets.train))
        more = "lower --percent_valid" if self.num_train is None else "raise --num_train"
        for name, split, remedy in (
            ("training", sets.train, more),
            ("validation", sets.valid, "raise --percent_valid"),
        ):
            if self.batch_size > len(split):
                cause = f"--batch_size {self.batch_size} is more than the {len(split)} {name} images"
                raise UserError(f"{cause}: lower it, or {remedy}")
        return sets

    def first(self, images: Images) -> Images:
        """The images that --num_train leaves. Raises UserError where it asks for more than there are."""
        if self.num_train > len(images):
            cause = f"--num_train {self.num_train} is more than the {len(images)} training images"
            raise UserError(f"{cause}: lower it, or --percent_valid")
        return Images(images.pixels[: self.num_train], images.labels[: self.num_train])


@dataclass(frozen=True, kw_only=True)
class ImageSettings(ImageRunSettings, SelfTuningSettings):
    """Of cnn/hypertrain.py and cnn/train_basic.py. Raises UserError for what cannot be trained.

    min_lr: training stops below it.
    """

    RATE_FLAGS = ("train_lr", "lr_decay", "nonmono", "milestones")

    model: str = of_model("alexnet", "the network", one_of(*MODELS))
    elementary_scale: bool = of_model(
        False,
        "multiply elementary outputs by a learned scalar, one a layer, as the STN's published code does; "
        "hypertrain.py's default with --method stn",
        switches={"no_elementary_scale": (False, "no such scalars")},
    )
    width: float = of_model(1.0, "factor of every layer's channels; 1 is as published", width_factor, added=True)
    batch_norm: bool = of_model(False, "with vgg16, normalize what each convolution gives, batch by batch", added=True)
    total_epochs: int = of_training(500, "epochs, warm-up included", positive_int, "-totep", **LONGER)
    train_lr: float = of_training(0.01, "learning rate of the weights' SGD", positive, "-tlr")
    momentum: float = of_training(0.9, "momentum of the weights' SGD", rate, "-mom")
    lr_decay: float = of_training(0.1, "factor of the learning rate when it decays", fraction)
    milestones: tuple[int, ...] = of_training(
        [], "decay the learning rate after these epochs too", positive_int, metavar="EPOCH", many=True
    )
    flip: bool = of_training(
        False,
        "turn training images from left to right at random; alexnet's and vgg16's default by the recipe delta_stn",
        switches={"no_flip": (False, "leave them as they are")},
        added=True,
    )
    data_seed: int = of_training(
        None, "random seed of the images' order, drawn apart (default: --seed)", nonnegative_int, added=True
    )
    model_seed: int = of_training(
        None,
        "random seed of the weights and of what training draws, the images' order apart (default: --seed)",
        nonnegative_int,
        added=True,
    )

    warmup_epochs: int = of_tuning(5, "epochs before the hyperparameters start to train", nonnegative_int, "-wupep")
    valid_lr: float = of_tuning(3e-3, "learning rate of the hyperparameters", positive, "-vlr")
    tune_scales: bool = of_tuning(False, "tune the scales of the perturbation too", None, "-tscl")
    scale_lr: float = of_tuning(3e-3, "learning rate of the scales", positive, "-slr")
    train_steps: int = of_tuning(2, "weight steps in a row", positive_int, "-tstep")
    valid_steps: int = of_tuning(1, "hyperparameter steps in a row", positive_int, "-vstep")
    entropy_weight: float = of_tuning(
        1e-5, "weight of the perturbation's entropy, with --tune_scales", nonnegative, "-ewt"
    )

    dataset: str = of_machine(
        "cifar10",
        "the data set; each network has one of its own, and either implies the other",
        one_of(*(name for name, data_set in DATA_SETS.items() if data_set.models)),
    )
    normalize: bool = of_machine(
        True,
        "bring pixels to mean 0 and deviation 1 (the default but for simple_cnn)",
        switches={"no_normalize": (False, "pixels go from 0 to 1")},
        added=True,
    )
    experiment_name: str = of_machine(
        None, "what the run's folder is called first", folder_name, metavar="NAME", added=True
    )
    save: bool = of_machine(False, "keep the best model as model.pt; all else is logged in any case")
    min_lr: float = 1e-5  # as published, of hypertrain.py

    def __post_init__(self):
        super().__post_init__()
        if self.train_lr < self.min_lr:
            raise UserError(f"--train_lr {self.train_lr:g} is below {self.min_lr:g}, where training stops: raise it")
        if self.checkpoint_activations and not issubclass(MODELS[self.model], ConvNet):
            raise UserError(f"--model {self.model} has no convolutions: leave --checkpoint_activations out")

    def task(self, data: ImageSets, num_hyper: int) -> ImageClassification:
        with explaining_out_of_memory("model and images do not fit into memory: lower --width, or use another device"):
            if self.model_seed is not None:
                torch.manual_seed(self.model_seed)
            options = {"elementary_scale": self.elementary_scale, "width": self.width}
            options |= {name: True for name in ("batch_norm", "checkpoint_activations") if getattr(self, name)}
            model = MODELS[self.model](num_hyper, getattr(torch, self.dtype), **options).to(self.device)
            order = self.order_seed
            return ImageClassification(model, data, self.batch_size, self.device, flip=self.flip, seed=order)

    @property
    def order_seed(self) -> int | None:
        """Of the images' order, where that does not depend on the weights' seed; None where both are drawn from one."""
        if self.data_seed is None and self.model_seed is None:
            return None
        return self.seed if self.data_seed is None else self.data_seed

    def read_data(self) -> ImageSets:
        sets = super().read_data()
        return sets if self.normalize else replace(sets, normalization=AS_THEY_ARE)

    def plan(self, task: ImageClassification) -> Plan:
        _, steps_of_an_epoch = task.position
        alternation = self.warmup_epochs * steps_of_an_epoch, self.train_steps, self.valid_steps
        return Plan(self.total_epochs, *alternation, self.patience, self.checkpoint_seconds)

    def learning_rate(self, task: ImageClassification) -> LearningRate:  # noqa: ARG002
        if self.lr_schedule is not None:
            return Replayed(self.lr_schedule)
        if self.tune_lr is not None:
            return self.tuned_rate(self.train_lr, self.min_lr)
        return NonMonotonicDecay(self.train_lr, 1 / self.lr_decay, self.nonmono, self.milestones, self.min_lr)

    def trainer(
        self, task: ImageClassification, hyper: Hyperparameters, run: RunFolder, progress: Progress, stop: Stop
    ) -> Trainer:
        rates = {"lr": self.train_lr, "momentum": self.momentum, "hyper_lr": self.valid_lr, "scale_lr": self.scale_lr}
        scales = {"tune_scales": self.tune_scales, "entropy_weight": self.entropy_weight}
        method = self.method_of(task, hyper, **rates, **scales)
        recorder = Recorder(task, hyper, run, progress, self.log_interval, self.log_interval, average=True)
        return Trainer(task, hyper, method, self.learning_rate(task), recorder, self.plan(task), stop)

    @property
    def model_file(self) -> str | None:
        return "model.pt" if self.save else None


def _parent(logdir: str, folder: str, subdir: str) -> Path:
    """The folder of the runs, or of their subfolders where none is given; a relative one lies under the root."""
    return ROOT / logdir / folder / subdir


def model_of(values: Values) -> str:
    """The network that --model and --dataset stand for, where one of them is left at its default."""
    model, dataset = values["model"], values["dataset"]
    models = DATA_SETS[dataset].models
    return model if dataset == ImageSettings.dataset or model in models else models[0]


def fitting(values: Values) -> Values:
    """What --model and --dataset say of each other and of the split, where nobody decides otherwise."""
    model, named = model_of(values), values["dataset"]
    dataset = named if named in datasets_of(model) else datasets_of(model)[0]
    return {"model": model, "dataset": dataset, "percent_valid": DATA_SETS[dataset].percent_valid}


def refuse_misfit(values: Values, given: Collection[str]) -> None:
    """Raise UserError for a model that is not for the data set, or flags that it has no use for."""
    model, dataset = values["model"], values["dataset"]
    if dataset not in datasets_of(model):
        fit, others = " or ".join(datasets_of(model)), " or ".join(DATA_SETS[dataset].models)
        raise UserError(f"--model {model} is not for --dataset {dataset}: give --dataset {fit}, or --model {others}")
    if model != "vgg16":
        refuse_idle(given, {"batch_norm": "add --model vgg16"})


def run_names(values: Values, given: set[str]) -> Values:
    """How a new run's folder is called: by its flags, in a subfolder by the date unless one is given."""
    placing = {"logdir", "dir", "subdir", "model_loc", "data", "threads", "experiment_name"}
    words = [values["experiment_name"]] if "experiment_name" in given else []
    words += [values["label"]] if "label" in values else []  # of the run that this one follows
    for name in sorted(given - placing):
        value = str(values[name])
        short = value != "True" and re.fullmatch(r"[\w.-]+", value)
        words.append(f"{name}{value}" if short else name)
    return {"subdir": values["subdir"] or f"{date.today():%Y%m%d}", "label": "_".join(words) or "no_args"}
