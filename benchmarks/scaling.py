"""How a weight step's time and memory grow, measured along each dimension and explained by models of its parts.

Dimensions: the number of hyperparameters, width, depth, vocabulary, bptt, batch, and ranks, the processes that train
together. Then what the same step would take on many GPUs, by their data sheet: a prediction. Updates: the STN's, and
the Δ-STN's two. What is compared is measured in turn, each round over all shapes; numbers are medians over rounds.
"""

import json
import statistics
import sys
import time
from argparse import SUPPRESS, Namespace
from collections.abc import Callable, Sequence
from dataclasses import asdict, astuple, dataclass, fields, replace
from itertools import product
from pathlib import Path
from typing import Any

import scaling_figure
import timing
import torch
from lstm_step import RATE, Subject
from scaling_model import RING, Curve, memory_terms, time_terms
from scaling_prediction import BILLION, Cluster, all_rows
from scaling_ranks import WORKER, all_reduces, measure_ranks, work
from scaling_sizes import DIMENSIONS, SIZES, Size
from scaling_tables import base_line, curve_lines, prediction_lines, rank_lines
from shapes import UPDATES, Shape, Update
from step_products import Product, Products
from timing import DTYPES, ROOT
from torch import Tensor

from lstm.hyperparameters import TABLE
from lstm.task import Batch, LanguageModeling, Prediction
from stn.errors import UserError
from stn.files import explaining_os_errors
from stn.hyperparameters import Draw, Hyperparameters, Tuned
from stn.schedules import Constant
from stn.scripts import options
from stn.scripts.output import say

DROPPED_OUT = ("dropouti", "dropouth", "dropouto")  # of units: a rate of theirs may be an example's own
RANKS, GPU = "ranks", "gpus"
Clock = Callable[[], float]


# ---- what is measured


