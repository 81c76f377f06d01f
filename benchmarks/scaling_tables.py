"""What the measurements and the prediction say, as lines of text: tables, coefficients of models, assumptions."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import timing
from scaling_model import AllReduce, Curve, in_words
from scaling_prediction import METHODS, Cluster, Row, compute
from scaling_sizes import DIMENSIONS, Size
from shapes import Shape

# ---- measured


def base_line(shape: Shape) -> str:
    return (
        f"{shape.layers} x {shape.width} units, batch {shape.batch}, bptt {shape.steps}, {shape.types:,} types, "
        f"{shape.tuned} tuned, of which one is changed at a time; {timing.machine()}"
    )


def curve_lines(size: Size, dimensions: Iterable[str], curves: Sequence[Curve], unit: str) -> list[str]:
    """Measured and modelled along each dimension, in this unit, then the models."""
    heading = "".join(f"{curve.name:>22}" for curve in curves)
    lines = [f"  {'':<26}{heading}", f"  {unit:<26}" + f"{'measured':>12}{'model':>10}" * len(curves)]
    digits = 4 if unit == "seconds" else 0
    for dimension in dimensions:
        for value, shape in zip(size.values[dimension], size.shapes(dimension), strict=True):
            cells = "".join(
                f"{curve.measured[shape]:>12,.{digits}f}{curve.model(shape):>10,.{digits}f}" for curve in curves
            )
            lines.append(f"  {DIMENSIONS[dimension].label:<18}{value:>8,}{cells}")
    return [*lines, *(line for curve in curves for line in model_lines(curve, unit))]


def model_lines(curve: Curve, unit: str) -> Iterator[str]:
    """The errors of a curve's model, and its coefficients."""
    middle, largest = curve.errors()
    yield f"  {curve.name}: error of the model, median {middle:.1%}, largest {largest:.1%}"
    for name, words in in_words(curve.model, unit).items():
        yield f"    {name:<26}{words:>16}"


def rank_lines(steps: Mapping[int, Mapping[str, Any]], reduce: Curve) -> list[str]:
    """All-reduces, weight steps by the number of processes, and the model of the all-reduces."""
    return [*all_reduce_lines(reduce), *data_parallel_lines(steps, reduce), *model_lines(reduce, "seconds")]


def all_reduce_lines(reduce: Curve) -> Iterator[str]:
    yield f"  {'all-reduce':<26}{'measured':>12}{'model':>12}"
    for point, seconds in reduce.measured.items():
        times = f"{1000 * seconds:>9.2f} ms{1000 * reduce.model(point):>9.2f} ms"
        yield f"  {point.ranks} ranks, {point.size / 1e6:>10,.3f} MB{'':<4}{times}"


def data_parallel_lines(steps: Mapping[int, Mapping[str, Any]], reduce: Curve) -> Iterator[str]:
    """steps: what `measure_ranks` found, by the number of processes."""
    heads = ("without sum", "sum after", "sum during", "its share", "its model", "speed-up")
    yield f"  {'weight step':<14}{''.join(f'{head:>13}' for head in heads)}"
    for ranks, own in steps.items():
        model = reduce.model(AllReduce(ranks, own["reduced_bytes"]))
        speed = steps[min(steps)]["alone_s"] / own["step_s"]
        times = "".join(f"{own[way]:>11.3f} s" for way in ("alone_s", "step_s", "overlapped_s"))
        share = 1 - own["alone_s"] / own["step_s"]
        yield f"  {ranks} rank{'s' * (ranks > 1):<8}{times}{share:>13.1%}{model:>11.3f} s{speed:>13.2f}"


# ---- predicted


def prediction_lines(shape: Shape, cluster: Cluster, rows: Mapping[str, Iterable[Row]]) -> list[str]:
    """rows: by what is scaled, and how it trains."""
    return [
        "prediction, not measured: weight steps of the language model in bfloat16 on GPUs",
        *assumption_lines(shape, cluster),
        *compute_lines(shape, cluster),
        *(line for label, own in rows.items() for line in scaling_lines(label, own, cluster)),
        "  * more than a GPU has: it would accumulate gradients over smaller batches",
    ]


def assumption_lines(shape: Shape, cluster: Cluster) -> list[str]:
    return [
        f"  {shape.layers} x {shape.width} units, {shape.types:,} types, bptt {shape.steps}, {shape.tuned} tuned: "
        f"{shape.parameters / 1e9:.2f} billion parameters, {shape.elementary / 1e9:.2f} of them elementary",
        f"  assumed of a GPU: {cluster.flops / 1e12:g} TFLOP/s and {cluster.memory / 1e9:g} GB at "
        f"{cluster.memory_bandwidth / 1e12:g} TB/s; to the others of the {cluster.gpus_per_node} in a node",
        f"  {cluster.node_bandwidth / 1e9:g} GB/s, to other nodes {cluster.network_bandwidth / 1e9:g} GB/s; of these "
        f"peaks it attains {cluster.attained_flops:.0%} of FLOP/s, {cluster.attained_bandwidth:.0%} of bytes/s;",
        f"  {cluster.kernel_latency * 1e6:g} µs a small kernel; gradients in float32, SGD without momentum",
    ]


def compute_lines(shape: Shape, cluster: Cluster) -> Iterator[str]:
    for method, name in METHODS.items():
        own, again = (compute(shape, cluster, method, checkpointed) for checkpointed in (False, True))
        yield f"  {name}: a GPU's own work at batch {shape.batch}: {own.total:.3f} s, checkpointed {again.total:.3f} s"


def scaling_lines(label: str, rows: Iterable[Row], cluster: Cluster) -> Iterator[str]:
    yield f"  {label}"
    yield (
        f"  {'':<5}{'batch':>7}{'step':>10}{'of it':>9}{'effi-':>8}   {'overlapped':<10}{'of it':>9}{'effi-':>8}"
        f"{'memory':>11}{'check-':>11}"
    )
    yield (
        f"  {'GPUs':<5}{'of each':>7}{'':>10}{'reduce':>9}{'ciency':>8}   {'step':>10}{'reduce':>9}{'ciency':>8}"
        f"{'':>11}{'pointed':>11}"
    )
    for row in rows:
        memory = "".join(
            f"{gigabytes:>7,.0f} GB{'*' if gigabytes * 1e9 > cluster.memory else ' '}"
            for gigabytes in (row.memory_gb, row.checkpointed_memory_gb)
        )
        yield (
            f"  {row.gpus:<5}{row.batch:>7,}{row.step_s:>8.3f} s{row.share:>9.1%}{row.efficiency:>8.2f}   "
            f"{row.overlapped_step_s:>8.3f} s{row.overlapped_share:>9.1%}{row.overlapped_efficiency:>8.2f} {memory}"
        )
