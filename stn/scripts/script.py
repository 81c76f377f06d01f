"""From flags to a finished run: data, model, folder, training, result. Shared by all training scripts."""

import os
import random
import signal
from argparse import Namespace
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Protocol

import torch

from stn.bilevel import Task
from stn.errors import UserError
from stn.hyperparameters import Hyperparameters, Tuned
from stn.kernels import precision
from stn.kernels.memory import explaining_out_of_memory, keep_freed_memory
from stn.runs.checkpoints import read_checkpoint
from stn.runs.folder import SCHEDULE, RunFolder, read_settings
from stn.runs.provenance import provenance
from stn.schedules import Schedule
from stn.scripts.options import INTERRUPTED, OneLineParser, exit_status, parse, unfit
from stn.scripts.screen import Screen, say
from stn.training import Settings, Trainer, final_result, load_model

PARENT = "STN_PARENT"  # environment variable: the process that this one works for

Sources = Mapping[str, Tuned | Schedule]


class Data(Protocol):
    """What is trained on. checksum: tells it from other data."""

    checksum: str


class Experiment(Protocol):
    """What a family of scripts trains: its data, model and task, and where its runs lie."""

    family: str  # the scripts' folder, which tells those of one name apart: "lstm", "cnn"
    unit: str  # of what training goes through: "tokens", "images"
    measure: str  # what the screen shows of a score: "ppl", "acc"
    lengthening: ClassVar[set[str]]  # flags that let a finished run train longer
    alterable: ClassVar[set[str]]  # flags that a resumed run may change, these among them: none alters a step

    def device(self, args: Namespace) -> torch.device:
        """The device that the flags ask for. Raises UserError where it is not there."""

    def load(self, args: Namespace) -> tuple[Data, str]:
        """A new run's data and what to call it; sets args.data to where it was found."""

    def reload(self, args: Namespace) -> Data:
        """The data that a run was started on."""

    def locate(self, args: Namespace) -> str:
        """Where the data that --data names lies."""

    def task(self, args: Namespace, data: Any, num_hyper: int) -> Task:
        """Model and task, on args.device; UserError where they do not fit into memory."""

    def settings(self, args: Namespace, task: Any) -> Settings:
        """The training loop's."""

    def new_folder(self, args: Namespace) -> Path:
        """Where a new run is to be logged."""

    def find_run(self, args: Namespace, unfinished: bool) -> Path:
        """The run that --resume names, or else the newest, of those unfinished if so asked."""

    def model_file(self, args: Namespace) -> str | None:
        """The name under which the best model is saved in the run's folder, if it is to be."""

    def describe(self, data: Any) -> str:
        """A line on the data."""


