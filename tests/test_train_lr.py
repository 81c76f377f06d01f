"""The learning rates' command line, end to end on a small network and a few images."""

import re

import pytest
import torch
from cnn_runs import only_run, runs, same
from lstm_runs import execute, rebuilt, rows, settings, values_of, without_time
from lstm_runs import refused as refused_by
from torch import nn
from torch.optim.lr_scheduler import CosineAnnealingWarmRestarts, ExponentialLR, StepLR

import stn
from cnn import train_lr
from cnn.models import LeNet, Perceptron
from stn.datasets import builtin_images
from stn.hypergradients.policies import HD, MARTHE, RTHO
from stn.runs.checkpoints import read_checkpoint
from stn.scripts import course

MACHINE = "--dtype float32 --batch-size 30 --threads 1 --no-cuda"
SMALL = f"--network lenet --dataset mnist --data builtin {MACHINE}"
COLOUR = "--network lenet --dataset cifar_10 --data builtin"
STEPS = 6  # weight steps of an epoch of 170 images in mini-batches of 30
TUNED = ("marthe", "rtho", "hd")
DECAYED = ("constant", "staircase", "ed", "cyclic")

pytestmark = pytest.mark.usefixtures("few_images", "same_threads")


@pytest.fixture
def run(tmp_path, capsys):
    """run(flags): the command line on a few images, logging below tmp_path; (exit status, stdout, stderr)."""

    def command(flags="", small=SMALL, script=train_lr):
        given = [] if "--resume" in flags or "--test" in flags else [*small.split(), "--num-epoch", "2"]
        return execute(script, ["--logdir", tmp_path / "logs", *given, *flags.split(), "--log-interval", "1"], capsys)

    return command


def refused(outcome, *words):
    refused_by(outcome, *words, script="train_lr.py")


def trainer_of(flags):
    """The trainer of a new run, that logs nothing."""
    values = values_of(train_lr, f"{SMALL} {flags}")
    made = train_lr.SCRIPT.make(values)
    _, hyper, task = course.build(made, train_lr.SCRIPT.sources(values))
    return course.unlogged(made, task, hyper)


def column(folder, table, name="lr"):
    return [float(row[name]) for row in rows(folder / f"{table}.csv")]


# Runs


@pytest.mark.parametrize("scheduler", [*TUNED, *DECAYED])
def test_a_run_of_each_scheduler_leaves_its_files(run, tmp_path, scheduler):
    status, out, _ = run(f"--lr-scheduler {scheduler}")
    assert status == 0
    first, second, *_ = out.splitlines()
    assert first.startswith("lenet, learning rate 0.01, ") and second == "built-in grey images"
    folder = only_run(tmp_path)
    assert folder.parents[1] == tmp_path / "logs" / "learning-rates"
    rates = {"marthe": ["lr", "hyper_lr", "mu"], "rtho": ["lr", "hyper_lr"], "hd": ["lr", "hyper_lr"]}
    losses = ["train_loss", "val_loss", "train_acc", "val_acc"]
    assert [*rows(folder / "epoch.csv")[0]] == ["epoch", "time", *losses, *rates.get(scheduler, ["lr"])]
    by_step = rates.get(scheduler, ["lr"] if scheduler == "cyclic" else [])
    assert [*rows(folder / "train.csv")[0]] == ["global_step", "time", "loss", "acc", *by_step, "train_step"]
    assert len(rows(folder / "train.csv")) == 2 * STEPS and len(rows(folder / "epoch.csv")) == 2


@pytest.mark.parametrize(("scheduler", "policy"), [("marthe", MARTHE), ("rtho", RTHO), ("hd", HD)])
def test_hypergradients_are_those_of_the_scheduler(scheduler, policy):
    rate = trainer_of(f"--lr-scheduler {scheduler} --lr 0.5 --hyper-lr 0.25").learning_rate
    assert type(rate) is policy and (rate.value, rate.hyper_lr) == (0.5, 0.25)


def test_how_marthe_is_set():
    rate = trainer_of("--alpha 0.5 --mu 0.25 --first-order").learning_rate
    assert (rate.alpha, rate.mu, rate.first_order, rate.adapts) == (0.5, 0.25, True, False)
    rate = trainer_of("--mu -1").learning_rate
    assert (rate.alpha, rate.hyper_lr, rate.adapts) == (1e-6, 1e-8, True)


