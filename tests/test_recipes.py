"""The published recipes of the image classifiers, as their papers' code has them."""

import pytest
from lstm_runs import values_of

from cnn import hypertrain, train_basic
from cnn.recipes import RECIPES, declared
from cnn.task import TUNED_HOLES
from stn.hyperparameters import Tuned

MLP = {
    "percent_valid": 0.15, "batch_size": 128, "train_lr": 0.01, "momentum": 0.9, "hyper_optimizer": "rmsprop",
    "valid_lr": 0.01, "scale_lr": 0.01, "entropy_weight": 1e-3, "train_steps": 5, "valid_steps": 1,
    "warmup_epochs": 5, "total_epochs": 500, "start_fcdrop": 0.05, "perturb_scale": 1.0,
}  # fmt: skip
ALEXNET = {
    "percent_valid": 0.2, "train_lr": 0.03, "lr_decay": 0.2, "milestones": [60, 120, 180], "total_epochs": 200,
    "start_cutlength": 4, "start_cutholes": 1, "cutlength_scale": 1.0, "cutholes_scale": 1.0, "train_steps": 5,
}  # fmt: skip
COMMON = {
    "batch_size": 128, "momentum": 0.9, "hyper_optimizer": "rmsprop", "valid_lr": 0.01, "scale_lr": 0.01,
    "response_lr": None, "perturb_scale": 1.0, "train_steps": 5, "valid_steps": 1, "warmup_epochs": 5,
    "total_epochs": 200, "start_drop": 0.05, "start_indrop": 0.05, "start_fcdrop": 0.05, "start_cutlength": 4.0,
    "start_cutholes": 1.0, "cutlength_scale": 1.0, "cutholes_scale": 1.0, "elementary_scale": False,
    "recipe": "delta_stn",
}  # fmt: skip
SIMPLE_CNN = {
    **COMMON, "percent_valid": 0.15, "train_lr": 0.01, "milestones": [], "entropy_weight": 1e-3, "normalize": False,
    "flip": False,
}  # fmt: skip
VGG16 = {
    **COMMON, "percent_valid": 0.2, "train_lr": 0.03, "milestones": [60, 120, 180], "lr_decay": 0.2, "flip": True,
    "normalize": True, "start_hue": 0.05, "start_sat": 0.05, "start_contrast": 0.05, "start_bright": 0.05,
    "start_degrees": 5.0, "start_shear": 5.0, "start_translation": 0.05, "start_zoom": 0.05, "batch_norm": False,
}  # fmt: skip
STN = {
    "percent_valid": 0.2, "train_lr": 0.01, "hyper_optimizer": "adam", "valid_lr": 3e-3, "entropy_weight": 1e-5,
    "train_steps": 2, "perturb_scale": 0.5, "milestones": [], "total_epochs": 500,
}  # fmt: skip


def found(flags):
    values = values_of(hypertrain, f"{flags} --data builtin --tune_all")
    sources = hypertrain.SCRIPT.sources(values)
    return values, {name: source.range for name, source in sources.items() if isinstance(source, Tuned)}


@pytest.mark.parametrize("flags", ["--model mlp", "--dataset mnist", "--model mlp --recipe delta_stn"])
def test_the_perceptrons_own_recipe(flags):
    values, ranges = found(flags)
    assert {name: values[name] for name in MLP} == MLP and values["recipe"] == "delta_stn"
    assert ranges == dict.fromkeys(("fcdropout0", "fcdropout1", "fcdropout2"), (0.0, 0.95))


def test_alexnet_by_the_delta_stns_recipe():
    values, ranges = found("--recipe delta_stn")
    assert {name: values[name] for name in ALEXNET} == ALEXNET
    assert ranges["dropout0"] == ranges["fcdropout1"] == ranges["indropout2d"] == (0, 0.95)
    assert ranges["cutlength"] == (2, 24) and ranges["cutholes"] == (0, 5) and ranges["hue"] == (0, 0.5)


def test_the_simple_networks_own_recipe():
    for method in ("stn", "delta_stn"):
        values, ranges = found(f"--model simple_cnn --method {method}")
        assert {name: values[name] for name in SIMPLE_CNN} == SIMPLE_CNN
        rates = dict.fromkeys(("dropout0", "dropout1", "indropout2d", "fcdropout1"), (0, 0.95))
        assert ranges == {**rates, "cutlength": (2, 24), "cutholes": (0, 5)}


