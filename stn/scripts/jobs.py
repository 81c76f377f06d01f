"""Runs of training scripts as processes: started, continued or found finished, several at once."""

import math
import os
import subprocess
import sys
from argparse import ArgumentParser
from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from dataclasses import dataclass
from graphlib import TopologicalSorter
from pathlib import Path

import pandas

from stn.errors import UserError
from stn.runs.folder import read_settings, read_status, wait_until_free
from stn.runs.history import LEAVE_OUT, Run, read_run
from stn.scripts.options import ROOT, named, positive_int
from stn.scripts.output import Lines, say
from stn.scripts.script import Script
from stn.scripts.signals import BROKEN_PIPE, ENDING, PARENT, Stopped, held_back

PATIENCE = 30.0  # seconds that a killed process's orphan gets to let go of its run
STOPPED = {BROKEN_PIPE, *(Stopped(number).status for number in ENDING), *(-number for number in ENDING)}


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
        module = [sys.executable, "-m", self.script.path.removesuffix(".py").replace("/", ".")]
        path = self.path
        redo = ["--overwrite"] if "overwrite" in self.script.defaults() else []
        start = [*module, *self.new_flags(), "--threads", str(self.threads), *redo]
        if overwrite or path is None:
            return start
        self.refuse_other_settings(path)
        if self.finished:
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
            cause = f"{path} was made with another {', '.join(other)}"
            raise UserError(f"{cause}: remove that folder and start again, or redo all with --overwrite")

    def start(self, command: list[str]) -> subprocess.Popen:
        """The process of the command that finishes the run."""
        environment = {**os.environ, PARENT: str(os.getpid())}
        output = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "text": True, "errors": "replace"}
        # In a group of its own a terminal's Ctrl-C reaches it through `finish` alone, and once.
        return subprocess.Popen(command, cwd=ROOT, env=environment, process_group=0, **output)

    def follow(self, process: subprocess.Popen, lines: Lines) -> None:
        """Show the process's lines behind the run's name until it ends; stop it where nobody reads them any more.

        Raises UserError with the last line where it failed, KeyboardInterrupt where it was stopped.
        """
        last = "no word from it"
        for line in process.stdout:
            if line.strip():
                last = line.strip()
                lines.say(f"{self.name} | {line.rstrip()}")
            if lines.broken:
                process.terminate()
                process.communicate()  # to the end, lest it waits for a reader
        status = process.wait()
        if status in STOPPED:
            raise KeyboardInterrupt
        if status:
            raise UserError(f"the run {self.name} failed: {last}")

    def read(self, names: Iterable[str]) -> Run:
        """The run read back; names: its hyperparameters. Raises UserError where a file of it is damaged."""
        try:
            return read_run(self.path, names)
        except UserError as error:
            raise UserError(str(error).replace(LEAVE_OUT, "remove that folder and start again")) from error

    def result(self) -> pandas.Series:
        """The row of result.csv. Raises UserError where it is missing, cut off or holds no numbers."""
        try:
            row = pandas.read_csv(self.path / "result.csv", dtype=float).iloc[0]
        except (OSError, ValueError, IndexError) as error:
            raise UserError(f"{self.path} has no readable result.csv: remove that folder and start again") from error
        if any(map(math.isnan, row)):
            raise UserError(f"{self.path}/result.csv is cut off: remove that folder and start again")
        return row


def add_flags(parser: ArgumentParser, sizes: Iterable[str], size: str, sizes_help: str, folder: str) -> None:
    """The flags of a command that finishes many runs.

    size: the default one. folder: that of the runs below logs/, without --save_dir, in the help's words.
    """
    add = parser.add_argument
    add("--size", choices=sizes, default=size, help=f"{sizes_help} (default: {size})")
    add("--seeds", type=positive_int, default=1, metavar="K", help="repeat with seeds 1 to K (default: 1)")
    add(
        "--jobs",
        type=positive_int,
        default=1,
        metavar="N",
        help="runs at once, which share the CPU's cores (default: 1)",
    )
    add("--overwrite", action="store_true", help="redo the runs that are there")
    add("--save_dir", type=named, default=None, help=f"the runs' folder below logs/ (default: {folder})")


def finish(jobs: Iterable[Job], at_once: int, overwrite: bool = False, done: Callable[[], None] = lambda: None) -> None:
    """Run what is not finished yet, `at_once` at a time, in this order but for those that need others first.

    done: called after each that was not finished before. Where one fails, those that do not need it still run; then
    UserError is raised with the first failure's message. On Ctrl-C and the like, or where nobody reads stdout any more,
    the processes are stopped, each with a checkpoint.
    """
    lines = Lines("jobs")
    jobs = {job.name: job for job in jobs}
    order = TopologicalSorter({name: job.needs for name, job in jobs.items()})
    order.prepare()
    place = {name: number for number, name in enumerate(jobs)}
    waiting, failures = sorted(order.get_ready(), key=place.get), []
    running: dict[Future, tuple[str, subprocess.Popen]] = {}

    def ended(name: str) -> None:
        order.done(name)
        waiting[:] = sorted([*waiting, *order.get_ready()], key=place.get)

    with ThreadPoolExecutor(at_once) as pool:
        try:
            while waiting or running:
                while waiting and len(running) < at_once:
                    job = jobs[waiting.pop(0)]
                    try:
                        command = job.command(overwrite)
                    except UserError as error:
                        failures.append(str(error))
                        continue
                    if command is None:
                        say(f"{job.name}: already finished, in {job.path} (--overwrite redoes it)")
                        ended(job.name)
                        continue
                    with held_back():  # a process that was just started must not be forgotten
                        process = job.start(command)
                        running[pool.submit(job.follow, process, lines)] = job.name, process
                for future in wait(running, return_when=FIRST_COMPLETED).done:
                    name, _ = running.pop(future)
                    try:
                        future.result()
                    except UserError as error:
                        failures.append(str(error))
                        continue
                    ended(name)
                    done()
        except BaseException as error:
            for _, process in running.values():
                process.terminate()  # not SIGINT, which what is started in the background ignores
            if lines.broken:
                raise BrokenPipeError from error
            raise
    if failures:
        others = f" (and {len(failures) - 1} more failed)" if len(failures) > 1 else ""
        raise UserError(failures[0] + others)
