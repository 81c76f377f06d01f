"""The self-tuning image classifier's command line, end to end on a small network and a few images."""

import math
import os
import re
import shutil
import subprocess
import sys
import time
from datetime import datetime, timedelta, timezone
from functools import partial
from pathlib import Path

import pytest
import torch
import yaml
from cnn_runs import ALEXNET_NAMES, MLP_NAMES, SHARED, SMALL, SMALL_NAMES, load_into, only_run, plain, runs, same
from lstm_runs import execute, rebuilt, rows, settings, values_of, without_time
from lstm_runs import refused as refused_by
from torch import nn

import cnn.datasets
import cnn.models
import stn
from cnn import hypertrain, train_basic
from cnn.task import normalized, scaled
from stn.datasets import builtin_images, mnist
from stn.datasets.images import CIFAR10_SHA256, Images
from stn.hyperparameters import Hyperparameters, Tuned
from stn.runs.checkpoints import read_checkpoint
from stn.runs.folder import RunFolder
from stn.scripts import course
from stn.scripts.signals import Interrupt
from stn.training import Plan

ROOT = Path(__file__).parent.parent
ALL = "--tune_all --tune_scales --entropy_weight=1e-3 --save --warmup_epochs 1"
SCALES = [f"{name}_scale" for name in SMALL_NAMES]

pytestmark = pytest.mark.usefixtures("few_images", "same_threads")

PERTURBATIONS = ("perturb_scale", "cutlength_scale", "cutholes_scale")


@pytest.fixture
def run(tmp_path, capsys):
    """run(flags): the command line on a few images, logging below tmp_path; (exit status, stdout, stderr)."""

    def command(flags="", script=hypertrain):
        given = [] if "--resume" in flags or "--test" in flags else SMALL.split()
        place = [] if "--resume /" in flags else ["--logdir", tmp_path / "logs"]
        return execute(script, [*place, *given, *flags.split()], capsys)

    return command


def refused(outcome, *words, script="hypertrain.py"):
    refused_by(outcome, *words, script=script)


def sources(flags):
    return hypertrain.sources(values_of(hypertrain, flags))


def tuned_by(flags):
    return [name for name, source in sources(flags).items() if isinstance(source, Tuned)]


# What a run leaves


@pytest.fixture(scope="module")
def finished(tmp_path_factory, few_images):  # noqa: ARG001
    """The folder of a finished run with everything tuned, the scales too."""
    folder = tmp_path_factory.mktemp("finished")
    argv = f"{SMALL} {ALL} --total_epochs 3 --seed 3 --logdir {folder / 'logs'}"
    assert hypertrain.main(argv.split()) == 0
    return only_run(folder)


def test_a_run_leaves_its_files(finished):
    names = {file.name for file in finished.iterdir() if not file.name.startswith("events.")}
    tables = {"train.csv", "valid.csv", "epoch.csv", "result.csv"}
    assert names == {".lock", "args.yaml", "status", "checkpoint.pt", "model.pt", *tables}
    assert any(file.name.startswith("events.out.tfevents.") for file in finished.iterdir())
    assert (finished / "status").read_text() == "finished\n"


MEASURES = ["val_loss", "val_acc", "test_loss", "test_acc"]


def test_columns(finished):
    columns = {name: list(rows(finished / f"{name}.csv")[0]) for name in ("train", "valid", "epoch", "result")}
    assert columns == {
        "train": ["global_step", "time", "loss", "acc", "train_step"],
        "valid": ["global_step", "time", "loss", "acc", "entropy", *SMALL_NAMES, *SCALES, "train_step"],
        "epoch": ["epoch", "time", "train_loss", "val_loss", "train_acc", "val_acc", *SMALL_NAMES, *SCALES, "lr"],
        "result": [*MEASURES, "best_epoch", "best_time", "time", *SMALL_NAMES],
    }


@pytest.mark.parametrize(
    ("flags", "names"),
    [
        ("--tune_all", ALEXNET_NAMES),
        ("--tune_dropout --tune_hue", ["dropout", *SHARED, "fcdropout0", "fcdropout1"]),
        ("--tune_all --model small", SMALL_NAMES),
        ("--tune_dropout --model small", ["dropout", *SHARED]),
        ("--tune_all --model mlp", MLP_NAMES),
        ("--tune_fcdropout --dataset mnist", MLP_NAMES),
    ],
)
def test_every_hyperparameter_is_logged_under_its_name(flags, names):
    assert list(Hyperparameters(**sources(flags)).names) == names


def test_numbers_agree(finished):
    epochs, (result,) = rows(finished / "epoch.csv"), rows(finished / "result.csv")
    assert [row["epoch"] for row in epochs] == ["0", "1", "2"]
    best = min(epochs, key=lambda row: float(row["val_loss"]))
    assert (result["val_loss"], result["val_acc"]) == (best["val_loss"], best["val_acc"])
    for row in epochs:
        for name, images in (("train_acc", 160), ("val_acc", 40)):
            assert (float(row[name]) * images) == pytest.approx(round(float(row[name]) * images), abs=1e-4)
    assert float(result["test_acc"]) * 60 == pytest.approx(round(float(result["test_acc"]) * 60))
    spread = math.log(math.sqrt(2 * math.pi * math.e))
    for row in rows(finished / "valid.csv"):
        entropy = sum(math.log(float(row[name])) + spread for name in SCALES)
        assert float(row["entropy"]) == pytest.approx(entropy, rel=1e-5)


def test_rows_are_at_the_log_interval(finished):
    """Five mini-batches an epoch, the first without hyperparameter steps; then two steps of one kind to one."""
    train, valid = rows(finished / "train.csv"), rows(finished / "valid.csv")
    assert [int(row["train_step"]) for row in train] == [2, 4, 6, 8, 10, 12, 14]
    assert [int(row["train_step"]) for row in valid] == [9, 13]
    assert [int(row["global_step"]) for row in valid] == [11, 17]