@pytest.mark.parametrize(("flags", "entropy_weight"), [("", 1e-3), ("--delta_stn", 1e-4)])
@pytest.mark.parametrize("model", ["vgg16", "alexnet --recipe delta_stn"])
def test_the_networks_for_cifar10_by_the_delta_stns_recipe(model, flags, entropy_weight):
    values, ranges = found(f"--model {model} {flags}")
    entropy_weight = entropy_weight if model == "vgg16" else 1e-3
    assert {name: values[name] for name in VGG16} == VGG16 and values["entropy_weight"] == entropy_weight
    rates = {name: ends for name, ends in ranges.items() if "dropout" in name}
    assert len(rates) == {"vgg16": 16}.get(model, 8) and {*rates.values()} == {(0, 0.95)}
    others = {**dict.fromkeys(("contrast", "sat", "bright"), (0, 1)), "hue": (0, 0.5)}
    others |= {"degrees": (0, 45), "shear": (0, 45), "zoom": (0, 0.5), "translation": (0, 0.5)}
    assert ranges == {**rates, **others, "cutlength": (2, 24), "cutholes": (0, 5)}


@pytest.mark.parametrize("model", ["simple_cnn", "vgg16", "alexnet --recipe delta_stn", "mlp --recipe delta_stn"])
def test_a_baseline_of_the_delta_stns_recipe_is_at_the_start_values(model):
    values = values_of(train_basic, f"--model {model} --data builtin")
    tuned, _ = found(f"--model {model}")
    for name in ("train_lr", "milestones", "lr_decay", "total_epochs", "nonmono", "patience", "flip", "normalize"):
        assert values[name] == tuned[name]
    constants = {name: source.value for name, source in train_basic.sources(values).items()}
    assert constants == {name: source.initial for name, source in hypertrain.sources(tuned).items()}


def test_baselines_from_before_keep_their_defaults():
    defaults = train_basic.SCRIPT.defaults()
    for model in ("alexnet", "small", "mlp"):
        values = values_of(train_basic, f"--model {model} --data builtin")
        own = ("train_lr", "total_epochs", "nonmono", "patience", "flip", "normalize", "recipe", "width")
        assert {name: values[name] for name in own} == {name: defaults[name] for name in own}


@pytest.mark.parametrize("flags", ["", "--recipe stn", "--method delta_stn"])
def test_the_stns_recipe_is_the_default(flags):
    """Whatever the method."""
    values, ranges = found(flags)
    assert {name: values[name] for name in STN} == STN and values["recipe"] == "stn"
    assert ranges["dropout0"] == (0, 0.9) and ranges["cutlength"] == (0, 24) and ranges["cutholes"] == (0, 4)


def test_the_small_network_takes_what_both_experiments_share():
    values, ranges = found("--model small --recipe delta_stn")
    assert (values["train_lr"], values["milestones"], values["train_steps"]) == (0.01, [], 5)
    assert ranges["dropout0"] == (0, 0.95)


def test_flags_overrule_a_recipe():
    values, _ = found("--recipe delta_stn --train_steps 3 --perturb_scale 0.25")
    assert (values["train_steps"], values["perturb_scale"], values["train_lr"]) == (3, 0.25, 0.03)


def test_recipes_name_flags_that_there_are():
    for recipe in RECIPES.values():
        for values in recipe.parts:
            for name, value in values.items():
                assert hypertrain.SCRIPT.flags[name].accepts(value)


def test_a_tuned_number_of_holes_fits_what_is_drawn():
    most = max(declared("cutholes", name).range[1] for name in RECIPES)
    assert most <= TUNED_HOLES + 1  # rounded down


def test_a_recipe_outranks_the_run_that_is_followed():
    """But for the flags that are given with it."""
    config, _ = found("--train_lr 0.5 --valid_lr 0.25")
    given = hypertrain.SCRIPT.parse(["--recipe", "delta_stn", "--train_steps", "4"])
    values, *_ = hypertrain.SCRIPT.prepare(given, {name: config[name] for name in hypertrain.SCRIPT.flags})
    assert (values["train_lr"], values["valid_lr"], values["train_steps"]) == (0.03, 0.01, 4)
    back, *_ = hypertrain.SCRIPT.prepare(
        hypertrain.SCRIPT.parse(["--recipe", "stn"]), {name: values[name] for name in hypertrain.SCRIPT.flags}
    )
    assert {name: back[name] for name in STN} == STN


def test_baseline_and_tuned_perceptron_validate_on_the_same_images():
    tuned, _ = found("--model mlp")
    assert values_of(train_basic, "--model mlp --data builtin")["percent_valid"] == tuned["percent_valid"] == 0.15
