"""Self-tuning in four minutes: one small LSTM with fixed and with self-tuned regularization.

It learns a fifth of the built-in corpus, little enough to overfit. Both runs start with hardly any regularization
and train at once, a CPU thread each. Killed and started again, the demo goes on where it was.
"""

if __name__ == "__main__":
    import sys
    from pathlib import Path

    sys.path[0] = str(Path(__file__).resolve().parent.parent)  # the repository, installed or not
    from stn.scripts.launch import launch

    launch("lstm.demo")

from functools import partial

from lstm import train
from lstm.hyperparameters import TABLE
from stn.datasets.builtin_text import write_builtin_corpus
from stn.datasets.text import first_lines
from stn.figures.overview import overview
from stn.figures.schedules import schedules
from stn.figures.scores import perplexities
from stn.scripts import figures, options
from stn.scripts.jobs import Job, finish
from stn.scripts.options import ROOT
from stn.scripts.output import say

# What both runs share, and what the tuned one adds to it.
NETWORK = (
    "--disable_cuda --dtype float32 --checkpoint_seconds 15"
    " --emsize 64 --nhid 64 --batch_size 20 --bptt 35 --epochs 25 --lr 20 --nonmono 2"
)
COMMON = (
    f"{NETWORK} --seed 1"
    " --alpha 0.05 --beta 0.05 --dropouto 0.05 --dropouth 0.05 --dropouti 0.05 --dropoute 0.05 --wdrop 0.05"
)
PACE = "--warmup_steps 160 --hyper_lr 0.02"
# The feed by name, though it is the default: runs that were made with another one are not taken for these.
TUNING = f"--drop_transform centred --alpha_beta_transform centred {PACE}"
RUNS = {"fixed": "", "tuned": f"--tune_all {TUNING}"}
LINES = {"train": 3600, "valid": 1000, "test": 1000}  # of the built-in corpus
QUICK, QUICK_TUNING = "--emsize 8 --nhid 8 --epochs 2", "--warmup_steps 5"
QUICK_LINES = {"train": 900, "valid": 150, "test": 150}


def main(argv: list[str] | None = None) -> int:
    """Run the demo; the exit status: 0, 2 for what the user can mend, 130 where interrupted."""
    parser = options.OneLineParser(prog="demo.py", description=__doc__)
    parser.add_argument("--overwrite", action="store_true", help="redo the runs that are there")
    parser.add_argument("--quick", action="store_true", help="a few seconds at a tiny size, to see that it works")
    parser.add_argument(
        "--save_dir",
        type=options.named,
        help="the runs' folder below logs/ (default: demo, or demo_quick with --quick)",
    )
    args = parser.parse_args(argv)
    save_dir = args.save_dir or ("demo_quick" if args.quick else "demo")
    work = partial(demo, save_dir, args.quick, args.overwrite)
    return options.exit_status(parser.prog, work, "start it again to continue")


def demo(save_dir: str, quick: bool, overwrite: bool) -> None:
    """Train both runs, each in logs/<save_dir>/<its name>, then print the table and draw the figures."""
    folder = ROOT / "logs" / save_dir
    say("Two runs of one small LSTM: all hyperparameters fixed, and all of them tuned while it trains.")
    builtin = write_builtin_corpus(ROOT / "data" / "builtin")
    corpus = first_lines(builtin, folder / "corpus", QUICK_LINES if quick else LINES)
    jobs = []
    for name, own in RUNS.items():
        place = {"data": str(corpus), "save_dir": f"{save_dir}/{name}"}
        quicker = f"{QUICK} {QUICK_TUNING if own else ''}" if quick else ""
        flags = f"{own} {COMMON} {quicker}"  # a flag that is given twice counts as given last
        jobs.append(Job(name, train.SCRIPT, place, flags.split))
    finish(jobs, at_once=len(jobs), overwrite=overwrite)
    say("")
    say(table(*jobs))
    say("")
    runs = [job.read(TABLE) for job in jobs]
    for draw in (overview, schedules, perplexities):
        figure, _ = draw(runs)
        figures.write(figure, folder / draw.__name__)


def table(fixed: Job, tuned: Job) -> str:
    """The perplexities of both runs' best models, and what the tuned one made of each hyperparameter."""
    results = [job.result() for job in (fixed, tuned)]
    lines = [f"{'':<22}{'fixed':>9}{'tuned':>9}"]
    for split, column in (("validation", "val_ppl"), ("test", "test_ppl")):
        lines.append(f"{f'{split} perplexity':<22}" + "".join(f"{result[column]:>9.1f}" for result in results))
    run = tuned.read(TABLE)
    found = run.epoch.iloc[run.best()]
    lines += ["", f"{'hyperparameter':<22}{'initial':>9}{'found':>9}"]
    lines += [f"{name:<22}{run.settings[name]:>9.3f}{found[name]:>9.3f}" for name in TABLE]
    return "\n".join(lines)