def test_what_is_not_warm_yet_stays(finished):
    first, _, last = rows(finished / "epoch.csv")
    for name in SMALL_NAMES:
        start = {"cutlength": 4.5, "cutholes": 1.5}.get(name, 0.05)
        assert float(first[name]) == pytest.approx(start) != pytest.approx(float(last[name]), rel=1e-5)
        assert float(first[f"{name}_scale"]) == pytest.approx(0.5) != pytest.approx(float(last[f"{name}_scale"]))


def test_settings_say_what_made_the_run(finished):
    found = settings(finished)
    assert (found["seed"], found["data"], found["script"]) == (3, "builtin", "cnn/hypertrain.py")
    assert (found["device"], found["dtype"], found["threads"]) == ("cpu", "float32", 1)
    assert all(found[f"tune_{name}"] for name in (*SHARED[:4], "dropoutl", "indropout", "inscale", "scales"))
    assert found["ranges"]["cutlength"] == [0.0, 24.0] and len(found["ranges"]) == 11
    assert found["hyperparameters"] == SMALL_NAMES
    assert len(found["data_checksum"]) == 64 and found["versions"]["torch"] == torch.__version__


def test_the_saved_model_gives_the_result_in_plain_layers(finished):
    """The best response at the saved hyperparameters, folded into torch's own layers."""
    saved = torch.load(finished / "model.pt", weights_only=True)
    _, _, task = rebuilt(hypertrain, finished)
    task.model.load_state_dict(saved["model"])
    twin = load_into(plain("small"), task.model, saved["hyper"]["unconstrained"])
    (result,) = rows(finished / "result.csv")
    for split, name in (("valid", "val"), ("test", "test")):
        images = task.evaluation[split]
        logits = twin(normalized(scaled(images.pixels)))
        loss = nn.functional.cross_entropy(logits, images.labels).item()
        assert float(result[f"{name}_loss"]) == pytest.approx(loss, rel=1e-5)
        assert float(result[f"{name}_acc"]) == pytest.approx((logits.argmax(1) == images.labels).double().mean().item())


def test_validation_images_are_the_last(finished):
    sets, _, _ = rebuilt(hypertrain, finished)
    train, test = builtin_images.builtin_images()
    assert torch.equal(sets.train.pixels, train.pixels[:160]) and torch.equal(sets.valid.pixels, train.pixels[160:])
    assert torch.equal(sets.test.labels, test.labels)


# Folders


def test_a_run_lies_under_the_date_and_is_named_by_its_flags_and_the_time(finished):
    day, kind, logs = (finished.parents[number].name for number in range(3))
    assert (kind, logs) == ("hyper-training", "logs")
    assert day in {f"{datetime.now() - timedelta(days=days):%Y%m%d}" for days in (0, 1)}
    words = (
        "batch_size32_dtypefloat32_entropy_weight0.001_log_interval2_modelsmall_no_cuda_save_seed3_total_epochs3"
        "_tune_all_tune_scales_warmup_epochs1"
    )
    assert re.fullmatch(re.escape(words) + r"_\d\d:\d\d:\d\d", finished.name)


@pytest.mark.parametrize("hours", [-12, 12])
def test_the_time_is_local(run, tmp_path, monkeypatch, hours):
    """At one of these places the date, too, is another than in Greenwich."""
    monkeypatch.setenv("TZ", f"HERE{-hours}")  # POSIX counts westwards
    time.tzset()
    try:
        assert run("--tune_hue --total_epochs 1 --warmup_epochs 0")[0] == 0
    finally:
        monkeypatch.undo()
        time.tzset()
    folder = only_run(tmp_path)
    found = datetime.strptime(f"{folder.parent.name} {folder.name[-8:]}", "%Y%m%d %H:%M:%S")
    now = datetime.now(timezone(timedelta(hours=hours))).replace(tzinfo=None)
    assert timedelta() <= now - found < timedelta(minutes=10)


def test_a_subfolder_confines_the_search(run, tmp_path):
    """A date's, too."""
    for subdir in ("", "--subdir trial", "--subdir other"):
        assert run(f"--tune_hue --total_epochs 1 --warmup_epochs 0 {subdir}")[0] == 0
    for folder in runs(tmp_path):
        status, out, _ = run(f"--test --subdir {folder.parent.name}")
        assert status == 0 and f"of {folder}:" in out
        assert run(f"--resume --total_epochs 2 --subdir {folder.parent.name}")[0] == 0
        assert len(rows(folder / "epoch.csv")) == 2
    refused(run("--test --subdir nowhere"), tmp_path / "logs" / "hyper-training" / "nowhere", "no run", "--logdir")


def test_a_run_where_it_is_told_to_lie(run, tmp_path):
    assert run("--tune_hue --dir mine --subdir trial --total_epochs 1 --warmup_epochs 0")[0] == 0
    assert only_run(tmp_path).parent == tmp_path / "logs" / "mine" / "trial"


def test_a_name_is_no_longer_than_a_file_system_takes(run, tmp_path):
    flags = " ".join(
        f"--start_{name} 0.04321 --tune_{name}" for name in ("hue", "sat", "contrast", "bright", "inscale")
    )
    assert run(f"{flags} --total_epochs 1 --warmup_epochs 0 --train_lr 0.012345 --subdir trial")[0] == 0
    assert len(only_run(tmp_path).name) == 150 + len("_12:34:56")


# Flags


def test_the_model_is_saved_on_request_only(run, tmp_path):
    assert run("--tune_all --total_epochs 1 --warmup_epochs 0")[0] == 0
    folder = only_run(tmp_path)
    assert not (folder / "model.pt").exists() and len(rows(folder / "epoch.csv")) == 1


