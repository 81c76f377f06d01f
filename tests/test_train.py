import math
import os
import runpy
import shutil
import subprocess
import sys
from datetime import date
from pathlib import Path

import pytest
import torch
import yaml
from lstm_runs import SMALL, execute, only_run, rebuilt, refused, rows, settings, without_time, write_corpus

from lstm import train, train_basic
from lstm.hyperparameters import TABLE
from stn.bilevel import evaluate
from stn.lstm import HyperLSTM
from stn.runs.checkpoints import FORMAT, KIND
from stn.runs.folder import RunFolder
from stn.training import Trainer

ROOT = Path(__file__).parent.parent
VALUES = list(TABLE)
TUNED = f"{SMALL} --warmup_steps 2"


@pytest.fixture(autouse=True)
def same_threads():
    threads = torch.get_num_threads()
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="module")
def corpus(tmp_path_factory):
    return write_corpus(tmp_path_factory.mktemp("corpus"))


@pytest.fixture
def run(tmp_path, corpus, capsys):
    """run(flags): the command line on the small corpus, logging below tmp_path; (exit status, stdout, stderr)."""

    def command(flags="", data=corpus):
        # A resumed run is told no more than where to look.
        small = TUNED if "--tune_" in flags else SMALL
        given = [] if "--resume" in flags else ["--data", str(data), *small.split()]
        argv = ["--save_dir", str(tmp_path / "logs"), *given, *flags.split()]
        return execute(train, argv, capsys)

    return command


def status_of(folder):
    return (folder / "status").read_text().strip()


# What a run leaves


@pytest.fixture(scope="module")
def finished(tmp_path_factory, corpus):
    """The folder of a finished run with everything tuned."""
    logs = tmp_path_factory.mktemp("finished")
    argv = f"--data {corpus} --save_dir {logs} --prefix all --tune_all --seed 3 {TUNED}"
    assert train.main(argv.split()) == 0
    (folder,) = logs.glob("*/")
    return folder


def test_a_run_leaves_its_files(finished):
    names = {file.name for file in finished.iterdir()}
    assert {"args.yaml", "val.csv", "epoch.csv", "result.csv", "checkpoint.pt", "model.pt"} <= names
    assert any(name.startswith("events.out.tfevents.") for name in names)
    assert finished.name.endswith("-all") and status_of(finished) == "finished"


def test_columns(finished):
    assert list(rows(finished / "val.csv")[0]) == ["global_step", "time", *VALUES, "train_step"]
    scales = [f"{name}_scale" for name in VALUES]
    losses = ["train_loss", "val_loss", "train_ppl", "val_ppl"]
    assert list(rows(finished / "epoch.csv")[0]) == ["epoch", "time", *losses, *VALUES, *scales, "lr"]
    (result,) = rows(finished / "result.csv")
    assert list(result) == ["val_loss", "val_ppl", "test_loss", "test_ppl", "best_epoch", "best_time", "time", *VALUES]


def test_numbers_agree(finished):
    epochs, (result,) = rows(finished / "epoch.csv"), rows(finished / "result.csv")
    assert [row["epoch"] for row in epochs] == ["0", "1"]
    losses = [float(row["val_loss"]) for row in epochs]
    assert float(result["val_loss"]) == min(losses) != losses[-1]  # so that the best is not the last
    for row in (*epochs, result):
        assert float(row["val_ppl"]) == math.exp(float(row["val_loss"]))
    assert all(0 < float(row[name]) < 1 for row in epochs for name in VALUES)


def test_settings_say_what_made_the_run(finished, corpus):
    found = settings(finished)
    assert found["seed"] == 3 and found["data"] == str(corpus) and found["lr"] == 1.0
    assert (found["device"], found["dtype"], found["threads"]) == ("cpu", "float32", 1)
    assert len(found["data_checksum"]) == 64
    assert found["hyperparameters"] == VALUES == list(found["ranges"])
    assert found["versions"]["torch"] == torch.__version__ and "revision" in found["versions"]


def test_the_saved_model_gives_the_result(finished):
    saved = torch.load(finished / "model.pt", weights_only=True)
    _, hyper, task = rebuilt(train, finished)
    task.model.load_state_dict(saved["model"])
    hyper.load_state_dict(saved["hyper"])
    (result,) = rows(finished / "result.csv")
    for split, name in (("valid", "val_loss"), ("test", "test_loss")):
        assert evaluate(task, hyper, split).loss == float(result[name])


# Flags


