"""--tune_lr in the four training scripts, end to end on small data."""

from itertools import pairwise

import pytest
import torch
from cnn_runs import SMALL as IMAGES
from cnn_runs import only_run as only_image_run
from lstm_runs import SMALL as TEXT
from lstm_runs import execute, only_run, refused, rows, settings, without_time, write_corpus

from cnn import hypertrain
from cnn import train_basic as image_baseline
from lstm import train, train_basic

pytestmark = pytest.mark.usefixtures("few_images", "same_threads")
RATES = {
    "hd": "--tune_lr hd --lr_hyper_lr 0.01",
    "rtho": "--tune_lr rtho --lr_hyper_lr 0.01 --lr_alpha 1e-4",
    "marthe": "--tune_lr marthe --lr_hyper_lr 0.01 --lr_mu 0.9",
    "adaptive": "--tune_lr marthe --lr_hyper_lr 0.01 --lr_mu=-1 --lr_first_order",
}
COLUMNS = {"hd": ["lr", "hyper_lr"], "rtho": ["lr", "hyper_lr"]}


@pytest.fixture(scope="module")
def corpus(tmp_path_factory):
    return write_corpus(tmp_path_factory.mktemp("corpus"))


@pytest.fixture
def text(tmp_path, corpus, capsys):
    """text(flags, script): a language-model script on the small corpus, logging below tmp_path."""

    def command(flags, script=train, to="logs"):
        given = [] if "--resume" in flags else ["--data", str(corpus), "--seed", "1", *TEXT.split()]
        if "--load_schedule" in flags and "--tune_lr" not in flags:
            given = " ".join(given).replace("--lr 1 ", "").split()
        tuning = ["--warmup_steps", "2"] if script is train and "--resume" not in flags else []
        return execute(script, ["--save_dir", str(tmp_path / to), *given, *tuning, *flags.split()], capsys)

    return command


@pytest.fixture
def images(tmp_path, capsys):
    def command(flags, script=hypertrain):
        return execute(script, ["--logdir", str(tmp_path / "logs"), *IMAGES.split(), *flags.split()], capsys)

    return command


# What a run leaves


@pytest.mark.parametrize("name", RATES)
@pytest.mark.parametrize("tuning", ["--tune_all", "--tune_all --method delta_stn", "--tune_dropouto"])
def test_both_are_tuned_in_one_run(text, tmp_path, name, tuning):
    status, _, error = text(f"{tuning} {RATES[name]}")
    assert status == 0, error
    folder = only_run(tmp_path)
    for table in ("epoch.csv", "val.csv"):
        values = rows(folder / table)
        assert {row["dropouto"] for row in values} and len({row["lr"] for row in values}) > 1
        assert all(0.0003 <= float(row["lr"]) < 100 for row in values)
        assert [*COLUMNS.get(name, ["lr", "hyper_lr", "mu"])] == [
            column for column in values[0] if column in ("lr", "hyper_lr", "mu")
        ]


def test_differences_are_said_where_the_lstm_needs_them(text):
    _, out, error = text(f"--tune_all {RATES['rtho']}")
    assert "learning rate: lr 1, tuned by RTHO with hyper_lr 0.01, Hessian products by double backward" in out
    assert error.count("central differences of gradients, in float32") == 1
    _, _, error = text(f"--tune_all {RATES['adaptive']}", to="others")
    assert "differences" not in error


@pytest.mark.parametrize("name", RATES)
def test_the_learning_rate_alone(text, tmp_path, name):
    status, _, error = text(RATES[name], train_basic)
    assert status == 0, error
    values = rows(only_run(tmp_path) / "epoch.csv")
    assert len({row["lr"] for row in values}) > 1 and len({row["dropouto"] for row in values}) == 1


@pytest.mark.parametrize("name", RATES)
def test_image_classifiers(images, tmp_path, name):
    status, _, error = images(f"--tune_all --warmup_epochs 0 --total_epochs 1 --train_lr 0.05 {RATES[name]}")
    assert status == 0 and "cannot be differentiated" not in error, error
    folder = only_image_run(tmp_path)
    for table in ("epoch.csv", "train.csv", "valid.csv"):
        assert {"lr", "hyper_lr"} <= rows(folder / table)[0].keys()
    assert float(rows(folder / "epoch.csv")[-1]["lr"]) != 0.05


def test_an_image_baseline(images, tmp_path):
    status, _, error = images(f"--total_epochs 1 --train_lr 0.05 {RATES['marthe']}", image_baseline)
    assert status == 0, error
    assert float(rows(only_image_run(tmp_path) / "epoch.csv")[-1]["lr"]) != 0.05


# Going on, and again


@pytest.mark.parametrize("name", ["hd", "marthe"])
def test_a_run_goes_on_where_it_was(text, tmp_path, name):
    text(f"--tune_all {RATES[name]} --epochs 3", to="whole")
    text(f"--tune_all {RATES[name]} --epochs 1", to="part")
    status, _, error = text("--resume --epochs 3", to="part")
    assert status == 0, error
    (whole,), (part,) = ((tmp_path / place).glob("*/") for place in ("whole", "part"))
    for table in ("epoch.csv", "val.csv"):
        assert without_time(part / table) == without_time(whole / table)


