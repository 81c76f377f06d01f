"""Figures of how a score depends on settings: what is drawn where, and what of runs that diverged."""

import numpy
import pandas
import pytest
from matplotlib.colors import to_rgba
from matplotlib.figure import Figure

from stn.figures import sensitivity

WORDS = {"rows": "down", "columns": "right", "score": "perplexity"}


def table(setting, *lines):
    """Of (setting's value, score or None where it diverged, whether it is the default's)."""
    return pandas.DataFrame(
        [
            {setting: value, "score": score or numpy.nan, "diverged": score is None, "default": default}
            for value, score, default in lines
        ]
    )


def heat_map(*cells):
    """Of (row, column, score)."""
    runs = table("rows", *((row, score, (row, column) == (2, 1)) for row, column, score in cells))
    runs["columns"] = [column for _, column, _ in cells]
    figure = sensitivity.heat_map(runs, "rows", "columns", WORDS)
    panel, bar = figure.axes
    texts = {text.get_position(): text for text in panel.texts}
    colors = {patch.get_xy(): patch for patch in panel.patches}
    return panel, bar, texts, colors


def test_a_heat_map_has_each_cells_mean_in_its_place():
    panel, bar, texts, _ = heat_map(
        (1, 1, 90.0), (1, 10, 95.0), (2, 1, 80.0), (2, 1, 82.0), (2, 10, None), (1, 10, None)
    )
    words = {place: text.get_text() for place, text in texts.items()}
    assert words == {(0, 0): "90.0", (1, 0): "95.0\n1 diverged", (0, 1): "81.0\n± 1.4", (1, 1): "diverged"}
    assert (panel.get_xlabel(), panel.get_ylabel(), bar.get_ylabel()) == ("right", "down", "perplexity")
    assert [label.get_text() for label in panel.get_xticklabels()] == ["1", "10"]
    assert panel.get_ylim() == (-0.5, 1.5)


def test_the_lower_the_darker_and_the_default_is_framed():
    _, _, texts, cells = heat_map((1, 1, 90.0), (1, 2, 80.0), (2, 1, 85.0), (2, 2, 1000.0))
    lightness = {place: sum(to_rgba(cells[place].get_facecolor())[:3]) for place in ((-0.5, -0.5), (0.5, -0.5))}
    assert lightness[(0.5, -0.5)] < lightness[(-0.5, -0.5)]
    assert texts[(1, 0)].get_color() == "white" and texts[(1, 1)].get_color() == "black"
    (frame,) = (patch for patch in cells.values() if not patch.get_fill())
    assert frame.get_xy() == pytest.approx((-0.46, 0.54))


def test_an_outlier_does_not_take_all_colours():
    _, bar, *_ = heat_map((1, 1, 80.0), (1, 2, 84.0), (2, 1, 82.0), (2, 2, 1000.0))
    assert bar.get_ylim() == pytest.approx((80.0, 80.0 + 2 * 3.0))


def test_a_heat_map_of_nothing_but_divergence():
    _, _, texts, _ = heat_map((1, 1, None))
    assert [text.get_text() for text in texts.values()] == ["diverged"]


def test_a_curve_goes_through_the_means_of_what_did_not_diverge():
    panel = Figure().subplots()
    runs = table("rate", (0.1, 80.0, False), (0.1, 84.0, False), (0.01, 90.0, True), (1.0, None, False))
    sensitivity.curve(panel, runs, "rate", log=True)
    line, ring, cross = panel.lines
    assert (line.get_xdata().tolist(), line.get_ydata().tolist()) == ([0.01, 0.1], [90.0, 82.0])
    assert (ring.get_xdata(), ring.get_ydata()) == ([0.01], [90.0]) and ring.get_markerfacecolor() == "none"
    assert cross.get_xdata() == [1.0] and cross.get_marker() == "x"
    (band,) = panel.collections
    corners = band.get_paths()[0].vertices
    assert {(0.1, 80.0), (0.1, 84.0)} <= {tuple(corner) for corner in corners}
    assert panel.get_xscale() == "log" and panel.get_xticks().tolist() == [0.01, 0.1, 1.0]
    assert [entry.get_label() for entry in sensitivity.keys(runs)] == ["default settings", "diverged"]


def test_points_stand_in_the_order_given():
    panel = Figure().subplots()
    runs = table("method", ("b", 80.0, False), ("a", 90.0, True), ("c", None, False))
    sensitivity.points(panel, runs, "method", ("c", "b", "a"))
    dots, ring, cross = panel.lines
    assert sorted(zip(dots.get_xdata(), dots.get_ydata(), strict=True)) == [(1, 80.0), (2, 90.0)]
    assert (ring.get_xdata(), cross.get_xdata()) == ([2], [0])
    assert [label.get_text() for label in panel.get_xticklabels()] == ["c", "b", "a"]


def test_what_runs_chose_spans_their_range():
    panel = Figure().subplots()
    runs = table("weight", (1, 80.0, False), (1, 90.0, False), (1, None, False))
    runs = runs.assign(scale=[1.0, 2.0, 99.0], low=[0.5, 0.7, 0.0], high=[3.0, 2.5, 99.0])
    sensitivity.across(panel, runs, "scale", "low", "high", color="red")
    wide, high = panel.lines
    assert (list(wide.get_xdata()), list(wide.get_ydata())) == ([0.5, 1.5, 3.0], [85.0] * 3)
    assert (list(high.get_xdata()), list(high.get_ydata())) == ([1.5] * 2, [80.0, 90.0])


def test_the_reference_is_the_defaults_mean():
    panel = Figure().subplots()
    sensitivity.reference(panel, table("rate", (1, 80.0, True), (1, 82.0, True), (2, 90.0, False), (1, None, True)))
    (line,) = panel.lines
    assert line.get_ydata() == [81.0, 81.0]
