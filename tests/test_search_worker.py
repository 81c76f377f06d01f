"""Workers: which trial they run next, and what becomes of trials that are stopped, diverge, or whose worker dies."""

import socket

import filelock
import pytest
from optuna.trial import TrialState
from run_folders import refused
from search_runs import SPACE, journal

from stn.errors import Diverged, UserError
from stn.runs.folder import RunFolder, is_unused
from stn.search import studies
from stn.search import worker as workers
from stn.search.budget import Budget
from stn.search.studies import DEATHS, DIED, HOST, LEFT, RUN, run_of
from stn.search.worker import COMPLETED, PRUNED, STOPPED, Plan, Turn, Worker

HERE = socket.gethostname()


@pytest.fixture
def worker(tmp_path):
    """worker(*outcomes): one whose trials end so, one after another and then all COMPLETED; `ran` are their runs.

    An outcome may be a function of the trial, which is called while its run is in use.
    """

    def make(*outcomes, sampler="random", stopped=lambda: False, name="random", **plan):
        study, storage = journal(tmp_path, name)
        ends = iter(outcomes)

        def run(trial, values, claim):
            claim(RunFolder.create(tmp_path / run_of(trial), {}, overwrite=True))
            made.ran.append(run_of(trial))
            made.values.append(values)
            end = next(ends, COMPLETED)
            end = end(trial) if callable(end) else end
            if isinstance(end, BaseException):
                raise end
            if end != STOPPED:
                trial.report(sum(values.values()), 1)
            return end

        plan = Plan(**{"sampler": sampler, "pruner": "none", "seed": 1, "epochs": 2, "trials": 3, **plan})
        made = Worker(study, storage, tmp_path, SPACE, plan, run, stopped)
        made.ran, made.values = [], []
        return made

    return make


def states(worker):
    return [trial.state.name for trial in worker.study.get_trials()]


def dead_trial(worker, folder, host=HERE, run=True):
    """A trial that says running, of a process that is gone. run: it had come to its run."""
    trial = worker.study.ask()
    if host:
        trial.set_user_attr(HOST, host)
    if run:
        RunFolder.create(folder / run_of(trial), {}).close()
    return trial


def test_trials_are_run_until_there_are_enough(worker):
    own = worker()
    assert own.work() == "3 trials are done or under way"
    assert own.ran == ["trial0000", "trial0001", "trial0002"] and states(own) == ["COMPLETE"] * 3
    assert [trial.value for trial in own.trials] == pytest.approx([sum(values.values()) for values in own.values])
    assert worker().work() and worker().ran == []
    more = worker(trials=5)
    more.work()
    assert more.ran == ["trial0003", "trial0004"]


def test_what_is_drawn_depends_on_the_trial_and_not_on_the_worker(worker):
    one, other, third = worker(trials=2), worker(trials=4), worker(trials=4, name="again")
    one.work(), other.work(), third.work()
    assert one.values + other.values == third.values
    assert len({value["rate"] for value in third.values}) == 4


def test_pruned_and_diverged_trials_are_trials(worker):
    own = worker(PRUNED, Diverged("no"))
    own.work()
    assert states(own) == ["PRUNED", "FAIL", "COMPLETE"]
    own = worker()
    own.work()
    assert own.ran == []  # what diverged would again


def test_a_stopped_trial_goes_on_however_often(worker):
    stop = []

    def ask(trial):
        stop.append(trial)
        return STOPPED

    for _ in range(4):
        own = worker(ask, stopped=lambda: bool(stop))
        assert own.work() == ""
        assert own.ran == ["trial0000"] and states(own)[-1] == "WAITING"
        stop.clear()
    own = worker()
    own.work()
    assert own.ran == ["trial0000", "trial0005", "trial0006"]
    (first, *_) = own.trials
    assert first.user_attrs[RUN] == "trial0000" and not first.user_attrs[DEATHS] and len(own.trials) == 3
    assert len({tuple(trial.params.items()) for trial in own.study.get_trials()}) == 3