@pytest.mark.parametrize("scheduler", TUNED)
@pytest.mark.parametrize("optimizer", ["sgd", "adam", "adamw"])
def test_each_optimizer_is_tuned(run, tmp_path, scheduler, optimizer):
    assert run(f"--lr-scheduler {scheduler} --optimizer {optimizer} --hyper-lr 1e-3 --num-epoch 1")[0] == 0
    found = column(only_run(tmp_path), "train")
    assert len({*found}) > 2 and all(0 < lr < 1 for lr in found)


def test_what_the_optimizers_are():
    sgd, adam, adamw = (
        trainer_of(f"--lr 0.5 --wd 0.25 {flags}").method.main_update.optimizer
        for flags in ("--momentum 0.75 --nesterov", "--optimizer adam", "--optimizer adamw")
    )
    kinds = [type(optimizer) for optimizer in (sgd, adam, adamw)]
    assert kinds == [torch.optim.SGD, torch.optim.Adam, torch.optim.AdamW]
    groups = [optimizer.param_groups[0] for optimizer in (sgd, adam, adamw)]
    assert all((group["lr"], group["weight_decay"]) == (0.5, 0.25) for group in groups)
    assert (groups[0]["momentum"], groups[0]["nesterov"]) == (0.75, True)
    assert all((group["eps"], group["betas"]) == (1e-4, (0.9, 0.999)) for group in groups[1:])


@pytest.mark.parametrize(
    ("flags", "momentum"),
    [
        *((f"--lr-scheduler {scheduler}", 0.9) for scheduler in ("rtho", "marthe")),
        ("--lr-scheduler hd", 0.0),
        *((f"--lr-scheduler {scheduler}", 0.0) for scheduler in DECAYED),
        ("--lr-scheduler marthe --momentum 0", 0.0),
        ("--lr-scheduler ed --momentum 0.5", 0.5),
    ],
)
@pytest.mark.filterwarnings("ignore:.* is a constant learning rate")
def test_the_momentum_where_it_is_not_given(flags, momentum):
    assert values_of(train_lr, f"{SMALL} {flags}")["momentum"] == momentum


@pytest.mark.parametrize(("flags", "limit"), [("", 100.0), ("--grad-clipping 0.01", 0.01), ("--grad-clipping 0", 1e9)])
def test_the_gradients_entries_are_clipped(flags, limit):
    trainer = trainer_of(flags)
    update = trainer.method.main_update
    seen = []
    update.watchers.append(lambda parameters: seen.extend(own.grad.abs().max().item() for own in parameters))
    trainer.weight_step()
    assert update.clip_value == (limit if limit < 1e9 else float("inf"))
    assert (max(seen) == pytest.approx(limit)) is (limit == 0.01) and max(seen) <= limit * (1 + 1e-6)


def test_the_first_steps_are_those_of_torchs_own_loop(run, tmp_path):
    """The recorded losses, of a network that a plain loop trains with the same weights and images."""
    assert run("--lr-scheduler ed --lr-decay 0.5 --lr 0.2 --momentum 0.5 --wd 0.01 --num-epoch 1")[0] == 0
    folder = only_run(tmp_path)
    _, _, task = rebuilt(train_lr, folder)
    optimizer = torch.optim.SGD(task.model.parameters(), 0.2, momentum=0.5, weight_decay=0.01)
    task.model.train()
    losses = []
    for _ in range(STEPS):
        pixels, labels, _ = task.batch("train")
        grey = task.normalization
        images = (pixels / 255 - grey.mean[0] / grey.white) / (grey.deviation[0] / grey.white)
        loss = nn.functional.cross_entropy(task.model(images), labels)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert column(folder, "train", "loss") == pytest.approx(losses, rel=1e-5)


# Decays


def torchs(make, epochs, each_step=False):
    """The learning rates that one of torch's schedulers has after each step, or during each epoch."""
    optimizer = torch.optim.SGD([nn.Parameter(torch.zeros(()))], 0.5)
    scheduler, found = make(optimizer), []
    for _ in range(epochs * (STEPS if each_step else 1)):
        optimizer.step()
        if not each_step:
            found.append(optimizer.param_groups[0]["lr"])
        scheduler.step()
        if each_step:
            found.append(optimizer.param_groups[0]["lr"])
    return found


