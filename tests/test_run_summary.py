"""Runs gathered in tables: what they have come to, what differs between them, and means over seeds."""

import math
import os
import statistics

import pytest
import yaml
from run_tables import IMAGES, LANGUAGE, write, write_run

from cnn import hypertrain
from cnn import train_basic as cnn_basic
from lstm import train
from lstm import train_basic as lstm_basic
from stn.errors import UserError
from stn.runs.summary import COLUMNS, differing, read_scores, summarize, together

SCRIPTS = (train, lstm_basic, hypertrain, cnn_basic)


@pytest.fixture
def logs(tmp_path):
    return tmp_path / "logs"


def only(folder):
    """The one summary of a folder without problems."""
    (summary,), problems = summarize(folder)
    assert problems == []
    return summary


def rows(summary, *columns):
    return [tuple(row) for row in summary.scores[[*columns]].itertuples(index=False)]


def scores(folder):
    _, found, _ = read_scores(folder)
    return found


def test_what_result_csv_does_not_say_is_read_from_epoch_csv(logs):
    found = scores(write_run(logs / "a", val=180.0, test=170.0))
    assert (found["val"], found["test"], found["best"], found["done"], found["time"]) == (180, 170, 1, 3, 180.5)
    found = scores(write_run(logs / "b", status="running"))
    assert (found["val"], found["best"], found["done"], found["status"]) == (181, 1, 3, "running")
    assert math.isnan(found["test"])


def test_result_csv_is_believed_on_best_epoch_and_time(logs):
    header = "val_loss,val_ppl,test_loss,test_ppl,best_epoch,best_time,time,alpha\n"
    found = scores(write_run(logs / "a", result=header + "5,180,5,170,2,60.0,200.25,0.5\n"))
    assert (found["best"], found["time"], found["val"]) == (2, 200.25, 180)
    found = scores(write_run(logs / "b", result=header + "5,180,5,170,,,,0.5\n"))
    assert (found["best"], found["time"]) == (1, 180.5)


def test_accuracies_are_percentages(logs):
    epochs = ((60.0, 2.0, 0.25), (120.0, 1.5, 0.5))
    assert scores(write_run(logs / "a", IMAGES, "interrupted", epochs))["val"] == 50
    found = scores(write_run(logs / "b", IMAGES, epochs=epochs, val=0.625, test=0.375))
    assert (found["val"], found["test"]) == (62.5, 37.5)


def test_a_run_that_has_just_begun_has_no_scores(logs):
    write_run(logs / "a", status="running", epochs=())
    (logs / "a" / "epoch.csv").unlink()
    assert rows(only(logs), "status", "done", "run") == [("running", 0, "a")]
    assert only(logs).scores[["val", "best", "time"]].isna().all(axis=None)


def test_a_row_that_is_being_written_does_not_count(logs):
    path = write_run(logs / "a", status="running") / "epoch.csv"
    path.write_text(path.read_text() + "3,240.0,1.0,2")
    assert scores(logs / "a")["done"] == 3
    assert scores(logs / "a")["val"] == 181


def test_settings_that_differ_are_columns(logs):
    write_run(logs / "a", device="cpu", threads=1, save_dir="x", label="p", versions={"torch": "1"})
    write_run(logs / "b", device="cuda", threads=2, save_dir="y", label="q", versions={"torch": "2"}, lr=20.0, seed=9)
    table = only(logs).settings
    assert {name: [*table[name]] for name in table} == {"lr": [30, 20]}


def test_a_setting_that_runs_of_another_script_lack_does_not_differ():
    tuned, basic = {"script": "train.py", "hyper_lr": 0.01}, {"script": "train_basic.py", "perturb_std": 0.1}
    assert differing([tuned, basic]) == ["script"]
    assert differing([tuned, basic, {**tuned, "hyper_lr": 0.02}]) == ["script", "hyper_lr"]


def test_a_setting_that_an_older_run_of_the_script_lacks_differs():
    assert differing([{"script": "train.py", "new": 1}, {"script": "train.py"}]) == ["new"]


def test_data_and_schedules_are_told_by_their_content(logs):
    write_run(logs / "a", load_schedule="/x/one/epoch.csv", schedule_checksum="s1")
    write_run(logs / "b", load_schedule="/copy/epoch.csv", schedule_checksum="s1", data="/elsewhere/corpus")
    assert [*only(logs).settings] == []
    write_run(logs / "c", load_schedule="/y/one/epoch.csv", schedule_checksum="s2", data_checksum="other4")
    assert [*only(logs).settings["load_schedule"]] == ["one/epoch.csv", "one/epoch.csv", "one/epoch.csv:s2"]
    assert [*only(logs).settings["data"]] == ["penn", "penn", "penn:other4"]
    write_run(logs / "d")
    assert only(logs).settings["load_schedule"].iloc[3] is None