def test_only_what_is_to_be_tuned_changes(run, tmp_path):
    assert run("--tune_dropout --tune_cutlength --tune_sat --total_epochs 2 --warmup_epochs 0 --valid_lr 0.1")[0] == 0
    last = rows(only_run(tmp_path) / "epoch.csv")[-1]
    changed = {name for name in ("dropout", "sat", "cutlength") if float(last[name]) not in (0.05, 4.5)}
    assert changed == {"dropout", "sat", "cutlength"}
    assert [name for name in last if name.endswith("_scale")] == ["dropout_scale", "sat_scale", "cutlength_scale"]
    assert {last[name] for name in SHARED if name not in ("sat", "cutlength", "cutholes")} == {"0.0"}
    assert last["cutholes"] == "1.0"  # a length needs a hole
    assert all(float(last[f"{name}_scale"]) == 0.5 for name in changed)  # scales stay unless tuned


@pytest.mark.parametrize(
    ("flags", "names"),
    [
        ("-tdrop", ["dropout"]),
        ("-tdropl", ALEXNET_NAMES[:5]),
        ("-tidrop", ["indropout"]),
        ("-tfcdrop", ["fcdropout0", "fcdropout1"]),
        ("-tiscl", ["inscale"]),
        ("-thue", ["hue"]),
        ("-tsat", ["sat"]),
        ("-tcon", ["contrast"]),
        ("-tbrt", ["bright"]),
        ("-tjit", ["hue", "contrast", "sat", "bright"]),
        ("-tcutl", ["cutlength"]),
        ("-tcuth", ["cutholes"]),
        ("-tall", ALEXNET_NAMES),
        ("-tall -m small", SMALL_NAMES),
        ("-tall -m mlp", MLP_NAMES),
        ("-tfcdrop -m mlp", MLP_NAMES),
        ("-tjit -tdrop -tcuth", ["dropout", "hue", "contrast", "sat", "bright", "cutholes"]),
    ],
)
def test_what_flags_tune(flags, names):
    assert tuned_by(flags) == names


def test_what_is_not_tuned_is_off_but_for_the_other_half_of_cutout():
    def constants(flags):
        return {name: source.value for name, source in sources(flags).items() if not isinstance(source, Tuned)}

    assert set(constants("-thue").values()) == {0.0}
    assert constants("-thue -tcutl")["cutholes"] == 1.0 and constants("-tcuth")["cutlength"] == 8.0


@pytest.mark.parametrize(
    ("flags", "names", "start", "scale"),
    [
        ("-tall -drop 0.3", ALEXNET_NAMES[:5], 0.3, 0.5),
        ("-tdrop -drop 0.3 -pscl 2", ["dropout"], 0.3, 2.0),
        ("-tall -idrop 0.3", ["indropout"], 0.3, 0.5),
        ("-tall -fcdrop 0.3", ["fcdropout0", "fcdropout1"], 0.3, 0.5),
        ("-tall -fcdrop 0.3 -m mlp -pscl 2", MLP_NAMES, 0.3, 2.0),
        ("-tall -iscl 0.2", ["inscale"], 0.2, 0.5),
        ("-tall -hue 0.3", ["hue"], 0.3, 0.5),
        ("-tall -sat 0.3", ["sat"], 0.3, 0.5),
        ("-tall -con 0.3", ["contrast"], 0.3, 0.5),
        ("-tall -brt 0.3", ["bright"], 0.3, 0.5),
        ("-tall -cutl 23 -clscl 1.5 -pscl 2", ["cutlength"], 23.0, 1.5),
        ("-tall -cuth 0 -chscl 1.25 -pscl 2", ["cutholes"], 0.0, 1.25),
    ],
)
def test_where_flags_start(flags, names, start, scale):
    hyper = Hyperparameters(**sources(flags))
    for name in names:
        assert hyper.current()[name].item() == pytest.approx(start)
        assert hyper.scale[hyper.columns[name]].item() == pytest.approx(scale)


PUBLISHED = [
    *((f"tune_{name}", short, False, None) for name, short in (
        ("scales", "tscl"), ("dropout", "tdrop"), ("dropoutl", "tdropl"), ("indropout", "tidrop"),
        ("fcdropout", "tfcdrop"), ("inscale", "tiscl"), ("hue", "thue"), ("sat", "tsat"), ("contrast", "tcon"),
        ("bright", "tbrt"), ("jitters", "tjit"), ("cutlength", "tcutl"), ("cutholes", "tcuth"), ("all", "tall"))),
    *((f"start_{name}", short, default, 0.125) for name, short, default in (
        ("inscale", "iscl", 0.05), ("drop", "drop", 0.05), ("indrop", "idrop", 0.05), ("fcdrop", "fcdrop", 0.05),
        ("hue", "hue", 0.05), ("sat", "sat", 0.05), ("contrast", "con", 0.05), ("bright", "brt", 0.05),
        ("cutlength", "cutl", 4.0), ("cutholes", "cuth", 1.0))),
    ("model", "m", "alexnet", "small"),
    ("dataset", None, "cifar10", "mnist"),
    ("batch_size", "bsz", 128, 7),
    ("total_epochs", "totep", 500, 7),
    ("warmup_epochs", "wupep", 5, 7),
    ("train_lr", "tlr", 0.01, 0.5),
    ("valid_lr", "vlr", 3e-3, 0.5),
    ("scale_lr", "slr", 3e-3, 0.5),
    ("momentum", "mom", 0.9, 0.5),
    ("train_steps", "tstep", 2, 7),
    ("valid_steps", "vstep", 1, 7),
    ("nonmono", "nonm", 60, 7),
    ("patience", "pat", 75, 7),
    ("entropy_weight", "ewt", 1e-5, 0.5),
    ("perturb_scale", "pscl", 0.5, 0.25),
    ("cutlength_scale", "clscl", 0.5, 0.25),
    ("cutholes_scale", "chscl", 0.5, 0.25),
    ("percent_valid", "pval", 0.2, 0.25),
    ("lr_decay", None, 0.1, 0.5),
    ("log_interval", None, 50, 7),
    ("seed", None, 0, 7),
    ("dtype", None, "auto", "bfloat16"),
    ("save", None, False, None),
    ("no_cuda", None, False, None),
    ("data", None, None, "builtin"),
    ("logdir", None, "logs", "there"),
    ("dir", None, "hyper-training", "there"),
    ("subdir", None, "", "there"),
]  # fmt: skip


