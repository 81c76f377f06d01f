"""The benchmarks run, at sizes too small to measure anything, and write what they say."""

import json
from dataclasses import replace

import cost_model
import loss_curves
import lstm_step
import numpy
import pandas
import pytest
import torch

TINY = lstm_step.Shape(steps=5, batch=4, width=8, types=30)
KEYS = {
    "weight_step_s", "hyper_step_s", "matmul_s", "oracle_step_s", "plain_lstm_step_s", "eval_s", "eval_matmul_s",
    "eval_tokens_per_s", "train_tokens_per_s", "peak_rss_mib",
}  # fmt: skip


@pytest.fixture(autouse=True)
def tiny(monkeypatch):
    threads = torch.get_num_threads()
    monkeypatch.setattr(lstm_step, "PAPER", TINY)
    monkeypatch.setattr(lstm_step, "keep_freed_memory", lambda: None)  # it is for the whole process
    monkeypatch.setattr(lstm_step, "peak_memory", lambda _: 100.0)
    sweeps = {"steps": (2, 5, 9), "batch": (4, 8), "width": (8, 16), "tuned": (1, 7), "types": (30, 60)}
    monkeypatch.setattr(cost_model, "SWEEPS", sweeps)
    yield
    torch.set_num_threads(threads)


def test_the_table_and_its_json(tmp_path, capsys):
    lstm_step.main(["--rounds", "2", "--threads", "1", "--json", str(tmp_path / "times.json")])
    found = json.loads((tmp_path / "times.json").read_text())
    assert found["float32"].keys() == KEYS and found["bfloat16"].keys() == KEYS - {"oracle_step_s"}
    assert all(value > 0 for times in found.values() for value in times.values())
    printed = capsys.readouterr().out
    for label in lstm_step.RATIOS:
        assert label in printed


def test_products_are_those_of_the_step():
    """336 GFLOP at paper size, two for each multiplication and addition."""
    products = lstm_step.weight_products(lstm_step.Shape(), torch.float32)
    flop = sum(2 * a.shape[0] * a.shape[1] * b.shape[1] for a, b in (call.args for call in products.calls))
    assert flop == pytest.approx(336e9, rel=0.01)


def test_the_sweep_and_its_plot(tmp_path, capsys):
    lstm_step.main(["--sweep", "--rounds", "1", "--dtype", "float32", "--out", str(tmp_path / "plot")])
    assert (tmp_path / "plot_float32.png").stat().st_size and (tmp_path / "plot_float32.pdf").stat().st_size
    assert "median error of the model" in capsys.readouterr().out


def test_the_cost_model_finds_the_coefficients_of_its_own_kind():
    shapes = [
        replace(lstm_step.Shape(), **{name: value})
        for name, values in {**cost_model.SWEEPS, "width": (100, 300, 900), "types": (100, 30_000)}.items()
        for value in values
    ]
    true = numpy.array([0.01, 1e-3, 2e-10, 3e-12, 0, 5e-9, 0])
    seconds = [cost_model.predict(shape, true) for shape in shapes]
    found = cost_model.fit(shapes, seconds)
    assert (found >= 0).all()
    assert [cost_model.predict(shape, found) for shape in shapes] == pytest.approx(seconds, rel=1e-3)


def test_the_profile_is_a_table_and_a_tree(capsys):
    lstm_step.main(["--profile", "--dtype", "float32"])
    printed = capsys.readouterr().out
    assert "Self CPU time total" in printed and "_RecurrenceBackward" in printed and "#" in printed


def test_loss_curves_of_both_types(tmp_path, monkeypatch):
    monkeypatch.setattr(loss_curves, "PAPER", TINY)
    loss_curves.main(["--steps", "12", "--data", "builtin", "--out", str(tmp_path / "new" / "curves")])
    table = pandas.read_csv(tmp_path / "new" / "curves.csv", index_col="step")
    assert len(table) == 12 and list(table) == ["float32", "bfloat16"]
    difference = (table["float32"] - table["bfloat16"]).abs()
    assert 0 < difference[0] < 1e-2 and difference.max() < 0.5
    assert (tmp_path / "new" / "curves.png").stat().st_size


def test_products_of_rounded_are_those_of_bfloat16():
    a, b = torch.randn(30, 200).bfloat16(), torch.randn(200, 40).bfloat16()
    out = torch.empty(30, 40, dtype=torch.bfloat16)
    with loss_curves.ProductsOfRounded():
        product = a @ b
        torch.mm(a, b, out=out)
    assert product.dtype == torch.bfloat16 and product.equal(out)
    torch.testing.assert_close(product.double(), a.double() @ b.double(), rtol=2**-8, atol=1e-5)
    assert not torch.equal(product.float(), a.float() @ b.float())
