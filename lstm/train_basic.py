"""Train an LSTM language model without tuning: fixed, perturbed, or replaying an earlier run's schedule.

The baselines of the self-tuning network's hyperparameter schedules (MacKay et al. 2019, section 5.1).
"""

import argparse
import math
import sys

from lstm import flags
from lstm.experiment import EXPERIMENT
from lstm.model import HYPERPARAMETERS
from stn.errors import UserError
from stn.schedules import Constant, Gaussian, Schedule, Sinusoid
from stn.scripts import options
from stn.scripts.replay import add_schedule_flag, replayed, take_schedule
from stn.scripts.script import Script

MAX_RATE = 0.99  # as published: perturbed rates are clipped to it
# Where a value may lie: a rate from 0 to below 1, a penalty's coefficient from 0.
RANGES = {name: spec.range for name, spec in HYPERPARAMETERS.items()}


def sources(args: argparse.Namespace) -> dict[str, Schedule]:
    """Where each hyperparameter's values come from: replayed, perturbed, or else constant."""
    schedule = replayed(args, RANGES)
    return {name: schedule.get(name) or own_source(args, name) for name in HYPERPARAMETERS}


def own_source(args: argparse.Namespace, name: str) -> Schedule:
    """Constant or perturbed, as the flags ask for."""
    value = getattr(args, name)
    if not getattr(args, f"perturb_{name}"):
        return Constant(value)
    low, high = RANGES[name]
    bounds = (low, MAX_RATE if high == 1 else math.inf)
    if args.perturb_type == "sinusoid":
        return Sinusoid(value, args.amplitude, args.sinusoid_period, bounds)
    return Gaussian(value, args.perturb_std, bounds, seed=(args.seed, list(HYPERPARAMETERS).index(name)))


def resolve(args: argparse.Namespace, given: set[str]) -> None:
    """Take the schedule's file, if any, from where it is, in place.

    Raises UserError where flags contradict each other or have nothing to act on.
    """
    perturbed = [name for name in HYPERPARAMETERS if getattr(args, f"perturb_{name}")]
    acting = {"gaussian": {"perturb_std"}, "sinusoid": {"amplitude", "sinusoid_period"}}
    idle = set().union(*acting.values()) - acting[args.perturb_type]
    for name in sorted(given & idle):
        raise UserError(f"--{name} has nothing to act on with --perturb_type {args.perturb_type}: leave it out")
    for name in sorted(given & {"perturb_type", *acting[args.perturb_type]}):
        if not perturbed:
            raise UserError(f"--{name} has nothing to act on: add --perturb_dropouto, or another --perturb_…")
    take_schedule(
        args, RANGES, lambda name: name if name in given else f"perturb_{name}" if name in perturbed else None
    )


def parser() -> options.OneLineParser:
    parser = options.OneLineParser(prog="train_basic.py", description=__doc__.partition(".")[0] + ".")
    flags.add_model_flags(parser)
    parser.add_argument("--model", choices=["LSTM"], default="LSTM", help="type of recurrent network")
    flags.add_hyperparameter_flags(parser)
    add_baseline_flags(parser)
    flags.add_training_flags(parser)
    flags.add_run_flags(parser, log_interval=("--log-interval", "--train_log_interval"), every=50)
    return parser


def add_baseline_flags(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument_group("baseline").add_argument
    for name in HYPERPARAMETERS:
        add(f"--perturb_{name}", action="store_true", help=f"perturb {name} around its value, anew each mini-batch")
    add(
        "--perturb_type",
        choices=["gaussian", "sinusoid"],
        default="gaussian",
        help="how; the result is clipped to [0, 0.99], that of alpha and beta only to 0 and above",
    )
    add(
        "--perturb_std",
        type=options.nonnegative,
        default=0.1,
        metavar="S",
        help="standard deviation of the Gaussian noise",
    )
    add("--amplitude", type=options.nonnegative, default=0.2, metavar="A", help="amplitude of the sinusoid")
    add(
        "--sinusoid_period",
        type=options.positive,
        default=330,
        metavar="N",
        help="period of the sinusoid in mini-batches",
    )
    add_schedule_flag(add)


SCRIPT = Script(parser(), resolve, sources, EXPERIMENT)


def main(argv: list[str] | None = None) -> int:
    """Run the command line; the exit status: 0, 2 for what the user can mend, 130 where interrupted."""
    return SCRIPT.run(argv)


if __name__ == "__main__":
    sys.exit(main())
