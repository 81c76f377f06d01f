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


FLAGS = dict.fromkeys(["tune_all", "tune_scales", "entropy_weight", "dropout", "fc_dropout", "model", "seed"])


@pytest.mark.parametrize(
    ("names", "expected"),
    [
        # Flags are not taken apart at their own underscores, nor one for another that it ends with.
        (
            ["entropy_weight0.001_modelsmall_seed1_12:16:02", "entropy_weight0.01_modelsmall_seed1_12:17:02"],
            ["entropy_weight0.001", "entropy_weight0.01"],
        ),
        (
            ["fc_dropout0.3_seed1_12:16:02", "dropout0.3_seed1_12:16:03", "seed2_12:16:04"],
            ["fc_dropout0.3, seed1", "dropout0.3, seed1", "seed2"],
        ),
        # One without flags of its own, and two with the same, have the time.
        (["tune_all_tune_scales_12:16:02", "tune_all_12:17:02"], ["tune_scales", "12:17:02"]),
        (
            ["seed1_12:16:02", "seed1_12:17:02", "seed2_12:18:02"],
            ["seed1, 12:16:02", "seed1, 12:17:02", "seed2"],
        ),
        (["tune_all_12:16:02", "tune_all_12:17:02"], ["12:16:02", "12:17:02"]),
        # Not named after flags and the time.
        (["init_05", "init_30"], ["init_05", "init_30"]),
        (["seed1_12:16:02", "seed1_tuned"], ["seed1_12:16:02", "seed1_tuned"]),
    ],
)
def test_labels_of_folders_that_are_named_after_flags_are_what_differs(make_run, names, expected):
    assert history.labels([history.read_run(make_run("day", date=name, **FLAGS)) for name in names]) == expected


def test_values_are_not_taken_apart_at_their_underscores(make_run):
    folders = {"delta_stn": "methoddelta_stn_seed12_12:16:02", "stn": "methodstn_seed1_12:17:02"}
    runs = [make_run("day", date=name, method=method, seed=1) for method, name in folders.items()]
    assert history.labels([history.read_run(run) for run in runs]) == ["methoddelta_stn, seed12", "methodstn, seed1"]


def test_flags_tell_runs_of_several_days_apart_where_they_can(make_run):
    def labels(*paths):
        found = [history.read_run(make_run(day, date=name, **FLAGS)) for day, name in paths]
        return history.labels(found)

    paths = [("d1", "model1_seed1_12:16:02"), ("d1", "model1_seed2_12:17:02"), ("d2", "model1_seed3_12:16:02")]
    assert labels(*paths) == ["seed1", "seed2", "seed3"]
    assert labels(("d3", "seed1_12:16:02"), ("d4", "seed1_12:17:02")) == ["d3", "d4"]


def test_a_name_goes_before_the_path(make_run):
    runs = [history.read_run(make_run(name)) for name in ("fixed", "tuned")]
    assert history.labels([runs[0], replace(runs[1], name="ours")]) == ["fixed", "ours"]


def test_labels_of_runs_with_nothing_in_common(make_run):
    here = history.read_run(make_run("tuned"))
    elsewhere = [replace(here, path=Path(path)) for path in ("/one/logs/tuned/a", "/two/logs/fixed/a")]
    assert history.labels(elsewhere) == ["tuned", "fixed"]
    same = [replace(here, path=Path(path)) for path in ("/one/logs/a", "/two/logs/a")]
    assert history.labels(same) == ["one", "two"]
    deep = [replace(here, path=Path(path)) for path in ("/one/x/logs/a/b", "/two/x/logs/a/b")]
    assert history.labels(deep) == ["/one/x/logs/a/b", "/two/x/logs/a/b"]
