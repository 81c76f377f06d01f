"""How sensitive is the self-tuning LSTM to its own settings? (MacKay et al. 2019, appendix)

The two studies of the paper: how often to alternate between weights and hyperparameters, and the scale of the
perturbation, fixed or tuned. Others: initial values, warm-up, the hyperparameters' learning rate, what the response
sees of dropout rates, and the method. Each varies one thing of a run that tunes all seven hyperparameters; a run that
several need is made once. What is finished is not run again: stopped or killed, the command goes on where it was when
started again. A run that diverges is a result.
"""

if __name__ == "__main__":
    import sys
    from pathlib import Path

    sys.path[0] = str(Path(__file__).resolve().parent.parent)  # the repository, installed or not
    from stn.scripts.launch import launch

    launch("lstm.sensitivity")

import subprocess
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field, replace
from functools import partial
from itertools import product
from pathlib import Path
from typing import Any, NamedTuple

import pandas
from matplotlib.figure import Figure

from lstm import demo, table1
from lstm.hyperparameters import TABLE
from lstm.train import SCRIPT
from stn.errors import UserError
from stn.figures import sensitivity as draw
from stn.figures.style import COLORS, COLUMN, MARKERS, grid, key, legend, save, styled
from stn.runs.folder import read_status
from stn.runs.history import read_epochs, require
from stn.schedules import SCALE
from stn.scripts import options
from stn.scripts.jobs import Job, add_flags, finish
from stn.scripts.options import ROOT
from stn.scripts.output import Lines, say
from stn.scripts.tables import markdown_table, with_spread, write_table

NAME = "sensitivity.py"
SIZES = {
    "paper": replace(table1.SIZES["paper"], caption="2 x 650 units on Penn Treebank."),
    "small": replace(table1.SIZES["small"], caption="2 x 200 units on Penn Treebank, 14 epochs."),
    "demo": replace(
        table1.SIZES["demo"],
        caption="2 x 64 units on a part of the built-in corpus, 8 epochs.",
        common=f"{demo.NETWORK} --epochs 8",
        tuning=demo.PACE,  # the feeds not by name: Δ-STN takes none
    ),
    "quick": replace(table1.SIZES["quick"], caption="Next to nothing, to see that it works."),
}


@dataclass(frozen=True)
class Axis:
    """A setting that a study varies, the default among its values.

    name: its column in sensitivity.csv. words: what people call it. values: of the sizes that are not in `other`.
    flags: what sets it, with {} for the value. log: figures have a logarithmic axis.
    """

    name: str
    words: str
    values: tuple
    flags: str
    other: Mapping[str, tuple] = field(default_factory=dict)
    log: bool = False

    def at(self, size: str) -> tuple:
        return self.other.get(size, self.values)


@dataclass(frozen=True)
class Study:
    """words: its heading. arms: of each, all combinations of its axes' values are run."""

    words: str
    arms: tuple[tuple[Axis, ...], ...]

    @property
    def axis(self) -> Axis:
        return self.arms[0][0]


