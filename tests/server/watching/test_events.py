"""Open pages are told what goes on by one thread: bounded, each as its token allows, and none waits for a slow one."""

import contextlib
import hashlib
import http.client
import json
import queue
import socket
import ssl
import threading
from collections.abc import Callable, Iterator
from http import HTTPStatus
from pathlib import Path
from typing import Any

import pytest
from certificates import Authority, Issued

from feedline_server.access.tokens import hot_reloaded_tokens
from feedline_server.watching import events as module
from feedline_server.watching.events import Datasets, Events
from feedline_server.watching.http import HttpServer, hot_reloaded_context

WITHIN_S = 30.0


class Page:
    """A browser's end of a stream of events."""

    def __init__(self, port: int, query: str = "", tls: ssl.SSLContext | None = None, headers: Any = None) -> None:
        if tls is None:
            self.connection = http.client.HTTPConnection("127.0.0.1", port, timeout=WITHIN_S)
        else:
            self.connection = http.client.HTTPSConnection("127.0.0.1", port, timeout=WITHIN_S, context=tls)
        self.connection.request("GET", f"/events{query}", headers=headers or {})
        self.answer = self.connection.getresponse()

    def event(self) -> tuple[str, Any]:
        """The next one's name and what it says; EOFError at the end."""
        found: dict[str, str] = {}
        while line := self.answer.readline():
            name, _, value = line.decode().rstrip("\n").partition(": ")
            if not name:
                return found["id"], json.loads(found["data"])
            found[name] = value
        raise EOFError

    def ends(self) -> bool:
        """Read on to the end."""
        with contextlib.suppress(EOFError):
            while self.event():
                pass
        return True

    def close(self) -> None:
        self.answer.close()
        self.connection.close()


class Told:
    """What a loader shows: the number of the event, to whom, and after which."""

    def __init__(self) -> None:
        self.asked: list[tuple[Datasets, str]] = []
        self.padding = ""
        self._called = threading.Condition()

    def wait_for(self, asked: tuple[Datasets, str]) -> None:
        """Blocks until this was made."""
        with self._called:
            assert self._called.wait_for(lambda: asked in self.asked, WITHIN_S)

    def __call__(self, datasets: Datasets, last: str) -> tuple[str, dict[str, Any]]:
        padding = self.padding
        with self._called:
            self.asked.append((datasets, last))
            self._called.notify_all()
        name = str(int(last or 0) + 1)
        return name, {"number": int(name), "datasets": datasets and sorted(datasets), "padding": padding}


@pytest.fixture
def told() -> Told:
    return Told()


Start = Callable[..., int]


@pytest.fixture
def start(told: Told, monkeypatch: pytest.MonkeyPatch) -> Iterator[Start]:
    monkeypatch.setattr(module, "EVERY_S", 0.01)
    servers = []

    def run(tokens: Path | None = None, issued: Issued | None = None) -> int:
        tls = None if issued is None else hot_reloaded_context(issued.certificate, issued.key, None)
        servers.append(HttpServer({}, tokens=hot_reloaded_tokens(tokens), tls=tls, events=Events(told)))
        return servers[-1].start("127.0.0.1:0")

    yield run
    for server in servers:
        server.close()
        server.close()


@pytest.fixture
def opened() -> Iterator[Callable[..., Page]]:
    with contextlib.ExitStack() as pages:

        def run(*args: Any, **more: Any) -> Page:
            page = Page(*args, **more)
            pages.callback(page.close)
            return page

        yield run


Opened = Callable[..., Page]


def test_a_page_is_told_again_and_again_and_goes_on_where_it_was(start: Start, opened: Opened) -> None:
    port = start()
    page = opened(port)

    assert (page.answer.status, page.answer.headers["Content-Type"]) == (200, "text/event-stream")
    assert page.answer.headers["Cache-Control"] == "no-store"
    assert [page.event()[0] for _ in range(3)] == ["1", "2", "3"]
    assert opened(port, headers={"Last-Event-ID": "41"}).event()[1]["number"] == 42
    assert opened(port, "?last=50").event()[1]["number"] == 51


def test_pages_have_one_thread_together_and_one_more_than_there_may_be_is_told_so(start: Start, opened: Opened) -> None:
    port = start()
    pages = [opened(port) for _ in range(module.MOST_PAGES)]
    for page in pages:
        page.event()
    asking = [one for one in threading.enumerate() if "process_request" in one.name]
    for one in asking:
        one.join(WITHIN_S)

    assert not any(one.is_alive() for one in asking)  # each page has let go of the thread that it asked by
    assert len([one for one in threading.enumerate() if one.name == "feedline-pages"]) == 1
    refused = opened(port)
    assert refused.answer.status == HTTPStatus.SERVICE_UNAVAILABLE
    assert refused.answer.read() == b"16 pages are open, which is all there may be; close one\n"

    pages[3].close()
    ended = threading.Event()
    while opened(port).answer.status != HTTPStatus.OK:  # its place is free as soon as its end arrives
        assert not ended.wait(0.01)
    assert pages[4].event()


