"""getdata.sh cifar100: two short files stand for the published ones."""

import hashlib
import random
import re

import pytest
from downloads import SCRIPT, serving
from test_getdata import assert_failed, path_without
from test_getdata_cifar10 import (
    NO_SERVER,
    archive_of,
    assert_help,
    assert_left_in_the_way,
    assert_nothing_left,
    command,
)
from test_getdata_mnist import write_all

from stn.datasets.cifar100 import CIFAR100_ROWS

SIZES = {"train.bin": 9_000, "test.bin": 5_000}
# Random, so that they do not compress away.
FILES = {name: random.Random(name).randbytes(size) for name, size in SIZES.items()}
ALTERED = FILES | {"test.bin": FILES["test.bin"][:-1] + b"\x01"}
LONGER = FILES | {"test.bin": FILES["test.bin"] + b"\x01"}
ARCHIVE = archive_of("cifar-100-binary", FILES | {"fine_label_names.txt": b"apple\n"})


def md5(content):
    return hashlib.md5(content).hexdigest()


@pytest.fixture
def server():
    with serving("cifar-100-binary.tar.gz", ARCHIVE) as state:
        yield state


@pytest.fixture
def getdata(tmp_path):
    """Runs `getdata.sh cifar100`."""
    own = {"CIFAR100_ARCHIVE_MD5": md5(ARCHIVE), "CIFAR100_SIZES": " ".join(map(str, SIZES.values()))}
    run = command(tmp_path, "cifar100", "nothing", lambda url: {"CIFAR100_URL": url, "PYTHON": "/bin/false", **own})
    run.part = tmp_path / "data" / ".cifar-100-binary.tar.gz.part"
    return run


def assert_installed(getdata, result, files=FILES):
    assert (result.returncode, result.stderr) == (0, "")
    assert {path.name: path.read_bytes() for path in getdata.folder.iterdir()} == files
    assert list(getdata.data.iterdir()) == [getdata.folder]


def test_recorded_sizes_are_those_that_the_loader_checks():
    script = SCRIPT.read_text()
    sizes = re.search(r'^cifar100_sizes="([^"]+)"', script, re.MULTILINE)[1]
    assert [*map(int, sizes.split())] == [3074 * rows for rows in CIFAR100_ROWS.values()]
    assert "CIFAR100_ARCHIVE_MD5:-03b5dce01913d631647c71ecec9e9cb8}" in script


# ---- the archive


def test_fresh_download(getdata, server):
    assert_installed(getdata, getdata(url=server.url))


def test_second_run_verifies_and_downloads_nothing(getdata, server):
    getdata(url=server.url)
    result = getdata(url=server.url)
    assert_installed(getdata, result)
    assert "all there and verified" in result.stdout
    assert len(server.ranges) == 1


@pytest.mark.parametrize("content", [b"damaged", LONGER["test.bin"]])
def test_file_of_another_size_is_replaced(getdata, server, content):
    getdata(url=server.url)
    (getdata.folder / "test.bin").write_bytes(content)
    result = getdata(url=server.url)
    assert f"replacing {getdata.folder / 'test.bin'}" in result.stdout and result.stdout.count("replacing") == 1
    assert_installed(getdata, result)


def test_interrupted_run_is_resumed_by_the_next(getdata, server):
    server.cuts = [2_000] * 3
    assert_failed(getdata(url=server.url), server.url, "interrupted", "run again", "no package stands in")
    assert list(getdata.data.iterdir()) == [getdata.part]
    assert getdata.part.read_bytes() == ARCHIVE[:6_000]
    assert_installed(getdata, getdata(url=server.url))
    assert server.ranges[-1] == "bytes=6000-"


def test_whole_archive_left_by_a_stopped_run_is_used(getdata):
    getdata.data.mkdir()
    getdata.part.write_bytes(ARCHIVE)
    assert_installed(getdata, getdata())


