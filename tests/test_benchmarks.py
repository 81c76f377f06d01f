"""The benchmarks run, at sizes too small to measure anything, and write what they say."""

import json
import statistics
from pathlib import Path

import cnn_step
import converted_step
import learning_rates
import lstm_step
import pytest
import step_products
import timing
import torch

from cnn.hyperparameters import names_of
from cnn.models import AlexNet

TINY = lstm_step.Shape(steps=5, batch=4, width=8, types=30)
PEAK_MEMORY = timing.peak_memory
KEYS = {
    "weight_step_s", "hyper_step_s", "matmul_s", "oracle_step_s", "plain_lstm_step_s", "eval_s", "eval_matmul_s",
    "eval_tokens_per_s", "train_tokens_per_s", "peak_rss_mib", "best_matmul_s", "tuned_steps_s", "fixed_steps_s",
    "step_flops", "best_rate_gflops", "weight_step_over_best", "delta_weight_step_s", "delta_hyper_step_s",
    "delta_peak_rss_mib",
}  # fmt: skip


@pytest.fixture(autouse=True)
def tiny(monkeypatch):
    threads = torch.get_num_threads()
    monkeypatch.setattr(lstm_step, "PAPER", TINY)
    monkeypatch.setattr(timing, "keep_freed_memory", lambda: None)  # it is for the whole process
    monkeypatch.setattr(timing, "peak_memory", lambda *_, **__: 100.0)
    monkeypatch.setattr(AlexNet, "CHANNELS", (3, 4, 5, 6, 5, 4))
    monkeypatch.setattr(AlexNet, "FULLY_CONNECTED", (4 * 2 * 2, 8, 7))
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
    """336 GFLOP at paper size, two for each multiplication and addition; tests/test_scaling.py counts a step's."""
    assert lstm_step.Shape().product_flops() == pytest.approx(336e9, rel=0.01)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_every_routine_computes_the_product(dtype):
    there = step_products.by_routine(TINY.products(), dtype)
    assert {step_products.AS_DONE, "plain"} <= {name for _, name in there}
    for product in TINY.products():
        x, weight = product.factors(dtype)
        assert x.shape == (product.rows, product.inner) and weight.shape == (product.columns, product.inner)
        assert x.is_contiguous() != product.gradient
        expected = x.double() @ weight.double().T
        for name, routine in {step_products.AS_DONE: product.as_done, **step_products.ROUTINES}.items():
            if (product, name) not in there:
                continue
            found = routine(weight, product.rows)(x)
            found = found.T if name.endswith("swapped") else found
            torch.testing.assert_close(found, expected.to(dtype))


def test_a_routine_that_raises_is_left_out(monkeypatch, capsys):
    def missing(*_):
        raise RuntimeError("not in this build")

    monkeypatch.setitem(step_products.ROUTINES, "MKL packed", missing)
    lstm_step.main(["--products", "--rounds", "1", "--dtype", "float32"])
    heading, families, orders, *lines = capsys.readouterr().out.splitlines()[1:]
    assert heading == "float32, GFLOP/s" and "MKL" in families and "swapped" in orders
    assert len(lines) == 8 and all(line.split().count("-") == 1 for line in lines)


def test_the_best_is_that_of_a_large_product():
    large, small = step_products.Product("a", 1, 1, 1), step_products.Product("b", 1, 1, 1, large=False)
    seconds = {(large, "plain"): [9.0, 2.0, 3.0], (large, "oneDNN"): [1.0, 4.0, 4.0], (small, "plain"): [1.0] * 3}
    assert step_products.best(seconds) == (large, "plain")


def test_the_profile_is_a_table_of_operators(capsys):
    lstm_step.main(["--profile", "--dtype", "float32"])
    printed = capsys.readouterr().out
    assert "Self CPU time total" in printed and "_RecurrenceBackward" in printed


def test_the_image_classifiers_table_and_its_json(tmp_path, capsys):
    cnn_step.main(["--rounds", "2", "--threads", "1", "--batch", "2", "--json", str(tmp_path / "times.json")])
    found = json.loads((tmp_path / "times.json").read_text())
    keys = {"plain_step_s", "weight_step_s", "augmentation_s", "hyper_step_s", "peak_rss_mib"}
    keys |= {"delta_weight_step_s", "delta_hyper_step_s", "delta_peak_rss_mib"}
    assert found["float32"].keys() == found["bfloat16"].keys() == keys
    assert all(value > 0 for times in found.values() for value in times.values())
    printed = capsys.readouterr().out
    assert "15 tuned; 1 threads" in printed and all(printed.count(label) == 2 for label in cnn_step.RATIOS)


