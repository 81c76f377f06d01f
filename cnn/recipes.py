"""The published recipes: ranges, starts and optimizers of one paper's experiments or the other's, whatever the method.

The STN's (MacKay et al. 2019) is what the table of hyperparameters and the flags' defaults say. The Δ-STN's is that of
the code published with Bae & Grosse 2020, for its perceptron and its AlexNet; the small network takes what both share.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from cnn.hyperparameters import LAYERS, TABLE
from stn.scripts.declared import Declared, Values


@dataclass(frozen=True)
class Recipe:
    """What differs from the flags' defaults and the table's ranges.

    flags: values by name. models: further ones, by model. ranges: by hyperparameter.
    """

    flags: Mapping[str, Any] = field(default_factory=dict)
    models: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    ranges: Mapping[str, tuple[float, float]] = field(default_factory=dict)


_NO_OTHER_DECAY = {"nonmono": 500, "patience": 500}  # nor an early end, in 500 epochs
_RATES = ["dropout", "indropout", *LAYERS["dropout"], *LAYERS["fc_dropout"]]
RECIPES = {
    "stn": Recipe(),
    "delta_stn": Recipe(
        flags={
            **dict.fromkeys(("perturb_scale", "cutlength_scale", "cutholes_scale"), 1.0),
            "hyper_optimizer": "rmsprop",
            "valid_lr": 0.01,
            "scale_lr": 0.01,
            "entropy_weight": 1e-3,
            "train_steps": 5,
            **_NO_OTHER_DECAY,
        },
        models={"alexnet": {"train_lr": 0.03, "total_epochs": 200, "milestones": [60, 120, 180], "lr_decay": 0.2}},
        ranges=dict.fromkeys(_RATES, (0.0, 0.95)) | {"cutlength": (2.0, 24.0), "cutholes": (0.0, 5.0)},
    ),
}
FLAGS = {name for recipe in RECIPES.values() for values in (recipe.flags, *recipe.models.values()) for name in values}


def recipe_of(values: Values, model: str) -> str:
    """The recipe's name: --recipe's, or that of the model's own experiment."""
    return values["recipe"] or ("delta_stn" if model == "mlp" else "stn")


def implied(name: str, model: str) -> dict[str, Any]:
    """The values of flags that a recipe brings for a model."""
    recipe = RECIPES[name]
    return {**recipe.flags, **recipe.models.get(model, {})}


def declared(name: str, recipe: str) -> Declared:
    """A hyperparameter with the range that the recipe gives it."""
    return replace(TABLE[name], range=RECIPES[recipe].ranges.get(name, TABLE[name].range))
