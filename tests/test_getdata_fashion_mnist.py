"""getdata.sh fashion_mnist: MNIST's four short idx files stand for the published ones, a folder for the package's."""

import gzip
import re

import pytest
from downloads import SCRIPT, serving
from test_getdata import assert_failed
from test_getdata_cifar10 import (
    NO_SERVER,
    assert_help,
    assert_left_in_the_way,
    assert_nothing_left,
    command,
    sha256,
)
from test_getdata_mnist import (
    ALTERED,
    ARCHIVES,
    FILES,
    FIRST,
    INCOMPLETE,
    LAST,
    NAMES,
    SECOND,
    THIRD,
    assert_installed,
    write_all,
)

from stn.datasets.fashion_mnist import FASHION_MNIST_SHA256


@pytest.fixture
def server():
    with serving(FIRST, ARCHIVES[FIRST], **{name: ARCHIVES[name] for name in (SECOND, THIRD, LAST)}) as state:
        yield state


@pytest.fixture
def getdata(tmp_path):
    """Runs `getdata.sh fashion_mnist`; `installed` is where it looks for the package's files."""
    own = {
        "FASHION_MNIST_SHA256": " ".join(sha256(content) for content in FILES.values()),
        "FASHION_MNIST_INSTALLED": str(tmp_path / "installed"),
        "PYTHON": "/bin/false",
    }
    run = command(tmp_path, "fashion_mnist", "nothing", lambda url: {"FASHION_MNIST_URL": url, **own})
    run.installed = tmp_path / "installed"
    return run


def part_of(getdata, archive):
    return getdata.data / f".fashion_mnist-{archive}.part"


def test_recorded_digests_are_those_that_the_loader_checks():
    script = SCRIPT.read_text()
    digests = re.search(r'^fashion_mnist_published="([^"]+)"', script, re.MULTILINE)[1]
    assert dict(zip(NAMES, digests.split(), strict=True)) == FASHION_MNIST_SHA256
    assert tuple(FASHION_MNIST_SHA256) == NAMES


# ---- the four files


def test_fresh_download_looks_nowhere_else(getdata, server):
    write_all(getdata.installed, ALTERED)
    assert_installed(getdata, getdata(url=server.url))
    assert not getdata.asked.exists() and len(server.ranges) == 4


def test_second_run_verifies_and_downloads_nothing(getdata, server):
    getdata(url=server.url)
    result = getdata(url=server.url)
    assert_installed(getdata, result)
    assert "all there and verified" in result.stdout
    assert len(server.ranges) == 4


def test_interrupted_run_is_resumed_by_the_next(getdata, server):
    """The second file breaks off; the first is not asked for again."""
    server.cuts = [None, *[2_000] * 3]
    assert_failed(getdata(url=server.url), f"{server.url}/{SECOND}", "interrupted", "run again")
    assert {*getdata.data.iterdir()} == {part_of(getdata, FIRST), part_of(getdata, SECOND)}
    before = len(server.ranges)
    assert_installed(getdata, getdata(url=server.url))
    assert server.ranges[before:] == ["bytes=6000-", None, None]


def test_an_unfinished_download_of_mnist_is_left_alone(getdata, server):
    """The files of both data sets have the same names."""
    getdata.data.mkdir()
    other = getdata.data / f".mnist-{FIRST}.part"
    other.write_bytes(b"digits")
    result = getdata(url=server.url)
    assert (result.returncode, result.stderr) == (0, "") and server.ranges == [None] * 4
    assert other.read_bytes() == b"digits"


@pytest.mark.parametrize(
    ("body", "cause"),
    [(b"<html>please log in</html>", "damaged"), (gzip.compress(ALTERED[NAMES[2]]), "wrong checksum")],
)
def test_another_file_is_removed_and_named(getdata, server, body, cause):
    server.others[THIRD] = body
    assert_failed(getdata(url=server.url), cause, THIRD, "removed", "FASHION_MNIST_URL")
    assert {*getdata.data.iterdir()} == {part_of(getdata, FIRST), part_of(getdata, SECOND)}


# ---- the package that Debian and Ubuntu have


@pytest.mark.parametrize("missing_on_the_server", [False, True])
@pytest.mark.parametrize("contents", [FILES, ARCHIVES])
def test_files_of_the_package_serve_where_one_cannot_be_fetched(getdata, server, missing_on_the_server, contents):
    write_all(getdata.installed, contents)
    if missing_on_the_server:
        del server.others[LAST]
    result = getdata(url=server.url if missing_on_the_server else NO_SERVER)
    assert_installed(getdata, result)
    assert ("404" if missing_on_the_server else "cannot reach") in result.stdout
    assert f"took the files in {getdata.installed}" in result.stdout and not getdata.asked.exists()


@pytest.mark.parametrize("contents", [None, INCOMPLETE])
def test_no_package_is_installed(getdata, contents):
    if contents:
        write_all(getdata.installed, contents)
    assert_failed(getdata(), "cannot reach", f"{NO_SERVER}/{FIRST}", "--from", "install", "dataset-fashion-mnist")
    assert_nothing_left(getdata)


@pytest.mark.parametrize(
    ("contents", "words"), [(ALTERED, "not the published"), ({**ARCHIVES, LAST: b"no archive"}, f"{LAST} is damaged")]
)
def test_other_files_of_the_package_leave_nothing(getdata, contents, words):
    write_all(getdata.installed, contents)
    assert_failed(getdata(), str(getdata.installed), words)
    assert_nothing_left(getdata)


# ---- what the user has


@pytest.mark.parametrize("below", ["", "raw", "FashionMNIST/raw", "data/fashion"])
@pytest.mark.parametrize("contents", [FILES, ARCHIVES])
def test_from_folder(getdata, tmp_path, below, contents):
    write_all(tmp_path / "my own" / below, contents)
    assert_installed(getdata, getdata("--from", tmp_path / "my own"))


@pytest.mark.parametrize(("contents", "words"), [(ALTERED, "wrong checksum"), (INCOMPLETE, "lacks some of")])
def test_from_altered_or_incomplete_folder(getdata, tmp_path, contents, words):
    mine = write_all(tmp_path / "mine", contents)
    assert_failed(getdata("--from", mine), words, str(mine))
    assert_nothing_left(getdata)


def test_from_a_file(getdata, tmp_path):
    (tmp_path / FIRST).write_bytes(ARCHIVES[FIRST])
    assert_failed(getdata("--from", tmp_path / FIRST), str(tmp_path / FIRST), "is a file", "name the folder")
    assert_nothing_left(getdata)


# ---- the data folder and the command line


def test_something_else_in_place_of_the_folder(getdata, server):
    assert_left_in_the_way(getdata, server)


def test_help_names_the_data_set_and_its_sources(getdata):
    words = ("FASHION_MNIST_URL", "dataset-fashion-mnist", str(getdata.installed), "apt install")
    assert_help(getdata, "fashion_mnist", "data/fashion/", *words)
