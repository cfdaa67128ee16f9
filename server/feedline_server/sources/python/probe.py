"""The main program of the process that looks at the operator's objects for others than workers.

The law: it does what a worker does when it starts, in the same order, so what it finds is what workers will have.
"""

import faulthandler
import os
import signal
import socket
import sys
import traceback
from collections.abc import Callable
from multiprocessing.connection import Connection
from typing import Any, BinaryIO, NoReturn, TypeVar

from feedline_server.declared.datasets import PythonConfig, from_json
from feedline_server.host.die_with_parent import end_with
from feedline_server.sources.python.object_source import PythonSource, opened
from feedline_server.sources.python.process import READ, Answer
from feedline_server.sources.source import Opened
from feedline_wire.errors import FeedlineError, LoaderBroken

Result = TypeVar("Result")


def main() -> NoReturn:
    """Look at the objects that the socket names, or read from them.

    The arguments are the socket's descriptor, the report's, the process id of who asks, and the purpose.
    """
    socket_fd, report_fd, parent = (int(argument) for argument in sys.argv[1:4])
    end_with(parent)
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches the whole process group; who asks decides
    connection: Connection[Any, Any] = Connection(socket.socket(fileno=socket_fd).detach())
    config = from_json(connection.recv_bytes())
    assert isinstance(config, PythonConfig), "only Python is looked at so"
    with os.fdopen(report_fd, "wb") as report:
        faulthandler.enable(report)
        _watch(config, report)
        if sys.argv[4] == READ:
            _read(connection, config, report)
        else:
            connection.send(_tried(lambda: _found(opened(config))))
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(0)  # the operator's modules may hold threads and exit handlers that would keep the process


def _watch(config: PythonConfig, report: BinaryIO) -> None:
    """Begin the time that may pass until the next answer; when it is over, the report says where everything stood."""
    faulthandler.dump_traceback_later(config.start_timeout_s, exit=True, file=report)


def _read(connection: "Connection[Any, Any]", config: PythonConfig, report: BinaryIO) -> None:
    """Read samples until nobody asks any more."""
    found = _tried(lambda: opened(config).source)
    while True:
        faulthandler.cancel_dump_traceback_later()
        try:
            request = connection.recv()
        except EOFError:
            return
        _watch(config, report)
        connection.send(_tried(lambda: found.draw(request)) if isinstance(found, PythonSource) else found)  # noqa: B023


def _tried(call: Callable[[], Result]) -> Result | FeedlineError:
    try:
        return call()
    except FeedlineError as error:
        return error
    except Exception as error:
        # A fault of our own; it must arrive and not be lost with this process.
        return LoaderBroken(f"looking at Python objects failed: {error!r}", traceback=traceback.format_exc())


def _found(found: Opened) -> Answer:
    source = found.source
    assert isinstance(source, PythonSource), "it is what was opened"
    source.check_repeats()
    return Answer(
        source.samples,
        source.columns,
        dict(source.longest),
        tuple(source.content()),
        dict(found.views),
        found.notes,
        found.is_batched,
        found.is_stream,
        found.structure,
    )


if __name__ == "__main__":
    main()
