"""Perplexities, losses and accuracies of made-up runs."""

from dataclasses import replace
from functools import partial

import pytest
from figure_runs import (
    EPOCH_CSV,
    EPOCH_HEADER,
    EPOCHS,
    IMAGE_HEADER,
    IMAGE_SCORES,
    assert_apart,
    assert_in_view,
    assert_legible,
    draw,
    entries,
    long_names,
    points,
    table,
    write_fixed,
    write_image_run,
    write_run,
)

from stn.errors import UserError
from stn.figures.scores import Reference, accuracies, losses, perplexities
from stn.runs import history


@pytest.fixture
def make_run(tmp_path):
    return partial(write_run, tmp_path / "logs")


@pytest.fixture
def image_run(tmp_path):
    return partial(write_image_run, tmp_path / "logs")


def test_perplexities_plot_the_csv(make_run):
    figure, _ = draw(perplexities, make_run())
    by_epoch, by_time = figure.axes
    for axes, x in ((by_epoch, [0, 1, 2]), (by_time, [1, 2, 3])):
        train, valid, best = axes.lines
        assert points(train) == list(zip(x, [403.4, 244.7, 134.3], strict=True))
        assert points(valid) == list(zip(x, [365.0, 181.3, 200.3], strict=True))
        assert points(best) == [(x[1], 181.3)]
        assert train.get_linestyle() == "--" and valid.get_linestyle() == "-"
    assert (by_epoch.get_xlabel(), by_time.get_xlabel()) == ("epoch", "time (minutes)")


@pytest.mark.parametrize(("first", "scale"), [(8103.1, "log"), (260.0, "linear")])
def test_a_wide_span_is_logarithmic(make_run, first, scale):
    rows = [(0, 60.0, 5.5, 5.5, first, first, 2.0, 0.5, 30.0), *EPOCHS[1:]]
    figure, _ = draw(perplexities, make_run(epoch=table(EPOCH_HEADER, rows)))
    assert figure.axes[0].get_yscale() == scale


def test_a_wide_span_of_losses_is_logarithmic(image_run):
    path = image_run()
    rows = [(0, 60, 0.4, 0.4, 0.9, 0.9), (1, 120, 0.05, 0.06, 0.98, 0.98)]
    (path / "epoch.csv").write_text(table(IMAGE_HEADER, rows))
    losses, over_time, shares = draw(accuracies, path).figure.axes
    assert (losses.get_yscale(), over_time.get_yscale(), shares.get_yscale()) == ("log", "log", "linear")
    assert losses.get_ylim() == over_time.get_ylim()


@pytest.mark.parametrize(("longest", "unit"), [(20, "seconds"), (600, "minutes"), (20_000, "hours"), (1e6, "days")])
def test_time_has_a_fitting_unit(make_run, longest, unit):
    rows = [(epoch, longest * (epoch + 1) / len(EPOCHS), *rest) for epoch, _, *rest in EPOCHS]
    figure, _ = draw(perplexities, make_run(epoch=table(EPOCH_HEADER, rows)))
    assert figure.axes[1].get_xlabel() == f"time ({unit})"


def test_a_row_cut_off_is_left_out(make_run):
    valid = draw(perplexities, make_run(epoch=EPOCH_CSV + "3,240.0,4.")).figure.axes[0].lines[1]
    assert list(valid.get_xdata()) == [0, 1, 2]


@pytest.mark.parametrize("epoch", [None, "", "epoch,ti", EPOCH_HEADER + "\n", EPOCH_HEADER + "\n0,60.0"])
def test_a_run_without_a_row_is_named(make_run, epoch):
    empty = make_run("empty", epoch=epoch, val=None)
    with pytest.raises(UserError, match="empty/2026-01-02") as error:
        draw(perplexities, empty)
    assert "\n" not in str(error.value)
    figure, skipped = draw(perplexities, make_run(), empty)
    assert len(figure.axes[0].lines) == 3
    assert len(skipped) == 1 and str(empty) in skipped[0]


