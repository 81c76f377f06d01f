"""Runs that are killed, interrupted and resumed, as processes of their own, end as one left alone."""

import contextlib
import csv
import multiprocessing
import os
import random
import signal
import sys
import time

import pytest
import torch
from event_files import scalars
from lstm_runs import write_corpus

from lstm import train

# A server that has imported everything once and forks from then on, so that a process starts in no time. (torch's
# optimizers import torch._dynamo when the first is made.)
PROCESSES = multiprocessing.get_context("forkserver")
PROCESSES.set_forkserver_preload(["lstm.train", "torch._dynamo", "torch.utils.tensorboard", "pytest", "event_files"])

SMALL = "--emsize 4 --nhid 5 --batch_size 4 --bptt 4 --threads 1 --disable_cuda"
FLAGS = f"{SMALL} --lr 4 --nonmono 1 --warmup_steps 3 --tune_all --tune_scales --seed 1"
EPOCHS = 4
PATIENCE = 600  # seconds after which a process counts as stuck


@pytest.fixture(scope="module")
def corpus(tmp_path_factory):
    return write_corpus(tmp_path_factory.mktemp("corpus"), train=60, valid=35, test=20)


@pytest.fixture(scope="module")
def alone(tmp_path_factory, corpus):
    """The folder of a run that was left alone."""
    logs = tmp_path_factory.mktemp("alone")
    assert finish(start(corpus, logs)) == 0
    return only_run(logs)


def start(corpus, logs, *flags):
    """A process that starts a run."""
    return process("--data", corpus, "--save_dir", logs, "--epochs", EPOCHS, *FLAGS.split(), *flags)


def process(*argv):
    """A process of the command line."""
    made = PROCESSES.Process(target=execute, args=([str(word) for word in argv],), daemon=True)
    made.start()
    return made


def execute(argv):
    sys.exit(train.main(argv))


def finish(process):
    """Wait for a process to end; its exit status."""
    process.join(PATIENCE)
    return process.exitcode


def only_run(logs):
    (folder,) = logs.glob("*/")
    return folder


def size(logs, name):
    """How long the run's file is, 0 as long as there is none; a run that is resumed may remove it."""
    with contextlib.suppress(FileNotFoundError):
        return sum(file.stat().st_size for file in logs.glob(f"*/{name}"))
    return 0


def wait_until(condition, process):
    """Wait until the condition holds or the process has ended."""
    deadline = time.monotonic() + PATIENCE
    while process.is_alive() and not condition():
        assert time.monotonic() < deadline
        time.sleep(0.001)


def rows(file):
    with file.open(newline="") as lines:
        return [
            {name: cell for name, cell in row.items() if name not in ("time", "best_time")}
            for row in csv.DictReader(lines)
        ]


def shown(folder):
    """What TensorBoard shows, but for the speed; of results, of which a run that was stopped has several, the last."""
    tags = {tag: values for tag, values in scalars(folder).items() if tag != "epoch/targets_per_second"}
    return {tag: values[-1:] if tag.startswith("result/") else values for tag, values in tags.items()}


def assert_same_end(folder, other):
    for name in ("val.csv", "epoch.csv", "result.csv"):
        assert rows(folder / name) == rows(other / name)
    assert shown(folder) == shown(other)
    models = [torch.load(run / "model.pt", weights_only=True) for run in (folder, other)]
    for part in ("model", "hyper"):
        assert models[0][part].keys() == models[1][part].keys()
        assert all(torch.equal(models[0][part][name], models[1][part][name]) for name in models[0][part])
    assert (folder / "status").read_text() == "finished\n"


def test_the_run_to_compare_with_has_something_to_compare(alone):
    assert len(rows(alone / "epoch.csv")) == EPOCHS and len(rows(alone / "val.csv")) > 20
    assert len({row["lr"] for row in rows(alone / "epoch.csv")}) > 1
    steps = [(tag, step) for tag, values in shown(alone).items() for step, _ in values]
    assert len(set(steps)) == len(steps) > 100


@pytest.mark.parametrize("checkpoint_seconds", [0, 0.2])
def test_a_run_killed_at_random_moments_ends_as_one_left_alone(corpus, alone, tmp_path, checkpoint_seconds):
    """Nothing but the time differs in any log, and TensorBoard shows no step twice."""
    moments, killed = random.Random(2), 0
    run = start(corpus, tmp_path, "--checkpoint_seconds", checkpoint_seconds)
    while killed < 6:
        wait_until(lambda: size(tmp_path, "checkpoint.pt"), run)
        further = size(tmp_path, "val.csv") + moments.randint(0, 700)
        wait_until(lambda further=further: size(tmp_path, "val.csv") >= further, run)
        time.sleep(moments.uniform(0, 0.02))
        with contextlib.suppress(ProcessLookupError):
            os.kill(run.pid, signal.SIGKILL)
        if finish(run) != -signal.SIGKILL:
            break
        killed += 1
        run = process("--resume", only_run(tmp_path))
    assert finish(run) == 0
    assert killed >= 3
    assert_same_end(only_run(tmp_path), alone)


def test_an_interrupted_run_leaves_a_result_and_goes_on(corpus, alone, tmp_path):
    run = start(corpus, tmp_path, "--checkpoint_seconds", 1000)
    wait_until(lambda: size(tmp_path, "epoch.csv"), run)
    os.kill(run.pid, signal.SIGINT)
    assert finish(run) == 130
    folder = only_run(tmp_path)
    assert (folder / "status").read_text() == "interrupted\n"
    assert len(rows(folder / "epoch.csv")) < EPOCHS
    assert float(rows(folder / "result.csv")[0]["val_loss"]) == min(
        float(row["val_loss"]) for row in rows(folder / "epoch.csv")
    )
    torch.load(folder / "model.pt", weights_only=True)

    assert finish(process("--resume", "--save_dir", tmp_path)) == 0
    assert_same_end(folder, alone)


def test_a_second_interrupt_stops_at_once(corpus, tmp_path):
    """The first would have it evaluated; both come between the same two looks."""
    run = start(corpus, tmp_path, "--val_steps", 10**6, "--warmup_steps", 0)
    wait_until(lambda: size(tmp_path, "checkpoint.pt"), run)
    time.sleep(0.1)
    os.kill(run.pid, signal.SIGINT)
    time.sleep(0.1)
    os.kill(run.pid, signal.SIGINT)
    assert finish(run) == 130
    assert not (only_run(tmp_path) / "result.csv").exists()


def test_a_finished_run_may_train_on_for_more_epochs(corpus, alone, tmp_path):
    assert finish(start(corpus, tmp_path, "--epochs", 2)) == 0
    folder = only_run(tmp_path)
    assert len(rows(folder / "epoch.csv")) == 2
    assert finish(process("--resume", folder, "--epochs", EPOCHS)) == 0
    assert_same_end(folder, alone)
    assert f"epochs: {EPOCHS}\n" in (folder / "args.yaml").read_text()


def test_a_run_resumed_for_fewer_epochs_ends(corpus, tmp_path):
    run = start(corpus, tmp_path, "--epochs", 1000, "--patience", 1000)
    wait_until(lambda: size(tmp_path, "epoch.csv"), run)
    os.kill(run.pid, signal.SIGINT)
    assert finish(run) == 130
    assert finish(process("--resume", "--save_dir", tmp_path, "--epochs", 1)) == 0
    assert (only_run(tmp_path) / "status").read_text() == "finished\n"
