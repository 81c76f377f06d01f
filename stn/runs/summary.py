"""What the runs below a folder have come to, as tables: a row for each run, or for all seeds of one configuration."""

import math
import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas

from stn.errors import UserError
from stn.runs.folder import ARGS, STATUS, read_settings, read_status
from stn.runs.history import only_reading, read_epochs, read_result, require

# Settings that say nothing about a configuration: where a run lies, what it computes on and how often it logs, or what
# follows from other settings. The checksums tell what --data and --load_schedule name.
PLACING = {"save_dir", "prefix", "save", "logdir", "dir", "subdir", "label"}
MACHINE = {"device", "threads", "gpu", "disable_cuda", "no_cuda", "no_cuda_graphs", "checkpoint_activations"}
MACHINE |= {"checkpoint_seconds", "versions"}
LOGGING = {"log_interval", "train_log_interval", "val_log_interval"}
DERIVED = {"hyperparameters", "labels", "ranges", "own_transforms", "data_checksum", "schedule_checksum"}
UNTOLD = {"seed", *PLACING, *MACHINE, *LOGGING, *DERIVED}
MOVE_AWAY = "move the run away"
SHORTEST, LONGEST = 2, 24  # runs that are named together, and characters of what tells their paths apart

MEANS = ["val", "test", "best", "done", "time"]
COLUMNS = ["val", "val_deviation", "test", "test_deviation", "best", "done", "time", "status", "seeds", "run"]


@dataclass(frozen=True)
class Kind:
    """measure: of the tables' val_… and test_… columns. factor: to the unit.

    unit: in which val and test are told, to so many decimals. higher: whether more is better.
    """

    measure: str
    unit: str
    decimals: int
    factor: int = 1
    higher: bool = False


KINDS = (
    Kind("ppl", "perplexity", 2),
    Kind("acc", "accuracy in %", 1, factor=100, higher=True),
    Kind("loss", "loss", 4),  # of a run that has neither
)
UNSCORED = Kind("loss", "no score yet", 3)


@dataclass(frozen=True, eq=False)
class Summary:
    """Runs of one kind.

    scores: COLUMNS and seed, a row for each run. val, test: in the kind's unit; NaN where not known, as are the other
    numbers. best: the epoch of the lowest validation loss, counted from 0. done: how many epochs have ended. time: of
    training, in seconds. seeds: how many val and test are the mean of. run: the path from the folder. settings: the
    same rows, a column for each setting that is not the same in all; None where a run has no such setting.
    """

    kind: Kind
    scores: pandas.DataFrame
    settings: pandas.DataFrame

    def gathered(self) -> "Summary":
        """A row for each configuration: means over the seeds that are finished, with sample standard deviations.

        A seed that was run more than once counts once, with the mean of its runs. Where there is but one run, or none
        is finished, rows stay as they are; so does that of a run whose seed is not known.
        """
        groups: dict[tuple, list[int]] = {}
        for index, values in enumerate(self.settings.itertuples(index=False, name=None)):
            alone = index if pandas.isna(self.scores["seed"].iloc[index]) else None
            groups.setdefault((alone, *values), []).append(index)
        finished = self.scores["status"] == "finished"
        rows: list[list[int]] = []
        for group in groups.values():
            rows += [group] if finished.iloc[group].any() else [[index] for index in group]
        scores = pandas.DataFrame([_gather(self.scores.iloc[own]) for own in rows], columns=COLUMNS)
        settings = self.settings.iloc[[own[0] for own in rows]].reset_index(drop=True)
        return Summary(self.kind, scores, settings)

    def ordered(self, column: str | None = None) -> "Summary":
        """By a column of scores or settings, val and test the best first; by script, then val, where none is named.

        What is not known comes last.
        """
        names = [column] if column else [*({"script"} & {*self.settings}), "val", "run"]
        order = list(range(len(self.scores)))
        for name in reversed(names):
            values = list(self.settings[name] if name in self.settings else self.scores[name])
            sign = -1 if self.kind.higher and name in ("val", "test") else 1
            order.sort(key=lambda index, values=values, sign=sign: _place(values[index], sign))
        return Summary(self.kind, *(table.iloc[order].reset_index(drop=True) for table in (self.scores, self.settings)))


