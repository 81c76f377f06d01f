"""Train an LSTM language model that tunes its own regularization (MacKay et al. 2019, section 5.2)."""

import sys

from lstm import experiment, options
from lstm.progress import complain
from stn.errors import UserError


def main(argv: list[str] | None = None) -> int:
    """Run the command line; the exit status: 0, 2 for what the user can mend, 130 where interrupted."""
    try:
        args, given = options.parse(parser(), argv)
        if args.test:
            return experiment.test(args, given)
        if args.resume is not None:
            return experiment.resume(args, given)
        options.resolve_tuning(args, given)
        return experiment.start(args)
    except UserError as error:
        complain("train.py", error)
        return 2
    except KeyboardInterrupt:
        complain("train.py", "stopped; a run that has begun to train continues with --resume")
        return experiment.INTERRUPTED


def parser() -> options.OneLineParser:
    parser = options.OneLineParser(prog="train.py", description=__doc__)
    options.add_model_flags(parser)
    options.add_hyperparameter_flags(parser)
    options.add_tuning_flags(parser)
    options.add_training_flags(parser)
    options.add_run_flags(parser)
    return parser


if __name__ == "__main__":
    sys.exit(main())
