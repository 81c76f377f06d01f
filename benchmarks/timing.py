"""Timing side by side: in each round everything is timed once, one after another.

A ratio is the median of the rounds' ratios, since what disturbs a machine for seconds disturbs both that it compares.
"""

import argparse
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

import torch

from stn.kernels.memory import keep_freed_memory
from stn.scripts.options import OneLineParser, positive_int

ROOT = Path(__file__).resolve().parent.parent
sys.path.append(str(ROOT))  # of the experiments, which are not installed
DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}

WIDTH = 40  # of the tables' first column

Seconds = dict[Any, list[float]]
# Label: numerator, denominator, and the largest ratio to aim at in each of DTYPES.
Ratios = Mapping[str, tuple[str, str, float | None, float | None]]


def parser(script: str, description: str | None, rounds: int) -> argparse.ArgumentParser:
    """The flags that all these scripts have. rounds: the default."""
    parser = OneLineParser(prog=Path(script).name, description=description)
    add = parser.add_argument
    add("--dtype", nargs="+", choices=DTYPES, default=list(DTYPES), help="(default: both)")
    add("--rounds", type=positive_int, default=rounds, metavar="N", help="times of each (default: %(default)s)")
    add("--threads", type=positive_int, default=None, metavar="N", help="CPU threads (default: what PyTorch chooses)")
    add("--json", type=Path, default=None, metavar="FILE", help="write the medians to this file too")
    add("--peak", choices=DTYPES, default=None, help=argparse.SUPPRESS)
    add("--delta", type=int, default=0, help=argparse.SUPPRESS)
    add("--checkpointed", type=int, default=0, help=argparse.SUPPRESS)
    return parser


def add_checkpointing(parser: argparse.ArgumentParser) -> None:
    """For scripts that call `checkpointing`."""
    words = "show instead what steps cost with --checkpoint_activations of the training scripts, and without"
    parser.add_argument("--checkpoint_activations", action="store_true", help=words)


def prepare(threads: int | None) -> None:
    """The process as training would have it."""
    keep_freed_memory()
    if threads:
        torch.set_num_threads(threads)


def machine() -> str:
    cpu = torch.cpu.get_capabilities()["cpu_name"]
    return f"{torch.get_num_threads()} threads, torch {torch.__version__}, {cpu}"


def interleaved(subjects: Mapping[str, Callable[[], object]], rounds: int) -> Seconds:
    """Seconds of each in every round, after one to warm up."""
    seconds: Seconds = {name: [] for name in subjects}
    for number in range(rounds + 1):
        for name, run in subjects.items():
            started = time.perf_counter()
            run()
            if number:
                seconds[name].append(time.perf_counter() - started)
    return seconds


def medians(seconds: Seconds) -> dict[str, float]:
    return {name: statistics.median(times) for name, times in seconds.items()}


def quartiles(values: list[float]) -> tuple[float, float, float]:
    """Lower quartile, median and upper quartile; of a single value, three times that."""
    low, middle, high = statistics.quantiles(values, n=4) if len(values) > 1 else values * 3
    return low, middle, high


def ratios(seconds: Seconds, above: str, below: str) -> list[float]:
    """Of each round."""
    return [a / b for a, b in zip(seconds[above], seconds[below], strict=True)]


def table(dtype: str, seconds: Seconds, compared: Ratios) -> list[str]:
    """Lines: medians and quartiles of all times, then of the ratios, beside what to aim at."""
    lines = [dtype, f"  {'':<{WIDTH}}{'median':>10}{'quartiles':>20}"]
    for name, times in seconds.items():
        low, middle, high = quartiles(times)
        lines.append(f"  {name:<{WIDTH}}{middle:>8.3f} s{f'{low:.3f} to {high:.3f} s':>20}")
    lines.append(f"  {'':<{WIDTH}}{'ratio':>10}{'quartiles':>20}{'aim':>10}")
    for label, (above, below, *aims) in compared.items():
        if above in seconds and below in seconds:
            aim = aims[list(DTYPES).index(dtype)]
            low, middle, high = quartiles(ratios(seconds, above, below))
            words = "" if aim is None else f"<= {aim}"
            lines.append(f"  {label:<{WIDTH}}{middle:>10.2f}{f'{low:.2f} to {high:.2f}':>20}{words:>10}")
    return lines


def number_lines(numbers: Mapping[str, float]) -> list[str]:
    """Lines of what is not in seconds."""
    return [
        f"  {name:<{WIDTH}}{number:>10{',.0f' if 10 <= number < 1e7 else '.3g'}}" for name, number in numbers.items()
    ]


