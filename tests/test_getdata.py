"""getdata.sh against a server on this machine: a small made-up archive stands for the published one."""

import hashlib
import io
import os
import random
import shutil
import signal
import tarfile
import time

import pytest
from downloads import ended, serving, started

SPLITS = ("train", "valid", "test")
# Random, so that they do not compress away.
TEXTS = {split: random.Random(split).randbytes(20_000).hex().encode() for split in SPLITS}
DIGESTS = " ".join(hashlib.sha256(TEXTS[split]).hexdigest() for split in SPLITS)


def archive_of(texts):
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w:gz") as archive:
        for name, content in {"char.train": b"c h a r\n", **texts}.items():
            member = tarfile.TarInfo(f"./simple-examples/data/ptb.{name}.txt")
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))
    return buffer.getvalue()


ARCHIVE = archive_of(TEXTS)


@pytest.fixture
def server():
    with serving("simple-examples.tgz", ARCHIVE) as state:
        yield state


@pytest.fixture
def getdata(tmp_path):
    """Runs the script from a folder of its own, with tmp_path/data as its data folder."""
    (tmp_path / "caller").mkdir()
    (tmp_path / "hasty").mkdir()
    (tmp_path / "hasty" / "sleep").symlink_to(shutil.which("true"))  # no pauses between attempts

    def start(*arguments, url="http://127.0.0.1:9", tools=os.environ["PATH"]):
        path = f"{tmp_path / 'hasty'}:{tools}"
        settings = {
            "STN_DATA": str(run.data), "PTB_SHA256": DIGESTS, "PTB_URL": url, "PATH": path, "no_proxy": "*",
        }  # fmt: skip
        return started(arguments, tmp_path / "caller", settings)

    def run(*arguments, **options):
        return ended(start(*arguments, **options))

    run.start = start
    run.data = tmp_path / "data"
    run.penn = tmp_path / "data" / "penn"
    run.part = tmp_path / "data" / ".simple-examples.tgz.part"
    return run


def assert_installed(getdata):
    assert {path.name: path.read_bytes() for path in getdata.penn.iterdir()} == {
        f"{split}.txt": text for split, text in TEXTS.items()
    }
    assert list(getdata.data.iterdir()) == [getdata.penn]


def assert_failed(result, *words, code=1):
    assert result.returncode == code
    assert result.stderr.startswith("getdata.sh: ")
    assert result.stderr.count("\n") == 1 and result.stderr.endswith("\n")
    for word in words:
        assert word in result.stderr


def assert_nothing_left(getdata):
    assert not getdata.data.exists() or list(getdata.data.iterdir()) == []


# ---- downloads


@pytest.mark.parametrize("arguments", [[], ["ptb"]])
def test_fresh_download(getdata, server, arguments):
    result = getdata(*arguments, url=server.url)
    assert (result.returncode, result.stderr) == (0, "")
    assert_installed(getdata)


def test_second_run_verifies_and_downloads_nothing(getdata, server):
    getdata(url=server.url)
    result = getdata(url=server.url)
    assert result.returncode == 0
    assert "all there and verified" in result.stdout
    assert len(server.ranges) == 1
    assert_installed(getdata)


def test_damaged_file_is_replaced(getdata, server):
    getdata(url=server.url)
    (getdata.penn / "valid.txt").write_bytes(TEXTS["valid"][:-1])
    result = getdata(url=server.url)
    assert f"replacing {getdata.penn / 'valid.txt'}" in result.stdout
    assert_installed(getdata)


def test_cut_connection_is_resumed_in_the_same_run(getdata, server):
    server.cuts = [10_000]
    assert getdata(url=server.url).returncode == 0
    assert server.ranges == [None, "bytes=10000-"]
    assert_installed(getdata)