@pytest.mark.parametrize(("name", "short", "default", "value"), PUBLISHED, ids=[flag for flag, *_ in PUBLISHED])
def test_flags_their_short_names_and_defaults(name, short, default, value):
    """value: another than the default; None for a flag that takes none."""
    assert hypertrain.SCRIPT.defaults()[name] == default
    for flag in (f"--{name}", *([f"-{short}"] if short else [])):
        for words in [[flag]] if value is None else [[flag, str(value)], [f"{flag}={value}"]]:
            assert hypertrain.SCRIPT.parse(words) == {name: True if value is None else value}


def test_milestones_take_several():
    assert hypertrain.SCRIPT.parse(["--milestones", "3", "5"]) == {"milestones": [3, 5]}


def test_training_is_set_up_as_flags_say(tmp_path):
    flags = (
        "-tall -m small -bsz 32 -totep 7 -wupep 3 -tlr 0.5 -vlr 0.25 -slr 0.125 -mom 0.75 -tstep 3 -vstep 4 -nonm 8 "
    )
    flags += "-pat 9 -ewt 0.01 -tscl --lr_decay 0.5 --log_interval 6 --milestones 2 4"
    values = values_of(hypertrain, f"{flags} --data builtin --no_cuda")
    settings = hypertrain.SCRIPT.make(values)
    _, hyper, task = course.build(settings, hypertrain.SCRIPT.sources(values))
    with RunFolder.create(tmp_path / "run", {}) as folder:
        trainer = settings.trainer(task, hyper, folder, None, lambda: False)
    assert trainer.plan == Plan(7, warmup_steps=15, train_steps=3, val_steps=4, patience=9, checkpoint_seconds=60.0)
    method, decay, recorder = trainer.method, trainer.learning_rate, trainer.recorder
    (sgd,), adam = method.updates["weights"].optimizer.param_groups, method.updates["hyper"].optimizer.param_groups
    assert (sgd["lr"], sgd["momentum"], sgd["weight_decay"], method.updates["weights"].clip) == (0.5, 0.75, 0, math.inf)
    assert [group["lr"] for group in adam] == [0.25, 0.125]
    assert (method.tune_scales, method.entropy_weight) == (True, 0.01)
    assert (decay.value, decay.divisor, decay.nonmono, decay.milestones, decay.lowest) == (0.5, 2.0, 8, (2, 4), 1e-5)
    assert (recorder.intervals, recorder.average) == ({"train": 6, "valid": 6}, True)


def test_help_names_every_flag(capsys):
    status, out, error = execute(hypertrain, ["--help"], capsys)
    assert (status, error) == (0, "")
    for name, short, *_ in PUBLISHED:
        assert f"--{name}" in out and (short is None or f"-{short}" in out)


def test_a_seed_gives_the_same_again(run, tmp_path):
    found = []
    for subdir, seed in (("a", 0), ("b", 0), ("c", 1)):
        assert run(f"{ALL} --total_epochs 2 --seed {seed} --subdir {subdir}")[0] == 0
    for folder in runs(tmp_path):
        found.append([without_time(folder / f"{table}.csv") for table in ("train", "valid", "epoch", "result")])
    assert found[0] == found[1] != found[2]


