"""The worker that looks at the operator's objects for the process that serves, before it has datasets (`probe`).

There is always an answer: what it found, what the operator's code raised, where it crashed, or where it hung when its
time was over.
"""

import signal
import time
from collections.abc import Mapping
from dataclasses import dataclass
from multiprocessing.connection import wait
from typing import Any

from feedline_server.declared.datasets import PythonConfig
from feedline_server.host.child_process import USER_CODE_ENVIRONMENT, WORKER, ChildProcess
from feedline_server.host.logs import log
from feedline_server.sources.ragged import Ragged
from feedline_server.sources.selection import Selection
from feedline_server.sources.source import SampleRequest
from feedline_wire.errors import DataError, FeedlineError
from feedline_wire.structure import Structure
from feedline_wire.tensors import Array, Column

SAY_S = 10.0
"""How often a long wait is said: an import of TensorFlow takes less, even on a busy machine."""

GRACE_S = 20.0
"""The process ends itself when its time is over; one that cannot even do that is killed so much later."""


@dataclass(frozen=True, slots=True)
class Answer:
    """What it found: all of an open source but what cannot be sent."""

    samples: int
    columns: tuple[Column, ...]
    longest: Mapping[str, int]
    content: tuple[bytes, ...]
    views: dict[str, Selection]
    notes: tuple[str, ...]
    is_batched: bool
    is_stream: bool
    structure: Structure | None


Read = dict[str, Array | Ragged]
"""What it read."""


class Process:
    """A running one; its child is for the caller to close, or to give datasets to work at."""

    def __init__(self, config: PythonConfig) -> None:
        """Have the objects imported and built; blocks until they are. Raises DataError if they cannot be."""
        self._config = config
        self.child = ChildProcess(WORKER, USER_CODE_ENVIRONMENT)
        try:
            self.answer: Answer = self._ask(config)
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

    def _hung(self, text: str) -> DataError:
        return DataError(
            f"{self._objects}: importing and building it took longer than {self._config.start_timeout_s:g} s "
            "and was given up; make it quicker, or raise start_timeout_s in loader.toml",
            traceback=text,
        )
