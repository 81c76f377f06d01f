"""Run folders that cannot be read, and what tells runs apart."""

from dataclasses import replace
from functools import partial
from pathlib import Path

import pytest
from figure_runs import EPOCH_HEADER, write_run

from stn.errors import UserError
from stn.runs import history


@pytest.fixture
def make_run(tmp_path):
    return partial(write_run, tmp_path / "logs")


def test_a_missing_run_is_named(tmp_path):
    with pytest.raises(UserError, match="nowhere"):
        history.read_run(tmp_path / "nowhere")


def test_what_is_no_number_is_named(make_run):
    run = make_run(epoch=EPOCH_HEADER + "\n" + ",".join(["what"] * 9) + "\n")
    with pytest.raises(UserError, match=r"epoch\.csv"):
        history.read_run(run)


@pytest.mark.parametrize(
    ("names", "expected"),
    [
        (["demo/fixed/2026-01-02", "demo/tuned/2026-01-02"], ["fixed", "tuned"]),
        (["paper/2026-01-02-a", "paper/2026-01-03-a"], ["2026-01-02-a", "2026-01-03-a"]),
        (["paper/2026-01-02"], ["paper/2026-01-02"]),
        (["a/2026-01-02", "b/c/2026-01-02"], ["a", "b"]),
        (["tuned/seed0/lr1_01:02:03", "fixed/seed0/lr1_cut4_01:02:03"], ["tuned", "fixed"]),
        (["a/2026-01-02", "a/2026-01-03", "b/2026-01-03"], ["a/2026-01-02", "a/2026-01-03", "b/2026-01-03"]),
    ],
)
def test_labels_are_what_tells_runs_apart(make_run, names, expected):
    runs = [history.read_run(make_run(*name.rsplit("/", 1)[:1], date=name.rsplit("/", 1)[1])) for name in names]
    assert history.labels(runs) == expected


def test_labels_of_runs_with_nothing_in_common(make_run):
    here = history.read_run(make_run("tuned"))
    elsewhere = [replace(here, path=Path(path)) for path in ("/one/logs/tuned/a", "/two/logs/fixed/a")]
    assert history.labels(elsewhere) == ["tuned", "fixed"]
    same = [replace(here, path=Path(path)) for path in ("/one/logs/a", "/two/logs/a")]
    assert history.labels(same) == ["one", "two"]
    deep = [replace(here, path=Path(path)) for path in ("/one/x/logs/a/b", "/two/x/logs/a/b")]
    assert history.labels(deep) == ["/one/x/logs/a/b", "/two/x/logs/a/b"]
