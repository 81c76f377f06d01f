"""The sheet of augmented images: that it shows what training would see, of the epochs that a run recorded."""

from itertools import pairwise

import matplotlib.image
import pytest
import torch
import yaml
from lstm_runs import execute, refused
from torch import Tensor

from cnn import save_augmentation_sheet as script
from cnn.task import augmented, normalized, unnormalized
from stn.datasets import builtin_images, images

AUGMENTATION = ["hue", "contrast", "sat", "bright", "indropout", "inscale", "cutlength", "cutholes"]
RANGES = {**{name: [0.0, 0.5] for name in AUGMENTATION}, "cutlength": [0.0, 25.0], "cutholes": [0.0, 4.0]}
OFF = dict.fromkeys(AUGMENTATION, 0.0)
MILD = {**dict.fromkeys(AUGMENTATION, 0.1), "cutlength": 8.25, "cutholes": 2.5}
SCALES = dict.fromkeys([f"{name}_scale" for name in AUGMENTATION], 0.25)


@pytest.fixture(autouse=True)
def sets(monkeypatch):
    """The built-in images, but few: 32 to train on."""
    train, test = builtin_images.builtin_images(40, 10)
    monkeypatch.setattr(builtin_images, "builtin_images", lambda: (train, test))
    return images.load_image_sets(train, test, 0.2, builtin_images.CLASSES)


@pytest.fixture
def make_run(tmp_path, sets):
    """make_run(rows): the folder of a run with these rows of hyperparameters and scales in epoch.csv."""

    def make(*rows, ranges=RANGES, **settings):
        path = tmp_path / "run"
        path.mkdir()
        known = {"data": "builtin", "data_checksum": sets.checksum, "model": "small", "percent_valid": 0.2}
        (path / "args.yaml").write_text(yaml.safe_dump({**known, "batch_size": 4, "ranges": ranges, **settings}))
        if rows:
            header = ["epoch", "time", "val_loss", *rows[0]]
            lines = [[epoch, 1.0, 2.0, *row.values()] for epoch, row in enumerate(rows)]
            text = "".join(",".join(map(str, line)) + "\n" for line in [header, *lines])
            (path / "epoch.csv").write_text(text)
        return path

    return make


@pytest.fixture
def sheets(monkeypatch):
    """What was drawn: the originals, the blocks and the epochs."""
    found = []
    original = script.sheet

    def recording(*arguments):
        found.append(arguments)
        return original(*arguments)

    monkeypatch.setattr(script, "sheet", recording)
    return found


def run(capsys, *arguments):
    return execute(script, arguments, capsys)


def test_the_first_middle_and_last_epoch_are_drawn(make_run, sheets, tmp_path, capsys):
    path = make_run(*({**MILD, **SCALES, "hue": 0.125 + epoch / 32} for epoch in range(6)))
    out = tmp_path / "plots" / "sheet"
    status, said, error = run(capsys, path, "--out", out, "--images", 5)
    assert (status, error) == (0, "")
    files = [out.with_name(f"sheet.{kind}") for kind in ("pdf", "png")]
    assert said.splitlines() == [f"wrote {file}" for file in files]
    assert files[0].read_bytes().startswith(b"%PDF") and matplotlib.image.imread(files[1]).size
    ((originals, blocks, epochs),) = sheets
    assert [(row["epoch"], row["hue"]) for row in epochs] == [(0, 0.125), (2, 0.1875), (5, 0.28125)]
    assert originals.shape == (5, 3, 32, 32) and [block.shape for block in blocks] == [(3, 5, 3, 32, 32)] * 3
    for block in blocks:
        assert block.min() >= 0 and block.max() <= 1


@pytest.mark.parametrize(("rows", "drawn"), [(1, [0]), (2, [0, 1]), (3, [0, 1, 2])])
def test_few_epochs_are_drawn_once(make_run, sheets, tmp_path, capsys, rows, drawn):
    path = make_run(*[{**MILD, **SCALES}] * rows)
    assert run(capsys, path, "--out", tmp_path / "sheet", "--images", 2)[0] == 0
    assert [row["epoch"] for row in sheets[0][2]] == drawn


