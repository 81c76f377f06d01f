"""getdata.sh against a server on this machine: a small made-up archive stands for the published one."""

import hashlib
import io
import os
import pty
import random
import re
import shutil
import signal
import sys
import tarfile
import time

import pytest
from downloads import downloading, ended, serving, started

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
    hurried(tmp_path / "hasty" / "sleep")

    def start(*arguments, url="http://127.0.0.1:9", tools=os.environ["PATH"], **options):
        path = f"{tmp_path / 'hasty'}:{tools}"
        settings = {
            "STN_DATA": str(run.data), "PTB_SHA256": DIGESTS, "PTB_URL": url, "PATH": path, "no_proxy": "*",
            "TERM": "xterm",
        }  # fmt: skip
        return started(arguments, tmp_path / "caller", settings, **options)

    def run(*arguments, **options):
        return ended(start(*arguments, **options))

    run.start = start
    run.data = tmp_path / "data"
    run.penn = tmp_path / "data" / "penn"
    run.part = tmp_path / "data" / ".simple-examples.tgz.part"
    return run


def hurried(path):
    """A sleep that hardly does: next to no pauses between attempts."""
    path.write_text(f"#!/bin/sh\nexec {shutil.which('sleep')} 0.05\n")
    path.chmod(0o755)


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


@pytest.mark.parametrize("number", [signal.SIGHUP, signal.SIGINT, signal.SIGTERM])
@pytest.mark.parametrize("kill", [os.killpg, os.kill], ids=["all", "alone"])
@pytest.mark.parametrize("tool", ["curl", "wget"])
def test_stopped_run_keeps_only_what_can_be_resumed(getdata, server, tmp_path, number, kill, tool):
    if not shutil.which(tool):
        pytest.skip(f"no {tool} here")
    server.cuts, server.stall = [5_000], 30
    process = getdata.start(url=server.url, tools=path_without(tmp_path, *{"curl", "wget"} - {tool}))
    wait_until(lambda: downloading(getdata.data))
    kill(process.pid, number)
    result = ended(process)  # long before the server goes on
    assert_failed(result, "stopped", "run again", code=-number)
    assert list(getdata.data.iterdir()) == [getdata.part]
    size = getdata.part.stat().st_size
    assert 0 < size <= 5_000 and getdata.part.read_bytes() == ARCHIVE[:size]
    server.stall = 0
    assert getdata(url=server.url).returncode == 0
    assert server.ranges[-1] == f"bytes={size}-"
    assert_installed(getdata)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGKILL])
def test_run_killed_while_it_unpacks_leaves_nothing_for_good(getdata, server, tmp_path, number):
    tar = tmp_path / "hasty" / "tar"
    tar.write_text("#!/bin/sh\nexec /bin/sleep 30\n")
    tar.chmod(0o755)
    process = getdata.start(url=server.url)
    wait_until(lambda: (part := downloading(getdata.data)) and part.stat().st_size == len(ARCHIVE))
    time.sleep(0.5)
    os.killpg(process.pid, number)
    process.communicate(timeout=20)
    tar.unlink()
    if number != signal.SIGKILL:
        assert list(getdata.data.iterdir()) == [getdata.part]
    assert getdata(url=server.url).returncode == 0
    assert len(server.ranges) == 1  # the archive was whole
    assert_installed(getdata)


def test_what_a_killed_run_downloaded_is_taken_up_and_the_rest_removed(getdata, server):
    server.cuts, server.stall = [5_000], 1
    process = getdata.start(url=server.url)
    wait_until(lambda: downloading(getdata.data))
    os.killpg(process.pid, signal.SIGKILL)
    process.communicate(timeout=20)
    assert [path.name.startswith(".getdata.") for path in getdata.data.iterdir()] == [True]
    size = downloading(getdata.data).stat().st_size
    server.stall = 0
    assert getdata(url=server.url).returncode == 0
    assert server.ranges[-1] == f"bytes={size}-"
    assert_installed(getdata)


