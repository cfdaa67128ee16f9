"""A worker process: takes tasks, fills slots, until its loader is gone.

It is a child process (`child_process`) of the loader and imports no gRPC and no framework. It ends when its connection
ends, and never outlives its loader. It opens a dataset when it is told to. Before it works it may be asked about the
operator's objects (`probe`).
"""

import mmap
import os
import signal
import sys
import time
import traceback
from collections.abc import Mapping
from multiprocessing.connection import Connection
from typing import Any, Never

import numpy as np

from feedline_server.batches import assembly
from feedline_server.batches.assembly import assemble, layout_of
from feedline_server.batches.dataset import Dataset
from feedline_server.declared.datasets import Declaration
from feedline_server.host import descriptors
from feedline_server.host.child_process import connect_to_parent, leave
from feedline_server.host.logs import log
from feedline_server.host.stopwatch import ASSEMBLE
from feedline_server.host.user_code import exception_line
from feedline_server.memory.arena import ARENA
from feedline_server.memory.shared_cache import SharedCache
from feedline_server.sources.arrays.decompressed import DECODED
from feedline_server.sources.source import Opened as BuiltSource
from feedline_server.workers.datasets import WorkerDatasets
from feedline_server.workers.messages import (
    DatasetId,
    Done,
    Failed,
    MapMemory,
    OfferDatasets,
    OpenDataset,
    Outcome,
    ProgressCell,
    Ready,
    SlotTooSmall,
    StartWork,
    Task,
    UnmapMemory,
    WithdrawDataset,
)
from feedline_wire.errors import DataError, FeedlineError, LoaderBroken
from feedline_wire.shortages import shortage
from feedline_wire.tensors import Array

TOGETHER_S = 0.001
"""Batches that are done within this are answered together: a message costs both sides some 100 us, as much as a small
batch; to wait longer would hold back larger ones."""


def main() -> None:
    """Serve one pool."""
    pool = connect_to_parent()
    # Service managers send these to every process; only the loader decides when its workers end. Not SIG_IGN: programs
    # that the operator's code starts would ignore them too.
    signal.signal(signal.SIGINT, _no_matter)
    signal.signal(signal.SIGTERM, _no_matter)
    built: list[tuple[Declaration, BuiltSource]] = []
    try:
        while not isinstance(message := pool.recv(), StartWork):
            from feedline_server.sources.python import probe

            pool.send(probe.answer(message, built))
        memories = {ARENA: _mapped(descriptors.receive(pool))}
        _share_decoded(descriptors.receive(pool))
        cell_fd = descriptors.receive(pool)
        cell = ProgressCell(cell_fd)
        os.close(cell_fd)
        log.configure_later(message.log_format, message.log_level)
        pool.send(Ready())
        _work(pool, WorkerDatasets(built, pool, message.worker, message.workers), memories, cell)
    except (EOFError, BrokenPipeError, ConnectionResetError):
        leave(0)  # the loader closed the socket: it is done with us
    except OSError:
        if not pool.closed:
            raise
        leave(0)  # this is no worker: the operator's code forked it and returned (child_process)


def _work(
    pool: "Connection[Any, Any]", datasets: WorkerDatasets, memories: dict[int, Array], cell: ProgressCell
) -> Never:
    """Do what the pool says, until it is gone."""
    while True:
        message = pool.recv()
        if isinstance(message, tuple):
            _answer_all(message, datasets, memories, cell, pool)
            continue
        match message:
            case OfferDatasets(offers):
                datasets.offer(offers, memoryview(_mapped(descriptors.receive(pool))))  # type: ignore[arg-type]  # a buffer
            case OpenDataset(which, path):
                pool.send(datasets.open(which, path))
            case WithdrawDataset(which):
                datasets.withdraw(which)
            case MapMemory(number):
                memories[number] = _mapped(descriptors.receive(pool))
            case UnmapMemory(number):
                del memories[number]  # and with the last reference the mapping goes


def _no_matter(_number: int, _frame: object) -> None:
    """Do nothing about a signal."""


def _share_decoded(fd: int) -> None:
    """Keep decoded data where the other workers keep it."""
    DECODED.share(SharedCache(fd))


def _mapped(fd: int) -> Array:
    """Memory as bytes; the descriptor is closed."""
    try:
        memory = mmap.mmap(fd, 0)
        memory.madvise(mmap.MADV_DONTFORK)  # see child_process.connect_to_parent
        return np.frombuffer(memory, dtype=np.uint8)
    finally:
        os.close(fd)


def _answer_all(
    tasks: tuple[Task, ...],
    datasets: WorkerDatasets,
    memories: dict[int, Array],
    cell: ProgressCell,
    pool: "Connection[Any, Any]",
) -> None:
    """Answer tasks that came together, those that take no time together too."""
    outcomes: list[Outcome] = []
    sent = time.perf_counter()
    for task in tasks:
        cell.number = task.number
        outcomes.append(_answer(task, datasets.opened, memories[task.memory]))
        if time.perf_counter() - sent >= TOGETHER_S:
            pool.send(tuple(outcomes))
            outcomes.clear()
            sent = time.perf_counter()
    if outcomes:
        pool.send(tuple(outcomes))


def _answer(task: Task, datasets: Mapping[DatasetId, Dataset], memory: Array) -> Done | SlotTooSmall | Failed:
    try:
        dataset = datasets[task.dataset]
        watch = dataset.chain.watch
        watch.start()
        layout = assemble(dataset, task.key, memory[task.start : task.start + task.nbytes])
    except assembly.Outgrown as outgrown:
        return SlotTooSmall(task.number, outgrown.nbytes)
    except FeedlineError as error:
        return Failed(task.number, error)
    except OSError as error:  # of the files; what the operator's code raises is a bad sample
        what = f"{error.filename or task.key}: cannot be read ({error.strerror or error})"
        return Failed(task.number, DataError(what, traceback=traceback.format_exc(), elsewhere=True))
    except Exception as error:  # a fault of our own must reach the trainer as an error too, not as a dead stream
        return Failed(
            task.number,
            LoaderBroken(
                f"assembling the batch {task.key} failed: {exception_line(error)}", traceback=traceback.format_exc()
            ),
        )
    is_expected = layout is layout_of(dataset, task.key.rows)
    watch.lap(ASSEMBLE)
    notes = dataset.known_bad.taken_notes() if dataset.known_bad is not None else ()
    return Done(task.number, None if is_expected else layout, watch.seconds, notes)


if __name__ == "__main__":
    try:
        main()
    except (OSError, MemoryError, ImportError) as error:
        if (too_little := shortage(error)) is None:
            raise
        sys.exit(f"a worker of the loader has {too_little}")
