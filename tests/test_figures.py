"""Figures from made-up run folders, without a display."""

import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy
import pandas
import pytest
import yaml

from stn.errors import UserError
from stn.figures import plots, style
from stn.hyperparameters import neighbourhood
from stn.runs import history

ROOT = Path(__file__).resolve().parents[1]
EPOCHS = [  # epoch, time, train_loss, val_loss, train_ppl, val_ppl, alpha, dropouto, lr
    (0, 60.0, 6.0, 5.9, 403.4, 365.0, 2.0, 0.5, 30.0),
    (1, 120.0, 5.5, 5.2, 244.7, 181.3, 2.0, 0.4, 30.0),
    (2, 180.0, 4.9, 5.3, 134.3, 200.3, 2.0, 0.2, 30.0),
]
EPOCH_HEADER = "epoch,time,train_loss,val_loss,train_ppl,val_ppl,alpha,dropouto,lr"
VAL_HEADER = "global_step,time,alpha,dropouto,train_step"
STEPS = [(3, 1.0, 2.0, 0.5, 2), (6, 2.0, 2.0, 0.4, 4), (9, 3.0, 2.0, 0.25, 6)]


def table(header, rows):
    return "\n".join([header, *(",".join(map(str, row)) for row in rows)]) + "\n"


def write_settings(path, hyperparameters=("alpha", "dropouto"), **settings):
    text = yaml.safe_dump({"hyperparameters": [*hyperparameters], **settings})
    (path / "args.yaml").write_text(text)


EPOCH_CSV, VAL_CSV = table(EPOCH_HEADER, EPOCHS), table(VAL_HEADER, STEPS)


@pytest.fixture
def make_run(tmp_path):
    def make(name="tuned", epoch=EPOCH_CSV, val=VAL_CSV, date="2026-01-02"):
        path = tmp_path / "logs" / name / date
        path.mkdir(parents=True)
        write_settings(path, save_dir=name)
        for file, text in (("epoch.csv", epoch), ("val.csv", val)):
            if text is not None:
                (path / file).write_text(text)
        return path

    return make


@pytest.fixture
def fixed(make_run):
    """A run that tunes nothing: no val.csv, and constants in epoch.csv."""
    return make_run("fixed", epoch=table(EPOCH_HEADER, [(*row[:7], 0.5, 30.0) for row in EPOCHS]), val=None)


def panel(figure, name):
    return next(axes for axes in figure.axes if axes.get_ylabel() == name)


def points(line):
    return [tuple(point) for point in numpy.column_stack([line.get_xdata(), line.get_ydata()])]


def draw(*paths, kind=plots.schedules):
    return kind([history.read_run(path) for path in paths])


def test_schedules_plot_the_csv(make_run):
    figure, skipped = draw(make_run())
    (line,) = panel(figure, "dropouto").lines
    assert points(line) == [(2, 0.5), (4, 0.4), (6, 0.25)]
    assert panel(figure, "dropouto").get_xlabel() == "weight step"
    assert [axes.get_ylabel() for axes in figure.axes if axes.axison] == ["alpha", "dropouto"]
    assert skipped == []


def test_constants_are_thin_dashed_lines_across_the_panel(make_run, fixed):
    figure, _ = draw(make_run(), fixed)
    moving, constant = panel(figure, "dropouto").lines
    assert list(constant.get_ydata()) == [0.5, 0.5]
    assert list(constant.get_xdata()) == [0, 1]  # the axes' own width
    assert constant.get_linewidth() < moving.get_linewidth()
    assert constant.get_linestyle() == "--" != moving.get_linestyle()


def test_changing_values_without_val_csv_go_by_epoch(make_run):
    figure, _ = draw(make_run(), make_run("replayed", val=None))
    assert panel(figure, "dropouto").get_xlabel() == "epoch"
    assert [points(line) for line in panel(figure, "dropouto").lines] == [[(0, 0.5), (1, 0.4), (2, 0.2)]] * 2


