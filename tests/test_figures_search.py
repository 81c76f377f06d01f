"""Figures of a search: what they show, and that it can be read, with many trials, one, or none."""

from itertools import pairwise

import numpy
import pytest
from figure_runs import assert_in_view, assert_legible, panels
from search_runs import SPACE, study_of, trial
from test_search_history import mixed_study

from cnn.hyperparameters import TABLE, names_of
from stn.figures import search as figures
from stn.scripts.search import range_of
from stn.search.history import importances
from stn.search.space import Range

WORDS = {"rate": "output dropout", "penalty": "temporal activation regularization"}


def many(count=60):
    random = numpy.random.default_rng(1)
    return study_of(*[trial([4 + r, 3 + r], rate=r, penalty=10 ** random.uniform(-2, 1)) for r in random.random(count)])


def assert_on_the_page(figure):
    """All text lies on the figure."""
    figure.draw_without_rendering()
    for axes in panels(figure):
        box = axes.get_tightbbox()
        page = figure.bbox.padded(1)
        assert page.contains(box.x0, box.y0) and page.contains(box.x1, box.y1)


@pytest.mark.parametrize("study", [study_of(), study_of(trial([2.0])), mixed_study(), many()])
def test_the_curve_shows_the_best_so_far(study):
    figure = figures.best_so_far(study, "steps")
    (axes,) = panels(figure)
    x, y = axes.lines[0].get_data()
    assert len(x) == sum(len(t.intermediate_values) for t in figures.current(study.get_trials()))
    assert list(y) == sorted(y, reverse=True) and axes.get_xlabel() == "weight steps"
    assert_legible(figure)
    assert_on_the_page(figure)
    if len(x):
        assert_in_view(figure)


def test_the_curve_of_other_costs():
    for kind, label in (("epochs", "epochs"), ("seconds", "seconds of training")):
        (axes,) = panels(figures.best_so_far(mixed_study(), kind))
        assert axes.get_xlabel() == label


def test_a_comparison_shows_means_and_extremes_over_seeds():
    first, second = (
        (numpy.array([1.0, 2.0]), numpy.array([8.0, 4.0])),
        (numpy.array([0.5, 3.0]), numpy.array([6.0, 2.0])),
    )
    curves = {"STN": [first, second], "none yet": [], "grid": [(numpy.array([1.0]), numpy.array([3.5]))]}
    figure = figures.lowest_losses(curves, 4.0, "cost", faint=["grid"])
    (axes,) = panels(figure)
    means, grid = axes.lines
    assert [line.get_label() for line in axes.lines] == ["STN", "grid"] and axes.get_xlabel() == "cost"
    for x, mean in ((1.5, 7.0), (2.5, 5.0), (3.5, 3.0)):  # of 8 and 6, 4 and 6, 4 and 2
        assert numpy.interp(x, *means.get_data()) == mean
    assert [band.get_alpha() for band in axes.collections] == [0.15, 0.06]
    assert grid.get_color() == figures.COLORS[2]
    assert axes.get_ylim()[1] == 4.0  # as far above the worst end, 3.5, as that is above the best, 3
    (whole,) = panels(figures.lowest_losses(curves, 4.0, "cost", whole=True))
    assert whole.get_ylim()[1] > 7.0


@pytest.mark.parametrize("study", [study_of(trial([2.0])), mixed_study(), many()])
def test_each_scored_trial_crosses_the_axes_at_its_values(study):
    figure = figures.parallel_coordinates(study, SPACE, WORDS)
    axes = panels(figure)[0]
    scored = [t for t in figures.current(study.get_trials()) if t.intermediate_values]
    drawn = sorted(tuple(numpy.round(line.get_ydata(), 9)) for line in axes.lines)
    heights = [(t.params["rate"], (numpy.log10(t.params["penalty"]) + 2) / 3) for t in scored]
    assert drawn == sorted(tuple(numpy.round(own, 9)) for own in heights)
    best = min(scored, key=figures.lowest)
    assert axes.lines[-1].get_linewidth() > 1 and axes.lines[-1].get_ydata()[0] == best.params["rate"]
    labels = [f"{word} (log)" if SPACE[name].log else word for name, word in WORDS.items()]
    assert [text.get_text().replace("\n", " ") for text in axes.get_xticklabels()] == labels
    assert_legible(figure)
    assert_in_view(figure)
    assert_on_the_page(figure)


def test_all_fifteen_hyperparameters_of_an_image_classifier_have_room():
    names = names_of("alexnet")
    space = {name: range_of(TABLE[name]) for name in names}
    random = numpy.random.default_rng(0)
    trials = []
    for n in range(12):
        own = trial([2.0 + n / 10])
        own.distributions = {name: one.distribution for name, one in space.items()}
        own.params = {name: one.draw(random) for name, one in space.items()}
        trials.append(own)
    study = study_of(*trials)
    words = {name: TABLE[name].label for name in names}
    for figure in (figures.parallel_coordinates(study, space, words), figures.importance(study, words)):
        assert_legible(figure)
        assert_on_the_page(figure)
        assert_in_view(figure)
    figure = figures.parallel_coordinates(study, space, words)
    figure.draw_without_rendering()
    axes = panels(figure)[0]
    for texts in (axes.get_xticklabels(), [t for t in axes.texts if t.get_position()[1] == 0]):
        boxes = [text.get_window_extent() for text in texts]
        assert not any(one.overlaps(other) for one, other in pairwise(boxes))


def test_whole_numbers_lie_between_the_ends_of_their_axis():
    space = {"cutouts": Range(0, 3, whole=True), "length": Range(8, 8, whole=True)}
    own = trial([2.0])
    own.distributions = {name: one.distribution for name, one in space.items()}
    for number, height in ((0, 0), (1, 1 / 3), (3, 1)):
        own.params = {"cutouts": number, "length": 8}
        axes = panels(figures.parallel_coordinates(study_of(own), space, {}))[0]
        assert axes.lines[0].get_ydata() == pytest.approx([height, 0.5])


def test_importances_are_the_bars():
    study = many()
    figure = figures.importance(study, WORDS)
    (axes,) = panels(figure)
    found = importances(study)
    assert [patch.get_width() for patch in axes.patches] == pytest.approx([*reversed(found.values())])
    assert [text.get_text() for text in axes.get_yticklabels()] == [WORDS[name] for name in reversed(found)]
    assert_legible(figure)
    assert_on_the_page(figure)


def test_importances_that_nothing_tells_are_not_drawn():
    assert figures.importance(study_of(), WORDS) is None
    assert figures.importance(study_of(trial([2.0])), WORDS) is None


def test_parallel_coordinates_and_legend_are_apart():
    figure = figures.parallel_coordinates(many(), SPACE, WORDS)
    figure.draw_without_rendering()
    (legend,) = figure.legends
    assert panels(figure)[0].get_tightbbox().y1 <= legend.get_window_extent().y0 + 1
