"""What an experiment declares of its hyperparameters, and what tuned sources follow from it."""

import math

import pytest
from run_folders import refused

from cnn import hyperparameters as images
from lstm import hyperparameters as language
from stn.hyperparameters import Tuned
from stn.scripts.declared import Declared, possible_ranges

RATE = Declared("dropout", (0.0, 0.9), (0.0, 1.0), 0.05, 0.3, tune="tune_drop", start="start_drop", fix="drop")
FLAGS = ("tune_alpha", "alpha", "alpha")
COEFFICIENT = Declared("penalty", (0.0, math.inf), (0.0, math.inf), 0.05, 0.0, *FLAGS, per_example=False)
FLAGS = ("tune_holes", "start_holes", "holes", "wide")
HOLES = Declared("holes", (0.0, 4.0), (0.0, 9.0), 1.0, 2.0, *FLAGS, discrete=True)


def test_a_tuned_source_is_as_declared_and_as_the_flags_say():
    values = {
        "tune_scales": False,
        "start_drop": 0.25,
        "perturb_scale": 0.5,
        "start_holes": 0.0,
        "wide": 2.0,
        "alpha": 3.0,
    }
    assert RATE.tuned(values) == Tuned(0.25, (0.0, 0.9), 0.5)
    assert HOLES.tuned(values) == Tuned(0.0, (0.0, 4.0), 2.0, discrete=True)
    squashed = Tuned(3.0, (0.0, math.inf), 0.5, per_example=False, feed="squashed")
    assert COEFFICIENT.tuned(values, "squashed") == squashed


@pytest.mark.parametrize(
    ("declared", "starts", "message"),
    [
        (RATE, (0, 0.0, 0.9, 1.5), "--tune_drop cannot start at --start_drop {:g}: "
         "give --start_drop a value strictly between 0 and 0.9"),
        (COEFFICIENT, (0.0, -1.0), "--tune_alpha cannot start at --alpha {:g}: give --alpha a value above 0"),
        (HOLES, (4.0, 2.5, -1.0), "--tune_holes cannot start at --start_holes {:g}: "
         "give --start_holes a whole number from 0 to 3"),
    ],
)  # fmt: skip
def test_a_start_outside_the_range_is_refused(declared, starts, message):
    for start in starts:
        values = {declared.start: start, declared.scale: 1.0, "tune_scales": False}
        assert refused(lambda values=values: declared.tuned(values)) == message.format(start)


def test_a_scale_of_0_cannot_be_tuned():
    values = {"tune_scales": True, "start_drop": 0.25, "perturb_scale": 0.0}
    assert refused(lambda: RATE.tuned(values)).startswith("--perturb_scale 0 cannot be tuned: give it a value above 0")
    assert RATE.tuned({**values, "tune_scales": False}).scale == 0


def test_ranges_lie_in_what_is_possible():
    for table in (language.TABLE, images.TABLE):
        assert possible_ranges(table).keys() == table.keys()
        for declared in table.values():
            (low, high), (lowest, highest) = declared.range, declared.possible
            assert lowest <= low < high <= highest


def test_the_hyperparameters_of_each_network():
    assert list(language.TABLE) == ["alpha", "beta", "dropouto", "dropouti", "dropouth", "dropoute", "wdrop"]
    others = ["hue", "contrast", "sat", "bright", "indropout", "inscale", "cutlength", "cutholes"]
    assert images.names_of("small") == ["dropout0", "dropout1", "dropout2", *others]
    assert images.names_of("small", shared_dropout=True) == ["dropout", *others]
    connected = ["fcdropout0", "fcdropout1"]
    assert images.names_of("alexnet") == [*(f"dropout{layer}" for layer in range(5)), *others, *connected]
    for shared in (False, True):
        assert images.names_of("mlp", shared) == [*connected, "fcdropout2"]
    augmentation = ["hue", "contrast", "sat", "bright", "degrees", "translation", "zoom", "shear", "indropout2d"]
    augmentation += ["cutlength", "cutholes", "fcdropout1", "fcdropout2"]
    for name, recipe, layers, count in (("alexnet", "delta_stn", 5, 18), ("vgg16", "stn", 13, 26)):
        names = images.names_of(name, recipe=recipe)
        assert names == [*(f"dropout{layer}" for layer in range(layers)), *augmentation] and len(names) == count
    simple = ["indropout2d", "cutlength", "cutholes", "fcdropout1"]
    assert images.names_of("simple_cnn") == ["dropout0", "dropout1", *simple]
    assert images.names_of("simple_cnn", shared_dropout=True) == ["dropout", *simple]
    assert images.names_of("alexnet", recipe="stn") == images.names_of("alexnet")
    assert images.names_of("small", recipe="delta_stn") == images.names_of("small")
    assert images.names_of("alexnet", shared_dropout=True) == ["dropout", *others, *connected]