@pytest.mark.parametrize(
    ("script", "network", "flags"),
    [(lstm_step, "AWDLSTM", ["--width", "6"]), (cnn_step, None, ["--batch", "2", "--width", "0.5"])],
)
def test_checkpointed_steps_beside_others(tmp_path, monkeypatch, capsys, script, network, flags):
    made = []

    def made_with(network):
        return lambda *args, **options: made.append(options["checkpoint_activations"]) or network(*args, **options)

    if network:
        monkeypatch.setattr(script, network, made_with(getattr(script, network)))
    else:
        monkeypatch.setitem(script.MODELS, "alexnet", made_with(AlexNet))
    file = tmp_path / "costs.json"
    common = ["--checkpoint_activations", "--rounds", "2", "--threads", "1", "--dtype", "float32", "--json", str(file)]
    monkeypatch.setattr(timing, "peak_memory", lambda *_, checkpointed, **__: 200.0 - 50 * checkpointed)
    script.main([*common, *flags])
    names = [f"{method}{own}" for method in ("", "delta_") for own in ("weight_step_s", "hyper_step_s", "peak_rss_mib")]
    found = json.loads(file.read_text())["float32"]
    assert found.keys() == {*names, *(f"checkpointed_{name}" for name in names)}
    assert min(found.values()) > 0 and found["checkpointed_peak_rss_mib"] == 150
    assert made == [False, True, False, True]
    printed = capsys.readouterr().out
    assert "delta_hyper_step, checkpointed / kept" in printed and printed.count("150                0.75") == 2


def test_what_is_timed_are_steps_on_a_batch(monkeypatch):
    """The weight step without augmentation, which is timed by itself; both networks of one size."""
    subject, plain = cnn_step.Subject(torch.float32, 4), cnn_step.Plain(torch.float32, 4)
    augmented = []
    monkeypatch.setattr("cnn.task.augmented", lambda *args: augmented.append(args))
    steps = {subject.weight_step: subject.task.model, plain.step: plain.model, subject.hyper_step: subject.hyper}
    for step, module in steps.items():
        before = [weight.detach().clone() for weight in module.parameters() if weight.requires_grad]
        step()
        after = [weight for weight in module.parameters() if weight.requires_grad]
        moved = [not torch.equal(one, other) for one, other in zip(before, after, strict=True)]
        assert moved[0] if step == subject.hyper_step else all(moved)
    assert augmented == [] and {stream.position for stream in subject.task.streams.values()} == {4}
    assert subject.hyper.num_tuned == len(names_of("alexnet")) == 15
    own = [w for n, w in subject.task.model.named_parameters() if n.rsplit(".", 1)[1] in ("weight", "bias")]
    assert [weight.shape for weight in own] == [weight.shape for weight in plain.model.parameters()]


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_the_peak_is_said(dtype, capsys):
    cnn_step.main(["--peak", dtype, "--batch", "2", "--threads", "1"])
    mib = float(capsys.readouterr().out)
    status = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines())
    assert mib == pytest.approx(int(status["VmHWM"].split()[0]) / 1024, rel=0.05)


# Timing


def test_all_is_timed_in_turn_after_a_round_to_warm_up(monkeypatch):
    clock = iter(range(1000))
    monkeypatch.setattr(timing.time, "perf_counter", lambda: next(clock))
    ran = []

    def slow():
        ran.append("slow")
        for _ in range(3):
            next(clock)

    seconds = timing.interleaved({"slow": slow, "fast": lambda: ran.append("fast")}, 2)
    assert ran == ["slow", "fast"] * 3
    assert seconds == {"slow": [4, 4], "fast": [1, 1]}


def test_quartiles():
    assert timing.quartiles([1.5]) == (1.5, 1.5, 1.5)
    values = [5.0, 1.0, 4.0, 2.0, 3.0]
    assert timing.quartiles(values) == (1.5, statistics.median(values), 4.5)


def test_a_ratio_is_the_median_of_the_rounds_ratios():
    """Not the ratio of medians, which is 1 here."""
    seconds = {"a": [1.0, 2.0, 9.0], "b": [2.0, 1.0, 3.0]}
    ratios = {"a / b": ("a", "b", 2.5, None), "a / c": ("a", "c", 1.0, 1.0)}
    lines = timing.table("float32", seconds, ratios)
    assert lines[0] == "float32" and len(lines) == 6
    assert lines[2].split() == ["a", "2.000", "s", "1.000", "to", "9.000", "s"]
    assert lines[-1].split() == ["a", "/", "b", "2.00", "0.50", "to", "3.00", "<=", "2.5"]
    assert timing.table("bfloat16", seconds, ratios)[-1].split()[-1] == "3.00"


