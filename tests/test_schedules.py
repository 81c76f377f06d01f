import csv
import math

import numpy
import pytest

from stn.errors import UserError
from stn.schedules import Constant, Gaussian, Replay, Schedule, Sinusoid, read_schedule

WIDE = (-100.0, 100.0)
RATE = (0.0, 0.99)
RANGES = {"alpha": (0, math.inf), "dropouto": (0, 1)}


def values(schedule, steps):
    return numpy.array([schedule.at(step, 0) for step in range(steps)])


def test_every_source_is_a_schedule():
    for source in (Constant(1.0), Gaussian(0, 1, WIDE, (1,)), Sinusoid(0, 1, 2, WIDE), Replay("epoch", [0], [1.0])):
        assert isinstance(source, Schedule)


def test_constant():
    assert {Constant(0.3).at(step, epoch) for step in (0, 7) for epoch in (0, 9)} == {0.3}


# Gaussian


def test_gaussian_noise_is_normal_and_independent():
    noise = (values(Gaussian(0.6, 0.05, WIDE, (3, 1)), 20_000) - 0.6) / 0.05
    # The empirical distribution against the normal's: Kolmogorov-Smirnov, at a level of about 1e-4.
    ranks = numpy.arange(1, len(noise) + 1) / len(noise)
    normal = numpy.array([0.5 * math.erfc(-x / math.sqrt(2)) for x in numpy.sort(noise)])
    assert abs(ranks - normal).max() < 2.23 / math.sqrt(len(noise))
    for lag in (1, 2, 330):
        assert abs(numpy.mean(noise[lag:] * noise[:-lag])) < 4 / math.sqrt(len(noise))


def test_gaussian_noise_is_a_function_of_seed_and_step():
    schedule = Gaussian(0.6, 0.1, WIDE, (3, 1))
    assert schedule.at(17, 0) == schedule.at(17, 5) == Gaussian(0.6, 0.1, WIDE, (3, 1)).at(17, 0)
    for other in ((3, 2), (4, 1)):
        noise = values(schedule, 5000), values(Gaussian(0.6, 0.1, WIDE, other), 5000)
        assert abs(numpy.corrcoef(*noise)[0, 1]) < 4 / math.sqrt(5000)


def test_gaussian_noise_is_clipped_not_redrawn():
    found = values(Gaussian(0.9, 0.1, RATE, (0,)), 20_000)
    assert found.min() >= 0 and found.max() == 0.99
    beyond = 0.5 * math.erfc(0.9 / math.sqrt(2))  # P(0.9 + 0.1 ε > 0.99)
    assert abs((found == 0.99).mean() - beyond) < 4 * math.sqrt(beyond / len(found))
    assert values(Gaussian(0.0, 0.1, RATE, (0,)), 100).min() == 0


# Sinusoid


@pytest.mark.parametrize("period", [330, 1200, 7.5])
def test_sinusoid_has_the_period_it_was_given(period):
    """Its spectrum has one line, at the period in mini-batches (2π times as fast was published)."""
    steps = int(period * 10)
    spectrum = abs(numpy.fft.rfft(values(Sinusoid(0.5, 0.1, period, WIDE), steps) - 0.5)) / steps
    assert spectrum.argmax() == steps / period == 10
    assert spectrum[10] == pytest.approx(0.05) and numpy.delete(spectrum, 10).max() < 1e-9


def test_sinusoid_starts_at_its_mean_and_rises_by_its_amplitude():
    found = values(Sinusoid(0.5, 0.1, 1200, WIDE), 1200)
    assert found[0] == 0.5 and found.argmax() == 300 and found.argmin() == 900
    assert found[300] == pytest.approx(0.6) and found[900] == pytest.approx(0.4)


def test_sinusoid_starts_its_phase_into_the_period():
    turns = numpy.arange(1200) / 1200
    for phase in (0.25, 0.7):
        expected = 0.5 + 0.1 * numpy.sin(2 * numpy.pi * (turns + phase))
        assert values(Sinusoid(0.5, 0.1, 1200, WIDE, phase), 1200) == pytest.approx(expected)