def test_nothing_tuned_is_a_plain_fixed_baseline(run, tmp_path):
    status, out, _ = run("--dropouto 0.4 --wdrop 0.3")
    assert status == 0 and "tuned: nothing" in out
    folder = only_run(tmp_path)
    assert not (folder / "val.csv").exists()
    for row in rows(folder / "epoch.csv"):
        assert [float(row[name]) for name in ("dropouto", "wdrop", "alpha")] == pytest.approx([0.4, 0.3, 0.0])
        assert not any(name.endswith("_scale") for name in row)
    saved = torch.load(folder / "model.pt", weights_only=True)
    assert not any("response" in name or "gate" in name for name in saved["model"])


def test_tune_all_tunes_all_from_the_published_start(finished):
    found = settings(finished)
    assert all(found[f"tune_{name}"] for name in VALUES)
    assert all(found[name] == 0.05 for name in VALUES)
    assert (found["drop_transform"], found["alpha_beta_transform"]) == ("centred", "centred")


def test_tune_all_gives_way_to_what_is_given(run, tmp_path):
    assert run("--tune_all --alpha 0.2 --drop_transform none")[0] == 0
    found = settings(only_run(tmp_path))
    assert (found["alpha"], found["beta"]) == (0.2, 0.05)
    assert (found["drop_transform"], found["alpha_beta_transform"]) == ("none", "centred")


def test_only_what_is_to_be_tuned_changes(run, tmp_path):
    assert run("--tune_dropouto --tune_wdrop --tune_scales --alpha 1 --seed 1")[0] == 0
    folder = only_run(tmp_path)
    last = rows(folder / "epoch.csv")[-1]
    changed = {name for name in VALUES if abs(float(last[name]) - settings(folder)[name]) > 1e-4}
    assert changed == {"dropouto", "wdrop"}
    assert [name for name in last if name.endswith("_scale")] == ["dropouto_scale", "wdrop_scale"]
    assert all(float(last[name]) != 1 for name in ("dropouto_scale", "wdrop_scale"))


def test_scales_stay_unless_tuned(finished):
    assert {row[f"{name}_scale"] for row in rows(finished / "epoch.csv") for name in VALUES} == {"1.0"}


def test_zero_is_a_seed_like_any_other(run, tmp_path):
    folders = []
    for prefix, seed in (("a", 0), ("b", 0), ("c", 1)):
        assert run(f"--tune_all --seed {seed} --epochs 1 --prefix {prefix}")[0] == 0
        (folder,) = (tmp_path / "logs").glob(f"*-{prefix}")
        assert settings(folder)["seed"] == seed
        folders.append([without_time(folder / name) for name in ("val.csv", "epoch.csv", "result.csv")])
    assert folders[0] == folders[1]
    assert folders[0] != folders[2]


def test_a_seed_of_ones_own_is_recorded_and_gives_the_same_again(run, tmp_path):
    assert run("--epochs 1")[0] == 0
    seed, result = (
        settings(only_run(tmp_path))["seed"],
        without_time(only_run(tmp_path) / "result.csv"),
    )
    assert run(f"--epochs 1 --overwrite --seed {seed}")[0] == 0
    assert without_time(only_run(tmp_path) / "result.csv") == result


def test_the_models_file_can_be_named(run, tmp_path):
    assert run("--epochs 1 --save mine.pt")[0] == 0
    assert (only_run(tmp_path) / "mine.pt").exists() and not (only_run(tmp_path) / "model.pt").exists()


def test_help_names_every_flag_once(capsys):
    status, out, error = execute(train, ["--help"], capsys)
    assert status == 0 and error == ""
    for name in (*VALUES, *(f"tune_{name}" for name in VALUES), "tune_all", "tune_scales", "resume", "data"):
        assert f"--{name}" in out


# Runs that are there already


def test_a_finished_run_is_not_redone(run, tmp_path):
    assert run("--epochs 1")[0] == 0
    before = {file: file.read_bytes() for file in only_run(tmp_path).iterdir()}
    refused(run("--epochs 1"), only_run(tmp_path), "finished", "--overwrite", "--prefix")
    assert {file: file.read_bytes() for file in only_run(tmp_path).iterdir()} == before


def test_overwrite_redoes_a_run(run, tmp_path):
    assert run("--epochs 1 --dropouto 0.5 --seed 1")[0] == 0
    assert run("--epochs 2 --dropouto 0.5 --overwrite --seed 1")[0] == 0
    assert len(rows(only_run(tmp_path) / "epoch.csv")) == 2


