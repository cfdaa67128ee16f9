"""The memories of trainers that tasks may name: each worker maps one when its first task does."""

import os
from collections.abc import Sequence
from dataclasses import dataclass

from feedline_server.workers.process import WorkerProcess


@dataclass(frozen=True, slots=True)
class Memory:
    """A trainer's memory. Tasks may name it, or without a descriptor may not any more."""

    number: int
    fd: int | None

    def close(self) -> None:
        """Close the descriptor. Once."""
        if self.fd is not None:
            os.close(self.fd)


class Memories:
    """The pool's own, on its thread. `workers` are the pool's, as it changes them."""

    def __init__(self, workers: Sequence[WorkerProcess]) -> None:
        self._workers = workers
        self._fds: dict[int, int] = {}

    def __contains__(self, number: int) -> bool:
        return number in self._fds

    def note(self, memory: Memory) -> None:
        """It may be named from now on, or not any more. Its descriptor becomes this object's."""
        if memory.fd is not None:
            self._fds[memory.number] = memory.fd
        elif (fd := self._fds.pop(memory.number, None)) is not None:
            os.close(fd)
            for worker in self._workers:
                worker.unmap_memory(memory.number)

    def let(self, worker: WorkerProcess, number: int) -> None:
        """The worker's next task names it."""
        worker.map_memory(number, self._fds[number])

    def close(self) -> None:
        """Close all descriptors."""
        for fd in self._fds.values():
            os.close(fd)
        self._fds.clear()
