"""The image baselines' command line: fixed and replayed hyperparameters in an otherwise equal run."""

import math

import numpy
import pytest
import torch
import torch.nn.functional as F
from cnn_runs import ALEXNET_NAMES, MLP_NAMES, SMALL, SMALL_NAMES, load_into, only_run, plain, runs
from lstm_runs import execute, rebuilt, rows, values_of, without_time
from lstm_runs import refused as refused_by

import cnn.task
from cnn import hypertrain, train_basic
from cnn.task import normalized, scaled
from stn.runs.checkpoints import read_checkpoint

BARE = "--indropout 0 --hue 0 --saturation 0 --contrast 0 --brightness 0 --cutholes -1 " + " ".join(
    f"--dropout{layer} 0" for layer in range(3)
)
DEFAULTS = {
    **dict.fromkeys(ALEXNET_NAMES[:5], 0.3), "indropout": 0.4, "fcdropout0": 0.4, "fcdropout1": 0.4, "inscale": 0.0,
    "hue": 0.2, "bright": 0.4, "sat": 0.4, "contrast": 0.4, "cutholes": 2.0, "cutlength": 5.0,
}  # fmt: skip

pytestmark = pytest.mark.usefixtures("few_images", "same_threads")


@pytest.fixture
def run(tmp_path, capsys):
    """run(flags): the command line on a few images, logging below tmp_path; (exit status, stdout, stderr)."""

    def command(flags="", script=train_basic):
        given = [] if "--resume" in flags or "--test" in flags else [*SMALL.split(), "--total_epochs", 2]
        return execute(script, ["--logdir", tmp_path / "logs", *given, *flags.split()], capsys)

    return command


@pytest.fixture
def used(monkeypatch):
    """The values of each weight step, as the images are augmented by them: {name: value}."""
    values = []
    augmented = cnn.task.augmented

    def recording(pixels, draw):
        values.append({name: draw[name] for name in [*SMALL_NAMES, "dropout"] if name in draw})
        return augmented(pixels, draw)

    monkeypatch.setattr(cnn.task, "augmented", recording)
    return values


def refused(outcome, *words):
    refused_by(outcome, *words, script="train_basic.py")


def constants(flags):
    return {name: source.value for name, source in train_basic.sources(values_of(train_basic, flags)).items()}


# Plain


def test_a_run_leaves_its_files(run, tmp_path):
    status, out, _ = run("--save")
    assert status == 0 and "tuned: nothing" in out
    folder = only_run(tmp_path)
    assert folder.parents[1] == tmp_path / "logs" / "baseline_saves"
    names = {file.name for file in folder.iterdir() if not file.name.startswith("events.")}
    assert names == {
        ".lock",
        "args.yaml",
        "status",
        "checkpoint.pt",
        "model.pt",
        "train.csv",
        "epoch.csv",
        "result.csv",
    }
    losses = ["train_loss", "val_loss", "train_acc", "val_acc"]
    assert list(rows(folder / "epoch.csv")[0]) == ["epoch", "time", *losses, *SMALL_NAMES, "lr"]
    assert list(rows(folder / "train.csv")[0]) == ["global_step", "time", "loss", "acc", "train_step"]
    for row in rows(folder / "epoch.csv"):
        assert {name: float(row[name]) for name in SMALL_NAMES} == {name: DEFAULTS[name] for name in SMALL_NAMES}
    saved = torch.load(folder / "model.pt", weights_only=True)
    assert not any("response" in name or "gate" in name for name in saved["model"])
    assert sum(w.numel() for w in saved["model"].values()) == sum(w.numel() for w in plain("small").parameters())


