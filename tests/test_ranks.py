"""Data parallel runs: two ranks beside one process, through a resume, a signal and the end of one of them."""

import os
import signal
import warnings
from pathlib import Path

import pandas
import pytest
import rank_checks
import torch
from lstm_runs import execute, without_time, write_corpus
from rank_checks import CASES, REFUSED, STOPPED, fitted, trained
from rank_runs import PATIENCE, ROOT, on_two_ranks, own_lines, ranks_of, torchrun, wait_until
from torch.testing import assert_close

from lstm import train
from stn.errors import UserError
from stn.ranks import Ranks, noticing_losses, ranks_here
from stn.runs.checkpoints import read_checkpoint

EQUAL = [case for case in CASES if "dropout" not in case]
DROPPED = [case for case in CASES if "dropout" in case]
TRAIN = str(ROOT / "lstm" / "train.py")

pytestmark = [
    pytest.mark.usefixtures("same_threads"),
    pytest.mark.filterwarnings("ignore:training does not read"),
]


def only_run(logs):
    (folder,) = (file.parent for file in Path(logs).rglob("args.yaml"))
    return folder


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    folder = tmp_path_factory.mktemp("ranks")
    write_corpus(folder / "corpus")
    return folder


@pytest.fixture(scope="module")
def started(place):
    """start(name): a run of the language model by torchrun that goes on for long, or one with these flags."""
    processes = []

    def start(name, *flags):
        logs = ["--data", place / "corpus", "--save_dir", place / name]
        argv = [*logs, *rank_checks.LM.split(), *rank_checks.TUNED.split(), "--epochs", 9999, "--patience", 9999]
        processes.append(torchrun(place / f"{name}.log", TRAIN, *(flags or argv)))
        return processes[-1]

    yield start
    for process in processes:
        if process.poll() is None:
            process.kill()


def after_an_epoch(logs, process):
    """Wait until a run has logged some epochs; its folder."""
    wait_until(lambda: [*Path(logs).glob("*/epoch.csv")], process)
    return only_run(logs)


@pytest.fixture(scope="module")
def interrupted(place, started):
    """A run by torchrun of which a rank was sent a SIGTERM: its folder, what that had then, exit status and screen."""
    process = started("interrupted")
    folder = after_an_epoch(place / "interrupted", process)
    os.kill(ranks_of(process)[1], signal.SIGTERM)
    status = process.wait(PATIENCE)
    return folder, {file.name: file.read_bytes() for file in folder.iterdir()}, status, place / "interrupted.log"


@pytest.fixture(scope="module")
def alone():
    """The language model's run without per-example dropout in one process, stopped in the middle of an epoch."""
    return trained("language model, STN", stop=STOPPED)


@pytest.fixture(scope="module")
def ranks(place, interrupted, alone):
    """What each of two ranks found, by rank."""
    folder, *_ = interrupted
    epochs = read_checkpoint(folder).state["epoch"] + 2
    flags = [*rank_checks.LM.split(), *rank_checks.TUNED.split(), "--epochs", "1"]
    assert train.main(["--data", str(place / "corpus"), "--save_dir", str(place / "alone"), *flags]) == 0
    given = {
        **{"checkpoint": alone["checkpoint"], "corpus": str(place / "corpus"), "epochs": epochs},
        **{"interrupted": str(folder), "alone": str(only_run(place / "alone"))},
    }
    torch.save(given, place / "given.pt")
    on_two_ranks(str(ROOT / "tests" / "rank_checks.py"), str(place))
    return [torch.load(place / f"{rank}.pt", weights_only=True) for rank in range(2)]


# One process and two


@pytest.fixture(scope="module")
def in_one():
    """in_one(case): what one process finds of a case."""
    found = {}

    def find(case):
        if case not in found:
            found[case] = trained(case)
        return found[case]

    return find


def close(one, other):
    assert_close(one, other, rtol=0, atol=1e-10)


def compare_logs(one, other, tolerance=1e-10):
    assert [(name, [*row]) for name, row in one] == [(name, [*row]) for name, row in other]
    for (_, row), (_, expected) in zip(one, other, strict=True):
        assert row == pytest.approx(expected, rel=tolerance, abs=tolerance)


