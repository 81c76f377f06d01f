"""The command that lists runs."""

import csv
import io
import os
import pty
import subprocess
import sys
from pathlib import Path

import pytest
from lstm_runs import execute, refused
from run_tables import IMAGES, write, write_run

from stn.scripts import runs as command
from stn.scripts.signals import BROKEN_PIPE

ROOT = Path(__file__).resolve().parents[1]
LONG = "batch_size77_checkpoint_seconds0.5_dtypefloat32_entropy_weight0.001_log_interval3_modelsmall_total_epochs4"


@pytest.fixture
def logs(tmp_path):
    return tmp_path / "logs"


def listed(folder, capsys, *flags):
    """The lines on stdout of a listing without problems."""
    status, out, error = execute(command, [folder, *flags], capsys)
    assert (status, error) == (0, "")
    return out.splitlines()


def on_terminal(monkeypatch, columns):
    monkeypatch.setenv("COLUMNS", str(columns))
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True)


def cells(line):
    return [cell.strip() for cell in line.split("  ") if cell.strip()]


def test_the_table(logs, capsys):
    write_run(logs / "saves" / "a1", seed=1, val=181.254, test=171.5)
    write_run(logs / "saves" / "a2", seed=2, val=179.0, test=170.0)
    write_run(logs / "saves" / "b", seed=2, lr=20.0, status="running", save_dir="other")
    heading, head, *lines = listed(logs, capsys)
    assert heading == "Perplexity, mean ± standard deviation of seeds"
    assert cells(head) == ["val", "test", "best", "done", "time", "status", "run", "lr"]
    assert [cells(line) for line in lines] == [
        ["180.13 ± 1.59", "170.75 ± 1.06", "1", "3", "0:03:00", "2 finished", "saves/a{1,2}", "30"],
        ["181.00", "–", "1", "3", "0:03:00", "running", "saves/b", "20"],
    ]
    assert len({len(line) for line in (head, *lines)}) == 1
    assert lines[0].index("180.13") == lines[1].index("181.00")


def test_each_shows_every_run_with_its_seed(logs, capsys):
    write_run(logs / "a1", seed=1, val=181.254, test=171.5)
    write_run(logs / "a2", seed=2, val=179.0, test=170.0)
    _, head, *lines = listed(logs, capsys, "--each")
    assert cells(head)[5] == "seed"
    assert [(row[0], row[5], row[7]) for row in map(cells, lines)] == [("179.00", "2", "a2"), ("181.25", "1", "a1")]
    _, _, *lines = listed(logs, capsys, "--each", "--sort", "seed")
    assert [cells(line)[5] for line in lines] == ["1", "2"]


def test_numbers_end_below_each_other(logs, capsys):
    for name, val, others in (("a", 1000.25, {}), ("b", 99.5, {"lr": 0.125, "seed": 12345})):
        write_run(logs / name, val=val, test=val / 10, **others)
    _, head, first, second = listed(logs, capsys, "--each")
    for column in ("val", "test", "best", "done", "time", "seed", "lr"):
        end = head.index(f"{column} ") + len(column) if column != "lr" else len(head)
        for line in (first, second):
            assert line[end - 1].isdigit() and line[end : end + 2].strip() == ""
    assert first.startswith("  99.50  ") and second.startswith("1000.25  ")


def test_two_kinds_have_a_heading_each(logs, capsys):
    write_run(logs / "language", val=100.0, test=100.0)
    write_run(logs / "images", IMAGES, val=0.6251, test=0.5)
    lines = listed(logs, capsys)
    assert lines[0] == "Perplexity"
    assert lines[3:5] == ["", "Accuracy in %"]
    assert cells(lines[6])[:2] == ["62.5", "50.0"]


