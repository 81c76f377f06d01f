"""stn.datasets.builtin_text: one corpus per Python version, in Penn Treebank's style, without leaks."""

import multiprocessing
import os
import re
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest

from stn.datasets import builtin_text
from stn.datasets.builtin_text import write_builtin_corpus
from stn.datasets.text import load_corpus
from stn.errors import UserError

ROOT = Path(__file__).resolve().parents[1]
FILES = ["train.txt", "valid.txt", "test.txt"]
TINY = {
    f"topic {number}": [tuple(f"the word {number} follows the word {other}".split()) for other in range(3)]
    for number in range(40)
}


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    """The real corpus, built by this process and by another with other string hashes; only to be read."""
    theirs, ours = (tmp_path_factory.mktemp(name) / "deep" / "builtin" for name in ("theirs", "ours"))
    build = "import sys; from stn.datasets.builtin_text import *; write_builtin_corpus(sys.argv[1])"
    command = [sys.executable, "-c", build, str(theirs)]
    with subprocess.Popen(command, cwd=ROOT, env=os.environ | {"PYTHONHASHSEED": "7"}) as process:
        assert write_builtin_corpus(ours) == ours
    assert process.returncode == 0
    return ours, theirs


@pytest.fixture(scope="module")
def folder(folders):
    return folders[0]


@pytest.fixture
def tiny(monkeypatch):
    """Sources that build at once."""
    monkeypatch.setattr(builtin_text, "_documents", lambda: TINY)


def lines_of(folder, name):
    return (folder / name).read_text(encoding="utf-8").splitlines()


def contents(folder):
    return [(folder / name).read_bytes() for name in FILES]


# ---- the real corpus


def test_builds_are_equal_to_the_byte(folders):
    assert contents(folders[0]) == contents(folders[1])


def test_nothing_else_is_left(folder):
    assert sorted(path.name for path in folder.iterdir()) == sorted([*FILES, builtin_text.MARKER])
    assert list(folder.parent.iterdir()) == [folder]


def test_sizes(folder):
    corpus = load_corpus(folder)
    sizes = [len(corpus.train), len(corpus.valid), len(corpus.test)]
    assert sum(sizes) > 200_000
    assert 0.72 < sizes[0] / sum(sizes) < 0.88
    assert all(0.06 < size / sum(sizes) < 0.14 for size in sizes[1:])
    assert len(corpus.vocabulary) == 6000


def test_every_word_is_known_from_train_and_few_are_unknown(folder):
    train, *held_out = (Counter(" ".join(lines_of(folder, name)).split()) for name in FILES)
    assert 0.005 < train["<unk>"] / train.total() < 0.05
    for words in held_out:
        assert set(words) <= set(train)
        assert 0.005 < words["<unk>"] / words.total() < 0.08


def test_words_are_lower_case_and_numbers_are_n(folder):
    words = set((folder / "train.txt").read_text(encoding="utf-8").split())
    assert "N" in words
    assert not [word for word in words if word != word.lower() and not re.match(r"N\b", word)]
    assert not [word for word in words if re.fullmatch(r"[+-]?\d+([.,]\d+)*", word)]
    assert {"n't", "'s", ",", "."} <= words
    assert not [word for word in words if "`" in word or re.search(r"\w[,;)]$", word)]


def test_it_reads_like_english(folder):
    """The commonest words of English are its commonest words; code leaves no trace."""
    text = (folder / "train.txt").read_text(encoding="utf-8")
    common = {word for word, _ in Counter(text.split()).most_common(40)}
    assert {"the", "a", "is", "to", "of", "and", "in", "if", "for", "be", "this", "that", "it"} <= common
    assert not re.search(r">>>|::=|\*\*\*|===|__name__ = = ", text)


def test_no_line_occurs_twice_in_any_split(folder):
    lines = [line for name in FILES for line in lines_of(folder, name)]
    assert len(lines) == len(set(lines)) > 10_000


def test_second_call_builds_nothing(folder, monkeypatch):
    monkeypatch.setattr(builtin_text, "_documents", lambda: pytest.fail("built again"))
    assert write_builtin_corpus(folder) == folder


# ---- the splits


