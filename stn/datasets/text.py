"""A text corpus as streams of word ids: read once, laid out in columns, walked in chunks.

The pipeline is the classical one for Penn Treebank: whitespace splits words, every line (an empty one too)
ends in `<eos>`, and the splits share one vocabulary.
"""

import hashlib
import io
from dataclasses import dataclass
from itertools import chain
from pathlib import Path

import torch
from torch import Tensor

from stn.errors import UserError
from stn.files import explaining_os_errors, read, write_atomically

SPLITS = ("train", "valid", "test")
FILES = "train.txt, valid.txt, test.txt"
END_OF_LINE = "<eos>"


@dataclass(frozen=True, eq=False)
class Corpus:
    """Three splits as word ids, each an int64 tensor of shape (tokens,).

    `vocabulary[i]` is the word of id i: ids count words in order of first appearance through train, valid and
    test. `checksum` is the SHA-256 over the bytes of the three files in that order.
    """

    train: Tensor
    valid: Tensor
    test: Tensor
    vocabulary: tuple[str, ...]
    checksum: str

    @property
    def description(self) -> str:
        """A line on the numbers of tokens and types."""
        train, valid, test = (f"{len(split):,}" for split in (self.train, self.valid, self.test))
        return f"{train} / {valid} / {test} tokens to train, validate and test, {len(self.vocabulary):,} types"


def load_corpus(folder: Path) -> Corpus:
    """Reads `train.txt`, `valid.txt` and `test.txt` (UTF-8) in `folder`.

    Raises UserError where the folder or a file is missing, unreadable, without words or not UTF-8.
    """
    folder = Path(folder)
    if not folder.is_dir():
        cause = "is not a folder" if folder.exists() else "does not exist"
        raise UserError(f"{folder} {cause}: run ./getdata.sh, or pass --data FOLDER with {FILES}")
    paths = [folder / f"{split}.txt" for split in SPLITS]
    contents = [_read(path) for path in paths]
    ids: dict[str, int] = {}
    streams = [_encode(_decode(content, path), ids) for content, path in zip(contents, paths, strict=True)]
    return Corpus(*streams, vocabulary=tuple(ids), checksum=hashlib.sha256(b"".join(contents)).hexdigest())


def batchify(tokens: Tensor, batch_size: int, name: str = "train") -> Tensor:
    """Lays a stream (N,) out as (N // batch_size, batch_size): a column runs through consecutive tokens.

    The remainder is trimmed. Raises UserError, calling the split `name`, where that leaves fewer than the two
    rows that one input and its target need.
    """
    rows = len(tokens) // batch_size
    if rows < 2:
        largest = len(tokens) // 2
        remedy = f"use a longer text, or a batch size of at most {largest}" if largest else "use a longer text"
        cause = f"the {name} split ({len(tokens)} tokens) is too short for batch size {batch_size}"
        raise UserError(f"{cause}: {remedy}")
    return tokens[: rows * batch_size].view(batch_size, rows).t().contiguous()


def num_chunks(data: Tensor, bptt: int) -> int:
    """How many chunks of up to `bptt` steps a pass over `data` (rows, B) takes: the last row is a target."""
    return -(-(len(data) - 1) // bptt)


def chunk(data: Tensor, start: int, bptt: int) -> tuple[Tensor, Tensor]:
    """Inputs and targets, both (T, B), from row `start` of `data` (rows, B): targets are one row ahead.

    T = min(bptt, rows - 1 - start). Raises IndexError where no row is left to be a target.
    """
    steps = min(bptt, len(data) - 1 - start)
    if start < 0 or steps < 1:
        raise IndexError(f"no chunk starts at row {start} of {len(data)}")
    return data[start : start + steps], data[start + 1 : start + 1 + steps]


def _read(path: Path) -> bytes:
    return read(path, "a text file", f"put a text there (--data needs {FILES})")


def _decode(content: bytes, path: Path) -> str:
    try:
        text = content.decode("utf-8")
    except UnicodeDecodeError as error:
        cause = f"{path} is not UTF-8 (first bad byte at offset {error.start})"
        raise UserError(f"{cause}: save it as UTF-8") from error
    if not text.strip():
        raise UserError(f"{path} is empty: put text there, one sentence a line")
    return text


def _encode(text: str, ids: dict[str, int]) -> Tensor:
    """The ids (tokens,) of a text, adding the words that `ids` has not met."""
    # Not str.splitlines, which also splits at form feeds and other characters that end no line of a file.
    lines = io.StringIO(text, newline=None)
    words = chain.from_iterable((*line.split(), END_OF_LINE) for line in lines)
    return torch.tensor([ids.setdefault(word, len(ids)) for word in words], dtype=torch.int64)


def first_lines(corpus: Path, folder: Path, counts: dict[str, int]) -> Path:
    """Make `folder` a corpus of the first lines of another's splits; the folder. Raises UserError where it cannot."""
    for split, count in counts.items():
        file = folder / f"{split}.txt"
        content = b"".join(_read(corpus / file.name).splitlines(keepends=True)[:count])
        with explaining_os_errors(folder):
            folder.mkdir(parents=True, exist_ok=True)
            # What is there stays as it is: runs may be reading it.
            if not file.exists() or file.read_bytes() != content:
                write_atomically(file, lambda new, content=content: new.write(content))
    return folder
