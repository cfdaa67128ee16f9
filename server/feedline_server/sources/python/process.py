"""The operator's objects as the process that serves has them: described, and read, by a worker before it has datasets.

The process that speaks gRPC never imports the operator's code: TensorFlow beside gRPC doubles its memory and its start,
a crash or a hang in a module would be the loader's, and Ctrl-C would wait for it. The worker (`probe`) always gives an
answer: what it found, what the operator's code raised, where it crashed, or where it hung after `start_timeout_s`.
"""

import signal
import time
from collections.abc import Iterator, Mapping
from multiprocessing.connection import wait
from typing import Any

from feedline_server.declared.datasets import PythonConfig
from feedline_server.host.child_process import GRACE_S, USER_CODE_ENVIRONMENT, WORKER, ChildProcess
from feedline_server.host.logs import log
from feedline_server.sources.python.text import guard, training
from feedline_server.sources.ragged import Ragged
from feedline_server.sources.source import Opened, SampleRequest, took_too_long
from feedline_wire.errors import DataError, FeedlineError
from feedline_wire.tensors import Array, Column

SAY_S = 10.0
"""How often a long wait is logged: an import of TensorFlow takes less, even on a busy machine."""

Read = dict[str, Array | Ragged]
"""What it read."""


def described(config: PythonConfig) -> Opened:
    """The objects as a source that has them elsewhere. Blocks until they are built; DataError if they cannot be."""
    process = Process(config)
    opened = process.opened
    assert isinstance(opened.source, Described), "what is sent is described"
    opened.source.process = process
    return opened


class Described:
    """A GeneratedSource whose objects are in another process, which reads the samples: ReadElsewhere."""

    def __init__(
        self,
        config: PythonConfig,
        samples: int,
        columns: tuple[Column, ...],
        content: tuple[bytes, ...],
        *,
        longest: Mapping[str, int],
        unit_rows: int,
    ) -> None:
        self.samples = samples
        self.columns = columns
        self.longest = longest
        self.unit_rows = unit_rows
        self.process: Process | None = None
        """What reads; None before it is started, and after `release`."""
        self._config = config
        self._content = content

    def draw(self, request: SampleRequest) -> Read:
        """See GeneratedSource. Blocks until the objects are built, where `process` is started for it."""
        if self.process is None:
            self.process = Process(self._config)
        return self.process.read(request)

    def content(self) -> Iterator[bytes]:
        """See GeneratedSource."""
        yield from self._content

    def release(self) -> ChildProcess | None:
        """See ReadElsewhere."""
        process, self.process = self.process, None
        return None if process is None else process.child

    def close(self) -> None:
        """See ReadElsewhere."""
        if (child := self.release()) is not None:
            child.close()


class Process:
    """A running one; its child is for the caller to close, or to give datasets to work at."""

    def __init__(self, config: PythonConfig) -> None:
        """Have the objects imported and built; blocks until they are. Raises DataError if they cannot be."""
        self._config = config
        self.child = ChildProcess(WORKER, USER_CODE_ENVIRONMENT)
        try:
            self.opened: Opened = self._ask(config)
        except BaseException:
            self.child.close()
            raise

    def read(self, request: SampleRequest) -> Read:
        """Have these samples read. Blocks. Raises what reading them raised."""
        answer: Read = self._ask(request)
        return answer

    def _ask(self, question: PythonConfig | SampleRequest) -> Any:  # noqa: ANN401 - as `probe` answers it
        started = time.monotonic()
        most_s = self._config.start_timeout_s + GRACE_S
        try:
            self.child.connection.send(question)
            while (waited_s := time.monotonic() - started) < most_s:
                # Its end too: what the operator's code has forked may hold the connection open.
                happened = wait([self.child.connection, self.child.pidfd], min(SAY_S, most_s - waited_s))
                if self.child.connection in happened:
                    answer = self.child.connection.recv()
                    if isinstance(answer, FeedlineError):
                        raise answer
                    return answer
                if happened:
                    raise self._why_it_ended()
                waited_s = time.monotonic() - started
                log.info("waiting for the dataset's Python", objects=self._objects, waited_s=round(waited_s))
        except (EOFError, OSError) as ended:
            raise self._why_it_ended() from ended
        raise self._hung("")

    @property
    def _objects(self) -> str:
        return ", ".join(self._config.objects.values())

    def _hung(self, where: str) -> DataError:
        error = took_too_long(self._config, where)
        for reference in self._config.objects.values():
            if (line := training(reference.partition(":")[0], self._config.code_folders)) is not None:
                return DataError(f"{error.args[0]}; {guard(line)}", traceback=where, elsewhere=True)
        return error

    def _why_it_ended(self) -> DataError:
        self.child.has_ended(GRACE_S)  # its connection ends a moment before it
        ended = self.child.close()
        if ended.code == 1 and ended.report.startswith("Timeout"):
            return self._hung(ended.report)
        how = f"by {signal.Signals(-ended.code).name}" if ended.code < 0 else f"with exit code {ended.code}"
        module = self._objects.partition(":")[0]
        return DataError(
            f"{self._objects}: the process that imports and builds it ended {how}; run "
            f"`python -c 'import {module}'` in {self._config.path} to see it alone",
            traceback=ended.report,
        )