def test_a_terminal_of_80_columns_holds_the_table_however_much_differs(logs, capsys, monkeypatch):
    for seed in (1, 2):
        for rate in (10.0, 20.0):
            others = {f"flag_{rate:.0f}_{number}": number * rate for number in range(9)}
            write_run(
                logs / "saves" / f"{LONG}_{rate}_{seed}", seed=seed, lr=rate, val=99 * rate * seed, test=9, **others
            )
    on_terminal(monkeypatch, 80)
    for flags in ([], ["--each"]):
        heading, *lines = listed(logs, capsys, *flags)
        assert heading.startswith("Perplexity in saves/")
        assert max(map(len, lines)) <= 80
        text = " ".join(" ".join(lines).split())
        for rate in (10, 20):
            assert f"lr {rate} " in text and f"flag_{rate}_8 {8 * rate}" in text


def test_a_wide_terminal_has_a_column_for_each_setting(logs, capsys, monkeypatch):
    write_run(logs / "saves" / "a", val=10.0, test=9.0, tune=True)
    write_run(logs / "saves" / "b", val=20.0, test=9.0, lr=20.0, tune=False)
    on_terminal(monkeypatch, 200)
    heading, head, *lines = listed(logs, capsys)
    assert heading == "Perplexity in saves/"
    assert cells(head)[-3:] == ["run", "lr", "tune"]
    assert [cells(line)[-3:] for line in lines] == [["a", "30", "yes"], ["b", "20", "no"]]


def test_shortened_paths_remain_different():
    paths = [f"{LONG[:40]}{letter}{LONG[40:]}" for letter in "ab"]
    short = command.shortened(paths, 20)
    assert len({*short}) == 2 and max(map(len, short)) < len(paths[0])
    assert command.shortened([LONG, "x"], 20) == [f"batch_size…{LONG[-9:]}", "x"]


def test_lines_are_not_cut_where_there_is_no_terminal(logs, capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "80")
    write_run(logs / LONG / "a", val=10.0, test=9.0)
    write_run(logs / LONG / "b", val=20.0, test=9.0, lr=20.0)
    assert [f"{LONG}/a" in line for line in listed(logs, capsys)] == [False, False, True, False]


def test_a_terminal_of_no_columns_counts_as_80(logs):
    for seed in (1, 2):
        write_run(logs / f"{LONG}{seed}", seed=seed, lr=seed, val=99.0, test=9.0)
    ours, theirs = pty.openpty()  # it has 0 columns until it is told
    environment = {name: value for name, value in os.environ.items() if name not in ("COLUMNS", "LINES")}
    environment["PYTHONPATH"] = str(ROOT)
    start = [sys.executable, "-m", "stn.runs", str(logs)]
    done = subprocess.run(start, stdout=theirs, stderr=subprocess.PIPE, env=environment, text=True)
    os.close(theirs)
    lines = os.read(ours, 100_000).decode().splitlines()
    os.close(ours)
    assert (done.returncode, done.stderr) == (0, "")
    assert len(lines) > 3 and max(map(len, lines)) <= 80


def test_csv(logs, capsys):
    write_run(logs / "a1", seed=1, val=181.254, test=171.5)
    write_run(logs / "a2", seed=2, val=179.0, test=170.0)
    write_run(logs / "b", lr=20.0, val=190.125, test=180.0)
    write_run(logs / "images, all", IMAGES, val=0.625, test=0.5)
    rows = list(csv.DictReader(io.StringIO("\n".join(listed(logs, capsys, "--csv")))))
    assert [(row["measure"], row["run"], row["seeds"], row["lr"]) for row in rows] == [
        ("ppl", "a{1,2}", "2", "30.0"),
        ("ppl", "b", "1", "20.0"),
        ("acc", "images, all", "1", ""),
    ]
    assert float(rows[0]["val"]) == pytest.approx((181.254 + 179) / 2, rel=1e-12)
    assert [float(row["val"]) for row in rows[1:]] == [190.125, 62.5]
    assert float(rows[0]["time"]) == 180.5