def test_what_a_killed_run_started_ends_soon(getdata, server):
    """Though its parent has not asked for its end yet."""
    server.cuts, server.stall = [5_000], 1
    process = getdata.start(url=server.url)
    wait_until(lambda: downloading(getdata.data))
    os.kill(process.pid, signal.SIGKILL)
    process.stdout.read()  # until the last one that holds it has ended
    process.communicate(timeout=20)
    assert getdata(url=server.url).returncode == 0  # while curl may still wait for the server in the other's folder
    time.sleep(server.stall + 1)
    assert getdata(url=server.url).returncode == 0
    assert_installed(getdata)


def test_the_longer_of_two_unfinished_downloads_is_kept(getdata, server):
    """This run's, and what another has kept meanwhile."""
    for other in (20_000, 1_000):
        server.cuts, server.stall = [5_000], 30
        process = getdata.start(url=server.url)
        wait_until(lambda: downloading(getdata.data))
        getdata.part.write_bytes(ARCHIVE[:other])
        process.terminate()
        process.communicate(timeout=20)
        assert (getdata.part.stat().st_size == other) == (other == 20_000)
        assert ARCHIVE.startswith(getdata.part.read_bytes()) and getdata.part.stat().st_size > 1_000
        getdata.part.unlink()


def test_two_runs_at_once_do_not_disturb_each_other(getdata, server):
    server.parts = 4
    first = getdata.start(url=server.url)
    wait_until(lambda: downloading(getdata.data))
    result = getdata(url=server.url)
    for one in (result, ended(first)):
        assert (one.returncode, one.stderr) == (0, "")
    assert server.ranges == [None, None]
    assert_installed(getdata)


def test_a_run_leaves_the_folders_of_others_alone_while_they_may_work_there(getdata, server):
    """Of another machine's, which cannot be asked, for a day."""
    others = [getdata.data / name for name in (".getdata.elsewhere.1.abcdef", ".getdata.abcdef")]
    for folder in others:
        folder.mkdir(parents=True)
    assert getdata(url=server.url).returncode == 0
    assert all(folder.exists() for folder in others)
    for folder in others:
        os.utime(folder, (time.time() - 100_000,) * 2)
    assert getdata(url=server.url).returncode == 0
    assert_installed(getdata)


# ---- progress


def test_a_log_says_how_far_it_is_in_whole_lines(getdata, server):
    server.parts = 8
    result = getdata(url=server.url)
    assert (result.returncode, result.stderr) == (0, "")
    assert all(character.isprintable() or character == "\n" for character in result.stdout)
    kilobytes = round(len(ARCHIVE) / 1000)
    steps = re.findall(rf"^ptb: (\d+) kB of {kilobytes} kB \((\d+) %\), \d+ kB/s$", result.stdout, re.MULTILINE)
    assert steps and all(0 < int(done) < kilobytes for done, _ in steps)
    assert all(int(percent) == pytest.approx(100 * int(done) / kilobytes, abs=2) for done, percent in steps)
    assert re.search(rf"^ptb: downloaded {kilobytes} kB in \d+ s, \d+ kB/s$", result.stdout, re.MULTILINE)


@pytest.mark.parametrize("tool", ["curl", "wget"])
@pytest.mark.parametrize("name", ["simple-examples.tgz", "moved"])
def test_a_terminal_shows_a_line_that_changes_and_goes_away(getdata, server, tmp_path, tool, name):
    if not shutil.which(tool):
        pytest.skip(f"no {tool} here")
    server.parts = 4
    url = server.url if name == "simple-examples.tgz" else f"{server.url}/moved"
    ours, theirs = pty.openpty()
    tools = path_without(tmp_path, *{"curl", "wget"} - {tool})
    process = getdata.start(url=url, tools=tools, stderr=theirs)
    os.close(theirs)
    shown = b""
    while True:
        try:
            shown += os.read(ours, 1000)
        except OSError:  # nobody holds the terminal any more
            break
    os.close(ours)
    process.communicate(timeout=20)
    lines = shown.decode().replace("\x1b[K", "").split("\r")
    kilobytes = round(len(ARCHIVE) / 1000)
    if url == server.url:
        assert process.returncode == 0
        assert any(re.fullmatch(rf"ptb: \d+ kB of {kilobytes} kB \(\d+ %\), \d+ kB/s", line) for line in lines), lines[
            -20:
        ]
        assert shown.endswith(b"\r\x1b[K")
        assert_installed(getdata)
    else:
        assert process.returncode == 1
        assert lines[-2].startswith("getdata.sh: cannot download") and "404" in lines[-2] and lines[-1] == "\n"


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


