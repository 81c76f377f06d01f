"""`stn.fit` beside the same steps written out, what it logs, goes on from, and refuses."""

import math
import os
import signal
from dataclasses import replace
from functools import partial

import pandas
import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.optim.lr_scheduler import LambdaLR, ReduceLROnPlateau, StepLR
from torch.testing import assert_close
from torch.utils.data import DataLoader, TensorDataset

import stn
from stn.errors import Diverged, UserError
from stn.runs.folder import read_settings
from stn.scripts import figures, runs

EPOCHS, BATCH = 3, 8

pytestmark = pytest.mark.filterwarnings("ignore:training does not read")  # where a test is not of that


class Quiet:
    """Who shows nothing."""

    def started(self, *_):
        pass

    update = epoch_ended = ended = close = started


def data(count, seed):
    random = torch.Generator().manual_seed(seed)
    x = torch.randn(count, 4, generator=random)
    return TensorDataset(x, (x[:, 0] * x[:, 1] + 0.3 * torch.randn(count, generator=random) > 0).long())


def loaders():
    return {
        "train": DataLoader(data(28, 1), BATCH, shuffle=True),
        "valid": DataLoader(data(20, 2), BATCH),
    }


def right(output, target):
    return (output.argmax(1) == target).float().mean()


@pytest.fixture
def made():
    """A network and its hyperparameters, the same each time."""

    def make(feed="centred"):
        torch.manual_seed(5)
        hyper = stn.Hyperparameters(
            rate=stn.Tuned(0.2, range=(0, 1), feed=feed),
            decay=stn.Tuned(0.01, range=(0, math.inf), per_example=False, feed=feed),
        )
        plain = nn.Sequential(nn.Linear(4, 6), nn.Tanh(), nn.Dropout(0.5), nn.Linear(6, 2))
        return stn.convert(plain, hyper, dropout="rate"), hyper

    return make


@pytest.fixture
def fit(folder):
    """stn.fit with what most tests give; learning rates at which something happens in a few steps."""

    def call(net, hyper, optimizer=None, **options):
        optimizer = optimizer or torch.optim.Adam(net.parameters(), 0.05)
        given = {"loss": F.cross_entropy, "epochs": EPOCHS, "run": folder, "progress": Quiet(), **loaders()} | options
        return stn.fit(net, hyper, optimizer=optimizer, **given)

    return call


def weights(net, hyper):
    return {**dict(net.named_parameters()), **dict(hyper.named_parameters())}


def test_it_takes_the_steps_written_out(double, made, fit):  # noqa: ARG001
    """Alternation, warm-up, clipping, weight decay, the smaller mini-batch at the end of a pass, its shuffling."""
    net, hyper = made()
    torch.manual_seed(9)
    result = fit(net, hyper, clip=0.4, weight_decay="decay", warmup_steps=2, train_steps=3, val_steps=2)

    twin, own = made()
    torch.manual_seed(9)
    train, valid = loaders().values()
    optimizer, tuner = torch.optim.Adam(twin.parameters(), 0.05), torch.optim.Adam([own.unconstrained], 0.01)
    decay = stn.WeightDecay(twin, "decay")
    steps, ended = 0, []
    passes = {"train": iter(()), "valid": iter(())}

    def batch(split, loader):
        try:
            return next(passes[split])
        except StopIteration:
            passes[split] = iter(loader)
            return next(passes[split])

    while len(ended) < EPOCHS:
        for _ in range(1 if steps < 2 else 3):
            twin.train()
            draw = own.perturbed(BATCH)
            x, y = batch("train", train)
            optimizer.zero_grad()
            draw = draw.first(len(x))
            (F.cross_entropy(twin(x, draw=draw), y) + decay(draw)).backward()
            nn.utils.clip_grad_norm_(twin.parameters(), 0.4)
            optimizer.step()
            steps += 1
        twin.eval()
        if steps > 2:
            for _ in range(2):
                x, y = batch("valid", valid)
                tuner.zero_grad()
                with stn.frozen(twin):
                    F.cross_entropy(twin(x, draw=own.current()), y).backward()
                tuner.step()
        if steps // 4 > len(ended):
            with torch.no_grad():
                sums = [F.cross_entropy(twin(x, draw=own.current()), y, reduction="sum") for x, y in valid]
            loss = sum(sums).item() / 20
            ended.append((loss, {name: weight.detach().clone() for name, weight in weights(twin, own).items()}))
    losses = pandas.read_csv(result.path / "epoch.csv")["val_loss"]
    assert_close(losses.tolist(), [loss for loss, _ in ended], rtol=1e-12, atol=0)
    best = min(ended, key=lambda end: end[0])
    assert_close(weights(net, hyper), best[1], rtol=1e-12, atol=1e-14)
    assert result.measures["val_loss"] == pytest.approx(best[0], rel=1e-12)


