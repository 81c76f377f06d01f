"""Self-tuning in four minutes: one small LSTM with fixed and with self-tuned regularization.

It learns a fifth of the built-in corpus, little enough to overfit. Both runs start with hardly any regularization
and train at once, a CPU thread each. Killed and started again, the demo goes on where it was.
"""

import subprocess
import sys
import threading
from pathlib import Path

import pandas

from lstm import options
from lstm.experiment import INTERRUPTED, locate_corpus
from lstm.model import HYPERPARAMETERS
from lstm.options import ROOT
from lstm.progress import complain, say
from lstm.train import parser as train_parser
from stn import figures
from stn.errors import UserError
from stn.runs import newest_run, read_settings, read_status

# What both runs share, and what each adds to it.
COMMON = (
    "--disable_cuda --threads 1 --seed 1 --checkpoint_seconds 15"
    " --emsize 64 --nhid 64 --batch_size 20 --bptt 35 --epochs 25 --lr 20 --nonmono 2"
    " --alpha 0.05 --beta 0.05 --dropouto 0.05 --dropouth 0.05 --dropouti 0.05 --dropoute 0.05 --wdrop 0.05"
)
RUNS = {"fixed": "", "tuned": "--tune_all --warmup_steps 160 --hyper_lr 0.02"}
LINES = {"train": 3600, "valid": 1000, "test": 1000}  # of the built-in corpus
QUICK = "--emsize 8 --nhid 8 --epochs 2 --warmup_steps 5"
QUICK_LINES = {"train": 900, "valid": 150, "test": 150}


def main(argv: list[str] | None = None) -> int:
    """Run the demo; the exit status: 0, 2 for what the user can mend, 130 where interrupted."""
    parser = options.OneLineParser(prog="demo.py", description=__doc__)
    parser.add_argument("--overwrite", action="store_true", help="redo the runs that are there")
    parser.add_argument("--quick", action="store_true", help="a few seconds at a tiny size, to see that it works")
    parser.add_argument("--save_dir", help="the runs' folder below logs/ (default: demo, or demo_quick with --quick)")
    args = parser.parse_args(argv)
    try:
        demo(args.save_dir or ("demo_quick" if args.quick else "demo"), args.quick, args.overwrite)
    except UserError as error:
        complain("demo.py", error)
        return 2
    except KeyboardInterrupt:
        complain("demo.py", "stopped; start it again to continue")
        return INTERRUPTED
    return 0


def demo(save_dir: str, quick: bool, overwrite: bool) -> None:
    """Train both runs, each in logs/<save_dir>/<its name>, then print the table and draw the figures."""
    folder = ROOT / "logs" / save_dir
    say("Two runs of one small LSTM: all hyperparameters fixed, and all of them tuned while it trains.")
    corpus = first_lines(locate_corpus("builtin")[0], folder / "corpus", QUICK_LINES if quick else LINES)
    shared = [*COMMON.split(), "--data", str(corpus), *(QUICK.split() if quick else [])]
    commands = {}
    for name, own in RUNS.items():
        # A flag that is given twice counts as given last: QUICK also cuts the tuned run's warm-up.
        flags = [*own.split(), *shared]
        commands[name] = command(name, f"{save_dir}/{name}", flags, overwrite)
    train(commands)
    runs = {name: newest_run(folder / name, None) for name in RUNS}
    say("")
    say(table(runs["fixed"], runs["tuned"]))
    say("")
    for draw in (figures.schedules, figures.perplexities):
        figure, _ = draw([figures.read_run(path) for path in runs.values()])
        for file in figures.save(figure, folder / draw.__name__):
            say(f"figure {file}")


