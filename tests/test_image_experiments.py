"""The command lines of the Δ-STN's image experiments, end to end on narrow networks and a few images."""

import shutil

import pytest
import torch
import yaml
from cnn_runs import SMALL, SMALL_NAMES, only_run, runs, same
from lstm_runs import execute, rebuilt, rows, settings, values_of, without_time
from lstm_runs import refused as refused_by
from search_runs import no_figures_fixture  # noqa: F401

import stn
from cnn import hypertrain, search, train_basic
from cnn.datasets import DATA_SETS, datasets_of
from cnn.hyperparameters import AFFINE, TABLE, names_of
from cnn.models import MODELS, convnet
from cnn.task import normalized, scaled
from stn.datasets import builtin_images
from stn.datasets.images import Normalization
from stn.hyperparameters import Tuned
from stn.runs.checkpoints import read_checkpoint
from stn.scripts import course

FEW = SMALL.replace(" --model small", "") + " --percent_valid 0.2 --warmup_epochs 0 --train_steps 2"
NARROW = {"vgg16": "--width 0.03 --batch_size 20", "alexnet": "--width 0.02", "simple_cnn": "--width 0.1"}

pytestmark = pytest.mark.usefixtures("few_images", "same_threads")


@pytest.fixture
def run(tmp_path, capsys):
    """run(flags): the command line on a few images, logging below tmp_path; (exit status, stdout, stderr)."""

    def command(flags, script=hypertrain):
        given = [] if "--resume" in flags else ["--logdir", tmp_path / "logs", *FEW.split()]
        if script is train_basic and given:
            given = [*given[: given.index("--warmup_epochs")]]
        return execute(script, [*given, *flags.split()], capsys)

    return command


def refused(outcome, *words, script="hypertrain.py"):
    refused_by(outcome, *words, script=script)


def tuned_by(flags):
    values = values_of(hypertrain, f"--data builtin {flags}")
    return [name for name, source in hypertrain.sources(values).items() if isinstance(source, Tuned)]


# Flags


@pytest.mark.parametrize(
    ("flags", "names"),
    [
        ("-tall -m simple_cnn", names_of("simple_cnn")),
        ("-tall -m vgg16", names_of("vgg16")),
        ("-tall -m vgg16 --tune_wdecay", [*names_of("vgg16"), "wdecay"]),
        ("-tall --recipe delta_stn", names_of("alexnet", recipe="delta_stn")),
        ("--tune_affine -m vgg16", list(AFFINE)),
        ("-tidrop -m vgg16", ["indropout2d"]),
        ("-tidrop", ["indropout"]),
        ("-tfcdrop -m simple_cnn", ["fcdropout1"]),
        ("-tfcdrop -m vgg16", ["fcdropout1", "fcdropout2"]),
        ("-tdrop -m vgg16", ["dropout"]),
        ("-tdropl -m simple_cnn", ["dropout0", "dropout1"]),
        *((f"--tune_wdecay -m {model}", ["wdecay"]) for model in MODELS),
    ],
)
def test_what_flags_tune(flags, names):
    assert tuned_by(flags) == names


def test_where_flags_start():
    affine = "--start_degrees 7 --start_translation 0.25 --start_zoom 0.125 --start_shear 9"
    flags = f"-tall -m vgg16 --tune_wdecay --start_wdecay 0.01 {affine} -idrop 0.5"
    sources = hypertrain.sources(values_of(hypertrain, f"--data builtin {flags}"))
    expected = {"wdecay": 0.01, "degrees": 7, "translation": 0.25, "zoom": 0.125, "shear": 9, "indropout2d": 0.5}
    assert {name: sources[name].initial for name in expected} == expected
    assert TABLE["wdecay"].initial == 1e-4 and sources["wdecay"].range == (0, float("inf"))


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        ("--tune_all --tune_affine --model small", ("--tune_affine", "another network than --model small")),
        ("--tune_hue --model simple_cnn", ("--tune_hue", "another network than --model simple_cnn")),
        ("--tune_jitters --model simple_cnn", ("--tune_jitters",)),
        ("--tune_affine", ("--tune_affine", "--model alexnet", "another --recipe than stn")),
        ("--tune_inscale --recipe delta_stn", ("--tune_inscale", "another --recipe than delta_stn")),
        ("--tune_all --start_wdecay 0.1", ("--start_wdecay", "add --tune_wdecay")),
        ("--tune_wdecay --start_wdecay 0", ("--start_wdecay 0", "a value above 0")),
        ("--tune_all --model vgg16 --start_shear 45", ("--start_shear 45", "between 0 and 45")),
        ("--tune_all --model small --batch_norm", ("--batch_norm", "add --model vgg16")),
        ("--tune_all --width 0", ("--width", "'0'")),
        ("--tune_all --width nan", ("--width", "'nan'")),
        ("--tune_all --width 1e300", ("--width", "at most 100")),
        ("--tune_all --model vgg16 --dataset mnist", ("--model vgg16 is not for --dataset mnist",)),
        ("--tune_all --model simple_cnn --dataset cifar10", ("--model simple_cnn is not for --dataset cifar10",)),
        ("--tune_all --model mlp --checkpoint_activations", ("--model mlp", "leave --checkpoint_activations out")),
        ("--tune_all --data_seed -1", ("--data_seed",)),
        ("--tune_all --experiment_name a/b", ("--experiment_name", "a/b")),
    ],
)
def test_flags_that_cannot_be(run, tmp_path, flags, words):
    refused(run(flags), *words)
    assert not (tmp_path / "logs").exists()


