"""From flags to a finished run: data, model, folder, training, result. Shared by the language-model scripts."""

import os
import random
import signal
from argparse import Namespace
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, fields
from datetime import date
from pathlib import Path

import torch

from lstm.model import AWDLSTM
from lstm.options import ALTERABLE, INTERRUPTED, PTB, ROOT, OneLineParser, exit_status, find, parse
from lstm.progress import Screen, say
from lstm.task import LanguageModeling
from stn import precision
from stn.datasets.builtin_text import write_builtin_corpus
from stn.datasets.text import Corpus, load_corpus
from stn.errors import UserError
from stn.hyperparameters import Hyperparameters, Tuned
from stn.memory import keep_freed_memory
from stn.runs import (
    SCHEDULE,
    RunFolder,
    newest_run,
    newest_unfinished,
    provenance,
    read_checkpoint,
    read_settings,
    run_path,
)
from stn.schedules import Schedule
from stn.training import Settings, Trainer, final_result, load_model

MIN_LR = 0.0003  # as published: below it training stops
PARENT = "STN_PARENT"  # environment variable: the process that this one works for


@dataclass(frozen=True)
class Script:
    """A training script; scripts differ in where the hyperparameters' values come from, and in nothing else.

    parser: its command line. resolve: completes and checks the flags of a new run, in place, given the names of those
    that were given. sources: each hyperparameter's source, from a run's settings.
    """

    parser: OneLineParser
    resolve: Callable[[Namespace, set[str]], None]
    sources: Callable[[Namespace], dict[str, Tuned | Schedule]]

    def run(self, argv: list[str] | None = None) -> int:
        """Run the command line; the exit status: 0, 2 for what the user can mend, 130 where interrupted."""
        hint = "a run that has begun to train continues with --resume"
        return exit_status(self.parser.prog, lambda: self._run(argv), hint)

    def _run(self, argv: list[str] | None) -> int:
        keep_freed_memory()
        args, given = parse(self.parser, argv)
        args.script = self.parser.prog
        if args.test:
            return self.test(args, given)
        if args.resume is not None:
            return self.resume(args, given)
        self.resolve(args, given)
        return self.start(args)

    def start(self, args: Namespace) -> int:
        """A new run, from its flags; the exit status."""
        if args.lr < MIN_LR:
            raise UserError(f"--lr {args.lr:g} is below {MIN_LR:g}, where training stops: give a higher one")
        if args.seed is None:
            args.seed = random.SystemRandom().randrange(2**32)
        folder, description = locate_corpus(args.data)
        corpus = load_corpus(folder)
        path = run_path(ROOT / "logs" / args.save_dir, args.prefix, date.today())
        device = choose_device(args)
        dtype, why = precision.choose(args.dtype, device)
        args.data = str(folder)
        settings = {
            **{name: value for name, value in vars(args).items() if name not in ("resume", "overwrite", "test")},
            "device": str(device),
            "dtype": str(dtype).removeprefix("torch."),
            "threads": args.threads or torch.get_num_threads(),
            "data_checksum": corpus.checksum,
            "ranges": {
                name: [*source.range] for name, source in self.sources(args).items() if isinstance(source, Tuned)
            },
            "versions": provenance(),
        }
        torch.set_num_threads(settings["threads"])
        torch.manual_seed(args.seed)
        # Before the folder is made: what cannot be built should leave no trace.
        hyper, task = self.build(Namespace(**settings), corpus)
        with RunFolder.create(path, settings, args.overwrite) as run:
            if schedule := vars(args).get("load_schedule"):
                run.keep_schedule(Path(schedule))
            introduce(description, corpus, hyper, task, run, why)
            return train(args, hyper, task, run)

    def resume(self, args: Namespace, given: set[str]) -> int:
        """Continue an unfinished run, or a finished one that may now train longer; the exit status."""
        longer = given & {"epochs", "patience"}
        path = find_run(args, newest_run if longer else newest_unfinished)
        with RunFolder.open(path) as run:
            if run.status == "finished" and not longer:
                raise UserError(f"the run in {path} is finished: give more --epochs or --patience to train it on")
            args = adopt(args, given, path)
            torch.set_num_threads(args.threads)
            corpus = reload_corpus(args)
            hyper, task = self.build(args, corpus)
            load_model(task, hyper, read_checkpoint(path))  # refuses another model's before the logs are cut back
            state = run.load_checkpoint()
            run.change_settings({name: value for name, value in vars(args).items() if name in ALTERABLE})
            where = f"resuming at epoch {state['epoch']}, weight step {state['train_step']}"
            introduce(where, corpus, hyper, task, run, "as before")
            return train(args, hyper, task, run, state)

    def test(self, args: Namespace, given: set[str]) -> int:
        """Evaluate a run's best model without training or touching the run; the exit status."""
        path = find_run(args, newest_run)
        args = adopt(args, given, path)
        args.device = str(choose_device(args))
        torch.set_num_threads(args.threads)
        corpus = reload_corpus(args)
        hyper, task = self.build(args, corpus)
        state = read_checkpoint(path)
        load_model(task, hyper, state["best"] or state)
        report(final_result(task, hyper), f"{which_model(state['best'])}, of {path}")
        return 0

    def build(self, args: Namespace, corpus: Corpus) -> tuple[Hyperparameters, LanguageModeling]:
        device = torch.device(args.device)
        if device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count():
            raise UserError(f"the run used {device}, which is not here: resume it where there is such a GPU")
        val_penalties = vars(args).get("val_penalties", False)  # of hyperparameter steps, where there are any
        hyper = Hyperparameters(**self.sources(args)).to(device)
        try:
            sizes = len(corpus.vocabulary), args.emsize, args.nhid, args.nlayers, hyper.num_tuned
            model = AWDLSTM(*sizes, dtype=getattr(torch, args.dtype)).to(device)
        except (RuntimeError, MemoryError) as error:
            raise UserError("the model does not fit into memory: lower --emsize, --nhid or --nlayers") from error
        return hyper, LanguageModeling(model, corpus, args.batch_size, args.bptt, val_penalties, device)