def test_scales_and_learning_rate_are_no_panels(make_run):
    header = EPOCH_HEADER.replace(",lr", ",dropouto_scale,lr")
    figure, _ = draw(make_run(epoch=table(header, [(*row[:8], 1.0, 30.0) for row in EPOCHS]), val=None))
    assert [axes.get_ylabel() for axes in figure.axes if axes.axison] == ["alpha", "dropouto"]


def test_perplexities_plot_the_csv(make_run):
    figure, _ = draw(make_run(), kind=plots.perplexities)
    by_epoch, by_time = figure.axes
    for axes, x in ((by_epoch, [0, 1, 2]), (by_time, [1, 2, 3])):
        train, valid, best = axes.lines
        assert points(train) == list(zip(x, [403.4, 244.7, 134.3], strict=True))
        assert points(valid) == list(zip(x, [365.0, 181.3, 200.3], strict=True))
        assert points(best) == [(x[1], 181.3)]
        assert train.get_linestyle() == "--" and valid.get_linestyle() == "-"
    assert (by_epoch.get_xlabel(), by_time.get_xlabel()) == ("epoch", "time (minutes)")
    assert by_epoch.get_yscale() == "linear"


def test_a_wide_span_is_logarithmic(make_run):
    rows = [(0, 60.0, 9.0, 9.0, 8103.1, 8103.1, 2.0, 0.5, 30.0), *EPOCHS[1:]]
    figure, _ = draw(make_run(epoch=table(EPOCH_HEADER, rows)), kind=plots.perplexities)
    assert figure.axes[0].get_yscale() == "log"


@pytest.mark.parametrize(("longest", "unit"), [(20, "seconds"), (600, "minutes"), (20_000, "hours"), (1e6, "days")])
def test_time_has_a_fitting_unit(longest, unit):
    assert plots._time_unit(longest)[1] == unit


def test_a_row_cut_off_is_left_out(make_run):
    # Without its newline "…,6" may have been "…,61": not a whole row, though every column is there.
    run = make_run(epoch=EPOCH_CSV + "3,240.0,4.", val=VAL_CSV[:-1])
    (line,) = panel(draw(run).figure, "dropouto").lines
    assert points(line) == [(2, 0.5), (4, 0.4)]
    valid = draw(run, kind=plots.perplexities).figure.axes[0].lines[1]
    assert list(valid.get_xdata()) == [0, 1, 2]


@pytest.mark.parametrize("epoch", [None, "", "epoch,ti", EPOCH_HEADER + "\n", EPOCH_HEADER + "\n0,60.0"])
@pytest.mark.parametrize("kind", [plots.schedules, plots.perplexities])
def test_a_run_without_a_row_is_named(make_run, epoch, kind):
    empty = make_run("empty", epoch=epoch, val=None)
    with pytest.raises(UserError, match="empty/2026-01-02") as error:
        draw(empty, kind=kind)
    assert "\n" not in str(error.value)
    figure, skipped = draw(make_run(), empty, kind=kind)
    assert len(figure.axes[0].lines) == (1 if kind is plots.schedules else 3)
    assert len(skipped) == 1 and str(empty) in skipped[0]


def test_header_only_val_csv_falls_back_to_epochs(make_run):
    figure, _ = draw(make_run(val=VAL_HEADER + "\n"))
    assert points(panel(figure, "dropouto").lines[0])[0] == (0, 0.5)
    assert panel(figure, "dropouto").get_xlabel() == "epoch"


def test_a_missing_run_is_named(tmp_path):
    with pytest.raises(UserError, match="nowhere"):
        history.read_run(tmp_path / "nowhere")


def test_what_is_no_number_is_named(make_run):
    run = make_run(epoch=EPOCH_HEADER + "\n" + ",".join(["what"] * 9) + "\n")
    with pytest.raises(UserError, match=r"epoch\.csv"):
        history.read_run(run)


