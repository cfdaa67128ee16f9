"""Opening Python objects: workers build them; the process that serves has a worker look at them.

The process that speaks gRPC never imports the operator's code. TensorFlow beside gRPC doubles its memory and its start,
a crash or a hang in a module would be the loader's, and Ctrl-C would wait for it. Here a crash is an error with its
traceback, and a hang ends after `start_timeout_s` with the place where it hung.
"""

from collections.abc import Iterator, Mapping

from feedline_server.declared.datasets import PythonConfig
from feedline_server.host.child_process import ChildProcess
from feedline_server.sources.python.object_source import opened
from feedline_server.sources.python.process import Process
from feedline_server.sources.ragged import Ragged
from feedline_server.sources.source import Opened, SampleRequest
from feedline_wire.tensors import Array, Column

__all__ = ["described", "opened"]


class Described:
    """A GeneratedSource that knows all about objects which are in another process, and has samples read there."""

    def __init__(self, config: PythonConfig) -> None:
        self._config = config
        self._process: Process | None = None
        self.answer = self._running().answer

    @property
    def samples(self) -> int:
        """See GeneratedSource."""
        return self.answer.samples

    @property
    def columns(self) -> tuple[Column, ...]:
        """See GeneratedSource."""
        return self.answer.columns

    @property
    def longest(self) -> Mapping[str, int]:
        """See GeneratedSource."""
        return self.answer.longest

    def draw(self, request: SampleRequest) -> dict[str, Array | Ragged]:
        """See GeneratedSource."""
        return self._running().read(request)

    def content(self) -> Iterator[bytes]:
        """See GeneratedSource."""
        yield from self.answer.content

    def release(self) -> ChildProcess | None:
        """See ReadElsewhere."""
        process, self._process = self._process, None
        return None if process is None else process.child

    def close(self) -> None:
        """See ReadElsewhere."""
        if (child := self.release()) is not None:
            child.close()

    def _running(self) -> Process:
        if self._process is None:
            self._process = Process(self._config)
        return self._process


def described(config: PythonConfig) -> Opened:
    """The objects as the process that serves has them, which imports none of the operator's code."""
    source = Described(config)
    answer = source.answer
    return Opened(
        source,
        answer.views,
        lambda: answer.notes,
        is_batched=answer.is_batched,
        is_stream=answer.is_stream,
        structure=answer.structure,
    )
