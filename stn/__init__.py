"""Self-tuning networks: regularization hyperparameters learned inside one training run."""

from stn.bilevel import frozen
from stn.errors import UserError
from stn.hyperparameters import Draw, Hyperparameters, Tuned
from stn.layers import HyperEmbedding, HyperLinear
from stn.lstm import HyperLSTM
from stn.schedules import Constant

__all__ = [
    "Constant",
    "Draw",
    "HyperEmbedding",
    "HyperLSTM",
    "HyperLinear",
    "Hyperparameters",
    "Tuned",
    "UserError",
    "frozen",
]
