"""Train an LSTM language model that tunes its own regularization (MacKay et al. 2019, section 5.2)."""

import argparse
import sys

from lstm import flags
from lstm.experiment import EXPERIMENT
from lstm.model import HYPERPARAMETERS
from stn.errors import UserError
from stn.hyperparameters import Tuned
from stn.schedules import Constant, Schedule
from stn.scripts import options
from stn.scripts.script import Script


def sources(args: argparse.Namespace) -> dict[str, Tuned | Schedule]:
    """Where each hyperparameter's values come from: tuned where a flag asks for it, else constant."""
    transforms = dict.fromkeys(HYPERPARAMETERS, args.drop_transform)
    transforms["alpha"] = transforms["beta"] = args.alpha_beta_transform
    return {
        name: Tuned(
            getattr(args, name),
            range=spec.range,
            scale=args.perturb_scale,
            per_example=spec.per_example,
            feed="unconstrained" if transforms[name] == "none" else "squashed",
        )
        if getattr(args, f"tune_{name}")
        else Constant(getattr(args, name))
        for name, spec in HYPERPARAMETERS.items()
    }


def resolve(args: argparse.Namespace, given: set[str]) -> None:
    """What --tune_all stands for, in place, and never over a value that the user gave.

    Raises UserError where a flag has nothing to act on, or a tuned hyperparameter starts at an end of its range.
    """
    if args.tune_all:
        implied = {"alpha": 0.05, "beta": 0.05, "drop_transform": "sigmoid", "alpha_beta_transform": "softplus"}
        for name, value in implied.items():
            if name not in given:
                setattr(args, name, value)
        for name in HYPERPARAMETERS:
            setattr(args, f"tune_{name}", True)
    if not any(getattr(args, f"tune_{name}") for name in HYPERPARAMETERS):
        for name in given & {"tune_scales", "val_penalties"}:
            raise UserError(f"--{name} has nothing to act on: add --tune_all, or --tune_… for some hyperparameters")
    for name in sorted(given & {"entropy_weight", "scale_lr"}):
        if not args.tune_scales:
            raise UserError(f"--{name} has nothing to act on: add --tune_scales, or leave it out")
    for name, spec in HYPERPARAMETERS.items():
        low, high = spec.range
        value = getattr(args, name)
        if getattr(args, f"tune_{name}") and not low < value < high:
            raise UserError(
                f"--tune_{name} cannot start at --{name} {value:g}: give --{name} a value strictly between "
                f"{low:g} and {high:g}, for example 0.05"
            )


def parser() -> options.OneLineParser:
    parser = options.OneLineParser(prog="train.py", description=__doc__)
    flags.add_model_flags(parser)
    flags.add_hyperparameter_flags(parser)
    add_tuning_flags(parser)
    flags.add_training_flags(parser)
    flags.add_run_flags(parser, log_interval=("--train_log_interval",), every=1)
    return parser


def add_tuning_flags(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument_group("self-tuning").add_argument
    for name in HYPERPARAMETERS:
        add(f"--tune_{name}", action="store_true", help=f"tune {name}")
    add(
        "--tune_all",
        action="store_true",
        help="tune all seven; unless given otherwise, start alpha and beta at 0.05, "
        "with --drop_transform sigmoid and --alpha_beta_transform softplus as published "
        "(the authors found 'none' more robust for both)",
    )
    add(
        "--hyper_lr",
        type=options.positive,
        default=0.01,
        metavar="LR",
        help="learning rate of Adam for the hyperparameters",
    )
    add("--train_steps", type=options.positive_int, default=2, help="weight steps in a row")
    add("--val_steps", type=options.positive_int, default=1, help="hyperparameter steps in a row")
    add(
        "--warmup_steps",
        type=options.nonnegative_int,
        default=331,
        help="weight steps before the hyperparameters start to train (331 is an epoch of Penn Treebank)",
    )
    add(
        "--perturb_scale",
        type=options.positive,
        default=1.0,
        help="standard deviation of the perturbation of unconstrained hyperparameters",
    )
    add(
        "--drop_transform",
        choices=["none", "sigmoid"],
        default="none",
        help="what dropout rates pass through on their way into the response",
    )
    add("--alpha_beta_transform", choices=["none", "softplus"], default="none", help="the same for alpha and beta")
    add("--tune_scales", action="store_true", help="tune the scales of the perturbation too")
    add(
        "--entropy_weight",
        type=options.nonnegative,
        default=1e-3,
        help="weight of the perturbation's entropy, with --tune_scales",
    )
    add(
        "--scale_lr",
        type=options.positive,
        default=0.01,
        metavar="LR",
        help="learning rate of Adam for the scales, with --tune_scales",
    )
    add(
        "--val_penalties",
        action="store_true",
        help="add AR and TAR to the hyperparameters' objective, as the published code did; it pushes alpha and beta up",
    )
    add(
        "--val_log_interval",
        type=options.positive_int,
        default=1,
        metavar="N",
        help="hyperparameter steps from one log entry to the next",
    )


SCRIPT = Script(parser(), resolve, sources, EXPERIMENT)


def main(argv: list[str] | None = None) -> int:
    """Run the command line; the exit status: 0, 2 for what the user can mend, 130 where interrupted."""
    return SCRIPT.run(argv)


if __name__ == "__main__":
    sys.exit(main())