def test_without_augmentation_every_image_is_the_original(make_run, sheets, tmp_path, capsys, sets):
    assert run(capsys, make_run(OFF, ranges={}), "--out", tmp_path / "sheet", "--images", 4)[0] == 0
    ((originals, (block,), _),) = sheets
    for row in block:
        torch.testing.assert_close(row, originals, rtol=0, atol=1e-6)
    known = {tuple(pixels.flatten().tolist()) for pixels in sets.train.pixels}
    assert all(tuple((255 * image).round().long().flatten().tolist()) in known for image in originals)


def test_images_are_those_of_training(make_run, sheets, tmp_path, capsys, monkeypatch):
    """The very function that trains, on a draw that is perturbed as in training."""
    calls = []

    def recording(pixels, draw, by):
        calls.append((pixels, draw, augmented(pixels, draw, by)))
        return calls[-1][-1]

    monkeypatch.setattr(script, "augmented", recording)
    assert run(capsys, make_run({**MILD, **SCALES}), "--out", tmp_path / "sheet", "--images", 3)[0] == 0
    ((pixels, draw, seen),) = calls
    ((originals, (block,), _),) = sheets
    assert torch.equal(pixels.float() / 255, originals.repeat(3, 1, 1, 1))
    torch.testing.assert_close(block.flatten(0, 1), unnormalized(seen).clamp(0, 1))
    assert draw["hue"].unique().numel() == 9  # each image its own
    assert torch.equal(draw["cutholes"], draw["cutholes"].floor())


def test_the_perturbation_has_the_recorded_values_and_scales():
    row = {**MILD, **{name: 0.05 * (place + 1) for place, name in enumerate(SCALES)}}
    hyper = script.drawer(row, {"model": "alexnet", "ranges": RANGES})
    logged = dict(zip(hyper.log_names, hyper.log_values().tolist(), strict=True))
    assert logged == {name: pytest.approx(row[name], rel=1e-5) for name in [*AUGMENTATION, *map_scales(AUGMENTATION)]}
    middle = hyper.current()
    assert (middle["cutlength"].item(), middle["cutholes"].item()) == (8, 2)


def map_scales(names):
    return [f"{name}_scale" for name in names]


def test_what_is_not_tuned_keeps_its_value():
    hyper = script.drawer({**MILD, **SCALES}, {"model": "small", "ranges": {"sat": [0.0, 1.0]}})
    draw = hyper.perturbed(5)
    assert draw["hue"] == 0.1 and draw["cutlength"] == 8.25 and isinstance(draw["sat"], Tensor)


def test_a_seed_repeats_the_sheet(make_run, sheets, tmp_path, capsys):
    path = make_run({**MILD, **SCALES})
    for seed in (1, 1, 2):
        assert run(capsys, path, "--out", tmp_path / "sheet", "--images", 3, "--seed", seed)[0] == 0
    first, again, other = [(originals, *blocks) for originals, blocks, _ in sheets]
    assert all(map(torch.equal, first, again)) and not any(map(torch.equal, first, other))


def test_labels_and_pixels_are_where_they_belong():
    originals, block = torch.rand(2, 3, 32, 32), torch.rand(3, 2, 3, 32, 32)
    figure = script.sheet(originals, [block], [{**MILD, "epoch": 7.0}])
    figure.draw_without_rendering()
    first, second = figure.axes
    for axes, rows in ((first, originals[None]), (second, block)):
        picture = torch.tensor(axes.images[0].get_array())
        assert picture.shape == (34 * len(rows), 68, 3)
        torch.testing.assert_close(picture[1:33, 35:67].permute(2, 0, 1), rows[0, 1])
    texts = [text.get_text() for text in figure.texts]
    assert texts[:4] == ["original", "epoch 7", "hue", "0.100"] and texts[-2:] == ["number of holes", "2"]
    assert texts[texts.index("hole length (pixels)") + 1] == "8"
    assert all(text.get_window_extent().x1 <= first.bbox.x0 for text in figure.texts)
    for name, value in zip(figure.texts[2::2], figure.texts[3::2], strict=True):
        assert name.get_window_extent().x1 < value.get_window_extent().x0
    bottoms = [text.get_window_extent() for text in figure.texts if text.get_text() in script.LABELS.values()]
    assert all(lower.y1 <= upper.y0 + 1 for upper, lower in pairwise(bottoms))