def test_no_tools_at_all(getdata, tmp_path):
    (tmp_path / "hasty" / "sleep").unlink()
    result = ended(getdata.start(tools=str(tmp_path / "caller"), through=[shutil.which("bash")]))
    assert_failed(result, "neither sha256sum nor shasum", "install")
    assert_nothing_left(getdata)


def path_without(folder, *missing):
    """A PATH with the tools that the script uses, less some."""
    tools = """bash cat cmp cp curl cut dirname env find grep gzip head mkdir mktemp mv rm
        ps sha256sum shasum sleep tar true wc wget"""
    (folder / "bin").mkdir()
    for tool in set(tools.split()) - set(missing):
        if found := shutil.which(tool):
            (folder / "bin" / tool).symlink_to(found)
    return str(folder / "bin")


def test_closed_streams_and_readers_that_went_away_stop_nothing(getdata, server):
    for closing in ("exec >&-", "exec <&-", "exec >/dev/full"):
        result = ended(getdata.start(url=server.url, through=["bash", "-c", f'{closing}; exec "$@"', "-"]))
        assert (result.returncode, result.stderr) == (0, "")
        assert_installed(getdata)
        shutil.rmtree(getdata.data)
    process = getdata.start(url=server.url)
    process.stdout.close()
    assert process.wait(60) == 0 and process.stderr.read() == ""
    process.stderr.close()
    assert_installed(getdata)


def test_closed_stderr_keeps_the_exit_status(getdata):
    result = ended(getdata.start(through=["bash", "-c", 'exec 2>&-; exec "$@"', "-"]))
    assert (result.returncode, result.stderr) == (1, "")
    assert_nothing_left(getdata)


def test_help_that_cannot_be_written_downloads_nothing(getdata, server):
    ended(getdata.start("--help", url=server.url, through=["bash", "-c", 'exec >/dev/full; exec "$@"', "-"]))
    assert server.ranges == []
    assert_nothing_left(getdata)


@pytest.mark.parametrize("tool", ["curl", "wget"])
@pytest.mark.parametrize("room", [10, 80], ids=["for no archive", "for no corpus"])
def test_full_disk_is_named_and_keeps_what_there_is(getdata, server, tmp_path, tool, room):
    """A limit on the size of files stands for a full disk: what is written beyond it fails."""
    if not shutil.which(tool):
        pytest.skip(f"no {tool} here")
    large = {split: bytes(120_000) for split in SPLITS}  # 120 kB each, of an archive of 60 kB
    server.body = archive_of({"char.test": TEXTS["train"] + TEXTS["test"]} | large)
    limit = f"import os, resource, sys; resource.setrlimit(resource.RLIMIT_FSIZE, ({room * 1000},) * 2)"
    through = [sys.executable, "-c", f"{limit}; os.execv(sys.argv[1], sys.argv[1:])"]
    tools = path_without(tmp_path, *{"curl", "wget"} - {tool})
    assert_failed(ended(getdata.start(url=server.url, tools=tools, through=through)), "free some disk space", "data")
    assert list(getdata.data.iterdir()) == [getdata.part]
    kept = getdata.part.read_bytes()
    assert kept and server.body.startswith(kept)


def test_read_only_folder_is_named(getdata, server):
    getdata.data.mkdir(mode=0o500)
    if os.geteuid() == 0:
        pytest.skip("root may write everywhere")
    assert_failed(getdata(url=server.url), f"cannot write into {getdata.data} (Permission denied)", "STN_DATA")


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
    [(["--fast"], "--fast"), (["svhn"], "svhn"), (["--from"], "--from needs"), (["ptb", "-x"], "-x")],
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