def test_a_second_configuration_of_a_day_gets_a_folder_of_its_own(run, tmp_path):
    today = f"{date.today():%Y-%m-%d}"
    started = ["--seed 1", "--dropouto 0.1 --seed 1", "--dropouto 0.1 --seed 2", "--dropouto 0.1 --seed 2 --overwrite"]
    for flags in started:
        assert run(f"--epochs 1 {flags}")[0] == 0
    runs = sorted((tmp_path / "logs").glob("*/args.yaml"))
    assert [file.parent.name for file in runs] == [today, f"{today}.2", f"{today}.3"]
    assert [(settings(file.parent)["dropouto"], settings(file.parent)["seed"]) for file in runs] == [
        (0.05, 1),
        (0.1, 1),
        (0.1, 2),
    ]
    for flags, number in (("--seed 1", ""), ("", ""), ("--dropouto 0.1", ".2"), ("--dropouto 0.1 --seed 2", ".3")):
        refused(run(f"--epochs 1 {flags}"), f"{today}{number} holds a finished run", "--overwrite")
    refused(run("--epochs 2"), f"{today} holds")  # what may change when a run is resumed is no other configuration
    status, out, _ = run("--resume --epochs 2")
    assert status == 0 and f"{today}.3:" in out  # the newest


# A run that follows another's settings


@pytest.mark.parametrize("folder", [True, False])
def test_the_settings_of_an_earlier_run_reproduce_it(finished, tmp_path, folder):
    config = finished if folder else shutil.copy(finished / "args.yaml", tmp_path / "mine.yaml")
    assert execute_plain(f"--save_dir {tmp_path}/logs --config {config}") == 0
    again = only_run(tmp_path)
    for table in ("epoch", "val"):
        assert without_time(again / f"{table}.csv") == without_time(finished / f"{table}.csv")
    now, before = settings(again), settings(finished)
    assert {**now, "save_dir": None, "prefix": None} == {**before, "save_dir": None, "prefix": None}
    assert again.name == f"{date.today():%Y-%m-%d}"


def test_what_was_given_against_the_published_values_is_reproduced(run, tmp_path):
    for flags in ("--drop_transform none --alpha 0.5 --seed 1", "--seed 2"):
        assert run(f"--tune_all {flags} --epochs 1")[0] == 0
    first, second = sorted((tmp_path / "logs").glob("*/"))
    assert execute_plain(f"--config {first} --save_dir {tmp_path}/logs --seed 2") == 0  # neither of these two
    assert execute_plain(f"--config {first} --save_dir {tmp_path}/again") == 0
    (again,) = (tmp_path / "again").glob("*/")
    assert settings(again)["drop_transform"] == "none" and settings(again)["alpha"] == 0.5
    assert without_time(again / "val.csv") == without_time(first / "val.csv")
    refused(run(f"--config {second} --seed 1 --drop_transform none --alpha 0.5"), f"{first} holds")


def execute_plain(flags):
    return train.main(flags.split())


def test_flags_overrule_the_settings_of_an_earlier_run(finished, tmp_path):
    other = write_corpus(tmp_path / "other", seed=1)
    flags = f"--config {finished} --save_dir {tmp_path}/logs --prefix b --epochs 1 --alpha 0.25 --data {other}"
    assert execute_plain(flags) == 0
    now = settings(only_run(tmp_path))
    assert (now["alpha"], now["beta"], now["seed"], now["data"]) == (0.25, 0.05, 3, str(other))
    assert now["tune_all"] and now["drop_transform"] == "centred" and len(rows(only_run(tmp_path) / "epoch.csv")) == 1


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"script": "cnn/hypertrain.py"}, ("cnn/hypertrain.py",)),
        ({"bppt": 3}, ("sets bppt", "no flag")),
        ({"bptt": "3"}, ("bptt: '3'", "mend it")),
        ({"data_checksum": "another"}, ("does not hold",)),
        ({"data": "/nowhere"}, ("/nowhere", "does not exist")),
        ({"threads": 10**6}, ("--threads 1000000", "cores", "lower it")),
    ],
)
def test_settings_that_no_run_can_take(finished, tmp_path, capsys, change, words):
    file = tmp_path / "args.yaml"
    file.write_text(yaml.safe_dump({**settings(finished), **change}))
    refused(execute(train, f"--config {file} --save_dir {tmp_path}/logs".split(), capsys), *words)
    assert not (tmp_path / "logs").exists()


