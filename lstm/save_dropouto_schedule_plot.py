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
from stn.figures import schedules, style
from stn.runs import history
from stn.runs.find import last_started
from stn.scripts import options
from stn.scripts.options import ROOT
from stn.scripts.output import complain, say

NAME = "save_dropouto_schedule_plot.py"
LOGS = "dropouto_schedule_init*"


def main(argv: list[str] | None = None) -> int:
    """Run the command line; the exit status: 0, 2 for what the user can mend, 130 where interrupted."""
    args = parser().parse_args(argv)
    return options.exit_status(NAME, lambda: draw(args.runs or find_runs(), args.out), "start it again")


def parser() -> options.OneLineParser:
    parser = options.OneLineParser(prog=NAME, description=__doc__)
    add = parser.add_argument
    add("runs", nargs="*", metavar="RUN", help=f"a run's folder (default: the newest of each logs/{LOGS})")
    out = "the figure's path, but for .pdf and .png (default: plots/stn_dropouto_schedules)"
    add("--out", type=Path, default=ROOT / "plots" / "stn_dropouto_schedules", metavar="PATH", help=out)
    return parser


def draw(paths: list[str], out: Path) -> None:
    """Draw the runs that are there, of a folder of runs the one started last, and say what was left out."""
    runs = []
    for path in dict.fromkeys(paths):
        try:
            runs.append(history.read_run(last_started(options.find(path, "the run")), TABLE))
        except UserError as error:
            complain(NAME, f"left out: {error}")
    if not runs:
        raise UserError("nothing is left to draw: give the folders of self-tuning runs")
    figure, without_steps = schedules.initial_values(runs, "dropouto", TABLE["dropouto"].label)
    for line in without_steps:
        complain(NAME, f"left out: {line}")
    for file in style.save(figure, out):
        say(f"wrote {file}")


def find_runs() -> list[str]:
    """The folders below logs/ of which the newest run counts. Raises UserError where there is none."""
    if not (parents := sorted((ROOT / "logs").glob(LOGS))):
        command = "python lstm/train.py --dropouto 0.05 --tune_dropouto --save_dir dropouto_schedule_init05"
        raise UserError(f"there is no run logs/{LOGS}: {command} makes one")
    return [str(parent) for parent in parents]
