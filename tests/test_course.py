"""Training as a function: whoever calls it brings the settings, the sources, the folder, and an eye on the progress."""

from dataclasses import replace

import pytest
import torch
from lstm_runs import rows, without_time, write_corpus
from run_folders import refused

from lstm.hyperparameters import TABLE
from lstm.settings import LanguageModelSettings
from stn.hyperparameters import Tuned
from stn.runs.checkpoints import read_checkpoint
from stn.runs.folder import RunFolder, read_status
from stn.schedules import Constant
from stn.scripts import course
from stn.scripts.course import evaluate_best, train

SOURCES = {name: Constant(0.05) for name in TABLE} | {"dropouto": Tuned(0.05, (0.0, 1.0))}
SIZES = {"emsize": 4, "nhid": 5, "batch_size": 4, "bptt": 6, "epochs": 3, "lr": 1.0, "warmup_steps": 2}

pytestmark = pytest.mark.usefixtures("same_threads")


class Diary:
    """A progress that keeps what it is told."""

    def __init__(self):
        self.told, self.steps, self.epochs = [], 0, []

    def started(self, trainer, run, data):
        self.told.append(f"started at {trainer.train_step}, of {len(data.vocabulary)} types, in {run.path.name}")

    def update(self, status):
        self.steps = max(self.steps, status.epoch * status.length + status.position)

    def epoch_ended(self, row, best):  # noqa: ARG002
        self.epochs.append(row["epoch"])

    def ended(self, completed):
        self.told.append("completed" if completed else "stopped")

    def close(self):
        self.told.append("closed")


@pytest.fixture(scope="module")
def settings(tmp_path_factory):
    corpus = write_corpus(tmp_path_factory.mktemp("corpus"))
    return LanguageModelSettings(data=str(corpus), seed=3, threads=1, dtype="float32", **SIZES)


def new(folder, seen=None):
    """What opens a new run's folder, given the data."""

    def create(data):
        if seen is not None:
            seen.append(data)
        return RunFolder.create(folder, {"checksum": data.checksum})

    return create


def assert_same(result, other):
    """But for times and folders."""
    untimed = [{**one.best, "time": None} for one in (result, other)]
    assert untimed[0] == untimed[1]
    assert result._replace(path=None, seconds=0, best=None) == other._replace(path=None, seconds=0, best=None)


def stopping(after):
    """A stop that is asked so many times before it stops."""
    asked = iter(range(10**6))
    return lambda: next(asked) >= after


@pytest.fixture(scope="module")
def whole(settings, tmp_path_factory):
    """A run that was left alone: its folder, its result, and the diary of it."""
    folder, diary = tmp_path_factory.mktemp("whole") / "run", Diary()
    return folder, train(settings, SOURCES, new(folder), diary), diary


def test_a_new_run(settings, whole):
    folder, result, diary = whole
    assert result.completed and result.best
    assert diary.told == ["started at 0, of 7 types, in run", "completed", "closed"]
    assert diary.epochs == [0, 1, 2] and diary.steps > 20
    assert read_status(folder) == "finished" and (folder / settings.model_file).exists()
    (recorded,) = rows(folder / "result.csv")
    best = min(rows(folder / "epoch.csv"), key=lambda row: float(row["val_loss"]))
    expected = {"best_epoch": best["epoch"], "best_time": best["time"], **{name: best[name] for name in TABLE}}
    assert {name: recorded[name] for name in expected} == expected
    assert {name: float(recorded[name]) for name in result.measures} == result.measures
    assert [*recorded] == [*result.measures, "best_epoch", "best_time", "time", *TABLE]
    assert float(recorded["time"]) == result.seconds >= float(best["time"])
    assert result.measures["val_loss"] == min(float(row["val_loss"]) for row in rows(folder / "epoch.csv"))


def test_a_stopped_run_is_interrupted_before_it_is_evaluated(settings, tmp_path, monkeypatch):
    """Whoever stopped it may not wait for that: torchrun kills its processes after 30 seconds."""
    folder, found = tmp_path / "run", []
    evaluated = course.final_result
    monkeypatch.setattr(
        course, "final_result", lambda *arguments: found.append(read_status(folder)) or evaluated(*arguments)
    )
    train(settings, SOURCES, new(folder), Diary(), stopping(4))
    assert found == ["interrupted"]


