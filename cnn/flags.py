"""The image-classification scripts' common flags; names, short names and defaults as published."""

from collections.abc import Callable

from cnn.models import MODELS
from stn.scripts.options import (
    OneLineParser,
    add_data_flag,
    add_machine_flags,
    add_progress_flags,
    add_resume_flags,
    nonnegative_int,
    positive,
    positive_int,
    rate,
    share,
)


def add_training_flags(parser: OneLineParser, total_epochs: int, short_model: str, short_nonmono: list[str]) -> None:
    """short_model: the short name of --model; short_nonmono: those of --nonmono and --patience, if any."""
    add = parser.add_argument_group("model and training").add_argument
    add("--model", short_model, choices=MODELS, default="alexnet", help="the network")
    add("--batch_size", "-bsz", type=positive_int, default=128, metavar="N", help="images in a mini-batch")
    add(
        "--total_epochs",
        "-totep",
        type=positive_int,
        default=total_epochs,
        metavar="N",
        help="epochs, warm-up included",
    )
    add("--train_lr", "-tlr", type=positive, default=0.01, metavar="LR", help="learning rate of the weights' SGD")
    add("--momentum", "-mom", type=rate, default=0.9, help="momentum of the weights' SGD")
    add("--lr_decay", type=share, default=0.1, help="factor of the learning rate when it decays")
    add_progress_flags(add, nonmono=60, patience=75, short=short_nonmono)
    add(
        "--milestones",
        type=positive_int,
        nargs="+",
        default=[],
        metavar="EPOCH",
        help="decay the learning rate after these epochs too",
    )


def add_run_flags(parser: OneLineParser) -> Callable:
    """Flags of data, device and logs; the group's add_argument, for more."""
    add = parser.add_argument_group("data, device and logs").add_argument
    add_data_flag(add, "CIFAR-10's binary files", "data/cifar10", "images")
    add(
        "--percent_valid",
        "-pval",
        type=positive,
        default=0.2,
        metavar="SHARE",
        help="share of the training images that validate, the last of the file",
    )
    add_machine_flags(add)
    add("--no_cuda", action="store_true", help="use the CPU even where there is a GPU")
    add("--save", action="store_true", help="keep the best model as model.pt; all else is logged in any case")
    add("--log_interval", type=positive_int, default=50, metavar="N", help="steps that a log entry is the mean of")
    add("--logdir", default="logs", help="folder of all runs")
    add("--seed", type=nonnegative_int, default=0, help="random seed")
    may_differ = "the number of epochs, the patience and the log and checkpoint intervals"
    add_resume_flags(add, "the newest", may_differ)
    return add
