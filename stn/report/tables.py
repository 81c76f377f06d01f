"""The tables of a report: what runs have come to, what they found, their settings and their environment."""

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

from stn.report.entries import Entry
from stn.report.looks import Look
from stn.runs.history import Run, words_for
from stn.runs.summary import DERIVED, KINDS, MACHINE, differing
from stn.schedules import SCALE

UNKNOWN = "–"
# Of args.yaml: what other tables show.
ELSEWHERE = {*DERIVED, *MACHINE, "versions", "script", "sources", "seed"}
COMPUTED_ON = ("device", "threads", "dtype", "data_checksum")


class Cell(NamedTuple):
    """text: what is read. value: what the column is sorted by; None for what is not known, which comes last."""

    text: str
    value: float | str | None = None
    note: str = ""


class Row(NamedTuple):
    """head: what it is of. note: said below that in small letters. look, link: of a row of a run."""

    head: str
    cells: Sequence[Cell]
    note: str = ""
    look: Look | None = None
    link: str = ""


class Table(NamedTuple):
    """corner: the head of the first column. extra: how many of the last columns other tables show, too."""

    corner: str
    heads: Sequence[str]
    rows: Sequence[Row]
    extra: int = 0


def runs_table(entries: Sequence[Entry], looks: Mapping[Run, Look]) -> Table:
    """A row for each run: its state and scores, the best epoch's, its time, and the settings that differ."""
    kinds = [kind for kind in KINDS if any(f"val_{kind.measure}" in scores(entry) for entry in entries)]
    kinds = kinds[:-1] if len(kinds) > 1 else kinds  # the loss is said where there is nothing else
    splits = [(kind, split) for kind in kinds for split in ("val", "test")]
    words = {"val": "validation", "test": "test"}
    settings = [{name: in_words(value) for name, value in entry.run.settings.items()} for entry in entries]
    names = [name for name in differing(settings) if name != "script"]
    seeds = ["seed"] if any("seed" in own for own in settings) else []
    heads = ["state", "epochs", "best epoch", *(f"{words[split]} {kind.unit}" for kind, split in splits)]
    rows = []
    for number, entry in enumerate(entries, start=1):
        own, known = looks[entry.run], scores(entry)
        total = f" of {entry.total:,}" if entry.total and entry.state != "finished" else ""
        cells = [Cell(entry.state, entry.state), Cell(f"{entry.done:,}{total}", entry.done)]
        cells.append(number_cell(known.get("best_epoch"), 0))
        cells += [score_cell(known.get(f"{split}_{kind.measure}"), kind) for kind, split in splits]
        cells += [Cell(clock(entry.seconds), entry.seconds)]
        cells += [setting_cell(entry.run.settings.get(name)) for name in (*seeds, *names)]
        script = str(entry.run.settings.get("script", ""))
        rows.append(Row(own.title, cells, script, own, f"run-{number}"))
    return Table("run", [*heads, "time", *seeds, *names], rows, len(names))


def scores(entry: Entry) -> dict[str, float]:
    """What result.csv says, or else the best epoch of epoch.csv, with "best_epoch"."""
    best = dict(entry.best)
    known = {name: value for name, value in best.items() if name.startswith("val_")}
    known |= {"best_epoch": best["epoch"]} if "epoch" in best else {}
    return known | {name: value for name, value in entry.result.items() if not math.isnan(value)}


def score_cell(value: float | None, kind: Any) -> Cell:
    return number_cell(None if value is None else value * kind.factor, kind.decimals)


def setting_cell(value: Any) -> Cell:
    if value is None:
        return Cell(UNKNOWN)
    return Cell(in_words(value), float(value) if isinstance(value, int | float) else in_words(value))


def number_cell(value: float | None, decimals: int) -> Cell:
    if value is None or math.isnan(value):
        return Cell(UNKNOWN)
    return Cell(f"{value:,.{decimals}f}", float(value))


