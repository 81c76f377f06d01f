"""Search the language model's hyperparameters: each trial trains it at fixed values.

The values of hyperparameters that no flag fixes are proposed by a grid, at random, by tree-structured Parzen estimators
(tpe), a Gaussian process (gp), or population-based training (pbt). The same command goes on with a study, in as many
processes as one likes.
"""

if __name__ == "__main__":
    import sys
    from pathlib import Path

    sys.path[0] = str(Path(__file__).resolve().parent.parent)  # the repository, installed or not
    from stn.scripts.launch import launch

    launch("lstm.search")

from functools import partial

from lstm.train_basic import SCRIPT, baseline_flags
from stn.scripts import search

EXPERIMENT = search.Experiment(
    SCRIPT,
    setters=lambda name: [name],
    place=lambda folder: {"save_dir": folder},
    epochs="epochs",
    without=frozenset(flag.name for flag in baseline_flags()),
)
main = partial(search.main, EXPERIMENT, __doc__)
