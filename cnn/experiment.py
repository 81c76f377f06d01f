"""What the image-classification scripts train: image sets, a convolutional network, and where their runs lie."""

from argparse import Namespace
from datetime import date, datetime
from itertools import chain, count
from pathlib import Path

import torch

from cnn.models import MODELS
from cnn.task import ImageClassification
from stn.datasets import builtin_images, images
from stn.datasets.images import ImageSets
from stn.errors import UserError
from stn.files import explaining_os_errors
from stn.kernels.memory import explaining_out_of_memory
from stn.runs.folder import read_status
from stn.scripts.options import ROOT, find
from stn.scripts.script import choose_device
from stn.training import Settings

CIFAR10 = ROOT / "data" / "cifar10"
BUILTIN = "builtin"
LONGEST_LABEL = 150  # characters of a folder's name that tell a run's flags


class ImageExperiment:
    """An `Experiment`; its flags are those of cnn/flags.py.

    min_lr: training stops below it.
    """

    family = "cnn"
    unit = "images"
    measure = "acc"
    lengthening = frozenset({"total_epochs", "patience"})
    alterable = lengthening | {"log_interval", "checkpoint_seconds"}

    def __init__(self, min_lr: float):
        self.min_lr = min_lr

    def device(self, args: Namespace) -> torch.device:
        return choose_device(not args.no_cuda)

    def load(self, args: Namespace) -> tuple[ImageSets, str]:
        if args.train_lr < self.min_lr:
            raise UserError(f"--train_lr {args.train_lr:g} is below {self.min_lr:g}, where training stops: raise it")
        missing = args.data is None and not CIFAR10.exists()
        args.data = self.locate(args)
        sets = self.reload(args)
        if missing:
            return sets, "no data/cifar10 (./getdata.sh cifar10 fetches it): using the built-in images"
        return sets, "built-in images" if args.data == BUILTIN else f"CIFAR-10 in {args.data}"

    def reload(self, args: Namespace) -> ImageSets:
        if args.data == BUILTIN:
            (train, test), classes = builtin_images.builtin_images(), builtin_images.CLASSES
        else:
            (train, test), classes = images.load_cifar10(find(args.data, "--data")), images.CIFAR10_CLASSES
        sets = images.load_image_sets(train, test, args.percent_valid, classes)
        for name, split, change in (("training", sets.train, "lower"), ("validation", sets.valid, "raise")):
            if args.batch_size > len(split):
                cause = f"--batch_size {args.batch_size} is more than the {len(split)} {name} images"
                raise UserError(f"{cause}: lower it, or {change} --percent_valid")
        return sets

    def locate(self, args: Namespace) -> str:
        if args.data == BUILTIN or (args.data is None and not CIFAR10.exists()):
            return BUILTIN
        return str(find(args.data, "--data") if args.data else CIFAR10)

    def task(self, args: Namespace, data: ImageSets, num_hyper: int) -> ImageClassification:
        with explaining_out_of_memory("model and images do not fit into memory: try --model small"):
            model = MODELS[args.model](num_hyper, getattr(torch, args.dtype)).to(args.device)
            return ImageClassification(model, data, args.batch_size, args.device)

    def settings(self, args: Namespace, task: ImageClassification) -> Settings:
        steps_of_an_epoch = task.position[1]
        tuning = vars(args).keys() & {"train_steps", "tune_scales", "scale_lr", "entropy_weight"}
        return Settings(
            epochs=args.total_epochs,
            lr=args.train_lr,
            warmup_steps=vars(args).get("warmup_epochs", 0) * steps_of_an_epoch,
            val_steps=vars(args).get("valid_steps", 1),
            hyper_lr=vars(args).get("valid_lr", 1.0),
            momentum=args.momentum,
            nonmono=args.nonmono,
            lr_decay=1 / args.lr_decay,
            milestones=tuple(args.milestones),
            min_lr=self.min_lr,
            patience=args.patience,
            train_log_interval=args.log_interval,
            val_log_interval=args.log_interval,
            average_logs=True,
            checkpoint_seconds=args.checkpoint_seconds,
            **{name: getattr(args, name) for name in tuning},
        )

    def new_folder(self, args: Namespace) -> Path:
        folder = self._parent(args) / f"{args.label[:LONGEST_LABEL]}_{datetime.now():%H:%M:%S}"
        others = (folder.with_name(f"{folder.name}_{number}") for number in count(2))
        with explaining_os_errors(folder):
            return next(path for path in chain([folder], others) if not path.exists())

    def find_run(self, args: Namespace, unfinished: bool) -> Path:
        if args.resume:
            return find(args.resume, "the run")
        parent = self._parent(args)
        with explaining_os_errors(parent, "read"):
            settings = sorted(parent.glob("**/args.yaml"), key=lambda file: file.stat().st_mtime)
        runs = [file.parent for file in settings if not unfinished or read_status(file.parent) != "finished"]
        if not runs:
            kind = "no unfinished run" if unfinished else "no run"
            raise UserError(f"there is {kind} in {parent}: check --logdir and the folders in it, or name the run's")
        return runs[-1]

    def model_file(self, args: Namespace) -> str | None:
        return "model.pt" if args.save else None

    def describe(self, data: ImageSets) -> str:
        return (
            f"{len(data.train):,} / {len(data.valid):,} / {len(data.test):,} images to train, validate and test, "
            f"{len(data.classes)} classes"
        )

    def _parent(self, args: Namespace) -> Path:
        """The folder of the runs, or of their subfolders where none is given; a relative one lies under the root."""
        return ROOT / args.logdir / args.dir / args.subdir


def name_run(args: Namespace, given: set[str]) -> None:
    """What a new run's folder is called, in place: its subfolder by the date unless given, itself by the flags."""
    args.subdir = args.subdir or f"{date.today():%Y%m%d}"
    args.label = label(args, given)


def label(args: Namespace, given: set[str]) -> str:
    """A run's flags as part of a folder's name: those given, with their values where these are short."""
    placing = {"logdir", "dir", "subdir", "data", "threads"}
    words = []
    for name in sorted(given - placing):
        value = str(getattr(args, name))
        words.append(name if value == "True" or not value.replace(".", "").replace("-", "").isalnum() else name + value)
    return "_".join(words) or "no_args"
