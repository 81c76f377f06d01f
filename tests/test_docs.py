"""What the README and the pages in docs/ show is true: Python runs, commands parse, links and named files are there."""

import argparse
import doctest
import json
import re
import runpy
import shlex
import subprocess
import sys
from itertools import product
from pathlib import Path
from typing import NamedTuple

import pytest
import torch

from stn import conversion, delta_stn, hyperparameters, layers, methods, weight_decay
from stn.hypergradients import loop
from stn.runs.folder import read_status
from stn.scripts import figures

ROOT = Path(__file__).resolve().parent.parent
PAGES = {str(path.relative_to(ROOT)): path for path in [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]}
TEXTS = {name: path.read_text(encoding="utf-8") for name, path in PAGES.items()}


def narration(path):
    """The text of a notebook."""
    cells = json.loads(path.read_text(encoding="utf-8"))["cells"]
    return "\n\n".join("".join(cell["source"]) for cell in cells if cell["cell_type"] == "markdown")


NOTEBOOKS = {str(path.relative_to(ROOT)): narration(path) for path in sorted((ROOT / "notebooks").glob("*.ipynb"))}
# Of what was run at some revision: commands that need no longer parse.
EVIDENCE = [ROOT / "RESULTS.md", *sorted((ROOT / "docs" / "results").glob("*.md"))]
RESULTS = {str(path.relative_to(ROOT)): path.read_text(encoding="utf-8") for path in EVIDENCE}
LINKED = {**TEXTS, **NOTEBOOKS, **RESULTS}
LIBRARY, CONTRIBUTING = TEXTS["docs/library.md"], TEXTS["docs/contributing.md"]


# ---- Python


def python_of(page):
    return re.findall(r"```python\n(.*?)```", page, re.DOTALL)


def run(source, name):
    exec(compile(source, name, "exec"), {})


