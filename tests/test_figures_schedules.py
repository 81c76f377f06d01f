"""Schedules of hyperparameters, and those from several initial values, of made-up runs."""

from dataclasses import replace
from functools import partial

import numpy
import pytest
from figure_runs import (
    EPOCH_CSV,
    EPOCH_HEADER,
    EPOCHS,
    STEPS,
    VAL_CSV,
    VAL_HEADER,
    assert_apart,
    assert_in_view,
    assert_legible,
    band,
    entries,
    names,
    panel,
    panels,
    points,
    spans,
    table,
    write_fixed,
    write_image_run,
    write_run,
)
from figure_runs import draw as draw_as

from stn.errors import UserError
from stn.figures.schedules import initial_values, schedules
from stn.figures.style import COLORS
from stn.runs import history

draw = partial(draw_as, schedules)


def dashes(line):
    """A line's own dashes, before matplotlib scales them."""
    return str(line._unscaled_dash_pattern)


@pytest.fixture
def make_run(tmp_path):
    return partial(write_run, tmp_path / "logs")


@pytest.fixture
def fixed(tmp_path):
    return write_fixed(tmp_path / "logs")


def test_schedules_plot_the_csv(make_run):
    figure, skipped = draw(make_run())
    (line,) = panel(figure, "dropouto").lines
    assert points(line) == [(2, 0.5), (4, 0.4), (6, 0.25)]
    assert panel(figure, "dropouto").get_xlabel() == "weight step"
    assert names(figure) == ["alpha", "dropouto"]
    assert skipped == []


def test_panels_follow_the_order_asked_for(make_run):
    assert names(draw_as(partial(schedules, order=["dropouto"]), make_run()).figure) == ["dropouto", "alpha"]


def test_constants_are_thin_dashed_lines_across_the_panel(make_run, fixed):
    figure, _ = draw(make_run(), fixed)
    moving, constant = panel(figure, "dropouto").lines
    assert {*constant.get_ydata()} == {0.5}
    assert (min(constant.get_xdata()), max(constant.get_xdata())) == (0, 1)  # the axes' own width
    assert constant.get_linewidth() < moving.get_linewidth()
    assert constant.get_linestyle() == "--" != moving.get_linestyle()


def test_changing_values_without_val_csv_go_by_epoch(make_run):
    figure, _ = draw(make_run(), make_run("replayed", val=None))
    assert panel(figure, "dropouto").get_xlabel() == "epoch"
    assert [points(line) for line in panel(figure, "dropouto").lines] == [[(0, 0.5), (1, 0.4), (2, 0.2)]] * 2


def test_scales_and_learning_rate_are_no_panels(make_run):
    header = EPOCH_HEADER.replace(",lr", ",dropouto_scale,lr")
    figure, _ = draw(make_run(epoch=table(header, [(*row[:8], 1.0, 30.0) for row in EPOCHS]), val=None))
    assert names(figure) == ["alpha", "dropouto"]


def test_header_only_val_csv_falls_back_to_epochs(make_run):
    figure, _ = draw(make_run(val=VAL_HEADER + "\n"))
    assert points(panel(figure, "dropouto").lines[0])[0] == (0, 0.5)
    assert panel(figure, "dropouto").get_xlabel() == "epoch"


def test_several_runs_differ_in_colour_and_style(make_run):
    runs = [make_run(name) for name in ("a", "b", "c")]
    figure, _ = draw(*runs)
    lines = panel(figure, "dropouto").lines
    assert len({line.get_color() for line in lines}) == 3
    assert len({dashes(line) for line in lines}) == 3


@pytest.mark.parametrize("count", [4, 12])
def test_from_four_runs_on_lines_are_thin_and_have_markers_but_no_bands(make_run, count):
    few = [make_run(str(run), epoch=SCALED_EPOCH, ranges={"dropouto": [0, 1]}) for run in range(3)]
    more = [make_run(str(run), epoch=SCALED_EPOCH, ranges={"dropouto": [0, 1]}) for run in range(3, count)]
    banded, thin = panel(draw(*few).figure, "dropouto"), panel(draw(*few, *more).figure, "dropouto")
    assert len(banded.collections) == 3 and not thin.collections
    assert max(line.get_linewidth() for line in thin.lines) < min(line.get_linewidth() for line in banded.lines)
    assert {line.get_marker() for line in banded.lines} == {"None"}
    for look in (lambda line: line.get_color(), lambda line: line.get_marker(), dashes):
        assert len({look(line) for line in thin.lines}) == count
    assert len({str(line.get_markevery()) for line in thin.lines}) == count  # markers are not on top of each other


