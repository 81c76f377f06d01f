"""Measure whether a run's hypergradients are right, from its checkpoint, without touching the run.

Of each tuned hyperparameter the downhill slope of the validation loss, −dL/dλ, in thousandths of a nat: "response" as
the best response has it, the mean over mini-batches ± its standard error, with the standard deviation of a single one
as "noise"; "training" as the losses after some more steps at λ ± shift have it, ± its standard error. λ is the
unconstrained measure in which the hyperparameter is tuned. Where both are clear, more than two standard errors from 0,
"agree" says whether their signs are the same. What some steps show need not be what a whole training would. "gate" is
the root mean square of the gates' weights for the hyperparameter: near where they started, 0.01 (STN) or 0 (Δ-STN), the
response to it has not been learned.
"""

import re
from argparse import ArgumentParser
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

from tqdm import tqdm

from stn.diagnose.hypergradients import Evidence, diagnose, sign_patterns
from stn.diagnose.tables import lines, read_csv, table
from stn.errors import UserError
from stn.figures.hypergradients import gates, hypergradients
from stn.runs.checkpoints import read_checkpoint
from stn.runs.experiments import import_experiment
from stn.runs.folder import read_settings
from stn.runs.history import only_reading
from stn.scripts.course import build, unlogged
from stn.scripts.figures import add_labels, find_run, names_for, new_folder, warn_of_boxes, write
from stn.scripts.options import ROOT, OneLineParser, exit_status, find, named, positive, positive_int
from stn.scripts.output import say
from stn.scripts.records import values_here
from stn.scripts.script import Script
from stn.training import Trainer

NAME = "python -m stn.diagnose"
DESIGNS = 2  # whole designs of trainings, unless asked otherwise


def main(argv: list[str] | None = None) -> int:
    """Print the tables, or draw them; the exit status, 2 for what the user can mend."""
    args = parser().parse_args(argv)
    return exit_status(NAME, lambda: draw(args) if args.out else show(args), "nothing was changed")


def parser() -> ArgumentParser:
    parser = OneLineParser(prog=NAME, description=__doc__)
    parser.usage = "%(prog)s RUN [RUN ...] [flags]"
    parser.add_argument("runs", nargs="+", type=named, metavar="RUN", help="a run's folder, or the CSV of one")
    add = partial(parser.add_argument, metavar="N", type=positive_int)
    add("--batches", default=100, help="mini-batches of validation data (default: %(default)s)")
    add("--steps", default=200, help="weight steps of each training (default: %(default)s)")
    add("--designs", default=DESIGNS, help="how often each pattern of signs is trained (default: %(default)s)")
    add("--shift", default=1.0, type=positive, metavar="X", help="how far λ is moved (default: %(default)s)")
    parser.add_argument("--csv", action="store_true", help="print CSV, every number in full, of one run")
    figures = "draw the tables: hypergradients and gates, as .pdf and .png, in this folder"
    parser.add_argument("--out", type=new_folder, metavar="FOLDER", help=figures)
    add_labels(parser, "the names of the folders or files")
    return parser


def show(args: Any) -> None:
    """Print what is measured of each run."""
    if args.labels:
        raise UserError("--labels has nothing to act on: add --out, or leave it out")
    if args.csv and len(args.runs) > 1:
        raise UserError(f"--csv prints one run, not {len(args.runs)}: give one, and write its CSV to a file")
    for number, run in enumerate(args.runs):
        evidence, train_step = measure(find_run(run), args)
        say(table(evidence, train_step).to_csv().rstrip("\n") if args.csv else lines(evidence))
        if number < len(args.runs) - 1:
            say("")


def draw(args: Any) -> None:
    """Draw the runs, those of which the CSV is given without measuring anything."""
    if args.csv:
        raise UserError("--csv prints a table and --out draws some: leave one of them out")
    tables = []
    for run, label in zip(args.runs, names_for(args.runs, args.labels), strict=True):
        path = find(run, "the run")
        found = read_csv(path) if path.is_file() else table(*measure(find_run(run), args))
        tables.append((label or path.name.removesuffix(".csv"), found))
    figures = {"hypergradients": hypergradients(tables), "gates": gates(tables)}
    for name, figure in figures.items():
        write(figure, args.out / name)
    warn_of_boxes(NAME, figures.values())


def measure(path: Path, args: Any) -> tuple[dict[str, Evidence], int]:
    """The evidence on a run's hyperparameters, and its weight steps; but for CSV, says first what is being measured."""
    trainer, state = load(path)
    train_step = trainer.train_step
    hyper = trainer.hyper
    if not hyper.num_tuned:
        raise UserError(f"{path} tunes nothing: give a run that does")
    pairs = args.designs * len(sign_patterns(hyper.num_tuned))
    if pairs <= hyper.num_tuned:
        raise UserError(f"{pairs} pairs for {hyper.num_tuned} hyperparameters leave no error: give more --designs")
    if not args.csv:
        say(f"{path}\nafter {train_step} weight steps; {2 * pairs} trainings of {args.steps} weight steps")
    with tqdm(total=args.batches + 2 * pairs * args.steps, leave=False, disable=None) as bar:
        sizes = {"batches": args.batches, "steps": args.steps, "pairs": pairs, "shift": args.shift}
        return diagnose(trainer, state, **sizes, done=bar.update), train_step


def load(path: Path) -> tuple[Trainer, Mapping[str, Any]]:
    """A trainer like the run's, that logs nothing, and the state to go on from.

    Raises UserError where the run cannot go on here.
    """
    with only_reading("give another run"):
        checkpoint = read_checkpoint(path)
        script = script_of(path, read_settings(path))
        values = values_here(script, path, checkpoint.settings, {})
        settings = script.make(values)
        _, hyper, task = build(settings, script.sources(values))
        trainer = unlogged(settings, task, hyper, checkpoint.settings)
        trainer.load_state_dict(checkpoint.state)
    return trainer, checkpoint.state


def script_of(path: Path, record: Mapping[str, Any]) -> Script:
    """The training script that a run's args.yaml names. Raises UserError where it is not here."""
    name = str(record.get("script"))
    if not re.fullmatch(r"\w+/\w+\.py", name) or not (ROOT / name).is_file():
        raise UserError(f"{path} is a run of {name}, which is no training script here: give a run of one that is")
    script = getattr(import_experiment(name.removesuffix(".py").replace("/", ".")), "SCRIPT", None)
    if not isinstance(script, Script):
        raise UserError(f"{path} is a run of {name}, which trains nothing: give a run of a training script")
    return script