def test_switches_that_tune_all_stands_for_are_not_repeated(logs):
    switches = {"tune_all": True, "tune_alpha": True, "tune_beta": True, "tune_scales": False}
    write_run(logs / "a", **switches)
    write_run(logs / "b", **{**switches, "tune_scales": True})
    write_run(logs / "c", **dict.fromkeys(switches, False))
    write_run(logs / "d", **{**dict.fromkeys(switches, False), "tune_beta": True})
    assert [*only(logs).settings] == ["tune_all", "tune_beta", "tune_scales"]


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda script: script.__name__)
def test_no_flag_is_called_like_a_column(script):
    assert not {*script.SCRIPT.flags} & {*COLUMNS}


def test_seeds_of_one_configuration_are_a_mean_with_the_sample_deviation(logs):
    vals, tests = [181.25, 179.5, 190.0], [171.0, 170.5, 169.0]
    for seed, (val, test) in enumerate(zip(vals, tests, strict=True), start=1):
        write_run(logs / f"a{seed}", seed=seed, val=val, test=test)
    write_run(logs / "b", seed=1, lr=20.0, val=150.0, test=140.0)
    gathered = only(logs).gathered()
    assert rows(gathered, "run", "seeds", "status") == [("a{1,2,3}", 3, "3 finished"), ("b", 1, "finished")]
    assert [*gathered.settings["lr"]] == [30, 20]
    (row,) = rows(gathered, "val", "val_deviation", "test", "test_deviation", "time", "best", "done")[:1]
    expected = [sum(vals) / 3, statistics.stdev(vals), sum(tests) / 3, statistics.stdev(tests), 180.5, 1, 3]
    assert row == pytest.approx(expected)
    assert rows(gathered, "val", "test")[1] == (150, 140)
    assert math.isnan(gathered.scores["val_deviation"][1])


def test_only_finished_runs_enter_a_mean(logs):
    write_run(logs / "1", seed=1, val=100.0, test=90.0)
    write_run(logs / "2", seed=2, val=110.0, test=94.0)
    write_run(logs / "3", seed=3, status="running", val=500.0, test=500.0)
    (row,) = rows(only(logs).gathered(), "val", "test", "status", "seeds", "val_deviation")
    assert row[:4] == (105, 92, "2/3 finished", 2)
    assert row[4] == pytest.approx(math.sqrt(50))


def test_one_finished_seed_has_no_deviation_and_none_no_mean(logs):
    write_run(logs / "1", seed=1, val=100.0, test=90.0)
    write_run(logs / "2", seed=2, status="failed")
    write_run(logs / "x", seed=1, lr=1.0, status="running")
    write_run(logs / "y", seed=2, lr=1.0, status="running")
    gathered = only(logs).gathered()
    assert rows(gathered, "run", "status") == [("{1,2}", "1/2 finished"), ("x", "running"), ("y", "running")]
    assert gathered.scores["val"].tolist()[0] == 100
    assert gathered.scores["val_deviation"].isna().all()


def test_a_seed_that_was_run_twice_counts_once(logs):
    for name, seed, val in (("a", 1, 100.0), ("b", 1, 102.0), ("c", 2, 107.0)):
        write_run(logs / name, seed=seed, val=val, test=val)
    (row,) = rows(only(logs).gathered(), "val", "val_deviation", "seeds", "status")
    assert row == pytest.approx((104, statistics.stdev([101, 107]), 2, "2 finished"))


def test_a_run_that_is_alone_is_shown_as_far_as_it_is(logs):
    write_run(logs / "a", status="running")
    assert rows(only(logs).gathered(), "val", "status", "seeds") == [(181, "running", 0)]


def test_several_paths_are_told_as_shells_expand_them():
    assert together(["saves/a1", "saves/a2", "saves/a10"]) == "saves/a{1,2,10}"
    assert together(["1/a", "2/a"]) == "{1,2}/a"
    assert together(["aa", "aaa"]) == "aa{,a}"
    assert together([f"x{letter * 13}y" for letter in "abc"]) == "xaaaaaaaaaaaaay +2"
    assert together(["one"]) == "one"