@dataclass(frozen=True)
class Script:
    """A training script; those of one experiment differ in where the hyperparameters' values come from.

    parser: its command line. resolve: completes and checks the flags of a new run, in place, given the names of those
    that were given. sources: each hyperparameter's source, from a run's settings.
    """

    parser: OneLineParser
    resolve: Callable[[Namespace, set[str]], None]
    sources: Callable[[Namespace], Sources]
    experiment: Experiment

    def run(self, argv: list[str] | None = None) -> int:
        """Run the command line; the exit status: 0, 2 for what the user can mend, 130 where interrupted."""
        hint = "a run that has begun to train continues with --resume"
        return exit_status(self.parser.prog, lambda: self._run(argv), hint)

    def _run(self, argv: list[str] | None) -> int:
        keep_freed_memory()
        args, given = parse(self.parser, argv)
        args.script = f"{self.experiment.family}/{self.parser.prog}"
        if args.test:
            return self.test(args, given)
        if args.resume is not None:
            return self.resume(args, given)
        self.resolve(args, given)
        return self.start(args)

    def start(self, args: Namespace) -> int:
        """A new run, from its flags; the exit status."""
        if args.seed is None:
            args.seed = random.SystemRandom().randrange(2**32)
        data, description = self.experiment.load(args)
        device = self.experiment.device(args)
        dtype, why = precision.choose(args.dtype, device)
        settings = {
            **{name: value for name, value in vars(args).items() if name not in ("resume", "overwrite", "test")},
            "device": str(device),
            "dtype": str(dtype).removeprefix("torch."),
            "threads": args.threads or torch.get_num_threads(),
            "data_checksum": data.checksum,
            "ranges": {
                name: [*source.range] for name, source in self.sources(args).items() if isinstance(source, Tuned)
            },
            "versions": provenance(),
        }
        torch.set_num_threads(settings["threads"])
        torch.manual_seed(args.seed)
        # Before the folder is made: what cannot be built should leave no trace.
        overwrite, args = vars(args).get("overwrite", False), Namespace(**settings)
        hyper, task = self.build(args, data)
        with RunFolder.create(self.experiment.new_folder(args), settings, overwrite) as run:
            if schedule := settings.get("load_schedule"):
                run.keep_schedule(Path(schedule))
            self.introduce(description, data, hyper, task, run, why)
            return self.train(args, hyper, task, run)

    def resume(self, args: Namespace, given: set[str]) -> int:
        """Continue an unfinished run, or a finished one that may now train longer; the exit status."""
        longer = given & self.experiment.lengthening
        path = self.experiment.find_run(args, unfinished=not longer)
        with RunFolder.open(path) as run:
            if run.status == "finished" and not longer:
                flags = " or ".join(f"--{name}" for name in sorted(self.experiment.lengthening))
                raise UserError(f"the run in {path} is finished: give more {flags} to train it on")
            args = self.adopt(args, given, path)
            torch.set_num_threads(args.threads)
            data = self.reload(args)
            hyper, task = self.build(args, data)
            load_model(task, hyper, read_checkpoint(path))  # refuses another model's before the logs are cut back
            state = run.load_checkpoint()
            run.change_settings(
                {name: value for name, value in vars(args).items() if name in self.experiment.alterable}
            )
            where = f"resuming at epoch {state['epoch']}, weight step {state['train_step']}"
            self.introduce(where, data, hyper, task, run, "as before")
            return self.train(args, hyper, task, run, state)

    def test(self, args: Namespace, given: set[str]) -> int:
        """Evaluate a run's best model without training or touching the run; the exit status."""
        path = self.experiment.find_run(args, unfinished=False)
        args = self.adopt(args, given, path)
        args.device = str(self.experiment.device(args))
        torch.set_num_threads(args.threads)
        data = self.reload(args)
        hyper, task = self.build(args, data)
        state = read_checkpoint(path)
        load_model(task, hyper, state["best"] or state)
        report(final_result(task, hyper), f"{which_model(state['best'])}, of {path}")
        return 0

    def build(self, args: Namespace, data: Data) -> tuple[Hyperparameters, Task]:
        device = torch.device(args.device)
        if device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count():
            raise UserError(f"the run used {device}, which is not here: resume it where there is such a GPU")
        precision.use_tensor_cores()
        hyper = Hyperparameters(**self.sources(args)).to(device)
        return hyper, self.experiment.task(args, data, hyper.num_tuned)

    def reload(self, args: Namespace) -> Data:
        """The data that a run was started on. Raises UserError where it has changed."""
        data = self.experiment.reload(args)
        if data.checksum != args.data_checksum:
            raise UserError(f"{args.data} does not hold what the run was started on: restore it, or start a new run")
        return data

    def adopt(self, args: Namespace, given: set[str], path: Path) -> Namespace:
        """The settings of the run that goes on, with what may change taken from the flags that were given.

        Raises UserError that names every other flag given with another value than the run's.
        """
        settings = read_settings(path)
        if "overwrite" in given:
            raise UserError("--overwrite redoes a run, --resume and --test take one as it is: give one of them")
        unchanging = self.experiment.alterable | {"resume", "overwrite", "test"}
        needed = {*vars(args), "device", "dtype", "data_checksum"} - unchanging
        if (script := str(settings.get("script", args.script))) != args.script:
            remedy = "go on with that" if "/" in script else "it is of another version, start a new run"
            raise UserError(f"the run is one of {script}, not of {args.script}: {remedy}")
        if missing := sorted(needed - settings.keys()):
            raise UserError(
                f"the run's args.yaml lacks {', '.join(missing[:3])}{', …' if missing[3:] else ''}: it is of another "
                "version, start a new run"
            )
        if settings["dtype"] not in precision.TYPES:
            raise UserError(f"the run computes in {settings['dtype']}, which this version does not: start a new run")
        if (name := unfit(self.parser, settings)) or not is_device(settings[name := "device"]):
            raise UserError(f"the run's args.yaml says {name}: {settings[name]!r}: mend it, or start a new run")
        if "data" in given:
            args.data = self.experiment.locate(args)
        free = self.experiment.alterable | {"resume", "test", "data"}
        differing = [
            f"--{name} {getattr(args, name)} (the run has {settings[name]})"
            for name in sorted(given - free)
            if getattr(args, name) != settings[name]
        ]
        if differing:
            raise UserError(f"cannot continue with {', '.join(differing)}: leave that out, or start a new run")
        changes = {name: getattr(args, name) for name in given & (self.experiment.alterable | {"data"})}
        if settings.get("load_schedule"):
            changes["load_schedule"] = str(path / SCHEDULE)
        defaults = {name: value for name, value in vars(args).items() if name in self.experiment.alterable}
        return Namespace(**{**defaults, **settings, **changes})

    def introduce(
        self, description: str, data: Data, hyper: Hyperparameters, task: Task, run: RunFolder, why_dtype: str
    ) -> None:
        """The run's first lines: what is trained on what, where, and where it is logged."""
        weights = sum(weight.numel() for weight in task.model.parameters())
        settings = run.settings
        say(description)
        say(self.experiment.describe(data))
        say(f"{weights:,} weights; tuned: {', '.join(hyper.columns) or 'nothing'}")
        for schedule, names in changing_schedules(hyper).items():
            say(f"{', '.join(names)}: {schedule}")
        say(f"{settings['device']}, {settings['threads']} CPU threads, seed {settings['seed']}")
        say(f"products in {settings['dtype']}, {why_dtype}")
        say(f"logs in {run.path}")

    def train(
        self, args: Namespace, hyper: Hyperparameters, task: Task, run: RunFolder, state: dict | None = None
    ) -> int:
        """Train, from a checkpoint's state if given, and leave the best model's result; the exit status."""
        screen = Screen(hyper.changing, self.experiment.unit, self.experiment.measure)
        interrupt = Interrupt()
        try:
            with interrupt, explaining_out_of_memory("out of memory: start a run of a smaller model or --batch_size"):
                settings = self.experiment.settings(args, task)
                trainer = Trainer(task, hyper, settings, run, screen, stop=interrupt.asked)
                if state is not None:
                    trainer.load_state_dict(state)
                completed = trainer.train()
            screen.close()
            if not completed:
                say("interrupted: evaluating the best model (Ctrl-C again to skip it); continue with --resume")
            trainer.load_best()
            if file := self.experiment.model_file(args):
                run.save_model({"model": task.model.state_dict(), "hyper": hyper.state_dict()}, file)
            result = final_result(task, hyper)
            run.write_result(result)
        except BaseException as error:
            screen.close()
            with suppress(UserError):
                run.mark("interrupted" if isinstance(error, KeyboardInterrupt) else "failed")
            raise
        run.mark("finished" if completed else "interrupted")
        report(result, f"{which_model(trainer.best)}, in {run.path}")
        return 0 if completed else INTERRUPTED