ALTERNATION = (1, 2, 5, 10)
TRAIN_STEPS = Axis("train_steps", "weight steps in a row", ALTERNATION, "--train_steps {}", {"quick": (1, 2)})
VAL_STEPS = Axis("val_steps", "hyperparameter steps in a row", ALTERNATION, "--val_steps {}", {"quick": (1, 2)})
FIXED_SCALE = Axis(
    "perturb_scale", "scale", (0.1, 0.3, 1.0, 3.0, 10.0), "--perturb_scale {}", {"quick": (0.3, 1.0)}, log=True
)
TUNED_SCALE = Axis(
    "entropy_weight",
    "tuned, entropy weight",
    (0.0001, 0.001, 0.01),
    "--tune_scales --entropy_weight {}",
    {"quick": (0.001,)},
)
RATES = " ".join(f"--{name} {{0}}" for name, declared in TABLE.items() if declared.range[1] == 1)
START = Axis("start", "initial dropout rates", (0.05, 0.2, 0.4, 0.6), RATES, {"quick": (0.05, 0.4)})
WARM_UP = Axis(
    "warmup_steps",
    "warm-up (weight steps)",
    (0, 331, 993, 3310),
    "--warmup_steps {}",
    {"small": (0, 331, 1328, 3984), "demo": (0, 80, 160, 320), "quick": (0, 5)},
)
HYPER_LR = Axis(
    "hyper_lr",
    "hyperparameters' learning rate",
    (0.001, 0.003, 0.01, 0.03),
    "--hyper_lr {}",
    {"demo": (0.005, 0.02, 0.08, 0.32), "quick": (0.01, 0.04)},
    log=True,
)
FEED = Axis(
    "drop_transform",
    "--drop_transform",
    ("centred", "none", "sigmoid"),
    "--drop_transform {}",
    {"quick": ("centred", "sigmoid")},
)
METHOD = Axis("method", "--method", ("stn", "delta_stn"), "--method {}")
STUDIES = {
    "alternation": Study("How often to alternate", ((TRAIN_STEPS, VAL_STEPS),)),
    "scale": Study("Scale of the perturbation", ((FIXED_SCALE,), (TUNED_SCALE,))),
    "start": Study("Initial values", ((START,),)),
    "warm_up": Study("Length of the warm-up", ((WARM_UP,),)),
    "hyper_lr": Study("Learning rate of the hyperparameters", ((HYPER_LR,),)),
    "feed": Study("What the response sees of dropout rates", ((FEED,),)),
    "method": Study("Method", ((METHOD,),)),
}
AXES = [axis.name for study in STUDIES.values() for arm in study.arms for axis in arm]
COLUMNS = ["seed", "best_val_ppl", "best_epoch", "test_ppl", "diverged", "scale_low", "scale", "scale_high", "default"]
SCORE = "validation perplexity"
REMEDY = "remove that folder and start again"


class Run(Job):
    """A training that may diverge: it has ended then, and nothing has failed."""

    @property
    def diverged(self) -> bool:
        return self.path is not None and read_status(self.path) == "diverged"

    @property
    def finished(self) -> bool:
        return super().finished or self.diverged

    def follow(self, process: subprocess.Popen, lines: Lines) -> None:
        try:
            super().follow(process, lines)
        except UserError:
            if not self.diverged:
                raise

    def outcome(self) -> dict[str, Any]:
        """Perplexities of its best model, as far as there is one, and the perturbation's scales at that epoch.

        Of the scales the lowest, the geometric mean and the highest over hyperparameters. Raises UserError where a file
        of a finished run is damaged.
        """
        epochs = read_epochs(self.path, finished=not self.diverged, remedy=REMEDY)
        scales = [f"{name}{SCALE}" for name in TABLE]
        require(self.path / "epoch.csv", epochs, ("epoch", "val_ppl", *scales), REMEDY)
        found: dict[str, Any] = {"diverged": self.diverged}
        if len(epochs):
            best = epochs.loc[epochs["val_ppl"].idxmin()]
            low, high, mean = best[scales].min(), best[scales].max(), best[scales].prod() ** (1 / len(scales))
            found |= {"best_val_ppl": best["val_ppl"], "best_epoch": int(best["epoch"])}
            found |= {"scale_low": low, "scale": mean, "scale_high": high}
        return found if self.diverged else found | {"test_ppl": self.result()["test_ppl"]}


class Entry(NamedTuple):
    """A run in a study. values: by axis. default: it has the size's own settings, and is in other studies, too."""

    study: str
    values: dict[str, Any]
    seed: int
    run: Run
    default: bool


class Plan(NamedTuple):
    """What a command runs. size: its name."""

    size: str
    entries: list[Entry]

    @property
    def runs(self) -> list[Run]:
        """Each once."""
        return list({entry.run.name: entry.run for entry in self.entries}.values())


def main(argv: list[str] | None = None) -> int:
    """Run the command line; the exit status: 0, 2 for what the user can mend, 130 where interrupted."""
    parser = options.OneLineParser(prog=NAME, description=__doc__)
    sizes = (
        "paper: Penn Treebank, 2 x 650 units. small: Penn Treebank, 2 x 200 units, days. demo: 2 x 64 units on a "
        "part of the built-in corpus, half an hour. quick: a trial, which shows nothing"
    )
    studies = f"of {', '.join(STUDIES)} (default: all)"
    parser.add_argument("--studies", nargs="+", choices=STUDIES, default=[*STUDIES], metavar="NAME", help=studies)
    add_flags(parser, SIZES, "demo", sizes, "sensitivity/SIZE")
    args = parser.parse_args(argv)
    return options.exit_status(parser.prog, lambda: sensitivity(**vars(args)), "start it again to continue")


