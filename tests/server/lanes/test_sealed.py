"""The loader's end of the sealed lane: all that it sends is sealed, in order, once, with a key of that stream alone."""

import os
import queue
import socket
import threading
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from structlog.testing import capture_logs

from feedline_server.lanes.iovec import Checkpoint, Iovec
from feedline_server.lanes.lane import Lane, Message
from feedline_server.lanes.sealed import SealedLane, SealedListener, SealedOffer
from feedline_wire import sealing
from feedline_wire.errors import LoaderUnavailable
from feedline_wire.lane import ACCEPTED, HEAD, SEALED_GREETING, SEALED_HEAD, TICKET_NBYTES
from feedline_wire.sealing import PIECE_NBYTES, TAG_NBYTES, Opener, Sealer

LANE = b"sixteen bytes..."
WAIT_S = 30.0


def message(number: int, body: bytes) -> Message:
    return Message(b"piece %d" % number, len(body), memoryview(body))


class Reading:
    """Opens what comes, as feedline_wire.lane says it is sent."""

    def __init__(self, connection: socket.socket, opener: Opener) -> None:
        self._file = connection.makefile("rb")
        self._opener = opener

    def piece(self, nbytes: int) -> bytes:
        opened = bytearray(nbytes)
        self._opener.open(memoryview(self._file.read(nbytes + TAG_NBYTES)), memoryview(opened))
        return bytes(opened)

    def message(self) -> tuple[bytes, bytes] | None:
        """The piece and the body of the next answer; None at the end."""
        announced = self._file.read(SEALED_HEAD.size)
        if not announced:
            return None
        [nbytes] = SEALED_HEAD.unpack(announced)
        head = self.piece(nbytes)
        piece_nbytes, body_nbytes = HEAD.unpack(head[: HEAD.size])
        assert len(head) == HEAD.size + piece_nbytes
        parts = [self.piece(min(PIECE_NBYTES, body_nbytes - at)) for at in range(0, body_nbytes, PIECE_NBYTES)]
        return head[HEAD.size :], b"".join(parts)


@pytest.fixture
def ends() -> Iterator[tuple[SealedLane, Reading, socket.socket]]:
    """A lane that takes little at once, and its trainer."""
    sender, trainer = socket.socketpair()
    sender.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 64 << 10)
    sealer = Sealer(LANE)
    lane = SealedLane(sender, sealer)
    with trainer:
        yield lane, Reading(trainer, Opener(LANE, sealer.key)), trainer
    lane.close()


def test_small_and_large_answers_arrive_in_their_order(ends: tuple[SealedLane, Reading, socket.socket]) -> None:
    lane, reading, _ = ends
    sizes = [0, 1, 700, PIECE_NBYTES - 1, PIECE_NBYTES, PIECE_NBYTES + 1, 3 * PIECE_NBYTES + 17, 5, 0]
    bodies = [bytes([number + 1]) * size for number, size in enumerate(sizes)]
    found: list[tuple[bytes, bytes] | None] = []
    thread = threading.Thread(target=lambda: found.extend(iter(reading.message, None)))
    thread.start()

    for at in (0, 3):  # the next send goes on with the same key where the last one ended
        messages = [message(number, body) for number, body in enumerate(bodies)]
        lane.send(messages[at : at + 3] if at == 0 else messages[at:], unpin=lambda: None, pin=lambda: True)
    lane.close()
    thread.join(WAIT_S)

    assert found == [(b"piece %d" % number, body) for number, body in enumerate(bodies)]