@pytest.mark.parametrize(
    ("names", "expected"),
    [
        (["demo/fixed/2026-01-02", "demo/tuned/2026-01-02"], ["fixed", "tuned"]),
        (["paper/2026-01-02-a", "paper/2026-01-03-a"], ["2026-01-02-a", "2026-01-03-a"]),
        (["paper/2026-01-02"], ["paper/2026-01-02"]),
        (["a/2026-01-02", "b/c/2026-01-02"], ["a", "b"]),
        (["tuned/seed0/lr1_01:02:03", "fixed/seed0/lr1_cut4_01:02:03"], ["tuned", "fixed"]),
        (["a/2026-01-02", "a/2026-01-03", "b/2026-01-03"], ["a/2026-01-02", "a/2026-01-03", "b/2026-01-03"]),
    ],
)
def test_labels_are_what_tells_runs_apart(make_run, names, expected):
    runs = [history.read_run(make_run(*name.rsplit("/", 1)[:1], date=name.rsplit("/", 1)[1])) for name in names]
    assert history.labels(runs) == expected


def test_labels_of_runs_with_nothing_in_common(make_run):
    here = history.read_run(make_run("tuned"))
    elsewhere = [replace(here, path=Path(path)) for path in ("/one/logs/tuned/a", "/two/logs/fixed/a")]
    assert history.labels(elsewhere) == ["tuned", "fixed"]
    same = [replace(here, path=Path(path)) for path in ("/one/logs/a", "/two/logs/a")]
    assert history.labels(same) == ["one", "two"]
    deep = [replace(here, path=Path(path)) for path in ("/one/x/logs/a/b", "/two/x/logs/a/b")]
    assert history.labels(deep) == ["/one/x/logs/a/b", "/two/x/logs/a/b"]


def test_several_runs_differ_in_colour_and_style(make_run):
    runs = [make_run(name) for name in ("a", "b", "c")]
    figure, _ = draw(*runs)
    lines = panel(figure, "dropouto").lines
    assert len({line.get_color() for line in lines}) == 3
    # A line's own dashes, as matplotlib scales them.
    assert len({str(line._unscaled_dash_pattern) for line in lines}) == 3


def test_every_letter_is_legible(make_run, fixed):
    for kind in (plots.schedules, plots.perplexities):
        figure = draw(make_run(f"{kind.__name__}"), fixed, kind=kind).figure
        figure.draw_without_rendering()
        assert 3.3 <= figure.get_figwidth() <= 7
        texts = figure.findobj(lambda artist: hasattr(artist, "get_fontsize") and artist.get_text())
        assert min(text.get_fontsize() for text in texts) >= 7


def test_main_writes_pdf_and_png_without_a_display(make_run, fixed, tmp_path):
    environment = {name: value for name, value in os.environ.items() if name not in ("DISPLAY", "MPLBACKEND")}
    environment["PYTHONPATH"] = str(ROOT)
    command = [sys.executable, "-m", "stn.figures", str(make_run()), str(fixed)]
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")
    files = [tmp_path / line for line in done.stdout.splitlines()]
    assert {file.name for file in files} == {
        f"{figure}.{suffix}" for figure in ("schedules", "perplexities") for suffix in ("pdf", "png")
    }
    starts = {".pdf": b"%PDF", ".png": b"\x89PNG"}
    assert all(file.read_bytes().startswith(starts[file.suffix]) for file in files)
    assert {file.parent.name for file in files} == {"plots"}


def test_main_reports_what_is_left_out(make_run, tmp_path, capsys):
    empty = make_run("empty", epoch=EPOCH_HEADER + "\n", val=None)
    assert plots.main([str(make_run()), str(empty), "--out", str(tmp_path / "out")]) == 0
    assert capsys.readouterr().err.count(str(empty)) == 2
    assert plots.main([str(tmp_path / "nowhere")]) == 2
    assert "nowhere" in capsys.readouterr().err