def test_peak_lines():
    peaks = {"peak_rss_mib": 1234.4, "delta_peak_rss_mib": 1500.0}
    lines = [line.split() for line in timing.peak_lines(peaks, 1536)]
    assert lines == [["peak_rss_mib", "1,234", "<=", "1536"], ["delta_peak_rss_mib", "1,500", "<=", "1975"]]
    assert timing.peak_lines(peaks, None)[0].split() == ["peak_rss_mib", "1,234"]


def test_peak_memory_is_that_of_a_process_of_its_own(tmp_path):
    script = tmp_path / "script.py"
    flags = ["--peak", "bfloat16", "--batch=8", "--threads=1"]
    script.write_text(f"import sys\nassert sys.argv[1:] == {flags}\nprint(12.5)\n")
    assert PEAK_MEMORY(script, "bfloat16", batch=8, threads=1) == 12.5
    for others in ({"batch": 8, "threads": None}, {"threads": 1}):
        with pytest.raises(RuntimeError, match="AssertionError"):
            PEAK_MEMORY(script, "bfloat16", **others)


@pytest.mark.filterwarnings("ignore:training does not read")
def test_the_converted_networks_table(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(converted_step, "TYPES", 20)
    monkeypatch.setattr(converted_step, "WIDTH", 2)
    monkeypatch.setattr(converted_step.transformer, "BATCH", 2)
    monkeypatch.setattr(converted_step.transformer, "CONTEXT", 4)
    monkeypatch.setattr(converted_step.resnet, "BATCH", 2)
    converted_step.main(["--rounds", "2", "--threads", "1", "--json", str(tmp_path / "times.json")])
    found = json.loads((tmp_path / "times.json").read_text())
    assert found.keys() == {"gpt", "resnet"}
    assert all(value > 0 for network in found.values() for times in network.values() for value in times.values())
    printed = capsys.readouterr().out
    assert all(printed.count(f"  {label}  ") == 4 for label in converted_step.RATIOS)
    converted_step.main(["--peak", "float32", "--network", "resnet", "--threads", "1", "--delta", "2"])
    assert float(capsys.readouterr().out) > 100


def test_the_learning_rates_table(tmp_path, capsys):
    flags = ["--network", "lenet", "--batch_size", "2", "--threads", "1"]
    learning_rates.main([*flags, "--rounds", "2", "--json", str(tmp_path / "times.json")])
    found = json.loads((tmp_path / "times.json").read_text())
    assert found.keys() == {"lenet"} and found["lenet"].keys() == {"float32", "bfloat16"}
    keys = {f"{rate}_{unit}" for rate in learning_rates.RATES for unit in ("step_s", "peak_rss_mib")}
    assert all(times.keys() == keys and min(times.values()) > 0 for times in found["lenet"].values())
    printed = capsys.readouterr().out
    assert all(printed.count(f"  {label}  ") == 2 for label in learning_rates.RATIOS)
    learning_rates.main([*flags, "--peak", "bfloat16", "--delta", "2"])
    assert float(capsys.readouterr().out) > 100


def test_hypergradients_are_computed_and_move_nothing():
    subjects = {rate: learning_rates.Subject("lenet", torch.float32, 2, rate) for rate in learning_rates.RATES}
    for subject in subjects.values():
        for _ in range(3):
            subject.step()
    constant = subjects.pop(learning_rates.CONSTANT).task.model.state_dict()
    for rate, subject in subjects.items():
        assert subject.rate.slope != 0 and subject.rate.value == learning_rates.LR
        assert getattr(subject.rate, "way", "") == {"hd": "", "marthe_first_order": "none"}.get(rate, rate[7:])
        if rate == "hd":  # the others shuffle validation images too
            torch.testing.assert_close(subject.task.model.state_dict(), constant)


def test_relative_peak_lines():
    lines = timing.relative_peak_lines({"plain": 1000.0, "tuned": 2300.4}, "plain", {"tuned": 2.2})
    assert [line.split() for line in lines] == [["plain", "1,000", "1.00"], ["tuned", "2,300", "2.30", "<=", "2.2"]]