@pytest.mark.parametrize("error", [UserError("out of memory"), KeyboardInterrupt(), OSError("full")])
def test_a_trial_that_could_not_be_run_is_left_for_the_next_worker(worker, error):
    own = worker(error)
    with pytest.raises(type(error)):
        own.work()
    assert states(own) == ["FAIL"] and own.trials[0].user_attrs[LEFT] == studies.STOPPED
    again = worker()
    again.work()
    assert again.ran == ["trial0000", "trial0002", "trial0003"]


def test_a_dead_workers_trial_is_taken_up_once(worker, tmp_path):
    own = worker()
    dead_trial(own, tmp_path)
    own.bury()
    assert states(own) == ["FAIL", "WAITING"]
    own.bury()
    assert states(own) == ["FAIL", "WAITING"]
    again = own.study.ask()
    assert run_of(again) == "trial0000"
    again.set_user_attr(HOST, HERE)
    own.bury()
    own.bury()
    assert states(own) == ["FAIL", "FAIL"]
    own.work()
    assert own.ran == ["trial0002", "trial0003"]


def test_a_stop_between_two_deaths_does_not_count(worker, tmp_path):
    own = worker()
    dead_trial(own, tmp_path)
    own.bury()
    again = own.study.ask()
    again.set_user_attr(LEFT, studies.STOPPED)
    own.study.tell(again, state=TrialState.FAIL)
    own.bury()
    assert states(own) == ["FAIL", "FAIL", "WAITING"]
    own.study.ask()
    own.bury()
    assert states(own) == ["FAIL"] * 3


def test_a_trial_that_died_while_its_values_were_proposed_gets_them_later(worker, tmp_path):
    dead_trial(worker(), tmp_path, host=None, run=False)
    own = worker(trials=1)
    own.work()
    assert own.ran == ["trial0000"] and own.values[0].keys() == SPACE.keys()


def test_a_living_workers_trial_is_left_alone(worker, tmp_path):
    own = worker()
    trial = own.study.ask()
    with RunFolder.create(tmp_path / run_of(trial), {}):
        own.bury()
        assert states(own) == ["RUNNING"]


def test_a_trial_of_another_machine_that_has_no_run_here_is_left_alone(worker, tmp_path):
    own = worker()
    dead_trial(own, tmp_path, host="elsewhere", run=False)
    own.bury()
    assert states(own) == ["RUNNING"]


def test_a_trial_that_ends_while_one_looks_at_it_is_not_dead(worker, tmp_path, monkeypatch):
    """The study is read, then the trial is told and its run's lock let go, then the lock is looked at."""
    own = worker()
    trial = own.study.ask()
    folder = RunFolder.create(tmp_path / run_of(trial), {})

    def late(path):
        own.study.tell(trial, 1.0)
        folder.close()
        return is_unused(path)

    monkeypatch.setattr(workers, "is_unused", late)
    own.bury()
    assert states(own) == ["COMPLETE"]