@pytest.mark.parametrize("method", ["stn", "delta_stn", partial(stn.DeltaSTN, linearize=False, hyper_lr=0.1)])
@pytest.mark.parametrize("stop_at", [1, 5, 9])
def test_a_run_goes_on_as_if_it_had_not_been_stopped(made, fit, folder, method, stop_at):
    options = {"method": method, "scheduler_each": "step", "checkpoint_seconds": 1e9, "weight_decay": "decay"}

    def run(path, **more):
        net, hyper = made()
        torch.manual_seed(2)
        optimizer = torch.optim.SGD(net.parameters(), 0.2, momentum=0.9)
        scheduler = LambdaLR(optimizer, lambda step: 0.9**step)
        result = fit(net, hyper, optimizer, run=path, scheduler=scheduler, **options, **more)
        return result, weights(net, hyper)

    whole, expected = run(folder / "whole")
    steps = []
    stopped, _ = run(folder / "parts", on_step=steps.append, stop=lambda: len(steps) >= stop_at)
    assert whole.completed and not stopped.completed
    resumed, found = run(folder / "parts", resume=True)
    assert resumed.completed and resumed.measures == whole.measures
    assert_close(found, expected, rtol=0, atol=0)
    rows = [pandas.read_csv(folder / name / "epoch.csv").drop(columns="time") for name in ("whole", "parts")]
    pandas.testing.assert_frame_equal(*rows)


def test_what_is_logged_follows_what_the_loss_is(made, fit, folder):
    columns = {}
    for name, options in {"loss": {}, "ppl": {"perplexity": True}, "acc": {"accuracy": right}}.items():
        net, hyper = made()
        test = DataLoader(data(12, 3), BATCH)
        result = fit(net, hyper, run=folder / name, test=test, epochs=1, **options)
        columns[name] = {column for column in pandas.read_csv(folder / name / "epoch.csv") if column.startswith("val_")}
        assert {name.removeprefix("test_") for name in result.measures if name.startswith("test_")} == {
            measure.removeprefix("val_") for measure in columns[name]
        }
        with torch.no_grad():
            output, target = net(data(12, 3).tensors[0], draw=hyper.current()), data(12, 3).tensors[1]
        loss = F.cross_entropy(output, target).item()
        other = {"loss": loss, "ppl": math.exp(loss), "acc": right(output, target).item()}[name]
        assert result.measures["test_loss"] == pytest.approx(loss, rel=1e-5)
        assert result.measures[f"test_{name}"] == pytest.approx(other, rel=1e-5)
    assert columns == {"loss": {"val_loss"}, "ppl": {"val_loss", "val_ppl"}, "acc": {"val_loss", "val_acc"}}


def test_a_run_of_losses_alone_is_listed_and_drawn(made, fit, folder, tmp_path, capsys):
    fit(*made())
    lowest = pandas.read_csv(folder / "epoch.csv")["val_loss"].min()
    assert runs.main([str(folder)]) == 0
    told = capsys.readouterr().out
    assert told.startswith("Loss") and f"{lowest:.4f}" in told
    assert figures.main([str(folder), "--out", str(tmp_path / "plots")]) == 0
    assert {file.name for file in (tmp_path / "plots").glob("*.png")} == {"schedules.png", "losses.png"}