def found_table(entries: Sequence[Entry], looks: Mapping[Run, Look]) -> Table:
    """A row for each hyperparameter that is ever on: its value at each run's best epoch, and its scale there."""
    runs = [entry.run for entry in entries]
    on = dict.fromkeys(name for run in runs for name in run.on("epoch"))
    single = len(entries) == 1
    heads = ["first epoch", "best epoch", "last epoch"] if single else [looks[run].title for run in runs]
    rows = []
    for name in on:
        cells = []
        for entry in entries:
            epochs = entry.run.epoch.to_dict("records") if len(entry.run.epoch) else []
            chosen = [epochs[0], entry.best, epochs[-1]] if single and epochs else [entry.best]
            cells += [value_cell(row, name) for row in chosen]
        words = words_for(name, runs)
        rows.append(Row(words, cells, ", ".join([*([name] if words != name else []), *range_words(name, runs)])))
    return Table("hyperparameter", heads, rows)


def value_cell(row: Mapping[str, float], name: str) -> Cell:
    """A hyperparameter's value in a row of epoch.csv, with its scale."""
    if name not in row or math.isnan(row[name]):
        return Cell(UNKNOWN)
    scale = f"scale {row[name + SCALE]:.3g}" if name + SCALE in row else ""
    return Cell(f"{row[name]:.4g}", float(row[name]), scale)


def range_words(name: str, runs: Iterable[Run]) -> list[str]:
    """Where it is tuned, in words, if a run tunes it."""
    ends = next((run.settings["ranges"][name] for run in runs if name in run.settings.get("ranges", {})), None)
    if ends is None:
        return ["not tuned"]
    low, high = (f"{end:g}".replace("inf", "∞") for end in ends)
    return [f"from {low} to {high}"]


def settings_tables(entries: Sequence[Entry], looks: Mapping[Run, Look]) -> tuple[Table, list[tuple[str, str]]]:
    """The settings in which the runs differ, a column for each run; and those that all share, with their values."""
    runs = [entry.run for entry in entries]
    names = [*dict.fromkeys(name for run in runs for name in run.settings if name not in ELSEWHERE)]
    told = {name: [in_words(run.settings.get(name)) if name in run.settings else "" for run in runs] for name in names}
    rows = [
        Row(name, [Cell(text or UNKNOWN, text) for text in texts]) for name, texts in told.items() if len({*texts}) > 1
    ]
    shared = [(name, texts[0]) for name, texts in told.items() if len({*texts}) == 1]
    return Table("setting", [looks[run].title for run in runs], rows), shared


def environment_table(entries: Sequence[Entry], looks: Mapping[Run, Look]) -> Table:
    """Versions of the software, what the runs computed on, and the checksum of their data."""
    runs = [entry.run for entry in entries]
    versions = [own if isinstance(own := run.settings.get("versions"), dict) else {} for run in runs]
    found = {name: [own.get(name) for own in versions] for name in dict.fromkeys(n for own in versions for n in own)}
    found |= {name: [run.settings.get(name) for run in runs] for name in COMPUTED_ON}
    rows = [
        Row(str(name).replace("_", " "), [Cell(in_words(value)) for value in values])
        for name, values in found.items()
        if any(value is not None for value in values)
    ]
    return Table("", [looks[run].title for run in runs], rows)


def in_words(value: Any) -> str:
    """A setting as it is read."""
    if value is None or isinstance(value, bool):
        return {None: UNKNOWN, True: "yes", False: "no"}[value]
    if isinstance(value, list):
        return " ".join(map(in_words, value)) or "none"
    if isinstance(value, dict):
        return ", ".join(f"{name}: {in_words(of)}" for name, of in value.items()) or "none"
    return f"{value:g}" if isinstance(value, float) and float(f"{value:g}") == value else str(value)


def clock(seconds: float | None) -> str:
    """Hours, minutes and seconds."""
    if seconds is None or not math.isfinite(seconds):
        return UNKNOWN
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes // 60}:{minutes % 60:02}:{rest:02}"
