"""Draw output dropout against iterations for self-tuning runs that started at different values."""

if __name__ == "__main__":
    import sys
    from pathlib import Path

    sys.path[0] = str(Path(__file__).resolve().parent.parent)  # the repository, installed or not
    from stn.scripts.launch import launch

    launch("lstm.save_dropouto_schedule_plot")

from pathlib import Path

from lstm.hyperparameters import TABLE
from stn.errors import UserError
from stn.figures import schedules
from stn.runs.find import last_started
from stn.runs.history import Run, only_reading, read_run
from stn.scripts import figures, options
from stn.scripts.options import ROOT
from stn.scripts.output import complain

NAME = "save_dropouto_schedule_plot.py"
LOGS = "dropouto_schedule_init*"


def main(argv: list[str] | None = None) -> int:
    """Run the command line; the exit status: 0, 2 for what the user can mend, 130 where interrupted."""
    args = parser().parse_args(argv)
    return options.exit_status(NAME, lambda: draw(args.runs or find_runs(), args.labels, args.out), "start it again")


def parser() -> options.OneLineParser:
    parser = options.OneLineParser(prog=NAME, description=__doc__)
    parser.usage = "%(prog)s [RUN ...] [flags]"
    words = f"a run's folder (default: the newest of each logs/{LOGS})"
    parser.add_argument("runs", nargs="*", type=options.named, metavar="RUN", help=words)
    figures.add_labels(parser, "their initial values")
    figures.add_out(parser, "plots/stn_dropouto_schedules", "PATH", "the figure's path, with or without .pdf or .png")
    return parser


def draw(paths: list[str], labels: list[str] | None, out: Path) -> int:
    """Draw the runs that are there; the exit status, 2 where one was left out, which is said."""
    runs, left_out = figures.read_runs(paths, labels, read)
    for line in left_out:
        complain(NAME, f"left out: {line}")
    if not runs:
        return 2
    figures.warn_of_many(NAME, len({run.name or run.settings.get("dropouto") for run in runs if run.tuned("dropouto")}))
    figure, without_steps = schedules.initial_values(runs, "dropouto", TABLE["dropouto"].label)
    for line in without_steps.values():
        complain(NAME, f"left out: {line}")
    figures.warn_of_boxes(NAME, [figure])
    figures.write(figure, out)
    return 2 if left_out or without_steps else 0


def read(path: str) -> Run:
    """A run; of a folder of runs, the one started last. Raises UserError where there is none."""
    with only_reading("check the path"):
        folder = last_started(options.find(path, "the run"))
    return read_run(folder, TABLE)


def find_runs() -> list[str]:
    """The folders below logs/ of which the newest run counts. Raises UserError where there is none."""
    if not (parents := sorted((ROOT / "logs").glob(LOGS))):
        command = "python lstm/train.py --dropouto 0.05 --tune_dropouto --save_dir dropouto_schedule_init05"
        raise UserError(f"there is no run logs/{LOGS}: {command} makes one")
    return [str(parent) for parent in parents]
