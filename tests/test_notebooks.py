"""The notebooks are stripped and define nothing. `.ci/run` runs them; test_docs.py follows their links and commands."""

import ast
import re
from pathlib import Path

import nbformat
import pytest

from stn.runs.history import read_run

FOLDER = Path(__file__).resolve().parent.parent / "notebooks"
NOTEBOOKS = {path.stem: nbformat.read(path, nbformat.NO_CONVERT) for path in sorted(FOLDER.glob("*.ipynb"))}
each = pytest.mark.parametrize("notebook", NOTEBOOKS.values(), ids=NOTEBOOKS)


def code_of(notebook):
    return [cell for cell in notebook.cells if cell.cell_type == "code"]


def definitions(cells):
    """Functions and classes that code cells define, lambdas among them; lines for IPython alone are passed over."""
    sources = (re.sub(r"^[%!].*$", "", cell.source, flags=re.MULTILINE) for cell in cells)
    nodes = (node for source in sources for node in ast.walk(ast.parse(source)))
    kinds = ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef | ast.Lambda
    return [node for node in nodes if isinstance(node, kinds)]


def test_there_are_five():
    names = ["self_tuning_in_five_minutes", "best_responses", "schedules", "your_own_network", "against_search"]
    assert [*NOTEBOOKS] == [f"{number:02}_{name}" for number, name in enumerate(names, start=1)]


@each
def test_a_notebook_is_valid_and_stripped(notebook):
    nbformat.validate(notebook)
    assert notebook.metadata.kernelspec.name == "python3"
    cells = code_of(notebook)
    assert cells and not any(cell.outputs or cell.execution_count is not None for cell in cells)
    assert all(set(cell.metadata) == set() for cell in notebook.cells)


@each
def test_a_notebook_is_short_and_narrated(notebook):
    kinds = [cell.cell_type for cell in notebook.cells]
    assert kinds[0] == kinds[-1] == "markdown" and notebook.cells[0].source.startswith("# ")
    assert 6 <= len(kinds) <= 15 and kinds.count("markdown") >= 6


@each
def test_a_notebook_defines_nothing(notebook):
    assert definitions(code_of(notebook)) == []


@pytest.mark.parametrize("source", ["def f(): ...", "class C: ...", "%time\nf = lambda: 1", "async def f(): ..."])
def test_a_definition_is_found(source):
    assert len(definitions([nbformat.v4.new_code_cell(source)])) == 1


def test_recorded_runs_are_small_and_whole():
    files = [path for path in FOLDER.rglob("*") if path.is_file() and path.suffix != ".ipynb"]
    assert {path.parent.parent.name for path in files} == {"recorded"}
    assert sum(path.stat().st_size for path in files) < 150_000
    fixed, tuned = (read_run(FOLDER / "recorded" / name) for name in ("fixed", "tuned"))
    assert len(fixed.epoch) == len(tuned.epoch) == 25 and fixed.finished and tuned.finished
    assert tuned.warm_up("train_step") == 160 and len(tuned.steps) and tuned.settings["data"].startswith("logs/")
