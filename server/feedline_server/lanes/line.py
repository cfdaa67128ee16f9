"""What a stream's line carries, measured while it has something to carry.

A line is never quicker than it is. It looks slower while the trainer does not read or an end of it has no core, so what
counts is the quickest moment of a window, not its mean. On a very busy host a quick line may still look thin.
"""

import socket
import struct
import time
from collections.abc import Callable, Iterable, Iterator
from typing import NamedTuple, Protocol

WINDOW_S = 2.0
"""Measured at once: a hundred moments, and longer than the buffers of a line hide what it carries."""

MOMENT_S = 0.02
"""Some 40 packets at 125 MB/s, so that it is not what a buffer took at once."""

PAUSE_S = 0.5
"""When a stream has had nothing to send for most of so long, its trainer does something else, and a window begins anew:
what it came to before and after is no rate."""


class Passed(NamedTuple):
    """What a line has carried since it began: bytes, and the seconds in which it had something to carry."""

    nbytes: int
    busy_s: float


class Line(Protocol):
    """What carries a stream."""

    def passed(self) -> Passed:
        """What it has carried until now."""
        ...


class Window(NamedTuple):
    """What a line did in some seconds."""

    seconds: float
    busy: float
    """The part of them in which it had something to carry."""
    quickest: float
    """Bytes a second, in the moment in which it carried most."""
    sent: float
    """Bytes a second of what was sent, before anything stood for them."""


class LineMeter:
    """Measures a line window by window. One thread."""

    def __init__(self, line: Line, now: Callable[[], float] = time.monotonic) -> None:
        self._line = line
        self._now = now
        self._began = self._moment = now()
        self._before = self._last = line.passed()
        self._quickest = 0.0
        self._sent = 0

    def sent(self, nbytes: int) -> Window | None:
        """So many bytes, or what stands for them, are with the line now. The window that ends with them, if one does.

        Raises OSError if the line is closed.
        """
        self._sent += nbytes
        now = self._now()
        moment_s = now - self._moment
        if moment_s < MOMENT_S:
            return None
        passed = self._line.passed()
        self._quickest = max(self._quickest, (passed.nbytes - self._last.nbytes) / moment_s)
        was_paused = moment_s > PAUSE_S and passed.busy_s - self._last.busy_s < moment_s / 2
        self._moment, self._last = now, passed
        seconds = now - self._began
        if seconds < WINDOW_S and not was_paused:
            return None
        window = Window(seconds, (passed.busy_s - self._before.busy_s) / seconds, self._quickest, self._sent / seconds)
        self._began, self._before, self._quickest, self._sent = now, passed, 0.0, 0
        return None if was_paused else window


_TCP_INFO = struct.Struct("120xQ40xQ")
"""Of Linux' `struct tcp_info`: tcpi_bytes_acked and tcpi_busy_time, microseconds (since 4.9)."""


class TcpLine:
    """A TCP connection, of which the kernel knows how long it had something to send or to hear of."""

    def __init__(self, connection: socket.socket) -> None:
        self._connection = connection

    def passed(self) -> Passed:
        """See Line. Raises OSError if the connection is closed."""
        found = self._connection.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, _TCP_INFO.size)
        nbytes, busy_us = _TCP_INFO.unpack(found) if len(found) == _TCP_INFO.size else (0, 0)
        return Passed(nbytes, busy_us / 1e6)


class TimedLine:
    """A line of which is known how long it takes what it is given: gRPC's stream."""

    def __init__(self) -> None:
        self._passed = Passed(0, 0.0)

    def took(self, nbytes: int, seconds: float) -> None:
        """So many bytes passed in so many seconds."""
        self._passed = Passed(self._passed.nbytes + nbytes, self._passed.busy_s + seconds)

    def timed(self, pieces: Iterable[bytes]) -> Iterator[bytes]:
        """The same pieces; who takes them takes each as soon as it has passed."""
        for piece in pieces:
            begun = time.monotonic()
            yield piece
            self.took(len(piece), time.monotonic() - begun)

    def passed(self) -> Passed:
        """See Line."""
        return self._passed
