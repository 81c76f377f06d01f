"""Train an image classifier that tunes its own dropout and augmentation (MacKay et al. 2019, section 5.3)."""

import argparse
import sys
from collections.abc import Set

from cnn.experiment import ImageExperiment, name_run
from cnn.flags import add_run_flags, add_training_flags
from cnn.hyperparameters import Spec, specs
from stn.errors import UserError
from stn.hyperparameters import Tuned
from stn.schedules import Constant, Schedule
from stn.scripts.options import OneLineParser, nonnegative, nonnegative_int, positive, positive_int
from stn.scripts.script import Script

MIN_LR = 1e-5  # as published: below it training stops
JITTERS = ("hue", "sat", "contrast", "bright")
# What a hyperparameter that is not tuned is while its counterpart is: a hole needs a length, a length needs a hole.
CUTOUT = {"cutlength": 8.0, "cutholes": 1.0}
# Flag, short name and what it tunes, in the published order.
TUNE = {
    "dropout": ("-tdrop", "one dropout rate for all convolutional layers"),
    "dropoutl": ("-tdropl", "a dropout rate for each convolutional layer"),
    "indropout": ("-tidrop", "the dropout rate of the input"),
    "fcdropout": ("-tfcdrop", "the dropout rates of the fully connected layers' inputs"),
    "inscale": ("-tiscl", "the scaling noise of the input"),
    "hue": ("-thue", "the hue's jitter"),
    "sat": ("-tsat", "the saturation's jitter"),
    "contrast": ("-tcon", "the contrast's jitter"),
    "bright": ("-tbrt", "the brightness's jitter"),
    "jitters": ("-tjit", "hue, saturation, contrast and brightness"),
    "cutlength": ("-tcutl", "the length of cutout holes"),
    "cutholes": ("-tcuth", "the number of cutout holes"),
    "all": ("-tall", "all of these, with a dropout rate for each layer"),
}
# Flag, short name, default and what it is, in the published order.
START = {
    "inscale": ("-iscl", 0.05, "input scaling"),
    "drop": ("-drop", 0.05, "dropout rate of convolutional layers"),
    "indrop": ("-idrop", 0.05, "dropout rate of the input"),
    "fcdrop": ("-fcdrop", 0.05, "dropout rate of fully connected layers' inputs"),
    "hue": ("-hue", 0.05, "hue jitter"),
    "sat": ("-sat", 0.05, "saturation jitter"),
    "contrast": ("-con", 0.05, "contrast jitter"),
    "bright": ("-brt", 0.05, "brightness jitter"),
    "cutlength": ("-cutl", 4.0, "length of a cutout hole"),
    "cutholes": ("-cuth", 1.0, "number of cutout holes"),
}


def tuned_by(name: str) -> str:
    """The --tune_… flag of a hyperparameter, but for --tune_jitters and --tune_all."""
    if name.startswith("fcdropout"):
        return "fcdropout"
    return "dropoutl" if name.startswith("dropout") and name != "dropout" else name


def started_by(name: str) -> str:
    """The --start_… flag of a hyperparameter."""
    return tuned_by(name).replace("dropoutl", "drop").replace("dropout", "drop")


def sources(args: argparse.Namespace) -> dict[str, Tuned | Schedule]:
    """Where each hyperparameter's values come from: tuned where a flag asks for it, else off."""
    all_specs = specs(args.model, shared_dropout=args.tune_dropout)
    tuned = {name for name in all_specs if getattr(args, f"tune_{tuned_by(name)}")}
    return {name: own_source(args, name, spec, tuned) for name, spec in all_specs.items()}


def own_source(args: argparse.Namespace, name: str, spec: Spec, tuned: set[str]) -> Tuned | Schedule:
    if name not in tuned:
        return Constant(CUTOUT[name] if name in CUTOUT and tuned & CUTOUT.keys() else 0.0)
    scale = getattr(args, f"{name}_scale" if name in CUTOUT else "perturb_scale")
    return Tuned(getattr(args, f"start_{started_by(name)}"), spec.range, scale, discrete=spec.discrete)


def resolve(args: argparse.Namespace, given: set[str]) -> None:
    """Name the run's folder, and set what --tune_all and --tune_jitters stand for, in place.

    Raises UserError where nothing is tuned, flags contradict each other or have nothing to act on, or a start is not
    inside its range.
    """
    name_run(args, given)
    refuse_contradictions(args, given)
    expand(args)
    tuned = {name: source for name, source in sources(args).items() if isinstance(source, Tuned)}
    if not tuned:
        raise UserError("nothing is tuned: add --tune_all, or --tune_… for some hyperparameters")
    for name, source in tuned.items():
        check_start(f"start_{started_by(name)}", source)
    idle = idle_flags(args, tuned.keys())
    for flag in sorted(given & idle.keys()):
        raise UserError(f"--{flag} has nothing to act on: add {idle[flag]}, or leave it out")


