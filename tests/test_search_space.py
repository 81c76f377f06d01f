"""Where a search looks for hyperparameters: ranges, their scales, and what each sampler makes of them."""

import math
from itertools import product

import numpy
import optuna
import pytest
from lstm_runs import values_of
from scipy import stats

from cnn import search as cnn_search
from cnn import train_basic as cnn_basic
from cnn.hyperparameters import TABLE as CNN_TABLE
from cnn.models import MODELS
from lstm import search as lstm_search
from lstm import train_basic as lstm_basic
from lstm.hyperparameters import TABLE as LSTM_TABLE
from stn.scripts.search import range_of
from stn.search import studies
from stn.search.space import Range, between, described, suggest

LINEAR, LOG, WHOLE = Range(-2.0, 3.0), Range(0.01, 10.0, log=True), Range(0, 3, whole=True)
SPACE = {"linear": LINEAR, "log": LOG, "whole": WHOLE}
TABLES = {"lstm": LSTM_TABLE, "cnn": CNN_TABLE}


@pytest.mark.parametrize("own", [LINEAR, LOG])
def test_a_place_and_its_value_say_the_same(own):
    for place in numpy.linspace(0, 1, 41):
        assert own.place(own.at(place)) == pytest.approx(place, abs=1e-12)
    assert own.at(0) == pytest.approx(own.low) and own.at(1) == pytest.approx(own.high)


def test_the_scale_of_a_logarithmic_range_is_that_of_exponents():
    assert [LOG.at(third / 3) for third in range(4)] == pytest.approx([0.01, 0.1, 1.0, 10.0])


def test_whole_numbers_have_equal_parts():
    values = [WHOLE.at(place) for place in numpy.arange(400) / 400]
    assert [values.count(number) for number in range(4)] == [100] * 4
    assert all(isinstance(value, int) for value in values) and WHOLE.at(1.0) == 3
    assert [WHOLE.at(WHOLE.place(number)) for number in range(4)] == [0, 1, 2, 3]


def test_no_value_leaves_its_range_where_a_logarithm_is_rounded():
    """exp(log(10)) is more than 10."""
    assert math.exp(math.log(10.0)) > 10.0
    for low, high in product((0.01, 0.3, 1e-7), (10.0, 0.7, 99.9)):
        own = Range(low, high, log=True)
        assert own.at(0.0) >= low and own.at(1.0) <= high
        for place in (0.0, 1.0):
            assert own.distribution._contains(own.at(place))


@pytest.mark.parametrize("ends", [(1, 0), (1, 1), (0, math.inf), (math.nan, 1)])
def test_an_impossible_range_is_refused(ends):
    with pytest.raises(ValueError, match="cannot be searched"):
        Range(*ends)


def test_a_logarithmic_range_from_zero_is_refused():
    with pytest.raises(ValueError, match="cannot be searched"):
        Range(0.0, 1.0, log=True)


def test_grid_points_are_in_the_middles_of_equal_parts():
    assert LINEAR.grid(5) == pytest.approx([-1.5, -0.5, 0.5, 1.5, 2.5])
    assert LOG.grid(3) == pytest.approx([10**-1.5, 10**-0.5, 10**0.5])
    assert WHOLE.grid(4) == WHOLE.grid(9) == [0, 1, 2, 3] and WHOLE.grid(2) == [1, 3]


def test_an_open_end_is_kept_off_and_a_discrete_range_ends_before_it():
    rate = between(0.0, 0.9, None, whole=False)
    assert (rate.low, rate.high, rate.log) == (0.0, pytest.approx(0.891), False)
    assert between(0.0, 4.0, None, whole=True) == Range(0, 3, whole=True)
    assert between(0.0, math.inf, (0.1, 5.0), whole=False) == Range(0.1, 5.0, log=True)


@pytest.mark.parametrize("experiment", TABLES)
def test_every_hyperparameter_has_a_finite_range(experiment):
    for name, declared in TABLES[experiment].items():
        own = range_of(declared)
        assert own.finite and own.whole == declared.discrete, name
        assert own.log == math.isinf(declared.range[1])
        for value in (own.low, own.high):
            assert declared.possible[0] <= value < declared.possible[1]


