"""The comparison of self-tuning with black-box search: equal budgets, what was found, where it goes on."""

import csv
import json
import math
from importlib import import_module

import hpo
import pytest
from lstm_runs import execute

from stn.scripts import command as commands
from stn.scripts.jobs import Job

EPOCHS, LENGTH, RUNS = 3, 6, 2  # weight steps of an epoch: of 170 images in mini-batches of 30
pytestmark = pytest.mark.usefixtures("few_images", "same_threads")


@pytest.fixture(autouse=True)
def smallest(monkeypatch):
    """--task mlp --size quick is the smallest comparison that there can be."""
    tiny = "--data builtin --model mlp --batch_size 30 --dtype float32 --no_cuda --checkpoint_seconds 1000"
    quick = hpo.Size(f"{tiny} --total_epochs {EPOCHS}", "--warmup_epochs 1 --train_steps 2", interval=2)
    monkeypatch.setitem(hpo.TASKS["mlp"].sizes, "quick", quick)
    monkeypatch.setattr(hpo, "RUNS", RUNS)
    monkeypatch.setattr(hpo, "ROUNDS", 1)


@pytest.fixture
def run(tmp_path, capsys, monkeypatch):
    """run(): that comparison, its runs in this process and below tmp_path; its outcome."""

    def start_here(job, words):
        module = import_module(words[2])
        status = module.main(words[3:]) if words[2].endswith("search") else commands.run(job.script, words[3:])
        assert status == 0

    monkeypatch.setattr(Job, "start", start_here)
    monkeypatch.setattr(Job, "follow", lambda *_: None)
    return lambda: execute(hpo, ["--task", "mlp", "--size", "quick", "--save_dir", tmp_path], capsys)


def rows(path):
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def fix_costs(tmp_path, **costs):
    """As if a self-tuned run's steps had been measured to cost this."""
    own = {name: {"weight": weight, "hyper": hyper} for name, (weight, hyper) in costs.items()}
    (tmp_path / "costs.json").write_text(json.dumps({"costs": own, "length": LENGTH}))


def test_the_comparison_from_end_to_end(run, tmp_path):
    fix_costs(tmp_path, stn=(0.5, 0.5), delta_stn=(1.0, 1.0))
    status, out, error = run()
    assert (status, error) == (0, "")
    found = rows(tmp_path / "hpo.csv")
    assert [(row["method"], row["seed"]) for row in found] == [(name, "1") for name in hpo.METHODS]
    for row in found:
        if row["method"] in hpo.SEARCHES:
            assert float(row["spent"]) == RUNS  # to the step
        assert float(row["spent"]) <= RUNS and float(row["anew_test"]) > 0
        assert math.isnan(float(row["replay_test"] or "nan")) == (row["method"] in hpo.SEARCHES)
    for words in hpo.METHODS.values():
        assert f"| {words} " in out
    assert (tmp_path / "best_so_far.pdf").exists() and "| population-based" in (tmp_path / "hpo.md").read_text()

    before = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("epoch.csv")}
    status, again, _ = run()
    assert (
        status == 0 and again.count("already finished") == len({*before} - {*tmp_path.glob("*/trial*/epoch.csv")}) + 6
    )
    assert before == {path: path.stat().st_mtime_ns for path in tmp_path.rglob("epoch.csv")}


def test_a_self_tuned_run_costs_its_steps():
    """10 weight steps, of which 4 are of the warm-up and the other 6 each followed by half a hyperparameter step."""
    assert hpo.Costs(1.5, 3.0).of(10, warm_up=4, train_steps=2, valid_steps=1) == 10 * 1.5 + 3 * 3.0
    assert hpo.Costs(1.5, 3.0).of(3, warm_up=4, train_steps=2, valid_steps=1) == 4.5


@pytest.mark.parametrize(("weight", "runs"), [(1.0, 2), (1.01, 1), (0.5, 4), (3.0, 1)])
def test_a_self_tuned_method_starts_again_while_there_is_room(tmp_path, weight, runs):
    fix_costs(tmp_path, stn=(weight, 0.0), delta_stn=(1.0, 0.0))
    comparison = hpo.Comparison("mlp", "quick", 1, 1, str(tmp_path))
    entry = next(entry for entry in comparison.entries if entry.method == "stn")
    assert len(entry.search) == runs
    starts = [[word for word in job.flags() if word.startswith("--start")] for job in entry.search]
    assert starts[0] == [] and all(starts[1:])


@pytest.mark.parametrize(("task", "size"), [("lstm", "quick"), ("lstm", "demo"), ("cnn", "demo"), ("mlp", "demo")])
def test_the_flags_of_each_size_are_taken_by_every_method(tmp_path, task, size):
    fix_costs(tmp_path, stn=(1.0, 1.0), delta_stn=(1.0, 1.0))
    comparison = hpo.Comparison(task, size, 1, 1, str(tmp_path))
    for job in (job for entry in comparison.entries if entry.method in hpo.SELF_TUNED for job in entry.search):
        job.script.prepare(job.script.parse(job.new_flags()))


def test_the_measured_costs_are_kept(tmp_path):
    first = hpo.Comparison("mlp", "quick", 1, 1, str(tmp_path)).costs
    assert first == hpo.Comparison("mlp", "quick", 1, 1, str(tmp_path)).costs
    assert all(cost.weight > 0 and cost.hyper > 0 for cost in first.values())


def test_sizes_that_a_task_does_not_have_are_refused(capsys):
    status, _, error = execute(hpo, ["--task", "cnn", "--size", "quick"], capsys)
    assert status == 2 and "give --size demo or small or paper" in error and error.count("\n") == 1
