"""Several processes that train one model: seconds of summing gradients among them, and of whole weight steps.

Each process computes with one thread and talks to the others by gloo, on the one machine.
"""

import json
import os
import statistics
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from lstm_step import Subject
from scaling_model import AllReduce
from shapes import Shape
from timing import ROOT

from stn.ranks import Ranks, ranks_here
from stn.training import share_among

WORKER = "--worker"  # the hidden flag that makes the script one of the processes


def measure_ranks(script: Path | str, ranks: int, flags: list[str]) -> dict[str, Any]:
    """What `work` finds in each of so many processes of the script, which starts it for `--worker` and these flags.

    "step_s", "overlapped_s": medians of a data parallel weight step, its gradients being summed after or during the
    backward pass; "alone_s": of the same without the sum; "all_reduce_s": of all-reduces alone, by their bytes.
    """
    launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", str(ranks)]
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    command = [*launcher, str(script), WORKER, *flags]
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True)
    if done.returncode:
        raise RuntimeError(f"the processes that train together failed: {done.stderr}")
    return json.loads(done.stdout.splitlines()[-1])


def work(shape: Shape, dtype: torch.dtype, sizes: list[int], rounds: int) -> None:
    """As one of the processes: take part in the measurements; the first says what was found, as JSON on stdout.

    The shape's batch is shared out; sizes: bytes to be summed.
    """
    ranks = ranks_here()
    reduced = {} if ranks.size == 1 else {size: all_reduce_seconds(size, rounds) for size in sizes}
    found = {**DataParallelSteps(shape, dtype, ranks).measure(rounds), "all_reduce_s": reduced}
    if ranks.first:
        print(json.dumps(found), flush=True)


def all_reduce_seconds(size: int, rounds: int) -> float:
    """The median over rounds; each round is timed from when all processes are there."""
    numbers, seconds = torch.zeros(max(1, size // 4)), []
    for number in range(rounds + 1):
        dist.barrier()
        started = time.perf_counter()
        dist.all_reduce(numbers)
        if number:
            seconds.append(time.perf_counter() - started)
    return statistics.median(seconds)


class DataParallelSteps:
    """Weight steps by the STN on shared mini-batches; what summing their gradients costs.

    Each round takes a step without the sum, one with the sum after the backward pass, and one with the sum during it.
    """

    def __init__(self, shape: Shape, dtype: torch.dtype, ranks: Ranks):
        self.subject, self.ranks = Subject(shape, dtype), ranks
        self.update = self.subject.method.updates["weights"]
        if ranks.size > 1:
            share_among(ranks, self.subject.task, self.subject.hyper, self.subject.method)
        self.sum = self.update.sum_over_ranks

    def measure(self, rounds: int) -> dict[str, float]:
        """Medians over rounds; the first round warms up."""
        sums = {"step_s": self.after, "overlapped_s": self.during} if self.sum else {}
        ways = {"alone_s": self.alone, **sums}
        seconds: dict[str, list[float]] = {way: [] for way in ways}
        for _ in range(rounds + 1):
            for way, step in ways.items():
                self.ranks.wait()
                started = time.perf_counter()
                step()
                seconds[way].append(time.perf_counter() - started)
        medians = {way: statistics.median(times[1:]) for way, times in seconds.items()}
        unsummed = dict.fromkeys(("step_s", "overlapped_s"), medians["alone_s"])
        return {**unsummed, **medians, "reduced_bytes": 4 * self.subject.shape.parameters}

    def alone(self) -> None:
        self.update.sum_over_ranks = None
        self.subject.weight_step()
        self.update.sum_over_ranks = self.sum

    def after(self) -> None:
        self.sum.overlap = False
        self.subject.weight_step()

    def during(self) -> None:
        self.sum.overlap = True
        self.subject.weight_step()


def all_reduces(found: dict[int, dict[str, Any]]) -> dict[AllReduce, float]:
    """The seconds of all-reduces alone, from what `measure_ranks` found for each number of processes above 1."""
    return {
        AllReduce(ranks, int(size)): seconds
        for ranks, results in found.items()
        for size, seconds in results["all_reduce_s"].items()
        if ranks > 1
    }
