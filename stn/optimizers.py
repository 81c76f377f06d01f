"""The options of torch's optimizers: one number for all parameter groups, which keep their ratios."""

from collections.abc import Mapping
from typing import Any

from torch.optim import Optimizer


def value_of(optimizer: Optimizer, option: str) -> float:
    """An option of the first group that has it other than 0; 0 without one. Adam's "momentum" is its first beta."""
    return next((value for group in optimizer.param_groups if (value := _get(group, option))), 0.0)


def shares(optimizer: Optimizer, option: str) -> list[float]:
    """Each group's option, relative to the first that is not 0; 1 for all where there is none."""
    whole = value_of(optimizer, option)
    return [_get(group, option) / whole if whole else 1.0 for group in optimizer.param_groups]


def set_option(optimizer: Optimizer, option: str, value: float, shares: list[float]) -> None:
    """Give each group its share of a value."""
    for group, share in zip(optimizer.param_groups, shares, strict=True):
        if option == "momentum" and "betas" in group:
            group["betas"] = (share * value, *group["betas"][1:])
        else:
            group[option] = share * value


def _get(group: Mapping[str, Any], option: str) -> float:
    return float(group["betas"][0] if option == "momentum" and "betas" in group else group[option])
