"""Opening Python objects: workers build them; others have them looked at in a process of its own, which then ends.

The law: the process that speaks gRPC never imports the operator's code. TensorFlow beside gRPC doubles its memory and
its start, a crash or a hang in a module would be the loader's, and Ctrl-C would wait for it. Here a crash is an
error with its traceback, and a hang ends after `start_timeout_s` with the place where it hung.
"""

from collections.abc import Iterator, Mapping
from contextlib import closing

from feedline_server.declared.datasets import PythonConfig
from feedline_server.sources.python.object_source import opened
from feedline_server.sources.python.process import LOOK, READ, Answer, Process
from feedline_server.sources.ragged import Ragged
from feedline_server.sources.source import Opened, SampleRequest
from feedline_wire.tensors import Array, Column

__all__ = ["described", "opened"]


class Described:
    """A GeneratedSource that knows all about objects which are in another process.

    What is read, when transforms are tried or a dataset is inspected, is read by a process that is started for the
    first of it and ends with `close`.
    """

    def __init__(self, config: PythonConfig, answer: Answer) -> None:
        self._config = config
        self._answer = answer
        self._process: Process | None = None

    @property
    def samples(self) -> int:
        """See GeneratedSource."""
        return self._answer.samples

    @property
    def columns(self) -> tuple[Column, ...]:
        """See GeneratedSource."""
        return self._answer.columns

    @property
    def longest(self) -> Mapping[str, int]:
        """See GeneratedSource."""
        return self._answer.longest

    def draw(self, request: SampleRequest) -> dict[str, Array | Ragged]:
        """See GeneratedSource."""
        if self._process is None:
            self._process = Process(self._config, READ)
        return self._process.read(request)

    def content(self) -> Iterator[bytes]:
        """See GeneratedSource."""
        yield from self._answer.content

    def close(self) -> None:
        """End the process that reads, if there is one; it is started again when it is needed. Idempotent."""
        if self._process is not None:
            self._process.close()
            self._process = None


def described(config: PythonConfig) -> Opened:
    """The objects as the process that serves has them, which imports none of the operator's code."""
    with closing(Process(config, LOOK)) as process:
        answer = process.found()
    return Opened(
        Described(config, answer),
        answer.views,
        lambda: answer.notes,
        is_batched=answer.is_batched,
        is_stream=answer.is_stream,
        structure=answer.structure,
    )
