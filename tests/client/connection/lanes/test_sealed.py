"""The trainer's end of the sealed lane: a batch is handed out when all of its pieces were verified, or not at all."""

import logging
import socket
import threading
from collections.abc import Iterator

import numpy as np
import pytest

from feedline.connection.lanes import lane, sealed
from feedline.connection.lanes.lane import NOT_TAKEN, Body
from feedline.connection.lanes.sealed import SealedLane
from feedline_wire import frames, sealing
from feedline_wire.errors import Damaged
from feedline_wire.frames import Piece
from feedline_wire.lane import ACCEPTED, HEAD, MAX_PIECE_NBYTES, SEALED_GREETING, SEALED_HEAD, TICKET_NBYTES
from feedline_wire.sealing import PIECE_NBYTES, TAG_NBYTES, Sealer
from feedline_wire.tensors import Array

SECRET = b"sixteen bytes..."
WAIT_S = 30.0

BODIES = [b"", b"one", bytes(range(256)) * 30, np.random.default_rng(1).bytes(2 * PIECE_NBYTES + 100), b"last"]


def piece(sealer: Sealer, text: bytes) -> bytes:
    into = bytearray(len(text) + TAG_NBYTES)
    sealer.seal(memoryview(text), memoryview(into))
    return bytes(into)


def answer(sealer: Sealer, ticket: int, body: bytes) -> list[bytes]:
    """What a loader sends for one answer (feedline_wire.lane): the length of its head, the head, the body's pieces."""
    about = frames.encode_head(Piece(ticket, 0, b"", header=b"header"))
    head = HEAD.pack(len(about), len(body)) + about
    parts = [body[at : at + PIECE_NBYTES] for at in range(0, len(body), PIECE_NBYTES)]
    return [SEALED_HEAD.pack(len(head)), piece(sealer, head), *(piece(sealer, part) for part in parts)]


class Trainer:
    """A lane, whose batches are noted as a connection would hand them out, and the loader's end of it."""

    def __init__(self, wanted: set[int]) -> None:
        self.wanted = wanted
        self.batches: list[tuple[int, bytes]] = []
        self.sealer = Sealer(SECRET)
        self.refused: list[str] = []
        self.errors: list[Exception] = []
        self._done = threading.Event()
        listener = socket.create_server(("127.0.0.1", 0))
        self.lane = SealedLane(
            "127.0.0.1",
            str(listener.getsockname()[1]),
            SECRET + self.sealer.key,
            memory_nbytes=0,
            take=self._take,
            unreachable=self._unreachable,
            ended=self._ended,
        )
        self.lane.start()
        with listener:
            self.loader, _ = listener.accept()
        self.loader.settimeout(WAIT_S)
        self.greeting = self.loader.recv(len(SEALED_GREETING) + TICKET_NBYTES, socket.MSG_WAITALL)

    def _unreachable(self, reason: str) -> None:
        self.refused.append(reason)
        self._done.set()

    def _ended(self, error: Exception) -> None:
        self.errors.append(error)
        self._done.set()

    def _take(self, about: Piece, incoming: Body, nbytes: int, placed: Array | None) -> None:
        assert placed is None
        if about.ticket not in self.wanted:
            incoming.skip(nbytes)
            return
        body = np.empty(nbytes, np.uint8)
        incoming.read_into(body.data)
        self.batches.append((about.ticket, body.tobytes()))

    def says(self, *wire: bytes) -> None:
        """The loader sends this, and no more."""
        try:
            for part in wire:
                self.loader.sendall(part)
        except OSError:  # the trainer has ended it already
            pass
        self.loader.close()
        assert self._done.wait(WAIT_S)
        self.lane.close(finish=False)


@pytest.fixture
def trainer(monkeypatch: pytest.MonkeyPatch) -> Iterator[Trainer]:
    monkeypatch.setattr(lane, "JOIN_S", 0.05)  # no stream ends with it
    trainer = Trainer(set(range(len(BODIES))))
    yield trainer
    trainer.loader.close()
    trainer.lane.close(finish=False)


def test_answers_of_any_size_are_the_bytes_that_were_sealed(trainer: Trainer) -> None:
    accepted = piece(trainer.sealer, ACCEPTED)
    answers = [part for number, body in enumerate(BODIES) for part in answer(trainer.sealer, number, body)]

    trainer.says(accepted, *answers)

    assert trainer.batches == list(enumerate(BODIES))
    assert [str(error) for error in trainer.errors] == ["the loader closed it"]


def test_the_key_is_not_said_on_the_lane(trainer: Trainer) -> None:
    trainer.says()

    assert trainer.greeting == SEALED_GREETING + SECRET
    assert trainer.sealer.key not in trainer.greeting


def test_what_is_no_longer_wanted_is_passed_over(trainer: Trainer) -> None:
    trainer.wanted = {0, 4}
    accepted = piece(trainer.sealer, ACCEPTED)
    answers = [part for number, body in enumerate(BODIES) for part in answer(trainer.sealer, number, body)]

    trainer.says(accepted, *answers)

    assert trainer.batches == [(0, BODIES[0]), (4, BODIES[4])]