def test_config_is_for_new_runs(finished, tmp_path, capsys):
    for flags, words in (
        (f"--resume {finished}", ("--config", "--resume")),
        ("--test", ("--config", "--test")),
        ("--config=", ("--config", "empty")),
    ):
        refused(execute(train, [*f"--config {finished}".split(), *flags.split()], capsys), *words)
    refused(execute(train, ["--config", str(tmp_path / "nowhere.yaml")], capsys), "nowhere.yaml", "does not exist")
    refused(execute(train, ["--config", str(tmp_path)], capsys), "args.yaml", "cannot read")
    file = tmp_path / "list.yaml"
    for text in ("- 1", "a: [", ""):
        file.write_text(text)
        refused(execute(train, ["--config", str(file)], capsys), file, "give a run's folder")
    file.write_bytes(b"\xff\xfe")
    refused(execute(train, ["--config", str(file)], capsys), file)


def test_test_reports_the_best_model_and_touches_nothing(finished, capsys):
    before = {file: file.read_bytes() for file in finished.iterdir()}
    (result,) = rows(finished / "result.csv")
    for flags in (f"--resume {finished}", f"--save_dir {finished.parent} --prefix all"):
        status, out, _ = execute(train, ["--test", *flags.split()], capsys)
        assert status == 0
        assert f"valid loss {float(result['val_loss']):.4f}" in out
        assert f"test loss {float(result['test_loss']):.4f}" in out
    assert {file: file.read_bytes() for file in finished.iterdir()} == before


def test_test_where_there_is_no_run(run):
    refused(run("--test --resume"), "no run", "--prefix")
    refused(run("--test"), "--epochs has nothing to act on", "--test trains nothing")


def test_the_script_runs_from_another_folder(tmp_path, monkeypatch, capsys):
    """With a corpus that is named from there."""
    write_corpus(tmp_path / "text")
    command = [str(ROOT / "lstm" / "train.py"), "--data", "text", "--save_dir", str(tmp_path / "logs"), *SMALL.split()]
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    done = subprocess.run([sys.executable, *command], cwd=tmp_path, env=environment, capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")
    assert settings(only_run(tmp_path))["data"] == str(tmp_path / "text")

    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", command)
    monkeypatch.setattr(sys, "path", [*sys.path])  # of which the script changes the first
    with pytest.raises(SystemExit) as stop:
        runpy.run_path(command[0], run_name="__main__")
    refused((stop.value.code, *capsys.readouterr()), "--overwrite")


# Bad input


@pytest.mark.parametrize("split", ["train", "valid", "test"])
def test_a_corpus_file_that_is_missing_empty_or_not_utf8(run, tmp_path, split):
    file = write_corpus(tmp_path / "text") / f"{split}.txt"
    file.write_bytes(b"caf\xe9\n")
    refused(run(data=tmp_path / "text"), file, "UTF-8")
    file.write_text("")
    refused(run(data=tmp_path / "text"), file, "empty")
    file.unlink()
    refused(run(data=tmp_path / "text"), file, "missing", "--data")
    assert not (tmp_path / "logs").exists()


def test_a_corpus_that_is_not_there(run, tmp_path):
    refused(run(data=tmp_path / "nowhere"), "--data", tmp_path / "nowhere", "does not exist")


def test_a_corpus_too_short_for_its_batch(run, tmp_path):
    refused(run("--batch_size 5000"), "train", "5000", "at most")
    assert not (tmp_path / "logs").exists()


def test_a_prefix_that_is_too_long(run, tmp_path):
    refused(run(f"--prefix {300 * 'x'}"), "File name too long", "--prefix")
    assert not any((tmp_path / "logs").glob("*/"))


def test_a_model_that_no_memory_holds(run, tmp_path):
    refused(run("--tune_all --emsize 10000 --nhid 2147483647"), "does not fit into memory", "--nhid")
    assert not (tmp_path / "logs").exists()


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        ("--tune_alpha", ("--tune_alpha", "--alpha 0", "a value above 0")),
        *((f"--tune_all --{name} 0.1", (name, "add --tune_scales")) for name in ("entropy_weight", "scale_lr")),
        ("--tune_all --beta 0", ("--tune_beta", "--beta 0")),
        ("--tune_wdrop --wdrop 0", ("--tune_wdrop", "between 0 and 1")),
        *((flag, (f"{flag.split()[0]} has nothing to act on", "add --tune_all", "leave it out")) for flag in (
            "--tune_scales", "--val_penalties", "--hyper_lr 0.1", "--train_steps 1", "--val_steps 2",
            "--warmup_steps 9", "--entropy_weight 0", "--scale_lr 0.1", "--val_log_interval 5", "--perturb_scale 2",
            "--drop_transform sigmoid", "--alpha_beta_transform softplus")),
        *((f"--{name} {rate}", (name, rate)) for name in ("dropouto", "dropouti", "dropouth", "dropoute", "wdrop")
          for rate in ("1", "-0.1", "1.5", "nan", "inf", "much")),
        *((f"--{name} {size}", (name, size)) for name in ("emsize", "nhid", "nlayers", "batch_size", "bptt", "epochs",
          "train_steps", "val_steps", "patience", "threads") for size in ("0", "-3", "2.5")),
        *((f"--{name} {number}", (name, number)) for name in ("lr", "hyper_lr", "scale_lr")
          for number in ("0", "-1", "nan", "inf")),
        *((f"--{name} {number}", (name, number)) for name in (
            "clip", "wdecay", "alpha", "beta", "entropy_weight", "perturb_scale") for number in ("-1", "nan", "inf")),
        ("--tune_all --tune_scales --perturb_scale 0", ("--perturb_scale 0", "--tune_scales")),
        ("--lr_decay 1", ("lr_decay", "1")),
        ("--seed -1", ("seed", "-1")),
        ("--warmup_steps -1", ("warmup_steps", "-1")),
        ("--drop_transform softplus", ("drop_transform", "sigmoid")),
        ("--save checkpoint.pt", ("save", "checkpoint.pt")),
        ("--save ../model.pt", ("save", "../model.pt")),
        ("--prefix a/b", ("--prefix a/b", "slash")),
        ("--tune_everything", ("--tune_everything",)),
        ("--tune_all --train_steps 8 --warmup_steps 0", ("8 weight steps in a row", "has 7", "lower train_steps")),
        ("--threads 1000000", ("--threads 1000000", "cores", "lower it")),
        ("--tune_all --warmup_steps 100000", ("2 epochs of", "end before the warm-up of 100000", "nothing is tuned")),
        ("--tune_dropouto --epochs 1 --warmup_steps 331", ("1 epoch of", "warm-up of 331", "train for more epochs")),
        ("--epoch 3", ("--epoch",)),
        ("--epochs", ("--epochs",)),
        ("--data=", ("--data", "empty")),
        ("surplus", ("surplus",)),
        ("--epochs 1" + 400 * "0", ("--epochs",)),
    ],
)  # fmt: skip
def test_flags_that_cannot_be(run, tmp_path, flags, words):
    refused(run(flags), *words)
    assert not (tmp_path / "logs").exists()


