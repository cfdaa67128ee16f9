"""Which batches of a stream go compressed: those that a thin line holds up, where that makes them faster.

When it is the line that a stream waits for, pieces of its columns are compressed once, by each method, and each column
is given the method with which it will pass in the shortest time, or none. If batches then come no faster than before,
they go as they are again, and it is tried again later, and later each time.
"""

import math
import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from feedline_server.lanes.line import Line, LineMeter, Window
from feedline_wire import compression
from feedline_wire.compression import LEAST_NBYTES, METHODS, Method
from feedline_wire.key import Key
from feedline_wire.tensors import Array, Layout

BUSY = 0.7
"""The part of a window in which something was on the line, from which on the line is what a stream waits for."""

LEAST_GAIN = 1.1
"""Compressing that promises less is not begun: the promise is measured on a piece, and workers lose the cores."""

LEAST_GAINED = 1.02
"""What it has to bring, or it ends."""

REST_S, LONGEST_REST_S = 8.0, 256.0
"""How long it is left alone when it brought nothing, and what that grows to, by fours."""

TRIED_NBYTES = 256 << 10
"""Of a column, as one piece from its middle: a method takes 0.2 to 2 ms for it."""

TIMES = 3
"""How often; the quickest counts, in processor time: it is remembered, and must not be that of a moment without a core.
The first loads the library."""

MOST_NBYTES = 64 << 20
"""Longer batches go as they are: what stands for a batch lies beside the arena while it is sent, for each stream."""

REMEMBERED = 256
"""Datasets whose trials are remembered; a hostile trainer cannot make more than are served, times versions."""


@dataclass(frozen=True, slots=True)
class Trial:
    """What a method did to a piece of a column."""

    method: Method
    ratio: float
    """Bytes that stand for one."""
    compress_s: float
    """Seconds a byte, and the other way round."""
    decompress_s: float


Columns = Mapping[str, Sequence[Trial]]
"""The trials of a dataset's columns."""


def passing_s(trial: Trial, line_s: float) -> float:
    """Seconds a byte of a column takes to pass a line that takes `line_s` for one.

    Both ends work while the line does, so it is the slowest of the three.
    """
    return max(trial.compress_s, trial.ratio * line_s, trial.decompress_s)


def chosen(columns: Columns, line_s: float) -> dict[str, Method]:
    """For each column the method with which it passes in the shortest time; those that go as they are have none."""
    methods: dict[str, Method] = {}
    for name, trials in columns.items():
        best = min(trials, key=lambda trial: passing_s(trial, line_s), default=None)
        if best is not None and LEAST_GAIN * passing_s(best, line_s) <= line_s:
            methods[name] = best.method
    return methods


def tried(piece: Array, itemsize: int) -> list[Trial]:
    """Each method on a piece of a column (uint8, 1-D)."""
    trials = []
    into = np.empty_like(piece)
    for method in METHODS:
        took: list[tuple[float, float]] = []
        source: bytes | memoryview = b""
        for _ in range(TIMES):
            begun = time.thread_time()
            source = compression.compress(piece, itemsize, method)
            middle = time.thread_time()
            compression.decompress(memoryview(source), into)
            took.append((middle - begun, time.thread_time() - middle))
        compress_s, decompress_s = (min(each) / len(piece) for each in zip(*took, strict=True))
        trials.append(Trial(method, len(source) / len(piece), compress_s, decompress_s))
    return trials


