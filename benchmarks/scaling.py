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
from collections.abc import Callable, Iterable, Mapping
from dataclasses import asdict, astuple, dataclass, fields, replace
from itertools import product
from pathlib import Path
from typing import Any

import scaling_figure
import scaling_model
import scaling_prediction
import timing
import torch
from lstm_step import RATE, Subject
from scaling_model import AllReduce, Model
from scaling_prediction import BILLION, GPUS, Cluster, compute
from scaling_ranks import WORKER, all_reduces, measure_ranks, work
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
DIMENSIONS = {
    "hyperparameters": "tuned",
    "width": "width",
    "depth": "layers",
    "vocabulary": "types",
    "bptt": "steps",
    "batch": "batch",
}
LABELS = {
    "hyperparameters": "hyperparameters H",
    "width": "width n",
    "depth": "layers L",
    "vocabulary": "vocabulary V",
    "bptt": "bptt T",
    "batch": "batch B",
}
RANKS, GPU = "ranks", "gpus"
METHODS = dict(zip(UPDATES, ("STN", "Δ-STN"), strict=True))
Clock = Callable[[], float]


@dataclass(frozen=True)
class Size:
    """base: the shape from which one dimension at a time is changed. ranks: of processes; reduced: bytes they sum."""

    base: Shape
    values: Mapping[str, tuple[int, ...]]
    ranks: tuple[int, ...] = (1, 2, 4)
    reduced: tuple[int, ...] = tuple(2**power for power in (12, 16, 20, 22, 24, 26))

    def field(self, dimension: str) -> str:
        """The shape's."""
        return DIMENSIONS[dimension]

    def shapes(self, dimension: str) -> list[Shape]:
        return [replace(self.base, **{self.field(dimension): value}) for value in self.values[dimension]]


SIZES = {
    "small": Size(
        Shape(steps=35, batch=20, width=350, types=10_000, tuned=10),
        {
            "hyperparameters": (1, 10, 100, 300, 1000),
            "width": (100, 200, 350, 500, 700),
            "depth": (1, 2, 3, 4),
            "vocabulary": (1000, 5000, 10_000, 20_000, 30_000),
            "bptt": (5, 17, 35, 70, 140),
            "batch": (5, 10, 20, 40, 80),
        },
    ),
    "paper": Size(
        Shape(tuned=10),
        {
            "hyperparameters": (1, 10, 100, 300, 1000),
            "width": (150, 300, 450, 650, 850),
            "depth": (1, 2, 3, 4),
            "vocabulary": (1000, 5000, 10_000, 20_000, 30_000),
            "bptt": (10, 35, 70, 105, 140),
            "batch": (10, 20, 40, 60, 80),
        },
    ),
    "quick": Size(
        Shape(steps=5, batch=4, width=16, types=50, tuned=3),
        {
            "hyperparameters": (1, 48),
            "width": (8, 16),
            "depth": (1, 2),
            "vocabulary": (50, 100),
            "bptt": (3, 5),
            "batch": (2, 4),
        },
        ranks=(1, 2),
        reduced=(2**10, 2**16),
    ),
}


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
    shapes: Iterable[Shape], base: Shape, dtype: torch.dtype, rounds: int, clock: Clock = time.perf_counter
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


def measure_peaks(shapes: Iterable[Shape], dtype: str, threads: int | None) -> dict[str, dict[Shape, float]]:
    """Peak resident MiB of training by each method, by shape, each in a process of its own."""
    words = ";".join(written(shape) for shape in shapes)
    peaks = iter(timing.peaks_said(__file__, dtype, shapes=words, threads=threads))
    return {method: {shape: next(peaks) for shape in shapes} for method in UPDATES}


def say_peaks(shapes: Iterable[Shape], dtype: torch.dtype) -> None:
    """As the process that `measure_peaks` starts."""
    import torch._dynamo  # noqa: F401  as the first optimizer would, in each process anew, for a second

    for method in UPDATES:
        for shape in shapes:
            timing.say_peak_apart(lambda: [subject(shape, dtype, method).weight_step] * 2)  # noqa: B023


def written(shape: Shape) -> str:
    """As the flags of this script's own processes have it."""
    return ",".join(map(str, astuple(shape)))


def read(words: str) -> list[Shape]:
    return [Shape(*map(int, word.split(","))) for word in words.split(";")]


# ---- what is said


