"""The page of a report: one HTML text with its styles, scripts, curves and images, that asks for nothing else."""

import base64
from collections.abc import Sequence
from datetime import datetime
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from plotly.offline import get_plotlyjs

from stn.report.entries import KILLED, TRAINING, Entry
from stn.report.looks import looks
from stn.report.panels import MOST_POINTS, Panel, schedule_panels, score_panels, thinned
from stn.report.tables import clock, environment_table, found_table, runs_table, settings_tables

TEMPLATES = Path(__file__).parent
GRID, TEXT = "#e3e3e3", "#222"
AXIS = {"gridcolor": GRID, "linecolor": "#888", "showline": True, "zeroline": False, "automargin": True}
# What all panels share.
LAYOUT: dict[str, Any] = {
    "font": {"family": "system-ui, sans-serif", "size": 12, "color": TEXT},
    "margin": {"l": 48, "r": 8, "t": 8, "b": 40},
    "height": 250,
    "paper_bgcolor": "#fff",
    "plot_bgcolor": "#fff",
    "showlegend": False,
    "hoverlabel": {"namelength": 40, "font": {"size": 12}},
    "xaxis": {**AXIS, "nticks": 6},
    "yaxis": {**AXIS, "nticks": 6},
}


def page(entries: Sequence[Entry], written: datetime, order: Sequence[str] = ()) -> str:
    """The HTML of a report.

    entries: in the order in which they are shown, one at least. written: when. order: the hyperparameters whose panels
    come first. Raises UserError where a tuned value is not inside its range.
    """
    own = looks([entry.run for entry in entries])
    scores, schedules = score_panels(own), schedule_panels(own, order)
    keys = {look.key: look for look in own.values()}
    differing, shared = settings_tables(entries, own)
    content = {
        "title": own[entries[0].run].title if len(entries) == 1 else f"{len(entries)} runs",
        "written": written,
        "entries": [(number, entry, own[entry.run], state_of(entry)) for number, entry in enumerate(entries, start=1)],
        "keys": [*keys.values()],
        "names": {key: names_of(key, own.values()) for key in keys},
        "figures": {"Scores": scores, "Schedules": schedules},
        "panels": {"layout": LAYOUT, "panels": [as_json(panel) for panel in [*scores, *schedules]]},
        "banded": any(trace["meta"]["role"] == "low" for panel in schedules for trace in panel.data),
        "shaded": any(panel.layout.get("shapes") for panel in schedules),
        "most_points": MOST_POINTS if thinned(own) else None,
        "runs": runs_table(entries, own),
        "found": found_table(entries, own),
        "differing": differing,
        "shared": shared,
        "environment": environment_table(entries, own),
    }
    options = {"autoescape": True, "undefined": StrictUndefined, "trim_blocks": True, "lstrip_blocks": True}
    environment = Environment(loader=FileSystemLoader(TEMPLATES), **options)
    environment.filters["data_uri"] = data_uri
    parts = {name: (TEMPLATES / f"page.{name}").read_text(encoding="utf-8") for name in ("css", "js")}
    return environment.get_template("page.html").render(**content, **parts, plotly=get_plotlyjs())


def state_of(entry: Entry) -> str:
    """How far a run is, in a sentence."""
    of = f" of {entry.total:,}" if entry.total else ""
    steps = f", {entry.steps:,} weight steps" if entry.steps else ""
    far = f"{entry.done:,}{of} epochs{steps}" if entry.done or entry.steps else "no row is written yet"
    time = f" in {clock(entry.seconds)}" if entry.seconds is not None else ""
    age = f"; its last row is {clock(entry.age)} old" if entry.age is not None else ""
    if entry.state == TRAINING:
        return f"still training: {far}{time} so far{age}"
    if entry.state == KILLED:
        return f"its status says that it is running, but no process uses it: {far}{time}{age}"
    return f"{entry.state}: {far}{time}"


def names_of(key: str, all_looks: Any) -> str:
    """What the runs of one look are called."""
    return ", ".join(look.title for look in all_looks if look.key == key)


def as_json(panel: Panel) -> dict[str, Any]:
    return {"title": panel.title, "column": panel.column, "data": panel.data, "layout": panel.layout}


def data_uri(content: bytes) -> str:
    """A PNG as the page holds it."""
    return f"data:image/png;base64,{base64.b64encode(content).decode()}"