def test_sinusoid_keeps_its_phase_far_out():
    schedule = Sinusoid(0.5, 0.1, 1200, WIDE)
    assert schedule.at(300 + 1200 * 10**9, 0) == schedule.at(300, 0)


def test_sinusoid_is_clipped():
    found = values(Sinusoid(0.9, 1.0, 40, RATE), 40)
    assert found.min() == 0 and found.max() == 0.99


# Replay


def test_replay_by_epoch_holds_each_value_for_its_epoch_and_the_last_for_ever():
    schedule = Replay("epoch", [1, 2, 4], [0.1, 0.2, 0.4])
    assert [schedule.at(99, epoch) for epoch in range(7)] == [0.1, 0.1, 0.2, 0.2, 0.4, 0.4, 0.4]


def test_replay_by_step_interpolates_and_holds_the_ends():
    schedule = Replay("step", [2, 4, 8], [0.1, 0.3, 0.1])
    expected = [0.1, 0.1, 0.1, 0.2, 0.3, 0.25, 0.2, 0.15, 0.1, 0.1]
    assert values(schedule, 10) == pytest.approx(expected)


@pytest.fixture
def table(tmp_path):
    """table(text): a file of this text."""

    def write(text):
        path = tmp_path / "epoch.csv"
        path.write_bytes(text if isinstance(text, bytes) else text.encode())
        return path

    return write


def test_reads_an_epoch_csv(table):
    header = "epoch,time,train_loss,val_loss,train_ppl,val_ppl,alpha,dropouto,alpha_scale,dropouto_scale,lr"
    path = table(f"{header}\n0,1,2,3,4,inf,1.5,0.25,9,9,30\n1,1,2,3,4,5,2.5,0.5,9,9,30\n")
    schedules = read_schedule(path, RANGES)
    assert {name: [schedule.at(0, epoch) for epoch in range(3)] for name, schedule in schedules.items()} == {
        "alpha": [1.5, 2.5, 2.5],
        "dropouto": [0.25, 0.5, 0.5],
    }


def test_reads_a_val_csv_where_the_last_of_several_hyperparameter_steps_counts(table):
    path = table("global_step,time,dropouto,train_step\n2,1,0.3,1\n4,1,0.1,2\n5,1,0.2,2\n8,1,0.4,4\n")
    schedule = read_schedule(path, RANGES)["dropouto"]
    assert values(schedule, 6) == pytest.approx([0.3, 0.3, 0.2, 0.3, 0.4, 0.4])


def test_reads_a_tuned_learning_rate_by_epoch(table):
    """One that is merely decayed is left out, as the test above has it."""
    path = table("epoch,alpha,lr,hyper_lr,mu\n0,1.5,0.5,1e-3,0.9\n1,2.5,0.25,1e-3,0.8\n")
    schedules = read_schedule(path, RANGES)
    assert {*schedules} == {"alpha", "lr"}
    assert [schedules["lr"].at(0, epoch) for epoch in range(3)] == [0.5, 0.25, 0.25]


def test_reads_a_tuned_learning_rate_alone_by_weight_step(table):
    path = table("global_step,time,loss,acc,lr,hyper_lr,mu,train_step\n2,1,3,0.5,0.5,1e-3,0.9,2\n4,2,3,0.5,0.1,0,1,4\n")
    schedules = read_schedule(path, RANGES)
    assert {*schedules} == {"lr"} and schedules["lr"].by == "step"
    assert values(schedules["lr"], 6) == pytest.approx([0.5, 0.5, 0.5, 0.3, 0.1, 0.1])


def test_a_byte_order_mark_does_no_harm(table):
    assert read_schedule(table("\ufeffepoch,alpha\n0,1\n"), RANGES)["alpha"].at(0, 0) == 1