@pytest.mark.parametrize("case", EQUAL)
def test_two_ranks_take_the_steps_of_one(ranks, in_one, case):
    """Weights, λ and scales after each weight step, with a clip that is active, and what evaluation finds."""
    one = in_one(case)
    assert max(one["norms"]) > 1  # of the clip
    for rank in ranks:
        close(rank[case]["steps"], one["steps"])
        close(rank[case]["norms"], one["norms"])
        close(rank[case]["values"], one["values"])
        for split, (loss, accuracy) in one["scores"].items():
            found_loss, found_accuracy = rank[case]["scores"][split]
            assert found_loss == pytest.approx(loss, rel=1e-10) and found_accuracy == pytest.approx(accuracy)


@pytest.mark.parametrize("case", EQUAL)
def test_the_first_rank_logs_what_one_process_does(ranks, in_one, case):
    """Losses, accuracies, penalties and learning rates of each step, and the epochs' rows."""
    compare_logs(ranks[0][case]["logged"], in_one(case)["logged"])
    tables = {name for name, _ in in_one(case)["logged"]}
    assert {"epoch", "val"} <= tables


def test_the_learning_rate_of_hd_moves(in_one):
    rates = [row["lr"] for name, row in in_one("classifier, HD")["logged"] if name == "epoch"]
    assert len(set(rates)) == len(rates)


@pytest.mark.parametrize("case", DROPPED)
def test_with_dropout_ranks_keep_the_same_weights(ranks, in_one, case):
    first, second = (rank[case] for rank in ranks)
    assert torch.equal(first["steps"], second["steps"])
    assert first["scores"] == second["scores"] and first["logged"] == second["logged"]
    assert not torch.allclose(first["steps"], in_one(case)["steps"])


def test_each_rank_drops_at_the_rate(ranks):
    """Of the first outputs of each step; the rate hardly moves from 0.4. None dropped is 0, dropped twice 0.64."""
    for rank in ranks:
        steps = torch.tensor(rank["language model, dropout"]["dropped"], dtype=torch.float64)
        assert abs(steps.mean() - 0.4) < 0.1


def test_masks_differ_between_examples_wherever_they_are(ranks):
    steps = [rank["language model, dropout"]["dropped"] for rank in ranks]
    for first, second in zip(*steps, strict=True):
        assert (len(first), len(second)) == (5, 4)
    assert any(first[:4] != second for first, second in zip(*steps, strict=True))
    first, second = (rank["masks"] for rank in ranks)
    assert not torch.equal(first["dropout"], second["dropout"])
    assert torch.equal(first["drop_connect"], second["drop_connect"])
    rows = torch.cat([first["h"], second["h"]])
    assert (len(first["h"]), len(second["h"])) == (3, 2) and len(rows.unique()) == 5


# Checkpoints


@pytest.mark.parametrize("case", ["language model, STN", "language model, dropout", "classifier, dropout"])
def test_a_resumed_run_ends_as_one_left_alone(ranks, case):
    """Bit for bit, dropout masks too."""
    for rank in ranks:
        found = rank[case]
        parts = torch.cat([found["stopped"]["steps"], found["resumed"]["steps"]])
        assert torch.equal(parts, found["steps"])
        assert found["resumed"]["scores"] == found["scores"]


def test_a_checkpoint_has_what_one_process_has(ranks, alone):
    """The hidden states of all columns, the orders, the optimizers."""
    first = ranks[0]["language model, STN"]["stopped"]["checkpoint"]
    for part in ("streams", "method", "learning_rate", "model", "hyper"):
        close(first[part], alone["checkpoint"][part])
    assert first["streams"]["train"]["state"][0][0].shape == (1, 9, 5)


@pytest.mark.parametrize("case", ["language model, STN"])
def test_a_run_goes_on_in_one_process(ranks, case):
    """Where nothing is dropped per example it goes on as it would have on two ranks."""
    with pytest.warns(UserWarning, match="another number of ranks"):
        found = trained(case, checkpoint=ranks[0][case]["stopped"]["checkpoint"])
    close(found["steps"], ranks[0][case]["steps"][-len(found["steps"]) :])


def test_a_run_in_one_process_goes_on_on_two_ranks(ranks, in_one):
    for rank in ranks:
        steps = rank["from one process"]["steps"]
        close(steps, in_one("language model, STN")["steps"][-len(steps) :])


# What ranks tell one another


def test_shares_are_put_together_again(ranks):
    for rank in ranks:
        assert len(rank["round_trips"]) == 14 and all(rank["round_trips"].values())


