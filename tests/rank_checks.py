"""What a run on ranks does that a run in one process does too.

Imported, the functions train in this process; as a script (RANK and the like in the environment), they train on two
ranks, and each rank leaves what it found in a file of the folder that is the script's argument.
"""

import io
import math
import sys
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path

if __name__ == "__main__":
    sys.path[:0] = [str(Path(__file__).resolve().parent.parent)]

import torch
import torch.nn.functional as F
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

import stn
from cnn import hypertrain
from cnn.models import MLP
from cnn.task import ImageClassification
from lstm import train
from lstm.model import AWDLSTM
from lstm.task import LanguageModeling
from stn.bilevel import evaluate
from stn.datasets import builtin_images
from stn.datasets.images import Images, ImageSets, Normalization
from stn.datasets.text import Corpus
from stn.dropout import drop_connect, dropout
from stn.errors import UserError
from stn.learning_rates import LearningRate
from stn.ranks import ALONE, ranks_here
from stn.recorder import Recorder, Unlogged, Unseen
from stn.training import Plan, Trainer

COLUMNS, CLASSES = 9, 10
ABOVE_0, RATE = (0.0, math.inf), (0.0, 1.0)


class Kept(Unlogged):
    """A run's folder in memory: what was logged, without times, and the last checkpoint."""

    def __init__(self):
        super().__init__({})
        self.logged, self.checkpoint = [], None

    def log(self, table, row):
        self.logged.append((table, {name: cell for name, cell in row.items() if name != "time"}))

    def scalars(self, step, values):
        self.logged.append((step, {name: cell for name, cell in values.items() if "per_second" not in name}))

    def save_checkpoint(self, state):
        self.checkpoint = copied(state)


def copied(state):
    file = io.BytesIO()
    torch.save(state, file)
    file.seek(0)
    return torch.load(file, weights_only=True)


# What is trained: each returns (task, hyperparameters), with nothing that is dropped per example unless asked for


def language_model(drops=0.0):
    """Nine columns, so that the first of two ranks has one more; what is shared is perturbed and dropped."""
    random = torch.Generator().manual_seed(3)
    splits = (torch.randint(7, (size,), generator=random) for size in (540, 250, 60))
    corpus = Corpus(*splits, vocabulary=tuple("abcdefg"), checksum="")
    shared = {"per_example": False}
    hyper = stn.Hyperparameters(
        **{name: stn.Tuned(0.05, ABOVE_0, **shared) for name in ("alpha", "beta")},
        **{name: stn.Tuned(0.2, RATE, **shared) for name in ("wdrop", "dropoute")},
        **{name: stn.Constant(drops) for name in ("dropouti", "dropouth")},
        dropouto=stn.Tuned(drops, RATE) if drops else stn.Constant(0.0),
        unread=stn.Tuned(0.5, RATE),  # differs between examples, and acts through the response alone
    )
    return LanguageModeling(AWDLSTM(7, 4, 5, 2, hyper.num_tuned), corpus, COLUMNS, 7), hyper


def classifier(drops=0.0):
    """25 images in mini-batches of 8, the last one of a pass has one, of which the second of two ranks has none."""
    random = torch.Generator().manual_seed(4)

    def images(count):
        pixels = torch.randint(256, (count, 1, 28, 28), generator=random, dtype=torch.uint8)
        return Images(pixels, torch.randint(CLASSES, (count,), generator=random))

    sets = ImageSets(*map(images, (25, 17, 9)), (), "", Normalization((127.0,), (60.0,), 255.0))
    hyper = stn.Hyperparameters(
        wdecay=stn.Tuned(0.01, ABOVE_0, per_example=False),
        **{"fcdropout1": stn.Tuned(drops, RATE)} if drops else {},
        unread=stn.Tuned(0.5, RATE),
    )
    return ImageClassification(MLP(hyper.num_tuned, width=0.01), sets, 8), hyper


CASES = {
    "language model, STN": (language_model, stn.STN, {"tune_scales": True}, {}),
    "language model, Δ-STN": (language_model, stn.DeltaSTN, {}, {}),
    "language model, accumulated": (language_model, stn.DeltaSTN, {"accumulate": 2, "tune_scales": True}, {}),
    "classifier, STN": (classifier, stn.STN, {"accumulate": 2}, {}),
    "classifier, Δ-STN": (classifier, stn.DeltaSTN, {"tune_scales": True}, {}),
    "classifier, HD": (classifier, stn.STN, {}, {"rate": lambda: stn.HD(0.1, hyper_lr=1e-3)}),
    "language model, dropout": (language_model, stn.STN, {"tune_scales": True}, {"drops": 0.4}),
    "classifier, dropout": (classifier, stn.DeltaSTN, {}, {"drops": 0.4}),
}
CLIPS = {language_model: 0.05, classifier: 1.0}
EPOCHS = {language_model: 2, classifier: 4}
STOPPED = 7  # weight steps before a run is stopped that is resumed then: in the middle of an epoch


