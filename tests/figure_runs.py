"""What the tests of figures share: made-up run folders, and what is in a figure of them."""

from typing import NamedTuple

import numpy
import yaml

from stn.runs import history

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


EPOCH_CSV, VAL_CSV = table(EPOCH_HEADER, EPOCHS), table(VAL_HEADER, STEPS)


def write_run(logs, name="tuned", epoch=EPOCH_CSV, val=VAL_CSV, date="2026-01-02", **settings):
    """A run's folder below logs: by default a language model's that tuned dropouto."""
    path = logs / name / date
    path.mkdir(parents=True)
    settings = {"save_dir": name, "hyperparameters": ["alpha", "dropouto"], **settings}
    (path / "args.yaml").write_text(yaml.safe_dump(settings))
    for file, text in (("epoch.csv", epoch), ("val.csv", val)):
        if text is not None:
            (path / file).write_text(text)
    return path


def write_fixed(logs):
    """A run that tunes nothing: no val.csv, and constants in epoch.csv."""
    return write_run(logs, "fixed", epoch=table(EPOCH_HEADER, [(*row[:7], 0.5, 30.0) for row in EPOCHS]), val=None)


IMAGE_NAMES = ["dropout0", "dropout1", "dropout2", "dropout3", "dropout4", "hue", "contrast", "sat", "bright"]
IMAGE_NAMES += ["indropout", "inscale", "cutlength", "cutholes", "fcdropout0", "fcdropout1"]
FEW = ["dropout0", "hue", "cutlength", "cutholes"]
ALL_IMAGE_NAMES = [*IMAGE_NAMES, "fcdropout2"]  # the perceptron's, too
IMAGE_RANGES = dict.fromkeys(ALL_IMAGE_NAMES, (0.0, 0.9)) | {"cutlength": (0.0, 25.0), "cutholes": (0.0, 4.0)}
IMAGE_HEADER = "epoch,time,train_loss,val_loss,train_acc,val_acc"
IMAGE_SCORES = [(0, 60, 2.5, 2.0, 0.25, 0.5), (1, 120, 1.5, 1.25, 0.5, 0.75), (2, 180, 1.0, 1.5, 0.875, 0.625)]


def image_values(name):
    """A hyperparameter's value after each epoch."""
    if name in ("cutlength", "cutholes"):
        return {"cutlength": [4.5, 7.25, 9.75], "cutholes": [1.5, 2.25, 0.75]}[name]
    place = ALL_IMAGE_NAMES.index(name)
    return [0.05, 0.1 + place / 50, 0.2 + place / 50]


def write_image_run(logs, name="images", names=IMAGE_NAMES, tuned=IMAGE_NAMES, off=(), rows=3, steps=None, **settings):
    """An image classifier's run: of these hyperparameters some tuned, some off; steps: the text of valid.csv."""
    header = ",".join([IMAGE_HEADER, *names, *(f"{tune}_scale" for tune in tuned), "lr"])
    columns = [[0.0] * 3 if one in off else image_values(one) for one in names]
    values = zip(*columns, *([0.5, 0.75, 1.0] for _ in tuned), strict=True)
    lines = [(*scores, *row, 0.01) for scores, row in zip(IMAGE_SCORES, values, strict=True)][:rows]
    ranges = {tune: [*IMAGE_RANGES[tune]] for tune in tuned}
    known = {"model": "alexnet", "ranges": ranges, "hyperparameters": [*names], **settings}
    path = write_run(logs, name, epoch=table(header, lines), val=None, **known)
    if steps is not None:
        (path / "valid.csv").write_text(steps)
    return path


