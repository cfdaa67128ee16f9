"""The main program of one loader out of several that one command started.

It is started as `python -m feedline_server.running.supervised` with a descriptor, a socket to the command, and the
command's process id. It receives its settings there, sends its port there, and ends with the command.
"""

import socket
import sys
from multiprocessing.connection import Connection
from typing import Any

from feedline_server.host.die_with_parent import end_with
from feedline_server.host.signals import StopSignals


def main() -> int:
    """Serve what the command says; the exit code."""
    socket_fd, parent = (int(argument) for argument in sys.argv[1:3])
    end_with(parent)
    stop = StopSignals()  # before the slow imports
    command: Connection[Any, Any] = Connection(socket.socket(fileno=socket_fd).detach())
    from feedline_server.host.logs import configure_logs
    from feedline_server.settings.settings import Settings
    from feedline_wire.errors import FeedlineError

    settings = Settings.model_validate_json(command.recv_bytes())
    configure_logs(settings.log_format, settings.log_level)
    from feedline_server.running.loader import serve

    try:
        serve(settings, stop, lambda port: command.send_bytes(str(port).encode()))
    except FeedlineError as error:
        print(f"feedline serve: {error}", file=sys.stderr)  # noqa: T201 - the end of a command line program
        return 1
    except KeyboardInterrupt:
        return 130
    return 0


if __name__ == "__main__":
    sys.exit(main())