def trained(case, ranks=ALONE, stop=None, checkpoint=None):
    """Train a case from its start or a checkpoint; what was found.

    steps (n, P): every parameter after each weight step. norms: of gradients, in units of the clip. dropped: the
    pattern of zeros (columns, features) in each step's first outputs.
    """
    make, method, options, other = CASES[case]
    torch.manual_seed(7)
    torch.set_default_dtype(torch.float64)
    try:
        task, hyper = make(other.get("drops", 0.0))
        clip = CLIPS[make]
        way = method(task.model, hyper, lr=0.5, clip=clip, **options)
        steps, norms, dropped = [], [], []

        def on_step(trainer):
            everything = (*task.model.parameters(), *hyper.parameters())
            steps.append(torch.cat([parameter.detach().flatten() for parameter in everything]))
            norms.append(trainer.method.main_update.norm.item() / clip)

        if make is language_model and other:
            losses = task.loss

            def loss(prediction, *arguments):
                if task.model.training:
                    dropped.append((prediction.dropped[0] == 0).tolist())
                return losses(prediction, *arguments)

            task.loss = loss
        run = Kept()
        rate = other.get("rate", lambda: LearningRate(0.5))()
        recorder = Recorder(task, hyper, run, Unseen())
        plan = Plan(EPOCHS[make], warmup_steps=2, checkpoint_seconds=1e9)
        trainer = Trainer(task, hyper, way, rate, recorder, plan, on_step=on_step)
        trainer.stop = lambda: stop is not None and trainer.train_step >= stop
        if ranks.size > 1:
            trainer.share_among(ranks)
        if checkpoint is not None:
            trainer.load_state_dict(copied(checkpoint))
        trainer.train()
        scores = {split: tuple(evaluate(task, hyper, split, ranks))[:2] for split in ("valid", "test")}
    finally:
        torch.set_default_dtype(torch.float32)
    return {
        "steps": torch.stack(steps),
        "norms": norms,
        "logged": run.logged,
        "scores": scores,
        "dropped": dropped,
        "checkpoint": run.checkpoint,
        "values": dict(zip(hyper.log_names, hyper.log_values().tolist(), strict=True)),
    }


# stn.fit


class Sampling(nn.Module):
    """Draws random numbers in evaluation too, as a variational autoencoder does, and ignores them."""

    def forward(self, x):
        return x + 0 * torch.randn_like(x)


def fitted(folder, drops=True, **options):
    """`stn.fit` on a DataLoader that shuffles, the last mini-batch of one example: the network's weights."""
    random = torch.Generator().manual_seed(1)
    torch.set_default_dtype(torch.float64)
    try:
        torch.manual_seed(5 + ranks_here().rank)  # the first one's weights and orders are what counts
        hyper = stn.Hyperparameters(
            rate=stn.Tuned(0.2, range=RATE), decay=stn.Tuned(0.01, range=ABOVE_0, per_example=False)
        )
        layers = [nn.Linear(4, 6), nn.Tanh(), *[Sampling(), nn.Dropout(0.5)] * drops, nn.Linear(6, 2)]
        net = stn.convert(nn.Sequential(*layers), hyper, **{"dropout": "rate"} if drops else {})
        x = torch.randn(45, 4, generator=random)
        data = TensorDataset(x, (x[:, 0] * x[:, 1] > 0).long())
        result = stn.fit(
            net,
            hyper,
            loss=F.cross_entropy,
            accuracy=lambda output, target: (output.argmax(1) == target).double().mean(),
            train=DataLoader(torch.utils.data.Subset(data, range(25)), 8, shuffle=True),
            valid=DataLoader(torch.utils.data.Subset(data, range(25, 45)), 8, shuffle=True),
            optimizer=torch.optim.Adam(net.parameters(), 0.05),
            weight_decay="decay",
            run=folder,
            **{"epochs": 3, "warmup_steps": 2, **options},
        )
    finally:
        torch.set_default_dtype(torch.float32)
    return {"weights": [weight.detach() for weight in net.parameters()], "completed": result.completed}


def after(steps):
    """A stop after so many questions."""
    asked = iter(range(10**6))
    return lambda: next(asked) == steps


# Command lines


def command(script, argv):
    """A script's main: its exit status and what it shows, at all."""
    out, error = io.StringIO(), io.StringIO()
    with redirect_stdout(out), redirect_stderr(error):
        try:
            status = script.main([str(word) for word in argv])
        except SystemExit as stop:
            status = stop.code
    return {"status": status, "out": out.getvalue(), "error": error.getvalue()}


