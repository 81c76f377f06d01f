"""Measure whether a run's hypergradients are right, from its checkpoint, without touching the run.

Of each tuned hyperparameter the downhill slope of the validation loss, −dL/dλ, in thousandths of a nat: "response" as
the best response has it, the mean over mini-batches ± its standard error, with the standard deviation of a single one
as "noise"; "training" as the losses after some more steps at λ ± shift have it, ± its standard error. λ is the
unconstrained measure in which the hyperparameter is tuned. Where both are clear, more than two standard errors from 0,
"agree" says whether their signs are the same. What some steps show need not be what a whole training would.
"""

import re
from argparse import ArgumentParser
from collections.abc import Mapping
from functools import partial
from importlib import import_module
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pandas
from tqdm import tqdm

from stn.diagnose.hypergradients import Estimate, Evidence, diagnose, sign_patterns
from stn.errors import UserError
from stn.runs.checkpoints import read_checkpoint
from stn.runs.folder import read_settings
from stn.runs.history import only_reading
from stn.scripts.course import build
from stn.scripts.figures import find_run
from stn.scripts.options import ROOT, OneLineParser, exit_status, named, positive, positive_int
from stn.scripts.output import say
from stn.scripts.records import values_here
from stn.scripts.script import Script
from stn.training import Trainer

NAME = "python -m stn.diagnose"
DESIGNS = 2  # whole designs of trainings, unless asked otherwise
AGREE = {True: "yes", False: "no", None: "–"}


def main(argv: list[str] | None = None) -> int:
    """Print the table; the exit status, 2 for what the user can mend."""
    args = parser().parse_args(argv)
    return exit_status(NAME, lambda: measure(args), "nothing was changed")


def parser() -> ArgumentParser:
    parser = OneLineParser(prog=NAME, description=__doc__)
    parser.usage = "%(prog)s RUN [flags]"
    parser.add_argument("run", type=named, metavar="RUN", help="a run's folder")
    add = partial(parser.add_argument, metavar="N", type=positive_int)
    add("--batches", default=100, help="mini-batches of validation data (default: %(default)s)")
    add("--steps", default=200, help="weight steps of each training (default: %(default)s)")
    add("--designs", default=DESIGNS, help="how often each pattern of signs is trained (default: %(default)s)")
    add("--shift", default=1.0, type=positive, metavar="X", help="how far λ is moved (default: %(default)s)")
    parser.add_argument("--csv", action="store_true", help="print CSV, every number in full")
    return parser


def measure(args: Any) -> None:
    path = find_run(args.run)
    trainer, state = load(path)
    hyper = trainer.hyper
    if not hyper.num_tuned:
        raise UserError(f"{path} tunes nothing: give a run that does")
    pairs = args.designs * len(sign_patterns(hyper.num_tuned))
    if pairs <= hyper.num_tuned:
        raise UserError(f"{pairs} pairs for {hyper.num_tuned} hyperparameters leave no error: give more --designs")
    if not args.csv:
        say(f"{path}\nafter {trainer.train_step} weight steps; {2 * pairs} trainings of {args.steps} weight steps")
    with tqdm(total=args.batches + 2 * pairs * args.steps, leave=False, disable=None) as bar:
        sizes = {"batches": args.batches, "steps": args.steps, "pairs": pairs, "shift": args.shift}
        evidence = diagnose(trainer, state, **sizes, done=bar.update)
    say(table(evidence).to_csv().rstrip("\n") if args.csv else lines(evidence))


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
        kept = SimpleNamespace(settings=dict(checkpoint.settings), log=ignore, scalars=ignore)
        trainer = settings.trainer(task, hyper, kept, SimpleNamespace(update=ignore, epoch_ended=ignore), lambda: False)
        trainer.load_state_dict(checkpoint.state)
    return trainer, checkpoint.state


def ignore(*_: object) -> None:
    """Log nothing."""


def script_of(path: Path, record: Mapping[str, Any]) -> Script:
    """The training script that a run's args.yaml names. Raises UserError where it is not here."""
    name = str(record.get("script"))
    if not re.fullmatch(r"\w+/\w+\.py", name) or not (ROOT / name).is_file():
        raise UserError(f"{path} is a run of {name}, which is no training script here: give a run of one that is")
    script = getattr(import_module(name.removesuffix(".py").replace("/", ".")), "SCRIPT", None)
    if not isinstance(script, Script):
        raise UserError(f"{path} is a run of {name}, which trains nothing: give a run of a training script")
    return script


def table(evidence: Mapping[str, Evidence]) -> pandas.DataFrame:
    """A row for each hyperparameter, every number in full."""
    rows = [
        {
            "hyperparameter": name,
            "value": one.value,
            "response": one.response.mean,
            "response_error": one.response.error,
            "noise": one.noise,
            "training": one.training.mean,
            "training_error": one.training.error,
            "agree": AGREE[one.agree],
        }
        for name, one in evidence.items()
    ]
    return pandas.DataFrame(rows).set_index("hyperparameter")


def lines(evidence: Mapping[str, Evidence]) -> str:
    """The table for a terminal."""
    heads = ("", "value", "response", "noise", "training", "agree")
    rows = [
        (
            name,
            f"{one.value:.4g}",
            shown(one.response),
            f"{1000 * one.noise:.2f}",
            shown(one.training),
            AGREE[one.agree],
        )
        for name, one in evidence.items()
    ]
    widths = [max(map(len, column)) for column in zip(heads, *rows, strict=True)]
    aligned = [
        "  ".join([row[0].ljust(widths[0]), *map(str.rjust, row[1:], widths[1:])]).rstrip() for row in (heads, *rows)
    ]
    return "\n".join(aligned)


def shown(estimate: Estimate) -> str:
    """Mean ± standard error, in thousandths of a nat."""
    return f"{1000 * estimate.mean:+.2f} ± {1000 * estimate.error:.2f}"
