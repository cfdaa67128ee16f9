"""The main program of the process that looks at the operator's objects for others than workers.

The law: it does what a worker does when it starts, in the same order, so what it finds is what workers will have.
"""

import sys
import traceback
from collections.abc import Callable
from multiprocessing.connection import Connection
from typing import Any, NoReturn, TypeVar

from feedline_server.declared.datasets import PythonConfig
from feedline_server.host.child_process import connect_to_parent, give_up_after, leave, stay
from feedline_server.sources.python.object_source import PythonSource, opened
from feedline_server.sources.python.process import READ, Answer
from feedline_server.sources.source import Opened
from feedline_wire.errors import FeedlineError, LoaderBroken

Result = TypeVar("Result")


def main() -> NoReturn:
    """Look at the objects that the connection names, or read from them; the last argument says which."""
    connection = connect_to_parent()
    config: PythonConfig = connection.recv()
    give_up_after(config.start_timeout_s)
    if sys.argv[1] == READ:
        _read(connection, config)
    else:
        connection.send(_tried(lambda: _found(opened(config))))
    leave(0)


def _read(connection: "Connection[Any, Any]", config: PythonConfig) -> None:
    """Read samples until nobody asks any more."""
    found = _tried(lambda: opened(config).source)
    while True:
        stay()
        try:
            request = connection.recv()
        except EOFError:
            return
        give_up_after(config.start_timeout_s)
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
        tuple(found.notes()),
        found.is_batched,
        found.is_stream,
        found.structure,
    )


if __name__ == "__main__":
    main()
