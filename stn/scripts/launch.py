"""How a script starts: what is slow to import, or not installed, is imported where that can be explained in a line."""

import signal
import sys
from importlib import import_module
from pathlib import Path
from typing import NoReturn

from stn.scripts.output import complain, open_streams
from stn.scripts.signals import Stopped, end_by_signals, handle

REQUIREMENTS = Path(__file__).resolve().parents[2] / "requirements.txt"


def launch(module: str, name: str | None = None) -> NoReturn:
    """Import a module, call its `main`, and exit with the status that it returns.

    name: what the script calls itself (default: by its file).
    """
    name = name or f"{module.rpartition('.')[2]}.py"
    open_streams(name)
    end_by_signals()
    try:
        main = import_module(module).main
    except Stopped as stopped:
        complain(name, "stopped before it began: start it again")
        sys.exit(stopped.status)
    except ModuleNotFoundError as error:
        if str(error.name).partition(".")[0] == module.partition(".")[0] or str(error.name).startswith("stn"):
            raise  # a defect of ours
        complain(name, f"{error}: install what it needs with {sys.executable} -m pip install -r {REQUIREMENTS}")
        sys.exit(2)
    status = main()
    handle(signal.SIG_DFL)  # nothing is left to stop but Python's own end
    sys.exit(status)