@pytest.mark.parametrize(
    ("flags", "make"),
    [
        ("staircase --step-size 2 --lr-decay 0.25", lambda optimizer: StepLR(optimizer, 2, 0.25)),
        ("ed --lr-decay 0.5", lambda optimizer: ExponentialLR(optimizer, 0.5)),
        ("constant", lambda optimizer: ExponentialLR(optimizer, 1.0)),
    ],
)
def test_decays_by_epoch_are_torchs(run, tmp_path, flags, make):
    assert run(f"--lr 0.5 --lr-scheduler {flags} --num-epoch 5")[0] == 0
    assert column(only_run(tmp_path), "epoch") == pytest.approx(torchs(make, 5))


def test_cosines_are_torchs_stepped_by_mini_batch(run, tmp_path):
    assert run("--lr 0.5 --lr-scheduler cyclic --t-0 1 --t-mult 2 --num-epoch 4")[0] == 0

    def make(optimizer):
        return CosineAnnealingWarmRestarts(optimizer, STEPS, 2, eta_min=0.5e-4)

    expected = torchs(make, 4, each_step=True)
    assert expected[STEPS - 1] == expected[3 * STEPS - 1] == 0.5  # restarted
    taken = [0.5, *expected[:-1]]
    assert column(only_run(tmp_path), "train") == pytest.approx(taken)
    assert column(only_run(tmp_path), "epoch") == pytest.approx(taken[STEPS - 1 :: STEPS])


@pytest.mark.parametrize("scheduler", ["staircase", "ed"])
def test_a_decay_that_does_not_decay_is_told(run, scheduler):
    status, _, error = run(f"--lr-scheduler {scheduler} --num-epoch 1")
    told = f"train_lr.py: --lr-scheduler {scheduler} with --lr-decay 1 is a constant learning rate: give a factor"
    assert status == 0 and error.startswith(told) and error.count("\n") == 1
    assert "is a constant" not in run(f"--lr-scheduler {scheduler} --lr-decay 0.5 --num-epoch 1")[2]


# Tuned rates


def test_marthe_that_takes_no_steps_is_a_constant_learning_rate(run, tmp_path):
    """The same losses, too, of the first epoch; the validation images are shuffled before the second."""
    assert run("--lr-scheduler constant --momentum 0.9 --lr 0.05 --subdir constant")[0] == 0
    assert run("--lr-scheduler marthe --hyper-lr 0 --alpha 0 --lr 0.05 --subdir marthe")[0] == 0
    constant, marthe = runs(tmp_path)
    assert column(marthe, "train") == [0.05] * 2 * STEPS and column(marthe, "epoch") == [0.05] * 2
    losses = [column(folder, "train", "loss")[:STEPS] for folder in (constant, marthe)]
    assert losses[0] == pytest.approx(losses[1], rel=1e-6)


@pytest.mark.parametrize(
    "flags",
    [
        "--lr-scheduler marthe --hyper-lr 1e-3 --alpha 0.1",
        "--lr-scheduler marthe --hyper-lr 1e-3 --mu -1 --optimizer adamw",
        "--lr-scheduler hd --hyper-lr 1e-3",
        "--lr-scheduler cyclic --t-0 1",
        "--lr-scheduler staircase --step-size 1 --lr-decay 0.5",
    ],
)
def test_a_run_that_goes_on_is_the_same(run, tmp_path, flags):
    assert run(f"{flags} --lr 0.05 --num-epoch 3 --subdir whole")[0] == 0
    assert run(f"{flags} --lr 0.05 --num-epoch 1 --subdir parts")[0] == 0
    parts, whole = runs(tmp_path)
    assert run(f"--resume {parts} --num-epoch 3")[0] == 0
    for table in ("train.csv", "epoch.csv"):
        assert without_time(parts / table) == without_time(whole / table)
    states = [read_checkpoint(folder).state for folder in (parts, whole)]
    assert all(same(states[0][part], states[1][part]) for part in ("model", "method", "learning_rate", "streams"))
    assert len({*column(whole, "epoch")}) > 1 or "cyclic" in flags