def test_a_column_to_sort_by_that_is_not_there_is_refused(logs, capsys):
    write_run(logs / "a", val=1.0, test=1.0)
    write_run(logs / "b", val=1.0, test=1.0, wdrop=0.5)
    refused(execute(command, [logs, "--sort", "colour"], capsys), "colour", "wdrop", "val", script="python -m stn.runs")
    write_run(logs / "images", IMAGES, val=0.5, test=0.5)  # has no such setting, but a table that has
    assert len(listed(logs, capsys, "--sort", "wdrop")) == 8


def test_what_is_left_out_is_said_and_the_rest_is_shown(logs, capsys):
    write(write_run(logs / "bad\nname", val=1.0, test=1.0), "args.yaml", "a: [")
    write_run(logs / "good", val=1.0, test=1.0)
    outcome = execute(command, [logs], capsys)
    refused(outcome, "left out: ", "bad?name", script="python -m stn.runs")
    assert [line.endswith("good") for line in outcome[1].splitlines()] == [False, False, True]
    (logs / "good" / "args.yaml").write_text("")
    status, out, error = execute(command, [logs], capsys)
    assert (status, out, error.count("\n"), error.count("left out")) == (2, "", 2, 2)


@pytest.mark.parametrize("name, word", [("", "empty"), ("nowhere", "nowhere"), ("file", "file"), ("none", "no run")])
def test_a_folder_without_runs_is_refused(tmp_path, capsys, name, word):
    (tmp_path / "file").touch()
    (tmp_path / "none").mkdir()
    refused(execute(command, [name and tmp_path / name], capsys), word, script="python -m stn.runs")
    outcome = execute(command, ["x" * 5000], capsys)
    refused(outcome, "too long", "check the folder's name", script="python -m stn.runs")
    assert "--prefix" not in outcome[2]


def test_the_default_folder_is_logs(logs, capsys, monkeypatch):
    write_run(logs / "saves" / "a", val=1.0, test=1.0)
    monkeypatch.setattr(command, "ROOT", logs.parent)
    status, out, _ = execute(command, [], capsys)
    assert status == 0 and "saves/a" in out


def test_ctrl_c_is_one_line(logs, capsys, monkeypatch):
    def interrupted(_):
        raise KeyboardInterrupt

    monkeypatch.setattr(command, "summarize", interrupted)
    logs.mkdir()
    status, _, error = execute(command, [logs], capsys)
    assert (status, error.count("\n")) == (130, 1)


def test_a_reader_that_leaves_is_no_error(logs):
    for number in range(3):
        write_run(logs / f"a{number}", val=1.0, test=1.0, lr=number)
    read, write = os.pipe()
    os.close(read)
    start = [sys.executable, "-m", "stn.runs", str(logs)]
    done = subprocess.run(
        start, stdout=write, stderr=subprocess.PIPE, env={**os.environ, "PYTHONPATH": str(ROOT)}, text=True
    )
    os.close(write)
    assert (done.returncode, done.stderr) == (BROKEN_PIPE, "")


def test_a_locked_run_is_listed(logs, capsys):
    from stn.runs.folder import RunFolder

    with RunFolder.create(logs / "a", {"script": "lstm/train.py", "seed": 1}) as run:
        run.log("epoch", {"epoch": 0, "time": 3661.0, "val_loss": 2.0, "val_ppl": 7.389})
        lines = listed(logs, capsys)
    assert cells(lines[2]) == ["7.39", "–", "0", "1", "1:01:01", "running", "a"]


def test_what_to_sort_by_is_not_empty_and_the_seed_is_of_each(logs, capsys):
    for seed in (1, 2):
        write_run(logs / str(seed), seed=seed, val=1.0, test=1.0)
    refused(execute(command, [logs, "--sort", ""], capsys), "--sort", "empty", script="python -m stn.runs")
    refused(execute(command, [logs, "--sort", "seed"], capsys), "add --each", script="python -m stn.runs")


def test_runs_whose_settings_say_nothing_are_a_line_each(logs, capsys):
    for name in ("a", "b"):
        write_run(logs / name, settings={}, status="interrupted")
    lines = listed(logs, capsys)
    assert [cells(line)[-2:] for line in lines[2:]] == [["interrupted", "a"], ["interrupted", "b"]]
