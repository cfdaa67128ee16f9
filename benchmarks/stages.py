"""What timing the stages of a batch costs each process, at most 5 us a batch (docs/design.md).

The processor time of this thread, the best of many runs: what else the machine does is not its cost. Beside it the same
in turns of a loop of plain Python that is measured in between, which another machine has as well.

    python -m benchmarks.stages
"""

import sys
import time
from collections.abc import Callable
from typing import Any, cast

import numpy as np

from feedline.connection.buffers import Received
from feedline.fleet.requests import PendingBatch
from feedline.watching.waits import Waits
from feedline_server.host.stopwatch import Stopwatch
from feedline_server.memory.arena import Slot
from feedline_server.scheduling.stream import Batch, Want, stages_of
from feedline_server.workers.messages import Done, by_stage
from feedline_wire import loader_pb2 as pb
from feedline_wire import stages
from feedline_wire.frames import Piece, decode_head, encode_head
from feedline_wire.key import Key
from feedline_wire.tensors import Layout

MOST_US = 5.0

RUNS, EACH = 50, 1000

KEY = Key("d", b"", "train", "shuffle", 0, 0, 0, 8)
SPENT = {"assemble": 0.1, "read": 0.1, "storage": 0.1, "0 resize": 0.1}

Act = Callable[[], object]


def in_worker() -> list[tuple[Act, int]]:
    """What a worker does for a batch, and how often."""
    watch = Stopwatch()

    def batch() -> None:
        watch.start()
        watch.begin_read()
        watch.end_read()
        watch.lap("0 resize")
        watch.lap("assemble")

    return [(batch, 1)]


def in_loader() -> list[tuple[Act, int]]:
    """What a loader does for a batch; a head without stages is what it would write anyway."""
    done = Done(1, None, SPENT)
    batch = Batch(Want(1, KEY, 10, 1.0), Layout((), 0), Slot(0, 10), 2.0, by_stage(done.spent))
    spent: dict[str, float] = {}
    timed = Piece(1, 0, b"", b"123", stages=stages_of(batch, 3.0))
    untimed = Piece(1, 0, b"", b"123")

    def of_batch() -> None:
        for stage, seconds in done.spent.items():
            spent[stage] = spent.get(stage, 0.0) + seconds
        by_stage(done.spent)
        stages_of(batch, 3.0)

    return [(of_batch, 1), (lambda: encode_head(timed), 1), (lambda: encode_head(untimed), -1)]


def in_trainer() -> list[tuple[Act, int]]:
    """What a trainer does for a batch that it waits for."""
    received = Received(np.empty(0, np.uint8), Layout((), 0), stages.pack(0.1, 0.1, 0.0, 0.2, 0.3, 0.1))

    class Fleet:
        def wait(self, pending: PendingBatch, timeout_s: float) -> Received:
            return received

        def report(self, reader: pb.Reader) -> str:
            return "tcp"

    waits = Waits(cast("Any", Fleet()), pb.Reader(), lambda _: None)
    late = PendingBatch(1, KEY, 1, None, took_s=1.0)
    head = encode_head(Piece(1, 0, b"", b"123", stages=received.stages))
    without = encode_head(Piece(1, 0, b"", b"123"))

    def taken() -> None:
        waits.wait(late, 1)
        waits.handed_out(0, 1, 8)

    return [(taken, 1), (lambda: decode_head(head), 1), (lambda: decode_head(without), -1)]


PROCESSES: dict[str, Callable[[], list[tuple[Act, int]]]] = {
    "worker": in_worker,
    "loader": in_loader,
    "trainer": in_trainer,
}


def turn() -> None:
    """A turn of the loop to compare with."""
    found: dict[str, float] = {}
    for stage, seconds in SPENT.items():
        found[stage] = found.get(stage, 0.0) + seconds


def cost_us(act: Act) -> float:
    """Processor time of one run, the best of many."""
    best = float("inf")
    for _ in range(RUNS):
        began = time.thread_time()
        for _ in range(EACH):
            act()
        best = min(best, time.thread_time() - began)
    return best / EACH * 1e6


def main() -> int:
    """Measure and print; the exit code."""
    of_nothing, of_turn = cost_us(lambda: None), cost_us(turn)
    print(f"{'process':10}{'us a batch':>12}{'turns':>8}   (a turn {of_turn - of_nothing:.2f} us)")
    most = 0.0
    for name, acts in PROCESSES.items():
        us = sum(times * (cost_us(act) - of_nothing) for act, times in acts())
        most = max(most, us)
        print(f"{name:10}{us:12.2f}{us / (of_turn - of_nothing):8.1f}")
    print(f"at most {most:.2f} us; wanted {MOST_US:g}")
    return int(most > MOST_US)


if __name__ == "__main__":
    sys.exit(main())