def test_a_weight_decay_of_0_is_none(run):
    refused(run("--wdecay 0 --model small", train_basic), "--wdecay", "'0'", script="train_basic.py")


def test_data_sets_of_each_network():
    assert datasets_of("simple_cnn") == ["fashion_mnist", "mnist"] and datasets_of("mlp") == ["mnist", "fashion_mnist"]
    assert datasets_of("vgg16") == datasets_of("alexnet") == ["cifar10"]
    for flags, model, dataset in (
        ("--model simple_cnn", "simple_cnn", "fashion_mnist"),
        ("--model simple_cnn --dataset mnist", "simple_cnn", "mnist"),
        ("--dataset fashion_mnist", "simple_cnn", "fashion_mnist"),
        ("--dataset fashion_mnist --model mlp", "mlp", "fashion_mnist"),
        ("--dataset mnist", "mlp", "mnist"),
        ("--model vgg16", "vgg16", "cifar10"),
    ):
        for script, own in ((hypertrain, "--tune_all"), (train_basic, "")):
            values = values_of(script, f"{flags} {own} --data builtin")
            assert (values["model"], values["dataset"]) == (model, dataset)
            assert values["percent_valid"] == DATA_SETS[dataset].percent_valid


@pytest.mark.parametrize("dataset", ["mnist", "fashion_mnist"])
def test_pixels_of_the_simple_network_are_as_they_are(dataset):
    for flags, wanted in (("", Normalization((0.0,), (1.0,))), ("--normalize", builtin_images.GREY_NORMALIZATION)):
        flags += f" --model simple_cnn --dataset {dataset} --tune_all --data builtin --batch_size 20"
        sets = hypertrain.SCRIPT.make(values_of(hypertrain, flags)).load()
        assert sets.normalization == wanted
        if not flags.startswith("--normalize"):
            assert torch.equal(normalized(scaled(sets.train.pixels), sets.normalization), sets.train.pixels / 255)


# Runs


@pytest.mark.parametrize("flags", [
    "--model vgg16 --delta_stn --batch_norm", "--model vgg16 --tune_wdecay", "--model simple_cnn --delta_stn",
    "--recipe delta_stn --delta_stn --tune_wdecay --data_seed 1",
])  # fmt: skip
def test_a_stopped_run_goes_on_as_if_it_had_not_been(run, tmp_path, flags):
    model = next((name for name in NARROW if name in flags), "alexnet")
    for subdir, epochs in (("whole", 2), ("parts", 1)):
        shared = f"{flags} {NARROW[model]} --tune_all --tune_scales --save --seed 3 --num_train 60"
        status, _, error = run(f"{shared} --subdir {subdir} --total_epochs {epochs}")
        assert status == 0, error
    parts, whole = runs(tmp_path)
    assert hypertrain.main(["--resume", str(parts), "--total_epochs", "2"]) == 0
    for table in ("train", "valid", "epoch", "result"):
        assert without_time(parts / f"{table}.csv") == without_time(whole / f"{table}.csv")
    ours, theirs = (read_checkpoint(folder).state["model"] for folder in (parts, whole))
    assert same(ours, theirs)
    names = names_of(model, recipe="delta_stn") + ["wdecay"] * ("wdecay" in flags)
    assert settings(whole)["hyperparameters"] == names
    first, last = rows(whole / "epoch.csv")
    assert all(first[name] != last[name] for name in names)
    loaded, hyper = stn.load_model(whole)
    assert loaded.arguments["width"] == settings(whole)["width"] < 1 and len(hyper.columns) == len(names)