@pytest.mark.usefixtures("tiny")
def test_whole_documents_go_to_one_split(tmp_path):
    write_builtin_corpus(tmp_path / "tiny")
    found = {name: {line.split()[2] for line in lines_of(tmp_path / "tiny", name)} for name in FILES}
    assert "<unk>" not in found["train.txt"]
    assert len(found["train.txt"]) == 32
    assert not found["train.txt"] & (found["valid.txt"] | found["test.txt"])


def test_sentence_of_two_documents_stays_in_one(monkeypatch, tmp_path):
    shared = ("this", "is", "in", "every", "document")
    documents = {name: [shared, *sentences, shared] for name, sentences in TINY.items()}
    monkeypatch.setattr(builtin_text, "_documents", lambda: documents)
    write_builtin_corpus(tmp_path / "tiny")
    lines = {name: lines_of(tmp_path / "tiny", name).count(" ".join(shared)) for name in FILES}
    assert lines == {"train.txt": 1, "valid.txt": 0, "test.txt": 0}


def test_repetition_makes_no_word_frequent(monkeypatch, tmp_path):
    echo = ("echo", "echo", "echo")
    documents = {name: [*sentences, echo, echo] for name, sentences in TINY.items()}
    monkeypatch.setattr(builtin_text, "_documents", lambda: documents)
    monkeypatch.setattr(builtin_text, "VOCABULARY", 5)
    write_builtin_corpus(tmp_path / "tiny")
    assert "echo" not in (tmp_path / "tiny" / "train.txt").read_text()


@pytest.mark.usefixtures("tiny")
def test_rare_words_are_those_rare_in_train(monkeypatch, tmp_path):
    monkeypatch.setattr(builtin_text, "VOCABULARY", 5)  # <eos> and <unk>, and the three words of every line
    write_builtin_corpus(tmp_path / "tiny")
    assert set((tmp_path / "tiny" / "train.txt").read_text().split()) == {"the", "word", "follows", "<unk>"}
    assert lines_of(tmp_path / "tiny", "train.txt") == ["the word <unk> follows the word <unk>"]
    assert lines_of(tmp_path / "tiny", "valid.txt") == []


# ---- the folder


@pytest.mark.usefixtures("tiny")
def test_other_version_is_built_anew(tmp_path):
    folder = write_builtin_corpus(tmp_path / "tiny")
    built = contents(folder)
    (folder / "train.txt").write_text("older\n")
    (folder / builtin_text.MARKER).write_text("python 2.7\n")
    assert contents(write_builtin_corpus(folder)) == built
    assert list(tmp_path.iterdir()) == [folder]


@pytest.mark.usefixtures("tiny")
def test_deleted_file_is_built_anew(tmp_path):
    folder = write_builtin_corpus(tmp_path / "tiny")
    (folder / "valid.txt").unlink()
    assert (write_builtin_corpus(folder) / "valid.txt").is_file()


@pytest.mark.usefixtures("tiny")
def test_empty_folder_is_filled(tmp_path):
    assert (write_builtin_corpus(tmp_path) / "train.txt").is_file()