@pytest.mark.parametrize("body", [ARCHIVE[:-100], b"<html>please log in</html>", archive_of("x", ALTERED)])
def test_other_archive_leaves_nothing(getdata, server, body):
    server.body = body
    assert_failed(getdata(url=server.url), "wrong checksum", "removed", "CIFAR100_URL")
    assert_nothing_left(getdata)


def test_archive_with_files_of_other_sizes_leaves_nothing(getdata, server):
    server.body = archive_of("x", LONGER)
    result = getdata(url=server.url, CIFAR100_ARCHIVE_MD5=md5(server.body))
    assert_failed(result, "wrong sizes", "removed", "CIFAR100_URL")
    assert_nothing_left(getdata)


@pytest.mark.parametrize("missing_on_the_server", [False, True])
def test_nothing_stands_in_for_an_archive_that_cannot_be_fetched(getdata, server, missing_on_the_server):
    url = f"{server.url}/moved" if missing_on_the_server else NO_SERVER
    cause = "404" if missing_on_the_server else "cannot reach"
    assert_failed(getdata(url=url), cause, f"{url}/cifar-100-binary.tar.gz", "no package stands in for it")
    assert not getdata.asked.exists()
    assert_nothing_left(getdata)


def test_md5_serves_where_md5sum_is_missing(getdata, server, tmp_path):
    """As on a Mac."""
    tools = path_without(tmp_path, "md5sum", "md5")
    assert_failed(getdata(url=server.url, tools=tools), "neither md5sum nor md5 is installed", "install one")
    own = tmp_path / "tools" / "md5"
    own.write_text(f'#!/bin/sh\n[ "$*" = -q ] && echo {md5(ARCHIVE)}\n')
    own.chmod(0o755)
    assert_installed(getdata, getdata(url=server.url, tools=tools))


# ---- what the user has


def test_from_archive(getdata, tmp_path):
    (tmp_path / "mine.tgz").write_bytes(ARCHIVE)
    assert_installed(getdata, getdata("--from", "mine.tgz"))
    assert (tmp_path / "mine.tgz").read_bytes() == ARCHIVE


@pytest.mark.parametrize("archive", [ARCHIVE[:-100], b"no archive", archive_of("cifar-100-binary", FILES)])
def test_from_another_archive(getdata, tmp_path, archive):
    """Even of the same files, which nothing else would tell from others of their sizes."""
    (tmp_path / "mine.tgz").write_bytes(archive)
    result = getdata("--from", tmp_path / "mine.tgz")
    assert_failed(result, f"{tmp_path / 'mine.tgz'} is damaged or is not the published cifar-100-binary.tar.gz")
    assert_nothing_left(getdata)


@pytest.mark.parametrize("below", ["", "cifar-100-binary"])
@pytest.mark.parametrize("contents", [FILES, ALTERED])
def test_from_folder(getdata, tmp_path, below, contents):
    """Of which only the sizes are known."""
    write_all(tmp_path / "my own" / below, contents)
    assert_installed(getdata, getdata("--from", tmp_path / "my own"), contents)


@pytest.mark.parametrize(
    ("contents", "words"),
    [
        (LONGER, "wrong size: test.bin"),
        ({"train.bin": b"", "test.bin": FILES["test.bin"]}, "wrong size: train.bin"),
        ({"train.bin": FILES["train.bin"]}, "lacks some of train.bin and test.bin"),
    ],
)
def test_from_folder_with_other_files(getdata, tmp_path, contents, words):
    mine = write_all(tmp_path / "mine", contents)
    assert_failed(getdata("--from", mine), words, str(mine))
    assert_nothing_left(getdata)


# ---- the data folder and the command line


def test_something_else_in_place_of_the_folder(getdata, server):
    assert_left_in_the_way(getdata, server)


def test_help_names_the_data_set_its_source_and_what_is_verified(getdata):
    assert_help(getdata, "cifar100", "CIFAR100_URL", "cifar-100-binary.tar.gz", "train.bin", "MD5", "sizes")