@pytest.mark.parametrize("place", ["logs", "logs/saves"])
def test_logs_that_cannot_be_written(tmp_path, corpus, capsys, place):
    (tmp_path / place).parent.mkdir(exist_ok=True)
    (tmp_path / place).write_text("in the way")
    argv = f"--save_dir {tmp_path}/logs/saves --data {corpus} {SMALL}".split()
    refused(execute(train, argv, capsys), tmp_path / "logs" / "saves", "move away")
    assert (tmp_path / place).read_text() == "in the way"


def test_a_folder_that_another_process_uses(run, tmp_path):
    assert run("--epochs 1")[0] == 0
    with RunFolder.open(only_run(tmp_path)):
        for flags in ("--overwrite", "--epochs 1", f"--resume {only_run(tmp_path)} --epochs 3"):
            refused(run(flags), only_run(tmp_path), "another process")


@pytest.mark.parametrize("flags", ["--lr 1e30 --clip 0", "--wdecay 100 --clip 0 --warmup_steps 0 --epochs 9"])
def test_a_loss_that_is_not_finite_ends_the_run_as_diverged(run, tmp_path, flags):
    refused(run(f"--tune_all --train_steps 1 --seed 0 {flags}"), "not finite at step", "dropouto", "learning rate")
    folder = only_run(tmp_path)
    assert status_of(folder) == "diverged"
    assert not (folder / "result.csv").exists()
    if "wdecay" in flags:  # each step makes the weights some hundred times larger: there were steps before
        assert len(rows(folder / "val.csv")) > 3
        assert all(math.isfinite(float(cell)) for row in rows(folder / "val.csv") for cell in row.values())


def test_a_stop_before_training_leaves_a_folder_that_may_be_used_again(run, tmp_path, monkeypatch):
    def stopped(*_):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(Trainer, "__init__", stopped)
        assert run("--seed 1")[0] == 130
    assert status_of(only_run(tmp_path)) == "interrupted"
    refused(run(f"--resume {only_run(tmp_path)}"), "no checkpoint yet", "start a new run")
    assert run("--seed 1")[0] == 0
    assert len(rows(only_run(tmp_path) / "epoch.csv")) == 2


