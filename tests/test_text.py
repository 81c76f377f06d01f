"""stn.datasets.text: ids, layout and chunks by hand; every bad input named in one line."""

import hashlib

import pytest
import torch

from stn.datasets.text import batchify, chunk, first_lines, load_corpus, num_chunks
from stn.errors import UserError

SPLITS = {"train": "the cat sat\nthe dog\n", "valid": "a cat\n", "test": "\nthe end\n"}


def write(folder, **contents):
    folder.mkdir(exist_ok=True)
    for name, content in (SPLITS | contents).items():
        (folder / f"{name}.txt").write_bytes(content if isinstance(content, bytes) else content.encode())
    return folder


def error_of(folder):
    with pytest.raises(UserError) as caught:
        load_corpus(folder)
    message = str(caught.value)
    assert "\n" not in message
    return message


# ---- load_corpus


def test_ids_follow_first_appearance_through_the_three_files(tmp_path):
    corpus = load_corpus(write(tmp_path))
    assert corpus.vocabulary == ("the", "cat", "sat", "<eos>", "dog", "a", "end")
    assert corpus.train.tolist() == [0, 1, 2, 3, 0, 4, 3]
    assert corpus.valid.tolist() == [5, 1, 3]
    assert corpus.train.dtype == corpus.valid.dtype == corpus.test.dtype == torch.int64


def test_empty_line_is_an_end_of_line(tmp_path):
    assert load_corpus(write(tmp_path)).test.tolist() == [3, 0, 6, 3]


def test_last_line_needs_no_newline_and_windows_newlines_count_once(tmp_path):
    corpus = load_corpus(write(tmp_path, train=b"the cat\r\nsat"))
    assert [corpus.vocabulary[i] for i in corpus.train] == ["the", "cat", "<eos>", "sat", "<eos>"]


def test_only_newlines_end_a_line(tmp_path):
    corpus = load_corpus(write(tmp_path, train="one\x0ctwo\u2028three\x85four\n"))
    assert [corpus.vocabulary[i] for i in corpus.train] == ["one", "two", "three", "four", "<eos>"]


def test_checksum_covers_the_files_in_order(tmp_path):
    corpus = load_corpus(write(tmp_path))
    assert corpus.checksum == hashlib.sha256("".join(SPLITS.values()).encode()).hexdigest()


def test_folder_may_be_a_string(tmp_path):
    assert len(load_corpus(str(write(tmp_path))).train) == 7


def test_missing_folder(tmp_path):
    message = error_of(tmp_path / "nowhere")
    assert str(tmp_path / "nowhere") in message
    assert "does not exist" in message
    assert "getdata.sh" in message


def test_file_in_place_of_the_folder(tmp_path):
    (tmp_path / "corpus").write_text("the cat\n")
    assert f"{tmp_path / 'corpus'} is not a folder" in error_of(tmp_path / "corpus")


@pytest.mark.parametrize("name", SPLITS)
def test_missing_file(tmp_path, name):
    (write(tmp_path) / f"{name}.txt").unlink()
    assert f"{tmp_path / name}.txt is missing" in error_of(tmp_path)


@pytest.mark.parametrize("content", ["", " \n\n\t"])
def test_file_without_words(tmp_path, content):
    assert f"{tmp_path / 'valid.txt'} is empty" in error_of(write(tmp_path, valid=content))


def test_not_utf8_gives_the_byte_offset(tmp_path):
    message = error_of(write(tmp_path, test="naïve ".encode() + b"caf\xe9\n"))
    assert f"{tmp_path / 'test.txt'} is not UTF-8" in message
    assert "offset 10)" in message


def test_folder_in_place_of_a_file(tmp_path):
    (write(tmp_path) / "train.txt").unlink()
    (tmp_path / "train.txt").mkdir()
    assert f"{tmp_path / 'train.txt'} is a folder" in error_of(tmp_path)


def test_unreadable_file(tmp_path):
    (write(tmp_path) / "train.txt").unlink()
    (tmp_path / "train.txt").symlink_to("train.txt")  # unreadable even for root: a link to itself
    assert f"cannot read {tmp_path / 'train.txt'}" in error_of(tmp_path)


# ---- batchify and chunk


def test_batchify_puts_consecutive_streams_in_columns():
    data = batchify(torch.arange(11), 3)
    assert data.tolist() == [[0, 3, 6], [1, 4, 7], [2, 5, 8]]
    assert data.is_contiguous()


def test_batchify_names_the_split_and_the_largest_batch_size():
    assert batchify(torch.arange(9), 4).shape == (2, 4)
    with pytest.raises(UserError, match=r"the valid split \(9 tokens\) .* batch size 5: .* at most 4$"):
        batchify(torch.arange(9), 5, name="valid")


def test_batchify_of_a_single_token():
    with pytest.raises(UserError, match="use a longer text"):
        batchify(torch.arange(1), 1)


def test_chunk_by_hand():
    data = batchify(torch.arange(12), 2)  # columns 0..5 and 6..11
    inputs, targets = chunk(data, 0, 3)
    assert inputs.tolist() == [[0, 6], [1, 7], [2, 8]]
    assert targets.tolist() == [[1, 7], [2, 8], [3, 9]]
    inputs, targets = chunk(data, 3, 3)
    assert inputs.tolist() == [[3, 9], [4, 10]]
    assert targets.tolist() == [[4, 10], [5, 11]]


@pytest.mark.parametrize("start", [-1, 5, 6])
def test_no_chunk_without_targets(start):
    with pytest.raises(IndexError):
        chunk(batchify(torch.arange(12), 2), start, 3)


@pytest.mark.parametrize("rows", [2, 3, 8, 40])
@pytest.mark.parametrize("width", [1, 4])
@pytest.mark.parametrize("bptt", [1, 2, 3, 7, 45])
def test_one_pass_is_the_stream_and_the_stream_shifted_by_one(rows, width, bptt):
    data = batchify(torch.arange(rows * width), width)
    inputs, targets = zip(*(chunk(data, i * bptt, bptt) for i in range(num_chunks(data, bptt))), strict=True)
    assert torch.equal(torch.cat(inputs), data[:-1])
    assert torch.equal(torch.cat(targets), data[1:])


def test_first_lines_make_a_smaller_corpus(tmp_path):
    (tmp_path / "train.txt").write_text("a b\nc\nd\n")
    folder = first_lines(tmp_path, tmp_path / "small", {"train": 2})
    assert (folder / "train.txt").read_text() == "a b\nc\n"
    with pytest.raises(UserError, match="nowhere"):
        first_lines(tmp_path / "nowhere", tmp_path / "small", {"train": 2})


def written(file):
    """Which file it is, and when it was written: reading it may change other times."""
    return file.stat().st_ino, file.stat().st_mtime_ns


def test_first_lines_that_are_there_are_not_written_again(tmp_path):
    """Runs may be reading them, and the folder may have become read-only."""
    (tmp_path / "train.txt").write_text("a b\nc\nd\n")
    file = first_lines(tmp_path, tmp_path / "small", {"train": 2}) / "train.txt"
    before = written(file)
    first_lines(tmp_path, tmp_path / "small", {"train": 2})
    assert written(file) == before
    first_lines(tmp_path, tmp_path / "small", {"train": 1})
    assert file.read_text() == "a b\n"
