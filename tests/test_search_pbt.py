"""Population-based training: who goes on from whom, at which values, for how long; and runs that do, bit for bit."""

from contextlib import nullcontext

import numpy
import optuna
import pytest
from lstm_runs import execute, without_time, write_corpus
from search_runs import SPACE, no_figures_fixture, table, trial, trials_of  # noqa: F401

from lstm import search, train_basic
from stn.runs.checkpoints import read_checkpoint
from stn.search import pbt
from stn.search.budget import BY_EPOCH
from stn.search.pbt import GENERATION, MEMBER, PARENT, Population, explored, next_birth
from stn.search.space import Range
from stn.search.studies import LEFT, STOPPED
from stn.training import Trainer

FOUR = Population(size=4, interval=2, epochs=5)
TINY = "--dtype float32 --emsize 4 --nhid 5 --batch_size 4 --bptt 6 --lr 1 --threads 1 --disable_cuda"


def member(number, generation, losses, state="complete", parent=None, **own):
    names = {MEMBER: number, GENERATION: generation, PARENT: parent}
    return trial(losses, state, rate=number / 10, **names, **own)


def births(trials, population=FOUR, seeds=100):
    study = optuna.create_study()
    for own in trials:
        study.add_trial(own)
    found = study.get_trials()
    return [next_birth(found, population, SPACE, numpy.random.default_rng(seed)) for seed in range(seeds)]


def test_epochs_of_generations():
    assert FOUR.generations == 3 and [FOUR.ends(generation) for generation in range(3)] == [2, 4, 5]


def test_first_all_members_are_born_with_values_of_their_own():
    trials = [member(0, 0, [2.0]), member(1, 0, [], "running")]
    found = births(trials)
    assert {(birth.member, birth.generation, birth.parent) for birth in found} == {(2, 0, None)}
    assert len({tuple(birth.values.values()) for birth in found}) == 100


def test_the_member_furthest_behind_is_next_and_goes_on_alone_where_it_is_not_among_the_worst():
    trials = [member(number, 0, [2.0 + number]) for number in range(4)]
    trials += [member(0, 1, [1.9]), member(3, 1, [1.8])]
    for birth in births(trials):
        assert (birth.member, birth.generation, birth.parent) == (1, 1, "trial0001")
        assert birth.values == trials[1].params


def eight(last=None):
    """Eight members after a generation, of which 7 and 6 are the best, 1 and 0 the worst."""
    trials = [member(number, 0, [9.0 - number, 19.0 - number]) for number in range(8)]
    return [*trials[:-1], last] if last else trials


def test_the_worst_quarter_goes_on_from_the_best_quarter():
    population = Population(8, 2, 6)
    found = births(eight(), population)
    assert {birth.member for birth in found} == {0}
    assert {birth.parent for birth in found} == {"trial0007", "trial0006"}
    # What counts is the loss at the end of the generation, and not its lowest.
    trials = eight(member(7, 0, [0.1, 30.0]))
    assert {birth.parent for birth in births(trials, population)} == {"trial0006", "trial0005"}
    # The second of the worst, once the first has gone on.
    trials = [*eight(), member(0, 1, [1.0])]
    assert {(birth.member, birth.parent) for birth in births(trials, population)} <= {
        (1, "trial0007"), (1, "trial0006")
    }  # fmt: skip


def test_what_exploits_explores():
    for birth in births(eight(), Population(8, 2, 6)):
        parent = int(birth.parent.removeprefix("trial"))
        assert birth.values != eight()[parent].params
        assert all(own.low <= birth.values[name] <= own.high for name, own in SPACE.items())


def test_younger_and_older_members_are_compared_as_of_their_latest_up_to_this_age():
    """Member 1 was worst in generation 0, when member 0's was worse than it is now."""
    trials = [member(0, 0, [3.0]), member(1, 0, [2.0]), member(0, 1, [0.5]), member(1, 1, [1.0])]
    population = Population(2, 1, 3)
    assert {birth.parent for birth in births(trials, population)} == {"trial0002"}
    trials = [member(0, 0, [3.0]), member(1, 0, [2.0]), member(1, 1, [9.0])]
    assert {birth.parent for birth in births(trials, population)} == {"trial0001"}


def test_nothing_is_born_while_all_are_under_way_or_done():
    assert set(births([member(number, 0, [], "running") for number in range(4)])) == {None}
    assert set(births([member(number, 2, [1.0]) for number in range(4)])) == {None}
    stopped = member(3, 0, [], "fail", **{LEFT: STOPPED})
    assert set(births([*[member(number, 2, [1.0]) for number in range(3)], stopped])) == {None}


def test_a_member_that_failed_goes_on_from_one_of_the_best():
    trials = [member(0, 0, [], "fail"), *[member(number, 0, [2.0 + number]) for number in range(1, 4)]]
    assert {birth.parent for birth in births(trials)} == {"trial0001"}


def test_a_member_that_failed_alone_starts_anew():
    trials = [member(0, 0, [], "fail")]
    for birth in births(trials, Population(1, 1, 3)):
        assert (birth.generation, birth.parent) == (1, None) and birth.values != trials[0].params