def is_device(name: object) -> bool:
    try:
        return isinstance(name, str) and torch.device(name).type in ("cpu", "cuda")
    except RuntimeError:
        return False


def which_model(best: Mapping | None) -> str:
    return "best model" if best else "current model, as no epoch has ended yet"


class Interrupt:
    """Within its context the first Ctrl-C asks for a stop, and a second one stops at once.

    So does the end of the process that PARENT names, if any, which then cannot pass a Ctrl-C on.
    """

    def __init__(self):
        self._asked = False

    def asked(self) -> bool:
        parent = os.environ.get(PARENT)
        return self._asked or (parent is not None and parent != str(os.getppid()))

    def __enter__(self) -> None:
        self._previous = signal.signal(signal.SIGINT, self._ask)

    def __exit__(self, *error: object) -> None:
        signal.signal(signal.SIGINT, self._previous)

    def _ask(self, *_: object) -> None:
        self._asked = True
        signal.signal(signal.SIGINT, self._previous)


def choose_device(use_cuda: bool, gpu: int = 0) -> torch.device:
    """The GPU asked for where there is one, else the CPU. Raises UserError for a GPU that is not there."""
    if not use_cuda or not torch.cuda.is_available():
        return torch.device("cpu")
    if gpu >= torch.cuda.device_count():
        raise UserError(f"--gpu {gpu}: there are {torch.cuda.device_count()} GPUs, counted from 0")
    return torch.device("cuda", gpu)


def changing_schedules(hyper: Hyperparameters) -> dict[str, list[str]]:
    """In words, each schedule that is not constant, and the hyperparameters that follow it."""
    schedules = {}
    for name in hyper.changing:
        if name in hyper.schedules:
            schedules.setdefault(str(hyper.schedules[name]), []).append(name)
    return schedules


def report(result: Mapping[str, float], what: str) -> None:
    """A line on a result: "best model: valid loss 4.2500, ppl 70.11; test loss …"."""
    scores = {"valid": [], "test": []}
    for name, value in result.items():
        split, _, measure = name.partition("_")
        scores["valid" if split == "val" else split].append(in_words(measure, value))
    splits = [f"{split} {', '.join(words)}" for split, words in scores.items()]
    say(f"{what}: {'; '.join(splits)}")


def in_words(measure: str, value: float) -> str:
    return {"loss": f"loss {value:.4f}", "ppl": f"ppl {value:.2f}", "acc": f"accuracy {value:.2%}"}[measure]