def test_accumulated_mini_batches_are_one_step(double, made, fit):  # noqa: ARG001
    """Without a perturbation or dropout, halves of a mini-batch are as good as the whole."""
    found = []
    for size, accumulate in ((8, 1), (4, 2)):
        torch.manual_seed(1)
        hyper = stn.Hyperparameters(shift=stn.Tuned(0.0, scale=0.0))
        net = stn.convert(nn.Linear(4, 2), hyper)
        train = DataLoader(data(16, 1), size)
        optimizer = torch.optim.SGD(net.parameters(), 0.5)
        fit(net, hyper, optimizer, train=train, epochs=2, accumulate=accumulate, overwrite=True)
        found.append(dict(net.named_parameters()))
    assert_close(*found, rtol=1e-12, atol=1e-14)


def test_schedulers_set_the_learning_rates(made, fit):
    net, hyper = made()
    elementary, response = (torch.optim.SGD(part, 0.5) for part in stn.split_parameters(net))
    schedulers = [StepLR(elementary, 1, 0.1), StepLR(response, 2, 0.1)]
    rates = []

    def note(trainer):
        rates.append(tuple(trainer.method.updates[part].optimizer.param_groups[0]["lr"] for part in parts))

    parts = ("elementary", "response")
    result = fit(net, hyper, (elementary, response), method="delta_stn", scheduler=schedulers, on_step=note)
    assert_close(rates, [(0.5, 0.5)] * 4 + [(0.05, 0.5)] * 4 + [(0.005, 0.05)] * 4)
    assert pandas.read_csv(result.path / "epoch.csv")["lr"].tolist() == pytest.approx([0.5, 0.05, 0.005])


def test_a_plateau_scheduler_is_told_the_validation_loss(made, fit):
    net, hyper = made()
    optimizer = torch.optim.SGD(net.parameters(), 0.0)
    scheduler = ReduceLROnPlateau(optimizer, patience=0, threshold=1e9, threshold_mode="abs")
    fit(net, hyper, optimizer, scheduler=scheduler, train_steps=4, val_steps=1)
    assert scheduler.best < math.inf and scheduler.last_epoch == EPOCHS


def test_callbacks_see_each_step_and_each_epoch(made, fit):
    net, hyper = made()
    steps, rows = [], []
    result = fit(
        *(net, hyper),
        on_step=lambda trainer: steps.append(trainer.train_step),
        on_epoch=lambda trainer, row: rows.append((trainer.epoch, row["epoch"], row["val_loss"])),
    )
    assert steps == [*range(1, 4 * EPOCHS + 1)]
    losses = pandas.read_csv(result.path / "epoch.csv")["val_loss"]
    assert rows == [(epoch + 1, epoch, loss) for epoch, loss in enumerate(losses)]


class Documents(nn.Module):
    """As Hugging Face's networks: named inputs, which it passes on by keyword."""

    def __init__(self):
        super().__init__()
        self.words, self.out = nn.Embedding(5, 4), nn.Linear(4, 2)

    def forward(self, input_ids, attention_mask=None):
        return self.out(input=(self.words(input=input_ids) * attention_mask[..., None]).sum(1))


def test_mini_batches_may_be_dictionaries(fit):
    hyper = stn.Hyperparameters(shift=stn.Tuned(0.5, range=(0, 1)))
    net = stn.convert(Documents(), hyper)
    random = torch.Generator().manual_seed(0)
    batches = [
        {
            "input_ids": torch.randint(5, (4, 3), generator=random),
            "attention_mask": torch.ones(4, 3),
            "labels": torch.randint(2, (4,), generator=random),
        }
        for _ in range(3)
    ]
    assert fit(net, hyper, train=batches, valid=batches).completed


@pytest.mark.parametrize("method", ["stn", "delta_stn"])
def test_matrix_products_may_be_in_bfloat16(made, fit, method):
    net, hyper = made()
    kinds = set()
    net.module[0].register_forward_hook(lambda *arguments: kinds.add(arguments[2].dtype))
    assert fit(net, hyper, autocast=torch.bfloat16, method=method, epochs=1).completed
    assert kinds == {torch.bfloat16} and net.module[0].weight.dtype == torch.float32