DELTA_MEMORY = 1.6  # the largest peak of the Δ-STN to aim at, beside the STN's


def peak_lines(peaks: Mapping[str, float], aim_mib: float | None) -> list[str]:
    """Lines: what `peak_memories` has found, beside what to aim at."""
    aims = aim_mib, DELTA_MEMORY * peaks["peak_rss_mib"]
    return [
        f"  {name:<{WIDTH}}{peak:>10,.0f}{'' if aim is None else f'<= {aim:.0f}':>30}"
        for (name, peak), aim in zip(peaks.items(), aims, strict=True)
    ]


def relative_peak_lines(peaks: Mapping[str, float], below: str, aims: Mapping[str, float]) -> list[str]:
    """Lines: peaks of `peak_memory`, each beside its ratio to that one and what to aim at."""
    return [
        f"  {name:<{WIDTH}}{peak:>10,.0f}{f'{peak / peaks[below]:.2f}':>20}"
        f"{f'<= {aims[name]}' if name in aims else '':>10}".rstrip()
        for name, peak in peaks.items()
    ]


def peak_memories(script: Path | str, dtype: str, **sizes: float | str | None) -> dict[str, float]:
    """Of the STN and of the Δ-STN."""
    names = {"peak_rss_mib": 0, "delta_peak_rss_mib": 1}
    return {name: peak_memory(script, dtype, delta=delta, **sizes) for name, delta in names.items()}


def peak_memory(script: Path | str, dtype: str, **sizes: float | str | None) -> float:
    """MiB that training takes at the most, of a process of its own: the script's, with --peak and what sizes it."""
    (peak,) = peaks_said(script, dtype, **sizes)
    return peak


def peaks_said(script: Path | str, dtype: str, **sizes: float | str | None) -> list[float]:
    """The same where the script's process says several."""
    flags = [f"--{name}={size}" for name, size in sizes.items() if size is not None]
    command = [sys.executable, str(script), "--peak", dtype, *flags]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True)
    if done.returncode:
        raise RuntimeError(f"the process that measures the peak memory failed: {done.stderr}")
    return [float(line) for line in done.stdout.splitlines()]


def checkpointing(
    script: Path | str, dtype: str, rounds: int, make: Callable[[bool, bool], Any], **sizes: float | str | None
) -> tuple[list[str], dict[str, float]]:
    """Lines and numbers: time and peak memory of steps with activations checkpointed, beside those with all kept.

    make: of whether by the Δ-STN and whether checkpointed, what has a `weight_step` and a `hyper_step`.
    """
    steps, compared, peaks = {}, {}, {}
    for method, delta in {"": 0, "delta_": 1}.items():
        for way, checkpointed in {"": 0, "checkpointed_": 1}.items():
            subject = make(bool(delta), bool(checkpointed))
            for step in ("weight_step", "hyper_step"):
                steps[f"{way}{method}{step}_s"] = getattr(subject, step)
                if checkpointed:
                    label = f"{method}{step}, checkpointed / kept"
                    compared[label] = (f"{way}{method}{step}_s", f"{method}{step}_s", None, None)
            name = f"{way}{method}peak_rss_mib"
            peaks[name] = peak_memory(script, dtype, delta=delta, checkpointed=checkpointed, **sizes)
    seconds = interleaved(steps, rounds)
    lines = table(dtype, seconds, compared)
    for kept in ("peak_rss_mib", "delta_peak_rss_mib"):
        pair = {name: peaks[name] for name in (kept, f"checkpointed_{kept}")}
        lines += relative_peak_lines(pair, kept, {})
    return lines, medians(seconds) | peaks


def say_peak(steps: Iterable[Callable[[], object]]) -> None:
    """Take these steps, then say the peak of this process's resident memory in MiB, on stdout."""
    for step in steps:
        step()
    # Not getrusage's, which a process inherits from the one that started it.
    status = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines())
    print(int(status["VmHWM"].split()[0]) / 1024, flush=True)


def say_peak_apart(steps: Callable[[], Iterable[Callable[[], object]]]) -> None:
    """The same in a process of its own, forked from this one, which must not have computed yet: threads are not forked.

    steps: makes them.
    """
    sys.stdout.flush()
    child = os.fork()
    if not child:
        status = 1
        try:
            say_peak(steps())
            status = 0
        finally:
            os._exit(status)
    if os.waitpid(child, 0)[1]:
        raise RuntimeError("a process that measures the peak memory failed")