def test_without_cifar10_it_trains_on_the_builtin_images(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(cnn.datasets, "ROOT", tmp_path)
    flags = f"{SMALL} --tune_hue --total_epochs 1 --warmup_epochs 0 --logdir {tmp_path / 'logs'}".replace(
        "--data builtin", ""
    )
    status, out, _ = execute(hypertrain, flags.split(), capsys)
    assert status == 0 and "./getdata.sh cifar10" in out and "160 / 40 / 60 images" in out
    assert settings(only_run(tmp_path))["data"] == "builtin"


def test_bfloat16(run, tmp_path):
    status, out, _ = run(f"{ALL} --dtype bfloat16 --total_epochs 2")
    assert status == 0 and "products in bfloat16, as asked for" in out
    saved = torch.load(only_run(tmp_path) / "model.pt", weights_only=True)
    assert {weight.dtype for weight in saved["model"].values()} == {torch.float32}


def test_the_learning_rate_decays_at_milestones(run, tmp_path):
    assert run("--tune_hue --total_epochs 4 --milestones 1 3 --train_steps 3 --warmup_epochs 0")[0] == 0
    rates = [float(row["lr"]) for row in rows(only_run(tmp_path) / "epoch.csv")]
    assert rates == pytest.approx([0.01, 0.001, 0.001, 0.0001])


@pytest.mark.parametrize("script", ["hypertrain", "train_basic"])
def test_scripts_run_from_inside_cnn(tmp_path, script):
    (tmp_path / "sitecustomize.py").write_text(
        "from stn.datasets import builtin_images\nbuiltin_images.builtin_images.__defaults__ = (200, 60)\n"
    )
    own = {"hypertrain": "--tune_all --warmup_epochs 0", "train_basic": ""}
    flags = f"{SMALL} --total_epochs 1 --logdir {tmp_path / 'logs'} {own[script]}"
    done = subprocess.run(
        [sys.executable, f"{script}.py", *flags.split()],
        cwd=ROOT / "cnn",
        env={**os.environ, "PYTHONPATH": f"{tmp_path}{os.pathsep}{ROOT}", "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
    )
    assert (done.returncode, done.stderr) == (0, "")
    folder = next((tmp_path / "logs").glob("**/result.csv")).parent
    assert settings(folder)["script"] == f"cnn/{script}.py"


# Stop, resume, test


def everything(folder):
    """Tables without times, the checkpoint without the clock, and the saved model."""
    state = read_checkpoint(folder).state
    for name in ("elapsed", "epoch_started"):
        del state["recorder"][name]
    del state["recorder"]["best"]["time"]
    tables = [without_time(folder / f"{table}.csv") for table in ("train", "valid", "epoch", "result")]
    return {"tables": tables, "state": state, "model": torch.load(folder / "model.pt", weights_only=True)}


def test_a_run_trained_longer_is_the_run_that_was_that_long(run, tmp_path, finished):
    flags = f"{ALL} --seed 3 --total_epochs 2 --subdir parts"
    assert run(flags)[0] == 0
    folder = only_run(tmp_path)
    assert run(f"--resume {folder} --total_epochs 3")[0] == 0
    assert same(everything(folder), everything(finished))


def test_the_settings_of_an_earlier_run_reproduce_it(tmp_path, finished):
    assert hypertrain.main(f"--config {finished} --logdir {tmp_path / 'logs'}".split()) == 0
    again = only_run(tmp_path)
    assert same(everything(again), everything(finished))
    assert again.name.rpartition("_")[0] == finished.name.rpartition("_")[0]
    assert again.parent.name == f"{datetime.now():%Y%m%d}"
    status = hypertrain.main(
        f"--config {finished} --logdir {tmp_path / 'other'} --total_epochs 2 --subdir mine".split()
    )
    (other,) = (tmp_path / "other").glob("*/mine/*/")
    assert status == 0 and settings(other)["label"] == f"{settings(finished)['label']}_total_epochs2"


@pytest.mark.parametrize("stop_at", [0, 3, 6, 8])
def test_an_interrupted_run_goes_on_as_if_it_had_not_been(run, tmp_path, finished, monkeypatch, stop_at):
    """Before the first step, in the warm-up, within an epoch, and right after one's end."""
    asked = iter(range(100))
    with monkeypatch.context() as patch:
        patch.setattr(Interrupt, "asked", lambda _: next(asked) == stop_at)
        status, out, _ = run(f"{ALL} --seed 3 --total_epochs 3")
    assert status == 130 and "continue with --resume" in out
    folder = only_run(tmp_path)
    assert (folder / "status").read_text() == "interrupted\n"
    state = read_checkpoint(folder).state
    assert state["train_step"] == min(stop_at, 5) + 2 * max(stop_at - 5, 0)
    assert run("--resume")[0] == 0  # the newest
    assert same(everything(folder), everything(finished))


def test_resume_with_the_same_settings_said_again(run, tmp_path, finished):
    folder = shutil.copytree(finished, tmp_path / "logs" / "hyper-training" / "a" / "b")
    assert run(f"--resume {folder} {ALL} --seed 3 --model small --data builtin -totep 4".replace(" --save", ""))[0] == 0
    assert len(rows(folder / "epoch.csv")) == 4


def test_test_reports_the_best_model_and_touches_nothing(finished, capsys):
    before = {file: file.read_bytes() for file in finished.iterdir()}
    (result,) = rows(finished / "result.csv")
    for flags in (f"--resume {finished}", f"--logdir {finished.parents[2]}"):
        status, out, _ = execute(hypertrain, ["--test", *flags.split()], capsys)
        assert status == 0
        for split, name in (("valid", "val"), ("test", "test")):
            loss, accuracy = float(result[f"{name}_loss"]), float(result[f"{name}_acc"])
            assert f"{split} loss {loss:.4f}, accuracy {accuracy:.2%}" in out
    assert {file: file.read_bytes() for file in finished.iterdir()} == before


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        ("-totep 9 --train_lr 7", ("--train_lr 7", "the run has 0.01")),
        ("-totep 9 --tune_dropout", ("--tune_dropout", "False")),
        ("-totep 9 --model alexnet", ("--model alexnet", "small")),
        ("-totep 9 --batch_size 16 --percent_valid 0.5", ("--batch_size 16", "--percent_valid 0.5")),
        ("", ("finished", "--patience", "--total_epochs")),
    ],
)
def test_resume_with_what_cannot_be(run, finished, flags, words):
    before = {file: file.read_bytes() for file in finished.iterdir()}
    refused(run(f"--resume {finished} {flags}"), *words)
    assert {file: file.read_bytes() for file in finished.iterdir()} == before


def test_resume_of_what_is_no_run(run, tmp_path):
    refused(run(f"--resume {tmp_path}"), "no run", "args.yaml")
    refused(run(f"--resume {tmp_path / 'nowhere'}"), "nowhere", "does not exist")
    for flags in ("--resume", "--test"):
        refused(run(flags), "no ", "run", "--logdir")
    assert not (tmp_path / "logs").exists()


def other_weights(folder):
    file = folder / "checkpoint.pt"
    content = torch.load(file, weights_only=True)
    content["state"]["model"] = content["state"]["best"]["model"] = {"weight": torch.zeros(3)}
    torch.save(content, file)


def other_settings(folder, **changes):
    found = {**settings(folder), **changes}
    (folder / "args.yaml").write_text(yaml.safe_dump(found))
    content = torch.load(folder / "checkpoint.pt", weights_only=True)
    torch.save({**content, "settings": found}, folder / "checkpoint.pt")


other_network = partial(other_settings, tune_fcdropout=True, model="alexnet")
fewer_tuned = partial(other_settings, tune_hue=False)