def test_exploration_stays_near_and_within_the_range():
    space = {"log": Range(0.01, 10.0, log=True), "most": Range(0, 9, whole=True), "rate": Range(0.0, 0.99)}
    space["least"] = space["most"]
    values = {"log": 10.0, "most": 9, "least": 0, "rate": 0.5}
    random, far = numpy.random.default_rng(0), []
    for _ in range(500):
        found = explored(values, space, random)
        assert all(own.distribution._contains(own.distribution.to_internal_repr(found[n])) for n, own in space.items())
        assert isinstance(found["most"], int)
        far.append(abs(found["rate"] - 0.5) / 0.99)
    redrawn = sum(distance > pbt.STEP + 1e-9 for distance in far) / 500
    # Of those that are drawn anew, 60 % fall farther off than a step.
    assert redrawn == pytest.approx(pbt.REDRAWN * (1 - 2 * pbt.STEP), abs=0.04)


# Runs


@pytest.fixture(scope="module")
def corpus(tmp_path_factory):
    return write_corpus(tmp_path_factory.mktemp("corpus"))


@pytest.fixture
def command(tmp_path, corpus, capsys, same_threads, no_figures):  # noqa: ARG001
    def run(flags, script=search):
        return execute(script, ["--data", corpus, "--save_dir", tmp_path, *TINY.split(), *flags.split()], capsys)

    return run


def test_a_population_trains_for_its_generations(command, tmp_path):
    status, out, error = command("--sampler pbt --population 3 --interval 2 --epochs 5")
    assert status == 0 and error == "" and "all members are done" in out
    trials = trials_of(tmp_path, "pbt")
    assert len(trials) == 3 * 3
    rows = table(tmp_path / "pbt")
    for own, row in zip(trials, rows, strict=True):
        generation = own.user_attrs[GENERATION]
        epochs = [*own.intermediate_values]
        assert epochs == [[1, 2], [3, 4], [5]][generation]
        assert float(row["epochs"]) == len(epochs) == own.user_attrs["epochs"] == own.user_attrs[BY_EPOCH]["epochs"]
        state = read_checkpoint(tmp_path / "pbt" / row["run"]).state
        per_epoch = state["train_step"] // state["epoch"]
        assert float(row["steps"]) == per_epoch * len(epochs)
    newest = {own.user_attrs[MEMBER]: own for own in trials}
    assert [own.user_attrs[GENERATION] for own in newest.values()] == [2, 2, 2]
    exploited = [own for own in trials if own.user_attrs[PARENT] and own.user_attrs[MEMBER] != member_of(own, trials)]
    assert exploited
    assert command("--sampler pbt --population 3 --interval 2 --epochs 5")[0] == 0
    assert len(trials_of(tmp_path, "pbt")) == 9


def member_of(own, trials):
    return trials[int(own.user_attrs[PARENT].removeprefix("trial"))].user_attrs[MEMBER]


def test_generations_at_the_same_values_are_one_run_bit_for_bit(command, tmp_path, monkeypatch):
    """A population of one never exploits: its generations are an uninterrupted run at its values."""
    assert command("--sampler pbt --population 1 --interval 1 --epochs 3 --lr 4 --nonmono 1 --seed 5")[0] == 0
    runs = [tmp_path / "pbt" / f"trial{number:04d}" for number in range(3)]
    monkeypatch.setattr(train_basic.SCRIPT.settings, "new_folder", lambda *_: nullcontext(tmp_path / "alone"))
    assert command(f"--config {runs[2]} --lr 4", train_basic)[0] == 0
    alone = tmp_path / "alone"
    parts = [row for run in runs for row in without_time(run / "epoch.csv")]
    assert parts == without_time(alone / "epoch.csv")
    ours, theirs = read_checkpoint(runs[2]).state, read_checkpoint(alone).state
    for name, weight in theirs["model"].items():
        assert (ours["model"][name] == weight).all()
    assert ours["train_step"] == theirs["train_step"] and (ours["random"] == theirs["random"]).all()


def test_what_exploits_has_its_parents_weights_and_its_own_values(command, tmp_path, monkeypatch):
    """The first generation's loss decides; explored values are in the run's settings, its first step and its table."""
    started = {}
    load = Trainer.load_state_dict

    def watched(trainer, state):
        load(trainer, state)
        weights = {name: weight.clone() for name, weight in trainer.task.model.state_dict().items()}
        started[len(trials_of(tmp_path, "pbt")) - 1] = weights

    monkeypatch.setattr(Trainer, "load_state_dict", watched)
    assert command("--sampler pbt --population 4 --interval 1 --epochs 2")[0] == 0
    trials = trials_of(tmp_path, "pbt")
    children = [own for own in trials if own.user_attrs[PARENT] and own.user_attrs[MEMBER] != member_of(own, trials)]
    (child,) = children
    first = sorted(trials[:4], key=lambda own: own.intermediate_values[1])
    assert child.user_attrs[PARENT] == f"trial{first[0].number:04d}"
    assert child.user_attrs[MEMBER] == first[-1].user_attrs[MEMBER]
    assert child.params != first[0].params
    parent = read_checkpoint(tmp_path / "pbt" / child.user_attrs[PARENT]).state["model"]
    assert all((weight == parent[name]).all() for name, weight in started[child.number].items())
    (row,) = without_time(tmp_path / "pbt" / f"trial{child.number:04d}" / "epoch.csv")
    assert {name: float(row[name]) for name in child.params} == pytest.approx(child.params, rel=1e-6)