@pytest.mark.parametrize(("experiment", "basic"), [(lstm_search, lstm_basic), (cnn_search, cnn_basic)])
def test_the_scripts_own_flags_accept_what_is_proposed(experiment, basic):
    """Each end and middle, as a string on the command line; the sources of a run have it as given."""
    script = experiment.EXPERIMENT.script
    for flags in [f"--model {model}" for model in MODELS] + ["--recipe delta_stn"] if basic is cnn_basic else [""]:
        values = values_of(basic, f"--data builtin {flags}")
        names = [*script.sources(values), *experiment.EXPERIMENT.asked]
        own = experiment.EXPERIMENT.space(names, values)
        for place in (0.0, 0.5, 1.0):
            values = {name: one.at(place) for name, one in own.items()}
            fixed = " ".join(f"--{script.table[name].fix} {value}" for name, value in values.items())
            constants = basic.sources(values_of(basic, f"--data builtin {flags} {fixed}"))
            assert {name: constants[name].value for name in names} == values


@pytest.mark.parametrize(
    ("flags", "rate", "lengths", "holes"),
    [
        ("", 0.9, (0, 23), (0, 3)),
        ("--recipe delta_stn", 0.95, (2, 23), (0, 4)),
        ("--model simple_cnn", 0.95, (2, 23), (0, 4)),
        ("--model vgg16", 0.95, (2, 23), (0, 4)),
        ("--model mlp", 0.95, None, None),
    ],
)
def test_image_classifiers_are_searched_where_they_are_tuned(flags, rate, lengths, holes):
    values = values_of(cnn_basic, f"--data builtin {flags}")
    space = cnn_search.EXPERIMENT.space([*cnn_basic.sources(values), "wdecay"], values)
    rates = [own for name, own in space.items() if name.startswith(("dropout", "fcdropout", "indropout2d"))]
    assert rates and all((own.low, own.high) == (0, pytest.approx(0.99 * rate)) for own in rates)
    for name, ends in (("cutlength", lengths), ("cutholes", holes)):
        assert space.get(name) == (ends and Range(*ends, whole=True))
    assert space["wdecay"] == Range(1e-6, 1e-2, log=True)


def proposals(sampler, count, told=lambda _: 0.0, space=SPACE, **options):
    """What a sampler proposes for so many trials, each sampled anew, as workers do."""
    study, found = optuna.create_study(), []

    def run(trial):
        found.append(suggest(trial, space))
        return told(found[-1])

    for number in range(count):
        study.sampler = studies.make_sampler(sampler, (7, number), space, **options)
        study.optimize(run, n_trials=1)
    return found


def test_random_trials_are_uniform_on_each_scale():
    found = proposals("random", 400)
    for name in ("linear", "log"):
        places = [SPACE[name].place(values[name]) for values in found]
        assert stats.kstest(places, "uniform").pvalue > 0.01
        assert abs(numpy.corrcoef(places[1:], places[:-1])[0, 1]) < 0.15
    counts = [sum(values["whole"] == number for values in found) for number in range(4)]
    assert stats.chisquare(counts).pvalue > 0.01
    assert all(isinstance(values["whole"], int) for values in found)
    assert abs(stats.spearmanr([v["linear"] for v in found], [v["log"] for v in found]).statistic) < 0.15


def test_the_draws_of_a_population_are_uniform_too():
    random = numpy.random.default_rng(3)
    for own in (LINEAR, LOG):
        assert stats.kstest([own.place(own.draw(random)) for _ in range(400)], "uniform").pvalue > 0.01


@pytest.mark.parametrize("sampler", ["tpe", "gp"])
def test_a_model_based_sampler_stays_within_the_ranges_and_nears_the_best(sampler):
    """The loss is lowest at log = 1, linear = 1: what is proposed after the start lies nearer than at random."""

    def loss(values):
        return math.log10(values["log"]) ** 2 + (values["linear"] - 1) ** 2

    found = proposals(sampler, 24, loss, startup_trials=8)
    for values in found:
        assert all(own.low <= values[name] <= own.high for name, own in SPACE.items())
        assert isinstance(values["whole"], int)
    losses = [loss(values) for values in found]
    assert numpy.median(losses[8:]) < 0.5 * numpy.median(losses[:8])


def test_a_grid_has_each_point_once():
    found = proposals("grid", 2 * 3 * 3, space={**SPACE, "linear": Range(0, 1, whole=True)}, grid_points=3)
    points = {tuple(sorted(values.items())) for values in found}
    assert len(points) == 2 * 3 * 3
    assert {values["log"] for values in found} == {*LOG.grid(3)}


def test_large_seeds_are_seeds():
    for sampler in ("grid", "random", "tpe", "gp"):
        studies.make_sampler(sampler, (2**63 - 1, 10**6), SPACE)


def test_the_seed_and_the_trial_tell_draws_apart():
    seeds = {studies.mixed((seed, number)) for seed in range(20) for number in range(50)}
    assert len(seeds) == 1000


def test_a_space_is_described_in_plain_values():
    assert described(SPACE)["log"] == [0.01, 10.0, True, False]