def summarize(folder: Path) -> tuple[list[Summary], list[str]]:
    """The runs in a folder, at any depth, by kind; and why others had to be left out. Only reads."""
    found: list[tuple[Kind | None, dict, dict]] = []
    paths, problems = find_runs(folder)
    for path in paths:
        try:
            kind, scores, settings = read_scores(path)
        except UserError as error:
            problems.append(str(error))
        else:
            scores["run"] = str(path.relative_to(folder))
            found.append((kind, scores, settings))
    # A run that has no score yet is of the kind of its script's others.
    kinds = {_plain(settings.get("script")): kind for kind, _, settings in found if kind}
    of_kind: dict[Kind, list[tuple[dict, dict]]] = {}
    for kind, scores, settings in found:
        of_kind.setdefault(kind or kinds.get(_plain(settings.get("script")), UNSCORED), []).append((scores, settings))
    return [_summary(kind, of_kind[kind]) for kind in (*KINDS, UNSCORED) if kind in of_kind], problems


def find_runs(folder: Path) -> tuple[list[Path], list[str]]:
    """The folders with settings at any depth, sorted; and which folders cannot be read.

    Links are followed, but to folders that are found without them, or that hold the folder itself.
    """
    problems: list[str] = []
    found, seen, starts = [], set(), [folder]

    def note(error: OSError) -> None:
        problems.append(f"cannot read {error.filename} ({error.strerror}): get access to it, or move it away")

    # Links come after all that lies below what they are in.
    while starts:
        start = starts.pop(0)
        if start is not folder and folder.resolve().is_relative_to(start.resolve()):
            continue
        for path, below, files in os.walk(start, onerror=note):
            if (real := os.path.realpath(path)) in seen:
                below.clear()
                continue
            seen.add(real)
            starts += [link for name in sorted(below) if (link := Path(path, name)).is_symlink()]
            if ARGS in files:
                found.append(Path(path))
    return sorted(found), problems


def read_scores(path: Path) -> tuple[Kind | None, dict[str, Any], dict[str, Any]]:
    """A run's kind, if it has a score yet, what it has come to, but for its path, and its settings.

    result.csv is believed where it speaks, else epoch.csv. Raises UserError where they, or the settings, are not what
    this version writes.
    """
    with only_reading(MOVE_AWAY):
        settings = read_settings(path)
    if not (path / STATUS).exists():
        raise UserError(f"{path} has {ARGS}, but no {STATUS}, and is no run: move it away")
    status = read_status(path)
    epochs = read_epochs(path, status == "finished", MOVE_AWAY)
    result = read_result(path, False, MOVE_AWAY)
    kind = next((kind for table in (epochs, result) for kind in KINDS if _has(table, kind)), None)
    names = [f"{split}_{(kind or UNSCORED).measure}" for split in ("val", "test")]
    require(path / "epoch.csv", epochs, ["epoch", "time", "val_loss", names[0]], MOVE_AWAY)
    require(path / "result.csv", result, names[:1], MOVE_AWAY)  # there may be no test data
    if math.isnan(result.get("best_epoch", 0.0)):  # of a model that no epoch has trained
        result = {}
    rows, factor = epochs.to_dict("records"), (kind or UNSCORED).factor
    best = min(rows, key=lambda row: (math.isnan(row["val_loss"]), row["val_loss"]), default={})
    last = rows[-1] if rows else {}
    scores = {
        "val": factor * _known(result.get(names[0]), best.get(names[0])),
        "test": factor * _known(result.get(names[1])),
        "best": _known(result.get("best_epoch"), best.get("epoch")),
        "done": float(len(rows)),
        "time": _known(result.get("time"), last.get("time")),
        "status": status,
        "seed": _plain(settings.get("seed")),
        "seeds": int(status == "finished"),
    }
    return kind, scores, settings


def _has(table: pandas.DataFrame | Mapping[str, float], kind: Kind) -> bool:
    return f"val_{kind.measure}" in table


