"""The sensitivity studies: which runs they make, what they make of them, divergence, and that they go on."""

import statistics
from types import SimpleNamespace

import pandas
import pytest
from lstm_runs import execute, refused, rows, settings, write_corpus

from lstm import sensitivity, table1
from lstm.train import SCRIPT
from stn.runs.find import newest_run
from stn.runs.folder import read_status
from stn.scripts import command as commands
from stn.scripts.jobs import Job

pytestmark = pytest.mark.usefixtures("same_threads")
SIZE = table1.Size(
    "A tiny study.",
    "--emsize 4 --nhid 4 --batch_size 10 --bptt 10 --epochs 2 --lr 1 --clip 0 --disable_cuda --dtype float32",
    "--warmup_steps 5",
    {"train": 60, "valid": 30, "test": 15},
    threads=1,
)


@pytest.fixture(autouse=True)
def tiny(monkeypatch):
    monkeypatch.setitem(sensitivity.SIZES, "quick", SIZE)


@pytest.fixture
def run(tmp_path, capsys, monkeypatch):
    """run(*flags): the command at its quickest, its runs in this process and below tmp_path; its outcome."""

    def start_here(job, command):
        status = commands.run(job.script, command[3:])
        return SimpleNamespace(stdout=[], wait=lambda: status)

    monkeypatch.setattr(Job, "start", start_here)
    return lambda *flags: execute(sensitivity, ["--size", "quick", "--save_dir", tmp_path, *flags], capsys)


@pytest.fixture
def plan(tmp_path):
    """plan(size, …): the runs of a command, on a tiny corpus."""
    return lambda size="demo", seeds=1, **others: sensitivity.make_plan(size, str(tmp_path), seeds, 1, **others)


def test_the_studies_from_end_to_end(run, tmp_path):
    status, out, error = run("--studies", "alternation", "method", "--seeds", "2")
    assert (status, error) == (0, "")
    folders = {path.parent.relative_to(tmp_path) for path in tmp_path.glob("*/*/result.csv")}
    assert len(folders) == 2 * (4 + 2 - 1)  # the default's runs are in both studies
    assert {str(folder.parent) for folder in folders} == {"alternation", "default", "method"}

    found = rows(tmp_path / "sensitivity.csv")
    assert len(found) == 2 * (4 + 2)
    for row in found:
        if row["default"] == "True":
            folder, prefix = "default", ""
        elif row["study"] == "method":
            folder, prefix = "method", "method-delta_stn-"
        else:
            folder, prefix = "alternation", f"train_steps-{row['train_steps']}-val_steps-{row['val_steps']}-"
        path = newest_run(tmp_path / folder, f"{prefix}seed{row['seed']}")
        (result,), made = rows(path / "result.csv"), settings(path)
        assert float(row["best_val_ppl"]) == pytest.approx(float(result["val_ppl"]))
        assert float(row["test_ppl"]) == float(result["test_ppl"])
        assert row["best_epoch"] == result["best_epoch"] and row["diverged"] == "False"
        assert made["tune_all"] and made["seed"] == int(row["seed"])
        assert float(row["scale"]) == pytest.approx(1.0)
        for name in ("train_steps", "val_steps", "method"):
            assert row[name] in ("", str(made[name]))

    page = (tmp_path / "sensitivity.md").read_text()
    assert page in out and page.startswith("A tiny study.")
    both = [float(row["best_val_ppl"]) for row in found if row["method"] == "stn"]
    cell = f"**{statistics.mean(both):.2f} ± {statistics.stdev(both):.2f}**"
    assert page.count(cell) == 2 and "## How often" in page and "## Method" in page and "## Initial" not in page
    assert all((tmp_path / f"{name}.pdf").stat().st_size for name in ("alternation", "settings"))
    assert not (tmp_path / "scale.pdf").exists()


def test_it_goes_on_where_it_was_stopped(run, tmp_path, monkeypatch):
    original, started = Job.start, []

    def interrupted_at_the_second(job, command):
        started.append(job.name)
        if len(started) == 2:
            raise KeyboardInterrupt
        return original(job, command)

    with monkeypatch.context() as patch:
        patch.setattr(Job, "start", interrupted_at_the_second)
        status, _, error = run("--studies", "scale")
    assert status == 130 and error == "sensitivity.py: stopped; start it again to continue\n"
    assert [row["perturb_scale"] for row in rows(tmp_path / "sensitivity.csv")] == ["0.3"]  # as far as it goes
    (done,) = ((path, path.stat().st_mtime_ns) for path in tmp_path.glob("*/*/result.csv"))

    status, out, _ = run("--studies", "scale")
    assert status == 0 and "3 runs, 1 of them finished" in out
    assert done == (done[0], done[0].stat().st_mtime_ns)
    found = rows(tmp_path / "sensitivity.csv")
    assert [(row["perturb_scale"], row["entropy_weight"]) for row in found] == [("0.3", ""), ("1.0", ""), ("", "0.001")]
    assert (tmp_path / "scale.pdf").exists()


def test_a_run_that_diverges_is_a_result(run, tmp_path, monkeypatch):
    rate = sensitivity.Axis("hyper_lr", "rate", (1.0, 1e30), "--lr {}")
    monkeypatch.setitem(sensitivity.STUDIES, "hyper_lr", sensitivity.Study("Rates", ((rate,),)))
    status, out, error = run("--studies", "hyper_lr")
    assert status == 0 and error.startswith("train.py: ") and "not finite" in error and error.count("\n") == 1
    assert read_status(newest_run(tmp_path / "hyper_lr", "hyper_lr-1e+30-seed1")) == "diverged"
    kept, lost = rows(tmp_path / "sensitivity.csv")
    assert (kept["diverged"], lost["diverged"]) == ("False", "True")
    assert float(kept["test_ppl"]) > 0 and lost["test_ppl"] == lost["best_val_ppl"] == lost["best_epoch"] == ""
    assert any(line.startswith("| 1e+30 ") and line.count("| diverged ") == 2 for line in out.splitlines())

    status, out, error = run("--studies", "hyper_lr")
    assert (status, error) == (0, "") and out.count("already finished") == 2


