"""The hyperparameters of the image classifiers, declared once: flags, sources, replays and figures follow."""

import math

from stn.scripts.declared import Declared

MOST_HOLES = 32 * 32  # one for each pixel
DECAY = "wdecay"  # which any network has where it is asked for
CONVOLUTIONS = 13  # the most that a network has
LINEAR = 3  # the most fully connected layers


def _rate(label: str, tune: str, start: str, fix: str, fixed: float, high: float = 0.9) -> Declared:
    return Declared(label, (0.0, high), (0.0, 1.0), 0.05, fixed, tune, start, fix)


def _jitter(label: str, name: str, fix: str, fixed: float, high: float = 1.0, most: float = math.inf) -> Declared:
    return Declared(label, (0.0, high), (0.0, most), 0.05, fixed, f"tune_{name}", f"start_{name}", fix)


def _affine(label: str, name: str, high: float, most: float, initial: float) -> Declared:
    return Declared(label, (0.0, high), (0.0, most), initial, 0.0, "tune_affine", f"start_{name}", name)


def _holes(label: str, name: str, high: float, most: float, initial: float, fixed: int) -> Declared:
    flags = {"tune": f"tune_{name}", "start": f"start_{name}", "fix": name, "scale": f"{name}_scale"}
    return Declared(label, (0.0, high), (0.0, most), initial, fixed, **flags, discrete=True)


# In the published order. `dropout` is one rate for all convolutional layers, in place of one each.
TABLE = {
    "dropout": _rate("dropout", "tune_dropout", "start_drop", "dropout", fixed=-1.0),
    **{
        f"dropout{layer}": _rate(f"dropout {layer}", "tune_dropoutl", "start_drop", f"dropout{layer}", fixed=0.3)
        for layer in range(CONVOLUTIONS)
    },
    "hue": _jitter("hue", "hue", "hue", fixed=0.2, high=0.5, most=1.0),
    "contrast": _jitter("contrast", "contrast", "contrast", fixed=0.4),
    "sat": _jitter("saturation", "sat", "saturation", fixed=0.4),
    "bright": _jitter("brightness", "bright", "brightness", fixed=0.4),
    "degrees": _affine("rotation (degrees)", "degrees", high=45.0, most=180.0, initial=5.0),
    "translation": _affine("translation", "translation", high=0.5, most=1.0, initial=0.05),
    "zoom": _affine("affine scale", "zoom", high=0.5, most=1.0, initial=0.05),
    "shear": _affine("shear (degrees)", "shear", high=45.0, most=90.0, initial=5.0),
    "indropout": _rate("input dropout", "tune_indropout", "start_indrop", "indropout", fixed=0.4, high=1.0),
    "indropout2d": _rate("input channel dropout", "tune_indropout", "start_indrop", "indropout2d", fixed=0.0),
    "inscale": _jitter("input scaling", "inscale", "inscale", fixed=0.0, high=0.3),
    "cutlength": _holes("hole length (pixels)", "cutlength", 24.0, math.inf, initial=4.0, fixed=5),
    "cutholes": _holes("number of holes", "cutholes", 4.0, MOST_HOLES + 1.0, initial=1.0, fixed=2),
    **{
        f"fcdropout{layer}": _rate(f"fc dropout {layer}", "tune_fcdropout", "start_fcdrop", f"fc_dropout{layer}", 0.4)
        for layer in range(LINEAR)
    },
    DECAY: Declared(
        "weight decay", (0.0, math.inf), (0.0, math.inf), 1e-4, 0.0, "tune_wdecay", "start_wdecay", "wdecay",
        searched=(1e-6, 1e-2),
    ),
}  # fmt: skip
JITTER = ("hue", "contrast", "sat", "bright")
AFFINE = ("degrees", "translation", "zoom", "shear")
CUTOUT = ("cutlength", "cutholes")
AUGMENTATION = (*JITTER, *AFFINE, "indropout", "inscale", *CUTOUT)
# The rates of layers of a kind, in order, by the flag that fixes them all at one.
LAYERS = {
    flag: [name for name, declared in TABLE.items() if declared.tune == tune]
    for flag, tune in (("dropout", "tune_dropoutl"), ("fc_dropout", "tune_fcdropout"))
}


def _convolutional(layers: int) -> list[str]:
    return LAYERS["dropout"][:layers]


# Those of a network in an experiment of the STN's paper, and of the Δ-STN's, which drop channels of the input and the
# outputs of fully connected layers. Where a network is in one of them alone, it has the same in the other's recipe.
_STN_AUGMENTATION = (*JITTER, "indropout", "inscale", *CUTOUT)
_DELTA_STN_AUGMENTATION = (*JITTER, *AFFINE, "indropout2d", *CUTOUT)
NAMES = {
    "stn": {
        "alexnet": (*_convolutional(5), *_STN_AUGMENTATION, "fcdropout0", "fcdropout1"),
        "small": (*_convolutional(3), *_STN_AUGMENTATION),
    },
    "delta_stn": {
        "mlp": ("fcdropout0", "fcdropout1", "fcdropout2"),
        "simple_cnn": (*_convolutional(2), "indropout2d", *CUTOUT, "fcdropout1"),
        "alexnet": (*_convolutional(5), *_DELTA_STN_AUGMENTATION, "fcdropout1", "fcdropout2"),
        "vgg16": (*_convolutional(13), *_DELTA_STN_AUGMENTATION, "fcdropout1", "fcdropout2"),
    },
}


def names_of(model: str, shared_dropout: bool = False, recipe: str | None = None) -> list[str]:
    """Every hyperparameter of a model in the recipe's experiment, but for the weight decay.

    shared_dropout: one rate for all its convolutional layers, if it has any. recipe: None is the STN's.
    """
    of_recipes = NAMES[recipe or "stn"], NAMES["stn"], NAMES["delta_stn"]
    own = {*next(models[model] for models in of_recipes if model in models)}
    if shared_dropout and own & {*LAYERS["dropout"]}:
        own = own - {*LAYERS["dropout"]} | {"dropout"}
    return [name for name in TABLE if name in own]
