"""What `make demo` runs: its table from made-up runs, and a tiny demo from end to end."""

import contextlib
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from lstm import demo, train
from lstm.hyperparameters import TABLE
from stn.runs.find import newest_run
from stn.runs.folder import read_status
from stn.scripts.jobs import Job

ROOT = Path(__file__).resolve().parents[1]


def made_up_run(path, val_ppl, test_ppl, found=(0.5, 0.25)):
    """A finished run that tuned nothing but its dropout rates, from 0.5 to `found`, the values of each epoch."""
    path.mkdir(parents=True)
    settings = {"alpha": 0.05, "beta": 0.05, **dict.fromkeys(list(TABLE)[2:], 0.5)}
    (path / "args.yaml").write_text(yaml.safe_dump(settings))
    (path / "result.csv").write_text(f"val_loss,val_ppl,test_loss,test_ppl\n5,{val_ppl},5,{test_ppl}\n")
    rows = ["epoch,time,val_loss," + ",".join(settings)]
    losses = [5.0, 4.0, 4.5][: len(found)]
    for epoch, (loss, value) in enumerate(zip(losses, found, strict=True)):
        rows.append(f"{epoch},{epoch}.5,{loss},0.05,0.05," + ",".join([str(value)] * 5))
    (path / "epoch.csv").write_text("\n".join(rows) + "\n")
    return path


def test_table_shows_results_and_the_best_epochs_values(tmp_path):
    fixed = made_up_run(tmp_path / "fixed" / "2026-01-02", 200.04, 190.0, found=(0.5, 0.5))
    tuned = made_up_run(tmp_path / "tuned" / "2026-01-02", 150.26, 140.0, found=(0.5, 0.25, 0.125))
    lines = demo.table(
        *(Job("", train.SCRIPT, {"data": str(tmp_path), "save_dir": str(run.parent)}, list) for run in (fixed, tuned))
    ).splitlines()
    assert len({len(line) for line in lines if line}) == 1
    cells = [line.split() for line in lines if line]
    assert cells[:4] == [
        ["fixed", "tuned"],
        ["validation", "perplexity", "200.0", "150.3"],
        ["test", "perplexity", "190.0", "140.0"],
        ["hyperparameter", "initial", "found"],
    ]
    assert ["dropouto", "0.500", "0.250"] in cells
    assert [cell[0] for cell in cells[4:]] == list(TABLE)


TIMEOUT = 300  # seconds: only a hang is an error here


@pytest.fixture
def start(tmp_path):
    """start(*flags): a quick demo with its runs in tmp_path, by its file as `make demo` does."""
    processes = []

    def start_demo(*flags):
        process = subprocess.Popen(
            [sys.executable, str(ROOT / "lstm" / "demo.py"), "--quick", "--save_dir", str(tmp_path), *flags],
            cwd=tmp_path,
            env={**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"},
            text=True,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            start_new_session=True,
        )
        processes.append(process)
        return process

    yield start_demo
    for process in processes:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.communicate()


def test_quick_demo_from_end_to_end(start, tmp_path):
    """The slowest test: interrupted, continued, and started once more when all is done."""
    process = start()
    for line in process.stdout:
        if "epoch   0" in line:
            break
    os.killpg(process.pid, signal.SIGINT)  # as Ctrl-C in a terminal does
    _, complaint = process.communicate(timeout=TIMEOUT)
    assert process.returncode == 130
    assert complaint.splitlines() == ["demo.py: stopped; start it again to continue"]
    runs = {name: newest_run(tmp_path / name, None) for name in ("fixed", "tuned")}
    assert "interrupted" in map(read_status, runs.values())

    process = start()
    output, complaint = process.communicate(timeout=TIMEOUT)
    assert (process.returncode, complaint) == (0, "")
    assert "fixed | resum" in output or "tuned | resum" in output
    assert "validation perplexity" in output
    drawn = [Path(line.split()[1]) for line in output.splitlines() if line.startswith("wrote ")]
    assert len(drawn) == 6 and all(file.stat().st_size for file in drawn)
    assert [read_status(path) for path in runs.values()] == ["finished"] * 2

    before = [(path / "result.csv").stat().st_mtime_ns for path in runs.values()]
    process = start()
    output, _ = process.communicate(timeout=TIMEOUT)
    assert process.returncode == 0
    assert output.count("already finished") == 2 and " | " not in output
    assert [(path / "result.csv").stat().st_mtime_ns for path in runs.values()] == before
