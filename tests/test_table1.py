"""The first table: which runs it makes, what it makes of them, and that it goes on where it was."""

import statistics

import pytest
import torch
from lstm_runs import execute, rows, settings

from lstm import table1, train
from stn.runs.find import newest_run
from stn.runs.folder import read_status
from stn.scripts import command as commands
from stn.scripts.jobs import Job

ROWS = ("fixed", "gaussian", "sinusoid", "final", "stn", "replay")
FOLDERS = {*ROWS, "init30", "init50", "init70", "init90"}


@pytest.fixture(autouse=True)
def same_threads():
    threads = torch.get_num_threads()
    yield
    torch.set_num_threads(threads)


@pytest.fixture
def run(tmp_path, capsys, monkeypatch):
    """run(*flags): the command at its quickest, its runs in this process and below tmp_path; its outcome."""
    tiny = table1.Size(
        "A tiny table.",
        "--emsize 4 --nhid 4 --batch_size 10 --bptt 10 --epochs 2 --lr 1 --disable_cuda",
        "--warmup_steps 2 --hyper_lr 0.3",
        {"train": 60, "valid": 30, "test": 15},
        threads=1,
    )
    monkeypatch.setitem(table1.SIZES, "quick", tiny)

    def start_here(job, overwrite):
        command = job.command(overwrite)
        assert command is None or commands.run(job.script, command[3:]) == 0
        return command

    monkeypatch.setattr(Job, "start", start_here)
    monkeypatch.setattr(Job, "follow", lambda *_: None)
    return lambda *flags: execute(table1, ["--size", "quick", "--save_dir", tmp_path, *flags], capsys)


def run_of(tmp_path, folder, seed=1):
    return newest_run(tmp_path / folder, f"seed{seed}")


def values(folder):
    return [float(row["dropouto"]) for row in rows(folder / "epoch.csv")]


def test_the_table_from_end_to_end(run, tmp_path):
    status, out, error = run("--seeds", "2", "--jobs", "1")
    assert (status, error) == (0, "")
    assert {path.name for path in tmp_path.iterdir() if path.is_dir()} == {*FOLDERS, "corpus"}

    table = {row["row"]: row for row in rows(tmp_path / "table1.csv")}
    assert tuple(table) == ROWS
    for name in ROWS:
        results = [rows(run_of(tmp_path, name, seed) / "result.csv")[0] for seed in (1, 2)]
        assert table[name]["seeds"] == "2"
        for column in ("val_ppl", "test_ppl"):
            found = [float(result[column]) for result in results]
            assert float(table[name][column]) == pytest.approx(statistics.mean(found))
            assert float(table[name][f"{column}_std"]) == pytest.approx(statistics.stdev(found))
    page = (tmp_path / "table1.md").read_text()
    assert page in out and page.startswith("A tiny table.\n\n| output dropout ")
    for initial in ("0.05", "0.3", "0.5", "0.7", "0.9"):
        assert f"| {initial} " in page
    assert all((tmp_path / f"schedules.{kind}").stat().st_size for kind in ("pdf", "png"))

    for seed in (1, 2):
        stn = run_of(tmp_path, "stn", seed)
        assert settings(stn)["dropouto"] == 0.05 and settings(stn)["tune_dropouto"]
        assert settings(stn)["drop_transform"] == "none"  # as published
        assert [n for n, v in settings(stn).items() if n.startswith("tune_") and v is True] == ["tune_dropouto"]
        assert values(run_of(tmp_path, "final", seed)) == [values(stn)[-1]] * 2
        assert values(run_of(tmp_path, "replay", seed)) == values(stn)
        assert len({*values(run_of(tmp_path, "gaussian", seed))}) == 2
        assert values(run_of(tmp_path, "fixed", seed)) == [0.68] * 2
        assert {settings(run_of(tmp_path, name, seed))["seed"] for name in ROWS} == {seed}
    sinusoid = settings(run_of(tmp_path, "sinusoid"))
    assert (sinusoid["amplitude"], sinusoid["sinusoid_period"], sinusoid["perturb_type"]) == (0.1, 1200, "sinusoid")
    assert settings(run_of(tmp_path, "gaussian"))["perturb_std"] == 0.05
    assert settings(run_of(tmp_path, "init70"))["dropouto"] == 0.7


