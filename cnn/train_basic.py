"""Train an image classifier with fixed hyperparameters, or with those that an earlier run recorded."""

import argparse
import sys

from cnn.experiment import ImageExperiment, name_run
from cnn.flags import add_run_flags, add_training_flags
from cnn.hyperparameters import specs
from stn.errors import UserError
from stn.schedules import Constant, Schedule
from stn.scripts.options import OneLineParser, nonnegative, nonnegative_int, rate
from stn.scripts.replay import add_schedule_flag, replayed, take_schedule
from stn.scripts.script import Script

MIN_LR = 1e-7  # as published: below it training stops
# The flags of those hyperparameters that are called otherwise elsewhere.
FLAGS = {"sat": "saturation", "bright": "brightness", "fcdropout0": "fc_dropout0", "fcdropout1": "fc_dropout1"}
# What is fixed or replayed may go further than what is tuned.
RANGES = {
    name: (spec.range[0], max(spec.range[1], 1.0))
    for shared in (True, False)
    for name, spec in specs("alexnet", shared).items()
}


def sources(args: argparse.Namespace) -> dict[str, Schedule]:
    """Where each hyperparameter's values come from: replayed, or else constant."""
    schedule = replayed(args, RANGES)
    names = specs(args.model, shared_dropout="dropout" in schedule)
    return {name: schedule.get(name) or Constant(value(args, name)) for name in names}


def value(args: argparse.Namespace, name: str) -> float:
    """A hyperparameter's constant value; the shared dropout rates overrule those of layers, as published."""
    for shared, flag in (("dropout", args.dropout), ("fcdropout", args.fc_dropout)):
        if name.startswith(shared) and flag > 0:
            return flag
    return max(float(getattr(args, FLAGS.get(name, name))), 0.0)


def resolve(args: argparse.Namespace, given: set[str]) -> None:
    """Name the run's folder, and take the schedule's file, if any, from where it is, in place.

    Raises UserError where flags or the schedule's columns contradict each other or have nothing to act on.
    """
    name_run(args, given)
    refuse_idle_flags(args, given)
    scheduled = take_schedule(args, RANGES, lambda name: next((flag for flag in setters(name) if flag in given), None))
    usable = specs(args.model, shared_dropout="dropout" in scheduled)
    if useless := [name for name in scheduled if name not in usable]:
        raise UserError(
            f"{args.load_schedule} has a column {useless[0]!r}, of which --model {args.model} has no use: "
            "give the --model that it was recorded with, or remove the column"
        )
    for name, (_, high) in RANGES.items():
        if name != "dropout" and value(args, name) >= high:
            flag = FLAGS.get(name, name)
            raise UserError(f"--{flag} {value(args, name):g} is out of range: it goes from 0 to below {high:g}")


def refuse_idle_flags(args: argparse.Namespace, given: set[str]) -> None:
    """Raise UserError where a flag that was given sets nothing in the model, or none of its rates."""
    acting, everywhere = ({flag for name in names for flag in setters(name)} for names in (specs(args.model), RANGES))
    for flag in sorted(given & (everywhere - acting)):
        raise UserError(f"--{flag} has nothing to act on in --model {args.model}: leave it out")
    for flag, name in (("dropout", "dropout"), ("fc_dropout", "fcdropout")):
        if getattr(args, flag) == 0:
            own = " ".join(f"--{FLAGS.get(other, other)} 0" for other in specs(args.model) if other.startswith(name))
            raise UserError(f"--{flag} 0 is no rate to share: give {own} for no dropout, -1 for rates of their own")


def setters(name: str) -> list[str]:
    """The flags that set a hyperparameter."""
    if name == "dropout":
        return [other for other in RANGES if other.startswith("dropout")]
    shared = ["fc_dropout"] if name.startswith("fcdropout") else ["dropout"] if name.startswith("dropout") else []
    return [FLAGS.get(name, name), *shared]


def parser() -> OneLineParser:
    parser = OneLineParser(prog="train_basic.py", description=__doc__)
    parser.add_argument("--dataset", "-d", choices=["cifar10"], default="cifar10", help="the images")
    add_hyperparameter_flags(parser)
    add_training_flags(parser, total_epochs=8000, short_model="-a", short_nonmono=[])
    add = add_run_flags(parser)
    add("--save_dir", dest="dir", default="baseline_saves", help="folder in --logdir")
    parser.set_defaults(subdir="")
    return parser


def add_hyperparameter_flags(parser: OneLineParser) -> None:
    add = parser.add_argument_group("regularization").add_argument
    add("--indropout", type=rate, default=0.4, help="dropout rate of the input")
    add("--dropout", "-drop", type=shared_rate, default=-1.0, help="one rate for all convolutional layers, -1 for none")
    for layer in range(5):
        add(f"--dropout{layer}", type=rate, default=0.3, help=f"dropout rate after convolutional layer {layer}")
    add(
        "--fc_dropout", "-fcdrop", type=shared_rate, default=-1.0, help="one rate for both of the next two, -1 for none"
    )
    for layer in range(2):
        flags = f"--fc_dropout{layer}", f"-fcdrop{layer}"
        add(*flags, type=rate, default=0.4, help=f"dropout rate of fully connected layer {layer}'s input")
    add("--inscale", "-iscl", type=nonnegative, default=0.0, help="input scaling")
    add("--hue", type=nonnegative, default=0.2, help="hue jitter")
    add("--brightness", type=nonnegative, default=0.4, help="brightness jitter")
    add("--saturation", type=nonnegative, default=0.4, help="saturation jitter")
    add("--contrast", type=nonnegative, default=0.4, help="contrast jitter")
    add("--cutholes", "-cuth", type=hole_count, default=2, help="number of cutout holes, none if below 1")
    add("--cutlength", "-cutl", type=hole_count, default=5, help="length of cutout holes, none if below 1")
    add_schedule_flag(add)


def shared_rate(text: str) -> float:
    """A rate, or -1 for none."""
    return -1.0 if text.strip() in ("-1", "-1.0") else rate(text)


def hole_count(text: str) -> int:
    """A whole number, or -1 for none."""
    return -1 if text.strip() == "-1" else nonnegative_int(text)


SCRIPT = Script(parser(), resolve, sources, ImageExperiment(MIN_LR))


def main(argv: list[str] | None = None) -> int:
    """Run the command line; the exit status: 0, 2 for what the user can mend, 130 where interrupted."""
    return SCRIPT.run(argv)


if __name__ == "__main__":
    sys.exit(main())
