"""What the tests of getdata.sh share: its process, and a web server on this machine."""

import os
import subprocess
import threading
import time
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import SimpleNamespace

SCRIPT = Path(__file__).parent.parent / "getdata.sh"


def started(arguments, cwd, settings, through=(), stderr=subprocess.PIPE):
    """getdata.sh as a process, in a session of its own; settings: its environment, besides this process's.

    through: a command that starts the command behind it.
    """
    return subprocess.Popen(
        [*through, SCRIPT, *map(str, arguments)],
        cwd=cwd,
        env=os.environ | settings,
        stdout=subprocess.PIPE,
        stderr=stderr,
        text=True,
        start_new_session=True,
    )


def ended(process):
    """Its exit status, stdout and stderr."""
    output, errors = process.communicate(timeout=60)
    return SimpleNamespace(returncode=process.returncode, stdout=output, stderr=errors)


def downloading(data):
    """The unfinished download of a run that is at work, or None."""
    return next((part for part in data.glob(".getdata.*/*.part") if part.stat().st_size), None)


@contextmanager
def serving(name, body, **others):
    """Serves `body` as /name, from the byte asked for, and keeps every Range asked for; `others`: name -> content, too.

    `cuts` says after how many bytes each coming answer breaks off, `stall` how many seconds late it does, `parts` in
    how many parts, a second apart, it comes.
    """
    state = SimpleNamespace(body=body, others=others, ranges=[], knows_ranges=True, status=None)
    state.cuts, state.stall, state.parts = [], 0, 1

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self):
            asked = self.headers["Range"]
            state.ranges.append(asked)
            start = int(asked.removeprefix("bytes=").rstrip("-")) if asked and state.knows_ranges else 0
            body = state.others.get(self.path[1:], state.body)
            known = self.path[1:] in (name, *state.others)
            status = state.status or (404 if not known else 206 if start else 200)
            if start >= len(body):
                status = 416
            content = body[start:] if status < 300 else b"sorry"
            self.send_response(status)
            self.send_header("Content-Length", str(len(content)))
            if status == 206:
                self.send_header("Content-Range", f"bytes {start}-{len(body) - 1}/{len(body)}")
            self.end_headers()
            content = content[: state.cuts.pop(0) if state.cuts else None]
            size = -(-len(content) // state.parts) or 1
            for first in range(0, len(content), size):
                time.sleep(1 if first else 0)
                self.wfile.write(content[first : first + size])
                self.wfile.flush()
            time.sleep(state.stall)

        def log_message(self, *_):
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as http:
        threading.Thread(target=http.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True).start()
        state.url = f"http://127.0.0.1:{http.server_port}"
        yield state
        http.shutdown()