def test_goes_by_weight_step_where_it_can(table):
    path = table("epoch,dropouto,train_step\n0,0.1,2\n0,0.2,4\n")
    assert read_schedule(path, RANGES)["dropouto"].by == "step"


def test_numbers_read_back_exactly(table):
    numbers = numpy.random.default_rng(0).random(50).tolist()
    path = table("")
    with path.open("w", newline="") as file:
        csv.writer(file).writerows([["epoch", "dropouto"], *enumerate(numbers)])
    schedule = read_schedule(path, RANGES)["dropouto"]
    assert [schedule.at(0, epoch) for epoch in range(50)] == numbers


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "no row of values"),
        ("epoch,dropouto\n", "no row of values"),
        ("epoch,dropouto\n0,0.5\n1,0.4", "ends in the middle of a line"),
        ("epoch,dropouto\n0,0.5\n1\n", "line 3: 1 cells under a header of 2"),
        ("epoch,dropouto\n0,half\n", "line 2: dropouto 'half' is not a number in [0, 1)"),
        ("epoch,dropouto\n0,nan\n", "line 2: dropouto 'nan' is not"),
        ("epoch,dropouto\n0,1\n", "line 2: dropouto '1' is not"),
        ("epoch,alpha\n0,inf\n", "line 2: alpha 'inf' is not a number in [0, inf)"),
        ("epoch,alpha\n0,-1\n", "line 2: alpha '-1' is not"),
        ("epoch,alpha\nfirst,1\n", "line 2: epoch 'first' is not"),
        ("epoch,alpha\n1,1\n1,1\n", "line 3: epoch 1 does not come after"),
        ("train_step,alpha\n2,1\n1,1\n", "line 3: train_step 1 does not come after"),
        ("epoch,alpha,alpha\n0,1,1\n", "names a column twice"),
        ("epoch,dropout\n0,0.5\n", "column 'dropout', which is no hyperparameter here"),
        ("epoch,alpha,gamma_scale\n0,1,1\n", "column 'gamma_scale'"),
        ("epoch,lr\n0,30\n", "no column of any hyperparameter"),
        ("epoch,lr,hyper_lr\n0,-1,1\n", "line 2: lr '-1' is not a number in [0, inf)"),
        ("epoch,lr,hyper_lr\n0,inf,1\n", "line 2: lr 'inf' is not"),
        ("epoch,hyper_lr,mu\n0,1,1\n", "no column of any hyperparameter"),
        *(
            (text, word)
            for text in ("epoch,lr\n0,30\n", b"\xff", 'epoch,alpha\n0,"1\n')
            for word in (" epoch.csv", " val.csv", " valid.csv")
        ),
        ("time,alpha\n0,1\n", "no column of epoch and train_step"),
        ("epoch,alpha\n0,0.5\n".encode("utf-16"), "not UTF-8"),
        (b"epoch,alpha\n0,\xff\n", "not UTF-8"),
        ('epoch,alpha\n0,"1\n', "line 2: "),
    ],
)
def test_what_is_no_schedule_is_named(table, text, words):
    path = table(text)
    with pytest.raises(UserError) as refusal:
        read_schedule(path, RANGES)
    assert words in str(refusal.value) and str(path) in str(refusal.value)
    assert "\n" not in str(refusal.value)


def test_a_folder_is_no_schedule(tmp_path):
    with pytest.raises(UserError, match="cannot read"):
        read_schedule(tmp_path, RANGES)


def test_str_says_what_it_does(table):
    path = table("epoch,alpha\n0,1\n4,2\n")
    assert str(read_schedule(path, RANGES)["alpha"]) == f"replayed by epoch from {path}, held from epoch 4 on"
    assert str(Gaussian(0.68, 0.05, RATE, (0,))) == (
        "0.68 with Gaussian noise of standard deviation 0.05 for each mini-batch"
    )
    assert str(Sinusoid(0.68, 0.1, 1200, RATE)) == (
        "0.68 with a sinusoid of amplitude 0.1 and period 1200 mini-batches"
    )
