"""Training runs as processes: what is started, continued and left alone, and in which order."""

import os
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import cnn_runs
import pytest
import yaml
from lstm_runs import write_corpus

from cnn import train_basic as cnn_train_basic
from lstm import train, train_basic
from stn.datasets.text import load_corpus
from stn.errors import UserError
from stn.scripts import jobs
from stn.scripts.jobs import Job, finish
from stn.scripts.replay import checksum

FLAGS = ["--epochs", "3"]


@pytest.fixture(scope="module")
def corpus(tmp_path_factory):
    return write_corpus(tmp_path_factory.mktemp("corpus"))


@pytest.fixture
def job(tmp_path, corpus):
    """job(flags, script, prefix, …): a job whose run lies, or will lie, right in tmp_path."""

    def make(flags=FLAGS, script=train.SCRIPT, prefix=None, **others):
        place = {"data": str(corpus), "save_dir": str(tmp_path), **({"prefix": prefix} if prefix else {})}
        return Job("tuned", script, place, lambda: list(flags), **others)

    return make


@pytest.fixture
def made_run(tmp_path, corpus):
    """made_run(settings, status): a run's folder in tmp_path."""
    checksum = load_corpus(corpus).checksum

    def make(settings, status="finished", name="2026-01-02"):
        run = tmp_path / name
        run.mkdir()
        (run / "args.yaml").write_text(yaml.safe_dump({"data_checksum": checksum, **settings}))
        (run / "status").write_text(status)
        return run

    return make


@pytest.mark.parametrize(
    ("status", "checkpoint", "overwrite", "expected"),
    [
        ("finished", True, False, None),
        ("finished", True, True, "--overwrite"),
        ("running", True, False, "--resume"),
        ("interrupted", True, False, "--resume"),
        ("running", False, False, "--overwrite"),
        (None, False, False, "--overwrite"),
    ],
)
def test_command_by_what_is_there(job, made_run, status, checkpoint, overwrite, expected):
    if status:
        run = made_run({"epochs": 3}, status)
        if checkpoint:
            (run / "checkpoint.pt").touch()
    command = job().command(overwrite)
    assert command is None if expected is None else expected in command


def test_a_run_with_other_settings_is_refused(job, made_run):
    made_run({"epochs": 4})
    with pytest.raises(UserError, match="another epochs"):
        job().command(overwrite=False)
    assert job().command(overwrite=True)


def test_the_number_of_threads_may_differ(job, made_run):
    made_run({"epochs": 3, "threads": 1})
    assert job(threads=2).command(overwrite=False) is None


def test_only_a_run_of_its_own_prefix_counts(job, made_run):
    made_run({"epochs": 3}, name="2026-01-02-seed1")
    assert job(prefix="seed1").command(overwrite=False) is None
    assert {"--prefix", "seed2"} <= {*job(prefix="seed2").command(overwrite=False)}


def test_a_replay_of_another_schedule_is_refused(tmp_path, job, made_run):
    schedule = tmp_path / "epoch.csv"
    schedule.write_text("epoch,dropouto\n0,0.5\n")
    flags = ["--load_schedule", str(schedule)]
    made_run({"schedule_checksum": "another"})
    with pytest.raises(UserError, match="another schedule_checksum: remove that folder"):
        job(flags, train_basic.SCRIPT).command(overwrite=False)
    made_run({"schedule_checksum": checksum(schedule)}, name="2026-01-03")
    assert job(flags, train_basic.SCRIPT).command(overwrite=False) is None


def test_a_run_on_another_text_is_refused(job, made_run):
    made_run({"epochs": 3, "data_checksum": "of another"})
    with pytest.raises(UserError, match="another data_checksum"):
        job().command(overwrite=False)