def test_what_ranks_agree_on(ranks):
    for rank, found in enumerate(rank["agreements"] for rank in ranks):
        assert found["any"] == (True, False, True)
        assert found["total"] == [3.0, 30.0]
        assert found["from_first"] == ["of", 0]
        assert found["of_all"] == [0, 10]
        assert found["aligned"]["same"] and "networks of the ranks differ" in found["aligned"]["told"]
        assert [*map(type, found["tells"])] == [bool] * 3, rank
    first, second = (rank["agreements"]["tells"] for rank in ranks)
    assert [first[0] + second[0], first[1] + second[1]] == [1, 1]
    assert not first[2] and not second[2]


@pytest.mark.parametrize("size", [1, 2, 3, 5])
def test_every_example_is_one_ranks(size):
    for examples in range(1, 8):
        whole = torch.arange(examples)
        parts = [Ranks(rank, size).part(whole) for rank in range(size)]
        assert torch.cat(parts).sort().values.tolist() == whole.tolist()
        assert [len(part) for part in parts] == [Ranks(rank, size).own(examples) for rank in range(size)]
        assert max(map(len, parts)) - min(map(len, parts)) <= 1


def test_a_share_is_never_empty():
    for examples in range(1, 4):
        whole = torch.arange(2 * examples).reshape(2, examples)
        for rank in range(4):
            share = Ranks(rank, 4).share(whole, axis=1)
            assert share.tolist() == (whole[:, rank : rank + 1] if rank < examples else whole[:, :1]).tolist()


def test_one_process_is_left_as_it_is(monkeypatch):
    monkeypatch.delenv("WORLD_SIZE", raising=False)
    ranks, random = ranks_here.__wrapped__(), torch.get_rng_state()
    whole = torch.arange(3)
    assert ranks.size == 1 and ranks.first and ranks.generator() is None
    assert ranks.part(whole) is ranks.share(whole) is ranks.whole(whole, 3) is ranks.total(whole) is whole
    assert ranks.any(True, False) == (True, False) and ranks.of_all(2) == [2] and ranks.tells_first("error")
    with ranks.shared_random_numbers():
        assert torch.equal(torch.get_rng_state(), random)
    ranks.part_random_numbers()
    assert torch.equal(torch.get_rng_state(), random)


def test_ranks_that_find_no_other_are_refused(monkeypatch):
    for name, value in {"WORLD_SIZE": "2", "RANK": "", "MASTER_ADDR": "127.0.0.1"}.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(UserError, match="start the script by torchrun"):
        ranks_here.__wrapped__()


def test_each_rank_takes_a_gpu_of_its_own(monkeypatch):
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    assert [Ranks(rank, 4, rank % 2).device("cuda:0") for rank in range(4)] == ["cuda:0", "cuda:1", "cuda:0", "cuda:1"]
    assert Ranks(1, 2, 1).device("cpu") == "cpu" and Ranks().device("cuda") == "cuda"
    with pytest.raises(UserError, match="rank 2 is number 3"):
        Ranks(2, 3, 2).device("cuda")