LM = "--dtype float32 --emsize 4 --nhid 5 --batch_size 5 --bptt 6 --lr 1 --threads 1 --disable_cuda --seed 3"
TUNED = "--tune_all --tune_scales --warmup_steps 2"
CNN = "--data builtin --dtype float32 --threads 1 --no_cuda --seed 3"
REFUSED = {  # by what is refused: the script, its flags, words of the line
    "no number": (train, f"{LM} --epochs many", ["--epochs", "many"]),
    "small batch": (train, f"{LM} --batch_size 1", ["2 ranks share mini-batches of 1 examples"]),
    "marthe": (train, f"{LM} --tune_lr marthe --lr_hyper_lr 1e-4", ["second derivatives"]),
    "gpu": (train, f"{LM} --gpu 0", ["--gpu", "every rank takes a GPU of its own"]),
    "test": (train, "--test", ["--test", "without torchrun"]),
    "find_hyper_lr": (train, f"{LM} --tune_lr hd --find_hyper_lr", ["--find_hyper_lr", "without torchrun"]),
    "batch norm": (
        hypertrain,
        f"{CNN} --model vgg16 --batch_norm --width 0.02 --batch_size 16 --tune_all",
        ["batch normalization would normalize each rank's share by itself"],
    ),
    "divergence": (train, f"{LM} --lr 1e30 {TUNED}", ["is not finite at step", "start anew"]),
}


# What only ranks do


def round_trips(ranks):
    """Whether `whole` undoes `part`, by the number of examples and the axis."""
    found = {}
    for examples in range(1, 8):
        for axis in (0, 1):
            whole = torch.arange(3.0 * examples).reshape((examples, 3) if axis == 0 else (3, examples))
            part = ranks.part(whole, axis)
            found[examples, axis] = torch.equal(ranks.whole(part, examples, axis), whole)
    return found


def aligned(ranks):
    """Of the first rank, whatever the layout; a buffer that repeats one number, and networks that are not the same."""
    layer, first = nn.Linear(2, 3), torch.arange(6.0).reshape(3, 2)
    layer.weight.data = (first if ranks.first else torch.zeros(2, 3).t()) + 0.0
    layer.register_buffer("repeated", torch.ones(1, 1).expand(300, 400))
    ranks.align(layer)
    try:
        ranks.align(nn.Linear(3 + ranks.rank, 3))
    except UserError as error:
        return {"same": torch.equal(layer.weight, first), "told": str(error)}


def agreements(ranks):
    return {
        "any": ranks.any(ranks.rank == 1, False, True),
        "total": ranks.total(torch.tensor([1.0, 10.0]) * (ranks.rank + 1)).tolist(),
        "from_first": ranks.from_first(lambda: ["of", ranks.rank]),
        "of_all": ranks.of_all(ranks.rank * 10),
        "aligned": aligned(ranks),
        "tells": [ranks.tells_first("one"), ranks.tells_first("another"), ranks.tells_first("one")],
    }


def masks(ranks):
    """Of one step: what is drawn for each example, and what is shared."""
    ranks.part_random_numbers()
    hyper = stn.Hyperparameters(rate=stn.Tuned(0.5, range=RATE))
    hyper.ranks = ranks
    draw, ones = hyper.perturbed(5), torch.ones(4, 30)
    return {
        "h": draw.h.detach(),
        "dropout": dropout(ones, 0.5),
        "drop_connect": drop_connect(0.5, ones, generator=draw.generator)[0],
    }


def on_ranks(folder):
    """All of it, in this process as one of two ranks."""
    torch.set_num_threads(1)
    ranks = ranks_here()
    given = torch.load(folder / "given.pt", weights_only=True)
    few = builtin_images.builtin_images(200, 60)
    builtin_images.builtin_images = lambda: few
    found = {"round_trips": round_trips(ranks), "agreements": agreements(ranks), "masks": masks(ranks)}
    for case in CASES:
        found[case] = trained(case, ranks)
    for case in ("language model, STN", "language model, dropout", "classifier, dropout"):
        found[case]["stopped"] = stopped = trained(case, ranks, stop=STOPPED)
        found[case]["resumed"] = trained(case, ranks, checkpoint=stopped["checkpoint"])
    found["from one process"] = trained("language model, STN", ranks, checkpoint=given["checkpoint"])
    shown = io.StringIO()
    with redirect_stdout(shown):
        found["fit"] = fitted(folder / "fit", drops=False)
        found["fit, dropout"] = fitted(folder / "whole")
        found["fit, stopped"] = fitted(folder / "parts", stop=after(5))
        found["fit, resumed"] = fitted(folder / "parts", resume=True)
    found["fit, shown"] = shown.getvalue()
    for name, (script, flags, _) in REFUSED.items():
        place = ["--logdir"] if script is hypertrain else ["--save_dir"]
        data = [] if script is hypertrain or "--test" in flags else ["--data", given["corpus"]]
        found[name] = command(script, [*data, *place, folder / name, *flags.split()])
    more = ["--epochs", given["epochs"]]
    logged = ["--data", given["corpus"], "--save_dir", folder / "uninterrupted"]
    found["uninterrupted"] = command(train, [*logged, *LM.split(), *TUNED.split(), *more])
    for name in ("interrupted", "alone"):
        found[name] = command(train, ["--resume", given[name], *more])
    torch.save(found, folder / f"{ranks.rank}.pt")


if __name__ == "__main__":
    on_ranks(Path(sys.argv[1]))
