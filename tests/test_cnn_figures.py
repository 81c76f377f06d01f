"""The image classifiers' figures of made-up runs: grouped schedules, dropout rates by layer, cutout."""

from dataclasses import replace
from functools import partial

import numpy
import pandas
import pytest
from cnn_runs import MLP_NAMES
from figure_runs import (
    IMAGE_NAMES,
    IMAGE_RANGES,
    IMAGE_STEPS,
    STEPPED,
    VALID_CSV,
    assert_apart,
    assert_in_view,
    assert_legible,
    band,
    draw,
    entries,
    image_step_values,
    image_values,
    long_names,
    names,
    panel,
    panels,
    points,
    spans,
    table,
    write_image_run,
    write_run,
)
from matplotlib.colors import to_rgb

from cnn.figures import CUTOUT, RATES, WORDS, cutout, dropouts
from cnn.save_figures import PLOTS
from stn.errors import UserError
from stn.figures.style import SHADES
from stn.hyperparameters import neighbourhood
from stn.runs import history

schedules = PLOTS["schedules"].draw


@pytest.fixture
def image_run(tmp_path):
    return partial(write_image_run, tmp_path / "logs")


def test_fifteen_schedules_are_grouped_and_banded(image_run):
    figure, _ = draw(schedules, image_run())
    order = ["dropout0", "dropout1", "dropout2", "dropout3", "dropout4", "indropout", "fcdropout0", "fcdropout1"]
    order += ["hue", "contrast", "sat", "bright", "inscale", "cutlength", "cutholes"]
    assert names(figure) == order
    for name in IMAGE_NAMES:
        (line,) = panel(figure, name).lines
        assert points(line) == list(zip([0, 1, 2], image_values(name), strict=True))
        x, low, high = band(figure, name)
        expected = neighbourhood(image_values(name), [0.5, 0.75, 1.0], IMAGE_RANGES[name])
        assert (x, list(low), list(high)) == ([0, 1, 2], *map(pytest.approx, expected))


def test_what_is_off_has_no_panel(image_run):
    off = [name for name in IMAGE_NAMES if name not in ("hue", "sat")]
    figure, _ = draw(schedules, image_run(tuned=["hue", "sat"], off=off))
    assert names(figure) == ["hue", "sat"]
    # Nothing at all is on: the zeros are what there is to see.
    figure, _ = draw(schedules, image_run("none", tuned=[], off=IMAGE_NAMES))
    assert len(panels(figure)) == 15


def test_dropout_of_all_layers_is_in_one_panel(image_run):
    figure, skipped = draw(dropouts, image_run())
    (axes,) = figure.axes
    rates = [name for name in IMAGE_NAMES if "dropout" in name]
    (legend,) = figure.legends
    drawn = {text.get_text(): key for text, key in zip(legend.get_texts(), legend.get_lines(), strict=True)}
    assert [*drawn] == [WORDS[name] for name in RATES if name in rates] and len(axes.lines) == len(rates)
    assert skipped == []
    look = {(line.get_color(), line.get_linestyle(), str(line._unscaled_dash_pattern)): line for line in axes.lines}
    assert len(look) == len(rates)
    for name in rates:
        key = drawn[WORDS[name]]
        line = look[key.get_color(), key.get_linestyle(), str(key._unscaled_dash_pattern)]
        assert points(line) == list(zip([0, 1, 2], image_values(name), strict=True))
    assert axes.get_ylabel() == "dropout rate" and axes.get_xlabel() == "epoch"


def test_the_layers_of_either_network_span_the_shades(image_run):
    small = [name for name in IMAGE_NAMES if name not in ("dropout3", "dropout4", "fcdropout0", "fcdropout1")]
    for run in (image_run("small", small, small), image_run("alexnet")):
        legend = draw(dropouts, run).figure.legends[0]
        texts = [text.get_text() for text in legend.get_texts()]
        layers = [line for text, line in zip(texts, legend.get_lines(), strict=True) if text[:8] == "dropout "]
        assert (layers[0].get_color(), layers[-1].get_color()) == (SHADES[0], SHADES[-1])
        grey = [numpy.dot(to_rgb(line.get_color()), [0.299, 0.587, 0.114]) for line in layers]
        assert min(numpy.diff(grey)) > 0.4 / len(layers)