def test_save_into_a_file_is_an_error(make_run, tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match="file"):
        style.save(draw(make_run()).figure, tmp_path / "file" / "schedules")


# The band of the perturbation


SCALED_EPOCH = table(
    EPOCH_HEADER.replace(",lr", ",dropouto_scale,lr"),
    [(0, 2.0, 6, 5.9, 403, 365, 2.0, 0.4, 0.5, 30), (1, 4.0, 5, 5.2, 244, 181, 2.0, 0.2, 1.5, 30)],
)


def sigmoid(x):
    return 1 / (1 + numpy.exp(-x))


def logit(p):
    return numpy.log(p) - numpy.log1p(-p)


def band(figure, name):
    """The band's x, lower and upper edge."""
    (collection,) = panel(figure, name).collections
    (path,) = collection.get_paths()
    xs = sorted({*path.vertices[:, 0]})
    return xs, *zip(
        *((min(ys), max(ys)) for x in xs for ys in [path.vertices[path.vertices[:, 0] == x, 1]]), strict=True
    )


def test_a_tuned_ones_scale_is_a_band_in_unconstrained_space(make_run):
    path = make_run(epoch=SCALED_EPOCH)
    write_settings(path, ranges={"dropouto": [0, 1]})
    figure, _ = draw(path)
    x, low, high = band(figure, "dropouto")
    assert x == [2, 4, 6]
    value, scale = numpy.array([0.5, 0.4, 0.25]), numpy.array([0.5, 0.5, 1.0])  # at 1, 2 and 3 s
    assert low == pytest.approx(sigmoid(logit(value) - scale), rel=1e-5)
    assert high == pytest.approx(sigmoid(logit(value) + scale), rel=1e-5)
    assert not panel(figure, "alpha").collections
    assert panel(figure, "dropouto").get_ylim()[1] > max(high)


@pytest.mark.parametrize("settings", [{}, {"ranges": {}}, {"ranges": {"alpha": [0, 1]}}])
def test_without_a_range_there_is_no_band(make_run, settings):
    path = make_run(epoch=SCALED_EPOCH)
    write_settings(path, **settings)
    figure, _ = draw(path)
    assert not panel(figure, "dropouto").collections


# Initial values


@pytest.fixture
def started(make_run):
    """started(value): a run that tuned dropouto from there."""

    def make(value, val=VAL_CSV):
        path = make_run(f"init{value}", val=val)
        write_settings(path, dropouto=value, ranges={"dropouto": [0, 1]})
        return path

    return make


def from_initial(*paths):
    return plots.initial_values([history.read_run(path) for path in paths], "dropouto", "output dropout")


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


def test_a_run_without_steps_is_named_and_left_out(started):
    half = started(0.3, val=None)
    _, (line,) = from_initial(started(0.05), half)
    assert str(half) in line
    with pytest.raises(UserError, match="nothing to draw"):
        from_initial(half)


@pytest.mark.parametrize("settings", [{}, {"dropouto": "half"}, {"ranges": {}}, {"dropouto": None}])
def test_a_run_that_does_not_say_where_it_started_or_tuned_another_is_left_out(started, settings):
    odd = started(0.3)
    found = yaml.safe_load((odd / "args.yaml").read_text())
    write_settings(odd, **({**found, **settings} if settings else {}))
    _, (line,) = from_initial(started(0.05), odd)
    assert str(odd) in line


def test_a_run_whose_steps_lack_the_hyperparameter_is_left_out(started):
    other = started(0.3, val="global_step,time,alpha,train_step\n3,1,2,2\n")
    _, (line,) = from_initial(started(0.05), other)
    assert str(other) in line


def test_a_band_against_epochs_goes_by_the_epochs_rows(make_run):
    """Where another run has no steps, all are drawn against epochs."""
    path = make_run(epoch=SCALED_EPOCH)
    write_settings(path, ranges={"dropouto": [0, 1]})
    figure, _ = draw(path, make_run("replay", val=None))
    x, low, _ = band(figure, "dropouto")
    assert x == [0, 1]
    assert low == pytest.approx(sigmoid(logit(numpy.array([0.4, 0.2])) - [0.5, 1.5]), rel=1e-5)


