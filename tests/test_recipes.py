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
