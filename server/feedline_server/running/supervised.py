"""The main program of one loader out of several that one command started.

It is a child process (`child_process`) of the command. It receives its settings from it, sends its port to it, and ends
with it.
"""

import contextlib
import os
import sys
from typing import TYPE_CHECKING, Any

from feedline_server.host.child_process import connect_to_parent, leave
from feedline_server.host.signals import StopSignals
from feedline_server.running import permanent

if TYPE_CHECKING:
    from multiprocessing.connection import Connection


def main() -> int:
    """Serve what the command says; the exit code."""
    command = connect_to_parent()
    stop = StopSignals()  # before the slow imports
    try:
        return _serve(command, stop)
    except KeyboardInterrupt:  # in the imports too
        return 130


def _serve(command: "Connection[Any, Any]", stop: StopSignals) -> int:
    from feedline_server.host.logs import configure_logs
    from feedline_server.settings.settings import Settings
    from feedline_wire.errors import FeedlineError

    settings = Settings.model_validate_json(command.recv_bytes())
    if cores := command.recv_bytes().split():
        # Before anything is started or allocated: workers inherit it, and memory is of the node that first writes it.
        with contextlib.suppress(OSError):  # cores were taken away meanwhile: it is slower elsewhere, and serves
            os.sched_setaffinity(0, map(int, cores))
    configure_logs(settings.log_format, settings.log_level)
    from feedline_server.running.loader import serve

    try:
        serve(settings, stop, lambda port: command.send_bytes(str(port).encode()))
    except FeedlineError as error:
        print(f"feedline serve: {error}", file=sys.stderr)  # noqa: T201 - the end of a command line program
        return permanent.CANNOT_BEGIN if permanent.is_permanent(error) else 1
    return 0


if __name__ == "__main__":
    leave(main())
