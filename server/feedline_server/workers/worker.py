"""A worker process: takes tasks, fills slots, until its loader is gone.

It is a child process (`child_process`) of the loader and imports no gRPC and no framework. It ends when its connection
ends, and never outlives its loader. Before it has datasets it may be asked about the operator's objects (`probe`).
"""

import mmap
import os
import signal
import time
import traceback
from multiprocessing.connection import Connection
from multiprocessing.reduction import recv_handle
from typing import Any

import numpy as np

from feedline_server.batches import assembly
from feedline_server.batches.assembly import assemble, layout_of
from feedline_server.batches.dataset import Dataset, open_dataset_in_worker
from feedline_server.batches.fingerprint import fingerprint
from feedline_server.declared.datasets import Declaration
from feedline_server.host.child_process import connect_to_parent, leave
from feedline_server.host.logs import log
from feedline_server.memory.arena import ARENA
from feedline_server.sources.source import Opened
from feedline_server.workers.messages import (
    CannotOpen,
    Done,
    Failed,
    MapMemory,
    OpenDatasets,
    Outcome,
    ProgressCell,
    Ready,
    SlotTooSmall,
    Task,
    UnmapMemory,
)
from feedline_wire.errors import DatasetChanged, FeedlineError, LoaderBroken
from feedline_wire.tensors import Array

TOGETHER_S = 0.001
"""Batches that are done within this are answered together: a message costs both sides some 100 us, as much as a small
batch; to wait longer would hold back larger ones."""


def main() -> None:
    """Serve one pool."""
    pool = connect_to_parent()
    # Service managers send these to every process; only the loader decides when its workers end.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    opened: list[tuple[Declaration, Opened]] = []
    try:
        while not isinstance(message := pool.recv(), OpenDatasets):
            from feedline_server.sources.python import probe

            pool.send(probe.answer(message, opened))
        memories = {ARENA: _mapped(recv_handle(pool))}
        cell_fd = recv_handle(pool)
        cell = ProgressCell(cell_fd)
        os.close(cell_fd)
        log.configure_later(message.log_format, message.log_level)
        datasets = _open(message, opened)
        if isinstance(datasets, CannotOpen):
            pool.send(datasets)
            leave(1)
        pool.send(Ready())
        while True:
            match pool.recv():
                case MapMemory(number):
                    memories[number] = _mapped(recv_handle(pool))
                case UnmapMemory(number):
                    del memories[number]  # and with the last reference the mapping goes
                case tasks:
                    _answer_all(tasks, datasets, memories, cell, pool)
    except (EOFError, BrokenPipeError, ConnectionResetError):
        leave(0)  # the loader closed the socket: it is done with us


def _mapped(fd: int) -> Array:
    """Memory as bytes; the descriptor is closed."""
    try:
        return np.frombuffer(mmap.mmap(fd, 0), dtype=np.uint8)
    finally:
        os.close(fd)


def _open(message: OpenDatasets, opened: list[tuple[Declaration, Opened]]) -> dict[str, Dataset] | CannotOpen:
    datasets = {}
    try:
        for name, (config, wanted) in message.datasets.items():
            source = next((one for known, one in opened if known == config), None)
            datasets[name] = open_dataset_in_worker(name, config, message.kept.get(name), source)
            _check_unchanged(datasets[name], config, wanted)
    except FeedlineError as error:
        return CannotOpen(error)
    except Exception as error:  # whatever the dataset's code raises is reported, not lost with this process
        broken = LoaderBroken(f"a worker cannot open the datasets: {error}", traceback=traceback.format_exc())
        return CannotOpen(broken)
    return datasets


def _check_unchanged(dataset: Dataset, config: Declaration, wanted: bytes) -> None:
    found = fingerprint(dataset, config)
    # A worker that takes another's place opens the files anew: it must not serve new data under the old identity.
    if found != wanted:
        raise DatasetChanged(
            f"the files of dataset {dataset.name!r} changed while it is served: a worker opened it with the "
            f"fingerprint {found.hex()}, it is served as {wanted.hex()}; restart the loader",
            elsewhere=True,
        )


def _answer_all(
    tasks: tuple[Task, ...],
    datasets: dict[str, Dataset],
    memories: dict[int, Array],
    cell: ProgressCell,
    pool: "Connection[Any, Any]",
) -> None:
    """Answer tasks that came together, those that take no time together too."""
    outcomes: list[Outcome] = []
    sent = time.perf_counter()
    for task in tasks:
        cell.number = task.number
        outcomes.append(_answer(task, datasets, memories[task.memory]))
        if time.perf_counter() - sent >= TOGETHER_S:
            pool.send(tuple(outcomes))
            outcomes.clear()
            sent = time.perf_counter()
    if outcomes:
        pool.send(tuple(outcomes))


def _answer(task: Task, datasets: dict[str, Dataset], memory: Array) -> Done | SlotTooSmall | Failed:
    started = time.perf_counter()
    try:
        dataset = datasets[task.key.dataset]
        layout = assemble(dataset, task.key, memory[task.start : task.start + task.nbytes])
    except assembly.Outgrown as outgrown:
        return SlotTooSmall(task.number, outgrown.nbytes)
    except FeedlineError as error:
        return Failed(task.number, error)
    except Exception as error:  # a fault of our own must reach the trainer as an error too, not as a dead stream
        return Failed(
            task.number,
            LoaderBroken(f"assembling the batch {task.key} failed: {error!r}", traceback=traceback.format_exc()),
        )
    is_expected = layout is layout_of(dataset, task.key.rows)
    return Done(task.number, None if is_expected else layout, time.perf_counter() - started)


if __name__ == "__main__":
    main()