def test_seeds_of_one_name_share_look_and_entry(make_run):
    runs = [history.read_run(make_run(f"run{seed}", seed=seed)) for seed in range(6)]
    named = [replace(run, name="ours" if run.settings["seed"] % 2 else "theirs") for run in runs]
    figure, _ = schedules(named)
    lines = panel(figure, "dropouto").lines
    look = {(line.get_color(), dashes(line)) for line in lines}
    assert len(look) == 2 and look == {(line.get_color(), dashes(line)) for line in lines[:2]}
    assert {line.get_marker() for line in lines} == {"None"}  # two names are told apart without
    assert entries(figure) == ["theirs (3 seeds)", "ours (3 seeds)"]
    assert entries(schedules([replace(run, name="ours") for run in runs]).figure) == ["ours (6 seeds)"]


def test_twelve_runs_that_change_nothing_are_told_apart(make_run):
    epoch = table(EPOCH_HEADER, [(*row[:7], 0.5, 30.0) for row in EPOCHS])
    lines = panel(draw(*(make_run(str(run), epoch=epoch, val=None) for run in range(12))).figure, "dropouto").lines
    assert len({line.get_color() for line in lines}) == len({line.get_marker() for line in lines}) == 12
    assert min(len(line.get_xdata()) for line in lines) > 12  # points enough for markers to be spread over the panel


def test_a_run_that_is_left_out_changes_neither_label_nor_look_of_the_others(make_run):
    runs = [history.read_run(make_run(name)) for name in "ab"]
    empty = history.read_run(make_run("none", epoch=None, val=None))
    whole, _ = schedules([runs[0], replace(empty, name="nothing"), replace(runs[1], name="second")])
    assert entries(whole) == ["a", "second"]
    assert [line.get_color() for line in panel(whole, "dropouto").lines] == [COLORS[0], COLORS[2]]
    assert entries(schedules([replace(run, name=name) for run, name in zip(runs, "xy", strict=True)]).figure) == [
        "x",
        "y",
    ]


def test_panels_say_in_words_what_they_show(make_run):
    words = {"alpha": "temporal activation regularization", "dropouto": "output dropout"}
    figure, _ = draw(make_run("older"), make_run(labels=words))
    assert [name.replace("\n", " ") for name in names(figure)] == [*words.values()]
    assert "\n" in names(figure)[0]
    figure.draw_without_rendering()
    for axes in panels(figure):
        title = axes.title.get_window_extent()
        assert title.width < figure.bbox.width / 2 and figure.bbox.padded(1).contains(title.x0, title.y1)


def test_letters_that_matplotlib_reads_as_formulas_are_drawn_as_they_are(make_run):
    runs = [replace(history.read_run(make_run(name)), name=name) for name in (r"$\no$", "_hidden")]
    figure, _ = schedules(runs)
    figure.draw_without_rendering()
    assert entries(figure) == [r"$\no$", "_hidden"]


# The warm-up


TUNING = {"ranges": {"dropouto": [0, 1]}}


def test_the_warm_up_is_shaded_and_in_the_legend(make_run):
    figure, _ = draw(make_run(warmup_steps=2, **TUNING))
    assert [spans(axes) for axes in panels(figure)] == [[(0, 2)], [(0, 2)]]
    assert entries(figure) == ["warm-up"]


def test_one_warm_up_of_several_runs_is_marked_once(make_run, fixed):
    runs = [make_run(name, warmup_steps=2, **TUNING) for name in "ab"]
    figure, _ = draw(*runs, fixed)
    assert spans(panel(figure, "dropouto")) == [(0, 2)]
    assert entries(figure) == ["a", "b", "fixed", "warm-up"]