@pytest.mark.parametrize("name", [name for name, page in TEXTS.items() if python_of(page)])
def test_python_examples_run(name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for example in python_of(TEXTS[name]):
        run(example, name)
    if TEXTS[name] is LIBRARY:
        assert read_status("logs/mine") == "finished"
        assert figures.main(["logs/mine", "--out", "plots"]) == 0 and (tmp_path / "plots" / "accuracies.png").exists()


def test_the_tutorials_changes_make_its_script_self_tuning(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    plain = python_of(LIBRARY)[0]
    changes = re.search(r"```diff\n(.*?)```", LIBRARY, re.DOTALL)[1].splitlines()
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


# ---- commands


class Command(NamedTuple):
    """A program and its words, as a shell hands them over."""

    program: str
    words: list[str]


PROGRAMS = ("python", "python3", "make", "getdata.sh")
NUMBERS = {"X": "0.1", "N": "1", "SEED": "1", "LR": "0.1", "STEPS": "1"}  # for which a page's placeholders stand


def commands_of(page):
    """The commands in a page's blocks of code and in its text, with each of the values that its variables have had."""
    found, variables = [], {}
    for line in code_lines(page):
        if assigned := re.fullmatch(r'(\w+)="([^"]*)"', line):
            variables.setdefault(assigned[1], []).append(assigned[2])
            continue
        used = re.findall(r"\$(\w+)", line)
        for values in product(*(variables[name] for name in used)):
            own = dict(zip(used, values, strict=True))
            found += commands_in(re.sub(r"\$(\w+)", lambda variable, own=own: own[variable[1]], line))
    for span in re.findall(r"`([^`\n]+)`", without_code(page)):
        span = f"python {span}" if re.match(r"[\w/]+\.py -", span) else span
        for command in commands_in(re.sub(r" *…|[][]", "", span)):  # [what may be left out …]
            named_alone = command.program == "python" and len(command.words) == 1 + (command.words[0] == "-m")
            found.append(Command(command.program, [*command.words, *(["--help"] if named_alone else [])]))
    return found


FENCED = re.compile(r"^```(\w*)\n(.*?)^```", re.DOTALL | re.MULTILINE)


def code_lines(page):
    """The lines of a page's blocks of code, without comments, those that go on joined. Python's are no commands."""
    blocks = [body for language, body in FENCED.findall(page) if language in ("", "sh", "bash", "console")]
    indented = re.findall(r"(?:(?<=\n\n)|\A)((?:(?: {4}.*)?\n)+)", FENCED.sub("", page))
    blocks += [re.sub(r"^ {4}", "", block, flags=re.MULTILINE) for block in indented]
    text = re.sub(r"(^|\s)#.*", "", "\n".join(blocks), flags=re.MULTILINE)
    text = re.sub(r"\s*\\\n\s*|\n\s+(?=--)", " ", text)
    return [line.strip().removeprefix("$ ") for line in text.splitlines()]


def without_code(page):
    return re.sub(r"^ {4}.*$", "", FENCED.sub("", page), flags=re.MULTILINE)


def commands_in(line):
    """The commands in a line of a shell; none where it is something else."""
    if not re.match(r"(\w+=\S+ )*(\S*/)?(" + "|".join(map(re.escape, PROGRAMS)) + ") ", line):
        return []
    words = shlex.shlex(line, posix=True, punctuation_chars="&|;")
    words.whitespace_split, words.commenters = True, ""
    commands = [[]]
    for word in words:
        if set(word) <= {*"&|;"}:
            commands.append([])
        else:
            commands[-1].append(NUMBERS.get(word, word))
    commands = [[word for place, word in enumerate(words) if place or "=" not in word] for words in commands]
    commands = [Command(Path(words[0]).name, words[1:]) for words in commands if words]
    return [command for command in commands if command.program in PROGRAMS]


SHOWN = [(name, command) for name, page in {**TEXTS, **NOTEBOOKS}.items() for command in commands_of(page)]


class Parsed(BaseException):
    """A script has parsed its command line: it is to do no more."""


def check(command, monkeypatch):
    """Have the program parse the command line. Raises SystemExit, KeyError or AssertionError where it does not."""
    if command.program == "make":
        targets = re.findall(r"^([\w-]+):", (ROOT / "Makefile").read_text(encoding="utf-8"), re.MULTILINE)
        assert {*command.words} <= {*targets}
    elif command.program == "getdata.sh":
        subprocess.run(["bash", ROOT / "getdata.sh", *command.words, "--help"], check=True, stdout=subprocess.DEVNULL)
    elif command.words[0] == "-c":
        compile(command.words[1], "-c", "exec")
    elif command.words[0] != "-m" or command.words[1].startswith("stn."):
        parse(command.words, monkeypatch)


def parse(words, monkeypatch):
    """Start a script, by its path or as a module, as Python does, up to where it has parsed its flags."""
    parse_args = argparse.ArgumentParser.parse_args

    def stop(*arguments, **options):
        parse_args(*arguments, **options)
        raise Parsed

    monkeypatch.setattr(argparse.ArgumentParser, "parse_args", stop)
    module = words[0] == "-m"
    script, *flags = words[module:]
    monkeypatch.setattr(sys, "argv", [script, *flags])
    monkeypatch.setattr(sys, "path", [str(ROOT if module else (ROOT / script).parent), *sys.path])
    with pytest.raises((Parsed, SystemExit)) as ended:
        if module:
            runpy.run_module(script, run_name="__main__")
        else:
            runpy.run_path(str(ROOT / script), run_name="__main__")
    assert ended.type is Parsed or (ended.value.code == 0 and "--help" in flags)


@pytest.mark.parametrize("command", [own for _, own in SHOWN], ids=[f"{name}: {own.words}" for name, own in SHOWN])
def test_commands_are_those_that_their_scripts_take(command, monkeypatch):
    check(command, monkeypatch)


def test_pages_commands_are_found():
    page = """# A page

Run `python -m stn.figures RUN [RUN …] [--out FOLDER]`, `python -m stn.runs` or `lstm/demo.py --quick`.
Read `stn/layers.py`.

    common="--data builtin"
    common="--threads 1"
    python lstm/train.py $common --seed N    # as published
        --tune_all
    make demo && ./getdata.sh mnist
    stn/layers.py            layers

```sh
OMP_NUM_THREADS=1 .venv/bin/python lstm/demo.py \\
    --quick
```

```python
print("python lstm/train.py")
```
"""
    assert commands_of(page) == [
        ("python", ["lstm/demo.py", "--quick"]),
        ("python", ["lstm/train.py", "--data", "builtin", "--seed", "1", "--tune_all"]),
        ("python", ["lstm/train.py", "--threads", "1", "--seed", "1", "--tune_all"]),
        ("make", ["demo"]),
        ("getdata.sh", ["mnist"]),
        ("python", ["-m", "stn.figures", "RUN", "RUN", "--out", "FOLDER"]),
        ("python", ["-m", "stn.runs", "--help"]),
        ("python", ["lstm/demo.py", "--quick"]),
    ]
    assert {name for name, _ in SHOWN} >= {"README.md", "docs/language-model.md", "docs/search.md", "docs/speed.md"}
    assert {name for name, _ in SHOWN} >= {name for name in NOTEBOOKS if "01_" not in name}


@pytest.mark.parametrize(
    "line",
    [
        "python lstm/train.py --tune_al",
        "python lstm/train.py --epochs many",
        "python lstm/missing.py",
        "python cnn/train_lr.py --network lenet5",
        "python benchmarks/lstm_step.py --swep",
        "python examples/resnet.py --widht 2",
        "python -m stn.figures RUN --outt FOLDER",
        "python -m stn.missing",
        "./getdata.sh cifar",
        "make demos",
    ],
)
def test_a_command_that_is_none_is_found(line, monkeypatch):
    (command,) = commands_in(line)
    with pytest.raises((AssertionError, OSError, ImportError, subprocess.CalledProcessError)):
        check(command, monkeypatch)


# ---- links and files


def links_of(name):
    """The links of a page to files of the project: (path, anchor), the path of the page itself for one within it."""
    for target in re.findall(r"\]\(([^)\s]+)\)", FENCED.sub("", LINKED[name])):
        if "://" not in target:
            path, _, anchor = target.partition("#")
            yield (ROOT / name).parent / path if path else ROOT / name, anchor


def anchors_of(page):
    """What headings are called in links."""
    anchors, seen = set(), {}
    for heading in re.findall(r"^#+ (.*)$", FENCED.sub("", page), re.MULTILINE):
        anchor = re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-")
        seen[anchor] = seen.get(anchor, -1) + 1
        anchors.add(f"{anchor}-{seen[anchor]}" if seen[anchor] else anchor)
    return anchors


@pytest.mark.parametrize("name", LINKED)
def test_links_lead_somewhere(name):
    for path, anchor in links_of(name):
        assert path.exists(), f"{name} links to {path}"
        assert not anchor or anchor in anchors_of(path.read_text(encoding="utf-8")), f"{name} links to {path}#{anchor}"


def test_headings_are_called_as_in_links():
    page = "# A page\n\n## STN and Δ-STN: `how`\n\n## What\n\n```\n# no heading\n```\n\n## What\n"
    assert anchors_of(page) == {"a-page", "stn-and-δ-stn-how", "what", "what-1"}


def test_the_readme_links_to_every_page():
    linked = {path.resolve() for path, _ in links_of("README.md")}
    assert [name for name, path in PAGES.items() if path not in linked and name != "README.md"] == []


def test_the_results_link_to_every_page_of_evidence():
    linked = {path.resolve() for path, _ in links_of("RESULTS.md")}
    assert len(EVIDENCE) > 1 and [path for path in EVIDENCE[1:] if path not in linked] == []


LAYOUT = re.findall(r"^    ((?:stn|lstm|cnn)/\S*) ", CONTRIBUTING, re.MULTILINE)


def test_files_named_in_the_layout_exist():
    assert LAYOUT
    assert [path for path in LAYOUT if not (ROOT / path).exists()] == []


def test_modules_are_named_in_the_layout():
    files = [f"{folder}/{file.name}" for folder in ("stn", "lstm", "cnn") for file in (ROOT / folder).glob("*.py")]
    assert [file for file in files if file not in LAYOUT and not file.endswith("__init__.py")] == []