@dataclass(frozen=True)
class Curve:
    """What was measured of one thing, by shape, and the model that was fitted to it."""

    name: str
    measured: dict[Any, float]
    model: Model

    @classmethod
    def of(cls, name: str, measured: dict[Any, float], terms: scaling_model.Terms) -> "Curve":
        return cls(name, measured, Model.fit(terms, [*measured], [*measured.values()]))

    def summary(self) -> str:
        middle, largest = self.model.errors([*self.measured], [*self.measured.values()])
        return f"  {self.name}: error of the model, median {middle:.1%}, largest {largest:.1%}"

    def numbers(self) -> dict[str, Any]:
        """For JSON."""
        points = [{**asdict(point), "measured": found} for point, found in self.measured.items()]
        return {"coefficients": self.model.coefficients, "points": points}


def table(size: Size, dimensions: Iterable[str], curves: Iterable[Curve], unit: str) -> list[str]:
    """Lines: measured and modelled, in this unit."""
    curves = list(curves)
    heading = "".join(f"{curve.name:>22}" for curve in curves)
    lines = [f"  {'':<26}{heading}", f"  {unit:<26}" + f"{'measured':>12}{'model':>10}" * len(curves)]
    digits = 4 if unit == "seconds" else 0
    for dimension in dimensions:
        for shape in size.shapes(dimension):
            value = getattr(shape, DIMENSIONS[dimension])
            cells = "".join(
                f"{curve.measured[shape]:>12,.{digits}f}{curve.model(shape):>10,.{digits}f}" for curve in curves
            )
            lines.append(f"  {LABELS[dimension]:<18}{value:>8,}{cells}")
    return lines


def coefficient_lines(curves: Iterable[Curve], unit: str) -> list[str]:
    lines = []
    for curve in curves:
        found = scaling_model.in_words(curve.model, unit)
        lines += [curve.summary(), *(f"    {name:<26}{words:>16}" for name, words in found.items())]
    return lines


def rank_lines(found: dict[int, dict[str, Any]], reduce: Curve) -> list[str]:
    lines = [f"  {'all-reduce':<26}{'measured':>12}{'model':>12}"]
    for point, seconds in reduce.measured.items():
        times = f"{1000 * seconds:>9.2f} ms{1000 * reduce.model(point):>9.2f} ms"
        lines.append(f"  {point.ranks} ranks, {point.size / 1e6:>10,.3f} MB{'':<4}{times}")
    heads = ("without sum", "sum after", "sum during", "its share", "its model", "speed-up")
    lines.append(f"  {'weight step':<14}{''.join(f'{head:>13}' for head in heads)}")
    for ranks, own in found.items():
        model = reduce.model(AllReduce(ranks, own["reduced_bytes"]))
        speed = found[min(found)]["alone_s"] / own["step_s"]
        times = "".join(f"{own[way]:>11.3f} s" for way in ("alone_s", "step_s", "overlapped_s"))
        share = 1 - own["alone_s"] / own["step_s"]
        lines.append(f"  {ranks} rank{'s' * (ranks > 1):<8}{times}{share:>13.1%}{model:>11.3f} s{speed:>13.2f}")
    return lines


def prediction_lines(shape: Shape, cluster: Cluster, rows: Mapping[str, list[scaling_prediction.Row]]) -> list[str]:
    lines = [
        "prediction, not measured: weight steps of the language model in bfloat16 on GPUs",
        f"  {shape.layers} x {shape.width} units, {shape.types:,} types, bptt {shape.steps}, {shape.tuned} tuned: "
        f"{shape.parameters / 1e9:.2f} billion parameters, {shape.elementary / 1e9:.2f} of them elementary",
        f"  assumed of a GPU: {cluster.flops / 1e12:g} TFLOP/s and {cluster.memory / 1e9:g} GB at "
        f"{cluster.memory_bandwidth / 1e12:g} TB/s; to the others of the {cluster.gpus_per_node} in a node",
        f"  {cluster.node_bandwidth / 1e9:g} GB/s, to other nodes {cluster.network_bandwidth / 1e9:g} GB/s; of these "
        f"peaks it attains {cluster.attained_flops:.0%} of FLOP/s, {cluster.attained_bandwidth:.0%} of bytes/s;",
        f"  {cluster.kernel_latency * 1e6:g} µs a small kernel; gradients in float32, SGD without momentum",
    ]
    for method, name in METHODS.items():
        own, again = (compute(shape, cluster, method, checkpointed) for checkpointed in (False, True))
        lines.append(
            f"  {name}: a GPU's own work at batch {shape.batch}: {own.total:.3f} s, checkpointed {again.total:.3f} s"
        )
    for label, line in rows.items():
        lines += [
            f"  {label}",
            f"  {'':<5}{'batch':>7}{'step':>10}{'of it':>9}{'effi-':>8}   {'overlapped':<10}{'of it':>9}{'effi-':>8}"
            f"{'memory':>11}{'check-':>11}",
            f"  {'GPUs':<5}{'of each':>7}{'':>10}{'reduce':>9}{'ciency':>8}   {'step':>10}{'reduce':>9}{'ciency':>8}"
            f"{'':>11}{'pointed':>11}",
        ]
        for row in line:
            memory = "".join(
                f"{gigabytes:>7,.0f} GB{'*' if gigabytes * 1e9 > cluster.memory else ' '}"
                for gigabytes in (row.memory_gb, row.checkpointed_memory_gb)
            )
            lines.append(
                f"  {row.gpus:<5}{row.batch:>7,}{row.step_s:>8.3f} s{row.share:>9.1%}{row.efficiency:>8.2f}   "
                f"{row.overlapped_step_s:>8.3f} s{row.overlapped_share:>9.1%}{row.overlapped_efficiency:>8.2f} {memory}"
            )
    lines.append("  * more than a GPU has: it would accumulate gradients over smaller batches")
    return lines


