"""Runs of training scripts as processes: started, continued or found finished, several at once."""

import math
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from contextlib import contextmanager
from dataclasses import dataclass
from graphlib import TopologicalSorter
from pathlib import Path

import pandas

from stn.errors import UserError
from stn.runs.folder import read_settings, read_status, wait_until_free
from stn.scripts.options import INTERRUPTED, ROOT
from stn.scripts.output import say
from stn.scripts.script import PARENT, Script

PATIENCE = 30.0  # seconds that a killed process's orphan gets to let go of its run


@dataclass(frozen=True)
class Job:
    """A run of a training script.

    place: values of the flags that say where the run lies and on what data, by name. flags: gives what else the run is
    started with, once the jobs in `needs` are finished. threads: how many CPU threads a new run gets; one that is
    continued keeps its own.
    """

    name: str
    script: Script
    place: Mapping[str, str]
    flags: Callable[[], list[str]]
    threads: int = 1
    needs: tuple[str, ...] = ()

    @property
    def path(self) -> Path | None:
        """The newest run that is there, if any."""
        try:
            return self.script.find_run(self.place, unfinished=False)
        except UserError:
            return None

    @property
    def finished(self) -> bool:
        return self.path is not None and read_status(self.path) == "finished"

    def command(self, overwrite: bool) -> list[str] | None:
        """How to start the run anew or to continue it; None where it is finished.

        Raises UserError where the run that is there has other settings.
        """
        module = [sys.executable, "-m", self.script.module]
        path = self.path
        redo = ["--overwrite"] if "overwrite" in self.script.defaults() else []
        start = [*module, *self.new_flags(), "--threads", str(self.threads), *redo]
        if overwrite or path is None:
            return start
        self.refuse_other_settings(path)
        if read_status(path) == "finished":
            return None
        wait_until_free(path, PATIENCE)
        return [*module, "--resume", str(path)] if (path / "checkpoint.pt").exists() else start

    def new_flags(self) -> list[str]:
        return [*self.flags(), *(word for name, value in self.place.items() for word in (f"--{name}", value))]

    def refuse_other_settings(self, path: Path) -> None:
        """Raise UserError where a run was not made with these flags, on this data and schedule."""
        given = self.script.parse(self.new_flags())
        values, _, _ = self.script.prepare(given)
        wanted = {name: values[name] for name in given.keys() - self.place.keys() - {"load_schedule"}}
        wanted["data_checksum"] = self.script.make(values).load().checksum
        if "schedule_checksum" in values:
            wanted["schedule_checksum"] = values["schedule_checksum"]
        settings = read_settings(path)
        other = [name for name, value in sorted(wanted.items()) if settings.get(name) != value]
        if other:
            raise UserError(
                f"{path} was made with another {', '.join(other)}: remove that folder and start again, "
                "or redo all with --overwrite"
            )

    def start(self, command: list[str]) -> subprocess.Popen:
        """The process of the command that finishes the run."""
        return subprocess.Popen(
            command,
            cwd=ROOT,
            env={**os.environ, PARENT: str(os.getpid())},
            text=True,
            errors="replace",
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            process_group=0,  # a terminal's Ctrl-C reaches it through `finish` alone, and once
        )

    def follow(self, process: subprocess.Popen) -> None:
        """Show the process's lines behind the run's name until it ends.

        Raises UserError with the last line where it failed, KeyboardInterrupt where it was interrupted.
        """
        last = "no word from it"
        for line in process.stdout:
            if line.strip():
                last = line.strip()
                say(f"{self.name} | {line.rstrip()}")
        status = process.wait()
        if status in (INTERRUPTED, -signal.SIGINT):
            raise KeyboardInterrupt
        if status:
            raise UserError(f"the run {self.name} failed: {last}")

    def result(self) -> pandas.Series:
        """The row of result.csv. Raises UserError where it is missing, cut off or holds no numbers."""
        try:
            row = pandas.read_csv(self.path / "result.csv", dtype=float).iloc[0]
        except (OSError, ValueError, IndexError) as error:
            raise UserError(f"{self.path} has no readable result.csv: remove that folder and start again") from error
        if any(map(math.isnan, row)):
            raise UserError(f"{self.path}/result.csv is cut off: remove that folder and start again")
        return row


def finish(jobs: Iterable[Job], at_once: int, overwrite: bool = False, done: Callable[[], None] = lambda: None) -> None:
    """Run what is not finished yet, `at_once` at a time, each after those that it needs.

    done: called after each that was not finished before. Where one fails, those that do not need it still run; then
    UserError is raised with the first failure's message. On Ctrl-C the processes are stopped, each with a checkpoint.
    """
    with _Crew(jobs, at_once, overwrite) as crew:
        while crew.start():
            for _ in range(crew.collect()):
                done()
    if crew.failures:
        others = f" (and {len(crew.failures) - 1} more failed)" if len(crew.failures) > 1 else ""
        raise UserError(crew.failures[0] + others)


@contextmanager
def held_interrupt() -> Iterator[None]:
    """Ctrl-C takes effect only when this is over: a process that was just started must not be forgotten."""
    asked = []
    previous = signal.signal(signal.SIGINT, lambda *_: asked.append(True))
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, previous)
    if asked:
        signal.raise_signal(signal.SIGINT)


class _Crew:
    """The processes of some jobs; leaving its context with an exception interrupts those under way."""

    def __init__(self, jobs: Iterable[Job], at_once: int, overwrite: bool):
        self.jobs = {job.name: job for job in jobs}
        self.at_once, self.overwrite = at_once, overwrite
        self.order = TopologicalSorter({name: job.needs for name, job in self.jobs.items()})
        self.order.prepare()
        self.waiting: list[str] = []
        self.running: dict[Future, tuple[str, subprocess.Popen]] = {}
        self.failures: list[str] = []
        self.pool = ThreadPoolExecutor(at_once)

    def start(self) -> bool:
        """Start what can be; whether anything runs. What is left otherwise, if anything, needs what failed."""
        self.waiting += self.order.get_ready()
        while self.waiting and len(self.running) < self.at_once:
            self.start_one(self.waiting.pop(0))
        return bool(self.running)

    def start_one(self, name: str) -> None:
        job = self.jobs[name]
        try:
            command = job.command(self.overwrite)
        except UserError as error:
            self.failures.append(str(error))
            return
        if command is None:
            say(f"{name}: already finished, in {job.path} (--overwrite redoes it)")
            self.order.done(name)
            self.waiting += self.order.get_ready()
            return
        with held_interrupt():
            process = job.start(command)
            self.running[self.pool.submit(job.follow, process)] = name, process

    def collect(self) -> int:
        """Wait until one ends; how many have ended well."""
        ended = wait(self.running, return_when=FIRST_COMPLETED).done
        names = {future: self.running.pop(future)[0] for future in ended}
        failed = 0
        for future, name in names.items():
            try:
                future.result()
                self.order.done(name)
            except UserError as error:
                self.failures.append(str(error))
                failed += 1
        return len(ended) - failed

    def __enter__(self) -> "_Crew":
        return self

    def __exit__(self, error: object, *_: object) -> None:
        if error is not None:
            for _name, process in self.running.values():
                process.send_signal(signal.SIGINT)
        self.pool.shutdown()
