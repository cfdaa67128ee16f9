"""Which addresses a name has, and how long that is believed."""

import socket
import threading
from collections.abc import Iterator
from queue import SimpleQueue

import pytest

from feedline.connection.target import Address, Entry, Name, Source
from feedline.fleet import resolve
from feedline.fleet.resolve import Watch, look_up
from feedline_wire.errors import FeedlineError, InvalidRequest, LoaderUnavailable

WAIT_S = 30.0


def answer(*hosts: str) -> list[tuple[object, ...]]:
    """As `getaddrinfo` gives it."""
    return [
        (socket.AF_INET6, socket.SOCK_STREAM, 6, "", (host, 50051, 0, 0))
        if ":" in host
        else (socket.AF_INET, socket.SOCK_STREAM, 6, "", (host, 50051))
        for host in hosts
    ]


def test_every_address_of_a_name_is_a_loader_that_is_known_by_the_name(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(socket, "getaddrinfo", lambda *_, **__: answer("10.0.0.7", "10.0.0.8", "10.0.0.7", "fd00::1"))

    assert look_up(Name("loader", 50051)) == (
        Address("10.0.0.7:50051", "loader"),
        Address("10.0.0.8:50051", "loader"),
        Address("[fd00::1]:50051", "loader"),
    )


def test_localhost_is_found() -> None:
    assert Address("127.0.0.1:50051", "localhost") in look_up(Name("localhost", 50051))


@pytest.mark.parametrize("name", ["loader.invalid", "x" * 64 + ".invalid"])
def test_a_name_without_an_address_is_an_error_that_names_it(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(host: str, *_: object, **__: object) -> None:
        host.encode("idna")
        raise socket.gaierror(-2, "Name or service not known")

    monkeypatch.setattr(socket, "getaddrinfo", refuse)

    with pytest.raises(LoaderUnavailable, match=f"{name}:50051: the name has no address"):
        look_up(Name(name, 50051))


def test_an_address_is_itself() -> None:
    assert look_up(Address("10.0.0.7:1")) == (Address("10.0.0.7:1"),)


def test_a_function_may_say_anything_that_a_target_may_be() -> None:
    assert look_up(Source(lambda: "10.0.0.7:1,10.0.0.8:1")) == (Address("10.0.0.7:1"), Address("10.0.0.8:1"))
    assert look_up(Source(lambda: iter(["10.0.0.7:1", "10.0.0.7:1"]))) == (Address("10.0.0.7:1"),)


def test_a_function_that_fails_is_asked_again_and_one_that_talks_nonsense_is_refused() -> None:
    def broken() -> list[str]:
        raise KeyError("consul")

    with pytest.raises(
        LoaderUnavailable, match=r"broken\(\) failed to say where the loaders are: KeyError\('consul'\)"
    ):
        look_up(Source(broken))
    with pytest.raises(InvalidRequest, match=r"'loader' in the target .* is not 'host:port'"):
        look_up(Source(lambda: ["loader"]))


# ---- again and again ----

Seen = tuple[Address, ...] | FeedlineError


@pytest.fixture
def seen() -> "SimpleQueue[Seen]":
    return SimpleQueue()


@pytest.fixture
def answers() -> "SimpleQueue[list[str] | Exception]":
    """What the function below says, one after the other; it waits for the next."""
    return SimpleQueue()


@pytest.fixture
def watch(
    seen: "SimpleQueue[Seen]", answers: "SimpleQueue[list[str] | Exception]", monkeypatch: pytest.MonkeyPatch
) -> Iterator[Watch]:
    monkeypatch.setattr(resolve, "SOONEST_S", 0.0)
    monkeypatch.setattr(resolve, "EVERY_S", 3600.0)

    def ask() -> list[str]:
        found = answers.get(timeout=WAIT_S)
        if isinstance(found, Exception):
            raise found
        return found

    def note(_entry: Entry, found: Seen) -> None:
        seen.put(found)

    watch = Watch(Source(ask), found=note, failed=note)
    yield watch
    watch.begin_close()
    answers.put([])
    watch.finish_close(WAIT_S)
    assert not any(thread.name.startswith("feedline names") for thread in threading.enumerate())


def test_a_name_is_asked_at_once_and_again_when_something_was_lost(
    watch: Watch, seen: "SimpleQueue[Seen]", answers: "SimpleQueue[list[str] | Exception]"
) -> None:
    watch.start()
    answers.put(["10.0.0.7:1"])
    assert seen.get(timeout=WAIT_S) == (Address("10.0.0.7:1"),)

    watch.ask_now()
    answers.put(["10.0.0.7:1", "10.0.0.8:1"])
    assert seen.get(timeout=WAIT_S) == (Address("10.0.0.7:1"), Address("10.0.0.8:1"))


def test_a_name_that_cannot_be_resolved_is_asked_again(
    watch: Watch, seen: "SimpleQueue[Seen]", answers: "SimpleQueue[list[str] | Exception]"
) -> None:
    watch.start()
    answers.put(OSError("no route to the name server"))
    assert isinstance(seen.get(timeout=WAIT_S), LoaderUnavailable)

    watch.ask_now()
    answers.put(["10.0.0.7:1"])
    assert seen.get(timeout=WAIT_S) == (Address("10.0.0.7:1"),)


def test_closing_does_not_wait_for_a_name_service_that_never_answers(watch: Watch) -> None:
    watch.start()

    watch.begin_close()
    watch.finish_close(0.01)

    assert repr(watch) == "<Watch ask() closed>"


def test_a_name_server_that_never_answers_keeps_no_process_alive() -> None:
    watch = Watch(Name("loader", 1), found=lambda *_: None, failed=lambda *_: None)

    assert watch._thread.daemon


def test_a_name_is_asked_for_every_few_seconds_and_not_at_once_again(monkeypatch: pytest.MonkeyPatch) -> None:
    waits: list[float] = []

    def waited(seconds: float) -> bool:
        waits.append(seconds)
        return len(waits) == 2 and watch.begin_close() is None

    monkeypatch.setattr(resolve, "look_up", lambda _: ())
    watch = Watch(Name("loader", 1), found=lambda *_: None, failed=lambda *_: None)
    monkeypatch.setattr(watch._closing, "wait", waited)
    monkeypatch.setattr(watch._asked, "wait", waited)

    watch._run()

    assert waits == [resolve.SOONEST_S, resolve.EVERY_S - resolve.SOONEST_S]