def test_differing_warm_ups_are_lines_of_their_runs_colours(make_run):
    figure, _ = draw(*(make_run(str(steps), warmup_steps=steps, **TUNING) for steps in (0, 2, 3, 70)))
    axes = panel(figure, "dropouto")
    upright = [line for line in axes.lines if len({*line.get_xdata()}) == 1]
    # One without a warm-up has none, and one that is off the axis neither.
    assert [(line.get_xdata()[0], line.get_color()) for line in upright] == [(2, COLORS[1]), (3, COLORS[2])]
    assert not spans(axes) and entries(figure)[-1] == "end of the warm-up"


@pytest.mark.parametrize(
    "settings", [{"ranges": {}}, {"warmup_steps": 0}, {"warmup_steps": float("inf")}, {"warmup_steps": 0.01}]
)
def test_without_a_warm_up_that_shows_there_is_no_mark(make_run, settings):
    figure, _ = draw(make_run(**{"warmup_steps": 2, **TUNING, **settings}))
    assert not figure.legends and not any(map(spans, panels(figure)))


def test_the_warm_up_on_an_axis_of_epochs_is_where_the_first_step_was(make_run):
    """After 150 s, between the ends of the second epoch (120 s) and of the third (180 s)."""
    steps = table(VAL_HEADER, [(3, 150.0, 2.0, 0.5, 2)])
    figure, _ = draw(make_run(val=steps, warmup_steps=2, **TUNING), make_run("replay", val=None))
    assert panel(figure, "dropouto").get_xlabel() == "epoch"
    assert spans(panel(figure, "dropouto")) == [(0, 1.5)]


def test_all_panels_reach_as_far_as_the_longest_run(make_run, fixed):
    figure, _ = draw(make_run(), fixed)
    limits = {axes.get_xlim() for axes in panels(figure)}
    assert len(limits) == 1 and limits.pop() == (0, pytest.approx(6, rel=0.05))


def test_a_row_cut_off_is_left_out(make_run):
    # Without its newline "…,6" may have been "…,61": not a whole row, though every column is there.
    run = make_run(epoch=EPOCH_CSV + "3,240.0,4.", val=VAL_CSV[:-1])
    (line,) = panel(draw(run).figure, "dropouto").lines
    assert points(line) == [(2, 0.5), (4, 0.4)]


@pytest.mark.parametrize("epoch", [None, "", "epoch,ti", EPOCH_HEADER + "\n", EPOCH_HEADER + "\n0,60.0"])
def test_a_run_without_a_row_is_named(make_run, epoch):
    empty = make_run("empty", epoch=epoch, val=None)
    with pytest.raises(UserError, match="empty/2026-01-02") as error:
        draw(empty)
    assert "\n" not in str(error.value)
    figure, skipped = draw(make_run(), empty)
    assert len(figure.axes[0].lines) == 1
    assert len(skipped) == 1 and str(empty) in skipped[0]


def test_every_letter_is_legible(make_run, fixed):
    assert_legible(draw(make_run(), fixed).figure)


def test_all_is_in_view(make_run):
    assert_in_view(draw(make_run()).figure)


# Learning rates


LEARNED_HEADER = "global_step,time,alpha,dropouto,lr,hyper_lr,mu,train_step"


@pytest.fixture
def learned(make_run):
    """learned(rates, discounts): a run whose tuned learning rate had these values after 2, 4 and 6 weight steps."""

    def make(rates=(30.0, 20.0, 10.0), discounts=(0.9, 0.9, 0.9), **settings):
        rows = zip(STEPS, rates, discounts, strict=True)
        val = table(LEARNED_HEADER, [(*row[:4], rate, 1e-3, discount, row[4]) for row, rate, discount in rows])
        epoch = table(f"{EPOCH_HEADER},hyper_lr,mu", [(*row[:8], 15.0 - row[0], 1e-3, 0.9) for row in EPOCHS])
        return make_run(**{"name": "learned", "epoch": epoch, "val": val, **settings})

    return make


def test_a_tuned_learning_rate_has_the_last_panel(learned):
    figure, _ = draw_as(partial(schedules, order=["dropouto"]), learned())
    assert names(figure) == ["dropouto", "alpha", "learning rate"]
    (line,) = panel(figure, "learning rate").lines
    assert points(line) == [(2, 30), (4, 20), (6, 10)]
    assert panel(figure, "learning rate").get_yscale() == "linear"