def test_patience_ends_training(made, fit):
    net, hyper = made()
    optimizer = torch.optim.SGD(net.parameters(), 0.0)
    result = fit(net, hyper, optimizer, epochs=9, patience=2, warmup_steps=8)
    assert result.completed and len(pandas.read_csv(result.path / "epoch.csv")) < 9


def test_ctrl_c_ends_training_with_a_checkpoint(made, fit, capsys):
    net, hyper = made()

    def interrupt(trainer):
        if trainer.train_step == 6:
            os.kill(os.getpid(), signal.SIGINT)

    result = fit(net, hyper, on_step=interrupt, progress=None)
    assert not result.completed and (result.path / "status").read_text().strip() == "interrupted"
    assert "continue with resume=True" in capsys.readouterr().out
    net, hyper = made()
    assert fit(net, hyper, resume=True).completed


def test_the_screen_says_what_is_trained(made, fit, capsys):
    net, hyper = made()
    fit(net, hyper, progress=None, epochs=1)
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "Sequential, STN: 4 mini-batches to train, 3 to validate, of 8 examples"
    assert any(line.startswith("epoch   0") and "valid loss" in line for line in lines)


def test_the_networks_name_is_kept_and_it_can_be_loaded(made, fit, folder):
    net, hyper = made()
    fit(net, hyper)
    other, _ = made()
    loaded, its = stn.load_model(folder, other)
    x = data(6, 4).tensors[0]
    assert_close(loaded(x, draw=its.current()), net.eval()(x, draw=hyper.current()), rtol=0, atol=0)


def test_what_cannot_be_trained_is_refused(made, fit, folder):
    net, hyper = made()
    with pytest.raises(UserError, match="method is 'sgd': give stn, delta_stn, or a class"):
        fit(net, hyper, method="sgd")
    with pytest.raises(UserError, match="end before the warm-up of 50 does"):
        fit(net, hyper, warmup_steps=50)
    with pytest.raises(ValueError, match="the optimizer lacks 5 of the network's parameters"):
        fit(net, hyper, torch.optim.SGD(net.module[0].parameters(), 0.1))
    with pytest.raises(ValueError, match="schedulers cannot be stepped each 'day'"):
        fit(net, hyper, scheduler_each="day")
    assert not folder.exists()
    fit(net, hyper)
    with pytest.raises(UserError, match="overwrite"):
        fit(net, hyper)
    with pytest.raises(UserError, match="has clip inf, and is to go on with 1"):
        fit(net, hyper, resume=True, clip=1.0)
    assert fit(net, hyper, resume=True, epochs=EPOCHS + 1).completed
    assert len(pandas.read_csv(folder / "epoch.csv")) == EPOCHS + 1


def test_a_loss_that_is_not_finite_ends_training_and_keeps_the_best_model(made, fit, folder):
    net, hyper = made()
    calls = []

    def loss(output, target):
        calls.append(1)
        return F.cross_entropy(output, target) * (math.nan if len(calls) > 25 else 1.0)

    with pytest.raises(Diverged, match=f"the best model so far, of epoch 1, is in {folder}"):
        fit(net, hyper, loss=loss, train_steps=1)
    assert stn.load_model(folder, made()[0])


def test_a_second_weight_decay_is_told(made, fit):
    net, hyper = made()
    optimizer = torch.optim.AdamW(net.parameters(), 0.01, weight_decay=0.1)
    with pytest.warns(UserWarning, match="AdamW decays the weights by 0.1 besides the hyperparameter that does"):
        fit(net, hyper, optimizer, weight_decay="decay", epochs=1)


# What is recorded, and refused where it is another


