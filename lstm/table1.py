"""The first table of the paper: is it the schedule that helps? (MacKay et al. 2019, section 5.1)

Six LSTMs: output dropout fixed, fixed with Gaussian noise and with a sinusoid, fixed at the final value of the
self-tuning network (STN), self-tuned, and replaying the STN's schedule without tuning; and the STN from five initial
values. What is finished is not run again: stopped or killed, the command goes on where it was when started again.
"""

if __name__ == "__main__":
    import sys
    from pathlib import Path

    sys.path[0] = str(Path(__file__).resolve().parent.parent)  # the repository, installed or not
    from stn.scripts.launch import launch

    launch("lstm.table1")

import os
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from itertools import chain
from pathlib import Path
from typing import NamedTuple

import pandas

from lstm import demo
from lstm.hyperparameters import TABLE
from lstm.settings import PTB
from lstm.train import SCRIPT as TRAIN
from lstm.train_basic import SCRIPT as TRAIN_BASIC
from stn.datasets.builtin_text import write_builtin_corpus
from stn.datasets.text import first_lines
from stn.errors import UserError
from stn.figures import schedules, style
from stn.scripts import options
from stn.scripts.jobs import Job, add_flags, finish
from stn.scripts.options import ROOT
from stn.scripts.output import complain, say
from stn.scripts.script import Script
from stn.scripts.tables import markdown_table, with_spread, write_table