def test_order(logs):
    for name, val in (("a", 130.0), ("b", 90.0), ("c", 100.0)):
        write_run(logs / name, val=val, test=val, wdrop={"a": 0.1, "b": 0.05, "c": 0.2}[name])
    write_run(logs / "d", status="running", epochs=(), wdrop=0.0)
    write_run(logs / "e", {**LANGUAGE, "script": "lstm/train_basic.py"}, val=1.0, test=1.0)
    summary = only(logs)
    assert rows(summary.ordered(), "run") == [("b",), ("c",), ("a",), ("d",), ("e",)]
    assert rows(summary.ordered("wdrop"), "run") == [("d",), ("e",), ("b",), ("a",), ("c",)]
    assert rows(summary.ordered("test"), "run") == [("e",), ("b",), ("c",), ("a",), ("d",)]


def test_the_highest_accuracy_is_the_best(logs):
    write_run(logs / "a", IMAGES, val=0.25, test=0.5)
    write_run(logs / "b", IMAGES, val=0.5, test=0.25)
    assert rows(only(logs).ordered(), "run") == [("b",), ("a",)]
    assert rows(only(logs).ordered("test"), "run") == [("a",), ("b",)]
    assert rows(only(logs).ordered("time"), "run") == [("a",), ("b",)]


def test_runs_of_two_kinds_are_two_tables(logs):
    write_run(logs / "x" / "images", IMAGES, val=0.5, test=0.5)
    write_run(logs / "x" / "y" / "language", val=100.0, test=100.0)
    (language, images), problems = summarize(logs)
    assert rows(language, "run") == [("x/y/language",)] and rows(images, "run") == [("x/images",)]
    assert (language.kind.measure, images.kind.measure, problems) == ("ppl", "acc", [])


def test_a_run_itself_is_listed(logs):
    assert rows(only(write_run(logs, val=1.0, test=1.0)), "run") == [(".",)]


HEADER = "epoch,time,val_loss,val_ppl\n"
DAMAGE = {
    "no YAML": ("args.yaml", "lr: [1\nseed: {", "YAML"),
    "not UTF-8": ("args.yaml", b"\xff\xfe\xfa", "YAML"),
    "nested": ("args.yaml", "[" * 3000, "YAML"),
    "a list": ("args.yaml", "- 1\n", "names to values"),
    "rows cut off": ("epoch.csv", HEADER + "0,60.0,5.0,148.0\n1,120.0,4", "cut off"),
    "header cut off": ("epoch.csv", "epoch,ti", "cut off"),
    "no rows": ("epoch.csv", HEADER, "no rows"),
    "short row": ("epoch.csv", HEADER + "0,60.0\n1,120.0,5.0,148.0\n", "numbers"),
    "words": ("epoch.csv", HEADER + "0,60.0,five,148.0\n", "five"),
    "another table": ("epoch.csv", "epoch,time,loss\n0,60.0,5.0\n", "val_loss"),
    "wide row": ("epoch.csv", HEADER + "0,60.0,5.0,148.0,1.0\n", "5 cells"),
    "blank line": ("epoch.csv", HEADER + "\n0,60.0,5.0,148.0\n", "line 2 has 0 cells"),
    "negative time": ("epoch.csv", HEADER + "0,-60.0,5.0,148.0\n", "-60 as time"),
    "zeros": ("epoch.csv", b"\0" * 100 + b"\n", "no rows"),
    "binary": ("epoch.csv", b"\xff\xff\n\xff\n", "numbers"),
    "empty result": ("result.csv", "", "result.csv"),
    "result cut off": ("result.csv", "val_loss,val_ppl,test_loss,test_ppl\n5.0,148.0,5.", "cut off"),
    "result without numbers": ("result.csv", "val_loss,val_ppl,test_loss,test_ppl\n,,,\n", "numbers"),
    "result of another kind": ("result.csv", "val_loss,val_acc,test_loss,test_acc\n1,1,1,1\n", "val_ppl"),
}


@pytest.mark.parametrize(("file", "text", "word"), DAMAGE.values(), ids=DAMAGE.keys())
def test_damage_is_named_and_the_other_runs_are_there(logs, file, text, word):
    write(write_run(logs / "bad", val=1.0, test=1.0), file, text)
    write_run(logs / "good", val=1.0, test=1.0)
    (summary,), (problem,) = summarize(logs)
    assert rows(summary, "run") == [("good",)]
    assert str(logs / "bad" / file) in problem and word in problem and "\n" not in problem