def test_hyperparameters_in_another_order_or_range_are_not_taken_for_the_same(made, fit, folder):
    fit(*made())

    def other(**sources):
        torch.manual_seed(5)
        hyper = stn.Hyperparameters(**sources)
        plain = nn.Sequential(nn.Linear(4, 6), nn.Tanh(), nn.Dropout(0.5), nn.Linear(6, 2))
        return stn.convert(plain, hyper, dropout="rate"), hyper

    rate = stn.Tuned(0.2, range=(0, 1), feed="centred")
    decay = stn.Tuned(0.01, range=(0, math.inf), per_example=False, feed="centred")
    changed = [
        {"decay": decay, "rate": rate},
        {"rate": replace(rate, range=(0, 0.5)), "decay": decay},
        {"rate": rate, "decay": replace(decay, transform="exp")},
    ]
    for sources in changed:
        net, hyper = other(**sources)
        with pytest.raises(UserError, match="has sources"):
            fit(net, hyper, resume=True, epochs=EPOCHS + 1)
        with pytest.raises(UserError, match="give such as it was trained with, in their order"):
            stn.load_model(folder, net)
    net, _ = other(rate=replace(rate, initial=0.4), decay=decay)  # a start is no other meaning
    stn.load_model(folder, net)
    with pytest.raises(UserError, match="has sources"):
        fit(net, net.hyper, resume=True)


def test_what_goes_on_is_recorded_anew(made, fit, folder):
    fit(*made())
    fit(*made(), resume=True, epochs=EPOCHS + 2, patience=7)
    assert {"epochs": EPOCHS + 2, "patience": 7}.items() <= read_settings(folder).items()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"accumulate": 0}, "accumulate is 0: give a whole number from 1 to 4"),
        ({"accumulate": 5}, "accumulate is 5"),
        ({"accumulate": 2, "train_steps": 3}, "3 weight steps in a row are more than an epoch, which has 2"),
        ({"weight_decay": "dekay"}, "weight_decay names 'dekay', which is no hyperparameter: there are rate, decay"),
        ({"perplexity": True, "accuracy": right}, "logs have one of them"),
        ({"resume": True, "overwrite": True}, "give one of them"),
        ({"batches": {"training": 3}}, "batches names 'training', which is no loader: there are train, valid"),
        ({"test": iter([1])}, "the test loader is a list_iterator, which is gone through once"),
        ({"valid": DataLoader(data(20, 2), 4, num_workers=1, persistent_workers=True)}, "persistent_workers=False"),
        ({"patience": 0}, "patience is 0"),
    ],
    ids=lambda given: ", ".join(given) if isinstance(given, dict) else None,
)
def test_arguments_that_cannot_be_are_refused_before_anything_is_written(made, fit, folder, options, message):
    with pytest.raises((UserError, ValueError), match=message):
        fit(*made(), **options)
    assert not folder.exists()


def test_parts_that_do_not_belong_together_are_refused(made, fit, folder):
    (net, hyper), (other, _) = made(), made()
    foreign = torch.optim.SGD(other.parameters(), 0.1)
    with pytest.raises(UserError, match="converted with other hyperparameters"):
        fit(net, made()[1])
    with pytest.raises(UserError, match="the Sequential takes no draw of hyperparameters"):
        fit(net.module, hyper)
    with pytest.raises(UserError, match="the StepLR is of another optimizer"):
        fit(net, hyper, scheduler=StepLR(foreign, 1))
    with pytest.raises(UserError, match="LBFGS"):
        fit(net, hyper, torch.optim.LBFGS(net.parameters()))
    assert not folder.exists()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"loss": partial(F.cross_entropy, reduction="none")}, r"the loss is a tensor \(8,\): give a function"),
        ({"loss": lambda output, target: 1.0}, "the loss is a float"),  # noqa: ARG005
        ({"accuracy": lambda output, target: output.argmax(1) == target}, r"the accuracy is a tensor \(8,\)"),
        ({"accuracy": lambda output, target: 100 * right(output, target)}, "the accuracy is not between 0 and 1"),
    ],
)
def test_a_loss_or_accuracy_that_is_none_is_refused_and_the_call_may_be_mended(made, fit, options, message):
    with pytest.raises(UserError, match=message):
        fit(*made(), **options, train_steps=4, epochs=1)
    if "loss" in options:
        assert fit(*made()).completed


def test_an_empty_test_set_is_refused(made, fit):
    with pytest.raises(UserError, match="the test loader has no mini-batch"):
        fit(*made(), test=DataLoader(data(3, 3), 4, drop_last=True), epochs=1)