@pytest.mark.parametrize(
    "said",
    [b"", b"\n", bytes(1 + TAG_NBYTES), piece(Sealer(SECRET), ACCEPTED), piece(Sealer(SECRET), b"!")],
    ids=["nothing", "as on the tcp lane", "zeros", "by another key", "no"],
)
def test_who_does_not_have_the_key_is_not_taken_for_the_loader(trainer: Trainer, said: bytes) -> None:
    """Batches go on by gRPC, which TLS protects."""
    trainer.says(said)

    assert trainer.refused == [f"{NOT_TAKEN}; what came was not sealed with its key"]
    assert trainer.errors == []


@pytest.mark.parametrize("ticket", [b"", SECRET, SECRET + bytes(16), SECRET + bytes(33)])
def test_a_ticket_without_a_key_of_256_bits_is_no_lane(ticket: bytes) -> None:
    refused: list[str] = []
    with socket.create_server(("127.0.0.1", 0)) as listener:
        refusing = SealedLane(
            "127.0.0.1", str(listener.getsockname()[1]), ticket, memory_nbytes=0,
            take=lambda *_: None, unreachable=refused.append, ended=lambda _: None,
        )  # fmt: skip
        refusing.start()
        refusing.close(finish=True)

    assert len(refused) == 1
    assert "32 were wanted" in refused[0]


# ---- changed on the way ----


def flipped(wires: list[bytes], at: int) -> list[bytes]:
    wires[at] = bytes([wires[at][0] ^ 1]) + wires[at][1:]
    return wires


CHANGES = {
    "a bit is turned": flipped,
    "a piece is left out": lambda wires, at: wires[:at] + wires[at + 1 :],
    "a piece comes twice": lambda wires, at: wires[: at + 1] + wires[at:],
    "two pieces are swapped": lambda wires, at: [*wires[:at], *wires[at : at + 2][::-1], *wires[at + 2 :]],
    "a piece is cut": lambda wires, at: [*wires[:at], wires[at][:-1], *wires[at + 1 :]],
    "the end is cut": lambda wires, at: [*wires[:at], wires[at][:-1]],
    "all comes again": lambda wires, at: wires[: at + 1] + wires,
}


ENDS = [2, 5, 8, 13, 16]
"""How many parts there are up to the end of each answer."""


@pytest.mark.parametrize("how", CHANGES)
@pytest.mark.parametrize("at", [1, 4, 7, 8, 10, 12])
def test_of_what_was_changed_nothing_is_handed_out_and_the_lane_ends(trainer: Trainer, how: str, at: int) -> None:
    accepted = piece(trainer.sealer, ACCEPTED)
    wires = [part for number, body in enumerate(BODIES) for part in answer(trainer.sealer, number, body)]

    trainer.says(accepted, *CHANGES[how](list(wires), at))

    # What came before it is right; nothing after it came.
    assert trainer.batches == list(enumerate(BODIES))[: len(trainer.batches)]
    assert len(trainer.batches) <= sum(end <= at + 1 for end in ENDS)
    [error] = trainer.errors
    assert isinstance(error, EOFError if how == "the end is cut" else (Damaged, EOFError))


def test_pieces_of_another_lane_are_not_taken_although_their_numbers_fit(trainer: Trainer) -> None:
    other = Sealer(SECRET)
    piece(other, ACCEPTED)

    trainer.says(piece(trainer.sealer, ACCEPTED), *answer(other, 1, b"body"))

    assert trainer.batches == []
    assert isinstance(trainer.errors[0], Damaged)


def test_the_last_piece_decides_over_a_batch_although_all_before_it_were_right(trainer: Trainer) -> None:
    accepted = piece(trainer.sealer, ACCEPTED)
    wires = answer(trainer.sealer, 3, BODIES[3])
    wires[-1] = wires[-1][:-1] + bytes([wires[-1][-1] ^ 0x80])

    trainer.says(accepted, *wires)

    assert trainer.batches == []
    assert str(trainer.errors[0]) == "piece 4 of the lane is not what the loader sealed"


@pytest.mark.parametrize("length", [0, HEAD.size - 1, HEAD.size + MAX_PIECE_NBYTES + 1, (1 << 32) - 1])
def test_a_length_that_no_head_has_takes_no_memory(trainer: Trainer, length: int) -> None:
    """It is the one thing that is not sealed."""
    trainer.says(piece(trainer.sealer, ACCEPTED), SEALED_HEAD.pack(length), bytes(1000))

    assert str(trainer.errors[0]) == f"a head of {length} bytes was announced"


def test_a_head_that_is_shorter_than_it_says_ends_the_lane(trainer: Trainer) -> None:
    head = HEAD.pack(100, 0) + b"no hundred bytes"

    trainer.says(piece(trainer.sealer, ACCEPTED), SEALED_HEAD.pack(len(head)), piece(trainer.sealer, head))

    assert str(trainer.errors[0]) == "a head has 16 bytes where 100 were announced"


# ---- where nothing can be opened ----


def test_a_trainer_that_cannot_open_pieces_does_not_ask_for_them_and_says_why_once(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(sealing, "missing", lambda: "needs cryptography 47 or newer")
    sealed._can_open.cache_clear()
    caplog.set_level(logging.INFO, "feedline")

    found = [SealedLane.is_reachable("4711") for _ in range(3)]
    sealed._can_open.cache_clear()

    assert found == [False] * 3
    assert [record.getMessage() for record in caplog.records] == [
        "no sealed lane, batches come by gRPC and cost several times the processor time: needs cryptography 47 or newer"
    ]