@pytest.mark.parametrize("change", [other_weights, other_network, fewer_tuned], ids=["weights", "network", "tuned"])
@pytest.mark.parametrize("flags", ["--total_epochs 9", "--test"])
def test_a_checkpoint_of_another_model(run, finished, tmp_path, monkeypatch, change, flags):
    monkeypatch.setattr(cnn.models.AlexNet, "FULLY_CONNECTED", (1024, 4, 4))
    folder = shutil.copytree(finished, tmp_path / "logs" / "a" / "b" / "c")
    change(folder)
    before = {file: file.read_bytes() for file in folder.iterdir()}
    refused(run(f"--resume {folder} {flags}"), "another model")
    assert {file: file.read_bytes() for file in folder.iterdir()} == before


@pytest.mark.parametrize(
    ("name", "value"),
    [("batch_size", "abc"), ("seed", None), ("tune_hue", 3), ("milestones", 4), ("model", "big"), ("train_lr", -1.0)],
)  # fmt: skip
@pytest.mark.parametrize("flags", ["--total_epochs 9", "--test"])
def test_settings_that_cannot_be(run, finished, tmp_path, name, value, flags):
    folder = shutil.copytree(finished, tmp_path / "logs" / "a" / "b" / "c")
    (folder / "args.yaml").write_text(yaml.safe_dump({**settings(folder), name: value}))
    refused(run(f"--resume {folder} {flags}"), "args.yaml", f"{name}: {value!r}", "put that back")
    other_settings(folder, **{name: value})  # the checkpoint's, too
    refused(run(f"--resume {folder} {flags}"), f"{name}: {value!r}", "mend it")


@pytest.mark.parametrize(
    ("name", "value"),
    [("device", 7), ("device", "abacus"), ("total_epochs", 99), ("patience", "x"), ("log_interval", 9)],
)
def test_settings_that_may_change_change_by_flags_alone(run, finished, tmp_path, name, value):
    folder = shutil.copytree(finished, tmp_path / "logs" / "a" / "b" / "c")
    recorded = settings(folder)
    (folder / "status").write_text("interrupted\n")
    (folder / "args.yaml").write_text(yaml.safe_dump({**recorded, name: value}))
    status, _, error = run(f"--resume {folder}")
    assert status == 0 and error.count("\n") == 1
    assert f"it says {name}: {value!r}, where the run has {recorded[name]!r}, and goes on with that" in error
    assert settings(folder) == recorded and len(rows(folder / "epoch.csv")) == 3
    (folder / "status").write_text("interrupted\n")
    (folder / "args.yaml").write_text(yaml.safe_dump({key: own for key, own in recorded.items() if key != name}))
    status, _, error = run(f"--resume {folder}")
    assert status == 0 and error.count("\n") == 1 and settings(folder) == recorded


def test_memory_that_runs_out_on_the_way(run, monkeypatch, tmp_path):
    def exhausted(*_):
        raise torch.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr(nn.Module, "train", exhausted)
    refused(run(ALL), "out of memory", "smaller mini-batches")
    (status,) = tmp_path.glob("logs/**/status")
    assert status.read_text() == "failed\n"


def test_changed_images(run, finished, tmp_path, monkeypatch):
    train, test = builtin_images.builtin_images()
    others = Images(255 - train.pixels, train.labels), test
    folder = shutil.copytree(finished, tmp_path / "logs" / "a" / "b" / "c")
    monkeypatch.setattr(builtin_images, "builtin_images", lambda: others)
    refused(run(f"--resume {folder} --test"), "builtin", "restore")


def test_a_run_of_the_other_script(run, finished):
    refused(run(f"--resume {finished} --test", script=train_basic), "cnn/hypertrain.py", script="train_basic.py")


