"""The README's Python and the docstrings' examples run, and what the README names exists."""

import doctest
import re
from pathlib import Path

import torch

from stn import conversion, delta_stn, hyperparameters, layers, methods, weight_decay
from stn.hypergradients import loop
from stn.runs.folder import read_status
from stn.scripts import figures

ROOT = Path(__file__).resolve().parent.parent
README, LIBRARY = ((ROOT / page).read_text(encoding="utf-8") for page in ("README.md", "docs/library.md"))


def run(source, name):
    exec(compile(source, name, "exec"), {})


def test_python_examples_run(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for page in (README, LIBRARY):
        examples = re.findall(r"```python\n(.*?)```", page, re.DOTALL)
        assert examples
        for example in examples:
            run(example, "a page")
    assert read_status("logs/mine") == "finished"
    assert figures.main(["logs/mine", "--out", "plots"]) == 0 and (tmp_path / "plots" / "accuracies.png").exists()


def test_the_tutorials_changes_make_its_script_self_tuning(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    plain = re.search(r"```python\n(.*?)```", README, re.DOTALL)[1]
    changes = re.search(r"```diff\n(.*?)```", README, re.DOTALL)[1].splitlines()
    tuned, at = plain.splitlines(), 0
    for change in changes:
        if change.startswith("+"):
            tuned.insert(at, change[1:])
            at += 1
        elif change.startswith("-"):
            assert tuned.pop(at) == change[1:]
        elif change != "@@":
            at = tuned.index(change[1:], at) + 1
    run(plain, "plain")
    keys = torch.load("net.pt", weights_only=True).keys()
    run("\n".join(tuned), "tuned")
    assert torch.load("net.pt", weights_only=True).keys() == keys and read_status("logs/mine") == "finished"


def test_examples_in_docstrings_run():
    for module in (conversion, delta_stn, hyperparameters, layers, loop, methods, weight_decay):
        done = doctest.testmod(module)
        assert done.attempted and not done.failed


def test_files_named_in_the_layout_exist():
    layout = re.findall(r"^    ((?:stn|lstm|cnn)/\S*) ", README, re.MULTILINE)
    assert layout
    assert [path for path in layout if not (ROOT / path).exists()] == []


def test_modules_are_named_in_the_layout():
    layout = re.findall(r"^    ((?:stn|lstm|cnn)/\S*) ", README, re.MULTILINE)
    files = [f"{folder}/{file.name}" for folder in ("stn", "lstm", "cnn") for file in (ROOT / folder).glob("*.py")]
    assert [file for file in files if file not in layout and not file.endswith("__init__.py")] == []