def test_a_tuned_rate_is_replayed(text, tmp_path):
    """By weight step exactly, HD's too, which is moved within a step: losses and learning rates are the same again."""
    for name in ("marthe", "hd"):
        text(f"{RATES[name]} --log-interval 1", train_basic, to=name)
        (tuned,) = (tmp_path / name).glob("*/")
        status, _, error = text(
            f"--load_schedule {tuned / 'val.csv'} --log-interval 1", train_basic, to=f"{name}-again"
        )
        assert status == 0, error
        (again,) = (tmp_path / f"{name}-again").glob("*/")
        for table, column in (("val", "lr"), ("epoch", "lr"), ("epoch", "train_loss")):
            found, expected = ([float(row[column]) for row in rows(of / f"{table}.csv")] for of in (again, tuned))
            assert found == pytest.approx(expected, rel=1e-6)


@pytest.mark.parametrize("name", ["marthe", "hd"])
def test_find_hyper_lr_recommends_one_and_trains_nothing(text, tmp_path, name):
    flags = " ".join(RATES[name].split()[:2])
    status, out, error = text(f"--tune_all {flags} --find_hyper_lr 6")
    assert status == 0, error
    table = [line.split() for line in out.splitlines() if line.strip()[:1].isdigit()]
    steps = [float(row[0]) for row in table]
    assert len(steps) == 9 and steps[0] == 0
    assert all(larger / smaller == pytest.approx(10, rel=0.01) for larger, smaller in pairwise(steps[1:]))
    assert out.splitlines()[-1].startswith("recommended: --lr_hyper_lr ")
    assert not (tmp_path / "logs").exists()


def test_find_hyper_lr_searches_alpha_where_the_step_size_is_given(text):
    status, out, error = text("--tune_lr rtho --lr_hyper_lr 1e-4 --find_hyper_lr 4 --tune_all")
    assert status == 0, error
    assert out.splitlines()[-1].startswith("recommended: --lr_alpha ")


# What is refused


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        ("--tune_lr hd", "--tune_lr hd lacks its step size: give --lr_hyper_lr; --find_hyper_lr tries some"),
        ("--lr_hyper_lr 1", "--lr_hyper_lr has nothing to act on: add --tune_lr"),
        ("--tune_lr hd --lr_hyper_lr 1 --lr_mu 0.5", "--lr_mu has nothing to act on: give --tune_lr marthe"),
        ("--tune_lr rtho --lr_hyper_lr 1 --lr_mu 0.5", "--lr_mu has nothing to act on: give --tune_lr marthe"),
        ("--tune_lr hd --lr_hyper_lr 1 --lr_first_order", "--lr_first_order has nothing to act on"),
        (
            "--tune_lr hd --lr_hyper_lr 1 --lr_decay 2",
            "--lr_decay has nothing to act on: leave out --tune_lr hd",
        ),
        ("--tune_lr marthe --lr_hyper_lr 1 --lr_mu 1.5", "'1.5' is not a number of at most 1"),
        ("--tune_lr marthe --lr_hyper_lr -1", "is not a number of 0 or more"),
        ("--tune_lr adam --lr_hyper_lr 1", "'adam' is none of hd, rtho, marthe"),
        ("--find_hyper_lr", "--find_hyper_lr has nothing to act on: have the learning rate tuned"),
        ("--tune_lr hd --lr_hyper_lr 1 --find_hyper_lr", "hd has no alpha to find for --lr_hyper_lr: leave that out"),
        ("--tune_lr rtho --lr_hyper_lr 0 --find_hyper_lr", "--lr_hyper_lr 0 stays 0 whatever alpha is"),
        ("--tune_lr hd --find_hyper_lr 0", "'0' is not a whole number above 0"),
        ("--tune_lr hd --find_hyper_lr --resume", "--resume has nothing to act on: leave out --find_hyper_lr"),
    ],
)
def test_flags_that_do_not_go_together(text, flags, words):
    refused(text(f"--tune_all {flags}"), words)


def test_a_tuned_rate_contradicts_a_replayed_one(text, tmp_path):
    text(RATES["hd"], train_basic, to="tuned")
    (tuned,) = (tmp_path / "tuned").glob("*/")
    outcome = text(f"--load_schedule {tuned / 'epoch.csv'} {RATES['hd']}", train_basic)
    refused(outcome, "--tune_lr contradicts --load_schedule, which sets lr", script="train_basic.py")


def test_args_yaml_says_how_it_is_tuned(text, tmp_path):
    text(f"--tune_all {RATES['adaptive']}")
    kept = settings(only_run(tmp_path))
    assert kept["tune_lr"] == "marthe" and kept["lr_mu"] == -1 and kept["lr_first_order"] is True


def test_bfloat16_takes_differences_in_float32(text, tmp_path):
    """The slopes of a bfloat16 network are near those of the float32 one, which rounded differences would not be."""
    found = {}
    for dtype in ("float32", "bfloat16"):
        torch.manual_seed(0)
        flags = f"--dtype {dtype} --tune_lr rtho --lr_hyper_lr 1e-3 --epochs 1"
        status, _, error = text(flags, train_basic, to=dtype)
        assert status == 0, error
        (folder,) = (tmp_path / dtype).glob("*/")
        found[dtype] = float(rows(folder / "epoch.csv")[0]["lr"])
    assert found["bfloat16"] - 1 == pytest.approx(found["float32"] - 1, rel=0.1)