def test_a_perceptrons_rates_are_drawn(image_run):
    """Each by a line of its own; there are no holes to draw."""
    run = image_run("mlp", MLP_NAMES, MLP_NAMES, model="mlp")
    figure, skipped = draw(dropouts, run)
    (axes,), (legend,) = figure.axes, figure.legends
    assert [text.get_text() for text in legend.get_texts()] == [WORDS[name] for name in MLP_NAMES] and skipped == []
    expected = [list(zip([0, 1, 2], image_values(name), strict=True)) for name in MLP_NAMES]
    assert [points(line) for line in axes.lines] == expected
    assert len({(line.get_color(), str(line._unscaled_dash_pattern)) for line in axes.lines}) == 3
    assert names(draw(schedules, run).figure) == MLP_NAMES
    with pytest.raises(UserError, match="nothing to draw"):
        draw(cutout, run)


def test_the_warm_up_of_each_run_is_in_its_panel_of_dropout(image_run):
    runs = [image_run(str(epochs), warmup_epochs=epochs) for epochs in (2, 3)]
    figure, _ = draw(dropouts, *runs)
    # Row 0 of epoch.csv is at the end of the first epoch.
    assert [spans(axes) for axes in figure.axes] == [[(0, 1)], [(0, 2)]]
    assert entries(figure).count("warm-up") == 1


@pytest.mark.parametrize(("first", "ended"), [((4, 3), 1), ((13, 9), 1), ((3, 2), 0), ((4, 2), 0)])
def test_the_warm_up_in_weight_steps_is_where_the_first_round_began(image_run, first, ended):
    """A round is 2 weight and 1 hyperparameter steps; the first row comes after some of them. first: its steps."""
    rows = [(*first[:1], *IMAGE_STEPS[0][1:-1], first[1]), (40, *IMAGE_STEPS[1][1:-1], 28)]
    steps = table(VALID_CSV.split("\n")[0], rows)
    run = image_run(names=STEPPED, tuned=STEPPED, steps=steps, warmup_epochs=1, train_steps=2, valid_steps=1)
    for kind in (schedules, cutout):
        assert spans(panels(draw(kind, run).figure)[0]) == ([(0, ended)] if ended else [])


def test_each_run_has_its_own_panel_of_dropout(image_run):
    off = [name for name in IMAGE_NAMES if name != "dropout4"]
    figure, _ = draw(dropouts, image_run("b"), image_run("a", tuned=["dropout4"], off=off))
    first, second = figure.axes
    assert [axes.get_title() for axes in figure.axes] == ["b", "a"]
    assert (len(first.lines), len(second.lines)) == (8, 1)
    # One scale, on which nothing is cut off.
    assert first.get_ylim() == second.get_ylim() and first.get_ylim()[1] > max(image_values("fcdropout1"))


def test_panels_of_seeds_of_one_name_say_which(image_run):
    runs = [history.read_run(image_run(f"run{seed}", seed=seed)) for seed in (3, 4, 5)]
    named = [replace(run, name=name) for run, name in zip(runs, ("ours", "ours", "theirs"), strict=True)]
    assert [axes.get_title() for axes in dropouts(named).figure.axes][:3] == ["ours, seed 3", "ours, seed 4", "theirs"]
    alike = [replace(run, settings={**run.settings, "seed": 7}) for run in named[:2]]
    assert [axes.get_title() for axes in dropouts(alike).figure.axes] == ["ours, run 1", "ours, run 2"]


def test_cutout_is_drawn_unfloored_floored_and_banded(image_run):
    figure, _ = draw(cutout, image_run())
    floors = {"cutlength": [4, 7, 9], "cutholes": [1, 2, 0]}
    for name, label in (("cutlength", "hole length (pixels)"), ("cutholes", "number of holes")):
        line, steps = panel(figure, label).lines
        assert points(line) == list(zip([0, 1, 2], image_values(name), strict=True))
        assert points(steps) == list(zip([0, 1, 2], floors[name], strict=True))
        assert steps.get_drawstyle() == "steps-mid"
        _, low, high = band(figure, label)
        expected = neighbourhood(image_values(name), [0.5, 0.75, 1.0], IMAGE_RANGES[name])
        assert (list(low), list(high)) == tuple(map(pytest.approx, expected))
        assert panel(figure, label).get_ylim()[1] >= max(high)


def test_a_baselines_epochs_do_not_stretch_the_axis_of_weight_steps(image_run):
    tuned, fixed = image_run(names=STEPPED, tuned=STEPPED, steps=VALID_CSV), image_run("fixed", STEPPED, tuned=())
    row = pandas.read_csv(fixed / "epoch.csv").iloc[:1]
    pandas.concat([row.assign(epoch=epoch) for epoch in range(100)]).to_csv(fixed / "epoch.csv", index=False)
    alone, both = (panel(draw(schedules, *runs).figure, "cutlength") for runs in ((tuned,), (tuned, fixed)))
    assert both.get_xlim() == alone.get_xlim()