def test_a_discount_that_changes_has_one_too(learned):
    figure, _ = draw(learned(discounts=(0.9, 0.95, 0.99)))
    assert names(figure)[-2:] == ["learning rate", "discount μ"]
    assert points(panel(figure, "discount μ").lines[0]) == [(2, 0.9), (4, 0.95), (6, 0.99)]


@pytest.mark.parametrize(("last", "scale"), [(3.0, "linear"), (2.9, "log"), (1e-7, "log")])
def test_learning_rates_that_differ_widely_have_a_logarithmic_axis(learned, last, scale):
    figure, _ = draw(learned((30.0, 20.0, last)))
    axes = panel(figure, "learning rate")
    assert axes.get_yscale() == scale
    figure.draw_without_rendering()
    labels = [text.get_text() for text in axes.get_yticklabels(which="both") if text.get_text()]
    assert len(labels) > 1 and not any("$" in label for label in labels)
    assert_in_view(figure)


def test_beside_a_tuned_learning_rate_others_are_drawn_as_steps(learned, make_run):
    """The second run's epochs end after 60, 120 and 180 s; its weight steps are known from its own table."""
    steps = table(VAL_HEADER, [(30, 60.0, 2.0, 0.5, 20), (60, 120.0, 2.0, 0.4, 40), (90, 180.0, 2.0, 0.3, 60)])
    epoch = table(EPOCH_HEADER, [(*row[:8], 32.0 / 4 ** row[0]) for row in EPOCHS])
    figure, _ = draw(learned(), make_run("decayed", epoch=epoch, val=steps))
    _, line = panel(figure, "learning rate").lines
    assert points(line) == [(0, 32), (20, 32), (40, 8), (60, 2)] and line.get_drawstyle() == "steps-pre"
    assert_in_view(figure)


def test_a_decay_in_a_run_without_steps_goes_by_epoch(learned, fixed, make_run):
    figure, _ = draw(learned(), fixed)
    assert panel(figure, "learning rate").get_xlabel() == "weight step"  # its learning rate is constant
    epoch = table(EPOCH_HEADER, [(*row[:7], 0.5, 32.0 / 4 ** row[0]) for row in EPOCHS])
    figure, _ = draw(learned(name="other"), make_run("decayed", epoch=epoch, val=None))
    first, second = panel(figure, "learning rate").lines
    assert points(first) == [(0, 15), (1, 14), (2, 13)] and points(second) == [(0, 32), (1, 8), (2, 2)]
    assert panel(figure, "learning rate").get_xlabel() == "epoch"
    assert second.get_linestyle() != ":" and second.get_linewidth() == first.get_linewidth()  # it moves


def test_an_image_classifiers_learning_rate_is_in_its_train_csv(tmp_path):
    path = write_image_run(tmp_path / "logs", names=["hue"], tuned=[], off=[])
    rows = [(2, 1.0, 2.0, 0.5, 0.5, 0.1, 2), (4, 2.0, 2.0, 0.5, 0.25, 0.1, 4)]
    (path / "train.csv").write_text(table("global_step,time,loss,acc,lr,hyper_lr,train_step", rows))
    text = (path / "epoch.csv").read_text()
    constant = table("epoch,time,val_loss,hue,lr,hyper_lr", [(0, 60, 2, 0.5, 0.5, 0.1), (1, 120, 2, 0.5, 0.25, 0.1)])
    (path / "epoch.csv").write_text(constant)
    figure, _ = draw(path)
    assert names(figure) == ["hue", "learning rate"] and panel(figure, "hue").get_xlabel() == "weight step"
    assert points(panel(figure, "learning rate").lines[0]) == [(2, 0.5), (4, 0.25)]
    (path / "epoch.csv").write_text(text)  # where a hyperparameter moves that has no steps
    assert panel(draw(path).figure, "hue").get_xlabel() == "epoch"


def test_a_run_of_no_hyperparameters_shows_its_learning_rate(learned):
    figure, skipped = draw(learned(hyperparameters=[]))
    assert names(figure) == ["learning rate"] and skipped == []


