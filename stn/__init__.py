"""Self-tuning networks: regularization hyperparameters learned inside one training run."""

from stn.errors import UserError
from stn.hyperparameters import Draw, Hyperparameters, Tuned
from stn.layers import HyperConv2d, HyperEmbedding, HyperLinear
from stn.lstm import HyperLSTM
from stn.methods import frozen
from stn.schedules import Constant, Gaussian, Replay, Sinusoid

__all__ = [
    "Constant",
    "Draw",
    "Gaussian",
    "HyperConv2d",
    "HyperEmbedding",
    "HyperLSTM",
    "HyperLinear",
    "Hyperparameters",
    "Replay",
    "Sinusoid",
    "Tuned",
    "UserError",
    "frozen",
]