def test_what_torchrun_would_set_is_named(monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.delenv("RANK", raising=False)
    with pytest.raises(UserError, match="RANK is not set"):
        ranks_here.__wrapped__()


LEFT = """
import os
import torch
import torch.distributed as dist
from stn.ranks import _leave, ranks_here

ranks_here().wait()
import torch.distributed.nn.functional  # as torch's optimizers do
_leave()
_leave()  # a script may have left by itself
names = [open(f"/proc/self/task/{thread}/comm").read() for thread in os.listdir("/proc/self/task")]
assert not any("gloo" in name for name in names), names
"""


@pytest.mark.skipif(not Path("/proc/self/task").exists(), reason="threads' names are Linux's")
def test_no_thread_of_gloo_outlives_a_rank(tmp_path):
    (script := tmp_path / "left.py").write_text(LEFT)
    on_two_ranks(script)


def test_a_lost_rank_is_told_from_other_errors():
    with pytest.raises(UserError, match="another rank has ended"), noticing_losses():
        raise RuntimeError("Connection closed by peer [127.0.0.1]:1234")
    with pytest.raises(UserError, match="has not answered in time"), noticing_losses():
        raise RuntimeError("[gloo/transport/tcp/unbound_buffer.cc:81] Timed out waiting 1800000ms for recv operation")
    with pytest.raises(RuntimeError, match="shapes"), noticing_losses():
        raise RuntimeError("[gloo/types.h] shapes do not match")


def test_the_first_rank_alone_warns():
    for rank in range(2):
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            with Ranks(rank, 2).warning_once():
                warnings.warn("told", stacklevel=1)
        assert len(caught) == (rank == 0)


# stn.fit


def test_fit_on_two_ranks_follows_one(ranks, place, tmp_path):
    one = fitted(tmp_path / "fit", drops=False)
    for rank in ranks:
        close(rank["fit"]["weights"], one["weights"])
    for table in ("epoch.csv", "val.csv", "result.csv"):
        found, expected = (
            pandas.read_csv(folder / table).drop(columns=["time", "best_time"], errors="ignore")
            for folder in (place / "fit", tmp_path / "fit")
        )
        pandas.testing.assert_frame_equal(found, expected, rtol=1e-9)


def test_fit_goes_on_with_a_run_of_two_ranks(ranks, place):
    first, second = ranks
    assert not first["fit, stopped"]["completed"] and first["fit, resumed"]["completed"]
    for found in (first["fit, resumed"], second["fit, resumed"], second["fit, dropout"]):
        assert all(map(torch.equal, found["weights"], first["fit, dropout"]["weights"]))
    for table in ("epoch.csv", "val.csv"):
        assert without_time(place / "parts" / table) == without_time(place / "whole" / table)


def test_the_first_rank_alone_has_the_screen(ranks):
    first, second = (rank["fit, shown"] for rank in ranks)
    assert first.count("best model, of epoch") == 4 and second == ""


# Command lines


@pytest.mark.parametrize("name", REFUSED)
def test_what_ranks_cannot_train_is_refused_in_one_line(ranks, name):
    *_, words = REFUSED[name]
    found = [rank[name] for rank in ranks]
    assert [own["status"] for own in found] == [2, 2]
    (line,) = "".join(own["error"] for own in found).splitlines()
    assert all(word in line for word in words), line
    assert found[1]["out"] == ""


def test_a_run_that_diverges_says_so_in_its_folder(ranks, place):  # noqa: ARG001
    assert (only_run(place / "divergence") / "status").read_text() == "diverged\n"


def test_a_signal_to_one_rank_stops_all(interrupted):
    _, files, status, log = interrupted
    assert status != 0
    assert files["status"] == b"interrupted\n" and files["result.csv"].count(b"\n") == 2
    shown = log.read_text()
    assert "on 2 ranks that share every mini-batch" in shown and shown.count("best model, of epoch") == 1, shown
    assert str(ROOT / "stn") not in shown, shown  # no traceback


def test_a_run_stopped_by_a_signal_goes_on_as_if_it_had_not_been(ranks, interrupted, place):
    folder, *_ = interrupted
    assert [rank[name]["status"] for rank in ranks for name in ("uninterrupted", "interrupted")] == [0] * 4
    other = only_run(place / "uninterrupted")
    for table in ("epoch.csv", "val.csv"):
        assert without_time(folder / table) == without_time(other / table)
    assert len(without_time(other / "epoch.csv")) > 1
    for rank in ranks:
        assert rank["interrupted"]["error"] == ""


def test_a_run_goes_on_on_more_ranks_with_a_warning(ranks):
    assert [rank["alone"]["status"] for rank in ranks] == [0, 0]
    (line,) = "".join(rank["alone"]["error"] for rank in ranks).splitlines()
    assert "going on with another number of ranks" in line


@pytest.mark.parametrize("rank", [0, 1])
def test_a_rank_that_is_killed_ends_the_run_in_one_line(started, place, capsys, rank):
    process = started(f"killed {rank}")
    folder = after_an_epoch(place / f"killed {rank}", process)
    os.kill(ranks_of(process)[rank], signal.SIGKILL)
    assert process.wait(PATIENCE) != 0
    (line,) = own_lines(place / f"killed {rank}.log", "train.py")
    assert "another rank has ended" in line
    epochs = read_checkpoint(folder).state["epoch"] + 1
    status, _, error = execute(train, ["--resume", folder, "--epochs", epochs], capsys)
    assert status == 0 and error.count("\n") == 1 and "another number of ranks" in error, error
    assert (folder / "status").read_text() == "finished\n"


def test_what_only_the_first_rank_finds_is_told_once(started, place):
    process = started("refused", "--resume", place / "nowhere")
    assert process.wait(PATIENCE) != 0
    (line,) = own_lines(place / "refused.log", "train.py")
    assert "nowhere" in line