def predicted(shape: Shape, cluster: Cluster) -> dict[str, list[scaling_prediction.Row]]:
    """By what is scaled, and how it trains."""
    return {
        f"{name}, {'strong' if strong else 'weak'} scaling": scaling_prediction.rows(
            shape, cluster, method, GPUS, strong=strong
        )
        for method, name in METHODS.items()
        for strong in (False, True)
    }


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
        say(shown(size.base))
        for dtype in args.dtype:
            results[dtype] = measured(args, size, rounds, dtype)
    if GPU in args.dimensions:
        cluster = Cluster(**{field.name: getattr(args, field.name) for field in fields(Cluster)})
        rows = predicted(BILLION, cluster)
        say("\n".join(prediction_lines(BILLION, cluster, rows)))
        results["prediction"] = {
            "shape": asdict(BILLION),
            "cluster": asdict(cluster),
            "rows": {label: [asdict(row) for row in line] for label, line in rows.items()},
        }
    if args.json:
        with explaining_os_errors(args.json):
            args.json.write_text(json.dumps(results, indent=2) + "\n", encoding="utf-8")


def shown(shape: Shape) -> str:
    return (
        f"{shape.layers} x {shape.width} units, batch {shape.batch}, bptt {shape.steps}, {shape.types:,} types, "
        f"{shape.tuned} tuned, of which one is changed at a time; {timing.machine()}"
    )


def measured(args: Namespace, size: Size, rounds: int, dtype: str) -> dict[str, Any]:
    """Measure and fit, print the tables, draw the figure; all numbers."""
    width = DTYPES[dtype].itemsize
    dimensions = [name for name in DIMENSIONS if name in args.dimensions]
    shapes = dict.fromkeys(shape for name in dimensions for shape in size.shapes(name))
    numbers: dict[str, Any] = {}
    times, peaks, reduce = [], [], None
    clock = time.process_time if args.cpu_time else time.perf_counter
    say(dtype)
    if shapes:
        found = measure_times(shapes, size.base, DTYPES[dtype], rounds, clock)
        times = [Curve.of(update, line, scaling_model.time_terms(update, width)) for update, line in found.items()]
        say("\n".join([*table(size, dimensions, times, "seconds"), *coefficient_lines(times, "seconds")]))
        found = measure_peaks(shapes, dtype, args.threads)
        peaks = [Curve.of(method, line, scaling_model.memory_terms(method, width)) for method, line in found.items()]
        say("\n".join([*table(size, dimensions, peaks, "MiB"), *coefficient_lines(peaks, "MiB")]))
        numbers["time"] = {curve.name: curve.numbers() for curve in times}
        numbers["memory"] = {curve.name: curve.numbers() for curve in peaks}
    if RANKS in args.dimensions:
        reduced = ",".join(map(str, size.reduced))
        flags = [
            f"--shapes={written(replace(size.base, tuned=7))}",
            f"--reduced={reduced}",
            f"--dtype={dtype}",
            f"--rounds={rounds}",
            "--threads=1",
        ]
        found = {ranks: measure_ranks(__file__, ranks, flags) for ranks in size.ranks}
        reduce = Curve.of("all-reduce", all_reduces(found), scaling_model.RING)
        say("\n".join([*rank_lines(found, reduce), *coefficient_lines([reduce], "seconds")]))
        numbers["ranks"] = {"steps": found, "all_reduce": reduce.numbers()}
    path = args.out.with_name(f"{args.out.name}_{dtype}")
    for file in scaling_figure.draw(size, dimensions, LABELS, times, peaks, reduce, path):
        say(f"wrote {file}")
    return numbers


if __name__ == "__main__":
    sys.exit(main())
