"""Server-sent events: what open pages are told every two seconds, by one thread for all of them.

A page has a place while its connection is open and takes what it is sent; there is a bound on places, and each holds
one event at most. Nothing blocks: what a slow browser does not take waits here for it alone, and not for long.

The format is that of https://html.spec.whatwg.org/multipage/server-sent-events.html.
"""

import contextlib
import json
import selectors
import socket
import ssl
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import structlog

from feedline_server.access.tokens import Authorization

EVERY_S = 2.0
"""Between two events: what is shown changes each second at most."""

MOST_PAGES = 16
"""Open at once. A browser lets go of its place while its page is hidden."""

STALLED_S = 20.0
"""A page that takes nothing for so long is sent nothing more: ten events."""

CONTENT_TYPE = "text/event-stream"

Datasets = frozenset[str] | None

Made = Callable[[Datasets, str], tuple[str, dict[str, Any]]]  # Any: what JSON has
"""(datasets that a page may see, the name of the last event that it has, or "") → the next one's name and content."""

log = structlog.get_logger()


@dataclass(slots=True, eq=False)
class Page:
    """One open page."""

    connection: socket.socket
    authorization: Authorization
    last: str
    """The name of the last event that it was sent."""
    unsent: memoryview
    moved_at: float
    """When it last took anything."""


class Events:
    """Tells pages what `made` makes until `close`. Its thread starts with the first page. Thread-safe."""

    def __init__(self, made: Made) -> None:
        self._made = made
        self._lock = threading.Lock()
        self._new: list[Page] = []
        self._count = 0
        self._thread: threading.Thread | None = None
        self._is_closing = False
        self._next_at = 0.0
        self._wake, self._woken = socket.socketpair()
        self._selector = selectors.DefaultSelector()
        self._selector.register(self._woken, selectors.EVENT_READ)

    def take_place(self) -> bool:
        """Keep a place for a page, which `add` or `leave_place` follows. False if there is none."""
        with self._lock:
            if self._is_closing or self._count >= MOST_PAGES:
                return False
            self._count += 1
            return True

    def leave_place(self) -> None:
        """The page with a place did not come, or is gone."""
        with self._lock:
            self._count -= 1

    def add(self, connection: socket.socket, authorization: Authorization, last: str) -> None:
        """Send a page with a place events from now on. The connection is taken over, and closed here."""
        page = Page(connection, authorization, last, memoryview(b""), time.monotonic())
        try:
            connection.setblocking(False)
            if hasattr(socket, "TCP_USER_TIMEOUT"):  # a browser that is gone without a word
                connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, round(STALLED_S * 1000))
            with self._lock:
                is_late = self._is_closing
                if not is_late:
                    self._start()
                    self._new.append(page)
        except (OSError, RuntimeError):  # no thread to be had
            is_late = True
        if is_late:
            _end(page)
            self.leave_place()
        else:
            with contextlib.suppress(OSError):  # closed meanwhile
                self._wake.send(b"\0")

    def _start(self) -> None:
        if self._thread is None or not self._thread.is_alive():
            thread = threading.Thread(target=self._run, name="feedline-pages", daemon=True)
            thread.start()
            self._thread = thread

    def close(self) -> None:
        """End all pages. Idempotent."""
        with self._lock:
            was_closing, self._is_closing, thread = self._is_closing, True, self._thread
        if was_closing:
            return
        self._wake.send(b"\0")
        if thread is not None:
            thread.join()
        for page in self._new:
            _end(page)
        self._selector.close()
        self._wake.close()
        self._woken.close()

    # ---- its thread ----

    def _run(self) -> None:
        pages: set[Page] = set()
        try:
            while not self._is_closing:
                self._turn(pages)
        finally:
            self._let_go(pages, set(pages))

    def _turn(self, pages: set[Page]) -> None:
        """Wait for something to do, until the next event at most, and do it."""
        timeout_s = max(self._next_at - time.monotonic(), 0.0) if pages else None
        ready = [(key.data, events) for key, events in self._selector.select(timeout_s)]
        gone = {page for page, events in ready if page is not None and not _is_well(page, events)}
        for page in self._taken_up():
            self._selector.register(page.connection, selectors.EVENT_READ, page)
            pages.add(page)
            gone |= self._tell([page])
        if time.monotonic() >= self._next_at:
            self._next_at = time.monotonic() + EVERY_S
            gone |= self._tell(pages - gone)
        self._let_go(pages, gone)
        for page in pages:
            wanted = selectors.EVENT_READ | (selectors.EVENT_WRITE if page.unsent else 0)
            self._selector.modify(page.connection, wanted, page)

    def _let_go(self, pages: set[Page], gone: set[Page]) -> None:
        for page in gone:
            pages.discard(page)
            self._selector.unregister(page.connection)
            _end(page)
            self.leave_place()

    def _taken_up(self) -> list[Page]:
        with contextlib.suppress(BlockingIOError):
            self._woken.recv(64, socket.MSG_DONTWAIT)
        with self._lock:
            new, self._new = self._new, []
        return new

    def _tell(self, pages: "set[Page] | list[Page]") -> set[Page]:
        """Send each of these its next event; those that are to be let go of."""
        gone, made, now = set(), dict[tuple[Datasets, str], tuple[str, bytes]](), time.monotonic()
        for page in pages:
            if not page.authorization.is_valid() or (page.unsent and now > page.moved_at + STALLED_S):
                gone.add(page)
                continue
            if page.unsent:  # it is slow: it misses events, and what it gets is whole
                continue
            of = (page.authorization.caller.datasets, page.last)
            try:
                if of not in made:
                    made[of] = _encoded(*self._made(*of))
            except Exception:
                log.exception("a page cannot be told")
                gone.add(page)
                continue
            page.last, body = made[of]
            page.unsent, page.moved_at = memoryview(body), now
            if not _is_well(page, selectors.EVENT_WRITE):
                gone.add(page)
        return gone


def _encoded(name: str, values: dict[str, Any]) -> tuple[str, bytes]:
    return name, f"id: {name}\ndata: {json.dumps(values)}\n\n".encode()


def _is_well(page: Page, events: int) -> bool:
    """Send what it takes; False if it is gone."""
    try:
        if events & selectors.EVENT_READ:
            # A page has asked already. Bytes are none of a browser's, and the end is the end.
            page.connection.recv(1)
            return False
    except (BlockingIOError, ssl.SSLWantReadError):  # of TLS itself
        pass
    except OSError:
        return False
    try:
        while page.unsent:
            page.unsent = page.unsent[page.connection.send(page.unsent) :]
            page.moved_at = time.monotonic()
    except (BlockingIOError, ssl.SSLWantWriteError, ssl.SSLWantReadError):
        return True
    except OSError:
        return False
    return True


def _end(page: Page) -> None:
    with contextlib.suppress(OSError):
        page.connection.shutdown(socket.SHUT_RDWR)
    page.connection.close()
