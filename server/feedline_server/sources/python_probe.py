"""The process that looks at the operator's objects once, before they are served: it says what they are, and ends.

The law: it does what a worker does when it starts, in the same order, so what it finds is what workers will have.
"""

import faulthandler
import os
import signal
import socket
import sys
import traceback
from multiprocessing.connection import Connection
from typing import Any, NoReturn

from feedline_server.declaration import PythonConfig, from_json
from feedline_server.lifeline import end_with
from feedline_server.sources.python_opening import Answer, Described
from feedline_server.sources.python_source import PythonSource, opened
from feedline_wire.errors import FeedlineError, LoaderBroken


def main() -> NoReturn:
    """Look at the objects that the socket names; the arguments are its descriptor, the report's, and the asking pid."""
    socket_fd, report_fd, parent = (int(argument) for argument in sys.argv[1:4])
    end_with(parent)
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches the whole process group; who asks decides
    connection: Connection[Any, Any] = Connection(socket.socket(fileno=socket_fd).detach())
    config = from_json(connection.recv_bytes())
    assert isinstance(config, PythonConfig), "only Python is looked at so"
    report = os.fdopen(report_fd, "wb")
    faulthandler.enable(report)
    faulthandler.dump_traceback_later(config.start_timeout_s, exit=True, file=report)
    connection.send(_looked_at(config))
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(0)  # the operator's modules may hold threads and exit handlers that would keep the process


def _looked_at(config: PythonConfig) -> Answer | FeedlineError:
    try:
        found = opened(config)
        source = found.source
        assert isinstance(source, PythonSource), "it is what was opened"
        source.check_repeats()
        described = Described(source.samples, source.columns, dict(source.longest), tuple(source.content()))
    except FeedlineError as error:
        return error
    except Exception as error:
        return LoaderBroken(f"looking at {config.objects} failed: {error!r}", traceback=traceback.format_exc())
    return Answer(described, dict(found.views), found.notes, found.is_batched, found.is_stream, found.structure)


if __name__ == "__main__":
    main()