# Bad input


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        ("", ("nothing is tuned", "--tune_all")),
        ("--tune_scales", ("nothing is tuned", "--tune_all")),
        ("--tune_dropout --tune_dropoutl", ("--tune_dropout", "--tune_dropoutl")),
        ("--tune_dropout --tune_all", ("--tune_dropout is", "--tune_all brings one for each")),
        ("--tune_fcdropout", ("--tune_fcdropout", "--model small")),
        ("--tune_all --tune_fcdropout", ("--tune_fcdropout", "--model small")),
        ("--tune_all --start_fcdrop 0.1", ("--start_fcdrop", "--model small", "leave it out")),
        ("--tune_all --start_fcdrop 0.1 --tune_fcdropout", ("--start_fcdrop", "--model small")),
        *((f"--tune_all --{flag} 0.1", (f"--{flag}", "add --tune_scales")) for flag in ("entropy_weight", "scale_lr")),
        ("--tune_hue --cutlength_scale 1", ("--cutlength_scale", "add --tune_cutlength,")),
        ("--tune_cutlength --cutholes_scale 1", ("--cutholes_scale", "add --tune_cutholes,")),
        ("--tune_cutlength --tune_cutholes --perturb_scale 1", ("--perturb_scale", "besides cutout")),
        *((f"--tune_all --total_epochs 2 --warmup_epochs {epochs}", (
          "--total_epochs 2 ", f"--warmup_epochs {epochs}", "raise")) for epochs in (2, 3)),
        *((f"--tune_all --start_{name} {value}", ("cannot start at", f"--start_{name} {value}: give"))
          for name, value in (
            ("hue", "0.5"), ("cutlength", "25"), ("cutlength", "24"), ("cutlength", "23.5"), ("cutlength", "3.7"),
            ("cutholes", "4"), ("drop", "0"), ("drop", "0.9"), ("indrop", "1"), ("sat", "1"), ("contrast", "1"),
            ("bright", "0"), ("inscale", "0.3"))),
        ("--tune_dropout --start_drop 0", ("--start_drop 0", "0 and 0.9")),
        *((f"--tune_all --start_{name} {value}", (f"--start_{name}", value)) for name in ("hue", "cutlength")
          for value in ("-1", "nan", "inf", "much")),
        *((f"--tune_fcdropout --model mlp --{flag}", (f"--{flag.split()[0]} has", "another network than --model mlp"))
          for flag in ("tune_hue", "tune_jitters", "tune_indropout", "tune_dropout", "tune_dropoutl", "tune_cutholes",
          "start_drop 0.1", "start_sat 0.1", "start_cutlength 3", "cutholes_scale 1")),
        ("--model mlp --dataset mnist", ("nothing is tuned", "--tune_all")),
        ("--tune_all --model mlp --dataset cifar10", ("--model mlp is not for --dataset cifar10: give --dataset mnist",
          "or --model alexnet or small")),
        ("--tune_all --dataset mnist", ("--model small is not for --dataset mnist: give --dataset cifar10, ",
          "or --model mlp")),
        ("--tune_all --model alexnet --dataset mnist", ("--model alexnet is not for --dataset mnist",)),
        ("--tune_all --dataset svhn", ("--dataset", "svhn", "cifar10, mnist")),
        ("--tune_all --dataset cifar100", ("--dataset: 'cifar100' is none of cifar10, mnist",)),
        ("--tune_hue --start_sat 0.1", ("--start_sat", "add --tune_sat,")),
        ("--tune_cutlength --start_cutholes 2", ("--start_cutholes", "add --tune_cutholes,")),
        ("--tune_all --percent_valid 0.999", ("--percent_valid 0.999", "training")),
        ("--tune_all --percent_valid 1e-17", ("--percent_valid 1e-17", "validation")),
        *((f"--tune_all --percent_valid {value}", ("--percent_valid", value)) for value in ("0", "1", "1.5", "-1")),
        ("--tune_all --batch_size 41", ("--batch_size 41", "40 validation")),
        ("--tune_all --batch_size 161 --percent_valid 0.2", ("161", "160 training", "lower --percent_valid")),
        ("--tune_all --percent_valid 0.01", ("--batch_size 32", "2 validation", "raise --percent_valid")),
        ("--tune_all --data=", ("--data", "empty")),
        ("--tune_all --data nowhere", ("--data nowhere", "does not exist")),
        ("--tune_all --train_lr 1e-6", ("--train_lr 1e-06", "1e-05")),
        *((f"--tune_all --{name} {value}", (name, value)) for name in ("batch_size", "total_epochs", "train_steps",
          "valid_steps", "patience", "threads", "log_interval") for value in ("0", "-3", "2.5")),
        *((f"--tune_all --{name} {value}", (name, value)) for name in ("train_lr", "valid_lr", "scale_lr", "lr_decay")
          for value in ("0", "-1", "nan", "inf")),
        *((f"--tune_all --{name} {value}", (name, value)) for name in PERTURBATIONS for value in ("-1", "nan", "inf")),
        *((f"--tune_all --tune_scales --{name} 0", (f"--{name} 0", "--tune_scales")) for name in PERTURBATIONS),
        *((f"--tune_all --momentum {value}", ("momentum", value)) for value in ("1", "-0.1", "nan")),
        ("--tune_all --lr_decay 4", ("--lr_decay", "4", "at most 1")),
        ("--tune_all --entropy_weight -1", ("entropy_weight", "-1")),
        ("--tune_all --warmup_epochs -1", ("warmup_epochs", "-1")),
        ("--tune_all --milestones 0", ("milestones", "0")),
        ("--tune_all --model resnet", ("--model", "resnet")),
        ("--tune_everything", ("--tune_everything",)),
        ("--tune_al", ("--tune_al",)),
    ],
)  # fmt: skip
def test_flags_that_cannot_be(run, tmp_path, flags, words):
    refused(run(flags), *words)
    assert not (tmp_path / "logs").exists()


# MNIST


DIGITS = SMALL.replace("--data builtin --model small", "--percent_valid 0.2")


@pytest.fixture
def narrow(monkeypatch):
    monkeypatch.setattr(cnn.models.MLP, "SIZES", (784, 12, 8))


@pytest.fixture
def digits(tmp_path, capsys, narrow):  # noqa: ARG001
    """digits(flags): a narrow perceptron's command line on a few images."""

    def command(flags, script=hypertrain):
        given = [] if "--resume" in flags else f"{DIGITS} --logdir {tmp_path / 'logs'} --total_epochs 2".split()
        given += ["--recipe", "stn"] if script is hypertrain and given else []  # its epochs may be short
        return execute(script, [*given, *flags.split()], capsys)

    return command


def test_a_perceptron_tunes_its_dropout(digits, tmp_path):
    status, out, _ = digits(
        "--model mlp --data builtin --tune_all --tune_scales --warmup_epochs 0 --valid_lr 0.1 --save"
    )
    folder = only_run(tmp_path)
    assert status == 0 and out.startswith("built-in grey images\n") and (folder / "model.pt").exists()
    first, last = rows(folder / "epoch.csv")
    for name in MLP_NAMES:
        assert float(last[name]) != float(first[name]) and float(last[f"{name}_scale"]) != 0.5
    found = settings(folder)
    assert (found["model"], found["dataset"], found["data"]) == ("mlp", "mnist", "builtin")
    assert found["hyperparameters"] == MLP_NAMES and found["ranges"] == {name: [0.0, 0.9] for name in MLP_NAMES}
    (result,) = rows(folder / "result.csv")
    model, hyper = stn.load_model(folder)
    twin = load_into(plain("mlp", (12, 8)), model, hyper.current().h[0].detach())
    _, test = builtin_images.builtin_grey_images()
    logits = twin((test.pixels / 255 - 0.451) / 0.173)
    assert float(result["test_loss"]) == pytest.approx(
        nn.functional.cross_entropy(logits, test.labels).item(), rel=1e-5
    )


def test_a_perceptrons_run_goes_on(digits, tmp_path):
    assert digits("--dataset mnist --data builtin --tune_fcdropout --warmup_epochs 0")[0] == 0
    folder = only_run(tmp_path)
    assert digits(f"--resume {folder} --data builtin --total_epochs 3")[0] == 0
    assert len(rows(folder / "epoch.csv")) == 3


