"""The door of the shm lane: whatever a trainer does there, its memory is kept while it has a lane and not longer."""

import contextlib
import fcntl
import os
import socket
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from termios import TIOCOUTQ

import pytest

from feedline_server.lanes.lane import Offer
from feedline_server.lanes.shm import ShmListener
from feedline_server.memory.trainer import SEALS
from feedline_server.settings.settings import Settings
from feedline_wire.lane import ACCEPTED, PROOF_NBYTES, SHM_GREETING

NAME = "feedline-at-the-door"


@pytest.fixture
def lanes() -> Iterator[ShmListener]:
    lanes = ShmListener()
    lanes.start(Settings(datasets={}))
    yield lanes
    lanes.close()
    lanes.close()


@pytest.fixture
def offer(lanes: ShmListener) -> Offer:
    return lanes.offer(lambda lane: None)


@pytest.fixture
def memory() -> Iterator[int]:
    fd = os.memfd_create(NAME, os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
    os.ftruncate(fd, 1 << 20)
    fcntl.fcntl(fd, fcntl.F_ADD_SEALS, SEALS)
    yield fd
    os.close(fd)


def knock(lanes: ShmListener, said: bytes, fd: int) -> socket.socket:
    connection = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    connection.settimeout(20)
    connection.connect("\0" + lanes.address)
    socket.send_fds(connection, [said], [fd])
    return connection


def held() -> tuple[int, int]:
    """Descriptors and mappings of the memory in this process, which is trainer and loader at once."""
    links = [one.readlink() for one in Path("/proc/self/fd").iterdir() if one.is_symlink()]
    return sum(NAME in str(link) for link in links), Path("/proc/self/maps").read_text().count(NAME)


def until(holds: Callable[[], bool], what: str) -> None:
    deadline = time.monotonic() + 20
    while not holds():
        assert time.monotonic() < deadline, f"after 20 s still not: {what}"
        time.sleep(0.01)  # nobody tells


def test_memory_of_a_trainer_with_a_lane_is_kept_until_its_stream_ends(
    lanes: ShmListener, offer: Offer, memory: int
) -> None:
    with knock(lanes, SHM_GREETING + offer.secret, memory) as connection:
        assert connection.recv(100) == ACCEPTED + offer.proof
        until(lambda: offer.lane is not None, "it has its lane")
        assert held() == (3, 1)  # the test's own, the loader's, and the one that Python keeps with a mapping

        lanes.withdraw(offer)

        assert held() == (1, 0)
        assert connection.recv(1) == b""


@pytest.mark.parametrize("what", ["no ticket", "no greeting", "too late"])
def test_memory_of_who_gets_no_lane_is_let_go_of(lanes: ShmListener, offer: Offer, memory: int, what: str) -> None:
    said = {"no ticket": SHM_GREETING + bytes(16), "no greeting": b"x" * 36}.get(what, SHM_GREETING + offer.secret)
    if what == "too late":
        offer.end()
    with knock(lanes, said, memory) as connection:
        assert connection.recv(len(ACCEPTED) + PROOF_NBYTES) == b""

    assert held() == (1, 0)


def test_memory_of_who_hangs_up_before_it_is_answered_is_let_go_of(
    lanes: ShmListener, offer: Offer, memory: int
) -> None:
    """Its ticket stays good, so it could do it again: each time left a descriptor, and memory, until the loader ended.

    Through `_greet`, because at the door it depends on who is quicker.
    """
    for _ in range(3):
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_STREAM)
        with theirs:
            socket.send_fds(ours, [SHM_GREETING + offer.secret], [memory])
            ours.close()
            with pytest.raises(OSError, match="Broken pipe"):
                lanes._greet(theirs)

    assert held() == (1, 0)
    with knock(lanes, SHM_GREETING + offer.secret, memory) as connection:
        assert connection.recv(100) == ACCEPTED + offer.proof
    lanes.withdraw(offer)


def test_a_greeting_that_arrives_byte_by_byte_is_heard_out(lanes: ShmListener, offer: Offer, memory: int) -> None:
    """Its first byte was taken for all of it, and its trainer went by gRPC."""
    greeting = SHM_GREETING + offer.secret
    with knock(lanes, greeting[:1], memory) as connection:
        for byte in greeting[1:]:
            until(lambda: fcntl.ioctl(connection, TIOCOUTQ, bytes(4)) == bytes(4), "it has read what came")
            connection.send(bytes([byte]))

        assert connection.recv(100) == ACCEPTED + offer.proof
    lanes.withdraw(offer)

    assert held() == (1, 0)


@pytest.mark.parametrize("said_nbytes", [1, 35])
def test_who_does_not_say_all_of_it_is_sent_away_in_time_and_nothing_is_held(
    lanes: ShmListener, offer: Offer, memory: int, said_nbytes: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("feedline_wire.lane.GREETING_S", 0.2)
    with knock(lanes, (SHM_GREETING + offer.secret)[:said_nbytes], memory) as connection:
        assert connection.recv(1) == b""

    assert held() == (1, 0)
    assert offer.lane is None


def test_who_brings_a_descriptor_with_every_byte_is_sent_away_at_the_second(
    lanes: ShmListener, offer: Offer, memory: int
) -> None:
    with knock(lanes, SHM_GREETING[:1], memory) as connection:
        with contextlib.suppress(BrokenPipeError):  # it is quick
            socket.send_fds(connection, [SHM_GREETING[1:2]], [memory])
        with contextlib.suppress(ConnectionResetError):
            assert connection.recv(1) == b""

    until(lambda: held() == (1, 0), "both are let go of")
    assert offer.lane is None