@pytest.mark.usefixtures("tiny")
def test_killed_build_leaves_no_folder(monkeypatch, tmp_path):
    def killed(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(builtin_text, "_version", killed)
    with pytest.raises(KeyboardInterrupt):
        write_builtin_corpus(tmp_path / "tiny")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.usefixtures("tiny")
def test_another_process_that_wins_is_tolerated(monkeypatch, tmp_path):
    theirs = write_builtin_corpus(tmp_path / "theirs")
    write = builtin_text._write

    def write_and_lose(built, splits):
        write(built, splits)
        theirs.rename(tmp_path / "tiny")

    monkeypatch.setattr(builtin_text, "_write", write_and_lose)
    assert write_builtin_corpus(tmp_path / "tiny") == tmp_path / "tiny"
    assert list(tmp_path.iterdir()) == [tmp_path / "tiny"]


@pytest.mark.usefixtures("tiny")
def test_two_processes_at_once_leave_one_whole_corpus(monkeypatch, tmp_path):
    fork = multiprocessing.get_context("fork")
    both_built = fork.Barrier(2)
    write = builtin_text._write

    def write_and_wait(built, splits):
        write(built, splits)
        both_built.wait(20)

    monkeypatch.setattr(builtin_text, "_write", write_and_wait)
    processes = [fork.Process(target=write_builtin_corpus, args=(tmp_path / "tiny",)) for _ in range(2)]
    for process in processes:
        process.start()
    for process in processes:
        process.join(30)
    assert [process.exitcode for process in processes] == [0, 0]
    assert list(tmp_path.iterdir()) == [tmp_path / "tiny"]
    assert len(list((tmp_path / "tiny").iterdir())) == 4


def error_of(folder):
    with pytest.raises(UserError) as caught:
        write_builtin_corpus(folder)
    assert "\n" not in str(caught.value)
    assert "--data FOLDER" in str(caught.value)
    return str(caught.value)


@pytest.mark.usefixtures("tiny")
def test_unwritable_folder(tmp_path):
    (tmp_path / "file").write_text("in the way\n")
    assert str(tmp_path / "file" / "corpus") in error_of(tmp_path / "file" / "corpus")
    assert str(tmp_path / "file") in error_of(tmp_path / "file")


@pytest.mark.usefixtures("tiny")
def test_folder_of_the_users_own_is_left_alone(tmp_path):
    (tmp_path / "train.txt").write_text("my own words\n")
    assert f"{tmp_path} holds something else" in error_of(tmp_path)
    assert (tmp_path / "train.txt").read_text() == "my own words\n"


def test_python_without_sources(monkeypatch, tmp_path):
    monkeypatch.setattr(builtin_text.sysconfig, "get_path", lambda _: str(tmp_path / "python.zip"))
    message = error_of(tmp_path / "corpus")
    assert str(tmp_path / "python.zip") in message
    assert "getdata.sh" in message
    assert list(tmp_path.iterdir()) == []


# ---- the text


def sentences(text):
    return [" ".join(sentence) for sentence in builtin_text._sentences(text)]


@pytest.mark.parametrize(
    ("text", "tokens"),
    [
        ("It doesn't matter, it’s all 'free'.", "it does n't matter , it 's all free ."),
        ("The `Reader`'s 16-bit utf-8 file", "the reader 's N-bit utf-8 file"),
        ("1,200.50 of -3 and 0xFF on 2001-01-03 (e.g. here)", "N of N and N on N ( e.g. here )"),
        ("See os.path.join() in __init__; :func:`len`.", "see os.path.join ( ) in __init__ ; len ."),
    ],
)
def test_tokens_are_penn_treebanks(text, tokens):
    assert " ".join(builtin_text._tokens(builtin_text.MARKUP.sub("", text))) == tokens


def test_a_sentence_a_line_across_wrapped_lines_and_bullets():
    text = """The first sentence is wrapped
    over two lines.  The second one is not.

    * this bullet is a line
    * and this bullet is another
    """
    assert sentences(text) == [
        "the first sentence is wrapped over two lines .",
        "the second one is not .",
        "this bullet is a line",
        "and this bullet is another",
    ]


@pytest.mark.parametrize(
    "text",
    [
        ">>> this is an example of a doctest",
        ".. note:: this is a directive of the markup",
        "class A(B):\n    def f(self): return the + value",
        "+-----+-----+\n| the | of a |\n+-----+-----+",
        "f(x, y) -> [the, a, of, in]",
        "Return self==value.",
    ],
)
def test_code_and_tables_are_dropped(text):
    assert sentences(text) == []


def test_prose_of_a_module_is_its_docstrings_and_whole_line_comments():
    source = b'''# The first comment
# goes on.
"""Module."""
x = "not a docstring"  # not a line of its own
class A:
    "Class."
    def f(self):
        "Function."
'''
    assert builtin_text._docstrings(source) == ["Module.", "Class.", "Function."]
    assert builtin_text._comments(source) == [" The first comment\n goes on.\n"]
    assert builtin_text._docstrings(b"not python") == []


def test_library_is_parsed_and_never_imported_and_its_tests_are_left_out(monkeypatch, tmp_path):
    source = '"""Importing this module is not needed to read it."""\nraise SystemExit\n'
    for path in ("module.py", "package/inner.py", "package/test/test_it.py", "site-packages/other.py"):
        (tmp_path / path).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / path).write_text(source)
    monkeypatch.setattr(builtin_text.sysconfig, "get_path", lambda _: str(tmp_path))
    documents = builtin_text._documents()
    assert [name for name in documents if not name.startswith("topic ")] == ["module.py", "package/inner.py"]
    assert [" ".join(sentence) for sentence in documents["module.py"]] == [
        "importing this module is not needed to read it ."
    ]
