"""The published recipes: hyperparameters, ranges, starts and optimizers of one paper's experiments or the other's.

They do not depend on the method, but for the entropy's weight. The STN's (MacKay et al. 2019) is what the table of
hyperparameters and the flags' defaults say. The Δ-STN's is that of the code published with Bae & Grosse 2020; the small
network takes what both share.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from cnn.hyperparameters import LAYERS, TABLE, names_of
from stn.scripts.declared import Declared, Values

Flags = Mapping[str, Any]  # values by name


@dataclass(frozen=True)
class Recipe:
    """What differs from the flags' defaults and the table's ranges.

    flags: values by name. models: further ones, by model. methods: further ones, by model and method. ranges: by
    hyperparameter.
    """

    flags: Flags = field(default_factory=dict)
    models: Mapping[str, Flags] = field(default_factory=dict)
    methods: Mapping[tuple[str, str], Flags] = field(default_factory=dict)
    ranges: Mapping[str, tuple[float, float]] = field(default_factory=dict)

    @property
    def parts(self) -> list[Flags]:
        return [self.flags, *self.models.values(), *self.methods.values()]


_NO_OTHER_DECAY = {"nonmono": 500, "patience": 500}  # nor an early end, in 500 epochs
_RATES = ["dropout", "indropout", "indropout2d", *LAYERS["dropout"], *LAYERS["fc_dropout"]]
_ON_CIFAR10 = {
    **{"train_lr": 0.03, "total_epochs": 200, "milestones": [60, 120, 180], "lr_decay": 0.2},
    **{"flip": True, "elementary_scale": False},
}
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
        models={
            "mlp": {"total_epochs": 500},
            "simple_cnn": {"total_epochs": 200, "normalize": False, "elementary_scale": False},
            "alexnet": _ON_CIFAR10,
            "vgg16": _ON_CIFAR10,
        },
        methods={("vgg16", "delta_stn"): {"entropy_weight": 1e-4}},
        ranges=dict.fromkeys(_RATES, (0.0, 0.95)) | {"cutlength": (2.0, 24.0), "cutholes": (0.0, 5.0)},
    ),
}
FLAGS = {name for recipe in RECIPES.values() for values in recipe.parts for name in values}
OWN = dict.fromkeys(("mlp", "simple_cnn", "vgg16"), "delta_stn")  # of models that one paper alone has
NEW = ("simple_cnn", "vgg16")  # of these, those whose baselines follow it too


def recipe_of(values: Values, model: str) -> str:
    """The recipe's name: --recipe's, or that of the model's own experiment."""
    return values["recipe"] or OWN.get(model, "stn")


def differ(model: str) -> bool:
    """Whether a model has other hyperparameters in one recipe than in the other."""
    return names_of(model, recipe="stn") != names_of(model, recipe="delta_stn")


def implied(name: str, model: str, method: str = "stn") -> dict[str, Any]:
    """The values of flags that a recipe brings for a model and a method."""
    recipe = RECIPES[name]
    return {**recipe.flags, **recipe.models.get(model, {}), **recipe.methods.get((model, method), {})}


def declared(name: str, recipe: str) -> Declared:
    """A hyperparameter with the range that the recipe gives it."""
    return replace(TABLE[name], range=RECIPES[recipe].ranges.get(name, TABLE[name].range))
