"""How a step's cost grows: what the models count is what steps do, and the command runs at sizes that show nothing."""

import json
from dataclasses import replace

import pytest
import scaling
import scaling_prediction
import timing
import torch
from scaling_model import RING, AllReduce, Model, ring_bytes, time_terms
from scaling_prediction import BILLION, Cluster
from scaling_ranks import DataParallelSteps
from scaling_sizes import DIMENSIONS, SIZES
from shapes import UPDATES, Shape
from step_products import Product
from torch.utils.flop_counter import FlopCounterMode

from stn.ranks import ALONE

TINY = Shape(steps=5, batch=4, width=8, types=30, tuned=3)
METHODS = pytest.mark.parametrize("method", UPDATES)
BYTES = {torch.float32: 4, torch.bfloat16: 2}


pytestmark = pytest.mark.usefixtures("same_threads")


@pytest.fixture(autouse=True)
def same_memory(monkeypatch):
    monkeypatch.setattr(timing, "keep_freed_memory", lambda: None)  # it is for the whole process


# ---- what a step consists of


@pytest.mark.parametrize("layers", [1, 3])
@METHODS
def test_parameters_are_those_of_the_model(method, layers):
    shape = replace(TINY, layers=layers)
    own = scaling.subject(shape, torch.float32, method).method
    counted = [sum(weight.numel() for weight in part) for part in (own.elementary, own.response)]
    assert counted == [shape.elementary, shape.response] and sum(counted) == shape.parameters
    updated = {name: sum(w.numel() for w in update.parameters) for name, update in own.updates.items()}
    for update in UPDATES[method]:
        assert shape.updated(update) == updated["weights" if update == "stn" else update]


@pytest.mark.parametrize("layers", [1, 3])
@METHODS
def test_operations_are_those_of_the_step(method, layers):
    shape = replace(TINY, layers=layers)
    subject = scaling.subject(shape, torch.float64, method)
    with FlopCounterMode(display=False) as counted:
        subject.weight_step()
    assert counted.get_total_flops() == sum(shape.product_flops(u) + shape.gate_flops(u) for u in UPDATES[method])


def saved_bytes(shape, dtype, method):
    """Of each update: what autograd keeps from the forward pass, but for parameters and token ids."""
    subject, storages, sums = scaling.subject(shape, dtype, method), {}, []
    parameters = {weight.untyped_storage().data_ptr() for weight in subject.model.parameters()}

    def keep(tensor):
        storage = tensor.untyped_storage()
        if tensor.is_floating_point() and storage.data_ptr() not in parameters:
            storages[storage.data_ptr()] = storage  # kept, so that no other takes its place
        return tensor

    def backward(objective):
        sums.append(sum(storage.nbytes() for storage in storages.values()))
        storages.clear()
        objective.backward()

    for update in subject.method.updates.values():
        update.backward = backward
    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        subject.weight_step()
    return sums


@pytest.mark.parametrize("layers", [1, 2])
@pytest.mark.parametrize("dtype", BYTES)
@METHODS
def test_activations_are_those_that_are_saved(method, dtype, layers):
    """Twice the steps keep so much more: what does not grow with them is not counted."""
    few, many = (replace(TINY, layers=layers, steps=steps) for steps in (20, 40))
    grown = [b - a for a, b in zip(*(saved_bytes(shape, dtype, method) for shape in (few, many)), strict=True)]
    counted = [[shape.saved_activations(u, BYTES[dtype]) for u in UPDATES[method]] for shape in (few, many)]
    assert grown == [b - a for a, b in zip(*counted, strict=True)]


def test_checkpoints_keep_the_inputs_of_layers_and_what_one_layer_saves():
    shapes = [replace(TINY, layers=layers) for layers in (2, 3)]
    saved, kept = ([getattr(s, name)() for s in shapes] for name in ("saved_activations", "checkpointed_activations"))
    inputs = 4 * TINY.tokens * TINY.width
    assert kept[1] - kept[0] == inputs and saved[0] - kept[0] == saved[1] - saved[0] - 2 * inputs


# ---- rates of units