def sensitivity(
    studies: Collection[str], size: str, seeds: int, jobs: int, overwrite: bool, save_dir: str | None
) -> None:
    """Run what is missing, writing the tables as far as they go after each run; then draw the figures."""
    save_dir = save_dir or f"sensitivity/{size}"
    folder = ROOT / "logs" / save_dir
    plan = make_plan(size, save_dir, seeds, jobs, studies)
    say(f"{len(plan.runs)} runs, {sum(run.finished for run in plan.runs)} of them finished")
    finish(plan.runs, jobs, overwrite, done=partial(write_tables, plan, folder))
    files, found = write_tables(plan, folder), results(plan)
    for name, figure in figures(found, size).items():
        files += save(figure, folder / name)
    say(f"\n{markdown(found, plan)}\n")
    for file in files:
        say(f"wrote {file}")


def make_plan(size: str, save_dir: str, seeds: int, at_once: int, studies: Collection[str] = tuple(STUDIES)) -> Plan:
    """The runs of the studies, each in logs/<save_dir>/<study>/<date>-<values>-seed<n>.

    A run that several studies need lies in the folder of the first, whichever studies are asked for; the one with the
    default settings in `default`. Raises UserError where Penn Treebank is needed and not there.
    """
    own = SIZES[size]
    data, threads = table1.corpus(own, ROOT / "logs" / save_dir), own.threads_each(at_once)
    runs: dict[str, Run] = {}

    def shared(study: str, values: str, flags: str, seed: int) -> Run:
        """The one run of these settings."""
        words = f"{own.common} {own.tuning} --tune_all --seed {seed} {flags}".split()
        settings, *_ = SCRIPT.prepare(SCRIPT.parse([*words, "--data", str(data)]))
        folder = f"{values}seed{seed}"
        place = {"data": str(data), "save_dir": f"{save_dir}/{study}", "prefix": folder}
        return runs.setdefault(repr(settings), Run(f"{study} {folder}", SCRIPT, place, lambda: words, threads))

    defaults = {seed: shared("default", "", "", seed) for seed in range(1, seeds + 1)}
    entries = []
    for name, study in STUDIES.items():
        for arm in study.arms:
            for values in product(*(axis.at(size) for axis in arm)):
                set_to = dict(zip((axis.name for axis in arm), values, strict=True))
                flags = " ".join(axis.flags.format(value) for axis, value in zip(arm, values, strict=True))
                folder = "".join(f"{axis}-{value}-" for axis, value in set_to.items())
                for seed, default in defaults.items():
                    run = shared(name, folder, flags, seed)
                    entries.append(Entry(name, set_to, seed, run, run is default))
    return Plan(size, [entry for entry in entries if entry.study in studies])


def results(plan: Plan) -> pandas.DataFrame:
    """A line for each run that has ended, in each study that it is in."""
    outcomes = {run.name: run.outcome() for run in plan.runs if run.finished}
    lines = [
        {"study": entry.study, **entry.values, "seed": entry.seed, "default": entry.default, **outcomes[entry.run.name]}
        for entry in plan.entries
        if entry.run.name in outcomes
    ]
    found = pandas.DataFrame(lines, columns=["study", *AXES, *COLUMNS])
    whole = dict.fromkeys((TRAIN_STEPS.name, VAL_STEPS.name, WARM_UP.name, "best_epoch"), "Int64")
    return found.astype({**whole, "diverged": bool, "default": bool})


def write_tables(plan: Plan, folder: Path) -> list[Path]:
    """sensitivity.csv and sensitivity.md, as far as runs have ended; the files written."""
    found = results(plan)
    return write_table(folder / "sensitivity", found, markdown(found, plan))


def markdown(found: pandas.DataFrame, plan: Plan) -> str:
    """The tables of the studies, for people. found: their `results`."""
    parts = [f"{SIZES[plan.size].caption} What is bold has the default settings."]
    for name in dict.fromkeys(entry.study for entry in plan.entries):
        own = found[found["study"] == name]
        tables = [(matrix if len(arm) == 2 else column)(own, plan.size, *arm) for arm in STUDIES[name].arms]
        parts += [f"## {STUDIES[name].words}", *tables]
    return "\n\n".join(parts)