def test_a_step_size_is_searched_for(run, tmp_path):
    status, out, _ = run("--find-hyper-lr 3 --lr 0.05")
    assert status == 0 and not (tmp_path / "logs").exists()
    lines = out.splitlines()
    assert lines[0] == "lenet, learning rate 0.05, tuned by marthe" and lines[2].startswith("probes of 3 weight steps")
    assert lines[3].split() == ["step", "size", "learning", "rate", "validation", "loss"]
    assert lines[4].split()[:3] == ["0", "(constant)", "0.05"] and len(lines) == 5 + 8 + 1
    assert re.match(r"recommended: --hyper-lr \S+", lines[-1])
    status, out, _ = run("--find_hyper_lr 3 --lr 0.05 --hyper_lr 1e-3")
    assert status == 0 and re.match(r"recommended: --alpha \S+", out.splitlines()[-1])


# Replays


def test_a_tuned_learning_rate_is_replayed(run, tmp_path):
    assert run("--hyper-lr 1e-3 --lr 0.05 --subdir first")[0] == 0
    (first,) = runs(tmp_path)
    lrs = column(first, "train")
    assert len({*lrs}) > 5
    status, out, _ = run(f"--load-schedule {first / 'train.csv'} --subdir second")
    assert status == 0 and out.startswith(f"lenet, learning rate replayed from {first / 'train.csv'}\n")
    replayed = column(runs(tmp_path)[1], "train")  # what the next step takes
    assert replayed == pytest.approx(lrs) and column(runs(tmp_path)[1], "train", "hyper_lr") == [0.0] * 2 * STEPS


def test_a_decayed_learning_rate_is_replayed(run, tmp_path):
    """With the settings of its run it is that run again."""
    assert run("--lr-scheduler ed --lr-decay 0.5 --lr 0.05 --num-epoch 3 --subdir first")[0] == 0
    (first,) = runs(tmp_path)
    assert run(f"--config {first} --load_schedule {first / 'epoch.csv'} --subdir second", small="")[0] == 0
    replay = runs(tmp_path)[1]
    expected = [0.05, 0.025, 0.0125]
    assert column(first, "epoch") == pytest.approx(expected)
    assert column(replay, "epoch") == pytest.approx(expected[:2])
    assert column(replay, "epoch", "val_loss") == pytest.approx(column(first, "epoch", "val_loss")[:2], rel=1e-6)
    (first / "epoch.csv").unlink()
    assert run(f"--resume {replay} --num-epoch 3")[0] == 0  # from its own copy
    assert column(replay, "epoch") == pytest.approx(expected)


@pytest.mark.parametrize("flag", ["lr 1", "lr-scheduler ed", "hyper_lr 1", "lr-decay 0.5", "mu 0.5", "first-order"])
def test_a_replayed_learning_rate_has_no_flags(run, tmp_path, flag):
    (tmp_path / "epoch.csv").write_text("epoch,lr\n0,0.5\n")
    name = flag.split()[0].replace("_", "-")
    refused(run(f"--load_schedule {tmp_path / 'epoch.csv'} --{flag}"), f"--{name} contradicts", "which sets lr")


# Files


