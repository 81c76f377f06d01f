"""What the tests of the language model's scripts share: a tiny corpus, tiny runs, and what runs leave."""

import csv
import random

import yaml

from stn.scripts import course

SMALL = "--dtype float32 --emsize 4 --nhid 5 --batch_size 4 --bptt 6 --lr 1 --epochs 2 --threads 1 --disable_cuda"


def write_corpus(folder, train=40, valid=25, test=15, seed=0):
    """A text of six words, of some three a line, so many lines a split; the folder."""
    words = random.Random(seed)
    folder.mkdir(exist_ok=True)
    for split, count in (("train", train), ("valid", valid), ("test", test)):
        text = [" ".join(words.choices("abcdef", k=words.randint(1, 5))) for _ in range(count)]
        (folder / f"{split}.txt").write_text("\n".join(text) + "\n", encoding="utf-8")
    return folder


def execute(script, argv, capsys):
    """A script's main on a command line: (exit status, stdout, stderr)."""
    try:
        status = script.main([str(word) for word in argv])
    except SystemExit as stop:
        status = stop.code
    return status, *capsys.readouterr()


def values_of(script, flags):
    """The values of a new run's flags, of all that args.yaml records."""
    values, *_ = script.SCRIPT.prepare(script.SCRIPT.parse(flags.split()))
    return values


def rebuilt(script, folder):
    """A run's data, hyperparameters and task, as they were when it started."""
    values = settings(folder)
    return course.build(script.SCRIPT.make(values), script.SCRIPT.sources(values))


def only_run(tmp_path):
    """The one run's folder below tmp_path/logs."""
    (folder,) = (tmp_path / "logs").glob("*/")
    return folder


def rows(path):
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def without_time(path):
    return [{name: cell for name, cell in row.items() if name not in ("time", "best_time")} for row in rows(path)]


def settings(folder):
    return yaml.safe_load((folder / "args.yaml").read_text())


def refused(outcome, *words, script="train.py"):
    """Exit status 2, and one line on stderr that holds all these words."""
    status, _, error = outcome
    assert status == 2, error
    assert error.startswith(f"{script}: ") and error.endswith("\n") and error.count("\n") == 1
    for word in words:
        assert str(word) in error, error
