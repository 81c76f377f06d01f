"""Several processes that train one model: seconds of summing gradients among them, and of whole weight steps.

Each process computes with one thread and talks to the others by gloo, on the one machine.
"""

import json
import os
import statistics
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from lstm_step import Subject
from scaling_model import AllReduce
from shapes import Shape
from timing import ROOT
from torch import Tensor

WORKER = "--worker"  # the hidden flag that makes the script one of the processes


def measure_ranks(script: Path | str, ranks: int, flags: list[str]) -> dict[str, Any]:
    """What `work` finds in each of so many processes of the script, which starts it for `--worker` and these flags.

    "step_s", "reduce_s": medians of a data-parallel weight step, and of the all-reduce within it; "all_reduce_s": of
    all-reduces alone, by their bytes.
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
    dist.init_process_group("gloo")
    try:
        reduced = {size: all_reduce_seconds(size, rounds) for size in sizes}
        steps = DataParallelSteps(replace(shape, batch=max(1, shape.batch // dist.get_world_size())), dtype)
        found = {**steps.measure(rounds), "all_reduce_s": reduced}
        if dist.get_rank() == 0:
            print(json.dumps(found), flush=True)
    finally:
        dist.destroy_process_group()


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
    """Weight steps by the STN in which all processes' gradients are summed between backward pass and update."""

    def __init__(self, shape: Shape, dtype: torch.dtype):
        self.subject = Subject(shape, dtype)
        self.update = self.subject.method.updates["weights"]
        self.update.backward = self.backward
        self.reduce_s = 0.0

    def backward(self, objective: Tensor) -> None:
        objective.backward()
        gradients = [parameter.grad for parameter in self.update.parameters]
        started = time.perf_counter()
        together = torch.cat([gradient.flatten() for gradient in gradients])
        dist.all_reduce(together)
        together /= dist.get_world_size()
        for gradient, part in zip(gradients, together.split([g.numel() for g in gradients]), strict=True):
            gradient.copy_(part.view_as(gradient))
        self.reduce_s = time.perf_counter() - started

    def measure(self, rounds: int) -> dict[str, float]:
        """Medians over rounds."""
        seconds = []
        for number in range(rounds + 1):
            dist.barrier()
            started = time.perf_counter()
            self.subject.weight_step()
            if number:
                seconds.append((time.perf_counter() - started, self.reduce_s))
        step, reduce = (statistics.median(times) for times in zip(*seconds, strict=True))
        return {"step_s": step, "reduce_s": reduce, "reduced_bytes": 4 * self.subject.shape.parameters}


def all_reduces(found: dict[int, dict[str, Any]]) -> dict[AllReduce, float]:
    """The seconds of all-reduces alone, from what `measure_ranks` found for each number of processes above 1."""
    return {
        AllReduce(ranks, int(size)): seconds
        for ranks, results in found.items()
        for size, seconds in results["all_reduce_s"].items()
        if ranks > 1
    }