def test_a_run_that_fails_otherwise_fails_the_study(run, monkeypatch):
    monkeypatch.setattr(Job, "start", lambda *_: SimpleNamespace(stdout=["train.py: no room\n"], wait=lambda: 2))
    outcome = run("--studies", "method")
    refused(outcome, "the run default seed1 failed: train.py: no room", script="sensitivity.py")


def test_a_damaged_result_is_named(run, tmp_path):
    assert run("--studies", "feed")[0] == 0
    folder = newest_run(tmp_path / "default", "seed1")
    (folder / "result.csv").write_text("val_ppl\n")
    refused(run("--studies", "feed"), folder, "remove that folder", script="sensitivity.py")


@pytest.mark.parametrize("size", ["quick", "demo", "small", "paper"])
def test_each_study_varies_its_settings_alone_and_holds_the_default(plan, tmp_path, monkeypatch, size):
    monkeypatch.setattr(table1, "PTB", write_corpus(tmp_path / "penn"))
    made = plan(size)
    values = {run.name: SCRIPT.prepare(SCRIPT.parse(run.new_flags()))[0] for run in made.runs}
    default = values["default seed1"]
    for name, study in sensitivity.STUDIES.items():
        own = [entry for entry in made.entries if entry.study == name]
        assert [entry.run.name for entry in own if entry.default] == ["default seed1"]
        varied = {axis.name for arm in study.arms for axis in arm}
        varied |= {"tune_scales"} if name == "scale" else set()
        varied |= {f"dropout{letter}" for letter in "oieh"} | {"wdrop"} if name == "start" else set()
        for entry in own:
            got = values[entry.run.name]
            others = {flag for flag in default if got[flag] != default[flag]} - {"save_dir", "prefix"}
            assert others <= varied and bool(others) != entry.default
            for axis, value in entry.values.items():
                assert got["wdrop" if axis == "start" else axis] == value
            assert got["tune_scales"] == ("entropy_weight" in entry.values)


def test_the_whole_of_the_demo(plan):
    made = plan("demo", seeds=2)
    assert len(made.runs) == 2 * (16 + 4 + 3 + 3 + 3 + 3 + 2 + 1)
    assert len({(run.place["save_dir"], run.place["prefix"]) for run in made.runs}) == len(made.runs)
    grid = {tuple(entry.values.values()) for entry in made.entries if entry.study == "alternation"}
    assert grid == {(train, valid) for train in (1, 2, 5, 10) for valid in (1, 2, 5, 10)}


def test_a_shared_run_lies_in_one_place_whichever_studies_are_asked_for(plan):
    everything = {run.name: run.place for run in plan(seeds=2).runs}
    for name in sensitivity.STUDIES:
        some = plan(seeds=2, studies=[name])
        assert {entry.study for entry in some.entries} == {name}
        assert {run.name: run.place for run in some.runs}.items() <= everything.items()
        assert {"default seed1", "default seed2"} <= {run.name for run in some.runs}


def test_the_scales_of_the_best_epoch(plan, tmp_path, monkeypatch):
    """Over the seven hyperparameters: the lowest, the geometric mean, the highest."""
    run = plan("quick").runs[0]
    scales = ",".join(f"{name}_scale" for name in sensitivity.TABLE)
    (tmp_path / "epoch.csv").write_text(
        f"epoch,val_ppl,{scales}\n0,9,{','.join('5' * 7)}\n1,7,1,2,4,8,16,32,64\n2,8,{','.join('3' * 7)}\n"
    )
    (tmp_path / "result.csv").write_text("val_ppl,test_ppl\n7,7.5\n")
    monkeypatch.setattr(sensitivity.Run, "path", tmp_path)
    found = run.outcome()
    assert (found["best_val_ppl"], found["best_epoch"], found["test_ppl"], found["diverged"]) == (7, 1, 7.5, False)
    assert (found["scale_low"], found["scale"], found["scale_high"]) == (1, pytest.approx(8), 64)


def test_seeds_that_diverged_are_no_part_of_the_mean():
    runs = pandas.DataFrame({"ppl": [90.0, 92.0, 500.0], "diverged": [False, False, True]})
    assert sensitivity.spread(runs, "ppl") == "91.00 ± 1.41 (1 of 3 diverged)"
    assert sensitivity.spread(runs[:1], "ppl") == "90.00"
    assert sensitivity.spread(runs[2:], "ppl") == "diverged"
    assert sensitivity.spread(runs[:0], "ppl") == "–"


@pytest.mark.parametrize("flags", [["--studies", "all"], ["--seeds", "0"], ["--jobs", "x"], ["--size", "huge"]])
def test_flags_that_cannot_be(capsys, flags):
    refused(execute(sensitivity, flags, capsys), *flags, script="sensitivity.py")


def test_penn_treebank_is_needed_but_for_the_demo(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(table1, "PTB", tmp_path / "penn")
    outcome = execute(sensitivity, ["--size", "small", "--save_dir", tmp_path / "logs"], capsys)
    refused(outcome, "data/penn", "./getdata.sh", "--size demo", script="sensitivity.py")