@pytest.mark.parametrize(
    ("flags", "model", "dataset"),
    [
        ("", "alexnet", "cifar10"),
        ("--model small", "small", "cifar10"),
        ("--model mlp", "mlp", "mnist"),
        ("--dataset mnist", "mlp", "mnist"),
        ("--dataset cifar10", "alexnet", "cifar10"),
        ("--model mlp --dataset mnist", "mlp", "mnist"),
    ],
)
def test_model_and_data_set_imply_each_other(flags, model, dataset):
    for script, own in ((hypertrain, "--tune_all"), (train_basic, "")):
        values = values_of(script, f"{flags} {own} --data builtin")
        assert (values["model"], values["dataset"]) == (model, dataset)


def test_what_a_config_decides_is_not_implied(digits, tmp_path, finished):
    refused(digits(f"--config {finished} --model mlp"), "--model mlp is not for --dataset cifar10")
    assert not (tmp_path / "logs").exists()


def test_without_mnist_it_trains_on_the_builtin_grey_images(digits, tmp_path, monkeypatch):
    monkeypatch.setattr(cnn.datasets, "ROOT", tmp_path)
    status, out, _ = digits("--model mlp --tune_all --warmup_epochs 0")
    assert status == 0 and "160 / 40 / 60 images" in out
    assert "no data/mnist (./getdata.sh mnist fetches it): using the built-in grey images" in out
    assert settings(only_run(tmp_path))["data"] == "builtin"


@pytest.mark.parametrize("named", [False, True])
def test_mnist_is_read_where_it_is(digits, tmp_path, monkeypatch, named):
    """From the folder that --data names, or else from the default one."""
    folder = tmp_path / "data" / ("digits" if named else "mnist")
    folder.mkdir(parents=True)
    monkeypatch.setattr(cnn.datasets, "ROOT", tmp_path)
    flags = f"--model mlp --tune_all --warmup_epochs 0 {f'--data {folder}' if named else ''}"
    refused(digits(flags), folder / "train-images-idx3-ubyte", "missing", "./getdata.sh mnist")
    read = []
    monkeypatch.setattr(mnist, "load_mnist", lambda path: read.append(path) or builtin_images.builtin_grey_images())
    status, out, _ = digits(flags)
    assert (status, read) == (0, [folder]) and f"MNIST in {folder}\n" in out


def test_images_that_are_missing_or_truncated(run, tmp_path):
    folder = tmp_path / "images"
    folder.mkdir()
    refused(run(f"--tune_all --data {folder}"), folder, "missing", "getdata.sh")
    for name in CIFAR10_SHA256:
        (folder / name).write_bytes(bytes(3073))
    refused(run(f"--tune_all --data {folder}"), folder, "3073 bytes instead of")
    refused(run(f"--tune_all --data {folder / 'data_batch_1.bin'}"), "data_batch_1.bin", "not a folder")
    assert not (tmp_path / "logs").exists()


def test_a_scale_of_0_does_not_perturb(run, tmp_path):
    flags = "--tune_sat --tune_cutlength --perturb_scale 0 --cutlength_scale 0 --total_epochs 2 --warmup_epochs 0"
    assert run(f"{flags} --valid_lr 0.1")[0] == 0
    last = rows(only_run(tmp_path) / "epoch.csv")[-1]
    assert last["sat_scale"] == last["cutlength_scale"] == "0.0"


def test_the_learned_scalar_of_elementary_outputs(run, tmp_path):
    """As published, one a layer with a response, which starts at 1 and is learned; by default under the STN alone."""
    scalars = {}
    cases = {
        "with": "",
        "without": "--no_elementary_scale",
        "delta": "--delta_stn",
        "asked": "--delta_stn --elementary_scale",
    }
    for prefix, flag in cases.items():
        assert run(f"--tune_sat --total_epochs 2 --warmup_epochs 0 --save --subdir {prefix} {flag}")[0] == 0
        (model,) = (tmp_path / "logs").glob(f"*/{prefix}/*/model.pt")
        weights = torch.load(model, weights_only=True)["model"]
        scalars[prefix] = {name: value.item() for name, value in weights.items() if "elementary_scale" in name}
    assert scalars["without"] == scalars["delta"] == {}
    for found in (scalars["with"], scalars["asked"]):
        assert list(found) == [f"convolutions.{layer}.elementary_scale" for layer in range(3)]
        assert all(0.5 < value < 2 and value != 1 for value in found.values())


def failing(error):
    def model(*_, **__):
        raise error

    return model


def test_a_network_that_does_not_fit_into_memory(run, tmp_path, monkeypatch):
    """What fails otherwise is a defect of ours, and shows as one."""
    monkeypatch.setitem(cnn.models.MODELS, "small", failing(MemoryError()))
    refused(run("--tune_all"), "not fit into memory", "lower --width")
    monkeypatch.setitem(cnn.models.MODELS, "small", failing(RuntimeError("shapes differ")))
    with pytest.raises(RuntimeError, match="shapes differ"):
        run("--tune_all")
    assert not (tmp_path / "logs").exists()


def test_logs_that_cannot_be_written(run, tmp_path):
    (tmp_path / "logs").write_text("in the way")
    refused(run("--tune_all"), tmp_path / "logs", "cannot write")


def test_a_subfolder_whose_name_is_too_long(run, tmp_path):
    (tmp_path / "logs" / "hyper-training").mkdir(parents=True)
    refused(run(f"--tune_all --subdir {300 * 'x'}"), "cannot write", "File name too long", "--subdir")
    assert not runs(tmp_path)


def test_a_loss_that_is_not_finite_ends_the_run_as_diverged(run, tmp_path):
    refused(run("--tune_all --train_lr 1e30"), "not finite at step", "learning rate")
    assert (only_run(tmp_path) / "status").read_text() == "diverged\n"
    assert not (only_run(tmp_path) / "result.csv").exists()