def column(found: pandas.DataFrame, size: str, axis: Axis) -> str:
    """The table of a study of one setting, a line for each value."""
    lines = []
    for value in axis.at(size):
        own = found[found[axis.name] == value]
        epoch = own.loc[~own["diverged"], "best_epoch"]
        line = [str(value), spread(own, "best_val_ppl"), spread(own, "test_ppl"), with_spread(epoch.mean(), None, 1)]
        lines.append([f"**{cell}**" if own["default"].any() else cell for cell in line] + [str(len(own))])
    return markdown_table([axis.words, SCORE, "test perplexity", "best epoch", "runs"], lines)


def matrix(found: pandas.DataFrame, size: str, down: Axis, right: Axis) -> str:
    """The table of a study of two settings, of validation perplexities."""
    lines = []
    for value in down.at(size):
        line = [str(value)]
        for other in right.at(size):
            own = found[(found[down.name] == value) & (found[right.name] == other)]
            cell = spread(own, "best_val_ppl")
            line.append(f"**{cell}**" if own["default"].any() else cell)
        lines.append(line)
    return markdown_table([f"{down.words} \\ {right.words}", *map(str, right.at(size))], lines)


def spread(runs: pandas.DataFrame, name: str) -> str:
    """Mean and standard deviation of a column over the seeds that did not diverge, and how many did."""
    scores, lost = runs.loc[~runs["diverged"], name], int(runs["diverged"].sum())
    if lost and scores.empty:
        return "diverged"
    return with_spread(scores.mean(), scores.std()) + (f" ({lost} of {len(runs)} diverged)" if lost else "")


def figures(found: pandas.DataFrame, size: str) -> dict[str, Figure]:
    """By name, of the studies of which runs have ended."""
    found = found.rename(columns={"best_val_ppl": "score"})
    own = {name: found[found["study"] == name] for name in STUDIES if (found["study"] == name).any()}
    drawn = {}
    if "alternation" in own:
        words = {axis.name: axis.words for axis in (TRAIN_STEPS, VAL_STEPS)} | {"score": SCORE}
        drawn["alternation"] = draw.heat_map(own.pop("alternation"), TRAIN_STEPS.name, VAL_STEPS.name, words)
    if "scale" in own:
        drawn["scale"] = scale_figure(own.pop("scale"))
    if own:
        drawn["settings"] = settings_figure(own, size)
    return drawn


@styled
def scale_figure(runs: pandas.DataFrame) -> Figure:
    """Perplexity against the scale: fixed, and tuned, at what the scales have come to, across hyperparameters."""
    figure = Figure(figsize=(COLUMN, 2.9), layout="constrained")
    panel = figure.subplots()
    draw.curve(panel, runs[runs[FIXED_SCALE.name].notna()], FIXED_SCALE.name, log=True)
    draw.reference(panel, runs)
    handles = [key("fixed", color=COLORS[0], **draw.DOTS)]
    for (weight, own), color, marker in zip(runs.groupby(TUNED_SCALE.name), COLORS[1:], MARKERS[1:], strict=False):
        look = {"color": color, "marker": marker, "markersize": 4, "linewidth": 1}
        draw.across(panel, own, "scale", "scale_low", "scale_high", **look)
        lost = " (diverged)" if own["diverged"].all() else ""
        handles.append(key(f"{TUNED_SCALE.words} {weight:g}{lost}", **look))
    panel.set(xlabel="scale of the perturbation", ylabel=SCORE)
    legend(figure, None, handles + draw.keys(runs))
    return figure


@styled
def settings_figure(studies: Mapping[str, pandas.DataFrame], size: str) -> Figure:
    """A panel for each study of one setting, with one scale of perplexity."""
    figure, panels, cell = grid(len(studies), height=1.7, sharey=True, wide=True, most=3)
    for panel, (name, runs) in zip(panels, studies.items(), strict=True):
        axis = STUDIES[name].axis
        values = axis.at(size)
        if isinstance(values[0], str):
            draw.points(panel, runs, axis.name, values)
        else:
            draw.curve(panel, runs, axis.name, log=axis.log)
        draw.reference(panel, runs)
        panel.set_xlabel(axis.words)
    for panel in panels[:: panels[0].get_gridspec().ncols]:
        panel.set_ylabel(SCORE)
    legend(figure, cell, draw.keys(pandas.concat([*studies.values()])))
    return figure