def test_a_resume_that_fails_leaves_the_status(unfinished, capsys):
    (unfinished / "train.csv").mkdir()  # in the way
    for status in ("interrupted", "running"):  # or killed
        (unfinished / "status").write_text(f"{status}\n")
        refused(resume(capsys, unfinished, "--epochs 3"), "train.csv")
        assert status_of(unfinished) == status


@pytest.mark.usefixtures("unfinished")
def test_logs_that_were_moved(tmp_path, capsys):
    (tmp_path / "logs").rename(tmp_path / "moved")
    found = f"--save_dir {tmp_path / 'moved'}"
    for flags in (f"--resume {found} --epochs 3", f"--test {found}"):
        assert execute(train, flags.split(), capsys)[0] == 0


def test_a_table_that_somebody_removes_is_written_anew(run, tmp_path, monkeypatch):
    def remove(trainer):
        (trainer.recorder.run.path / "epoch.csv").unlink(missing_ok=True)
        alternate(trainer)

    alternate = Trainer.alternate
    with monkeypatch.context() as patch:
        patch.setattr(Trainer, "alternate", remove)
        assert run("--epochs 3 --seed 1")[0] == 0
    assert [row["epoch"] for row in rows(only_run(tmp_path) / "epoch.csv")] == ["0", "1", "2"]


def test_what_is_not_utf8_is_refused(run, tmp_path):
    for flag in ("--prefix", "--save_dir", "--data"):
        refused(run(f"{flag} a\udce9"), flag, "UTF-8", "rename")
    assert not (tmp_path / "logs").exists()


# What cannot be resumed


@pytest.fixture
def unfinished(finished, tmp_path):
    """A copy of a run as it would be were it not finished."""
    folder = tmp_path / "logs" / "2024-01-02"
    shutil.copytree(finished, folder)
    (folder / "status").write_text("interrupted\n")
    return folder


def resume(capsys, folder, flags=""):
    return execute(train, ["--resume", str(folder), *flags.split()], capsys)


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        ("--lr 7", ("--lr 7", "the run has 1.0")),
        ("--seed 4 --nhid 6", ("--seed 4", "--nhid 6")),
        ("--tune_scales", ("--tune_scales", "False")),
        ("--dropouto 0.3", ("--dropouto 0.3", "0.05")),
        ("--overwrite", ("--resume", "--overwrite")),
    ],
)
def test_resume_with_other_settings(unfinished, capsys, flags, words):
    before = {file: file.read_bytes() for file in unfinished.iterdir()}
    refused(resume(capsys, unfinished, flags), *words)
    assert {file: file.read_bytes() for file in unfinished.iterdir()} == before


EDITS = {"batch_size": 10, "emsize": "16", "bptt": 7, "dropouto": 0.3, "seed": 4, "tune_all": False, "ranges": {}}


@pytest.mark.parametrize("name", EDITS)
@pytest.mark.parametrize("flags", ["", "--test", "--epochs 3"])
def test_resume_with_edited_settings(unfinished, capsys, name, flags):
    recorded = settings(unfinished)
    (unfinished / "args.yaml").write_text(yaml.safe_dump({**recorded, name: EDITS[name]}))
    before = {file: file.read_bytes() for file in unfinished.iterdir()}
    words = f"it says {name}: {EDITS[name]!r}, where the run has {recorded[name]!r}"
    refused(resume(capsys, unfinished, flags), "args.yaml was changed", words, "put that back")
    assert {file: file.read_bytes() for file in unfinished.iterdir()} == before


@pytest.mark.parametrize("change", [lambda text: text.replace(b"\n", b"\r\n"), lambda text: b"E" + text[1:]])
def test_resume_with_an_edited_table(unfinished, capsys, change):
    file = unfinished / "epoch.csv"
    file.write_bytes(change(file.read_bytes()))
    before = {file: file.read_bytes() for file in unfinished.iterdir()}
    refused(resume(capsys, unfinished), file, "does not hold what", "restore it")
    assert {file: file.read_bytes() for file in unfinished.iterdir()} == before


def test_resume_without_tensorboards_files(unfinished, capsys):
    for file in unfinished.glob("events.*"):
        file.unlink()
    status, _, error = resume(capsys, unfinished, "--epochs 3")
    assert status == 0 and error.count("\n") == 1 and "TensorBoard misses" in error
    assert len(rows(unfinished / "epoch.csv")) == 3