def test_interrupted_run_is_resumed_by_the_next(getdata, server):
    server.cuts = [5_000] * 3
    assert_failed(getdata(url=server.url), server.url, "interrupted", "run again")
    assert list(getdata.data.iterdir()) == [getdata.part]
    assert getdata.part.read_bytes() == ARCHIVE[:15_000]
    assert getdata(url=server.url).returncode == 0
    assert server.ranges[-1] == "bytes=15000-"
    assert_installed(getdata)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_stopped_run_keeps_only_what_can_be_resumed(getdata, server, number):
    server.cuts, server.stall = [5_000], 2
    process = getdata.start(url=server.url)
    wait_until(lambda: getdata.part.exists() and getdata.part.stat().st_size)
    os.killpg(process.pid, number)
    process.communicate(timeout=20)
    assert process.returncode != 0
    assert list(getdata.data.iterdir()) == [getdata.part]
    server.stall = 0
    assert getdata(url=server.url).returncode == 0
    assert_installed(getdata)


def wait_until(happened, seconds=20):
    deadline = time.monotonic() + seconds
    while not happened():
        assert time.monotonic() < deadline
        time.sleep(0.02)


def test_whole_archive_left_by_a_stopped_run_is_used(getdata, server):
    getdata.data.mkdir()
    getdata.part.write_bytes(ARCHIVE)
    assert getdata(url=server.url).returncode == 0
    assert server.ranges == []
    assert_installed(getdata)


def test_server_that_cannot_resume_is_asked_for_the_whole(getdata, server):
    server.knows_ranges = False
    server.cuts = [10_000]
    assert getdata(url=server.url).returncode == 0
    assert_installed(getdata)


def test_part_that_is_longer_than_the_archive_is_dropped(getdata, server):
    getdata.data.mkdir()
    getdata.part.write_bytes(b"x" * (len(ARCHIVE) + 1))
    assert getdata(url=server.url).returncode in (0, 1)  # curl before 7.83 takes 416 for complete
    assert not getdata.part.exists()
    assert getdata(url=server.url).returncode == 0
    assert_installed(getdata)


def test_wrong_checksum_leaves_nothing(getdata, server):
    server.body = archive_of(TEXTS | {"test": b"another text\n"})
    assert_failed(getdata(url=server.url), "wrong checksum", "removed", "PTB_URL")
    assert_nothing_left(getdata)


def test_damaged_archive_leaves_nothing(getdata, server):
    server.body = b"<html>please log in</html>"
    assert_failed(getdata(url=server.url), "damaged", "removed")
    assert_nothing_left(getdata)


def test_wrong_part_is_removed_and_the_next_run_succeeds(getdata, server):
    getdata.data.mkdir()
    getdata.part.write_bytes(b"x" * 10_000)
    assert_failed(getdata(url=server.url), "damaged", "run again")
    assert_nothing_left(getdata)
    assert getdata(url=server.url).returncode == 0


def test_missing_on_the_server(getdata, server):
    assert_failed(getdata(url=f"{server.url}/moved"), f"{server.url}/moved/simple-examples.tgz", "404")
    assert len(server.ranges) == 1
    assert_nothing_left(getdata)


def test_server_in_trouble_is_tried_again(getdata, server):
    server.status = 503
    assert_failed(getdata(url=server.url), "cannot reach", server.url)
    assert len(server.ranges) == 3
    assert_nothing_left(getdata)


def test_no_network(getdata):
    assert_failed(getdata(), "cannot reach", "network", "--from")
    assert_nothing_left(getdata)


def test_wget_serves_where_curl_is_missing(getdata, server, tmp_path):
    if not shutil.which("wget"):
        pytest.skip("no wget here")
    server.cuts = [10_000]
    result = getdata(url=server.url, tools=path_without(tmp_path, "curl"))
    assert (result.returncode, result.stderr) == (0, "")
    assert server.ranges == [None, "bytes=10000-"]
    assert_installed(getdata)


def test_shasum_serves_where_sha256sum_is_missing(getdata, server, tmp_path):
    if not shutil.which("shasum"):
        pytest.skip("no shasum here")
    result = getdata(url=server.url, tools=path_without(tmp_path, "sha256sum"))
    assert (result.returncode, result.stderr) == (0, "")
    assert_installed(getdata)


@pytest.mark.parametrize(
    ("missing", "words"),
    [
        (["curl", "wget"], "neither curl nor wget"),
        (["tar"], "tar is not installed"),
        (["sha256sum", "shasum"], "neither sha256sum nor shasum"),
    ],
)
def test_missing_tool_is_named(getdata, server, tmp_path, missing, words):
    assert_failed(getdata(url=server.url, tools=path_without(tmp_path, *missing)), words, "install")
    assert_nothing_left(getdata)


