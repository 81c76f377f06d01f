"""A training script's command line: a new run, one that goes on, or one that is only evaluated."""

import io
import signal
import threading
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext, redirect_stderr, redirect_stdout
from pathlib import Path
from typing import Any

from stn.errors import UserError
from stn.kernels.memory import keep_freed_memory
from stn.ranks import ALONE, Ranks, ranks_here
from stn.recorder import Unseen
from stn.runs.checkpoints import read_checkpoint
from stn.runs.folder import RunFolder
from stn.scripts import probes
from stn.scripts.course import evaluate_best, train
from stn.scripts.declared import Sources, Values
from stn.scripts.flags import Flag, refuse_idle
from stn.scripts.followed import Followed, opened
from stn.scripts.options import exit_status
from stn.scripts.output import Lines, complain
from stn.scripts.records import (
    read_config,
    record_of,
    refuse_other_runs,
    resumed_values,
    same_configuration,
    values_here,
)
from stn.scripts.screen import Screen
from stn.scripts.script import Script
from stn.scripts.settings import Data, Settings
from stn.scripts.signals import BROKEN_PIPE, Interrupt, Stopped


def run(script: Script, argv: list[str] | None = None) -> int:
    """Run the command line; the exit status: 0, 2 for what the user can mend, 128 + its signal where stopped."""
    hint = "a run that has begun to train continues with --resume"
    with told_in_lines(script.name):
        return exit_status(script.name, lambda: _told_once(script, argv), hint)


def _told_once(script: Script, argv: list[str] | None) -> int:
    """Run the command line; what ends it on several ranks is raised on one of them, which is to tell."""
    ranks = ranks_here()
    try:
        with ranks.warning_once():
            return _spelled(script, argv, ranks)
    except UserError as error:
        if ranks.tells_first(error):
            raise
        return 2
    except Stopped as stopped:
        if ranks.tells_first("stopped"):
            raise
        return stopped.status


def _spelled(script: Script, argv: list[str] | None, ranks: Ranks) -> int:
    """Run the command line, and raise what the user can mend in the script's own spelling."""
    try:
        return _run(script, argv, ranks)
    except UserError as error:
        if (message := script.respelled(str(error))) == str(error):
            raise
        raise UserError(message) from error


def _run(script: Script, argv: list[str] | None, ranks: Ranks) -> int:
    keep_freed_memory()
    given = parsed(script, argv, ranks)
    if ranks.size > 1:
        without = "start the script without torchrun"
        alone = f"ranks cannot share this; {without}"
        idle = {"find_hyper_lr": alone, "test": alone, "gpu": f"every rank takes a GPU of its own; {without}"}
        refuse_idle(given.keys(), idle)
    for course in ("resume", "test"):
        if {course, "config"} <= given.keys():
            raise UserError(f"--config starts a new run, --{course} takes one as it is: give one of them")
    if "find_hyper_lr" in given:
        return probes.search(script, given)
    if "test" in given:
        return test(script, given)
    if "resume" in given:
        return resume(script, given, ranks)
    return start(script, given, ranks)


def parsed(script: Script, argv: list[str] | None, ranks: Ranks) -> dict[str, Any]:
    """The flags given; the first rank alone tells what is wrong with them, or of --help."""
    try:
        with nullcontext() if ranks.first else unseen():
            return script.parse(argv)
    except SystemExit:
        ranks.wait()  # until the first one has told
        raise


@contextmanager
def unseen() -> Iterator[None]:
    """Within this context nothing that is printed is shown."""
    with redirect_stdout(io.StringIO()), redirect_stderr(io.StringIO()):
        yield


def start(script: Script, given: Mapping[str, Any], ranks: Ranks) -> int:
    """A new run; the exit status."""
    config, checksum = read_config(script, given)
    values, description, why = ranks.from_first(lambda: script.prepare(given, config, checksum))
    warn_without_gpu(script, given, values)
    settings, sources = made(script, values, ranks), script.sources(values)

    def create(data: Data) -> RunFolder:
        record = record_of(script, values, sources, data)
        seeded = "seed" in {**config, **given}
        with settings.new_folder(lambda other: same_configuration(script, record, other, seeded)) as path:
            run = RunFolder.create(path, record, values.get("overwrite", False))
        if schedule := values.get("load_schedule"):
            run.keep_schedule(Path(schedule))
        return run

    if ranks.size > 1:
        description += f", on {ranks.size} ranks that share every mini-batch"
    folder = lambda data: opened(ranks, lambda: create(data))  # noqa: E731
    return follow(script, settings, sources, folder, (description, why), ranks)


