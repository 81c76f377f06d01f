"""The hyperparameters of the image classifiers, declared once: flags, sources, replays and figures follow."""

import math

from stn.scripts.declared import Declared

CONVOLUTIONS = {"alexnet": 5, "small": 3, "mlp": 0}
FULLY_CONNECTED = {"alexnet": 2, "small": 0, "mlp": 3}  # those whose inputs are dropped
AUGMENTED = {"alexnet", "small"}  # those whose training images are augmented
MOST_HOLES = 32 * 32  # one for each pixel


def _rate(label: str, tune: str, start: str, fix: str, fixed: float, high: float = 0.9) -> Declared:
    return Declared(label, (0.0, high), (0.0, 1.0), 0.05, fixed, tune, start, fix)


def _jitter(label: str, name: str, fix: str, fixed: float, high: float = 1.0, most: float = math.inf) -> Declared:
    return Declared(label, (0.0, high), (0.0, most), 0.05, fixed, f"tune_{name}", f"start_{name}", fix)


def _holes(label: str, name: str, high: float, most: float, initial: float, fixed: int) -> Declared:
    flags = {"tune": f"tune_{name}", "start": f"start_{name}", "fix": name, "scale": f"{name}_scale"}
    return Declared(label, (0.0, high), (0.0, most), initial, fixed, **flags, discrete=True)


# In the published order. `dropout` is one rate for all convolutional layers, in place of one each.
TABLE = {
    "dropout": _rate("dropout", "tune_dropout", "start_drop", "dropout", fixed=-1.0),
    **{
        f"dropout{layer}": _rate(f"dropout {layer}", "tune_dropoutl", "start_drop", f"dropout{layer}", fixed=0.3)
        for layer in range(max(CONVOLUTIONS.values()))
    },
    "hue": _jitter("hue", "hue", "hue", fixed=0.2, high=0.5, most=1.0),
    "contrast": _jitter("contrast", "contrast", "contrast", fixed=0.4),
    "sat": _jitter("saturation", "sat", "saturation", fixed=0.4),
    "bright": _jitter("brightness", "bright", "brightness", fixed=0.4),
    "indropout": _rate("input dropout", "tune_indropout", "start_indrop", "indropout", fixed=0.4, high=1.0),
    "inscale": _jitter("input scaling", "inscale", "inscale", fixed=0.0, high=0.3),
    "cutlength": _holes("hole length (pixels)", "cutlength", 24.0, math.inf, initial=4.0, fixed=5),
    "cutholes": _holes("number of holes", "cutholes", 4.0, MOST_HOLES + 1.0, initial=1.0, fixed=2),
    **{
        f"fcdropout{layer}": _rate(f"fc dropout {layer}", "tune_fcdropout", "start_fcdrop", f"fc_dropout{layer}", 0.4)
        for layer in range(max(FULLY_CONNECTED.values()))
    },
}
CUTOUT = ("cutlength", "cutholes")
AUGMENTATION = ("hue", "contrast", "sat", "bright", "indropout", "inscale", *CUTOUT)
# The rates of layers of a kind, in order, by the flag that fixes them all at one.
LAYERS = {
    flag: [name for name, declared in TABLE.items() if declared.tune == tune]
    for flag, tune in (("dropout", "tune_dropoutl"), ("fc_dropout", "tune_fcdropout"))
}


def names_of(model: str, shared_dropout: bool = False) -> list[str]:
    """Every hyperparameter of a model; with shared_dropout one rate for all its convolutional layers, if it has any."""
    own = {*LAYERS["dropout"][: CONVOLUTIONS[model]]}
    if own and shared_dropout:
        own = {"dropout"}
    own |= {*LAYERS["fc_dropout"][: FULLY_CONNECTED[model]]}
    if model in AUGMENTED:
        own |= {*AUGMENTATION}
    return [name for name in TABLE if name in own]