def differing(settings: Sequence[Mapping[str, Any]]) -> list[str]:
    """The settings that are not the same in all runs, in order.

    One that only runs of another script lack does not differ for that; one that runs of the same script lack, as those
    of an older version do, does.
    """

    def differs(name: str) -> bool:
        having = {own[name] for own in settings if name in own}
        of_scripts = {(own.get("script"), own.get(name)) for own in settings}
        return len(having) > 1 or len(of_scripts) > len({script for script, _ in of_scripts})

    names = dict.fromkeys(name for own in settings for name in own)
    return [name for name in names if name not in UNTOLD and name not in COLUMNS and differs(name)]


def together(paths: Sequence[str]) -> str:
    """Several paths as one, as shells expand it: saves/a{1,2,3}; saves/a1 +2 where they differ in too much."""
    if len(paths) < SHORTEST:
        return "".join(paths)
    head = common_start(paths)
    tail = common_start([path[len(head) :][::-1] for path in paths])[::-1]
    own = [path[len(head) : len(path) - len(tail)] for path in paths]
    middle = ",".join(own)
    return f"{head}{{{middle}}}{tail}" if len(middle) <= LONGEST else f"{paths[0]} +{len(paths) - 1}"


def common_start(texts: Sequence[str]) -> str:
    """What all texts begin with."""
    first, last = min(texts), max(texts)
    length = next((place for place, (one, other) in enumerate(zip(first, last, strict=False)) if one != other), None)
    return first[:length]


def _summary(kind: Kind, runs: Sequence[tuple[dict, dict]]) -> Summary:
    settings = [{"script": "", **{name: _plain(value) for name, value in own.items()}} for _, own in runs]
    _name_contents(settings, "data", "data_checksum", 1)
    _name_contents(settings, "load_schedule", "schedule_checksum", 2)
    names = differing(settings)
    columns = {name: [own.get(name) for own in settings] for name in names}
    switches = [name for name in names if name.startswith("tune_") and name != "tune_all"]
    for name in switches if "tune_all" in columns else []:
        if _follows(columns[name], columns["tune_all"]):
            del columns[name]
    scores = pandas.DataFrame([own for own, _ in runs]).assign(val_deviation=math.nan, test_deviation=math.nan)
    return Summary(kind, scores[[*COLUMNS, "seed"]], pandas.DataFrame(columns, range(len(runs)), dtype=object))


def _gather(rows: pandas.DataFrame) -> dict[str, Any]:
    if len(rows) == 1:
        return rows.iloc[0].to_dict()
    by_seed = rows[rows["status"] == "finished"].groupby("seed")[MEANS].mean()
    deviations = by_seed.std(ddof=1)
    finished, all_seeds = len(by_seed), rows["seed"].nunique()
    return {
        **by_seed.mean(),
        "val_deviation": deviations["val"],
        "test_deviation": deviations["test"],
        "status": f"{finished} finished" if finished == all_seeds else f"{finished}/{all_seeds} finished",
        "seeds": finished,
        "run": together([*rows["run"]]),
    }


def _follows(values: Sequence, others: Sequence) -> bool:
    """Whether a setting has one value for each value of the other."""
    return len({*zip(values, others, strict=True)}) == len({*others})


def _name_contents(settings: Iterable[dict], name: str, checksum: str, parts: int) -> None:
    """Name a path by its last parts, and alike what is of the same content, wherever it lies."""
    names: dict[str, str] = {}
    for own in settings:
        if own.get(name) is None:
            continue
        content = str(own.get(checksum))
        if content not in names:
            short = "/".join(Path(str(own[name])).parts[-parts:])
            names[content] = f"{short}:{content[:6]}" if short in names.values() else short
        own[name] = names[content]


def _plain(value: Any) -> Any:
    """A setting that can be compared; lists as on the command line."""
    if isinstance(value, list):
        return " ".join(map(str, value))
    return value if value is None or isinstance(value, bool | int | float) else str(value)


def _place(value: Any, sign: int) -> tuple:
    """A key to sort by: numbers, then words, then what is not known."""
    if isinstance(value, str):
        return 1, 0, value
    missing = value is None or math.isnan(value)
    return (2, 0, "") if missing else (0, sign * value, "")


def _known(*values: float | None) -> float:
    """The first number that is known."""
    return next((value for value in values if value is not None and not math.isnan(value)), math.nan)