def test_pages_that_may_see_the_same_are_told_the_same_without_making_it_again(
    start: Start, opened: Opened, told: Told, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "EVERY_S", 0.1)  # so that several open in one
    port = start()
    pages = [opened(port) for _ in range(8)]
    seen = [{page.event()[0] for _ in range(20)} for page in pages]

    # Pages that opened within one tick have had as many events: each of these is made once for all of them.
    assert all(names == {str(number) for number in range(1, 21)} for names in seen)
    assert len(told.asked) < 8 * 20


def test_a_page_that_does_not_read_misses_events_and_is_let_go_of_while_others_are_told(
    start: Start, opened: Opened, told: Told, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "STALLED_S", 0.5)
    ended, end = threading.Event(), module._end

    def noted(page: module.Page) -> None:
        ended.set()
        end(page)

    monkeypatch.setattr(module, "_end", noted)
    port = start()
    told.padding = "x" * (32 << 20)  # more than all buffers on the way hold
    with socket.create_connection(("127.0.0.1", port)) as slow:
        slow.settimeout(WITHIN_S)
        slow.sendall(b"GET /events?last=1000 HTTP/1.1\r\nHost: localhost\r\n\r\n")
        assert slow.recv(1) == b"H"
        told.wait_for((None, "1000"))
        told.padding = ""
        quick = opened(port)
        number = 0
        while number < 10 or not ended.is_set():
            number += 1
            assert quick.event()[1]["number"] == number

        got = 1
        with contextlib.suppress(ConnectionResetError):  # the kernel may be as impatient
            while nbytes := len(slow.recv(1 << 20)):
                got += nbytes

    assert got < 32 << 20  # ended in the middle
    assert (None, "1001") not in told.asked


def test_a_slow_page_gets_each_event_whole(start: Start, opened: Opened, told: Told) -> None:
    told.padding = "x" * (4 << 20)
    page = opened(start())

    for number in (1, 2, 3):
        _, said = page.event()
        assert (said["number"], len(said["padding"])) == (number, 4 << 20)


def test_by_tls_it_is_the_same(start: Start, opened: Opened, told: Told, authority: Authority) -> None:
    told.padding = "x" * (4 << 20)
    port = start(issued=authority.issue("loader", "127.0.0.1"))
    page = opened(port, tls=ssl.create_default_context(cafile=str(authority.file)))

    for number in (1, 2, 3):
        _, said = page.event()
        assert (said["number"], len(said["padding"])) == (number, 4 << 20)


def test_a_page_sees_what_its_token_may_and_ends_with_the_token(start: Start, opened: Opened, tmp_path: Path) -> None:
    file = tmp_path / "tokens.toml"
    entry = '[{name}]\nsha256 = "{digest}"\ndatasets = ["{dataset}"]\n'
    one, other = (
        entry.format(name=name, digest=hashlib.sha256(secret).hexdigest(), dataset=name)
        for name, secret in (("a", b"first"), ("b", b"second"))
    )
    file.write_text(one + other)
    port = start(file)

    assert opened(port).answer.status == HTTPStatus.UNAUTHORIZED
    first, second = (opened(port, headers={"Authorization": f"Bearer {token}"}) for token in ("first", "second"))
    assert (first.event()[1]["datasets"], second.event()[1]["datasets"]) == (["a"], ["b"])

    (tmp_path / "new").write_text(other)
    (tmp_path / "new").replace(file)
    assert first.ends()
    assert second.event()


def test_what_cannot_be_made_ends_the_page_and_not_the_thread(
    start: Start, opened: Opened, told: Told, monkeypatch: pytest.MonkeyPatch
) -> None:
    port = start()
    well = opened(port)
    well.event()

    bad = opened(port, "?last=none")  # int("none") raises

    with pytest.raises(EOFError):
        bad.event()
    assert well.event()
    assert opened(port).event()


def test_closing_ends_pages_at_once_and_opens_no_more(told: Told) -> None:
    server = HttpServer({}, tokens=None, tls=None, events=Events(told))
    page = Page(server.start("127.0.0.1:0"))
    page.event()
    ends: queue.SimpleQueue[bool] = queue.SimpleQueue()

    def wait() -> None:
        ends.put(page.ends())

    waiting = threading.Thread(target=wait)
    waiting.start()
    server.close()

    assert ends.get(timeout=WITHIN_S)
    waiting.join(WITHIN_S)
    page.close()
    assert not [one for one in threading.enumerate() if one.name == "feedline-pages"]


def test_a_client_that_goes_on_talking_is_no_page(start: Start) -> None:
    with socket.create_connection(("127.0.0.1", start())) as one:
        one.settimeout(WITHIN_S)
        one.sendall(b"GET /events HTTP/1.1\r\nHost: localhost\r\n\r\n")
        assert one.recv(1) == b"H"
        one.sendall(b"x" * 100)
        with contextlib.suppress(ConnectionResetError):
            while one.recv(1 << 16):
                pass