def test_resume_on_another_number_of_threads(unfinished, capsys, monkeypatch):
    monkeypatch.setattr(os, "cpu_count", lambda: 2)
    status, _, error = resume(capsys, unfinished, "--threads 2 --epochs 3")
    assert status == 0 and error.count("\n") == 1
    assert "threads 2 in place of 1" in error and "last digits may differ" in error
    assert settings(unfinished)["threads"] == 2 and torch.get_num_threads() == 2
    (unfinished / "status").write_text("interrupted\n")
    status, _, error = resume(capsys, unfinished, "--epochs 4")
    assert (status, error) == (0, "") and torch.get_num_threads() == 2
    refused(resume(capsys, unfinished, "--threads 3 --epochs 5"), "--threads 3", "2 cores")


def test_a_gpu_that_is_not_there(run, unfinished, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    flags = f"--save_dir {tmp_path}/new --data {settings(unfinished)['data']} {SMALL.replace('--disable_cuda', '')}"
    status, _, error = execute(train, [*flags.split(), "--gpu", "7", "--epochs", "1"], capsys)
    assert status == 0 and error.startswith("train.py: --gpu 7: PyTorch sees no GPU") and error.count("\n") == 1
    status, _, error = resume(capsys, unfinished, "--gpu 1")
    assert status == 0 and "--gpu 1: PyTorch sees no GPU" in error and error.count("\n") == 1
    refused(run("--gpu 1"), "--gpu has nothing to act on", "--disable_cuda")


def test_a_run_goes_on_with_another_device(unfinished, capsys):
    record = {**settings(unfinished), "device": "cuda:3", "disable_cuda": False}
    (unfinished / "args.yaml").write_text(yaml.safe_dump(record))
    content = torch.load(unfinished / "checkpoint.pt", weights_only=True)
    torch.save({**content, "settings": record}, unfinished / "checkpoint.pt")
    refused(resume(capsys, unfinished), "cuda:3", "not here", "--disable_cuda")
    status, _, error = resume(capsys, unfinished, "--disable_cuda --epochs 3")
    assert status == 0 and "device cpu in place of cuda:3" in error
    assert settings(unfinished)["device"] == "cpu"


@pytest.mark.parametrize("flag", ["resume", "load_schedule", "data", "config"])
def test_a_variable_that_is_not_set_is_no_path(capsys, flag):
    script = train_basic if flag == "load_schedule" else train
    outcome = execute(script, [f"--{flag}", ""], capsys)
    refused(outcome, f"--{flag}", "empty", script=script.SCRIPT.name)


def test_resume_with_the_same_settings_said_again(unfinished, corpus, capsys):
    flags = f"--seed 3 {TUNED} --tune_all --data {corpus} --alpha 0.05"
    assert resume(capsys, unfinished, flags.replace("--epochs 2", "--epochs 3"))[0] == 0
    assert len(rows(unfinished / "epoch.csv")) == 3


def test_resume_on_changed_data(unfinished, tmp_path, capsys):
    other = write_corpus(tmp_path / "other", seed=1)
    refused(resume(capsys, unfinished, f"--data {other}"), other, "restore")


def test_resume_from_data_that_moved(unfinished, corpus, tmp_path, capsys):
    shutil.copytree(corpus, tmp_path / "moved")
    assert resume(capsys, unfinished, f"--data {tmp_path / 'moved'}")[0] == 0


def truncate(file):
    os.truncate(file, file.stat().st_size // 2)


def other_format(file):
    torch.save({**torch.load(file, weights_only=True), "format": FORMAT + 1}, file)


def foreign(file):
    torch.save({"state_dict": {"weight": torch.zeros(3)}}, file)


def other_model(file):
    content = torch.load(file, weights_only=True)
    content["state"]["model"] = content["state"]["best"]["model"] = {"weight": torch.zeros(3)}
    torch.save(content, file)


def code(file):
    torch.save({"kind": KIND, "format": FORMAT, "state": Path("/"), "tables": {}}, file)


@pytest.mark.parametrize(
    ("damage", "words"),
    [
        (truncate, ("checkpoint.pt", "damaged", "start a new run")),
        (other_format, ("checkpoint.pt", f"format {FORMAT + 1}", f"format {FORMAT}")),
        (foreign, ("checkpoint.pt", "not a checkpoint of a run")),
        (other_model, ("another model",)),
        (code, ("checkpoint.pt", "damaged")),
        (Path.unlink, ("no checkpoint", "start a new run")),
    ],
)
@pytest.mark.parametrize("flags", ["", "--test"])
def test_resume_from_a_checkpoint_that_is_no_good(unfinished, capsys, damage, words, flags):
    damage(unfinished / "checkpoint.pt")
    rows_before = (unfinished / "val.csv").read_bytes()
    refused(resume(capsys, unfinished, flags), *words)
    assert (unfinished / "val.csv").read_bytes() == rows_before


def test_resume_of_a_run_of_another_version(unfinished, capsys):
    settings_now = settings(unfinished)
    del settings_now["bptt"]
    (unfinished / "args.yaml").write_text(yaml.safe_dump(settings_now))
    for flags in ("", "--test"):
        refused(resume(capsys, unfinished, flags), "args.yaml", "bptt", "start a new run")


def test_how_kernels_are_launched_may_change(unfinished, capsys, monkeypatch):
    settings_now = settings(unfinished)
    del settings_now["no_cuda_graphs"]  # a run older than the flag
    (unfinished / "args.yaml").write_text(yaml.safe_dump(settings_now))
    recorded, forward = set(), HyperLSTM.forward
    monkeypatch.setattr(
        HyperLSTM, "forward", lambda layer, *args: recorded.add(layer.cuda_graphs) or forward(layer, *args)
    )
    assert resume(capsys, unfinished, "--no_cuda_graphs")[0] == 0
    assert settings(unfinished)["no_cuda_graphs"] is True and recorded == {False}


def test_activations_may_be_checkpointed_from_here_on(unfinished, tmp_path, capsys, monkeypatch):
    settings_now = settings(unfinished)
    del settings_now["checkpoint_activations"]  # a run older than the flag
    (unfinished / "args.yaml").write_text(yaml.safe_dump(settings_now))
    other = shutil.copytree(unfinished, tmp_path / "logs" / "2024-01-03")
    checkpointed, forward = set(), HyperLSTM.forward
    monkeypatch.setattr(
        HyperLSTM,
        "forward",
        lambda layer, *args: checkpointed.add(layer.checkpoint_activations) or forward(layer, *args),
    )
    more = f"--epochs {settings_now['epochs'] + 1}"
    assert resume(capsys, unfinished, f"--checkpoint_activations {more}")[0] == 0
    assert settings(unfinished)["checkpoint_activations"] is True and checkpointed == {True}
    assert resume(capsys, other, more)[0] == 0
    assert without_time(unfinished / "epoch.csv") == without_time(other / "epoch.csv")


def test_resume_where_there_is_nothing(run, tmp_path, capsys):
    refused(run("--resume"), "no run", "--prefix")
    refused(resume(capsys, tmp_path / "nowhere"), "nowhere", "does not exist")
    refused(resume(capsys, tmp_path), "no run", "args.yaml")


def test_resume_of_a_finished_run_asks_for_more_epochs(finished, tmp_path, capsys):
    folder = shutil.copytree(finished, tmp_path / "logs" / "2024-01-02")
    refused(resume(capsys, folder), "finished", "--epochs")
    refused(execute(train, f"--resume --save_dir {tmp_path}/logs".split(), capsys), "finished")


# bfloat16


def test_a_run_in_bfloat16_says_so_and_resumes_in_it(run, tmp_path, capsys):
    """Its best model has float32 weights; what it computes in cannot change on the way."""
    status, out, _ = run("--dtype bfloat16 --tune_all --seed 1 --epochs 2")
    assert status == 0 and "products in bfloat16, as asked for" in out
    folder = only_run(tmp_path)
    assert settings(folder)["dtype"] == "bfloat16"
    saved = torch.load(folder / "model.pt", weights_only=True)
    assert {weight.dtype for weight in saved["model"].values()} == {torch.float32}
    refused(execute(train, ["--resume", folder, "--epochs", "3", "--dtype", "float32"], capsys), "--dtype", "bfloat16")
    assert execute(train, ["--resume", folder, "--epochs", "3"], capsys)[0] == 0
    alone = tmp_path / "alone"
    assert run(f"--dtype bfloat16 --tune_all --seed 1 --epochs 3 --save_dir {alone}")[0] == 0
    (other,) = alone.glob("*/")
    assert without_time(folder / "epoch.csv") == without_time(other / "epoch.csv")


def test_auto_is_resolved_once_and_said(run, tmp_path, monkeypatch):
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: {"amx_bf16": True})
    status, out, _ = run("--dtype auto --epochs 1")
    assert status == 0 and "products in bfloat16, which this processor multiplies natively" in out
    folder = only_run(tmp_path)
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: {})
    assert train.main(["--resume", str(folder), "--epochs", "2"]) == 0
    assert settings(folder)["dtype"] == "bfloat16"