class Trials:
    """What compressing did to the columns that a loader serves. Thread-safe."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._found: OrderedDict[tuple[str, bytes], Columns] = OrderedDict()

    def known(self, key: Key) -> Columns | None:
        """Of the dataset of a key; None if it was not tried."""
        with self._lock:
            return self._found.get((key.dataset, key.fingerprint))

    def make(self, key: Key, layout: Layout, body: Array) -> Columns:
        """Try the columns of a batch. A column that is too short for it has none."""
        columns: dict[str, list[Trial]] = {}
        for array in layout.arrays:
            itemsize = array.dtype.itemsize
            start = max(array.nbytes - TRIED_NBYTES, 0) // 2 // itemsize * itemsize
            piece = body[array.offset + start : array.offset + min(start + TRIED_NBYTES, array.nbytes)]
            if len(piece) >= LEAST_NBYTES:
                columns[array.name] = tried(piece, itemsize)
        with self._lock:
            self._found[key.dataset, key.fingerprint] = columns
            if len(self._found) > REMEMBERED:
                self._found.popitem(last=False)
        return columns


class Compressed(NamedTuple):
    """What stands for a body, and how much of it for each chunk, as that travels."""

    body: memoryview
    lengths: bytes


class Compressor:
    """Compresses the batches of one stream, or does not. Its sender's thread."""

    def __init__(self, trials: Trials, line: Line, now: Callable[[], float] = time.monotonic) -> None:
        self._trials = trials
        self._now = now
        self._line_s: float | None = None  # seconds a byte of the line, while batches are compressed
        self._rest_s, self._rest_until = REST_S, -math.inf
        self._before = 0.0  # bytes a second of batches that went as they were
        self._is_settled = False  # batches have been compressed for a window
        self._key: Key | None = None  # of the last batch
        self._methods: dict[tuple[str, bytes], Mapping[str, Method]] = {}  # as of this window
        self.use(line)

    def __repr__(self) -> str:
        return f"<Compressor {'on' if self.is_on else 'off'} columns={[*self._methods.values()]}>"

    @property
    def is_on(self) -> bool:
        """Batches should be assembled in memory, and given to `compressed`."""
        return self._line_s is not None

    def use(self, line: Line) -> None:
        """The stream has another line from now on."""
        self._meter = LineMeter(line, self._now)
        self._begin_window()

    def compressed(self, key: Key, layout: Layout, memory: memoryview) -> Compressed | None:
        """What stands for a batch; None where nothing shorter should."""
        if self._line_s is None:
            return None
        self._has_looked_at = True
        if len(memory) > MOST_NBYTES:
            return None
        body = np.frombuffer(memory, np.uint8)
        methods = self._methods.get((key.dataset, key.fingerprint))
        if methods is None:
            known = self._trials.known(key)
            methods = chosen(self._trials.make(key, layout, body) if known is None else known, self._line_s)
            self._methods[key.dataset, key.fingerprint] = methods
        if not methods:
            return None
        itemsizes = {array.name: array.dtype.itemsize for array in layout.arrays}
        parts: list[bytes | memoryview] = []
        for name, start, stop in compression.chunks(layout):
            chunk, method = body[start:stop], methods.get(name)
            parts.append(chunk.data if method is None else compression.compress(chunk, itemsizes[name], method))
        return Compressed(memoryview(b"".join(parts)), compression.write_lengths(map(len, parts)))

    def sent(self, key: Key, nbytes: int) -> None:
        """A batch of so many bytes, compressed or not, is with the line. Decides whether the next are compressed.

        Raises OSError if the line is closed.
        """
        self._key = key
        if (window := self._meter.sent(nbytes)) is not None:
            if window.quickest > 0:
                self._decide(window)
            self._begin_window()

    def _decide(self, window: Window) -> None:
        line_s = 1 / window.quickest
        if self._line_s is None:
            if window.busy >= BUSY and self._now() >= self._rest_until and self._is_promising(line_s):
                self._line_s, self._before, self._is_settled = line_s, window.sent, False
        elif not self._is_promising(line_s):  # the line is not what it was
            self._line_s = None
        # What was ready before is on its way yet, straight from files.
        elif self._has_looked_at:
            # Not at first: buffers are full of what was not compressed, and the trainer loads the library.
            if self._is_settled and window.sent < LEAST_GAINED * self._before:
                self._line_s = None
                self._rest_until = self._now() + self._rest_s
                self._rest_s = min(4 * self._rest_s, LONGEST_REST_S)
                return
            self._line_s = line_s
            if self._is_settled:
                self._rest_s = REST_S
            self._is_settled = True

    def _is_promising(self, line_s: float) -> bool:
        """A column of what was sent last may pass faster; also if that was not tried yet."""
        known = None if self._key is None else self._trials.known(self._key)
        return known is None or bool(chosen(known, line_s))

    def _begin_window(self) -> None:
        self._has_looked_at = False
        self._methods.clear()