def find_run(args: Namespace, newest: Callable[[Path, str | None], Path]) -> Path:
    """The run that --resume names, or else the newest of this --save_dir and --prefix."""
    return find(args.resume, "the run") if args.resume else newest(ROOT / "logs" / args.save_dir, args.prefix)


def loop_settings(args: Namespace) -> Settings:
    """The loop's settings, which bear the flags' names."""
    names = {field.name for field in fields(Settings)} & vars(args).keys()
    return Settings(min_lr=MIN_LR, **{name: getattr(args, name) for name in names})


def train(
    args: Namespace, hyper: Hyperparameters, task: LanguageModeling, run: RunFolder, state: dict | None = None
) -> int:
    """Train, from a checkpoint's state if given, and leave the best model's result in the folder; the exit status."""
    screen, interrupt = Screen(hyper.changing), Interrupt()
    try:
        with interrupt:
            trainer = Trainer(task, hyper, loop_settings(args), run, screen, stop=interrupt.asked)
            if state is not None:
                trainer.load_state_dict(state)
            completed = trainer.train()
        screen.close()
        if not completed:
            say("interrupted: evaluating the best model (Ctrl-C again to skip it); continue with --resume")
        trainer.load_best()
        run.save_model({"model": task.model.state_dict(), "hyper": hyper.state_dict()}, args.save)
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


def choose_device(args: Namespace) -> torch.device:
    """The GPU asked for where there is one, else the CPU. Raises UserError for a GPU that is not there."""
    if args.disable_cuda or not torch.cuda.is_available():
        return torch.device("cpu")
    if args.gpu >= torch.cuda.device_count():
        raise UserError(f"--gpu {args.gpu}: there are {torch.cuda.device_count()} GPUs, counted from 0")
    return torch.device("cuda", args.gpu)