def test_all_panels_reach_as_far_as_the_longest_run(make_run, fixed):
    figure, _ = draw(make_run(), fixed)
    limits = {axes.get_xlim() for axes in figure.axes if axes.axison}
    assert len(limits) == 1 and limits.pop() == (0, pytest.approx(6, rel=0.05))


# Image classifiers


IMAGE_NAMES = ["dropout0", "dropout1", "dropout2", "dropout3", "dropout4", "hue", "contrast", "sat", "bright"]
IMAGE_NAMES += ["indropout", "inscale", "cutlength", "cutholes", "fcdropout0", "fcdropout1"]
IMAGE_RANGES = dict.fromkeys(IMAGE_NAMES, (0.0, 0.9)) | {"cutlength": (0.0, 25.0), "cutholes": (0.0, 4.0)}
IMAGE_HEADER = "epoch,time,train_loss,val_loss,train_acc,val_acc"
IMAGE_SCORES = [(0, 60, 2.5, 2.0, 0.25, 0.5), (1, 120, 1.5, 1.25, 0.5, 0.75), (2, 180, 1.0, 1.5, 0.875, 0.625)]


def image_values(name):
    """A hyperparameter's value after each epoch."""
    if name in ("cutlength", "cutholes"):
        return {"cutlength": [4.5, 7.25, 9.75], "cutholes": [1.5, 2.25, 0.75]}[name]
    place = IMAGE_NAMES.index(name)
    return [0.05, 0.1 + place / 50, 0.2 + place / 50]


@pytest.fixture
def image_run(make_run):
    def make(name="images", names=IMAGE_NAMES, tuned=IMAGE_NAMES, off=(), rows=3, steps=None):
        header = ",".join([IMAGE_HEADER, *names, *(f"{tune}_scale" for tune in tuned), "lr"])
        columns = [[0.0] * 3 if one in off else image_values(one) for one in names]
        values = zip(*columns, *([0.5, 0.75, 1.0] for _ in tuned), strict=True)
        lines = [(*scores, *row, 0.01) for scores, row in zip(IMAGE_SCORES, values, strict=True)][:rows]
        path = make_run(name, epoch=table(header, lines), val=None)
        if steps is not None:
            (path / "valid.csv").write_text(steps)
        ranges = {tune: [*IMAGE_RANGES[tune]] for tune in tuned}
        write_settings(path, names, model="alexnet", ranges=ranges)
        return path

    return make


def test_fifteen_schedules_are_grouped_and_banded(image_run):
    figure, _ = draw(image_run())
    order = ["dropout0", "dropout1", "dropout2", "dropout3", "dropout4", "indropout", "fcdropout0", "fcdropout1"]
    order += ["hue", "contrast", "sat", "bright", "inscale", "cutlength", "cutholes"]
    assert [axes.get_ylabel() for axes in figure.axes if axes.axison] == order
    for name in IMAGE_NAMES:
        (line,) = panel(figure, name).lines
        assert points(line) == list(zip([0, 1, 2], image_values(name), strict=True))
        x, low, high = band(figure, name)
        expected = neighbourhood(image_values(name), [0.5, 0.75, 1.0], IMAGE_RANGES[name])
        assert (x, list(low), list(high)) == ([0, 1, 2], *map(pytest.approx, expected))


def test_what_is_off_has_no_panel(image_run):
    off = [name for name in IMAGE_NAMES if name not in ("hue", "sat")]
    figure, _ = draw(image_run(tuned=["hue", "sat"], off=off))
    assert [axes.get_ylabel() for axes in figure.axes if axes.axison] == ["hue", "sat"]
    # Nothing at all is on: the zeros are what there is to see.
    figure, _ = draw(image_run("none", tuned=[], off=IMAGE_NAMES))
    assert len([axes for axes in figure.axes if axes.axison]) == 15