@pytest.mark.parametrize("tuned", [1, 3, 6, 24])
def test_every_rate_is_that_of_an_equal_share_of_the_units(tuned):
    values = torch.arange(2.0 * tuned).view(2, tuned)
    columns = {f"rate{number}": number for number in range(tuned)}
    draw = scaling.UnitRates(values, values, columns, frozenset(), {"wdrop": 0.1}, width=8)
    assert draw["wdrop"] == 0.1
    rates = torch.cat([draw[name] for name in scaling.DROPPED_OUT], 1)
    assert torch.equal(rates, values.repeat_interleave(24 // tuned, 1))


# ---- models


def test_a_model_finds_the_coefficients_of_its_own_kind():
    shapes = SIZES["small"].distinct_shapes(DIMENSIONS)
    terms, coefficients = time_terms("stn", 4), (0.01, 1e-4, 1e-11, 0, 1e-10, 0, 0, 1e-9)
    true = Model(terms, dict(zip(terms, coefficients, strict=True)))
    seconds = [true(shape) for shape in shapes]
    found = Model.fit(true.terms, shapes, seconds)
    assert min(found.coefficients.values()) >= 0
    assert [found(shape) for shape in shapes] == pytest.approx(seconds, rel=1e-3)
    assert found.errors(shapes, [2 * second for second in seconds]) == pytest.approx((0.5, 0.5), rel=1e-2)


def test_each_rank_sends_every_part_but_one_twice():
    assert [ring_bytes(ranks, 100) for ranks in (1, 2, 4)] == [0, 100, 150]
    points = [AllReduce(ranks, size) for ranks in (2, 4) for size in (10**3, 10**7)]
    found = Model.fit(RING, points, [2 * (p.ranks - 1) * (1e-4 + p.size / p.ranks / 1e9) for p in points])
    assert found.coefficients == pytest.approx({"latency": 1e-4, "bytes": 1e-9})


# ---- the prediction


def test_a_product_is_bound_by_operations_or_bytes():
    cluster = Cluster(flops=100.0, memory_bandwidth=10.0, attained_flops=0.5, attained_bandwidth=1.0)
    large, thin = Product("a", 8, 8, 8, repeats=3, weights=2), Product("b", 1, 8, 8)
    assert scaling_prediction.product_seconds(large, cluster) == max(6 * 2 * 8**3 / 50, 6 * 2 * 3 * 64 / 10)
    assert scaling_prediction.product_seconds(thin, cluster) == max(2 * 64 / 50, 2 * (64 + 16) / 10) == 16


def test_the_all_reduce_takes_the_slowest_link():
    cluster = Cluster(node_bandwidth=4.0, network_bandwidth=1.0, attained_bandwidth=0.5)
    seconds = [scaling_prediction.all_reduce_seconds(TINY, gpus, cluster) for gpus in (1, 8, 16)]
    gradients = 4 * TINY.parameters
    assert seconds == pytest.approx([0, 2 * 7 / 8 * gradients / 2, 2 * 15 / 16 * gradients / 0.5])


@METHODS
def test_a_prediction_of_a_billion_parameters(method):
    assert 1e9 < BILLION.parameters < 1.2e9
    for strong in (False, True):
        rows = scaling_prediction.rows(BILLION, Cluster(), method, strong=strong)
        assert [row.gpus for row in rows] == [1, 2, 4, 8, 16, 32, 64]
        assert rows[0].efficiency == 1 and rows[0].share == 0 and rows[-1].batch == BILLION.batch
        for row in rows:
            assert (
                row.compute_s <= row.overlapped_step_s <= row.step_s == pytest.approx(row.compute_s + row.all_reduce_s)
            )
            assert row.checkpointed_memory_gb < row.memory_gb and 0 < row.efficiency <= row.overlapped_efficiency
            ideal = rows[0].step_s / row.gpus if strong else rows[0].step_s
            assert row.efficiency == pytest.approx(ideal / row.step_s)
    kept = 8 * BILLION.parameters / 1e9  # weights and gradients alone
    assert kept < rows[-1].checkpointed_memory_gb


def test_checkpoints_cost_a_forward_pass():
    plain, again = (scaling_prediction.compute(BILLION, Cluster(), checkpointed=own) for own in (False, True))
    assert again.update == plain.update and 1.1 < again.gradients / plain.gradients < 1.5


# ---- ranks


def test_one_rank_sums_nothing():
    found = DataParallelSteps(TINY, torch.float32, ALONE).measure(1)
    assert found["step_s"] == found["overlapped_s"] == found["alone_s"] > 0
    assert found["reduced_bytes"] == 4 * TINY.parameters


# ---- the command


def test_the_tables_the_figure_and_the_json(tmp_path, capsys, monkeypatch):
    monkeypatch.setitem(SIZES, "quick", replace(SIZES["quick"], ranks=(2,)))
    flags = ["--quick", "--threads", "1", "--out", str(tmp_path / "plot"), "--json", str(tmp_path / "all.json")]
    assert scaling.main(flags) == 0
    found = json.loads((tmp_path / "all.json").read_text())
    numbers = found["float32"]
    assert numbers["time"].keys() == {"stn", "elementary", "response"} and numbers["memory"].keys() == UPDATES.keys()
    assert len(numbers["time"]["stn"]["points"]) == 8
    assert all(point["measured"] > 0 for curve in numbers["time"].values() for point in curve["points"])
    assert all(numbers["ranks"]["steps"]["2"][way] > 0 for way in ("alone_s", "step_s", "overlapped_s"))
    assert (tmp_path / "plot_float32.png").stat().st_size and (tmp_path / "plot_float32.pdf").stat().st_size
    printed = capsys.readouterr().out
    assert all(dimension.label in printed for dimension in DIMENSIONS.values())
    assert "error of the model" in printed and "prediction, not measured" in printed


def test_the_prediction_alone_measures_nothing(capsys):
    assert scaling.main(["--dimensions", "gpus", "--network_bandwidth", "1e9"]) == 0
    printed = capsys.readouterr().out
    assert printed.startswith("prediction") and "to other nodes 1 GB/s" in printed


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--dimensions", "colour"], "invalid choice: 'colour'"),
        (["--attained_flops", "2"], "'2' is not a number above 0 and at most 1"),
        (["--cpu_time"], "add --threads 1"),
        (["--dimensions", "gpus", "--json", "/dev/null/x.json"], "cannot write /dev/null/x.json"),
    ],
)
def test_what_cannot_be_is_said_in_a_line(flags, message, capsys):
    try:
        status = scaling.main(flags)
    except SystemExit as ended:
        status = ended.code
    error = capsys.readouterr().err
    assert status == 2 and message in error and error.count("\n") == 1
