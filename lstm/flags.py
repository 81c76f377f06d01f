"""The language-model scripts' flags."""

import argparse
from pathlib import Path

from stn.scripts.options import (
    add_data_flag,
    add_machine_flags,
    add_progress_flags,
    add_resume_flags,
    factor,
    nonnegative,
    nonnegative_int,
    positive,
    positive_int,
    rate,
)


def add_model_flags(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument_group("model").add_argument
    add("--emsize", type=positive_int, default=650, help="size of word embeddings")
    add("--nhid", type=positive_int, default=650, help="hidden units per layer")
    add("--nlayers", type=positive_int, default=2, help="number of LSTM layers")


def add_training_flags(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument_group("training").add_argument
    add("--lr", type=positive, default=30.0, help="initial learning rate of SGD")
    add("--clip", type=nonnegative, default=0.25, help="largest norm of the gradient, 0 for none")
    add("--wdecay", type=nonnegative, default=0.0, help="weight decay")
    add("--epochs", type=positive_int, default=8000, help="upper epoch limit")
    add("--batch_size", type=positive_int, default=40, metavar="N", help="batch size")
    add("--bptt", type=positive_int, default=70, help="sequence length in steps")
    add("--lr_decay", type=factor, default=4.0, help="what the learning rate is divided by")
    add_progress_flags(add, nonmono=5, patience=20)
    add("--seed", type=nonnegative_int, default=None, help="random seed (default: a fresh one, recorded in args.yaml)")


def add_hyperparameter_flags(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument_group("regularization").add_argument
    add("--dropouto", type=rate, default=0.05, help="dropout of the last layer's output")
    add("--dropouth", type=rate, default=0.05, help="dropout between layers")
    add("--dropouti", type=rate, default=0.05, help="dropout of the embedded input")
    add("--dropoute", type=rate, default=0.05, help="dropout of word types")
    add("--wdrop", type=rate, default=0.05, help="DropConnect on the recurrent weights")
    add("--alpha", type=nonnegative, default=0.0, help="activation regularization, AR")
    add("--beta", type=nonnegative, default=0.0, help="temporal activation regularization, TAR")


def add_run_flags(parser: argparse.ArgumentParser, log_interval: tuple[str, ...], every: int) -> None:
    """log_interval: the names of the flag for how many weight steps lie between log entries. every: its default."""
    add = parser.add_argument_group("data, device and logs").add_argument
    add_data_flag(add, "train.txt, valid.txt and test.txt", "data/penn", "corpus")
    add_machine_flags(add)
    add("--disable_cuda", action="store_true", help="use the CPU even where there is a GPU")
    add("--gpu", type=nonnegative_int, default=0, help="which GPU to use")
    add("--no_cuda_graphs", action="store_true", help="on a GPU, launch a sequence's kernels one by one")
    add("--save_dir", default="saves", help="the runs' folder below logs/")
    add("--prefix", default=None, help="tells this run's folder from others of the same day")
    add(
        "--save",
        type=model_name,
        default="model.pt",
        metavar="FILE",
        help="file of the best model, in the run's folder",
    )
    add(
        *log_interval,
        dest="train_log_interval",
        type=positive_int,
        default=every,
        metavar="N",
        help="weight steps from one log entry to the next",
    )
    add("--overwrite", action="store_true", help="redo a run that is there, removing what it wrote")
    may_differ = "the number of epochs, the patience, the log and checkpoint intervals and --no_cuda_graphs"
    add_resume_flags(add, "the newest of this --save_dir and --prefix", may_differ)


def model_name(text: str) -> str:
    if Path(text).name != text or not text.endswith(".pt") or text == "checkpoint.pt":
        raise argparse.ArgumentTypeError(f"'{text}' is not a file name ending in .pt, other than checkpoint.pt")
    return text