def test_dropout_of_all_layers_is_in_one_panel(image_run):
    figure, skipped = draw(image_run(), kind=plots.dropouts)
    (axes,) = figure.axes
    names = [name for name in IMAGE_NAMES if "dropout" in name]
    (legend,) = figure.legends
    drawn = {text.get_text(): key for text, key in zip(legend.get_texts(), legend.get_lines(), strict=True)}
    assert {*drawn} == {*names} and len(axes.lines) == len(names) and skipped == []
    look = {(line.get_color(), line.get_linestyle(), str(line._unscaled_dash_pattern)): line for line in axes.lines}
    assert len(look) == len(names)
    for name, key in drawn.items():
        line = look[key.get_color(), key.get_linestyle(), str(key._unscaled_dash_pattern)]
        assert points(line) == list(zip([0, 1, 2], image_values(name), strict=True))
    assert axes.get_ylabel() == "dropout rate" and axes.get_xlabel() == "epoch"


def test_each_run_has_its_own_panel_of_dropout(image_run):
    off = [name for name in IMAGE_NAMES if name != "dropout4"]
    figure, _ = draw(image_run("b"), image_run("a", tuned=["dropout4"], off=off), kind=plots.dropouts)
    first, second = figure.axes
    assert [axes.get_title() for axes in figure.axes] == ["b", "a"]
    assert (len(first.lines), len(second.lines)) == (8, 1)
    # One scale, on which nothing is cut off.
    assert first.get_ylim() == second.get_ylim() and first.get_ylim()[1] > max(image_values("fcdropout1"))


def test_cutout_is_drawn_unfloored_floored_and_banded(image_run):
    figure, _ = draw(image_run(), kind=plots.cutout)
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


# global_step, time, loss, acc, entropy, dropout0, cutlength, cutholes, their scales, train_step
IMAGE_STEPS = [
    (3, 1, 2.2, 0.2, 1.5, 0.05, 4.5, 1.5, 0.5, 0.6, 0.7, 2),
    (6, 2, 2.1, 0.3, 1.6, 0.2, 3.5, 0.5, 0.6, 0.7, 0.8, 4),
    (9, 3, 2.0, 0.4, 1.7, 0.3, 5.25, 2.5, 0.7, 0.8, 0.9, 6),
]
STEPPED = ["dropout0", "cutlength", "cutholes"]
VALID_HEADER = ["global_step", "time", "loss", "acc", "entropy", *STEPPED, *(f"{name}_scale" for name in STEPPED)]
VALID_CSV = table(",".join([*VALID_HEADER, "train_step"]), IMAGE_STEPS)


def step_values(name, column=5):
    return [row[column + STEPPED.index(name)] for row in IMAGE_STEPS]


def test_a_baselines_epochs_do_not_stretch_the_axis_of_weight_steps(image_run):
    tuned, fixed = image_run(names=STEPPED, tuned=STEPPED, steps=VALID_CSV), image_run("fixed", STEPPED, tuned=())
    row = pandas.read_csv(fixed / "epoch.csv").iloc[:1]
    pandas.concat([row.assign(epoch=epoch) for epoch in range(100)]).to_csv(fixed / "epoch.csv", index=False)
    alone, both = (panel(draw(*runs).figure, "cutlength") for runs in ((tuned,), (tuned, fixed)))
    assert both.get_xlim() == alone.get_xlim()


