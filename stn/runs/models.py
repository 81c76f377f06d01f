"""A trained model by itself: its weights and hyperparameters, and what to build it from, in one file."""

from collections.abc import Mapping
from copy import deepcopy
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from torch import nn

from stn.conversion import SelfTuning
from stn.errors import UserError, one_line
from stn.files import explaining_os_errors
from stn.hyperparameters import Hyperparameters, Tuned
from stn.runs.checkpoints import CHECKPOINT, KIND, load, read_checkpoint
from stn.runs.experiments import import_experiment
from stn.schedules import Constant

MODEL = "model.pt"
UNKNOWN = "unknown"  # in place of a transform that is a pair of functions


def pack(model: nn.Module, hyper: Hyperparameters) -> dict[str, Any]:
    """A copy of a model and its hyperparameters, of plain values and tensors.

    model, hyper: their state_dicts. hyperparameters: every value by name. tuned: the fields of `Tuned` by name.
    architecture: the model's class and, where the model keeps them in `arguments`, its arguments.
    """
    own = type(model)
    values = dict(zip(hyper.log_names, hyper.log_values().tolist(), strict=True))
    return {
        "model": deepcopy(model.state_dict()),
        "hyper": deepcopy(hyper.state_dict()),
        "hyperparameters": {name: values[name] for name in hyper.names},
        "tuned": {name: _fields(source) for name, source in hyper.sources.items() if isinstance(source, Tuned)},
        "architecture": {
            "module": own.__module__,
            "name": own.__qualname__,
            "arguments": getattr(model, "arguments", None),
        },
    }


def recorded(hyper: Hyperparameters) -> dict[str, Any]:
    """What tells hyperparameters from others: of those tuned the fields of `Tuned`, of the others what they print."""
    return {
        name: _fields(source) if isinstance(source, Tuned) else str(source) for name, source in hyper.sources.items()
    }


def _fields(source: Tuned) -> dict[str, Any]:
    """Those of plain values: functions cannot be kept."""
    named = source.transform is None or isinstance(source.transform, str)
    return asdict(source if named else replace(source, transform=UNKNOWN))


def load_model(
    path: Path | str, model: nn.Module | None = None, hyper: Hyperparameters | None = None
) -> tuple[nn.Module, Hyperparameters]:
    """The best model of a run and its hyperparameters, ready to evaluate: `model(…, hyper.current())`.

    path: a run's folder, of which the checkpoint counts, or else model.pt; or a file of a model that a run has written.
    model: one built alike, to be filled; needed where the model's class does not keep its own `arguments`. hyper: the
    same of hyperparameters; needed where one has a transform that is a pair of functions (default: of a network that
    `convert` has made, its own, else new ones, in which what was not tuned is constant, at its value in the best
    epoch). What is new is on the CPU.

    Raises UserError where there is no model, or it is damaged, foreign or another than the one given.
    """
    if not str(path):
        raise UserError("the path of the model is empty: give a run's folder")
    path = Path(path)
    packed = _read_packed(path)
    if hyper is None and isinstance(model, SelfTuning):
        hyper = model.hyper
    try:
        hyper = _hyperparameters(packed, path) if hyper is None else _alike(hyper, packed, path)
        hyper.load_state_dict(packed["hyper"])
        model = _build(packed["architecture"], path) if model is None else model
        model.load_state_dict(packed["model"])
    except (KeyError, TypeError, AttributeError, RuntimeError) as error:
        cause = f"{path} holds another model, or one of another version ({one_line(error)})"
        raise UserError(f"{cause}: load it with the version that wrote it, or give a model built alike") from error
    return model.eval(), hyper


def _alike(hyper: Hyperparameters, packed: Mapping[str, Any], path: Path) -> Hyperparameters:
    """The same. Raises UserError where λ means something else in them than in the file."""

    def meanings(tuned: Mapping[str, Mapping[str, Any]]) -> list[tuple]:
        starts = ("initial", "scale")
        full = {name: vars(Tuned(**own)) for name, own in tuned.items()}  # older files lack newer fields
        return [(name, {part: own[part] for part in own if part not in starts}) for name, own in full.items()]

    own = {name: _fields(source) for name, source in hyper.sources.items() if isinstance(source, Tuned)}
    if meanings(own) != meanings(packed["tuned"]):
        told = f"{path} is of {packed['tuned']}, the hyperparameters given are {own}"
        raise UserError(f"{told}: give such as it was trained with, in their order")
    return hyper


def _hyperparameters(packed: Mapping[str, Any], path: Path) -> Hyperparameters:
    """Raises UserError where only their author can make them."""
    tuned = packed["tuned"]
    for name, own in tuned.items():
        if own.get("transform") == UNKNOWN:
            raise UserError(f"{path} does not hold the functions that transform {name}: give load_model `hyper`, too")
    return Hyperparameters(
        **{
            name: Tuned(**tuned[name]) if name in tuned else Constant(value)
            for name, value in packed["hyperparameters"].items()
        }
    )


def _read_packed(path: Path) -> Mapping[str, Any]:
    """What `pack` has made. Raises UserError where there is none."""
    with explaining_os_errors(path, "read"):
        file = path / MODEL if path.is_dir() else path
        whole_run, there = (path / CHECKPOINT).exists(), file.exists()
    if whole_run:
        try:
            best = read_checkpoint(path).state.get("best")
        except UserError as error:
            hint = f"; there is {file}, too: give that" if there else ""
            raise UserError(f"{error}{hint}") from error
        if best is None:
            raise UserError(f"no epoch of the run in {path} has ended, so that it has no best model: let it train on")
        return best
    if not there:
        raise UserError(f"{file} does not exist: give the folder of a run that has a checkpoint or a model")
    packed = load(file, "no model", "get another copy")
    if not isinstance(packed, dict) or "hyperparameters" not in packed:
        hint = f"give the run's folder, {file.parent}" if _is_checkpoint(packed) else "give one that a run has written"
        raise UserError(f"{file} is no model file: {hint}")
    return packed


def _is_checkpoint(content: object) -> bool:
    return isinstance(content, dict) and content.get("kind") == KIND


def _build(architecture: Mapping[str, Any], path: Path) -> nn.Module:
    """The model, its weights not yet in place. Raises UserError where only its author can build it."""
    module, name, arguments = (architecture[part] for part in ("module", "name", "arguments"))
    try:
        own = getattr(import_experiment(module), name) if arguments is not None else None
    except (ImportError, AttributeError):
        own = None
    if not (isinstance(own, type) and issubclass(own, nn.Module)):
        raise UserError(f"{path} does not say how to build its {module}.{name}: give load_model one built alike, too")
    return own(**arguments)