def test_a_plain_run_has_the_losses_of_an_independent_plain_model(run, tmp_path):
    """torch's own layers, trained by hand with momentum from the same weights and in the same order."""
    flags = "--seed 5 --train_lr 0.05 --momentum 0.5 --log_interval 3"
    assert run(f"{BARE} {flags} --save")[0] == 0
    folder = only_run(tmp_path)
    twin = plain("small")
    sets, _, task = rebuilt(train_basic, folder)  # which seeds what is shuffled below
    load_into(twin, task.model)
    order = task.streams["train"].order
    weights = list(twin.parameters())
    velocities = [torch.zeros_like(weight) for weight in weights]
    means, epochs = [], []
    for _ in range(2):
        losses = []
        for start in range(0, 160, 32):
            chosen = order[start : start + 32]
            logits, labels = twin(normalized(scaled(sets.train.pixels[chosen]))), sets.train.labels[chosen]
            loss = F.cross_entropy(logits, labels)
            for weight, velocity, gradient in zip(weights, velocities, torch.autograd.grad(loss, weights), strict=True):
                velocity.mul_(0.5).add_(gradient)
                weight.data -= 0.05 * velocity
            losses.append(loss.item())
        order = torch.randperm(160)
        with torch.no_grad():
            logits = twin(normalized(scaled(sets.valid.pixels)))
        epochs.append((sum(losses) / 5, F.cross_entropy(logits, sets.valid.labels).item()))
        means += losses
    for row, (train, valid) in zip(rows(folder / "epoch.csv"), epochs, strict=True):
        assert float(row["train_loss"]) == pytest.approx(train, rel=1e-4)
        assert float(row["val_loss"]) == pytest.approx(valid, rel=1e-4)
    logged = [float(row["loss"]) for row in rows(folder / "train.csv")]
    assert logged == pytest.approx([sum(means[start : start + 3]) / 3 for start in (0, 3, 6)], rel=1e-4)
    assert [row["train_step"] for row in rows(folder / "train.csv")] == ["3", "6", "9"]


def test_fixed_values_are_used(run, used):
    flags = "--dropout 0.2 --indropout 0.1 --inscale 0.25 --hue 0.45 --sat 0.1".replace("--sat ", "--saturation ")
    assert run(f"{flags} --contrast 0.2 --brightness 0.3 --cutholes 3 --cutlength 24 --total_epochs 1")[0] == 0
    assert used == [
        {
            **dict.fromkeys(SMALL_NAMES[:3], 0.2), "indropout": 0.1, "inscale": 0.25, "hue": 0.45, "sat": 0.1,
            "contrast": 0.2, "bright": 0.3, "cutholes": 3.0, "cutlength": 24.0,
        }
    ] * 5  # fmt: skip


def test_a_stopped_run_goes_on_as_if_it_had_not_been(run, tmp_path):
    for subdir, epochs in (("whole", 3), ("parts", 1)):
        assert run(f"--seed 3 --dir {subdir} --total_epochs {epochs}".replace("--dir", "--save_dir"))[0] == 0
    parts, whole = runs(tmp_path)
    assert execute_resume(parts, "--total_epochs 3") == 0
    for table in ("train", "epoch", "result"):
        assert without_time(parts / f"{table}.csv") == without_time(whole / f"{table}.csv")
    ours, theirs = read_checkpoint(parts).state["model"], read_checkpoint(whole).state["model"]
    assert all(torch.equal(ours[name], theirs[name]) for name in theirs)


def execute_resume(folder, flags=""):
    return train_basic.main(["--resume", str(folder), *flags.split()])


# Replay


@pytest.fixture(scope="module")
def recorded(tmp_path_factory, few_images):  # noqa: ARG001
    """A self-tuned run's folder, with its hyperparameters changing fast."""
    folder = tmp_path_factory.mktemp("recorded")
    flags = f"{SMALL} --tune_all --tune_scales --valid_lr 0.3 --total_epochs 4 --warmup_epochs 1 --log_interval 1"
    assert hypertrain.main([*flags.split(), "--logdir", str(folder / "logs")]) == 0
    return only_run(folder)