def test_a_worker_that_dies_before_it_has_enqueued_what_it_found_loses_nothing(worker, tmp_path, monkeypatch):
    own = worker()
    dead_trial(own, tmp_path)
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(own.study, "add_trial", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
        own.bury()
    assert states(own) == ["FAIL"] and own.trials[0].user_attrs[LEFT] == DIED
    own.bury()
    assert states(own) == ["FAIL", "WAITING"]


def test_a_run_is_in_use_until_the_study_knows_how_it_ended(worker, tmp_path, monkeypatch):
    own = worker(COMPLETED, PRUNED, STOPPED, stopped=lambda: len(own.ran) == 3)
    told, tell = [], own.storage.set_trial_state_values

    def watched(trial_id, state, values=None):
        if state.is_finished():
            told.append((state.name, is_unused(tmp_path / f"trial{len(told):04d}")))
        return tell(trial_id, state, values)

    monkeypatch.setattr(own.storage, "set_trial_state_values", watched)
    own.work()
    assert told == [("COMPLETE", False), ("PRUNED", False), ("FAIL", False)]
    assert all(is_unused(tmp_path / run) for run in own.ran)


def test_nothing_is_enqueued_while_its_run_is_in_use(worker, tmp_path):
    """Another worker, at the moment when this one's stopped trial is told, finds nothing that it cannot run."""
    own = worker(STOPPED, stopped=lambda: bool(own.ran))
    add, seen = own.study.add_trial, []
    own.study.add_trial = lambda trial: (seen.append(is_unused(tmp_path / "trial0000")), add(trial))
    own.work()
    assert seen == [True]


def test_another_worker_may_begin_while_a_trial_runs(worker, tmp_path, monkeypatch):
    monkeypatch.setattr(workers, "LOCK_SECONDS", 1)

    def begin(_):
        with Turn(tmp_path):
            return COMPLETED

    own = worker(begin, trials=1)
    own.work()
    assert states(own) == ["COMPLETE"]


def test_two_workers_run_each_point_of_a_grid_once(worker):
    """The second one begins while the first has its last point."""
    other = worker(sampler="grid", trials=None, grid_points=2)
    why = []
    meanwhile = lambda _: why.append(other.work()) or COMPLETED  # noqa: E731
    own = worker(COMPLETED, COMPLETED, meanwhile, sampler="grid", trials=None, grid_points=2)
    own.work()
    assert own.ran == ["trial0000", "trial0001", "trial0002"] and other.ran == ["trial0003"]
    assert why == ["all points of the grid are done or under way"]
    points = [tuple(sorted(values.items())) for values in own.values + other.values]
    assert len(set(points)) == len(points) == 4


def test_a_grid_with_a_trial_that_was_taken_up_has_each_point_once(worker, tmp_path):
    own = worker(sampler="grid", trials=None, grid_points=2)
    own.study.sampler = studies.make_sampler("grid", (1, 0), SPACE, 2)
    first = dead_trial(own, tmp_path)
    values = workers.suggest(first, SPACE)
    own.work()
    assert own.ran[0] == "trial0000" and own.values[0] == values
    points = {tuple(sorted(own.items())) for own in own.values}
    assert len(points) == len(own.values) == 4


def test_a_worker_whose_trial_was_given_up_says_so(worker):
    def give_up(trial):
        own.storage.set_trial_state_values(trial._trial_id, TrialState.FAIL)
        trial.set_user_attr("steps", 1)

    own = worker(give_up)
    refused(own.work, "nothing was heard of this worker", "start it again")
    own = worker(lambda trial: own.storage.set_trial_state_values(trial._trial_id, TrialState.FAIL) and UserError("x"))
    refused(own.work, "nothing was heard of this worker")


def test_a_defect_is_not_taken_for_that(worker):
    with pytest.raises(ValueError, match="a defect"):
        worker(ValueError("a defect")).work()


def test_a_worker_that_begins_no_trial_does_not_wait_for_ever(tmp_path, monkeypatch):
    with filelock.FileLock(tmp_path / ".lock"):
        monkeypatch.setattr(workers, "LOCK_SECONDS", 1)
        refused(Turn(tmp_path).__enter__, "another worker has been beginning a trial", tmp_path)
        monkeypatch.setattr(workers, "LOCK_SECONDS", 600)
        with pytest.raises(KeyboardInterrupt):
            Turn(tmp_path, stopped=lambda: True).__enter__()


def test_the_budget_leaves_what_others_have_not_spent(worker):
    def spend(steps):
        return lambda trial: (trial.set_user_attr("steps", steps), rooms.append(own.room(trial)), COMPLETED)[-1]

    rooms = []
    own = worker(*map(spend, (30, 20, 50, 1)), trials=None, budget=Budget(100, "steps"))
    assert own.work() == "the budget of 100 steps is spent"
    assert rooms == [100, 70, 50] and len(own.ran) == 3