def test_accuracies_plot_the_csv(image_run):
    figure, _ = draw(accuracies, image_run())
    loss, over_time, accuracy = figure.axes
    epochs, seconds, *_ = zip(*IMAGE_SCORES, strict=True)
    for axes, x, column in ((loss, epochs, 2), (over_time, seconds, 2), (accuracy, epochs, 4)):
        train, valid, best = ([point[1] for point in points(line)] for line in axes.lines)
        assert train == [row[column] for row in IMAGE_SCORES]
        assert valid == [row[column + 1] for row in IMAGE_SCORES]
        assert best == [IMAGE_SCORES[1][column + 1]]  # the lowest validation loss
        drawn = [point[0] for point in points(axes.lines[1])]
        assert [part / drawn[-1] for part in drawn] == pytest.approx([part / x[-1] for part in x])
    assert [axes.get_xlabel()[:5] for axes in figure.axes] == ["epoch", "time ", "epoch"]
    assert [axes.get_ylabel() for axes in figure.axes] == ["loss (nats)", "", "accuracy (%)"]
    assert [accuracy.yaxis.get_major_formatter()(share) for share in (0.5, 0.55, 0.125)] == ["50", "55", "12.5"]


@pytest.mark.parametrize(("draw_scores", "panels"), [(perplexities, 2), (accuracies, 2), (losses, 2)])
def test_a_reference_crosses_the_panels_of_validation_scores(make_run, image_run, draw_scores, panels):
    run = history.read_run(image_run() if draw_scores is accuracies else make_run())
    figure = draw_scores([run], Reference(70.3, "published, Penn Treebank")).figure
    lines = [[line for line in axes.lines if {*line.get_ydata()} == {70.3}] for axes in figure.axes]
    assert [len(own) for own in lines] == [1] * panels + [0] * (len(figure.axes) - panels)
    for axes, (line,) in zip(figure.axes, lines[:panels], strict=False):
        low, high = axes.get_ylim()
        assert low < 70.3 < high and tuple(line.get_xdata()) == (0, 1)  # of the panel's width
    assert entries(figure)[-1] == "published, Penn Treebank"
    assert_apart(figure)
    assert entries(figure)[:-1] == entries(draw_scores([run]).figure)


def test_a_reference_far_away_makes_a_wide_span(make_run):
    rows = [(0, 60.0, 5.5, 5.5, 260.0, 260.0, 2.0, 0.5, 30.0), *EPOCHS[1:]]
    run = history.read_run(make_run(epoch=table(EPOCH_HEADER, rows)))
    scales = [perplexities([run], reference).figure.axes[0].get_yscale() for reference in (None, Reference(20.0, "a"))]
    assert scales == ["linear", "log"]


def test_a_language_model_has_no_accuracies(make_run, image_run):
    language = make_run()
    figure, skipped = draw(accuracies, language, image_run())
    assert skipped == [] and len(figure.axes[0].lines) == 3
    with pytest.raises(UserError, match="nothing to draw"):
        draw(accuracies, language)


def test_every_letter_is_legible(make_run, tmp_path):
    assert_legible(draw(perplexities, make_run(), write_fixed(tmp_path / "logs")).figure)


def test_all_is_in_view(make_run, image_run):
    assert_in_view(draw(perplexities, make_run()).figure)
    assert_in_view(draw(accuracies, image_run()).figure)


def test_seeds_of_one_name_share_colour_marker_and_entry(make_run):
    runs = [replace(history.read_run(make_run(f"run{place}", seed=place)), name="ab"[place % 2]) for place in range(4)]
    figure = perplexities(runs).figure
    valid, best = figure.axes[0].lines[1::3], figure.axes[0].lines[2::3]
    assert [line.get_color() for line in valid[:2]] == [line.get_color() for line in valid[2:]]
    assert [line.get_marker() for line in best[:2]] == [line.get_marker() for line in best[2:]]
    assert len({line.get_marker() for line in best}) == 2
    assert entries(figure)[:2] == ["a (2 seeds)", "b (2 seeds)"]


def test_twelve_runs_are_told_apart(make_run):
    figure, _ = draw(perplexities, *(make_run(f"run{place}") for place in range(12)))
    valid, best = figure.axes[0].lines[1::3], figure.axes[0].lines[2::3]
    few = draw(perplexities, make_run("other")).figure.axes[0].lines[1]
    assert len({line.get_color() for line in valid}) == len({line.get_marker() for line in valid}) == 12
    assert [line.get_marker() for line in valid] == [line.get_marker() for line in best]
    assert max(line.get_linewidth() for line in valid) < few.get_linewidth() and few.get_marker() == "None"
    assert min(line.get_markersize() for line in best) > max(line.get_markersize() for line in valid)
    assert len(entries(figure)) == 12 + 3
    assert_apart(figure)


@pytest.mark.parametrize("count", [2, 3, 12])
def test_long_names_fit(tmp_path, count):
    figure = draw(accuracies, *long_names(tmp_path / "logs", count)).figure
    assert_apart(figure)
    assert_legible(figure)
