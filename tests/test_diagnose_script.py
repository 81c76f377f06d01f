"""`python -m stn.diagnose` on tiny runs."""

import io

import pandas
import pytest
import yaml
from lstm_runs import SMALL, execute, refused, write_corpus

from lstm import train
from stn.runs.checkpoints import read_checkpoint
from stn.scripts import diagnose

NAME = "python -m stn.diagnose"
FEW = ["--batches", 3, "--steps", 2]


@pytest.fixture
def run(tmp_path, monkeypatch, capsys):
    """run(flags): the folder of a finished run."""

    def start(*flags):
        monkeypatch.setattr("lstm.settings.ROOT", tmp_path)
        data = write_corpus(tmp_path / "corpus")
        outcome = execute(train, [*SMALL.split(), "--data", data, "--seed", 1, *flags], capsys)
        assert outcome[0] == 0, outcome
        (file,) = tmp_path.glob("logs/*/*/args.yaml")
        return file.parent

    return start


def contents(folder):
    return {file.name: file.read_bytes() for file in folder.iterdir() if file.name != ".lock"}


@pytest.mark.parametrize("flags", [[], ["--delta_stn"], ["--tune_scales"]])
def test_the_table_names_each_hyperparameter_and_the_run_is_left_as_it_was(run, capsys, flags):
    folder = run("--tune_all", "--warmup_steps", 2, *flags)
    before = contents(folder)
    status, out, error = execute(diagnose, [folder, *FEW], capsys)
    assert (status, error) == (0, "")
    where, what, head, *lines = out.splitlines()
    assert where == str(folder) and "32 trainings of 2 weight steps" in what
    assert head.split() == ["value", "gate", "response", "noise", "training", "agree"]
    names = ["alpha", "beta", "dropouto", "dropouti", "dropouth", "dropoute", "wdrop"]
    assert [line.split()[0] for line in lines] == names
    assert len({*map(len, lines)} | {len(head)}) == 1
    assert contents(folder) == before


def test_csv_holds_the_numbers_in_full(run, capsys):
    folder = run("--tune_dropouto", "--warmup_steps", 2)
    again = [execute(diagnose, [folder, *FEW, "--csv"], capsys)[1] for _ in range(2)]
    assert again[0] == again[1]  # the random numbers are the run's
    (row,) = pandas.read_csv(io.StringIO(again[0])).to_dict("records")
    values = read_checkpoint(folder).state["recorder"]["values"]
    assert row["hyperparameter"] == "dropouto" and row["value"] == pytest.approx(values["dropouto"])
    assert row["training_error"] >= 0 and row["noise"] > row["response_error"] > 0 and row["gate"] > 0
    assert row["train_step"] == read_checkpoint(folder).state["train_step"]


def test_what_cannot_be_measured_is_refused_in_a_line(run, tmp_path, capsys):
    refused(execute(diagnose, [tmp_path / "nowhere"], capsys), "does not exist", script=NAME)
    folder = run("--tune_dropouto", "--warmup_steps", 2)
    refused(execute(diagnose, [folder, "--designs", 1], capsys), "more --designs", script=NAME)
    refused(execute(diagnose, [folder, "--shift", 0], capsys), "--shift", script=NAME)
    record = yaml.safe_load((folder / "args.yaml").read_text())
    for script, words in (("os/path.py", "no training script"), ("lstm/demo.py", "trains nothing"), (None, "None")):
        (folder / "args.yaml").write_text(yaml.safe_dump({**record, "script": script}))
        refused(execute(diagnose, [folder], capsys), words, script=NAME)
    (folder / "args.yaml").write_text(yaml.safe_dump(record))
    (folder / "checkpoint.pt").unlink()
    refused(execute(diagnose, [folder], capsys), "checkpoint", script=NAME)


def test_tables_are_drawn_without_measuring_again(run, tmp_path, capsys):
    folder = run("--tune_dropouto", "--tune_alpha", "--alpha", 0.1, "--warmup_steps", 2)
    measured = execute(diagnose, [folder, *FEW, "--csv"], capsys)[1]
    tables = [tmp_path / name for name in ("first.csv", "second.csv")]
    for table in tables:
        table.write_text(measured)
    out = tmp_path / "figures"
    status, said, error = execute(diagnose, [*tables, "--out", out, "--labels", "STN", "STN"], capsys)
    assert (status, error) == (0, "") and said.count("wrote") == 4
    assert {file.name for file in out.iterdir()} == {
        f"{n}.{s}" for n in ("hypergradients", "gates") for s in ("pdf", "png")
    }
    assert execute(diagnose, [folder, tables[0], *FEW, "--out", out], capsys)[0] == 0


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (["--labels", "a"], "--labels has nothing to act on: add --out"),
        (["--csv", "--out", "figures"], "leave one of them out"),
        (["--out", "figures", "--labels", "a", "b"], "--labels gives 2 names to 1 runs"),
    ],
)
def test_flags_that_do_not_go_together_are_refused(tmp_path, capsys, flags, words):
    refused(execute(diagnose, [tmp_path, *flags], capsys), words, script=NAME)


@pytest.mark.parametrize(
    "content", ["", "epoch,time\n0,1\n", "\xff", "hyperparameter,value\nalpha,0.1\n", "hyperparameter\n"]
)
def test_files_that_are_no_table_are_refused(tmp_path, capsys, content):
    file = tmp_path / "table.csv"
    file.write_bytes(content.encode("latin1"))
    refused(execute(diagnose, [file, "--out", tmp_path / "out"], capsys), "no table of hypergradients", script=NAME)


def test_a_run_that_tunes_nothing_is_refused(run, capsys):
    refused(execute(diagnose, [run()], capsys), "tunes nothing", script=NAME)