def test_running_statistics_count_a_mini_batch_once(run, tmp_path):
    """Under the Δ-STN, too, which passes each one twice."""
    for method in ("stn", "delta_stn"):
        flags = f"--model vgg16 {NARROW['vgg16']} --batch_norm --tune_hue --total_epochs 1 --num_train 60"
        assert run(f"{flags} --method {method} --subdir {method}")[0] == 0
    for folder in runs(tmp_path):
        state = read_checkpoint(folder).state
        weights = state["model"]
        counts = {weights[f"normalizations.{layer}.num_batches_tracked"].item() for layer in range(13)}
        assert counts == {state["train_step"]} and state["train_step"] >= 3
        assert weights["normalizations.0.running_mean"].abs().max() > 0


def test_a_replay_of_a_run_with_affine_augmentation_and_weight_decay(run, tmp_path):
    flags = f"--model vgg16 {NARROW['vgg16']} --num_train 40 --total_epochs 1"
    assert run(f"{flags} --tune_all --tune_wdecay --subdir tuned")[0] == 0
    recorded_run = only_run(tmp_path)
    assert run(f"{flags} --load_schedule {recorded_run / 'epoch.csv'} --subdir replayed", train_basic)[0] == 0
    (replayed,) = (tmp_path / "logs").glob("*/replayed/*/")
    names = [*names_of("vgg16"), "wdecay"]
    (found,), (wanted,) = rows(replayed / "epoch.csv"), rows(recorded_run / "epoch.csv")
    assert {name: found[name] for name in names} == {name: wanted[name] for name in names}


def test_a_search_takes_the_new_networks(no_figures, tmp_path, monkeypatch, capsys):  # noqa: ARG001
    """And the weight decay, where that is asked for."""
    monkeypatch.setattr("stn.scripts.search.ROOT", tmp_path)
    monkeypatch.setattr("cnn.settings.ROOT", tmp_path)
    flags = "--model simple_cnn --dataset mnist --data builtin --width 0.1 --total_epochs 1 --batch_size 32 --threads 1"
    flags += " --percent_valid 0.2 --no_cuda --dtype float32 --sampler random --trials 2 --num_train 64 --search_wdecay"
    status, out, error = execute(search, flags.split(), capsys)
    assert status == 0, error
    names = "dropout0, dropout1, indropout2d, cutlength, cutholes, fcdropout1, wdecay"
    assert f"searched: {names} study" in " ".join(out.split())
    folder = tmp_path / "logs" / "searches" / "cnn" / "random"
    trials = rows(folder / "trials.csv")
    for trial in trials:
        assert rows(folder / trial["run"] / "epoch.csv")[0]["wdecay"] == trial["wdecay"]
    assert len({trial["wdecay"] for trial in trials}) == 2


def test_a_weight_decay_is_searched_or_fixed(tmp_path, capsys):
    flags = "--model small --data builtin --trials 1 --search_wdecay --wdecay 0.1"
    outcome = execute(search, [*flags.split(), "--save_dir", tmp_path], capsys)
    refused(outcome, "--search_wdecay", "--wdecay", "leave one out", script="search.py")


# Seeds and names


def parts_of(flags):
    """The first weights, and the order of the training images, of a run as it starts."""
    values = values_of(hypertrain, f"{FEW} --model small --tune_hue --seed 4 {flags}")
    _, _, task = course.build(hypertrain.SCRIPT.make(values), hypertrain.sources(values))
    return task.model.convolutions[0].weight.detach().clone(), task.streams["train"].order


def test_seeds_apart():
    weights, order = {}, {}
    for flags in (
        "",
        "--data_seed 1",
        "--model_seed 1",
        "--model_seed 1 --data_seed 1",
        "--data_seed 4 --model_seed 4",
    ):
        weights[flags], order[flags] = parts_of(flags)
    assert torch.equal(weights[""], weights["--data_seed 1"])
    assert torch.equal(weights["--model_seed 1"], weights["--model_seed 1 --data_seed 1"])
    assert not torch.equal(weights["--model_seed 1"], weights[""])
    assert torch.equal(order["--data_seed 1"], order["--model_seed 1 --data_seed 1"])
    assert torch.equal(order["--model_seed 1"], order["--data_seed 4 --model_seed 4"])  # of --seed 4
    assert not torch.equal(order["--model_seed 1"], order["--data_seed 1"])


def test_without_seeds_of_their_own_all_is_drawn_from_one():
    weight, order = parts_of("")
    torch.manual_seed(4)
    model = MODELS["small"](1, elementary_scale=True)
    assert torch.equal(weight, model.convolutions[0].weight) and torch.equal(order, torch.randperm(160))


