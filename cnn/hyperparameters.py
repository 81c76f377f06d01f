"""The fifteen hyperparameters of the image classifiers: their names, ranges and starting values."""

from typing import NamedTuple


class Spec(NamedTuple):
    """range: where the values lie, open at both ends. discrete: rounded down to a whole number."""

    range: tuple[float, float]
    discrete: bool = False


RATE = Spec((0.0, 0.9))
CONVOLUTIONS = {"alexnet": 5, "small": 3}


def specs(model: str, shared_dropout: bool = False) -> dict[str, Spec]:
    """Every hyperparameter of a model, in the published order.

    shared_dropout: one rate for all convolutional layers, `dropout`, in place of one each.
    """
    convolutional = ["dropout"] if shared_dropout else [f"dropout{layer}" for layer in range(CONVOLUTIONS[model])]
    fully_connected = ["fcdropout0", "fcdropout1"] if model == "alexnet" else []
    return {
        **dict.fromkeys(convolutional, RATE),
        "hue": Spec((0.0, 0.5)),
        "contrast": Spec((0.0, 1.0)),
        "sat": Spec((0.0, 1.0)),
        "bright": Spec((0.0, 1.0)),
        "indropout": Spec((0.0, 1.0)),
        "inscale": Spec((0.0, 0.3)),
        "cutlength": Spec((0.0, 25.0), discrete=True),
        "cutholes": Spec((0.0, 4.0), discrete=True),
        **dict.fromkeys(fully_connected, RATE),
    }