def first_lines(corpus: Path, folder: Path, counts: dict[str, int]) -> Path:
    """Make `folder` a corpus of the first lines of another's splits; the folder. Raises UserError where it cannot."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for split, count in counts.items():
            lines = (corpus / f"{split}.txt").read_text(encoding="utf-8").splitlines(keepends=True)
            (folder / f"{split}.txt").write_text("".join(lines[:count]), encoding="utf-8")
    except OSError as error:
        raise UserError(f"cannot write {folder} ({error.strerror}): choose another --save_dir") from error
    return folder


def command(name: str, save_dir: str, flags: list[str], overwrite: bool) -> list[str] | None:
    """How to start or continue a run in logs/<save_dir>; None where it is finished.

    Raises UserError where the run that is there has other settings.
    """
    train = [sys.executable, "-m", "lstm.train"]
    start = [*train, *flags, "--save_dir", save_dir, "--overwrite"]
    path = newest(ROOT / "logs" / save_dir)
    if overwrite or path is None:
        return start
    refuse_other_settings(path, flags)
    if read_status(path) == "finished":
        say(f"{name}: already finished, in {path} (--overwrite redoes it)")
        return None
    return [*train, "--resume", str(path)] if (path / "checkpoint.pt").exists() else start


def newest(parent: Path) -> Path | None:
    """The newest run under `parent`, if there is one."""
    try:
        return newest_run(parent, None)
    except UserError:
        return None


def refuse_other_settings(path: Path, flags: list[str]) -> None:
    """Raise UserError where a run was not made with these flags."""
    args, given = options.parse(train_parser(), flags)
    settings = read_settings(path)
    other = [name for name in sorted(given - {"data"}) if settings.get(name) != getattr(args, name)]
    if other:
        raise UserError(f"{path} was made with another {', '.join(other)}: redo it with --overwrite")


def train(commands: dict[str, list[str] | None]) -> None:
    """Run the commands at once, showing their lines. Raises UserError with the message of one that failed."""
    readers = {name: Reader(name, command) for name, command in commands.items() if command}
    try:
        failed = [name for name, reader in readers.items() if reader.wait() != 0]
    except KeyboardInterrupt:
        # The terminal has sent it to both runs too: they stop by themselves, with a checkpoint.
        for reader in readers.values():
            reader.wait()
        raise
    if INTERRUPTED in (readers[name].wait() for name in failed):
        raise KeyboardInterrupt
    if failed:
        raise UserError("; ".join(f"the {name} run failed: {readers[name].last}" for name in failed))


class Reader(threading.Thread):
    """A command under way, whose lines are shown behind its name as they come. last: the last one."""

    def __init__(self, name: str, command: list[str]):
        super().__init__(daemon=True)
        self.run_name, self.last = name, "no word from it"
        self.process = subprocess.Popen(
            command, cwd=ROOT, text=True, errors="replace", stdout=subprocess.PIPE, stderr=subprocess.STDOUT
        )
        self.start()

    def run(self) -> None:
        for line in self.process.stdout:
            if line.strip():
                self.last = line.strip()
                say(f"{self.run_name} | {line.rstrip()}")

    def wait(self) -> int:
        """The exit status, after the last line was shown."""
        self.join()
        return self.process.wait()


def table(fixed: Path, tuned: Path) -> str:
    """The perplexities of both runs' best models, and what the tuned one made of each hyperparameter."""
    results = [_result(path) for path in (fixed, tuned)]
    lines = [f"{'':<22}{'fixed':>9}{'tuned':>9}"]
    for split, column in (("validation", "val_ppl"), ("test", "test_ppl")):
        lines.append(f"{f'{split} perplexity':<22}" + "".join(f"{result[column]:>9.1f}" for result in results))
    run = figures.read_run(tuned)
    found = run.epoch.iloc[run.best()]
    lines += ["", f"{'hyperparameter':<22}{'initial':>9}{'found':>9}"]
    lines += [f"{name:<22}{run.settings[name]:>9.3f}{found[name]:>9.3f}" for name in HYPERPARAMETERS]
    return "\n".join(lines)


def _result(path: Path) -> pandas.Series:
    try:
        return pandas.read_csv(path / "result.csv").iloc[0]
    except (OSError, ValueError, IndexError) as error:
        raise UserError(f"{path} has no readable result.csv: redo it with --overwrite") from error


if __name__ == "__main__":
    sys.exit(main())