def test_the_best_model_is_saved_where_it_is_asked_for(run, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert run("--lr-scheduler constant --lr 0.1 --num-epoch 3 --model-loc mine.pt")[0] == 0
    model, hyper = stn.load_model("mine.pt")
    assert isinstance(model, LeNet) and model.arguments == {"classes": 10, "shape": (1, 28, 28)} and not hyper.names
    best = read_checkpoint(only_run(tmp_path)).state["best"]["model"]
    assert same(dict(model.state_dict()), dict(best))
    assert settings(only_run(tmp_path))["model_loc"] == str(tmp_path / "mine.pt")


def test_a_run_is_tested_and_left_alone(run, tmp_path, capsys):
    assert run("--lr-scheduler constant")[0] == 0
    before = {file: file.read_bytes() for file in only_run(tmp_path).glob("*.csv")}
    status, out, _ = execute(train_lr, ["--test", "--resume", only_run(tmp_path)], capsys)
    assert status == 0 and "test loss" in out
    assert before == {file: file.read_bytes() for file in only_run(tmp_path).glob("*.csv")}


# Flags

PUBLISHED = {
    "network": "vgg", "dataset": "cifar10", "num_epoch": 200, "batch_size": 128, "optimizer": "sgd", "lr": 0.01,
    "momentum": 0.9, "wd": 5e-4, "hyper_lr": 1e-8, "alpha": 1e-6, "grad_clipping": 100.0, "mu": 0.99999,
    "first_order": False, "step_size": 30, "lr_decay": 1.0, "t_0": 10, "t_mult": 2, "seed": 42,
}  # fmt: skip


def test_the_published_defaults():
    defaults = train_lr.SCRIPT.defaults()
    assert {name: defaults[name] for name in PUBLISHED} == PUBLISHED
    tuning = {"valid_lr", "tune_scales", "method", "response_lr", "tune_lr", "lr_hyper_lr", "nonmono", "patience"}
    assert not tuning & defaults.keys()


@pytest.mark.parametrize("name", [name for name in train_lr.SCRIPT.defaults() if "_" in name])
def test_flags_have_hyphens_or_underscores(name):
    flags = {flag.name: flag for flag in [*train_lr.SCRIPT.flags.values(), *train_lr.SCRIPT.course_flags]}
    words = {"model_loc": "/some/my_model.pt", "load_schedule": "my_table.csv", "lr_scheduler": "ed"}
    word = words.get(name, "0.5" if name in ("percent_valid", "lr_decay") else "1")
    words = [] if flags[name].check is None else [word]
    given = train_lr.SCRIPT.parse([f"--{name}", *words])
    assert given.keys() == {name}
    assert train_lr.SCRIPT.parse([f"--{name.replace('_', '-')}", *words]) == given
    if words:
        assert train_lr.SCRIPT.parse([f"--{name}={word}"]) == given
        assert given[name] == flags[name].check(word)


@pytest.mark.parametrize(("network", "kind"), [("lenet", LeNet), ("mlp", Perceptron)])
def test_networks_have_the_images_shape_and_classes(network, kind):
    model = trainer_of(f"--network {network}").task.model
    assert type(model) is kind and model.arguments["shape"] == (1, 28, 28) and model.arguments["classes"] == 10


@pytest.mark.parametrize(
    ("dataset", "name", "share"),
    [
        ("mnist", "mnist", 0.15),
        ("fashion_mnist", "fashion_mnist", 0.15),
        ("fashionmnist", "fashion_mnist", 0.15),
        ("cifar_10", "cifar10", 0.2),
        ("cifar_100", "cifar100", 0.2),
        ("cifar10", "cifar10", 0.2),
    ],
)
def test_data_sets_and_their_splits(dataset, name, share):
    values = values_of(train_lr, f"--dataset {dataset} --data builtin")
    assert (values["dataset"], values["percent_valid"]) == (name, share)


def test_a_run_may_train_on_the_first_images_only(run, tmp_path):
    given = [values_of(train_lr, f"{SMALL} {flags}") for flags in ("", "--num-train 64")]
    whole, some = (train_lr.SCRIPT.make(values).read_data() for values in given)
    assert len(whole.train) == 170 and torch.equal(some.train.pixels, whole.train.pixels[:64])
    assert torch.equal(some.train.labels, whole.train.labels[:64])
    assert torch.equal(some.valid.pixels, whole.valid.pixels) and some.checksum == whole.checksum
    status, out, _ = run("--num-train 64 --num-epoch 1")
    assert status == 0 and "64 / 30 / " in out and len(rows(only_run(tmp_path) / "train.csv")) == 3


def test_images_of_files_are_normalized_as_published(monkeypatch):
    pair = builtin_images.builtin_images()
    monkeypatch.setattr("stn.datasets.images.load_cifar10", lambda _: pair)
    values = {**values_of(train_lr, f"{COLOUR} --batch-size 30"), "data": "README.md"}
    normalization = train_lr.SCRIPT.make(values).read_data().normalization
    assert (normalization.mean, normalization.white) == ((0.4914, 0.4822, 0.4465), 1.0)


def test_colour_images_are_trained_on(run, tmp_path):
    assert run("--lr-scheduler marthe --num-epoch 1", small=f"{COLOUR} {MACHINE}")[0] == 0
    assert len(rows(only_run(tmp_path) / "train.csv")) == STEPS


def test_images_that_are_not_there_are_stood_in_for_by_others(run, monkeypatch, tmp_path):
    monkeypatch.setattr("cnn.datasets.ROOT", tmp_path)
    small = SMALL.replace("--data builtin", "").replace("mnist", "cifar_100")
    status, out, _ = run("--num-epoch 1 --lr-scheduler constant", small=small)
    assert status == 0 and out.splitlines()[1].startswith("no data/cifar100 (")
    assert out.splitlines()[1].endswith("using the built-in images of 10 classes")


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        ("--network alexnet", ("--network", "alexnet", "lenet, mlp, vgg")),
        ("--dataset svhn", ("--dataset", "'svhn' is none of mnist, fashion_mnist, cifar_10, cifar_100")),
        ("--network mlp --dataset cifar_100", ("--network mlp is for grey images", "--dataset mnist or fashion_mnist")),
        ("--data nowhere", ("--data nowhere", "does not exist")),
        ("--lr-scheduler linear", ("--lr-scheduler", "linear")),
        ("--optimizer lbfgs", ("--optimizer", "lbfgs")),
        ("--lr 0", ("--lr", "'0'")),
        ("--mu 2", ("--mu", "'2'")),
        ("--tune-lr marthe", ("--tune-lr",)),
        ("--patience 3", ("--patience",)),
        ("--batch-size 31", ("--batch-size 31", "30 validation images", "--percent-valid")),
        ("--num-train 29", ("--batch-size 30", "29 training images", "raise --num-train")),
        ("--num-train 171", ("--num-train 171", "170 training images", "lower it, or --percent-valid")),
        ("--num-train 0", ("--num-train", "'0'")),
        ("--lr-scheduler staircase --hyper-lr 1", ("--hyper-lr has", "give --lr-scheduler marthe or rtho or hd")),
        ("--lr-scheduler hd --alpha 1", ("--alpha has", "give --lr-scheduler marthe or rtho")),
        ("--lr-scheduler hd --first-order", ("--first-order has",)),
        ("--lr-scheduler rtho --mu 0.5", ("--mu has", "give --lr-scheduler marthe,")),
        ("--lr-scheduler ed --t-0 5", ("--t-0 has", "give --lr-scheduler cyclic,")),
        ("--lr-scheduler ed --step-size 5", ("--step-size has", "give --lr-scheduler staircase,")),
        ("--lr-scheduler cyclic --lr-decay 0.5", ("--lr-decay has", "give --lr-scheduler staircase or ed,")),
        ("--t-mult 3", ("--t-mult has", "cyclic")),
        ("--optimizer adam --momentum 0.5", ("--momentum has nothing to act on", "--optimizer sgd")),
        ("--optimizer adamw --nesterov", ("--nesterov has nothing to act on", "--optimizer sgd")),
        ("--lr-scheduler constant --nesterov", ("--nesterov has nothing to act on", "--momentum above 0")),
        ("--lr-scheduler constant --find-hyper-lr", ("--find-hyper-lr has nothing", "marthe")),
        ("--find-hyper-lr --load-schedule {table}", ("--find-hyper-lr has nothing", "marthe")),
        ("--load-schedule {other}", ("other.csv", "no column of")),
        ("--model-loc {tmp}/nowhere/model.pt", ("--model-loc", "there is no folder", "nowhere")),
        ("--model-loc {tmp}", ("--model-loc", "is a folder")),
        ("--model-loc {other}/model.pt", ("--model-loc",)),
    ],
)  # fmt: skip
def test_flags_that_cannot_be(run, tmp_path, flags, words):
    files = {name: tmp_path / f"{name}.csv" for name in ("table", "other")}
    files["table"].write_text("epoch,lr\n0,0.5\n")
    files["other"].write_text("epoch,loss\n0,0.5\n")
    refused(run(flags.format(**files, tmp=tmp_path)), *words)
    assert not (tmp_path / "logs").exists()


def test_a_loss_that_is_not_finite_ends_the_run_as_diverged(run, tmp_path):
    refused(run("--lr-scheduler constant --lr 1e30"), "not finite at step", "learning rate")
    assert (only_run(tmp_path) / "status").read_text() == "diverged\n"