def refuse_contradictions(args: argparse.Namespace, given: set[str]) -> None:
    """Raise UserError where flags that were given cannot go together."""
    if args.total_epochs <= args.warmup_epochs:
        raise UserError(
            f"--total_epochs {args.total_epochs} ends before anything is tuned, after --warmup_epochs "
            f"{args.warmup_epochs}: raise the one, or lower the other"
        )
    for flag in sorted(given & {"tune_dropoutl", "tune_all"}):
        if args.tune_dropout:
            raise UserError(f"--tune_dropout is one rate for all layers, --{flag} brings one for each: leave one out")
    for flag in sorted(given & {"tune_fcdropout", "start_fcdrop"}):
        if "fcdropout0" not in specs(args.model):
            raise UserError(f"--{flag} has nothing to act on in --model {args.model}: leave it out")


def expand(args: argparse.Namespace) -> None:
    """What --tune_all and --tune_jitters stand for, in place."""
    if args.tune_all:
        for name in ("dropoutl", "indropout", "inscale", "jitters", "cutlength", "cutholes"):
            setattr(args, f"tune_{name}", True)
        args.tune_fcdropout = "fcdropout0" in specs(args.model)
    if args.tune_jitters:
        for name in JITTERS:
            setattr(args, f"tune_{name}", True)


def idle_flags(args: argparse.Namespace, tuned: Set[str]) -> dict[str, str]:
    """The flags that have nothing to act on, with what would give it to them."""
    starts = {started_by(name) for name in tuned}
    idle = {f"start_{name}": "the --tune_… flag of what it starts" for name in START if name not in starts}
    idle |= {f"{name}_scale": f"--tune_{name}" for name in CUTOUT if name not in tuned}
    if not tuned - CUTOUT.keys():
        idle["perturb_scale"] = "--tune_… for something besides cutout"
    if not args.tune_scales:
        idle |= dict.fromkeys(("entropy_weight", "scale_lr"), "--tune_scales")
    return idle


def check_start(flag: str, source: Tuned) -> None:
    low, high = source.range
    if source.discrete and source.initial not in range(int(high)):
        raise UserError(f"--{flag} {source.initial:g} is out of range: give it a whole number from 0 to {high - 1:g}")
    if not source.discrete and not low < source.initial < high:
        raise UserError(f"--{flag} {source.initial:g} is out of range: give it a value between {low:g} and {high:g}")


def parser() -> OneLineParser:
    parser = OneLineParser(prog="hypertrain.py", description=__doc__)
    add_tuning_flags(parser)
    add_training_flags(parser, total_epochs=500, short_model="-m", short_nonmono=["-nonm", "-pat"])
    add_alternation_flags(parser)
    add = add_run_flags(parser)
    add("--dir", default="hyper-training", help="folder in --logdir")
    add("--subdir", default="", help="folder in --dir (default: the date)")
    return parser


def add_tuning_flags(parser: OneLineParser) -> None:
    add = parser.add_argument_group("what to tune").add_argument
    for name, (short, what) in TUNE.items():
        add(f"--tune_{name}", short, action="store_true", help=f"tune {what}")
    add("--tune_scales", "-tscl", action="store_true", help="tune the scales of the perturbation too")
    add = parser.add_argument_group("where to start").add_argument
    for name, (short, default, what) in START.items():
        add(f"--start_{name}", short, type=nonnegative, default=default, metavar="X", help=what)


def add_alternation_flags(parser: OneLineParser) -> None:
    add = parser.add_argument_group("self-tuning").add_argument
    add(
        "--warmup_epochs",
        "-wupep",
        type=nonnegative_int,
        default=5,
        metavar="N",
        help="epochs before the hyperparameters start to train",
    )
    add(
        "--valid_lr",
        "-vlr",
        type=positive,
        default=3e-3,
        metavar="LR",
        help="learning rate of the hyperparameters' Adam",
    )
    add("--scale_lr", "-slr", type=positive, default=3e-3, metavar="LR", help="learning rate of the scales' Adam")
    add("--train_steps", "-tstep", type=positive_int, default=2, metavar="N", help="weight steps in a row")
    add("--valid_steps", "-vstep", type=positive_int, default=1, metavar="N", help="hyperparameter steps in a row")
    add(
        "--entropy_weight",
        "-ewt",
        type=nonnegative,
        default=1e-5,
        metavar="X",
        help="weight of the perturbation's entropy, with --tune_scales",
    )
    for name, short, what in (
        ("perturb_scale", "-pscl", "continuous hyperparameters"),
        ("cutlength_scale", "-clscl", "the holes' length"),
        ("cutholes_scale", "-chscl", "the number of holes"),
    ):
        add(
            f"--{name}",
            short,
            type=positive,
            default=0.5,
            metavar="X",
            help=f"standard deviation of the perturbation of {what}, unconstrained",
        )


SCRIPT = Script(parser(), resolve, sources, ImageExperiment(MIN_LR))


def main(argv: list[str] | None = None) -> int:
    """Run the command line; the exit status: 0, 2 for what the user can mend, 130 where interrupted."""
    return SCRIPT.run(argv)


if __name__ == "__main__":
    sys.exit(main())