def test_replay_by_epoch_puts_row_e_in_during_epoch_e(run, used, recorded, tmp_path):
    status, out, _ = run(f"--load_schedule {recorded / 'epoch.csv'} --total_epochs 5")
    assert status == 0 and "replayed by epoch" in out and "held from epoch 3 on" in out
    table = rows(recorded / "epoch.csv")
    assert len(used) == 25 and len({row["cutlength"] for row in table}) == 4
    for name in SMALL_NAMES:
        assert [values[name] for values in used] == [float(table[min(step // 5, 3)][name]) for step in range(25)]
    found = rows(only_run(tmp_path) / "epoch.csv")
    assert [{name: row[name] for name in SMALL_NAMES} for row in found[:4]] == [
        {name: row[name] for name in SMALL_NAMES} for row in table
    ]


def test_replay_by_step_puts_the_recorded_values_in_at_the_recorded_steps(run, used, recorded):
    status, out, _ = run(f"--load_schedule {recorded / 'valid.csv'} --total_epochs 4")
    assert status == 0 and "replayed by step" in out
    table = rows(recorded / "valid.csv")
    assert len(table) > 5
    for name in SMALL_NAMES:
        for row in table:
            if int(row["train_step"]) < len(used):
                assert used[int(row["train_step"])][name] == float(row[name])
        first, second = ((int(row["train_step"]), float(row[name])) for row in table[1:3])
        assert used[first[0] + 1][name] == pytest.approx((first[1] + second[1]) / 2)
        assert used[0][name] == float(table[0][name])


def test_replay_of_some_leaves_the_others_to_their_flags(run, used, tmp_path):
    (tmp_path / "some.csv").write_text("epoch,hue\n0,0.25\n")
    assert run(f"--load_schedule {tmp_path / 'some.csv'} --contrast 0.125 --dropout 0.5 --total_epochs 1")[0] == 0
    expected = {name: DEFAULTS[name] for name in SMALL_NAMES}
    assert used[0] == {**expected, **dict.fromkeys(SMALL_NAMES[:3], 0.5), "hue": 0.25, "contrast": 0.125}


def test_replay_of_a_dropout_rate_that_layers_shared(run, used, tmp_path):
    (tmp_path / "shared.csv").write_text("epoch,dropout\n0,0.25\n")
    assert run(f"--load_schedule {tmp_path / 'shared.csv'} --total_epochs 1")[0] == 0
    assert used[0]["dropout"] == 0.25 and "dropout0" not in used[0]
    assert list(rows(only_run(tmp_path) / "epoch.csv")[0])[6] == "dropout"


def test_a_smaller_networks_schedule_leaves_the_others_to_their_flags(recorded):
    schedule = rows(recorded / "epoch.csv")[0]
    assert list(schedule)[6:9] == SMALL_NAMES[:3]
    values = values_of(train_basic, f"--load_schedule {recorded / 'epoch.csv'} --dropout3 0.5")
    found = {name: source.at(0, 0) for name, source in train_basic.sources(values).items()}
    assert found == {**DEFAULTS, **{name: float(schedule[name]) for name in SMALL_NAMES}, "dropout3": 0.5}


def test_a_tuned_learning_rate_is_replayed(run, tmp_path):
    """It comes below where training would end without."""
    table = tmp_path / "train.csv"
    table.write_text("global_step,loss,acc,lr,hyper_lr,train_step\n1,2,0.5,0.5,0.1,2\n2,2,0.5,1e-9,0.1,6\n")
    status, out, _ = run(f"--load_schedule {table} --total_epochs 3 --log_interval 1")
    assert status == 0 and "\nlearning rate: replayed by step from" in out
    found = rows(only_run(tmp_path) / "train.csv")
    expected = numpy.interp(range(1, len(found) + 1), [2, 6], [0.5, 1e-9])
    assert len(found) == 15 and [float(row["lr"]) for row in found] == pytest.approx(expected)
    assert len(rows(only_run(tmp_path) / "epoch.csv")) == 3


@pytest.mark.parametrize("flag", ["train_lr 1", "lr_decay 0.5", "nonmono 3", "milestones 1"])
def test_a_replayed_learning_rate_has_no_flags(run, tmp_path, flag):
    table = tmp_path / "epoch.csv"
    table.write_text("epoch,lr,hyper_lr\n0,0.5,0.1\n")
    refused(run(f"--load_schedule {table} --{flag}"), f"--{flag.split()[0]} contradicts", "which sets lr")
    assert not (tmp_path / "logs").exists()


def test_a_replay_needs_no_more_than_its_own_folder(run, recorded, tmp_path):
    file = tmp_path / "epoch.csv"
    file.write_text((recorded / "epoch.csv").read_text())
    assert run(f"--load_schedule {file} --total_epochs 1")[0] == 0
    file.unlink()
    folder = only_run(tmp_path)
    assert execute_resume(folder, "--total_epochs 3") == 0
    found, wanted = rows(folder / "epoch.csv"), rows(recorded / "epoch.csv")
    assert [row["sat"] for row in found] == [row["sat"] for row in wanted[:3]]


# Flags


PUBLISHED = [
    ("model", "a", "alexnet", "small"),
    ("batch_size", "bsz", 128, 7),
    ("total_epochs", "totep", 8000, 7),
    ("train_lr", "tlr", 0.01, 0.5),
    ("momentum", "mom", 0.9, 0.5),
    ("nonmono", None, 60, 7),
    ("patience", None, 75, 7),
    ("lr_decay", None, 0.1, 0.5),
    ("percent_valid", "pval", 0.2, 0.25),
    ("dropout", "drop", -1.0, 0.5),
    *((f"dropout{layer}", None, 0.3, 0.5) for layer in range(5)),
    ("fc_dropout", "fcdrop", -1.0, 0.5),
    ("fc_dropout0", "fcdrop0", 0.4, 0.5),
    ("fc_dropout1", "fcdrop1", 0.4, 0.5),
    ("fc_dropout2", "fcdrop2", 0.4, 0.5),
    ("indropout", None, 0.4, 0.5),
    ("inscale", "iscl", 0.0, 0.5),
    ("hue", None, 0.2, 0.5),
    ("brightness", None, 0.4, 0.5),
    ("saturation", None, 0.4, 0.5),
    ("contrast", None, 0.4, 0.5),
    ("cutholes", "cuth", 2, -1),
    ("cutlength", "cutl", 5, -1),
    ("load_schedule", None, None, "epoch.csv"),
    ("seed", None, 0, 7),
]


@pytest.mark.parametrize(("name", "short", "default", "value"), PUBLISHED, ids=[flag for flag, *_ in PUBLISHED])
def test_flags_their_short_names_and_defaults(name, short, default, value):
    assert train_basic.SCRIPT.defaults()[name] == default
    for flag in (f"--{name}", *([f"-{short}"] if short else [])):
        for words in ([flag, str(value)], [f"{flag}={value}"]):
            assert train_basic.SCRIPT.parse(words) == {name: value}


@pytest.mark.parametrize(
    ("flags", "changed"),
    [
        ("", {}),
        ("-drop 0.5 --dropout1 0.1", dict.fromkeys(ALEXNET_NAMES[:5], 0.5)),
        ("-drop -1 --dropout1 0.1", {"dropout1": 0.1}),
        ("-fcdrop 0.5 -fcdrop0 0.1", {"fcdropout0": 0.5, "fcdropout1": 0.5}),
        ("-fcdrop=-1 -fcdrop0 0.1", {"fcdropout0": 0.1}),
        ("-fcdrop1 0.95", {"fcdropout1": 0.95}),
        ("-cuth -1 -cutl -1", {"cutholes": 0.0, "cutlength": 0.0}),
        ("-cuth 3 -cutl 24", {"cutholes": 3.0, "cutlength": 24.0}),
        ("-cuth 1024 -cutl 40", {"cutholes": 1024.0, "cutlength": 40.0}),
        ("-iscl 1.5 --hue 0.7", {"inscale": 1.5, "hue": 0.7}),
        ("--brightness 1.2 --saturation 2 --contrast 3", {"bright": 1.2, "sat": 2.0, "contrast": 3.0}),
    ],
)
@pytest.mark.filterwarnings("ignore:.* overrules ")
def test_values_that_flags_give(flags, changed):
    assert constants(flags) == {**DEFAULTS, **changed}
    assert list(constants(flags)) == ALEXNET_NAMES


@pytest.mark.parametrize(
    ("flags", "rates"),
    [("", [0.4, 0.4, 0.4]), ("-fcdrop 0.2", [0.2, 0.2, 0.2]), ("-fcdrop0 0 -fcdrop2 0.5", [0.0, 0.4, 0.5])],
)
def test_rates_of_the_perceptron(flags, rates):
    assert constants(f"--model mlp {flags}") == dict(zip(MLP_NAMES, rates, strict=True))


def test_a_rate_that_is_overruled_is_told():
    with pytest.warns(UserWarning, match=r"^--dropout 0\.5 overrules --dropout1, --dropout2$"):
        constants("-drop 0.5 --dropout1 0.1 --dropout2 0.1")


def test_training_stops_below_1e_7():
    made = {
        script: script.SCRIPT.make(values_of(script, flags))
        for script, flags in ((train_basic, ""), (hypertrain, "-thue"))
    }
    assert (made[train_basic].min_lr, made[hypertrain].min_lr) == (1e-7, 1e-5)


def test_help_names_every_flag(capsys):
    status, out, error = execute(train_basic, ["--help"], capsys)
    assert (status, error) == (0, "")
    for name, short, *_ in PUBLISHED:
        assert f"--{name}" in out and (short is None or f"-{short}" in out)


# Bad input


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        *((f"--{name} 1", (f"--{name}", "1")) for name in ("dropout", "dropout3", "fc_dropout", "fc_dropout1",
          "indropout")),
        *((f"--{name} -0.5", (f"--{name}", "-0.5")) for name in ("dropout", "fc_dropout0", "hue", "inscale",
          "cutholes")),
        ("--dropout 0", ("--dropout 0 ", "give --dropout0 0 --dropout1 0 --dropout2 0 for")),
        ("--fc_dropout 0 --model alexnet", ("--fc_dropout 0 ", "give --fc_dropout0 0 --fc_dropout1 0 for")),
        *((f"--{flag} 0.1", (f"--{flag}", "nothing to act on", "--model small")) for flag in ("dropout3", "dropout4",
          "fc_dropout", "fc_dropout0", "fc_dropout1", "fc_dropout2")),
        ("--model alexnet --fc_dropout2 0.1", ("--fc_dropout2", "nothing to act on", "--model alexnet")),
        ("--cutholes 1025", ("--cutholes 1025", "from 0 to below 1025")),
        ("--cutlength 2.5", ("--cutlength", "2.5")),
        ("--hue 1", ("--hue 1", "from 0 to below 1")),
        *((f"--{name} inf", (f"--{name}", "inf")) for name in ("inscale", "saturation", "brightness", "contrast")),
        ("--dataset svhn", ("--dataset", "svhn", "cifar10, mnist")),
        ("--dataset cifar100", ("--dataset: 'cifar100' is none of cifar10, mnist",)),
        ("--dataset mnist", ("--model small is not for --dataset mnist", "give --dataset cifar10, or --model mlp")),
        *((f"--model mlp --{flag} 0.1", (f"--{flag} has", "another network than --model mlp")) for flag in ("dropout",
          "dropout0", "hue", "indropout", "inscale")),
        ("--model mlp --cutholes 1", ("--cutholes has", "--model mlp")),
        ("--model mlp --load_schedule {hue}", ("hue.csv", "column 'hue'", "--model mlp")),
        ("--model mlp --fc_dropout 0", ("give --fc_dropout0 0 --fc_dropout1 0 --fc_dropout2 0 for",)),
        ("--model resnet", ("--model", "resnet")),
        ("--tune_hue", ("--tune_hue",)),
        ("--train_lr 1e-8", ("--train_lr 1e-08", "1e-07")),
        ("--batch_size 41", ("--batch_size 41", "40 validation")),
        ("--percent_valid 0.999", ("--percent_valid 0.999", "training")),
        ("--data nowhere", ("--data nowhere", "does not exist")),
        ("--load_schedule nowhere.csv", ("--load_schedule", "nowhere.csv", "does not exist")),
        ("--load_schedule {hue} --hue 0.1", ("--hue", "--load_schedule", "sets hue")),
        ("--load_schedule {sat} --saturation 0.1", ("--saturation", "sets sat")),
        ("--load_schedule {bright} --brightness 0.1", ("--brightness", "sets bright")),
        ("--load_schedule {dropout1} -drop 0.5", ("--dropout", "sets dropout1")),
        ("--load_schedule {dropout} -drop 0.5", ("--dropout", "sets dropout")),
        ("--load_schedule {dropout} --dropout1 0.5", ("--dropout1", "sets dropout")),
        ("--load_schedule {fcdropout0} --model alexnet -fcdrop 0.5", ("--fc_dropout", "sets fcdropout0")),
        ("--load_schedule {fcdropout0} --model alexnet -fcdrop0 0.5", ("--fc_dropout0", "sets fcdropout0")),
        ("--load_schedule {wide}", ("wide.csv", "column 'dropout3'", "--model small", "remove the column")),
        ("--load_schedule {both}", ("both.csv", "column 'dropout0'", "remove the column")),
        ("--load_schedule {alpha}", ("alpha", "no hyperparameter here")),
        ("--load_schedule {large}", ("large.csv", "cutholes '1025'", "[0, 1025)")),
        ("--load_schedule {empty}", ("empty.csv", "no row of values")),
    ],
)  # fmt: skip
def test_flags_that_cannot_be(run, tmp_path, flags, words):
    names = ("hue", "sat", "bright", "dropout1", "dropout", "fcdropout0", "alpha")
    files = {name: tmp_path / f"{name}.csv" for name in (*names, "large", "wide", "both", "empty")}
    for name in names:
        files[name].write_text(f"epoch,{name}\n0,0.25\n")
    files["large"].write_text("epoch,cutholes\n0,1025\n")
    files["wide"].write_text("epoch,hue,dropout3,fcdropout0\n0,0.25,0.25,0.25\n")
    files["both"].write_text("epoch,dropout,dropout0\n0,0.25,0.25\n")
    files["empty"].touch()
    refused(run(flags.format(**files)), *words)
    assert not (tmp_path / "logs").exists()


def test_a_replay_whose_copy_was_changed_is_refused(run, recorded, tmp_path):
    assert run(f"--load_schedule {recorded / 'epoch.csv'} --total_epochs 1")[0] == 0
    copy = only_run(tmp_path) / "schedule.csv"
    copy.write_text(copy.read_text().replace("0.", "0.0"))
    refused(run(f"--resume {copy.parent} --total_epochs 2"), copy, "not what the run was started with")


def test_a_loss_that_is_not_finite_ends_the_run_as_diverged(run, tmp_path):
    refused(run("--train_lr 1e30"), "not finite at step", "learning rate")
    assert (only_run(tmp_path) / "status").read_text() == "diverged\n"
    assert all(math.isfinite(weight.sum()) for weight in read_checkpoint(only_run(tmp_path)).state["model"].values())
