"""Training runs as processes of their own: started, continued or found finished, several at once."""

import subprocess
import sys
from collections.abc import Callable, Iterable
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from dataclasses import dataclass
from graphlib import TopologicalSorter
from pathlib import Path

import pandas

from lstm import options, train, train_basic
from lstm.experiment import Script
from lstm.options import INTERRUPTED, ROOT
from lstm.progress import say
from stn.errors import UserError
from stn.runs import newest_run, read_settings, read_status

TRAIN, TRAIN_BASIC = train.SCRIPT, train_basic.SCRIPT


@dataclass(frozen=True)
class Job:
    """A run in logs/<save_dir>, under a prefix if any.

    flags: gives what the run is started with, once the jobs in `needs` are finished. threads: how many CPU threads a
    new run gets; one that is continued keeps its own.
    """

    name: str
    script: Script
    save_dir: str
    flags: Callable[[], list[str]]
    prefix: str | None = None
    threads: int = 1
    needs: tuple[str, ...] = ()

    @property
    def path(self) -> Path | None:
        """The newest run that is there, if any."""
        try:
            return newest_run(ROOT / "logs" / self.save_dir, self.prefix)
        except UserError:
            return None

    @property
    def finished(self) -> bool:
        return self.path is not None and read_status(self.path) == "finished"

    def command(self, overwrite: bool) -> list[str] | None:
        """How to start the run anew or to continue it; None where it is finished.

        Raises UserError where the run that is there has other settings.
        """
        module = [sys.executable, "-m", f"lstm.{Path(self.script.parser.prog).stem}"]
        flags, path = self.flags(), self.path
        where = ["--save_dir", self.save_dir, *(["--prefix", self.prefix] if self.prefix else [])]
        start = [*module, *flags, "--threads", str(self.threads), *where, "--overwrite"]
        if overwrite or path is None:
            return start
        self.refuse_other_settings(path, flags)
        if read_status(path) == "finished":
            return None
        return [*module, "--resume", str(path)] if (path / "checkpoint.pt").exists() else start

    def refuse_other_settings(self, path: Path, flags: list[str]) -> None:
        """Raise UserError where a run was not made with these flags."""
        args, given = options.parse(self.script.parser, flags)
        self.script.resolve(args, given)
        settings = read_settings(path)
        wanted = {name: getattr(args, name) for name in given - {"data"}}
        if "schedule_checksum" in args:
            wanted["schedule_checksum"] = args.schedule_checksum
        other = [name for name, value in sorted(wanted.items()) if settings.get(name) != value]
        if other:
            raise UserError(f"{path} was made with another {', '.join(other)}: redo it with --overwrite")

    def run(self, overwrite: bool) -> bool:
        """Finish the run, showing its lines behind its name; whether there was anything to do.

        Raises UserError with the message of a run that failed.
        """
        command = self.command(overwrite)
        if command is None:
            say(f"{self.name}: already finished, in {self.path} (--overwrite redoes it)")
            return False
        last = "no word from it"
        process = subprocess.Popen(
            command, cwd=ROOT, text=True, errors="replace", stdout=subprocess.PIPE, stderr=subprocess.STDOUT
        )
        for line in process.stdout:
            if line.strip():
                last = line.strip()
                say(f"{self.name} | {line.rstrip()}")
        status = process.wait()
        if status == INTERRUPTED:
            raise KeyboardInterrupt
        if status:
            raise UserError(f"the run {self.name} failed: {last}")
        return True

    def result(self) -> pandas.Series:
        """The row of result.csv. Raises UserError where there is none."""
        try:
            return pandas.read_csv(self.path / "result.csv").iloc[0]
        except (OSError, ValueError, IndexError) as error:
            raise UserError(f"{self.path} has no readable result.csv: redo it with --overwrite") from error


def finish(jobs: Iterable[Job], at_once: int, overwrite: bool = False, done: Callable[[], None] = lambda: None) -> None:
    """Run what is not finished yet, `at_once` at a time, each after those that it needs.

    done: called after each that was not finished before. Where one fails, those that do not need it still run; then
    UserError is raised with the first failure's message. Ctrl-C reaches the processes by itself: they stop with a
    checkpoint, and then this does.
    """
    jobs = {job.name: job for job in jobs}
    order = TopologicalSorter({name: job.needs for name, job in jobs.items()})
    order.prepare()
    waiting: list[str] = []
    running: dict[Future, str] = {}
    failures: list[str] = []
    with ThreadPoolExecutor(at_once) as pool:
        while True:
            waiting += order.get_ready()
            while waiting and len(running) < at_once:
                name = waiting.pop(0)
                running[pool.submit(jobs[name].run, overwrite)] = name
            if not running:
                break  # what is left, if anything, needs what failed
            for future in wait(running, return_when=FIRST_COMPLETED).done:
                name = running.pop(future)
                try:
                    anew = future.result()
                    order.done(name)
                    if anew:
                        done()
                except UserError as error:
                    failures.append(str(error))
    if failures:
        others = f" (and {len(failures) - 1} more failed)" if len(failures) > 1 else ""
        raise UserError(failures[0] + others)