@pytest.mark.usefixtures("few_images")
def test_an_image_classifiers_run_is_a_job_like_any_other(tmp_path):
    place = {"data": "builtin", "logdir": str(tmp_path), "subdir": "trial"}
    flags = f"{cnn_runs.SMALL} --total_epochs 1 --hue 0.125"
    images = Job("images", cnn_train_basic.SCRIPT, place, flags.split)
    command = images.command(overwrite=False)
    assert images.path is None and command[1:3] == ["-m", "cnn.train_basic"]
    assert cnn_train_basic.main(command[3:]) == 0
    assert images.finished and images.command(overwrite=False) is None
    other = replace(images, flags=flags.replace("0.125", "0.25").split)
    with pytest.raises(UserError, match="another hue:"):
        other.command(overwrite=False)


def test_a_result_that_is_missing_names_the_run(job, made_run):
    run = made_run({})
    with pytest.raises(UserError, match=str(run)):
        job().result()
    (run / "result.csv").write_text("val_ppl,test_ppl\n2.5,3.5\n")
    assert [*job().result()] == [2.5, 3.5]
    for cut in ("val_ppl,test_ppl\n2.5", "val_ppl,test_ppl\n", "val_ppl,test_ppl\n2.5,x\n", ""):
        (run / "result.csv").write_text(cut)
        with pytest.raises(UserError, match=str(run)):
            job().result()


# Several


@pytest.fixture
def shell(monkeypatch, tmp_path):
    """shell(name, command, needs): a job that runs a shell's command in tmp_path instead of a training."""
    commands = {}
    monkeypatch.setattr(Job, "command", lambda self, _: commands[self.name])
    monkeypatch.setattr(jobs, "ROOT", tmp_path)

    def make(name, command, needs=()):
        commands[name] = ["sh", "-c", command] if command else None
        return Job(name, train.SCRIPT, {}, list, needs=needs)

    return make


def test_lines_come_behind_the_runs_names(shell, capsys):
    finish([shell("fixed", "echo one; echo; echo two"), shell("tuned", None)], at_once=2)
    lines = capsys.readouterr().out.splitlines()
    assert [line for line in lines if "|" in line] == ["fixed | one", "fixed | two"]
    assert any(line.startswith("tuned: already finished") for line in lines)


def test_failure_passes_on_the_message(shell):
    failing = shell("tuned", "echo working; echo train.py: no room >&2; exit 2")
    with pytest.raises(UserError, match=r"the run tuned failed: train\.py: no room$"):
        finish([shell("fixed", "echo done"), failing], at_once=2)


def test_what_needs_a_failure_is_not_run_and_the_rest_is(shell, tmp_path):
    needy = shell("needy", "touch needy", needs=("bad",))
    with pytest.raises(UserError, match=r"the run bad failed: no word from it$"):
        finish([shell("bad", "exit 1"), needy, shell("good", "touch good")], at_once=1)
    assert {path.name for path in tmp_path.iterdir()} == {"good"}


def test_a_job_waits_for_those_that_it_needs(shell, tmp_path):
    """Whatever the order in which they are given; what is done is told after each that was run."""
    told = []
    late = shell("late", "cat early > late", needs=("early", "there"))
    early = shell("early", "sleep 0.2; echo text > early")
    finish(
        [late, early, shell("there", None)], at_once=3, done=lambda: told.append({p.name for p in tmp_path.iterdir()})
    )
    assert (tmp_path / "late").read_text() == "text\n"
    assert told == [{"early"}, {"early", "late"}]


def test_a_job_that_waited_comes_before_those_that_follow_it(shell, tmp_path):
    names = ["early", "late", "last"]
    finish([shell(name, f"echo {name} >> order", needs=names[:1] * (name == "late")) for name in names], at_once=1)
    assert (tmp_path / "order").read_text().split() == names


def test_no_more_at_once_than_asked_for(shell, tmp_path):
    count = "touch run-$$; ls run-* | wc -l >> counts; sleep 0.05; rm run-$$"
    finish([shell(f"job {number}", count) for number in range(6)], at_once=2)
    assert {*(tmp_path / "counts").read_text().split()} <= {"1", "2"}


