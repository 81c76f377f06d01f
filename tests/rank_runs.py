"""What the tests of data parallel runs share: two processes as ranks, by themselves or as torchrun starts them."""

import os
import socket
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path

ROOT = Path(__file__).parent.parent
PATIENCE = 300  # seconds after which a run hangs


def free_port():
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return listener.getsockname()[1]


def environment(**others):
    path = os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])
    return {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": path, **others}


def on_two_ranks(script, *argv):
    """Run a script in two processes that are ranks; fails where one does."""
    port = str(free_port())
    ranks = [
        subprocess.Popen(
            [sys.executable, script, *argv],
            env=environment(
                **{"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port, "WORLD_SIZE": "2"},
                **{"RANK": str(rank), "LOCAL_RANK": str(rank)},
            ),
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        for rank in range(2)
    ]
    try:
        told = [rank.communicate(timeout=PATIENCE)[0] for rank in ranks]
    finally:
        for rank in ranks:
            rank.kill()
    assert [rank.returncode for rank in ranks] == [0, 0], "\n".join(told)


def torchrun(log, script, *argv):
    """Start a script by torchrun on two ranks, which write to a file; the process."""
    command = [sys.executable, "-m", "torch.distributed.run", "--nproc_per_node", "2"]
    with log.open("w") as file:
        return subprocess.Popen(
            [*command, "--master_port", str(free_port()), script, *map(str, argv)],
            env=environment(),
            stdout=file,
            stderr=subprocess.STDOUT,
        )


def ranks_of(process):
    """The processes that torchrun has started, by rank."""
    children = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
    found = {}
    for child in children:
        with suppress(OSError):
            variables = Path(f"/proc/{child}/environ").read_text().split("\0")
            found |= {int(own.removeprefix("RANK=")): int(child) for own in variables if own.startswith("RANK=")}
    return found


def wait_until(condition, process):
    """Wait until it holds; fails where the process ends before."""
    deadline = time.monotonic() + PATIENCE
    while not condition():
        assert process.poll() is None and time.monotonic() < deadline
        time.sleep(0.02)


def own_lines(log, script):
    """What a script says of itself on the screen, apart from what torchrun reports."""
    return [line for line in log.read_text().splitlines() if line.startswith(f"{script}: ")]