# Of valid.csv: global_step, time, loss, acc, entropy, dropout0, cutlength, cutholes, their scales, train_step
IMAGE_STEPS = [
    (3, 1, 2.2, 0.2, 1.5, 0.05, 4.5, 1.5, 0.5, 0.6, 0.7, 2),
    (6, 2, 2.1, 0.3, 1.6, 0.2, 3.5, 0.5, 0.6, 0.7, 0.8, 4),
    (9, 3, 2.0, 0.4, 1.7, 0.3, 5.25, 2.5, 0.7, 0.8, 0.9, 6),
]
STEPPED = ["dropout0", "cutlength", "cutholes"]
VALID_HEADER = ["global_step", "time", "loss", "acc", "entropy", *STEPPED, *(f"{name}_scale" for name in STEPPED)]
VALID_CSV = table(",".join([*VALID_HEADER, "train_step"]), IMAGE_STEPS)


def image_step_values(name, column=5):
    return [row[column + STEPPED.index(name)] for row in IMAGE_STEPS]


class Drawn(NamedTuple):
    """A figure, and what is said of the runs that are not in it."""

    figure: object
    skipped: list[str]


def draw(kind, *paths):
    figure, skipped = kind([history.read_run(path) for path in paths])
    return Drawn(figure, [line for line in skipped.values() if line])


def panels(figure):
    return [axes for axes in figure.axes if axes.axison]


def names(figure):
    return [axes.get_title() for axes in panels(figure)]


def panel(figure, name):
    return next(axes for axes in figure.axes if name in (axes.get_title().replace("\n", " "), axes.get_ylabel()))


def entries(figure):
    """What the legend says, each in one line."""
    return [text.get_text().replace("\n", " ") for text in figure.legends[0].get_texts()]


def spans(axes):
    """Where the warm-up that is shaded in a panel starts and ends."""
    return [(patch.get_x(), patch.get_x() + patch.get_width()) for patch in axes.patches]


def points(line):
    return [tuple(point) for point in numpy.column_stack([line.get_xdata(), line.get_ydata()])]


def band(figure, name):
    """The band's x, lower and upper edge."""
    (collection,) = panel(figure, name).collections
    (path,) = collection.get_paths()
    xs = sorted({*path.vertices[:, 0]})
    return xs, *zip(
        *((min(ys), max(ys)) for x in xs for ys in [path.vertices[path.vertices[:, 0] == x, 1]]), strict=True
    )


def assert_in_view(figure):
    """No line leaves its panel."""
    for axes in panels(figure):
        for line in axes.lines:
            for values, (low, high) in ((line.get_xdata(), axes.get_xlim()), (line.get_ydata(), axes.get_ylim())):
                assert low <= min(values) and max(values) <= high


def assert_legible(figure):
    """No letter is too small, and the figure is between a column and a page wide."""
    figure.draw_without_rendering()
    assert 3.3 <= figure.get_figwidth() <= 7
    texts = figure.findobj(lambda artist: hasattr(artist, "get_fontsize") and artist.get_text())
    assert min(text.get_fontsize() for text in texts) >= 7


def assert_apart(figure):
    """Nothing overlaps: legend and panels are apart, and all lies on the figure."""
    figure.draw_without_rendering()
    (legend,) = figure.legends
    box = legend.get_window_extent()
    assert figure.bbox.padded(1).contains(box.x0, box.y0) and figure.bbox.padded(1).contains(box.x1, box.y1)
    for axes in panels(figure):
        assert axes.get_tightbbox().y0 >= box.y1 - 1
        assert axes.bbox.height > 0.5 * figure.dpi  # half an inch
        # Itself alone.
        assert sum(axes.get_tightbbox().overlaps(other.get_tightbbox()) for other in panels(figure)) == 1
        assert figure.bbox.padded(1).x1 >= axes.get_tightbbox().x1


def long_names(logs, count):
    """Image classifiers' runs with long names, of which only the first letters differ."""
    words = "batch_size128_modelalexnet_total_epochs500_tune_all_tune_scales_valid_lr0.003_warmup_epochs5"
    return [write_image_run(logs, f"{letter}_{words}", FEW, FEW) for letter in "abcdefghijkl"[:count]]
