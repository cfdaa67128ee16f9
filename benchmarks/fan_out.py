"""The floor of row 11: what the bytes alone of a batch cost a loader for one trainer, and for four.

    python -m benchmarks.fan_out            batches of 1 MiB, 25 a second, as row 11 has them

There is no loader and there are no keys: one thread gathers rows of memory that it maps, and gives the batch to one
receiver or to four. By TCP it sends the rows from where they lie, or gathers them once and sends what it gathered to
each. For trainers on its own host it gathers into one's memory, or once and copies into each one's: with `pwrite`, as
the shm lane does, or by a read into a mapping of it. It is the thread's processor time, with what the kernel does in
it; on loopback that is a part of receiving too, for one as for four.
"""

import mmap
import os
import socket
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from functools import partial

import numpy as np
from numpy.typing import NDArray

TRAINERS = 4
ROW_NBYTES, ROWS = 131072, 8
NBYTES = ROW_NBYTES * ROWS
FILE_NBYTES = 256 << 20
STEP_S = 0.04
STEPS, ROUNDS = 25, 7
SLOTS = 4
"""In which batches are gathered, one after the other: warm, as the slot that was used last is."""

PLACES = 16
"""In a trainer's memory: its window."""


def receive(port: int) -> None:
    """A trainer by TCP: it takes what comes into one of a few buffers."""
    with socket.create_connection(("127.0.0.1", port)) as connection:
        buffers = [bytearray(NBYTES) for _ in range(SLOTS)]
        while True:
            for buffer in buffers:
                rest = memoryview(buffer)
                while rest:
                    count = connection.recv_into(rest)
                    if not count:
                        return
                    rest = rest[count:]


def memory(places: int) -> tuple[int, mmap.mmap]:
    """Shared memory for so many batches, with all of its pages."""
    fd = os.memfd_create("feedline-fan-out")
    os.ftruncate(fd, places * NBYTES)
    mapped = mmap.mmap(fd, places * NBYTES)
    np.frombuffer(mapped, np.uint8)[:] = 1
    return fd, mapped


def send(connection: socket.socket, parts: list[memoryview]) -> None:
    """All of it."""
    while parts:
        sent = connection.sendmsg(parts)
        while parts and sent >= len(parts[0]):
            sent -= len(parts.pop(0))
        if sent:
            parts[0] = parts[0][sent:]


Steps = Iterator[Callable[[], object]]


def contestants(running: ExitStack) -> dict[str, Callable[[int], Steps]]:
    """By name: what is done for the batch of a step, part by part."""
    _, data = memory(FILE_NBYTES // NBYTES)
    rows = np.frombuffer(data, np.uint8).reshape(-1, ROW_NBYTES)
    listener = running.enter_context(socket.create_server(("127.0.0.1", 0)))
    port = str(listener.getsockname()[1])
    connections = []
    for _ in range(TRAINERS):
        process = subprocess.Popen([sys.executable, "-m", "benchmarks.fan_out", port])
        running.callback(process.wait)
        connections.append(running.enter_context(listener.accept()[0]))
        connections[-1].setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    arena_fd, arena = memory(SLOTS)
    trainers = [memory(PLACES) for _ in range(TRAINERS)]
    random = np.random.default_rng(1)

    def gather(into: mmap.mmap, at: int) -> None:
        place = np.frombuffer(into, np.uint8, NBYTES, at).reshape(ROWS, ROW_NBYTES)
        np.take(rows, drawn(), 0, out=place, mode="clip")

    def drawn() -> NDArray[np.int64]:
        return random.integers(0, len(rows), ROWS)

    def one_by_tcp(_step: int) -> Steps:
        yield partial(send, connections[0], [rows[number].data for number in drawn()])

    def four_by_tcp(step: int) -> Steps:
        at = step % SLOTS * NBYTES
        yield partial(gather, arena, at)
        for connection in connections:
            yield partial(send, connection, [memoryview(arena)[at : at + NBYTES]])

    def one_in_place(step: int) -> Steps:
        yield partial(gather, trainers[0][1], step % PLACES * NBYTES)

    def four_written(step: int) -> Steps:
        at = step % SLOTS * NBYTES
        yield partial(gather, arena, at)
        for fd, _ in trainers:
            yield partial(os.pwrite, fd, memoryview(arena)[at : at + NBYTES], step % PLACES * NBYTES)

    def four_read(step: int) -> Steps:
        at, place = step % SLOTS * NBYTES, step % PLACES * NBYTES
        yield partial(gather, arena, at)
        for _, mapped in trainers:
            yield partial(os.preadv, arena_fd, [memoryview(mapped)[place : place + NBYTES]], at)

    return {
        "one trainer, tcp, from where it lies": one_by_tcp,
        "four trainers, tcp, gathered once": four_by_tcp,
        "one trainer, shm, in place": one_in_place,
        "four trainers, shm, by pwrite": four_written,
        "four trainers, shm, by a read": four_read,
    }


def cpu_us(work: Callable[[int], Steps]) -> float:
    """Processor time of a batch, of steps as a trainer makes them; the trainers are not at it at the same moment."""
    used = 0.0
    for step in range(STEPS):
        began = time.perf_counter()
        for act in work(step):
            before = time.thread_time()
            act()
            used += time.thread_time() - before
            time.sleep(STEP_S / (TRAINERS + 2))
        time.sleep(max(began + STEP_S - time.perf_counter(), 0))
    return used / STEPS * 1e6


def main() -> None:
    """Measure and print."""
    with ExitStack() as running:
        works = contestants(running)
        taken: dict[str, list[float]] = {name: [] for name in works}
        for _ in range(ROUNDS):
            for name, work in works.items():
                taken[name].append(cpu_us(work))
    for name, found in taken.items():
        one = next(taken[other] for other in taken if other.startswith("one") and other.split(", ")[1] in name)
        ratios = [many / single for many, single in zip(found, one, strict=True)]
        print(
            f"{name:36}{statistics.median(found):7.0f} us a batch ({min(found):.0f} – {max(found):.0f})"
            f"{statistics.median(ratios):8.2f}x of one ({min(ratios):.2f} – {max(ratios):.2f})"
        )


if __name__ == "__main__":
    if len(sys.argv) > 1:
        receive(int(sys.argv[1]))
    else:
        main()
