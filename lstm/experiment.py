"""What the language-model scripts train: a corpus, an AWD-LSTM, and where their runs lie."""

from argparse import Namespace
from dataclasses import fields
from datetime import date
from pathlib import Path

import torch

from lstm.model import AWDLSTM
from lstm.task import LanguageModeling
from stn.datasets.builtin_text import write_builtin_corpus
from stn.datasets.text import Corpus, load_corpus
from stn.errors import UserError
from stn.kernels.memory import explaining_out_of_memory
from stn.runs.folder import newest_run, newest_unfinished, run_path
from stn.scripts.options import ROOT, find
from stn.scripts.script import choose_device
from stn.training import Settings

PTB = ROOT / "data" / "penn"
MIN_LR = 0.0003  # as published: below it training stops


class LanguageModelingExperiment:
    """An `Experiment`; its flags are those of lstm/flags.py."""

    family = "lstm"
    unit = "tokens"
    measure = "ppl"
    lengthening = frozenset({"epochs", "patience"})
    alterable = lengthening | {"train_log_interval", "val_log_interval", "checkpoint_seconds", "no_cuda_graphs"}

    def device(self, args: Namespace) -> torch.device:
        return choose_device(not args.disable_cuda, args.gpu)

    def load(self, args: Namespace) -> tuple[Corpus, str]:
        if args.lr < MIN_LR:
            raise UserError(f"--lr {args.lr:g} is below {MIN_LR:g}, where training stops: give a higher one")
        folder, description = locate_corpus(args.data)
        args.data = str(folder)
        return load_corpus(folder), description

    def reload(self, args: Namespace) -> Corpus:
        return load_corpus(find(args.data, "the run's --data"))

    def locate(self, args: Namespace) -> str:
        return str(locate_corpus(args.data)[0])

    def task(self, args: Namespace, data: Corpus, num_hyper: int) -> LanguageModeling:
        sizes = len(data.vocabulary), args.emsize, args.nhid, args.nlayers, num_hyper
        with explaining_out_of_memory("the model does not fit into memory: lower --emsize, --nhid or --nlayers"):
            model = AWDLSTM(*sizes, dtype=getattr(torch, args.dtype), cuda_graphs=not args.no_cuda_graphs)
            model.to(args.device)
        val_penalties = vars(args).get("val_penalties", False)  # of hyperparameter steps, where there are any
        return LanguageModeling(model, data, args.batch_size, args.bptt, val_penalties, args.device)

    def settings(self, args: Namespace, task: LanguageModeling) -> Settings:  # noqa: ARG002
        # The flags bear the settings' names.
        names = {field.name for field in fields(Settings)} & vars(args).keys()
        return Settings(min_lr=MIN_LR, **{name: getattr(args, name) for name in names})

    def new_folder(self, args: Namespace) -> Path:
        return run_path(ROOT / "logs" / args.save_dir, args.prefix, date.today())

    def find_run(self, args: Namespace, unfinished: bool) -> Path:
        if args.resume:
            return find(args.resume, "the run")
        newest = newest_unfinished if unfinished else newest_run
        return newest(ROOT / "logs" / args.save_dir, args.prefix)

    def model_file(self, args: Namespace) -> str | None:
        return args.save

    def describe(self, data: Corpus) -> str:
        return (
            f"{len(data.train):,} / {len(data.valid):,} / {len(data.test):,} tokens to train, validate and test, "
            f"{len(data.vocabulary):,} types"
        )


def locate_corpus(data: str | None) -> tuple[Path, str]:
    """The corpus's folder and what to call it. data: what --data says, None where it was not given."""
    if data is None and not PTB.exists():
        folder = write_builtin_corpus(ROOT / "data" / "builtin")
        return folder, "no data/penn (./getdata.sh fetches it): using the built-in corpus"
    if data == "builtin":
        return write_builtin_corpus(ROOT / "data" / "builtin"), "built-in corpus"
    folder = find(data, "--data") if data else PTB
    return folder, f"corpus {folder}"


EXPERIMENT = LanguageModelingExperiment()