@pytest.mark.parametrize("rows", [0, 3])
def test_an_image_runs_steps_are_those_of_valid_csv(image_run, rows):
    """With their own scales, before an epoch has ended too."""
    run = image_run(names=STEPPED, tuned=STEPPED, steps=VALID_CSV, rows=rows)
    axes = panel(draw(run, kind=plots.dropouts).figure, "dropout rate")
    assert points(axes.lines[0]) == list(zip([2, 4, 6], step_values("dropout0"), strict=True))
    assert axes.get_xlabel() == "weight step"
    for kind, labels in ((plots.schedules, {name: name for name in STEPPED}), (plots.cutout, plots.CUTOUT)):
        figure, _ = draw(run, kind=kind)
        assert {panel(figure, label).get_xlabel() for label in labels.values()} == {"weight step"}
        for name, label in labels.items():
            assert points(panel(figure, label).lines[0]) == list(zip([2, 4, 6], step_values(name), strict=True))
            x, low, high = band(figure, label)
            expected = neighbourhood(step_values(name), step_values(name, column=8), IMAGE_RANGES[name])
            assert (x, list(low), list(high)) == ([2, 4, 6], *map(pytest.approx, expected))
    steps = panel(draw(run, kind=plots.cutout).figure, plots.CUTOUT["cutlength"]).lines[1]
    assert points(steps) == [(2, 4), (4, 3), (6, 5)]


def test_an_image_run_in_its_warm_up_is_constant_among_weight_steps(image_run):
    warming = image_run("warming", names=STEPPED, tuned=STEPPED, rows=1)
    stepping = image_run("stepping", names=STEPPED, tuned=STEPPED, steps=VALID_CSV)
    lines = panel(draw(warming, stepping).figure, "cutlength").lines
    assert [list(line.get_xdata()) for line in lines] == [[0, 1], [2, 4, 6]]
    first, second = draw(warming, stepping, kind=plots.dropouts).figure.axes
    assert [list(axes.lines[0].get_xdata()) for axes in (first, second)] == [[0, 1], [2, 4, 6]]
    lines = panel(draw(warming, stepping, kind=plots.cutout).figure, plots.CUTOUT["cutholes"]).lines
    assert [list(line.get_ydata()) for line in lines[:2]] == [[1.5, 1.5], [1, 1]]
    assert [list(line.get_xdata()) for line in lines] == [[0, 1], [0, 1], [2, 4, 6], [2, 4, 6]]


def test_an_image_run_without_steps_that_changes_puts_all_against_epochs(image_run):
    replay = image_run("replay", names=STEPPED, tuned=[])
    stepping = image_run("stepping", names=STEPPED, tuned=STEPPED, steps=VALID_CSV)
    for kind in (plots.schedules, plots.dropouts, plots.cutout):
        figure, skipped = draw(replay, stepping, kind=kind)
        assert {axes.get_xlabel() for axes in figure.axes if axes.axison} - {""} == {"epoch"} and skipped == []
        assert {tuple(line.get_xdata()) for axes in figure.axes for line in axes.lines} == {(0, 1, 2)}


def test_no_hole_is_not_hidden_by_the_axis(image_run):
    figure, _ = draw(image_run(), kind=plots.cutout)
    assert panel(figure, plots.CUTOUT["cutholes"]).get_ylim()[0] < 0


def test_accuracies_plot_the_csv(image_run):
    figure, _ = draw(image_run(), kind=plots.accuracies)
    loss, accuracy = figure.axes
    for axes, column in ((loss, 2), (accuracy, 4)):
        train, valid, best = axes.lines
        assert points(train) == [(row[0], row[column]) for row in IMAGE_SCORES]
        assert points(valid) == [(row[0], row[column + 1]) for row in IMAGE_SCORES]
        assert points(best) == [(1, IMAGE_SCORES[1][column + 1])]  # the lowest validation loss
        assert axes.get_xlabel() == "epoch"
    assert (loss.get_ylabel(), accuracy.get_ylabel()) == ("loss (nats)", "accuracy (%)")
    assert [accuracy.yaxis.get_major_formatter()(share) for share in (0.5, 0.55, 0.125)] == ["50", "55", "12.5"]


@pytest.mark.parametrize("kind", [plots.schedules, plots.dropouts, plots.cutout, plots.accuracies])
def test_all_of_an_image_run_is_in_view(image_run, kind):
    assert_in_view(draw(image_run(), kind=kind).figure)