def test_the_test_set_has_no_part_in_training(made, fit, folder):
    found = []
    for number, size in enumerate((8, 40)):
        torch.manual_seed(1)
        fit(*made(), test=DataLoader(data(40, 3), size), run=folder / str(number))
        found.append(pandas.read_csv(folder / str(number) / "epoch.csv")["val_loss"].tolist())
    assert found[0] == found[1]


def test_a_hyperparameter_that_nothing_reads_is_told(made, fit):
    with pytest.warns(UserWarning, match="training does not read decay, so that nothing can be learned of that"):
        fit(*made(), epochs=1)


def test_both_optimizers_decays_are_told(made, fit):
    net, hyper = made()
    elementary, response = stn.split_parameters(net)
    pair = torch.optim.SGD(elementary, 0.1), torch.optim.SGD(response, 0.1, weight_decay=0.2)
    with pytest.warns(UserWarning, match="SGD decays the weights by 0.2"):
        fit(net, hyper, pair, method="delta_stn", weight_decay="decay", epochs=1)


def test_schedulers_that_have_stepped_are_no_other_settings(made, fit):
    """In a notebook the objects of the first call go on."""
    net, hyper = made()
    optimizer = torch.optim.SGD(net.parameters(), 0.5)
    options = {"scheduler": StepLR(optimizer, 1, 0.1)}
    fit(net, hyper, optimizer, **options, epochs=1)
    result = fit(net, hyper, optimizer, **options, epochs=2, resume=True)
    assert pandas.read_csv(result.path / "epoch.csv")["lr"].tolist() == pytest.approx([0.5, 0.05])


# A tuned learning rate


def test_the_learning_rate_is_tuned_from_the_optimizers_on(made, fit, folder):
    net, hyper = made()
    optimizer = torch.optim.SGD(net.parameters(), 0.05, momentum=0.5)
    fit(net, hyper, optimizer, learning_rate=stn.MARTHE(hyper_lr=1e-2, mu=0.9))
    table = pandas.read_csv(folder / "epoch.csv")
    assert table["lr"].nunique() == len(table) and (table["lr"] > 0).all() and (table["mu"] == 0.9).all()
    recorded = read_settings(folder)["learning_rate"]
    assert recorded == "MARTHE(hyper_lr=0.01, mu=0.9, alpha=0.0, first_order=False, products=auto)"


def test_it_goes_on_with_one_that_is_made_alike(made, fit):
    whole, hyper = made()
    fit(whole, hyper, torch.optim.SGD(whole.parameters(), 0.05), learning_rate=stn.RTHO(hyper_lr=1e-2), epochs=2)
    net, hyper = made()
    fit(net, hyper, torch.optim.SGD(net.parameters(), 0.05), learning_rate=stn.RTHO(hyper_lr=1e-2), overwrite=True)
    net, hyper = made()
    with pytest.raises(UserError, match=r"has learning_rate 'RTHO\(hyper_lr=0.01.*and is to go on with"):
        other = stn.RTHO(hyper_lr=1e-2, alpha=1.0)
        fit(net, hyper, torch.optim.SGD(net.parameters(), 0.05), learning_rate=other, resume=True)
    assert fit(net, hyper, torch.optim.SGD(net.parameters(), 0.05), learning_rate=stn.RTHO(hyper_lr=1e-2), resume=True)


@pytest.mark.parametrize("given", ["marthe", stn.MARTHE, 0.1])
def test_what_is_no_learning_rate_is_told(made, fit, given):
    net, hyper = made()
    with pytest.raises(UserError, match=r"give one such as stn\.MARTHE\(hyper_lr=1e-3\)"):
        fit(net, hyper, torch.optim.SGD(net.parameters(), 0.05), learning_rate=given)


def test_a_scheduler_beside_it_is_told(made, fit):
    net, hyper = made()
    optimizer = torch.optim.SGD(net.parameters(), 0.05)
    with pytest.raises(UserError, match="learning_rate and scheduler are both given"):
        fit(net, hyper, optimizer, learning_rate=stn.HD(hyper_lr=1.0), scheduler=StepLR(optimizer, 1))