def test_it_goes_on_where_it_was_stopped(run, tmp_path, monkeypatch):
    original, started = Job.start, []

    def interrupted_at_the_fourth(job, overwrite):
        started.append(job.name)
        if len(started) == 4:
            raise KeyboardInterrupt
        return original(job, overwrite)

    with monkeypatch.context() as patch:
        patch.setattr(Job, "start", interrupted_at_the_fourth)
        status, _, error = run()
    assert status == 130 and error == "table1.py: stopped; start it again to continue\n"
    assert sum(int(row["seeds"]) for row in rows(tmp_path / "table1.csv")) == 3  # the table as far as it goes
    done = {path: path.stat().st_mtime_ns for path in tmp_path.glob("*/*/result.csv")}
    assert len(done) == 3

    assert run()[0] == 0
    assert {path: path.stat().st_mtime_ns for path in done} == done
    assert len([*tmp_path.glob("*/*/result.csv")]) == len(FOLDERS)
    assert {read_status(run_of(tmp_path, folder)) for folder in FOLDERS} == {"finished"}

    before = {path: path.stat().st_mtime_ns for path in tmp_path.glob("*/*/result.csv")}
    assert run()[0] == 0
    assert {path: path.stat().st_mtime_ns for path in tmp_path.glob("*/*/result.csv")} == before


def test_published_numbers_stand_beside_each_row(tmp_path):
    plan = table1.make_plan(table1.Size("", lines={"train": 1}), str(tmp_path), seeds=1, at_once=1)
    table = table1.results(plan)
    assert [*table["published_val_ppl"]] == [85.83, 85.87, 85.29, 89.65, 82.58, 82.87]
    assert [*table["published_test_ppl"]] == [83.19, 82.29, 82.15, 86.90, 79.02, 79.93]
    assert (table["seeds"] == 0).all() and table["val_ppl"].isna().all()
    assert " – " in table1.markdown(plan)


def test_runs_at_once_share_the_cores(tmp_path, monkeypatch):
    monkeypatch.setattr(table1.os, "cpu_count", lambda: 8)
    plan = table1.make_plan(table1.Size("", lines={"train": 1}), str(tmp_path), seeds=1, at_once=3)
    assert {job.threads for job in plan.jobs} == {2}


def test_what_others_need_comes_first(tmp_path):
    plan = table1.make_plan(table1.Size("", lines={"train": 1}), str(tmp_path), seeds=3, at_once=1)
    assert [job.script is train.SCRIPT for job in plan.jobs[:4]] == [True, True, True, False]
    assert len(plan.jobs) == 6 * 3 + 4


def test_penn_treebank_is_needed_but_for_the_demo(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(table1, "PTB", tmp_path / "penn")
    status, _, error = execute(table1, ["--size", "small", "--save_dir", tmp_path / "logs"], capsys)
    assert status == 2 and error.count("\n") == 1
    assert "data/penn" in error and "./getdata.sh" in error and "--size demo" in error


def test_a_stn_without_its_schedule_is_named(run, tmp_path):
    assert run()[0] == 0
    file = run_of(tmp_path, "stn") / "epoch.csv"
    file.write_text("")
    status, _, error = run()
    assert status == 2 and str(file) in error and "remove that folder" in error and error.count("\n") == 1


def test_a_run_that_cannot_be_drawn_is_named(run, tmp_path):
    assert run()[0] == 0
    run_of(tmp_path, "init30").joinpath("val.csv").unlink()
    status, _, error = run()
    assert status == 0 and "left out of the figure" in error and "init30" in error


def test_a_folder_may_have_a_space_in_its_name(tmp_path):
    plan = table1.make_plan(table1.Size("", lines={"train": 1}), f"{tmp_path}/a b", seeds=1, at_once=1)
    (tmp_path / "a b" / "stn" / "2026-01-02-seed1").mkdir(parents=True)
    (tmp_path / "a b" / "stn" / "2026-01-02-seed1" / "args.yaml").touch()
    assert f"{tmp_path}/a b/corpus" in plan.rows["fixed"][0].command(overwrite=False)
    assert f"{tmp_path}/a b/stn/2026-01-02-seed1/epoch.csv" in plan.rows["replay"][0].command(overwrite=False)


@pytest.mark.parametrize("flags", [["--seeds", "0"], ["--jobs", "0"], ["--size", "huge"]])
def test_flags_that_cannot_be(capsys, flags):
    status, _, error = execute(table1, flags, capsys)
    assert status == 2 and error.startswith("table1.py: ") and flags[0] in error and error.count("\n") == 1


def test_a_table_that_cannot_be_written_is_named(tmp_path, run):
    (tmp_path / "table1.csv").mkdir()
    status, _, error = run()
    assert status == 2 and "cannot write" in error and error.count("\n") == 1
