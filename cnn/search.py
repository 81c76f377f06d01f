"""Search an image classifier's hyperparameters: each trial trains it at fixed values.

The values of hyperparameters that no flag fixes are proposed by a grid, at random, by tree-structured Parzen estimators
(tpe), a Gaussian process (gp), or population-based training (pbt). The same command goes on with a study, in as many
processes as one likes.
"""

if __name__ == "__main__":
    import sys
    from pathlib import Path

    sys.path[0] = str(Path(__file__).resolve().parent.parent)  # the repository, installed or not
    from stn.scripts.launch import launch

    launch("cnn.search")

from functools import partial

from cnn.hyperparameters import DECAY, TABLE
from cnn.recipes import declared, recipe_of
from cnn.train_basic import SCRIPT, setters
from stn.scripts import search
from stn.scripts.declared import Table, Values


def place(folder: str) -> Values:
    """The settings that have a run lie in this folder below logs/."""
    parent, _, name = folder.rpartition("/")
    return {"dir": parent, "subdir": name}


def table(values: Values) -> Table:
    """The hyperparameters with the ranges in which cnn/hypertrain.py tunes them."""
    recipe = recipe_of(values, values["model"])
    return {name: declared(name, recipe) for name in TABLE}


EXPERIMENT = search.Experiment(SCRIPT, setters=setters, place=place, epochs="total_epochs", table=table, asked=(DECAY,))
main = partial(search.main, EXPERIMENT, __doc__)
