"""The page of a report: that it says what the runs' tables say, escapes what users wrote, and asks for nothing."""

import csv
import json
import math
import re
import shlex
import shutil
import subprocess
from dataclasses import replace
from datetime import UTC, datetime
from html.parser import HTMLParser

import numpy
import pytest
from figure_runs import (
    EPOCH_CSV,
    EPOCH_HEADER,
    EPOCHS,
    STEPS,
    VAL_CSV,
    VALID_CSV,
    write_fixed,
    write_image_run,
    write_run,
)
from plotly.offline import get_plotlyjs

from stn.figures.style import COLORS, DASHES
from stn.report import panels
from stn.report.entries import KILLED, TRAINING, Command, Entry, Sheet
from stn.report.looks import looks, pixels
from stn.report.page import page
from stn.report.panels import MOST_POINTS
from stn.runs.history import read_run

WRITTEN = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)
EVIL = "</script><script>alert(1)</script><img src=x onerror=alert(2)>&\"'"
CHROMIUM = shutil.which("chromium")
SCALED = EPOCH_CSV.replace(",lr", ",dropouto_scale,lr").replace(",30.0", ",0.5,30.0")


class Content(HTMLParser):
    """What is in a page: its elements with their attributes, the text of each script, and all other text."""

    def __init__(self, html):
        super().__init__()
        self.elements, self.scripts, self.texts, self.within = [], [], [], None
        self.feed(html)
        self.text = " ".join(" ".join(self.texts).split())

    def handle_starttag(self, tag, attrs):
        self.elements.append((tag, dict(attrs)))
        self.within = tag if tag in ("script", "style") else None

    def handle_endtag(self, _):
        self.within = None

    def handle_data(self, data):
        if self.within == "script":
            self.scripts.append(data)
        elif self.within is None:
            self.texts.append(data)

    @property
    def panels(self):
        return json.loads(self.scripts[0], parse_constant=pytest.fail)["panels"]

    def traces(self, column, role="curve"):
        """Of the panel of this column, by run."""
        found = [panel for panel in self.panels if panel["column"] == column]
        return {trace["meta"]["run"]: trace for trace in found[0]["data"] if trace["meta"]["role"] == role}


def report(*paths, names=None, **settings):
    runs = [read_run(path) for path in paths]
    runs = [replace(run, name=name) for run, name in zip(runs, names or [None] * len(runs), strict=True)]
    entries = [Entry(run, "finished", **settings) for run in runs]
    return page(entries, WRITTEN)


def columns(file):
    with file.open(newline="") as table:
        rows = [*csv.DictReader(table)]
    return {name: [float(row[name]) for row in rows] for name in rows[0]}


def test_curves_are_the_tables_to_the_last_digit(tmp_path):
    tuned, fixed = write_run(tmp_path), write_fixed(tmp_path)
    content = Content(report(tuned, fixed))
    epoch, steps = columns(tuned / "epoch.csv"), columns(tuned / "val.csv")
    for role, column in (("curve", "val_ppl"), ("curve, training", "train_ppl")):
        trace = content.traces("val_ppl, train_ppl", role)[str(tuned)]
        assert (trace["x"], trace["y"]) == (epoch["epoch"], epoch[column])
    schedule = content.traces("dropouto")
    assert (schedule[str(tuned)]["x"], schedule[str(tuned)]["y"]) == (steps["train_step"], steps["dropouto"])
    assert (schedule[str(fixed)]["x"], schedule[str(fixed)]["y"]) == ([0.0, 6.0], [0.5, 0.5])  # across the panel
    best = content.traces("val_ppl, train_ppl", "best")[str(tuned)]
    assert (best["x"], best["y"]) == ([1.0], [181.3])
    assert content.traces("lr")[str(tuned)]["y"] == epoch["lr"]


