"""The README's Python and the docstrings' examples run, and what the README names exists."""

import doctest
import re
from pathlib import Path

from stn import conversion, delta_stn, hyperparameters, layers, methods, weight_decay
from stn.runs.folder import read_status
from stn.scripts import figures

ROOT = Path(__file__).resolve().parent.parent
README = (ROOT / "README.md").read_text(encoding="utf-8")


def test_python_examples_run(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    examples = re.findall(r"```python\n(.*?)```", README, re.DOTALL)
    assert examples
    for example in examples:
        exec(compile(example, "README.md", "exec"), {})
    assert read_status("logs/mine") == "finished"
    assert figures.main(["logs/mine", "--out", "plots"]) == 0 and (tmp_path / "plots" / "accuracies.png").exists()


def test_examples_in_docstrings_run():
    for module in (conversion, delta_stn, hyperparameters, layers, methods, weight_decay):
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
