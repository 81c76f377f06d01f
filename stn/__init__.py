"""Self-tuning networks: regularization hyperparameters learned inside one training run."""

from importlib import import_module
from typing import Any

# Imported when first used: a script must be able to explain that torch is missing, or that Ctrl-C stopped its import.
_HOMES = {
    "stn.bilevel": ("Loss", "Score", "StreamTask", "Task"),
    "stn.conversion": ("SelfTuning", "collapse", "convert", "summary"),
    "stn.delta_stn": ("DeltaSTN", "linearized"),
    "stn.errors": ("UserError",),
    "stn.hyperparameters": ("Draw", "Hyperparameters", "Tuned"),
    "stn.layers": ("HyperConv2d", "HyperEmbedding", "HyperLinear", "split_parameters", "zero_gates"),
    "stn.learning_rates": ("LearningRate", "NonMonotonicDecay"),
    "stn.lstm": ("HyperLSTM",),
    "stn.methods": ("STN", "frozen"),
    "stn.recorder": ("Recorder",),
    "stn.runs.folder": ("RunFolder",),
    "stn.runs.models": ("load_model",),
    "stn.schedules": ("Constant", "Gaussian", "Replay", "Sinusoid"),
    "stn.scripts.fit": ("fit",),
    "stn.scripts.screen": ("Screen",),
    "stn.streams": ("Shuffled",),
    "stn.training": ("Plan", "Trainer"),
    "stn.weight_decay": ("WeightDecay",),
}
__all__ = sorted(name for names in _HOMES.values() for name in names)


def __getattr__(name: str) -> Any:
    for home, names in _HOMES.items():
        if name in names:
            return getattr(import_module(home), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
