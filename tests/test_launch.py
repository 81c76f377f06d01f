"""How scripts start and end, as processes: stopped while they import, not installed, without stdout or stderr."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
SCRIPTS = ["lstm/train.py", "lstm/demo.py", "lstm/table1.py", "cnn/hypertrain.py", "cnn/save_figures.py"]
# Stands in the way of torch: says that its import has begun, and takes its time.
SLOW = "import sys, time\nprint('importing', file=sys.stderr, flush=True)\ntime.sleep(60)\n"


@pytest.fixture
def start(tmp_path):
    """start(script, *arguments, torch=None, **options): a script's process; torch: what is imported by that name."""

    def make(script, *arguments, torch=None, **options):
        path = [str(ROOT)]
        if torch is not None:
            (tmp_path / "stand_in").mkdir(exist_ok=True)
            (tmp_path / "stand_in" / "torch.py").write_text(torch)
            path.insert(0, str(tmp_path / "stand_in"))
        environment = {**os.environ, "PYTHONPATH": os.pathsep.join(path), **options.pop("env", {})}
        command = [sys.executable, str(ROOT / script), *arguments]
        pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True, "cwd": tmp_path}
        return subprocess.Popen(command, env=environment, **{**pipes, **options})

    return make


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP], ids=lambda number: number.name)
@pytest.mark.parametrize("script", SCRIPTS)
def test_stopped_while_it_imports(start, script, number):
    process = start(script, torch=SLOW)
    assert process.stderr.readline() == "importing\n"
    time.sleep(0.02)
    process.send_signal(number)
    out, error = process.communicate(timeout=30)
    assert (process.returncode, out) == (128 + number, "")
    assert error == f"{Path(script).name}: stopped before it began: start it again\n"


@pytest.mark.parametrize("script", SCRIPTS)
def test_what_is_not_installed_is_named_with_the_remedy(start, script):
    process = start(script, "--help", torch="raise ModuleNotFoundError(\"No module named 'torch'\", name='torch')")
    out, error = process.communicate(timeout=60)
    assert process.returncode == 2 and out == ""
    assert error.startswith(f"{Path(script).name}: No module named 'torch': install") and error.count("\n") == 1
    assert f"-m pip install -r {ROOT / 'requirements.txt'}" in error


def test_a_defect_of_ours_is_not_taken_for_a_missing_package(start):
    for broken in ("import stn.nothing_like_it", "from math import nothing_like_it"):
        process = start("lstm/train.py", "--help", torch=broken)
        _, error = process.communicate(timeout=60)
        assert process.returncode == 1 and "Traceback" in error and "nothing_like_it" in error


@pytest.mark.parametrize("script", [*SCRIPTS, "cnn/train_basic.py"])
def test_a_clone_that_is_not_installed_runs_where_it_lies(tmp_path, script):
    """With what it needs at hand, but neither stn nor an editable install on the path."""
    paths = [entry for entry in sys.path if entry.endswith("site-packages")]
    isolated = f"import sys; sys.path[1:] = [p for p in sys.path if 'site-packages' not in p] + {paths!r}"
    code = f"{isolated}; sys.argv = ['{script}', '--help']; sys.path[0] = {str(ROOT / Path(script).parent)!r}"
    code += f"; import runpy; runpy.run_path({str(ROOT / script)!r}, run_name='__main__')"
    done = subprocess.run(
        [sys.executable, "-I", "-S", "-c", code], capture_output=True, text=True, timeout=120, cwd=tmp_path
    )
    assert done.returncode == 0, done.stderr
    assert "usage" in done.stdout


def closed(*numbers):
    return lambda: [os.close(number) for number in numbers]


@pytest.mark.parametrize("script", ["lstm/train.py", "cnn/save_figures.py"])
def test_closed_streams(start, script):
    process = start(script, "--nonsense", preexec_fn=closed(1))
    _, error = process.communicate(timeout=60)
    name = Path(script).name
    assert process.returncode == 2
    assert error.splitlines()[0] == f"{name}: stdout is closed: nothing is shown there"
    process = start(script, "--nonsense", preexec_fn=closed(2))
    out, _ = process.communicate(timeout=60)
    assert process.returncode == 2 and out == f"{name}: stderr is closed: nothing is shown there\n"
    process = start(script, "--nonsense", preexec_fn=closed(0, 1, 2))
    assert process.wait(timeout=60) == 2


def test_a_stream_that_cannot_show_a_character_shows_its_number(start):
    process = start("lstm/train.py", "--nonsense=λ", env={"PYTHONIOENCODING": "ascii"})
    _, error = process.communicate(timeout=60)
    assert process.returncode == 2 and "\\u03bb" in error and error.count("\n") == 1