def test_an_interrupted_run_interrupts(shell, tmp_path):
    jobs = [shell("stopped", "exit 130"), *(shell(f"after {n}", f"touch {n}") for n in range(3))]
    with pytest.raises(KeyboardInterrupt):
        finish(jobs, at_once=1)
    assert not [*tmp_path.iterdir()]


def test_a_process_that_starts_as_ctrl_c_comes_is_interrupted(shell, tmp_path, monkeypatch):
    start = Job.start

    def interrupted(self, command):
        process = start(self, command)
        wait_for(tmp_path / "begun")
        signal.raise_signal(signal.SIGINT)
        return process

    monkeypatch.setattr(Job, "start", interrupted)
    job = "trap 'echo interrupted > word; exit 143' TERM; touch begun; for i in $(seq 200); do sleep 0.05; done"
    with pytest.raises(KeyboardInterrupt):
        finish([shell("late", job)], at_once=1)
    assert (tmp_path / "word").read_text() == "interrupted\n"


@pytest.fixture
def sleeper(tmp_path):
    """A process that finishes one job, which sleeps, and leaves a word if it is interrupted."""
    trap = "trap 'echo interrupted > word; exit 143' TERM"
    job = f"{trap}; touch begun; while true; do sleep 0.05; [ -f talk ] && echo word; done"
    script = f"""
import pathlib
from lstm import train
from stn.scripts import jobs
jobs.ROOT = pathlib.Path({str(tmp_path)!r})
jobs.Job.command = lambda self, _: ["sh", "-c", {job!r}]
jobs.finish([jobs.Job("sleeper", train.SCRIPT, {{}}, list)], at_once=1)
"""
    process = subprocess.Popen(
        [sys.executable, "-c", script],
        env={**os.environ, "PYTHONPATH": str(Path(__file__).parents[1])},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        start_new_session=True,
    )
    wait_for(tmp_path / "begun")
    yield process
    process.kill()
    process.communicate()


def wait_for(path, seconds=120):
    deadline = time.monotonic() + seconds
    while not path.exists():
        assert time.monotonic() < deadline
        time.sleep(0.01)


@pytest.mark.parametrize("group", [True, False])
def test_ctrl_c_is_passed_on_to_the_processes_once(sleeper, tmp_path, group):
    """Whether it comes from the terminal, to all of its processes, or to this one alone."""
    (os.killpg if group else os.kill)(sleeper.pid, signal.SIGINT)
    _, error = sleeper.communicate(timeout=60)
    assert b"KeyboardInterrupt" in error
    assert (tmp_path / "word").read_text() == "interrupted\n"


def test_processes_are_stopped_where_nobody_reads_their_lines(sleeper, tmp_path):
    sleeper.stdout.close()
    (tmp_path / "talk").touch()
    assert sleeper.wait(timeout=60) == 1
    assert b"BrokenPipeError" in sleeper.stderr.read()
    assert (tmp_path / "word").read_text() == "interrupted\n"


@pytest.mark.parametrize("status", sorted(jobs.STOPPED))
def test_every_way_of_being_stopped_is_an_interrupt(shell, status):
    ending = f"kill -{-status} $$" if status < 0 else f"exit {status}"
    with pytest.raises(KeyboardInterrupt):
        finish([shell("stopped", ending)], at_once=1)


def test_a_full_disk_under_stdout_silences_the_jobs_and_lets_them_finish(shell, tmp_path, monkeypatch, capsys):
    with open("/dev/full", "w") as full:  # noqa: PTH123
        monkeypatch.setattr(sys, "stdout", full)
        finish([shell("talking", "for i in $(seq 20000); do echo a line; done; touch done")], at_once=1)
    assert (tmp_path / "done").exists()
    error = capsys.readouterr().err
    assert error.count("\n") == 1 and "going on without a word: cannot write to stdout: No space left" in error