def test_a_band_reaches_one_scale_of_the_perturbation(tmp_path):
    path = write_run(tmp_path, epoch=SCALED, ranges={"dropouto": [0.0, 1.0]})
    content = Content(report(path))
    low, high = (content.traces("dropouto", role)[str(path)]["y"] for role in ("low", "high"))
    odds = [row[3] / (1 - row[3]) for row in STEPS]  # λ is their logarithm
    for side, factor in ((low, math.exp(-0.5)), (high, math.exp(0.5))):
        assert side == pytest.approx([one * factor / (1 + one * factor) for one in odds], rel=1e-5)
    curve = content.traces("dropouto")[str(path)]
    assert [point[0] for point in curve["customdata"]] == [0.5] * 3 and "scale" in curve["hovertemplate"]


def test_image_classifiers_have_accuracies_and_their_own_names(tmp_path):
    path = write_image_run(tmp_path, names=["dropout0", "cutlength", "cutholes"], steps=VALID_CSV, tuned=["dropout0"])
    content = Content(report(path, result={"val_acc": 0.75, "test_acc": 0.7, "best_epoch": 1.0, "time": 3700.0}))
    assert content.traces("val_acc, train_acc")[str(path)]["y"] == [0.5, 0.75, 0.625]
    assert "75.0" in content.text and "70.0" in content.text and "1:01:40" in content.text


def test_results_settings_and_environment_are_told(tmp_path):
    versions = {"python": "3.11.7", "torch": "2.13.0", "revision": "abc123-dirty"}
    one = write_run(tmp_path, "one", lr=30.0, clip=0.25, seed=3, versions=versions, device="cuda:0", milestones=[5, 9])
    two = write_run(tmp_path, "two", lr=20.0, clip=0.25, seed=3, versions=versions, device="cpu", milestones=[5, 9])
    text = Content(report(one, two)).text
    for words in ("181.30", "lr 30 20", "clip 0.25", "python 3.11.7 3.11.7", "abc123-dirty", "device cuda:0 cpu"):
        assert words in text
    assert "milestones 5 9" in text and "clip 0.25 0.25" not in text
    assert "output dropout" not in text and "dropouto not tuned 0.4 0.4" in text  # of the best epoch, 1


@pytest.mark.parametrize(
    ("state", "words"),
    [
        (TRAINING, "still training: 3 of 16 epochs, 6 weight steps in 0:03:00 so far; its last row is 0:00:08 old"),
        (KILLED, "no process uses it: 3 of 16 epochs"),
        ("interrupted", "interrupted: 3 of 16 epochs"),
    ],
)
def test_how_far_a_run_is(tmp_path, state, words):
    entry = Entry(read_run(write_run(tmp_path, epochs=16)), state, age=8.0)
    text = Content(page([entry], WRITTEN)).text
    assert words in text and "3 of 16" in text and "2026-01-02 03:04:05 UTC" in text
    assert ("Write the report again" in text) == (state in (TRAINING, KILLED))


@pytest.mark.parametrize("epoch", [None, EPOCH_HEADER + "\n", EPOCH_HEADER[:20]])
def test_a_run_without_a_row_has_a_page(tmp_path, epoch):
    begun = write_run(tmp_path, "begun", epoch=epoch, val=None)
    content = Content(page([Entry(read_run(begun), TRAINING)], WRITTEN))
    assert content.panels == [] and "no row is written yet" in content.text and "nothing to draw yet" in content.text
    content = Content(report(begun, write_run(tmp_path)))
    assert [*content.traces("val_ppl, train_ppl")] == [str(tmp_path / "tuned" / "2026-01-02")]


def test_a_row_that_is_being_written_does_not_count(tmp_path):
    path = write_run(tmp_path, epoch=EPOCH_CSV + "3,240.0,4.5,5.", val=VAL_CSV + "12,4.0,2")
    content = Content(report(path))
    assert content.traces("val_ppl, train_ppl")[str(path)]["y"] == [row[5] for row in EPOCHS]
    assert content.traces("dropouto")[str(path)]["x"] == [row[4] for row in STEPS]