@pytest.mark.parametrize("flags", ["--tune_all", "--tune_all --method delta_stn"])
def test_activations_are_checkpointed_with_the_same_numbers(run, tmp_path, monkeypatch, flags):
    again, recomputed = set(), convnet.recomputed

    def spied(*inputs, enabled, **options):
        again.add(enabled)
        return recomputed(*inputs, enabled=enabled, **options)

    monkeypatch.setattr(convnet, "recomputed", spied)
    for subdir, epochs in (("whole", 2), ("parts", 1)):
        assert run(f"{flags} --model small --seed 3 --subdir {subdir} --total_epochs {epochs}")[0] == 0
    assert again == {False}
    parts, whole = runs(tmp_path)
    assert run(f"--resume {parts} --total_epochs 2 --checkpoint_activations")[0] == 0
    assert again == {False, True} and settings(parts)["checkpoint_activations"] is True
    for table in ("train", "epoch", "result"):
        assert without_time(parts / f"{table}.csv") == without_time(whole / f"{table}.csv")


def test_an_experiments_name_comes_first_in_its_folders(run, tmp_path):
    assert run("--tune_hue --model small --experiment_name cnn_ts --total_epochs 1 --subdir a")[0] == 0
    folder = only_run(tmp_path)
    assert folder.name.startswith("cnn_ts_batch_size32_") and "experiment_name" not in folder.name
    assert settings(folder)["experiment_name"] == "cnn_ts"


def test_a_long_experiments_name_is_cut(tmp_path):
    """Between two characters, within the bytes that a folder's name may have."""
    values = values_of(hypertrain, f"{FEW} --model small --tune_hue --logdir {tmp_path} --experiment_name {'名' * 120}")
    with hypertrain.SCRIPT.make(values).new_folder(lambda _: False) as folder:
        folder.mkdir()
        assert folder.name.startswith("名" * 50 + "_")


# Runs from before these flags


def without_added(folder, script):
    """A run's settings and checkpoint as they were before there were such flags."""
    file = folder / "checkpoint.pt"
    content = torch.load(file, weights_only=True)
    added = {flag.name for flag in script.SCRIPT.flags.values() if flag.added}
    kept = {name: value for name, value in settings(folder).items() if name not in added}
    assert {"width", "flip", "data_seed", "experiment_name"} <= added and "tune_hue" not in added
    (folder / "args.yaml").write_text(yaml.safe_dump(kept))
    torch.save({**content, "settings": kept}, file)
    return kept


@pytest.mark.parametrize("script", [hypertrain, train_basic])
def test_a_run_from_before_goes_on_as_it_was(run, tmp_path, script):
    own = "--tune_all " if script is hypertrain else ""
    for subdir, epochs in (("whole", 2), ("parts", 1)):
        assert run(f"{own}--model small --seed 3 --subdir {subdir} --total_epochs {epochs}", script)[0] == 0
    parts, whole = runs(tmp_path)
    kept = without_added(parts, script)
    assert script.main(["--resume", str(parts), "--total_epochs", "2"]) == 0
    assert settings(parts) == {**kept, "total_epochs": 2}
    for table in ("train", "epoch", "result"):
        assert without_time(parts / f"{table}.csv") == without_time(whole / f"{table}.csv")
    assert list(rows(parts / "epoch.csv")[0])[6 : 6 + len(SMALL_NAMES)] == SMALL_NAMES
    other = shutil.copytree(parts, tmp_path / "logs" / "a" / "b" / "c")
    flags = "--total_epochs 3 --width 0.5"
    refused(run(f"--resume {other} {flags}", script), "--width 0.5 (the run has 1.0)", script=script.SCRIPT.name)


def test_its_settings_start_a_run_too(run, tmp_path):
    assert run("--tune_hue --model small --total_epochs 1 --subdir before")[0] == 0
    folder = only_run(tmp_path)
    kept = without_added(folder, hypertrain)
    status = hypertrain.main(f"--config {folder} --logdir {tmp_path / 'other'} --subdir after".split())
    (again,) = (tmp_path / "other").glob("*/after/*/")
    assert status == 0 and without_time(again / "epoch.csv") == without_time(folder / "epoch.csv")
    assert {name: settings(again)[name] for name in ("label", "model")} == {n: kept[n] for n in ("label", "model")}
    assert rebuilt(hypertrain, again)[2].flip is False and len(builtin_images.builtin_images()[0]) == 200
