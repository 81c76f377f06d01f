"""The folder of the ranks that do not write one."""

import inspect

import pytest

from stn.ranks import ALONE, Ranks
from stn.runs.folder import RunFolder
from stn.scripts.followed import Followed, opened

WRITTEN = [name for name in vars(Followed) | vars(Followed.__base__) if not name.startswith("_")]


class Second(Ranks):
    """The second of two, which is told what the first one has."""

    def __init__(self, told):
        super().__init__(rank=1, size=2)
        self.told = told

    def from_first(self, make):  # noqa: ARG002
        return self.told


def test_the_first_rank_has_the_folder_itself(folder):
    with opened(ALONE, lambda: RunFolder.create(folder, {"seed": 3})) as run:
        assert isinstance(run, RunFolder) and run.path == folder


def test_the_others_have_its_settings_and_make_none(folder):
    with opened(Second(({"seed": 3}, folder, True)), lambda: pytest.fail("made")) as run:
        assert (run.settings, run.path, run.resumed) == ({"seed": 3}, folder, True)


def test_they_write_nothing(folder):
    """Whatever a run calls of its folder is there, and leaves nothing."""
    run = Followed({}, folder, resumed=False)
    run.log("epoch", {"epoch": 0})
    run.scalars(1, {"loss": 2.0})
    run.save_checkpoint({})
    run.save_model({}, "model.pt")
    run.write_result({"val_loss": 1.0})
    run.mark("finished")
    run.load_checkpoint()
    run.change_settings({"lr": 1.0})
    assert run.settings == {"lr": 1.0} and not folder.parent.exists()


@pytest.mark.parametrize("name", WRITTEN)
def test_they_are_called_as_the_folder_is(name):
    assert callable(getattr(RunFolder, name)), name
    assert inspect.isfunction(getattr(Followed, name))