def test_in_the_warm_up_there_are_scores_without_steps(tmp_path):
    path = write_run(tmp_path, val=None, epoch="\n".join(EPOCH_CSV.split("\n")[:2]) + "\n")
    content = Content(report(path))
    assert content.traces("dropouto")[str(path)]["y"] == [0.5]


def test_infinite_scores_are_gaps(tmp_path):
    path = write_run(tmp_path, epoch=EPOCH_CSV.replace("200.3", "inf"))
    assert Content(report(path)).traces("val_ppl, train_ppl")[str(path)]["y"] == [365.0, 181.3, None]


def test_what_users_wrote_is_text(tmp_path):
    path = write_run(tmp_path, data=EVIL, labels={"dropouto": EVIL}, script=EVIL, versions={EVIL: EVIL})
    other = write_run(tmp_path, EVIL.replace("/", "|"), prefix=EVIL)
    commands = [Command(EVIL, EVIL)]
    content = Content(report(path, other, names=[EVIL, "b"], commands=commands))
    assert [tag for tag, _ in content.elements].count("script") == 3 and "img" not in {*dict(content.elements)}
    assert not [attribute for _, own in content.elements for attribute in own if attribute.startswith("on")]
    assert content.text.count("<img src=x onerror=alert(2)>") > 5
    # Plotly takes names for HTML of its own.
    assert all("<" not in trace.get("name", "") for panel in content.panels for trace in panel["data"])


def test_nothing_is_fetched(tmp_path):
    sheet = Sheet("augmentation.png", b"\x89PNG\r\n\x1a\n")
    html = report(write_image_run(tmp_path), sheets=[sheet])
    content = Content(html)
    links = [
        value for _, own in content.elements for name in ("src", "href", "srcset", "data") if (value := own.get(name))
    ]
    assert links and all(link.startswith(("#", "data:image/png;base64,")) for link in links)
    assert not {"link", "iframe", "object", "embed", "base"} & {tag for tag, _ in content.elements}
    style = re.search(r"<style>(.*?)</style>", html, re.DOTALL)[1]
    assert "url(" not in style and "@import" not in style
    policy = next(own["content"] for tag, own in content.elements if own.get("http-equiv"))
    assert policy.startswith("default-src 'none'; ") and "http" not in policy and "connect-src" not in policy
    own = html.replace(get_plotlyjs(), "")
    assert html.count(get_plotlyjs()) == 1 and not re.findall(r"https?:", own)


def test_runs_look_apart_in_grey_too(tmp_path):
    runs = [read_run(write_run(tmp_path, f"run{number}")) for number in range(12)]
    found = looks(runs)
    assert len({look.color for look in found.values()}) == len({look.dash for look in found.values()}) == len(COLORS)
    assert len({look.glyph for look in found.values()}) == 12
    assert pixels(DASHES[0]) == "" and pixels((0, (5, 1))) == "10,2" and panels.dashed("10,2") == "10px,2px"


def test_wide_scores_have_a_logarithmic_axis_with_whole_labels(tmp_path):
    content = Content(report(write_run(tmp_path)))
    axis = content.panels[0]["layout"]["yaxis"]  # of perplexities from 134.3 to 403.4
    assert axis["type"] == "log" and {150.0, 200.0, 300.0} <= {*axis["tickvals"]}
    assert axis["ticktext"][axis["tickvals"].index(150.0)] == "150"
    assert panels.logarithmic([numpy.array([1.0, 2.0])], 2) == panels.logarithmic([numpy.array([0.0, 9.0])], 2) == {}
    assert panels.logarithmic([], 2) == panels.logarithmic([numpy.array([math.nan])], 2) == {}


def test_seeds_of_one_name_look_alike_and_are_named(tmp_path):
    runs = [write_run(tmp_path, f"run{seed}", seed=seed) for seed in (1, 2)]
    content = Content(report(*runs, names=["ours", "ours"]))
    assert {trace["line"]["color"] for trace in content.traces("dropouto").values()} == {COLORS[0]}
    assert {trace["name"] for trace in content.traces("dropouto").values()} == {"ours, seed 1", "ours, seed 2"}