@dataclass(frozen=True, eq=False)
class UnitRates(Draw):
    """A draw of H rates, each that of an equal share of the units that are dropped out, in three places of one width.

    So one rate is that of all units, three are of a place each, and 3·width of a unit each.
    """

    width: int = 0

    def __getitem__(self, name: str) -> float | Tensor:
        if name not in DROPPED_OUT:
            return super().__getitem__(name)
        units = torch.arange(self.width) + DROPPED_OUT.index(name) * self.width
        return self.tuned_values[:, units * len(self.columns) // (len(DROPPED_OUT) * self.width)]


class UnitDropout(LanguageModeling):
    """Language modelling with rates of units in place of layers'."""

    def predict(self, batch: Batch, draw: Draw) -> Prediction:
        return super().predict(batch, UnitRates(**vars(draw), width=self.model.arguments["emsize"]))


def hyperparameters(count: int) -> Hyperparameters:
    """So many tuned rates of units; the language model's others are constant."""
    tuned = {f"rate{number}": Tuned(RATE, (0, 1)) for number in range(count)}
    return Hyperparameters(**tuned, **{name: Constant(RATE) for name in TABLE if name not in DROPPED_OUT})


def subject(shape: Shape, dtype: torch.dtype, method: str) -> Subject:
    delta = method == "delta_stn"
    return Subject(shape, dtype, delta, hyper=hyperparameters(shape.tuned), kind=UnitDropout)


def update_seconds(subject: Subject, clock: Clock) -> list[float]:
    """Of each update of one weight step."""
    done: list[float] = []
    optimizers = [update.optimizer for name, update in subject.method.updates.items() if name != "hyper"]
    hooks = [own.register_step_post_hook(lambda *_: done.append(clock())) for own in optimizers]
    started = clock()
    subject.weight_step()
    for hook in hooks:
        hook.remove()
    return [end - start for start, end in zip([started, *done], done, strict=False)]


def measure_times(
    shapes: Sequence[Shape], base: Shape, dtype: torch.dtype, rounds: int, clock: Clock = time.perf_counter
) -> dict[Update, dict[Shape, float]]:
    """Seconds of each update, by shape.

    Beside each step one and the same product is timed, by which the machine's changes of speed are divided out.
    """
    yardstick = Products([Product("yardstick", base.tokens, base.width, base.types)], dtype)

    def unit() -> float:
        started = clock()
        yardstick()
        return clock() - started

    found = {update: {shape: [] for shape in shapes} for updates in UPDATES.values() for update in updates}
    units = []
    unit()  # to warm up, as below
    for _, shape, (method, updates) in product(range(rounds), shapes, UPDATES.items()):
        steps = subject(shape, dtype, method)
        steps.weight_step()
        before, own, after = unit(), update_seconds(steps, clock), unit()
        units += before, after
        for update, seconds in zip(updates, own, strict=True):
            found[update][shape].append(2 * seconds / (before + after))
    second = statistics.median(units)
    return {
        update: {shape: second * statistics.median(lengths) for shape, lengths in line.items()}
        for update, line in found.items()
    }


def time_curves(shapes: Sequence[Shape], base: Shape, dtype: str, rounds: int, clock: Clock) -> list[Curve]:
    """Seconds of each update."""
    bytes_each = DTYPES[dtype].itemsize
    found = measure_times(shapes, base, DTYPES[dtype], rounds, clock)
    return [Curve.of(update, seconds, time_terms(update, bytes_each)) for update, seconds in found.items()]


def measure_peaks(shapes: Sequence[Shape], dtype: str, threads: int | None) -> dict[str, dict[Shape, float]]:
    """Peak resident MiB of training by each method, by shape, each in a process of its own."""
    words = ";".join(written(shape) for shape in shapes)
    peaks = iter(timing.peaks_said(__file__, dtype, shapes=words, threads=threads))
    return {method: {shape: next(peaks) for shape in shapes} for method in UPDATES}


def peak_curves(shapes: Sequence[Shape], dtype: str, threads: int | None) -> list[Curve]:
    """Peak MiB of each method."""
    bytes_each = DTYPES[dtype].itemsize
    found = measure_peaks(shapes, dtype, threads)
    return [Curve.of(method, mebibytes, memory_terms(method, bytes_each)) for method, mebibytes in found.items()]


def say_peaks(shapes: Sequence[Shape], dtype: torch.dtype) -> None:
    """As the process that `measure_peaks` starts."""
    import torch._dynamo  # noqa: F401  as the first optimizer would, in each process anew, for a second

    for method in UPDATES:
        for shape in shapes:
            timing.say_peak_apart(lambda: [subject(shape, dtype, method).weight_step] * 2)  # noqa: B023


def measure_all_ranks(size: Size, dtype: str, rounds: int) -> dict[int, dict[str, Any]]:
    """What `measure_ranks` finds, by the number of processes; the step tunes the language model's seven."""
    flags = [
        f"--shapes={written(replace(size.base, tuned=7))}",
        f"--reduced={','.join(map(str, size.reduced))}",
        f"--dtype={dtype}",
        f"--rounds={rounds}",
        "--threads=1",
    ]
    return {ranks: measure_ranks(__file__, ranks, flags) for ranks in size.ranks}


def written(shape: Shape) -> str:
    """As the flags of this script's own processes have it."""
    return ",".join(map(str, astuple(shape)))


def read(words: str) -> list[Shape]:
    return [Shape(*map(int, word.split(","))) for word in words.split(";")]


# ---- command line


def main(argv: list[str] | None = None) -> int:
    """Run the command line; the exit status: 0, 2 for what the user can mend, 130 where interrupted."""
    parser = timing.parser(__file__, __doc__, rounds=5)
    parser.set_defaults(dtype=["float32"])
    add = parser.add_argument
    choices = [*DIMENSIONS, RANKS, GPU]
    add("--dimensions", nargs="+", choices=choices, default=choices, help="what to vary, or predict (default: all)")
    add("--size", choices=("small", "paper"), default="small", help="of the shape that is varied (default: small)")
    add("--cpu_time", action="store_true", help="count the processor's time, on a machine that others use: one thread")
    add("--quick", action="store_true", help="sizes too small to measure anything, and one round: a trial")
    out = ROOT / "plots" / "scaling"
    add("--out", type=Path, default=out, metavar="PATH", help="the figures' path, but for the dtype")
    units = {"flops": "FLOP/s", "memory": "bytes"}
    for field in fields(Cluster):
        check = options.positive_int if field.type is int else options.positive
        check = options.fraction if field.name.startswith("attained") else check
        unit = units.get(field.name, field.name.split("_")[-1].replace("bandwidth", "bytes/s"))
        words = f"of the GPUs of the prediction, {unit} (default: %(default)g)"
        add(f"--{field.name}", type=check, default=field.default, metavar="X", help=words)
    add(WORKER, action="store_true", help=SUPPRESS)
    add("--shapes", default="", help=SUPPRESS)
    add("--reduced", default="", help=SUPPRESS)
    args = parser.parse_args(argv)
    return options.exit_status(parser.prog, lambda: run(args), "nothing is kept")


def run(args: Namespace) -> None:
    if args.cpu_time and args.threads != 1:
        raise UserError("--cpu_time would count each thread's time: add --threads 1")
    timing.prepare(args.threads)
    if args.peak:
        say_peaks(read(args.shapes), DTYPES[args.peak])
    elif args.worker:
        sizes = [int(size) for size in args.reduced.split(",")]
        work(*read(args.shapes), DTYPES[args.dtype[0]], sizes, args.rounds)
    else:
        show(args)


def show(args: Namespace) -> None:
    """All that was asked for."""
    if args.json:
        with explaining_os_errors(args.json):  # before hours of work, not after
            args.json.parent.mkdir(parents=True, exist_ok=True)
            args.json.touch()
    size, rounds = (SIZES["quick"], 1) if args.quick else (SIZES[args.size], args.rounds)
    results: dict[str, Any] = {
        "machine": timing.machine(),
        "base": asdict(size.base),
        "rounds": rounds,
        "cpu_time": args.cpu_time,
    }
    if set(args.dimensions) != {GPU}:
        say(base_line(size.base))
        for dtype in args.dtype:
            results[dtype] = show_measured(args, size, rounds, dtype)
    if GPU in args.dimensions:
        results["prediction"] = show_prediction(args)
    if args.json:
        with explaining_os_errors(args.json):
            args.json.write_text(json.dumps(results, indent=2) + "\n", encoding="utf-8")


def show_measured(args: Namespace, size: Size, rounds: int, dtype: str) -> dict[str, Any]:
    """Measure and fit, print the tables, draw the figure; all numbers."""
    dimensions = [name for name in DIMENSIONS if name in args.dimensions]
    clock = time.process_time if args.cpu_time else time.perf_counter
    numbers: dict[str, Any] = {}
    times, peaks, reduce = [], [], None
    say(dtype)
    if dimensions:
        shapes = size.distinct_shapes(dimensions)
        times = time_curves(shapes, size.base, dtype, rounds, clock)
        say("\n".join(curve_lines(size, dimensions, times, "seconds")))
        peaks = peak_curves(shapes, dtype, args.threads)
        say("\n".join(curve_lines(size, dimensions, peaks, "MiB")))
        numbers["time"] = {curve.name: curve.numbers() for curve in times}
        numbers["memory"] = {curve.name: curve.numbers() for curve in peaks}
    if RANKS in args.dimensions:
        steps = measure_all_ranks(size, dtype, rounds)
        reduce = Curve.of("all-reduce", all_reduces(steps), RING)
        say("\n".join(rank_lines(steps, reduce)))
        numbers["ranks"] = {"steps": steps, "all_reduce": reduce.numbers()}
    path = args.out.with_name(f"{args.out.name}_{dtype}")
    for file in scaling_figure.draw(size, dimensions, times, peaks, reduce, path):
        say(f"wrote {file}")
    return numbers


def show_prediction(args: Namespace) -> dict[str, Any]:
    """Print the tables; all numbers."""
    cluster = Cluster(**{field.name: getattr(args, field.name) for field in fields(Cluster)})
    rows = all_rows(BILLION, cluster)
    say("\n".join(prediction_lines(BILLION, cluster, rows)))
    return {
        "shape": asdict(BILLION),
        "cluster": asdict(cluster),
        "rows": {label: [asdict(row) for row in line] for label, line in rows.items()},
    }


if __name__ == "__main__":
    sys.exit(main())