@pytest.mark.parametrize("rows", [1, 300, 3000])
def test_rows_that_lie_in_files_are_sealed_piece_by_piece_between_what_lies_in_memory(
    ends: tuple[SealedLane, Reading, socket.socket], rows: int
) -> None:
    lane, reading, _ = ends
    held = np.random.default_rng(0).integers(0, 256, (rows, 1000), np.uint8)
    chosen = np.random.default_rng(1).integers(0, rows, rows)
    checks: list[int] = []
    half = Checkpoint(rows // 2, lambda: checks.append(1))
    pieces = np.array([(held.ctypes.data + row * 1000, 1000) for row in chosen.tolist()], np.uint64)
    body = Iovec(pieces, [held], [half])
    found: list[tuple[bytes, bytes] | None] = []
    thread = threading.Thread(target=lambda: found.extend(iter(reading.message, None)))
    thread.start()

    lane.send(
        [message(1, b"one"), Message(b"piece 2", body.nbytes, body), message(3, b"three")],
        unpin=lambda: None,
        pin=lambda: True,
    )
    lane.close()
    thread.join(WAIT_S)

    assert checks == [1]
    assert found == [(b"piece 1", b"one"), (b"piece 2", held[chosen].tobytes()), (b"piece 3", b"three")]


def test_rows_of_a_file_that_was_cut_end_the_lane_and_not_the_loader(
    ends: tuple[SealedLane, Reading, socket.socket], tmp_path: Path
) -> None:
    """Whoever reads there in user space is ended by SIGBUS."""
    (tmp_path / "rows").write_bytes(bytes(3 * 65536))
    mapped = np.memmap(tmp_path / "rows", np.uint8, "r")
    os.truncate(tmp_path / "rows", 65536)
    body = Iovec(np.array([[mapped.ctypes.data, mapped.nbytes]], np.uint64), [mapped])

    with pytest.raises(OSError, match="Bad address"):
        ends[0].send([Message(b"piece", body.nbytes, body)], unpin=lambda: None, pin=lambda: True)


def test_nothing_is_sent_as_it_is(ends: tuple[SealedLane, Reading, socket.socket]) -> None:
    lane, _, trainer = ends

    lane.send([Message(b"a piece's header", 14, memoryview(b"a batch's body"))], unpin=lambda: None, pin=lambda: True)

    wire = trainer.recv(1000)
    assert len(wire) == SEALED_HEAD.size + HEAD.size + 16 + TAG_NBYTES + 14 + TAG_NBYTES
    assert b"header" not in wire
    assert b"body" not in wire


def test_small_answers_go_with_one_call() -> None:
    sent: list[int] = []

    class Connection:
        def setblocking(self, _: bool) -> None: ...

        def send(self, data: memoryview) -> int:
            sent.append(len(data))
            return len(data)

    lane = SealedLane(Connection(), Sealer(LANE))  # type: ignore[arg-type]
    lane.send([message(number, bytes(1000)) for number in range(10)], unpin=lambda: None, pin=lambda: True)

    assert len([nbytes for nbytes in sent if nbytes]) == 1


def test_memory_is_not_pinned_while_the_trainer_does_not_read(
    ends: tuple[SealedLane, Reading, socket.socket],
) -> None:
    lane, _, trainer = ends
    events: list[str] = []

    def pin() -> bool:
        events.append("pin")
        return True

    def unpin() -> None:
        events.append("unpin")
        threading.Thread(target=trainer.recv, args=(1 << 20,)).start()

    lane.send([message(1, bytes(1_000_000))], unpin=unpin, pin=pin)

    assert events[:4] == ["unpin", "pin", "unpin", "pin"]


def test_a_lane_whose_key_has_sealed_enough_ends(
    ends: tuple[SealedLane, Reading, socket.socket], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sealing, "MOST_PIECES", 3)

    with pytest.raises(LoaderUnavailable, match="the next lane has another"):
        ends[0].send([message(1, b"one"), message(2, b"two")], unpin=lambda: None, pin=lambda: True)


# ---- where trainers come for it ----


def config() -> Any:
    return SimpleNamespace(tcp_lane=True, shm_lane=True, tls_certificate="loader.pem", listen="127.0.0.1:0", tcp_port=0)


@pytest.fixture
def listener() -> Iterator[SealedListener]:
    listener = SealedListener()
    listener.start(config())
    yield listener
    listener.close()


def greeted(listener: SealedListener, said: bytes) -> socket.socket:
    connection = socket.create_connection(("127.0.0.1", int(listener.address)), timeout=WAIT_S)
    connection.sendall(said)
    return connection


def test_a_trainer_with_the_streams_key_can_read_the_answer_to_its_greeting_and_all_that_follows(
    listener: SealedListener,
) -> None:
    taken: queue.Queue[Lane] = queue.Queue()
    offer = listener.offer(taken.put)
    ticket = listener.ticket(offer)
    secret, key = ticket[:TICKET_NBYTES], ticket[TICKET_NBYTES:]

    with greeted(listener, SEALED_GREETING + secret) as connection:
        reading = Reading(connection, Opener(secret, key))
        assert reading.piece(len(ACCEPTED)) == ACCEPTED
        taken.get(timeout=WAIT_S).send([message(1, b"body")], unpin=lambda: None, pin=lambda: True)
        assert reading.message() == (b"piece 1", b"body")
    listener.withdraw(offer)


def test_every_stream_has_a_key_of_its_own_and_a_ticket_does_not_show_it(listener: SealedListener) -> None:
    tickets = [listener.ticket(listener.offer(lambda _: None)) for _ in range(20)]

    keys = {ticket[TICKET_NBYTES:] for ticket in tickets}
    assert len(keys) == 20
    assert {len(key) for key in keys} == {32}
    assert not any(ticket[:TICKET_NBYTES] in key for ticket, key in zip(tickets, keys, strict=True))


def test_a_trainer_that_went_away_before_it_was_answered_makes_no_nonce_come_twice(listener: SealedListener) -> None:
    """The offer can be taken once more, and its sealer counts on."""
    offer = listener.offer(lambda _: None)
    assert isinstance(offer, SealedOffer)
    answers: list[bytes] = []

    class Gone:
        def setblocking(self, _: bool) -> None: ...

        def sendall(self, data: bytes) -> None:
            answers.append(bytes(data))
            raise BrokenPipeError

    for _ in range(2):
        with pytest.raises(BrokenPipeError):
            listener._claim(offer, Gone())  # type: ignore[arg-type]

    opener = Opener(offer.secret, offer.sealer.key)
    for answer in answers:  # numbers 0 and 1: two answers of one number could not both be opened
        opener.open(memoryview(answer), memoryview(bytearray(len(ACCEPTED))))
    listener.withdraw(offer)


@pytest.mark.parametrize("said", [b"feedline tcp lane 1\n" + bytes(TICKET_NBYTES), SEALED_GREETING + bytes(16)])
def test_who_has_no_ticket_is_sent_away_without_a_word(listener: SealedListener, said: bytes) -> None:
    with greeted(listener, said) as stranger:
        stranger.shutdown(socket.SHUT_WR)
        assert stranger.recv(100) == b""


def test_where_nothing_can_be_sealed_it_does_not_listen_and_the_log_says_why(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sealing, "missing", lambda: "needs cryptography 47 or newer; install with: …")
    listener = SealedListener()

    with capture_logs() as logs:
        listener.start(config())

    assert listener.address == ""
    assert [(line["event"], line["reason"]) for line in logs] == [
        ("no sealed lane, batches go by gRPC", "needs cryptography 47 or newer; install with: …")
    ]
    listener.close()
