"""A corpus of real English that every Python brings along, for runs without a download.

The text is the language reference behind `help()` (`pydoc_data.topics`) with the docstrings and comments of
the standard library's sources, which are parsed, never imported. It is tokenized as Penn Treebank is: lower
case, punctuation and clitics apart, `N` for a number, `<unk>` for a rare word, a sentence a line. One Python
version gives one corpus.
"""

import ast
import hashlib
import inspect
import os
import platform
import re
import sysconfig
import tempfile
from collections import Counter
from collections.abc import Iterable, Iterator
from itertools import chain
from pathlib import Path

from stn.datasets.text import END_OF_LINE, SPLITS
from stn.errors import UserError

FORMAT = 1  # raise it with every change that alters the text, so that no cache keeps the older one
MARKER = "builtin.version"
OTHER_CORPUS = "pass --data FOLDER with a corpus of your own"
VOCABULARY = 6000  # types, <unk> and <eos> among them
HELD_OUT = 0.1  # of the tokens, for valid and for test each
UNKNOWN = "<unk>"
RESERVED = {UNKNOWN, END_OF_LINE}

# Not the library itself, or (encodings) one sentence repeated in a hundred files.
SKIPPED_FOLDERS = {
    "site-packages", "dist-packages", "test", "tests", "idlelib", "turtledemo", "lib2to3", "encodings", "__pycache__",
}  # fmt: skip

Sentence = tuple[str, ...]
Definition = ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef


def write_builtin_corpus(folder: Path) -> Path:
    """Makes `folder` hold `train.txt`, `valid.txt` and `test.txt` of the built-in corpus, and returns it.

    Built once for a Python version, in seconds; later calls return at once. A killed build leaves nothing in
    `folder`, and processes may call this together. Raises UserError where the folder cannot be written, holds
    something else, or this Python ships without its sources.
    """
    folder = Path(folder)
    if _holds_corpus(folder):
        return folder
    _refuse_foreign(folder)
    splits = _split(_documents())
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=folder.parent, prefix=f".{folder.name}-") as temporary:
            built = Path(temporary) / "built"
            _write(built, splits)
            _publish(built, folder)
    except OSError as error:
        cause = f"cannot write the built-in corpus to {folder} ({error.strerror})"
        raise UserError(f"{cause}: make that folder writable, or {OTHER_CORPUS}") from error
    return folder


# ---- the folder


def _version() -> str:
    return f"python {platform.python_version()}, format {FORMAT}\n"


def _holds_corpus(folder: Path) -> bool:
    complete = _is_ours(folder) and all((folder / f"{name}.txt").is_file() for name in SPLITS)
    return complete and (folder / MARKER).read_text() == _version()


def _is_ours(folder: Path) -> bool:
    return (folder / MARKER).is_file()


def _refuse_foreign(folder: Path) -> None:
    free = not os.path.lexists(folder) or (folder.is_dir() and not any(folder.iterdir()))
    if not free and not _is_ours(folder):
        raise UserError(f"{folder} holds something else than the built-in corpus: move it, or {OTHER_CORPUS}")


def _write(folder: Path, splits: dict[str, list[Sentence]]) -> None:
    folder.mkdir()
    for name, sentences in splits.items():
        text = "".join(" ".join(sentence) + "\n" for sentence in sentences)
        (folder / f"{name}.txt").write_text(text, encoding="utf-8", newline="\n")
    (folder / MARKER).write_text(_version())


def _publish(built: Path, folder: Path) -> None:
    """Renames `built` to `folder`: an older corpus there gives way, another process's equal one stays."""
    try:
        if _is_ours(folder) and not _holds_corpus(folder):
            folder.rename(built.with_name("older"))
        built.rename(folder)
    except OSError:
        if not _holds_corpus(folder):
            raise


# ---- the splits


def _split(documents: dict[str, list[Sentence]]) -> dict[str, list[Sentence]]:
    """Deals whole documents, in the order of their names' hashes, to train, then valid, then test.

    A sentence stays only where that order first has it, and rare words are those rare in train.
    """
    order = sorted(documents, key=lambda name: hashlib.sha256(name.encode()).digest())
    seen: set[Sentence] = set()
    unique = [_unseen(documents[name], seen) for name in order]
    total = sum(map(_num_tokens, unique))
    splits: dict[str, list[Sentence]] = {name: [] for name in SPLITS}
    dealt = 0.0
    for sentences in unique:
        name = "train" if dealt < 1 - 2 * HELD_OUT else "valid" if dealt < 1 - HELD_OUT else "test"
        splits[name] += sentences
        dealt += _num_tokens(sentences) / total
    counts = Counter(chain.from_iterable(splits["train"]))
    known = {word for word, _ in counts.most_common(VOCABULARY - len(RESERVED))}
    seen.clear()  # sentences that differed in rare words alone are equal now

    def marked(sentence: Sentence) -> Sentence:
        return tuple(word if word in known else UNKNOWN for word in sentence)

    return {name: _unseen(map(marked, sentences), seen) for name, sentences in splits.items()}