@pytest.mark.parametrize("rows", [0, 3])
def test_an_image_runs_steps_are_those_of_valid_csv(image_run, rows):
    """With their own scales, before an epoch has ended too."""
    run = image_run(names=STEPPED, tuned=STEPPED, steps=VALID_CSV, rows=rows)
    axes = panel(draw(dropouts, run).figure, "dropout rate")
    assert points(axes.lines[0]) == list(zip([2, 4, 6], image_step_values("dropout0"), strict=True))
    assert axes.get_xlabel() == "weight step"
    for kind, labels in (
        (schedules, {name: name for name in STEPPED}),
        (cutout, {name: WORDS[name] for name in CUTOUT}),
    ):
        figure, _ = draw(kind, run)
        assert {panel(figure, label).get_xlabel() for label in labels.values()} == {"weight step"}
        for name, label in labels.items():
            assert points(panel(figure, label).lines[0]) == list(zip([2, 4, 6], image_step_values(name), strict=True))
            x, low, high = band(figure, label)
            expected = neighbourhood(image_step_values(name), image_step_values(name, column=8), IMAGE_RANGES[name])
            assert (x, list(low), list(high)) == ([2, 4, 6], *map(pytest.approx, expected))
    steps = panel(draw(cutout, run).figure, WORDS["cutlength"]).lines[1]
    assert points(steps) == [(2, 4), (4, 3), (6, 5)]


def ends(line):
    return min(line.get_xdata()), max(line.get_xdata())


def test_an_image_run_in_its_warm_up_is_constant_among_weight_steps(image_run):
    warming = image_run("warming", names=STEPPED, tuned=STEPPED, rows=1)
    stepping = image_run("stepping", names=STEPPED, tuned=STEPPED, steps=VALID_CSV)
    lines = panel(draw(schedules, warming, stepping).figure, "cutlength").lines
    assert [ends(line) for line in lines] == [(0, 1), (2, 6)]
    first, second = draw(dropouts, warming, stepping).figure.axes
    assert [ends(axes.lines[0]) for axes in (first, second)] == [(0, 1), (2, 6)]
    lines = panel(draw(cutout, warming, stepping).figure, WORDS["cutholes"]).lines
    assert [{*line.get_ydata()} for line in lines[::2]] == [{1.5}, {1}]
    assert [ends(line) for line in lines] == [(0, 1), (2, 6), (0, 1), (2, 6)]


def test_an_image_run_without_steps_that_changes_puts_all_against_epochs(image_run):
    replay = image_run("replay", names=STEPPED, tuned=[])
    stepping = image_run("stepping", names=STEPPED, tuned=STEPPED, steps=VALID_CSV)
    for kind in (schedules, dropouts, cutout):
        figure, skipped = draw(kind, replay, stepping)
        assert {axes.get_xlabel() for axes in panels(figure)} - {""} == {"epoch"} and skipped == []
        assert {tuple(line.get_xdata()) for axes in figure.axes for line in axes.lines} == {(0, 1, 2)}


def test_no_hole_is_not_hidden_by_the_axis(image_run):
    figure, _ = draw(cutout, image_run())
    assert panel(figure, WORDS["cutholes"]).get_ylim()[0] < 0


@pytest.mark.parametrize("kind", [schedules, dropouts, cutout])
def test_all_of_an_image_run_is_in_view(image_run, kind):
    assert_in_view(draw(kind, image_run()).figure)


@pytest.mark.parametrize("kind", [dropouts, cutout])
def test_a_language_model_is_left_out_of_the_images_figures(tmp_path, image_run, kind):
    language = write_run(tmp_path / "logs")
    figure, skipped = draw(kind, language, image_run())
    assert skipped == [] and not figure.axes[0].get_title().startswith("tuned")
    with pytest.raises(UserError, match="nothing to draw"):
        draw(kind, language)


@pytest.mark.parametrize("count", [2, 3, 12])
@pytest.mark.parametrize("kind", [schedules, dropouts, cutout])
def test_long_names_fit(tmp_path, kind, count):
    figure = draw(kind, *long_names(tmp_path / "logs", count)).figure
    assert_apart(figure)
    assert_legible(figure)


def test_a_lone_run_has_no_name_in_the_legend(image_run):
    figure, _ = draw(cutout, image_run())
    words = [text.get_text().replace("\n", " ") for text in figure.legends[0].get_texts()]
    assert words == ["before rounding", "rounded down", "± 1 scale of the perturbation"]