def path_without(folder, *missing):
    """A PATH with the tools that the script uses, less some."""
    tools = """bash cat cmp cp curl cut dirname env grep gzip mkdir mktemp mv rm
        sha256sum shasum tar true wget"""
    (folder / "bin").mkdir()
    for tool in set(tools.split()) - set(missing):
        if found := shutil.which(tool):
            (folder / "bin" / tool).symlink_to(found)
    return str(folder / "bin")


# ---- what the user has


def test_from_archive(getdata, tmp_path):
    (tmp_path / "caller" / "mine.tgz").write_bytes(ARCHIVE)
    result = getdata("--from", "mine.tgz")  # from the caller's folder
    assert (result.returncode, result.stderr) == (0, "")
    assert_installed(getdata)
    assert (tmp_path / "caller" / "mine.tgz").read_bytes() == ARCHIVE


@pytest.mark.parametrize("below", ["", "data", "simple-examples/data"])
@pytest.mark.parametrize("prefix", ["ptb.", ""])
def test_from_folder(getdata, tmp_path, below, prefix):
    folder = tmp_path / "my own" / below
    folder.mkdir(parents=True)
    for split, text in TEXTS.items():
        (folder / f"{prefix}{split}.txt").write_bytes(text)
    result = getdata("ptb", "--from", tmp_path / "my own")
    assert (result.returncode, result.stderr) == (0, "")
    assert_installed(getdata)


def test_from_other_texts(getdata, tmp_path):
    for split in SPLITS:
        (tmp_path / f"{split}.txt").write_text("something else\n")
    (tmp_path / "other.tgz").write_bytes(archive_of(TEXTS | {"valid": b"something else\n"}))
    for source in (tmp_path, tmp_path / "other.tgz"):
        assert_failed(getdata("--from", source), "wrong checksum", str(source))
        assert_nothing_left(getdata)
        assert source.exists()


@pytest.mark.parametrize("content", [b"no archive", ARCHIVE[:-1000]])
def test_from_damaged_archive(getdata, tmp_path, content):
    (tmp_path / "mine.tgz").write_bytes(content)
    assert_failed(getdata("--from", tmp_path / "mine.tgz"), str(tmp_path / "mine.tgz"), "damaged")
    assert_nothing_left(getdata)


def test_from_empty_folder_or_from_nowhere(getdata, tmp_path):
    assert_failed(getdata("--from", tmp_path / "caller"), str(tmp_path / "caller"), "ptb.train.txt")
    assert_failed(getdata("--from", tmp_path / "nowhere"), str(tmp_path / "nowhere"), "does not exist")
    assert_nothing_left(getdata)


# ---- the data folder and the command line


def test_file_in_place_of_the_data_folder(getdata, server):
    getdata.data.write_text("in the way\n")
    assert_failed(getdata(url=server.url), f"cannot create {getdata.data}", "STN_DATA")
    assert getdata.data.read_text() == "in the way\n"


@pytest.mark.parametrize("name", ["penn", "penn/test.txt"])
def test_something_else_in_place_of_the_corpus(getdata, server, name):
    if name == "penn":
        getdata.data.mkdir()
        getdata.penn.write_text("in the way\n")
    else:
        (getdata.data / name).mkdir(parents=True)
    assert_failed(getdata(url=server.url), str(getdata.data / name), "move away")
    assert not list(getdata.data.glob(".getdata*"))


@pytest.mark.parametrize(
    ("arguments", "words"),
    [(["--fast"], "--fast"), (["mnist"], "mnist"), (["--from"], "--from needs"), (["ptb", "-x"], "-x")],
)
def test_misuse(getdata, arguments, words):
    assert_failed(getdata(*arguments), words, "--help", code=2)
    assert_nothing_left(getdata)


def test_help_names_the_data_set_the_flag_and_the_variables(getdata):
    result = getdata("--help")
    assert result.returncode == 0
    for word in ("ptb", "--from", "PTB_URL", "STN_DATA", str(getdata.data)):
        assert word in result.stdout
    assert_nothing_left(getdata)