def test_panels_of_learning_rates_are_legible(learned, make_run):
    figure, _ = draw(learned((30.0, 20.0, 1e-5), (0.5, 0.75, 0.9)), make_run())
    assert_legible(figure)
    assert_apart(figure)


def test_runs_of_one_name_from_several_learning_rates_have_a_panel_for_each(learned):
    started = [
        *(learned((start, 20.0, start / 2), name=f"tuned{start}", lr=start) for start in (0.1, 30.0)),
        learned((0.1, 0.1, 0.1), name="constant", lr=0.1),
    ]
    read = [
        replace(history.read_run(path), name=name) for path, name in zip(started, ("HD", "HD", "none"), strict=True)
    ]
    figure = schedules(read).figure
    titles = [name.replace("\n", " ") for name in names(figure)]
    assert titles[-2:] == ["learning rate, from 0.1", "learning rate, from 30"]
    first, second = panels(figure)[-2:]
    assert [points(line)[0] for line in (first.lines[0], *second.lines)] == [(2, 0.1), (2, 30)]
    assert first.get_ylim() == second.get_ylim() and second.get_yscale() == "log"
    assert len(first.lines) == 2
    assert_in_view(figure)
    assert_apart(figure)
    named = [replace(run, name=None) for run in read]
    assert names(schedules(named).figure)[-1] == "learning rate"  # told apart by colours


# The band of the perturbation


SCALED_EPOCH = table(
    EPOCH_HEADER.replace(",lr", ",dropouto_scale,lr"),
    [(0, 2.0, 6, 5.9, 403, 365, 2.0, 0.4, 0.5, 30), (1, 4.0, 5, 5.2, 244, 181, 2.0, 0.2, 1.5, 30)],
)


def sigmoid(x):
    return 1 / (1 + numpy.exp(-x))


def logit(p):
    return numpy.log(p) - numpy.log1p(-p)


def test_a_tuned_ones_scale_is_a_band_in_unconstrained_space(make_run):
    figure, _ = draw(make_run(epoch=SCALED_EPOCH, ranges={"dropouto": [0, 1]}))
    x, low, high = band(figure, "dropouto")
    assert x == [2, 4, 6]
    value, scale = numpy.array([0.5, 0.4, 0.25]), numpy.array([0.5, 0.5, 1.0])  # at 1, 2 and 3 s
    assert low == pytest.approx(sigmoid(logit(value) - scale), rel=1e-5)
    assert high == pytest.approx(sigmoid(logit(value) + scale), rel=1e-5)
    assert not panel(figure, "alpha").collections
    assert panel(figure, "dropouto").get_ylim()[1] > max(high)


@pytest.mark.parametrize("settings", [{}, {"ranges": {}}, {"ranges": {"alpha": [0, 1]}}])
def test_without_a_range_there_is_no_band(make_run, settings):
    figure, _ = draw(make_run(epoch=SCALED_EPOCH, **settings))
    assert not panel(figure, "dropouto").collections


def test_a_band_against_epochs_goes_by_the_epochs_rows(make_run):
    """Where another run has no steps, all are drawn against epochs."""
    path = make_run(epoch=SCALED_EPOCH, ranges={"dropouto": [0, 1]})
    figure, _ = draw(path, make_run("replay", val=None))
    x, low, _ = band(figure, "dropouto")
    assert x == [0, 1]
    assert low == pytest.approx(sigmoid(logit(numpy.array([0.4, 0.2])) - [0.5, 1.5]), rel=1e-5)


# Initial values


@pytest.fixture
def started(make_run):
    """started(value): a run that tuned dropouto from there."""

    def make(value, val=VAL_CSV, **settings):
        known = {"dropouto": value, "ranges": {"dropouto": [0, 1]}, **settings}
        return make_run(f"init{value}", val=val, **known)

    return make


from_initial = partial(draw_as, partial(initial_values, name="dropouto", label="output dropout"))


def test_schedules_from_initial_values(started):
    figure, skipped = from_initial(started(0.9), started(0.05))
    (axes,) = figure.axes
    assert [line.get_label() for line in axes.lines] == ["0.05", "0.9"]
    assert points(axes.lines[1]) == [(0, 0.9), (2, 0.9), (2, 0.5), (4, 0.4), (6, 0.25)]
    assert (axes.get_xlabel(), axes.get_ylabel()) == ("iteration", "output dropout")
    assert figure.get_figwidth() == pytest.approx(3.3) and skipped == []
    assert len({(line.get_color(), str(line.get_linestyle())) for line in axes.lines}) == 2