def locate_corpus(data: str | None) -> tuple[Path, str]:
    """The corpus's folder and what to call it. data: what --data says, None where it was not given."""
    if data is None and not PTB.exists():
        folder = write_builtin_corpus(ROOT / "data" / "builtin")
        return folder, "no data/penn (./getdata.sh fetches it): using the built-in corpus"
    if data == "builtin":
        return write_builtin_corpus(ROOT / "data" / "builtin"), "built-in corpus"
    folder = find(data, "--data") if data else PTB
    return folder, f"corpus {folder}"


def reload_corpus(args: Namespace) -> Corpus:
    """The corpus that a run was started on. Raises UserError where it has changed."""
    corpus = load_corpus(find(args.data, "the run's --data"))
    if corpus.checksum != args.data_checksum:
        raise UserError(f"the text in {args.data} is not what the run was started on: restore it, or start a new run")
    return corpus


def adopt(args: Namespace, given: set[str], path: Path) -> Namespace:
    """The settings of the run that goes on, with what may change taken from the flags that were given.

    Raises UserError that names every other flag given with another value than the run's.
    """
    settings = read_settings(path)
    if "overwrite" in given:
        raise UserError("--overwrite redoes a run, --resume and --test take one as it is: give one of them")
    needed = {*vars(args), "device", "dtype", "data_checksum"} - {"resume", "overwrite", "test"}
    if (script := settings.get("script", args.script)) != args.script:
        raise UserError(f"the run is one of {script}: go on with that")
    if missing := sorted(needed - settings.keys()):
        raise UserError(
            f"the run's args.yaml lacks {', '.join(missing[:3])}{', …' if missing[3:] else ''}: it is of another "
            "version, start a new run"
        )
    if settings["dtype"] not in precision.TYPES:
        raise UserError(f"the run computes in {settings['dtype']}, which this version does not: start a new run")
    if "data" in given:
        args.data = str(locate_corpus(args.data)[0])
    free = {*ALTERABLE, "resume", "test", "data"}
    differing = [
        f"--{name} {getattr(args, name)} (the run has {settings[name]})"
        for name in sorted(given - free)
        if getattr(args, name) != settings[name]
    ]
    if differing:
        raise UserError(f"cannot continue with {', '.join(differing)}: leave that out, or start a new run")
    changes = {name: getattr(args, name) for name in given & {*ALTERABLE, "data"}}
    if settings.get("load_schedule"):
        changes["load_schedule"] = str(path / SCHEDULE)
    return Namespace(**{**settings, **changes})


def introduce(
    description: str, corpus: Corpus, hyper: Hyperparameters, task: LanguageModeling, run: RunFolder, why_dtype: str
) -> None:
    """The run's first lines: what is trained on what, where, and where it is logged."""
    weights = sum(weight.numel() for weight in task.model.parameters())
    settings = run.settings
    say(description)
    say(
        f"{len(corpus.train):,} / {len(corpus.valid):,} / {len(corpus.test):,} tokens to train, validate and test, "
        f"{len(corpus.vocabulary):,} types"
    )
    say(f"{weights:,} weights; tuned: {', '.join(hyper.columns) or 'nothing'}")
    for schedule, names in changing_schedules(hyper).items():
        say(f"{', '.join(names)}: {schedule}")
    say(f"{settings['device']}, {settings['threads']} CPU threads, seed {settings['seed']}")
    say(f"products in {settings['dtype']}, {why_dtype}")
    say(f"logs in {run.path}")


def changing_schedules(hyper: Hyperparameters) -> dict[str, list[str]]:
    """In words, each schedule that is not constant, and the hyperparameters that follow it."""
    schedules = {}
    for name in hyper.changing:
        if name in hyper.schedules:
            schedules.setdefault(str(hyper.schedules[name]), []).append(name)
    return schedules


def report(result: Mapping[str, float], what: str) -> None:
    say(
        f"{what}: valid loss {result['val_loss']:.4f}, ppl {result['val_ppl']:.2f}; "
        f"test loss {result['test_loss']:.4f}, ppl {result['test_ppl']:.2f}"
    )