def resume(script: Script, given: Mapping[str, Any], ranks: Ranks) -> int:
    """Continue an unfinished run, or a finished one that may now train longer; the exit status."""
    lengthened = any(flag.name in given for flag in longer(script))
    with opened(ranks, lambda: RunFolder.open(script.find_run(given, unfinished=not lengthened))) as run:
        values = ranks.from_first(lambda: gone_on_with(script, given, run, lengthened))
        settings = made(script, values, ranks)
        return follow(script, settings, script.sources(values), lambda _: run, ranks=ranks)


def longer(script: Script) -> list[Flag]:
    """The flags that let a run go on for longer."""
    return [flag for flag in script.flags.values() if flag.lengthens]


def gone_on_with(script: Script, given: Mapping[str, Any], run: RunFolder, lengthened: bool) -> dict[str, Any]:
    """The values with which a run is resumed. Raises UserError where it cannot be."""
    kept = run.read_checkpoint().settings
    refuse_other_runs(script, kept)
    if run.status == "finished" and not lengthened:
        flags = " or ".join(f"--{flag.name}" for flag in longer(script))
        raise UserError(f"the run in {run.path} is finished: give more {flags} to train it on")
    values = resumed_values(script, run.path, run.settings, kept, given)
    values = script.chosen(values, script.make(values))
    warn_without_gpu(script, given, values)
    for name in ("device", "threads"):
        if values[name] != (before := kept[name]):
            change = f"{name} {values[name]} in place of {before}"
            complain(script.name, f"going on with {change}: the numbers' last digits may differ from here on")
    run.changes = {name: values[name] for name in script.changeable}
    return values


def made(script: Script, values: Values, ranks: Ranks) -> Settings:
    """The settings that the first rank's values stand for, on this rank's device."""
    return script.make({**values, "device": ranks.device(values["device"])})


def warn_without_gpu(script: Script, given: Mapping[str, Any], values: Values) -> None:
    if "gpu" in given and values["device"] == "cpu":
        complain(script.name, f"--gpu {given['gpu']}: PyTorch sees no GPU here, so that the run computes on the CPU")


def test(script: Script, given: Mapping[str, Any]) -> int:
    """Evaluate a run's best model without training or touching the run; the exit status."""
    idle = dict.fromkeys(script.changeable - {"data", "device", "threads", "gpu"}, "--test trains nothing")
    refuse_idle(given.keys() - {script.settings.cpu_flag}, idle)
    path = script.find_run(given, unfinished=False)
    checkpoint = read_checkpoint(path)
    values = values_here(script, path, checkpoint.settings, given)
    result = evaluate_best(script.make(values), script.sources(values), checkpoint.state)
    screen_of(script).result(result, f"of {path}")
    return 0


def screen_of(script: Script, *first_lines: str, at_end: Callable[[], None] = lambda: None) -> Screen:
    return Screen(script.settings.unit, *first_lines, lines=Lines(script.name), at_end=at_end)


def follow(
    script: Script,
    settings: Settings,
    sources: Sources,
    run: Callable[[Data], RunFolder | Followed],
    first_lines: Sequence[str] = (),
    ranks: Ranks = ALONE,
) -> int:
    """Train until done or interrupted; the exit status. first_lines: of a new run's screen."""
    with Interrupt() as interrupt:
        screen = screen_of(script, *first_lines, at_end=interrupt.release)
        shown = screen if ranks.first else Unseen()
        stop = lambda: interrupt.asked() or screen.lines.broken  # noqa: E731
        result = train(settings, sources, run, shown, stop, ranks=ranks)
    if ranks.first:
        screen.result(result, f"in {result.path}")
    ranks.wait()  # torchrun ends all when one has ended otherwise than well
    if result.completed:
        return 0
    return BROKEN_PIPE if screen.lines.broken else Stopped(interrupt.number or signal.SIGINT).status


@contextmanager
def told_in_lines(name: str) -> Iterator[None]:
    """Within this context warnings are lines of the script, and errors of TensorBoard's thread are not shown."""
    before = threading.excepthook, warnings.showwarning
    threading.excepthook = hide_write_errors
    warnings.showwarning = lambda message, *_, **__: complain(name, message)
    try:
        yield
    finally:
        threading.excepthook, warnings.showwarning = before


def hide_write_errors(failure: threading.ExceptHookArgs) -> None:
    """Hide what TensorBoard's thread cannot write: a later call raises the error again, and a warning says it."""
    if not isinstance(failure.exc_value, OSError):
        threading.__excepthook__(failure)