@dataclass(frozen=True)
class Size:
    """caption: what the table says of it. common: flags of all runs, beyond their scripts' defaults.

    tuning: flags that the STNs add. lines: of each split of the built-in corpus; Penn Treebank without it. threads: of
    each run; without it the runs at once share the machine.
    """

    caption: str
    common: str = ""
    tuning: str = ""
    lines: dict[str, int] | None = None
    threads: int | None = None

    def threads_each(self, at_once: int) -> int:
        """Of each run, where so many run at once."""
        return self.threads or max(1, (os.cpu_count() or 1) // at_once)


PUBLISHED = "the published numbers are of 2 x 650 units on Penn Treebank."
SIZES = {
    "paper": Size("2 x 650 units on Penn Treebank, as published."),
    "small": Size(
        "2 x 200 units on Penn Treebank; the published numbers are of 2 x 650 units.",
        "--emsize 200 --nhid 200 --batch_size 20 --bptt 35 --epochs 14 --nonmono 2",
    ),
    "demo": Size(
        f"2 x 64 units on a part of the built-in corpus; {PUBLISHED}", demo.NETWORK, demo.TUNING, demo.LINES, threads=1
    ),
    "quick": Size(
        f"Next to nothing, to see that it works; {PUBLISHED}",
        f"{demo.NETWORK} {demo.QUICK}",
        demo.QUICK_TUNING,
        demo.QUICK_LINES,
        threads=1,
    ),
}


@dataclass(frozen=True)
class Row:
    """A row of the table.

    published: validation and test perplexity in the paper, at its size. flags: the run's own. from_stn: adds those that
    come from the finished STN of the same seed.
    """

    label: str
    published: tuple[float, float]
    flags: str = ""
    from_stn: Callable[[Job], list[str]] | None = None
    script: Script = TRAIN_BASIC


FIXED = "--dropouto 0.68"
GAUSSIAN = f"{FIXED} --perturb_dropouto --perturb_type gaussian --perturb_std 0.05"
SINUSOID = f"{FIXED} --perturb_dropouto --perturb_type sinusoid --amplitude 0.1 --sinusoid_period 1200"
STN = "--drop_transform none --tune_dropouto --dropouto"
NAME = "table1.py"
INITIAL_VALUES = (0.05, 0.3, 0.5, 0.7, 0.9)
ROWS = {
    "fixed": Row("fixed at 0.68", (85.83, 83.19), FIXED),
    "gaussian": Row("0.68 with Gaussian noise", (85.87, 82.29), GAUSSIAN),
    "sinusoid": Row("0.68 with a sinusoid", (85.29, 82.15), SINUSOID),
    "final": Row(
        "fixed at the STN's final value", (89.65, 86.90), from_stn=lambda stn: ["--dropouto", str(final_value(stn))]
    ),
    "stn": Row("STN", (82.58, 79.02), f"{STN} {INITIAL_VALUES[0]}", script=TRAIN),
    "replay": Row(
        "replay of the STN's schedule",
        (82.87, 79.93),
        from_stn=lambda stn: ["--load_schedule", f"{stn.path}/epoch.csv"],
    ),
}


class Plan(NamedTuple):
    """rows: each row's runs, one for each seed. initial: the STN from each initial value, of the first seed."""

    caption: str
    rows: dict[str, list[Job]]
    initial: dict[float, Job]

    @property
    def jobs(self) -> list[Job]:
        """Each run once, those that others need first; the STN of the first seed has the first initial value, too."""
        jobs = chain(self.rows["stn"], *self.rows.values(), self.initial.values())
        return list({job.name: job for job in jobs}.values())


def main(argv: list[str] | None = None) -> int:
    """Run the command line; the exit status: 0, 2 for what the user can mend, 130 where interrupted."""
    parser = options.OneLineParser(prog=NAME, description=__doc__)
    sizes = (
        "paper: Penn Treebank, 2 x 650 units. small: Penn Treebank, 2 x 200 units, hours. demo: 2 x 64 units on a "
        "part of the built-in corpus, minutes. quick: a trial, which shows nothing"
    )
    add_flags(parser, SIZES, "paper", sizes, "table1/SIZE")
    args = parser.parse_args(argv)
    return options.exit_status(parser.prog, lambda: table1(**vars(args)), "start it again to continue")


def table1(size: str, seeds: int, jobs: int, overwrite: bool, save_dir: str | None) -> None:
    """Run what is missing, writing the table and the figure of the schedules as far as they go after each run."""
    save_dir = save_dir or f"table1/{size}"
    folder = ROOT / "logs" / save_dir
    plan = make_plan(SIZES[size], save_dir, seeds, jobs)
    finish(plan.jobs, jobs, overwrite, done=partial(write, plan, folder))
    say("")
    say(markdown(plan))
    say("")
    for file in write(plan, folder):
        say(f"wrote {file}")


def make_plan(size: Size, save_dir: str, seeds: int, at_once: int) -> Plan:
    """The runs of a table, each in logs/<save_dir>/<row>/<date>-seed<n>."""
    data = corpus(size, ROOT / "logs" / save_dir)
    threads = size.threads_each(at_once)

    def job(folder: str, seed: int, script: Script, own: str, from_stn=None, stn: Job | None = None) -> Job:
        flags = f"{size.common} {size.tuning if script is TRAIN else ''} --seed {seed} {own}".split()
        place = {"data": str(data), "save_dir": f"{save_dir}/{folder}", "prefix": f"seed{seed}"}
        added = partial(from_stn, stn) if from_stn else list
        needs = (stn.name,) if from_stn else ()
        return Job(f"{folder}, seed {seed}", script, place, lambda: [*flags, *added()], threads, needs)

    stns = {seed: job("stn", seed, TRAIN, ROWS["stn"].flags) for seed in range(1, seeds + 1)}
    rows = {
        name: [job(name, seed, row.script, row.flags, row.from_stn, stn) for seed, stn in stns.items()]
        for name, row in ROWS.items()
    }
    initial = {value: job(f"init{100 * value:02.0f}", 1, TRAIN, f"{STN} {value}") for value in INITIAL_VALUES[1:]}
    return Plan(size.caption, rows, {INITIAL_VALUES[0]: rows["stn"][0], **initial})


def corpus(size: Size, folder: Path) -> Path:
    """The text: Penn Treebank, or a part of the built-in corpus. Raises UserError where the former is not there."""
    if size.lines:
        return first_lines(write_builtin_corpus(ROOT / "data" / "builtin"), folder / "corpus", size.lines)
    if not PTB.exists():
        raise UserError("there is no data/penn: ./getdata.sh fetches it; --size demo needs none")
    return PTB


def final_value(stn: Job) -> float:
    """The output dropout that a finished STN ended at. Raises UserError where its folder does not say."""
    epochs = stn.read(TABLE).epoch
    if epochs.empty or "dropouto" not in epochs:
        raise UserError(f"{stn.path}/epoch.csv does not hold the STN's schedule: remove that folder and start again")
    return float(epochs["dropouto"].iloc[-1])


def results(plan: Plan) -> pandas.DataFrame:
    """A line for each row: mean and standard deviation (over seeds, n − 1) of the perplexities of finished runs."""
    lines = []
    for name, row in ROWS.items():
        finished = pandas.DataFrame([job.result() for job in plan.rows[name] if job.finished])
        line = {"row": name, "output_dropout": row.label, "seeds": len(finished)}
        for measure, published in zip(("val_ppl", "test_ppl"), row.published, strict=True):
            values = finished.get(measure, pandas.Series(dtype=float))
            line |= {measure: values.mean(), f"{measure}_std": values.std(), f"published_{measure}": published}
        lines.append(line)
    return pandas.DataFrame(lines)


def markdown(plan: Plan) -> str:
    """The table, and where the STN ended from each initial value, for people."""
    header = ["output dropout", "validation ppl", "test ppl", "seeds", "published validation", "published test"]
    lines = []
    for row in results(plan).itertuples():
        means = with_spread(row.val_ppl, row.val_ppl_std), with_spread(row.test_ppl, row.test_ppl_std)
        published = f"{row.published_val_ppl:.2f}", f"{row.published_test_ppl:.2f}"
        lines.append([row.output_dropout, *means, str(row.seeds), *published])
    ends = [[f"{value:g}", f"{final_value(job):.3f}" if job.finished else "–"] for value, job in plan.initial.items()]
    return f"{plan.caption}\n\n{markdown_table(header, lines)}\n\n{markdown_table(['STN from', 'ended at'], ends)}"


def write(plan: Plan, folder: Path) -> list[Path]:
    """table1.csv, table1.md and the figure of the schedules, as far as runs are finished; the files written."""
    files = write_table(folder / "table1", results(plan), markdown(plan))
    finished = [job.read(TABLE) for job in plan.initial.values() if job.finished]
    if finished:
        figure, skipped = schedules.initial_values(finished, "dropouto", TABLE["dropouto"].label)
        for line in skipped:
            complain(NAME, f"left out of the figure: {line}")
        files += style.save(figure, folder / "schedules")
    return files