def test_of_long_tables_some_rows_are_drawn_and_that_is_said(tmp_path):
    lines = [f"{3 * step},{step},2.0,{0.5 + step / 1e5},{step}" for step in range(1, 5001)]
    path = write_run(tmp_path, val="\n".join([VAL_CSV.split("\n")[0], *lines]) + "\n")
    content = Content(report(path))
    trace = content.traces("dropouto")[str(path)]
    assert len(trace["x"]) == MOST_POINTS and (trace["x"][0], trace["x"][-1]) == (1, 5000)
    assert all(y == 0.5 + x / 1e5 for x, y in zip(trace["x"], trace["y"], strict=True))
    assert f"{MOST_POINTS} at equal distances" in content.text


def dump(html, tmp_path, script):
    """The page's elements after a script has run in a browser, which leaves JSON in <pre id="found">: that."""
    file = tmp_path / "page.html"
    file.write_text(html.replace("</body>", f"<script>{script}</script></body>"), encoding="utf-8")
    words = "--headless --no-sandbox --disable-gpu --no-first-run --disable-extensions --disable-background-networking"
    start = [CHROMIUM, *shlex.split(words), "--enable-logging=stderr", "--virtual-time-budget=2000", "--dump-dom"]
    start += [f"--user-data-dir={tmp_path / 'profile'}", "--window-size=1280,1000", file.as_uri()]
    done = subprocess.run(start, capture_output=True, text=True, timeout=300)
    assert "CONSOLE" not in done.stderr, done.stderr  # neither errors nor what the policy refused
    return json.loads(re.search(r'<pre id="found">(.*?)</pre>', done.stdout, re.DOTALL)[1])


CLICKS = """
const found = { plots: document.querySelectorAll(".plot .main-svg").length, orders: [], sorts: [] };
const table = document.querySelector("table.sortable");
const column = [...table.tHead.rows[0].cells].findIndex((head) => head.innerText.startsWith("validation"));
for (let click = 0; click < 3; click++) {
  table.tHead.rows[0].cells[column].querySelector("button").click();
  found.orders.push([...table.tBodies[0].rows].map((row) => row.cells[column].textContent));
  found.sorts.push(table.tHead.rows[0].cells[column].getAttribute("aria-sort"));
}
const key = document.querySelector(".key");
key.click();
found.pressed = key.getAttribute("aria-pressed");
found.hidden = plots[0].data.map((trace) => [trace.meta.run.includes("/b/"), trace.visible]);
dispatchEvent(new Event("beforeprint"));
found.widths = [...new Set(plots.map((plot) => plot._fullLayout.width))];
const pre = document.createElement("pre");
pre.id = "found";
pre.textContent = JSON.stringify(found);
document.body.append(pre);
"""


@pytest.mark.skipif(CHROMIUM is None, reason="there is no chromium")
def test_in_a_browser_tables_are_sorted_and_runs_hidden(tmp_path):
    scores = {"b": "1000.5", "a": "99.5", "c": "181.3"}
    runs = [write_run(tmp_path, name, epoch=EPOCH_CSV.replace("181.3", score)) for name, score in scores.items()]
    begun = write_run(tmp_path, "d", epoch=None, val=None)
    found = dump(report(*runs, begun), tmp_path, CLICKS)
    assert found["orders"] == [
        ["99.50", "181.30", "1,000.50", "–"],
        ["1,000.50", "181.30", "99.50", "–"],
        ["99.50", "181.30", "1,000.50", "–"],
    ]
    assert found["sorts"] == ["ascending", "descending", "ascending"]
    assert found["plots"] >= 4 and found["widths"] == [340]
    assert found["pressed"] == "false" and all((visible is False) == of_b for of_b, visible in found["hidden"])
