"""A real worker, except that some keys make it misbehave: the seed of a key chooses how."""

import os
import signal
import threading
from pathlib import Path
from typing import Any

from feedline_server.batches import assembly
from feedline_server.batches.dataset import Dataset
from feedline_server.workers import worker
from feedline_server.workers.messages import SlotTooSmall
from feedline_wire.key import Key
from feedline_wire.tensors import Array, Layout

KILLS_EVERY_WORKER = 1001
KILLS_ONE_WORKER = 1002
NEVER_ENDS_ONCE = 1003
RAISES = 1004
OUTGROWS = 1005
OUTGROWS_AND_KILLS_ONE_WORKER = 1006
NEVER_ENDS = 1007
FORKS = 1008
ANSWERS_ANOTHER = 1009
WRITES_NONSENSE = 1010
STOPS_HALF_WAY = 1011

connection: Any = None  # to the pool

honest = worker.assemble
marker = Path(os.environ["FAULTY_WORKER_MARKER"])


def first_time() -> bool:
    try:
        marker.touch(exist_ok=False)
    except FileExistsError:
        return False
    return True


def assemble(dataset: Dataset, key: Key, memory: Array) -> Layout:
    if key.seed == KILLS_EVERY_WORKER or (key.seed == KILLS_ONE_WORKER and first_time()):
        os.kill(os.getpid(), signal.SIGKILL)
    if key.seed == NEVER_ENDS or (key.seed == NEVER_ENDS_ONCE and first_time()):
        threading.Event().wait()
    if key.seed == RAISES:
        raise RuntimeError("a fault of the worker's own")
    if key.seed in {OUTGROWS, OUTGROWS_AND_KILLS_ONE_WORKER} and len(memory) <= 1 << 16:
        raise assembly.Outgrown((1 << 16) + 1)
    if key.seed == OUTGROWS_AND_KILLS_ONE_WORKER and first_time():
        os.kill(os.getpid(), signal.SIGKILL)
    if key.seed == FORKS:
        os.fork()  # and both return
    if key.seed == ANSWERS_ANOTHER:
        connection.send((SlotTooSmall(987654, 1), SlotTooSmall(0, 1)))
    if key.seed == WRITES_NONSENSE and first_time():
        connection.send_bytes(b"no pickle")
    if key.seed == STOPS_HALF_WAY and first_time():
        os.write(connection.fileno(), b"\x00\x00\x00\x10half")
        threading.Event().wait()
    return honest(dataset, key, memory)


def connect() -> Any:
    global connection  # noqa: PLW0603 - a process has one
    connection = connect_to_pool()
    return connection


connect_to_pool, worker.connect_to_parent = worker.connect_to_parent, connect
worker.assemble = assemble
worker.main()