def test_five_initial_values_are_told_apart(started):
    figure, _ = from_initial(*(started(value) for value in (0.05, 0.3, 0.5, 0.7, 0.9)))
    lines = figure.axes[0].lines
    assert len({line.get_color() for line in lines}) == 5
    (legend,) = figure.legends
    assert [text.get_text() for text in legend.get_texts()] == ["0.05", "0.3", "0.5", "0.7", "0.9"]


def test_seeds_of_one_initial_value_share_colour_and_entry(started, make_run):
    more = [make_run(f"again{seed}", dropouto=0.3, ranges={"dropouto": [0, 1]}, seed=seed) for seed in (2, 3)]
    figure, _ = from_initial(started(0.3, seed=1), *more, started(0.9, seed=1))
    assert entries(figure) == ["0.3 (3 seeds)", "0.9"]
    *seeds, lone = figure.axes[0].lines
    assert len(seeds) == 3 and len({(line.get_color(), dashes(line)) for line in seeds}) == 1
    assert lone.get_color() != seeds[0].get_color()
    assert lone.get_linewidth() > seeds[0].get_linewidth()


def test_runs_of_one_seed_from_one_initial_value_are_no_seeds(started, make_run):
    again = make_run("again", dropouto=0.3, ranges={"dropouto": [0, 1]}, seed=1)
    assert entries(from_initial(started(0.3, seed=1), again).figure) == ["0.3 (2 runs)"]


def test_names_take_the_place_of_initial_values(started):
    runs = [history.read_run(started(value)) for value in (0.5, 0.3, 0.7)]
    named = [replace(run, name=name) for run, name in zip(runs, ("b", "a", "b"), strict=True)]
    figure, _ = initial_values(named, "dropouto", "output dropout")
    assert entries(figure) == ["a", "b (2 runs)"]
    assert figure.legends[0].get_title().get_text() == ""


def test_the_warm_up_before_initial_values_change_is_shaded(started):
    figure, _ = from_initial(*(started(value, warmup_steps=2) for value in (0.3, 0.9)))
    assert spans(figure.axes[0]) == [(0, 2)] and entries(figure) == ["0.3", "0.9", "warm-up"]


@pytest.mark.parametrize("name", [None, "a name that is rather long and would not fit beside others"])
def test_the_legend_of_twelve_initial_values_fits(started, name):
    runs = [history.read_run(started(value / 20)) for value in range(1, 13)]
    figure, _ = initial_values(
        [replace(run, name=name and f"{name} {place}") for place, run in enumerate(runs)], "dropouto", "output dropout"
    )
    figure.draw_without_rendering()
    box, axes = figure.legends[0].get_window_extent(), figure.axes[0]
    assert box.x0 >= 0 and box.x1 <= figure.bbox.x1 + 1 and box.y1 <= figure.bbox.y1 + 1
    assert box.y0 >= axes.get_tightbbox().y1 - 1 and axes.bbox.height > figure.dpi


def test_a_run_without_steps_is_named_and_left_out(started):
    half = started(0.3, val=None)
    _, (line,) = from_initial(started(0.05), half)
    assert str(half) in line
    with pytest.raises(UserError, match="nothing to draw"):
        from_initial(half)


@pytest.mark.parametrize(
    "settings", [{"dropouto": None, "ranges": {}}, {"dropouto": "half"}, {"ranges": {}}, {"dropouto": None}]
)
def test_a_run_that_does_not_say_where_it_started_or_tuned_another_is_left_out(started, settings):
    odd = started(0.3, **settings)
    _, (line,) = from_initial(started(0.05), odd)
    assert str(odd) in line


def test_a_run_whose_steps_lack_the_hyperparameter_is_left_out(started):
    other = started(0.3, val="global_step,time,alpha,train_step\n3,1,2,2\n")
    _, (line,) = from_initial(started(0.05), other)
    assert str(other) in line