def test_runs_that_do_not_say_their_seed_are_each_by_itself(logs):
    for name, settings in (("a", {}), ("b", {}), ("c", {"script": "rnn/train.py"})):
        write_run(logs / name, settings=settings, val=1.0, test=1.0)
    (summary,), problems = summarize(logs)
    assert problems == [] and rows(summary.gathered(), "run", "seeds") == [("a", 1), ("b", 1), ("c", 1)]


def test_what_has_no_status_is_no_run(logs):
    (write_run(logs / "bad") / "status").unlink()
    summaries, (problem,) = summarize(logs)
    assert summaries == [] and str(logs / "bad") in problem and "no run" in problem


def test_a_run_without_a_score_is_listed_with_its_scripts_others(logs):
    (write_run(logs / "begun", status="running") / "epoch.csv").unlink()
    ((alone,), _) = summarize(logs)
    assert alone.kind.unit == "no score yet" and rows(alone, "run", "done") == [("begun", 0)]
    write_run(logs / "other")
    ((both,), _) = summarize(logs)
    assert both.kind.unit == "perplexity" and {*rows(both, "run", "done")} >= {("begun", 0)}


def test_the_score_of_a_model_without_an_epoch_is_none(logs):
    header, row = "val_loss,val_ppl,test_loss,test_ppl,best_epoch,best_time,time", "5.0,148.0,5.0,148.0,,,1.5"
    folder = write_run(logs / "a", status="interrupted", result=f"{header}\n{row}\n")
    (folder / "epoch.csv").unlink()
    ((summary,), problems) = summarize(logs)
    assert problems == [] and summary.scores[["val", "test", "best"]].isna().all(axis=None)


def test_a_finished_run_without_epochs_is_damaged(logs):
    (write_run(logs / "a", val=1.0, test=1.0) / "epoch.csv").unlink()
    with pytest.raises(UserError, match=r"epoch\.csv"):
        read_scores(logs / "a")


def test_reading_leaves_the_runs_as_they_are(logs):
    folder = write_run(logs / "a", status="running")
    before = sorted((file.name, file.read_bytes()) for file in folder.iterdir())
    summarize(logs)
    assert sorted((file.name, file.read_bytes()) for file in folder.iterdir()) == before


def test_settings_of_any_form_can_be_compared(logs):
    for name, value in (("a", [1, 3]), ("b", {"x": 1}), ("c", None), ("d", float("nan"))):
        write(write_run(logs / name), "args.yaml", yaml.safe_dump({**LANGUAGE, "milestones": value}))
    summary = only(logs).gathered().ordered("milestones")
    assert sorted(map(str, summary.settings["milestones"])) == ["1 3", "None", "nan", "{'x': 1}"]


@pytest.mark.parametrize("name", ["epoch.csv", "result.csv"])
@pytest.mark.parametrize("make", [os.mkfifo, os.mkdir])
def test_a_pipe_or_a_folder_is_no_table(logs, name, make):
    file = write_run(logs / "a", val=1.0, test=1.0) / name
    file.unlink()
    make(file)
    _, (problem,) = summarize(logs)
    assert str(file) in problem and "folder" in problem and "file that is in the way" not in problem


def test_a_byte_order_mark_is_no_part_of_the_first_column(logs):
    file = write_run(logs / "a") / "epoch.csv"
    file.write_text(file.read_text(), encoding="utf-8-sig")
    assert rows(only(logs), "done", "val") == [(3, 181)]


@pytest.mark.parametrize("name", ["script", "seed", "data"])
def test_a_setting_that_is_a_list_is_a_setting(logs, name):
    path = write_run(logs / "a", val=1.0, test=1.0)
    write_run(logs / "b", val=1.0, test=1.0)
    (path / "args.yaml").write_text(yaml.safe_dump({**LANGUAGE, name: [1]}))
    assert len(only(logs).gathered().scores) in (1, 2)


def test_links_are_followed_once(logs, tmp_path):
    write_run(logs / "here", val=1.0, test=1.0)
    write_run(tmp_path / "elsewhere" / "b", lr=1.0, val=1.0, test=1.0)
    (logs / "again").symlink_to(logs / "here")
    (logs / "linked").symlink_to(tmp_path / "elsewhere")
    (logs / "here" / "loop").symlink_to(logs)
    (logs / "up").symlink_to(tmp_path)
    (logs / "gone").symlink_to(tmp_path / "nowhere")
    assert sorted(rows(only(logs), "run")) == [("here",), ("linked/b",)]


def test_a_damaged_runs_remedy_is_a_readers(logs):
    write(write_run(logs / "a"), "args.yaml", "a: [")
    _, (problem,) = summarize(logs)
    assert "move the run away" in problem and "--overwrite" not in problem