@pytest.mark.parametrize("after", [0, 4, 8])
def test_a_run_stopped_early_and_continued_ends_as_one_left_alone(settings, whole, tmp_path, after):
    folder, diary = tmp_path / "run", Diary()
    result = train(settings, SOURCES, new(folder), diary, stopping(after))
    assert not result.completed and read_status(folder) == "interrupted"
    assert (result.best is not None) == bool(diary.epochs)
    (recorded,) = rows(folder / "result.csv")
    assert (recorded["best_epoch"] != "") == bool(diary.epochs) and 0 < float(recorded["dropouto"]) < 1
    assert diary.told[1:] == ["stopped", "closed"]

    again = Diary()
    assert_same(train(settings, SOURCES, lambda _: RunFolder.open(folder), again), whole[1])
    done = {0: 0, 4: 2 + 2 * 2, 8: 2 + 6 * 2}[after]  # a step at a time in the warm-up, then two
    assert again.told[0].startswith(f"started at {done},") and diary.epochs + again.epochs == [0, 1, 2]
    for table in ("epoch", "val"):
        assert without_time(folder / f"{table}.csv") == without_time(whole[0] / f"{table}.csv")
    models = [torch.load(run / "model.pt", weights_only=True)["model"] for run in (folder, whole[0])]
    assert all(torch.equal(models[0][name], models[1][name]) for name in models[1])


def test_a_run_takes_up_its_changes(settings, whole, tmp_path):
    folder = tmp_path / "run"
    train(replace(settings, epochs=1), SOURCES, new(folder), Diary())
    run = RunFolder.open(folder)
    run.changes = {"epochs": 3}
    assert_same(train(settings, SOURCES, lambda _: run, Diary()), whole[1])
    assert run.settings["epochs"] == 3


def test_the_best_model_is_evaluated_without_training(settings, whole):
    folder, result, _ = whole
    assert_same(evaluate_best(settings, SOURCES, read_checkpoint(folder).state), result)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"emsize": 10**5, "nhid": 2**31 - 1}, "does not fit into memory"),
        ({"batch_size": 5000}, "train"),
        ({"data": "nowhere"}, "nowhere"),
        ({"data_checksum": "another"}, "does not hold"),
    ],
)
def test_a_run_that_cannot_be_built_leaves_no_trace(settings, tmp_path, change, words):
    diary, seen = Diary(), []
    refused(lambda: train(replace(settings, **change), SOURCES, new(tmp_path / "run", seen), diary), words)
    assert not any(tmp_path.iterdir()) and seen == [] and diary.told == []


def test_a_failure_is_marked_and_closes_what_was_opened(settings, tmp_path):
    def failing():
        raise ArithmeticError("a defect")

    folder, diary = tmp_path / "run", Diary()
    with pytest.raises(ArithmeticError, match="a defect"):
        train(settings, SOURCES, new(folder), diary, failing)
    assert read_status(folder) == "failed" and diary.told[1:] == ["closed"]
    with RunFolder.open(folder):  # nobody holds it
        pass


def test_a_run_that_cannot_go_on_is_left_as_it_is(settings, tmp_path):
    folder, diary = tmp_path / "run", Diary()
    train(settings, SOURCES, new(folder), Diary(), stopping(5))
    before = {file.name: file.read_bytes() for file in folder.iterdir()}
    other = replace(settings, nhid=6)
    refused(lambda: train(other, SOURCES, lambda _: RunFolder.open(folder), diary), "another model")
    (folder / "val.csv").write_bytes(b"")
    refused(lambda: train(settings, SOURCES, lambda _: RunFolder.open(folder), diary), "fewer than")
    (folder / "val.csv").write_bytes(before["val.csv"])
    assert {file.name: file.read_bytes() for file in folder.iterdir()} == before and diary.told == ["closed"] * 2
