"""Schedules beside validation perplexities, of made-up runs."""

from functools import partial

import pytest
from figure_runs import (
    EPOCH_CSV,
    EPOCH_HEADER,
    EPOCHS,
    assert_legible,
    draw,
    entries,
    names,
    panel,
    panels,
    points,
    table,
    write_fixed,
    write_image_run,
    write_run,
)

from stn.errors import UserError
from stn.figures.overview import overview

NAMES = ["alpha", "beta", "dropouto", "dropouti", "dropouth"]


@pytest.fixture
def make_run(tmp_path):
    return partial(write_run, tmp_path / "logs")


@pytest.fixture
def fixed(tmp_path):
    return write_fixed(tmp_path / "logs")


def beside(figure):
    return panel(figure, "validation perplexity")


def test_schedules_and_perplexities_plot_the_csv(make_run, fixed):
    figure, skipped = draw(overview, fixed, make_run())
    assert names(figure) == ["alpha", "dropouto", ""] and skipped == []
    assert points(panel(figure, "dropouto").lines[1]) == [(2, 0.5), (4, 0.4), (6, 0.25)]
    for valid, best in zip(beside(figure).lines[::2], beside(figure).lines[1::2], strict=True):
        assert points(valid) == [(row[0], row[5]) for row in EPOCHS]
        assert points(best) == [(1, 181.3)]
    assert (panel(figure, "dropouto").get_xlabel(), beside(figure).get_xlabel()) == ("weight step", "epoch")
    assert entries(figure) == ["fixed", "tuned", "best epoch"]


def test_a_run_has_one_colour_in_all_panels(make_run, fixed):
    figure, _ = draw(overview, fixed, make_run())
    schedules = [line.get_color() for line in panel(figure, "dropouto").lines]
    assert len({*schedules}) == 2
    assert [line.get_color() for line in beside(figure).lines] == [color for color in schedules for _ in range(2)]


@pytest.mark.parametrize(("first", "cut"), [(1000.0, True), (190.0, False)])
def test_perplexities_far_above_the_lowest_are_cut_off(make_run, first, cut):
    rows = [(0, 60.0, 6.0, 5.9, 403.4, first, *EPOCHS[0][6:]), *EPOCHS[1:]]
    axes = beside(draw(overview, make_run(epoch=table(EPOCH_HEADER, rows))).figure)
    low, high = axes.get_ylim()
    assert low < 181.3 and high > 200.3 and (high < first) == cut


def test_all_panels_lie_beside_each_other_and_are_legible(make_run, fixed):
    header = EPOCH_HEADER.replace("alpha,dropouto", ",".join(NAMES))
    rows = [(*row[:6], *([row[7]] * len(NAMES)), row[8]) for row in EPOCHS]
    labels = {"beta": "temporal activation regularization"}
    five = make_run("five", epoch=table(header, rows), val=None, hyperparameters=NAMES, labels=labels)
    figure = draw(overview, five, fixed).figure
    assert_legible(figure)
    shown = panels(figure)
    assert len(shown) == len(NAMES) + 1
    boxes = [axes.get_tightbbox() for axes in shown]
    assert all(sum(box.overlaps(other) for other in boxes) == 1 for box in boxes)  # itself alone
    assert all(figure.bbox.padded(1).contains(*corner) for box in boxes for corner in (box.min, box.max))
    assert beside(figure).bbox.width > 1.5 * shown[0].bbox.width
    assert beside(figure).bbox.height > 2 * shown[0].bbox.height


def test_runs_without_perplexities_are_named_or_of_another_kind(make_run, tmp_path):
    images, empty = write_image_run(tmp_path / "logs"), make_run("empty", epoch=EPOCH_HEADER + "\n", val=None)
    figure, skipped = draw(overview, make_run(epoch=EPOCH_CSV), images, empty)
    assert len(beside(figure).lines) == 2
    assert len(skipped) == 1 and str(empty) in skipped[0]
    with pytest.raises(UserError, match="nothing to draw"):
        draw(overview, images, empty)