@pytest.mark.parametrize("kind", [plots.schedules, plots.perplexities])
def test_all_of_a_language_model_is_in_view(make_run, kind):
    assert_in_view(draw(make_run(), kind=kind).figure)


def assert_in_view(figure):
    for axes in filter(lambda axes: axes.axison, figure.axes):
        for line in axes.lines:
            for values, (low, high) in ((line.get_xdata(), axes.get_xlim()), (line.get_ydata(), axes.get_ylim())):
                assert low <= min(values) and max(values) <= high


FEW = ["dropout0", "hue", "cutlength", "cutholes"]


def test_what_is_drawn_is_what_the_columns_allow(make_run, image_run):
    def names(*paths):
        return [kind.__name__ for kind in plots._drawings([history.read_run(path) for path in paths])]

    images, language = image_run(), make_run()
    hue = image_run("hue", tuned=["hue"], off=[name for name in IMAGE_NAMES if name != "hue"])
    assert names(hue) == ["schedules", "accuracies"]
    assert names(images) == ["schedules", "dropouts", "cutout", "accuracies"]
    assert names(language) == ["schedules", "perplexities"]
    assert names(images, language) == ["schedules", "dropouts", "cutout", "perplexities", "accuracies"]


def test_main_draws_a_run_of_one_epoch(image_run, tmp_path, recwarn):
    assert plots.main([str(image_run(names=FEW, tuned=FEW, rows=1)), "--out", str(tmp_path / "out")]) == 0
    kinds = ("schedules", "dropouts", "cutout", "accuracies")
    assert {file.name for file in (tmp_path / "out").iterdir()} == {
        f"{kind}.{suffix}" for kind in kinds for suffix in ("pdf", "png")
    }
    assert not recwarn


@pytest.mark.parametrize("kind", [plots.dropouts, plots.cutout, plots.accuracies])
def test_a_language_model_is_left_out_of_the_images_figures(make_run, image_run, kind):
    language = make_run()
    _, (line,) = draw(language, image_run(), kind=kind)
    assert line.startswith(str(language)) and "\n" not in line
    with pytest.raises(UserError, match="nothing to draw"):
        draw(language, kind=kind)


@pytest.mark.parametrize("names", ["ab", "abc"])
@pytest.mark.parametrize("kind", [plots.schedules, plots.dropouts, plots.cutout, plots.accuracies])
def test_long_names_fit(image_run, kind, names):
    """Nothing overlaps: legend and panels are apart, and all lies on the figure."""
    words = "batch_size128_modelalexnet_total_epochs500_tune_all_tune_scales_valid_lr0.003_warmup_epochs5"
    figure = draw(*(image_run(f"{name}_{words}", FEW, FEW) for name in names), kind=kind).figure
    figure.draw_without_rendering()
    (legend,) = figure.legends
    box = legend.get_window_extent()
    assert figure.bbox.padded(1).contains(box.x0, box.y0) and figure.bbox.padded(1).contains(box.x1, box.y1)
    panels = [axes for axes in figure.axes if axes.axison]
    for axes in panels:
        assert axes.get_tightbbox().y0 >= box.y1 - 1
        assert axes.bbox.height > 0.5 * figure.dpi  # half an inch
        assert sum(axes.get_tightbbox().overlaps(other.get_tightbbox()) for other in panels) == 1  # itself
        assert figure.bbox.padded(1).x1 >= axes.get_tightbbox().x1
    texts = figure.findobj(lambda artist: hasattr(artist, "get_fontsize") and artist.get_text())
    assert min(text.get_fontsize() for text in texts) >= 7


def test_a_lone_run_has_no_name_in_the_legend(image_run):
    figure, _ = draw(image_run(), kind=plots.cutout)
    words = [text.get_text().replace("\n", " ") for text in figure.legends[0].get_texts()]
    assert words == ["before rounding", "rounded down", "± 1 scale of the perturbation"]