def _unseen(sentences: Iterable[Sentence], seen: set[Sentence]) -> list[Sentence]:
    fresh = [sentence for sentence in dict.fromkeys(sentences) if sentence not in seen]
    seen.update(fresh)
    return fresh


def _num_tokens(sentences: list[Sentence]) -> int:
    return sum(len(sentence) + 1 for sentence in sentences)  # + 1 for <eos>


# ---- the sources


def _documents() -> dict[str, list[Sentence]]:
    """Name -> sentences, a document being one topic of the language reference or one module's prose."""
    try:
        from pydoc_data.topics import topics
    except ImportError:
        topics = {}
    root = Path(sysconfig.get_path("stdlib"))
    texts = {f"topic {name}": [text] for name, text in topics.items()}
    sources = list(_sources(root)) if root.is_dir() else []
    if not texts or not sources:
        cause = f"this Python lacks its library's sources in {root}, which the built-in corpus is made of"
        raise UserError(f"{cause}: run ./getdata.sh, or {OTHER_CORPUS}")
    for path in sources:
        source = path.read_bytes()
        texts[path.relative_to(root).as_posix()] = _docstrings(source) + _comments(source)
    return {name: list(chain.from_iterable(map(_sentences, parts))) for name, parts in texts.items()}


def _sources(folder: Path) -> Iterator[Path]:
    for path in sorted(folder.iterdir()):
        if path.is_dir() and path.name not in SKIPPED_FOLDERS:
            yield from _sources(path)
        elif path.suffix == ".py" and path.is_file():
            yield path


def _docstrings(source: bytes) -> list[str]:
    """The docstrings of a module, its classes and functions, in order; none where it does not parse."""
    try:
        module = ast.parse(source)
    except (SyntaxError, ValueError):
        return []
    return [text for node in _documented(module) if (text := ast.get_docstring(node))]


def _documented(node: ast.Module | Definition) -> Iterator[ast.AST]:
    yield node
    for child in node.body:
        if isinstance(child, Definition):
            yield from _documented(child)


def _comments(source: bytes) -> list[str]:
    """The runs of lines that hold only a comment."""
    blocks = COMMENTS.findall(source.decode("utf-8", errors="replace"))
    return [COMMENT_SIGN.sub("", block) for block in blocks]


# ---- the text

COMMENTS = re.compile(r"(?:^[ \t]*#.*\n)+", re.MULTILINE)
COMMENT_SIGN = re.compile(r"^[ \t]*#+", re.MULTILINE)
PARAGRAPH = re.compile(r"\n\s*\n|\n(?=\s*(?:[*-]|\d+\.)\s)")
CODE = re.compile(r">>>|\.\. |::=|://|[=*#~^+-]{3}|^\s*(?:def|class|import|from|@\w|for \w+ in|if .*:$)", re.MULTILINE)
MARKUP = re.compile(r":[a-z:]+:(?=`)|^\s*[*-]\s|[`*\"“”]")
SENTENCE_END = re.compile(r"(?<=[.!?])\s+(?=[A-Z(])")
QUOTE = re.compile(r"(?<!\w)'|'(?!\w)")
CLITIC = re.compile(r"(n't|'(?:s|re|ve|ll|d|m))\b")
NUMBER = re.compile(r"(?<![\w.-])[+-]?(?:0x[0-9a-f]+|\d+(?:[.,:/-]\d+)*)(?!\w)")
TOKEN = re.compile(r"(?:[a-z]\.){2,}|n't\b|'(?:s|re|ve|ll|d|m)\b|\w+(?:[.-]\w+)*|--|\S")
FUNCTION_WORDS = {
    "a", "an", "and", "are", "as", "at", "be", "been", "by", "can", "do", "does", "for", "from", "has",
    "have", "if", "in", "is", "it", "its", "may", "must", "not", "of", "on", "or", "should", "that", "the",
    "their", "then", "there", "these", "this", "to", "was", "we", "were", "when", "which", "will", "with",
    "you",
}  # fmt: skip


def _sentences(text: str) -> Iterator[Sentence]:
    """The sentences of a documentation page, its code and tables left out."""
    for paragraph in PARAGRAPH.split(inspect.cleandoc(text)):
        if CODE.search(paragraph):
            continue
        for sentence in SENTENCE_END.split(MARKUP.sub("", paragraph)):
            tokens = _tokens(sentence)
            if _is_english(tokens):
                yield tokens


def _tokens(sentence: str) -> Sentence:
    text = QUOTE.sub("", re.sub("[‘’]", "'", sentence.lower()))
    return tuple(TOKEN.findall(NUMBER.sub("N", CLITIC.sub(r" \1", text))))


def _is_english(tokens: Sentence) -> bool:
    """Whether these read as a sentence: words, some of them function words, rather than symbols."""
    words = sum(token.isalpha() for token in tokens)
    return words >= 4 and words >= 0.7 * len(tokens) and not FUNCTION_WORDS.isdisjoint(tokens)