@pytest.mark.parametrize("count", [1, 12, 30])
def test_blocks_are_apart_and_on_the_page(count):
    figure = script.sheet(
        torch.rand(count, 3, 32, 32), [torch.rand(3, count, 3, 32, 32)] * 3, [{**MILD, "epoch": 0}] * 3
    )
    figure.draw_without_rendering()
    assert figure.get_figwidth() <= 7 + 1e-6
    boxes = [axes.bbox for axes in figure.axes]
    assert all(lower.y1 < upper.y0 for upper, lower in pairwise(boxes)) and boxes[-1].y0 >= -1e-6
    texts = [text.get_window_extent() for text in figure.texts]
    assert all(text.y0 >= -1 and text.y1 <= figure.bbox.y1 + 1 for text in texts)


def test_a_sheet_that_is_replaced_is_said_so(make_run, tmp_path, capsys):
    command = [make_run({**MILD, **SCALES}), "--out", tmp_path / "sheet", "--images", 2]
    assert "(replaced)" not in run(capsys, *command)[1]
    files = [tmp_path / f"sheet.{kind}" for kind in ("pdf", "png")]
    assert run(capsys, *command)[1].splitlines() == [f"wrote {file} (replaced)" for file in files]


def test_a_path_without_a_name_is_refused(make_run, capsys):
    refused(run(capsys, make_run({**MILD, **SCALES}), "--out", "/", "--images", 2), "a folder", script=script.NAME)


def test_unnormalized_undoes_normalized():
    pixels = torch.rand(2, 3, 32, 32)
    torch.testing.assert_close(unnormalized(normalized(pixels)), pixels)


def test_bad_input_is_one_line(make_run, tmp_path, capsys):
    path = make_run()
    for words, arguments in (
        (["does not exist", "nowhere"], [tmp_path / "nowhere"]),
        (["holds runs", path], [tmp_path]),
        (["no epoch", path], [path]),
        (["--images 31"], [path, "--images", 31]),
        (["--images"], [path, "--images", 0]),
        (["RUN", "it is empty"], [""]),
        (["--out", "it is empty"], [path, "--out", ""]),
    ):
        refused(run(capsys, *arguments), *words, script=script.NAME)


@pytest.mark.parametrize(
    ("row", "settings", "words"),
    [
        ({**MILD, **SCALES}, {"model": "lstm"}, ["no run of an image classifier"]),
        (
            {"fcdropout0": 0.1},
            {"model": "mlp"},
            ["--model mlp", "images as they are", "or small or vgg16"],
        ),
        ({"alpha": 1.0}, {}, ["no column hue"]),
        ({**MILD, **SCALES}, {"data_checksum": "another"}, ["does not hold"]),
        ({**MILD, **SCALES}, {"data": "/nowhere/cifar10"}, ["/nowhere/cifar10"]),
        ({**MILD, **SCALES, "hue": 0.75}, {}, ["epoch.csv", "hue", "0.75", "range (0, 0.5)"]),
        ({**MILD, **SCALES, "hue": -1}, {}, ["epoch.csv holds a hue of -1"]),
        ({**MILD, **SCALES}, {"data": None}, ["args.yaml says data: None"]),
        ({**MILD, **SCALES}, {"batch_size": None}, ["args.yaml says batch_size: None"]),
    ],
)
def test_a_run_that_cannot_be_drawn_is_one_line(make_run, tmp_path, capsys, row, settings, words):
    out = tmp_path / "sheet"
    refused(run(capsys, make_run(row, **settings), "--out", out, "--images", 2), *words, script=script.NAME)
    assert not list(tmp_path.glob("sheet*"))


def test_more_images_than_there_are(make_run, monkeypatch, tmp_path, capsys):
    monkeypatch.setattr(script, "MOST_IMAGES", 100)
    path = make_run({**MILD, **SCALES})
    refused(run(capsys, path, "--images", 33, "--out", tmp_path / "sheet"), "32 training images", script=script.NAME)


def test_a_path_that_cannot_be_is_refused_before_the_work(make_run, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(script, "draw", lambda **_: pytest.fail("it worked"))
    path = make_run({**MILD, **SCALES})
    refused(run(capsys, path, "--out", tmp_path / ("x" * 300)), "--out", "too long", script=script.NAME)
    refused(run(capsys, path, "--out", f"{tmp_path}/"), "--out", "is a folder", script=script.NAME)
