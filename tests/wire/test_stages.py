"""Durations of a batch's stages travel as they are, and a wait is cut among the stages that reach into it."""

import math

import pytest

from feedline_wire import frames, stages
from feedline_wire import loader_pb2 as pb
from feedline_wire.frames import Piece

#        queue  send storage read transform assemble
SPENT = (0.5, 0.05, 0.0, 0.1, 0.2, 0.05)


@pytest.mark.parametrize(
    ("stall_s", "took_s", "of_loader", "cut"),
    [
        # The wait is shorter than the last stage: it was for that alone.
        (0.05, 1.0, SPENT, {"receive": 0.05}),
        # Each stage is laid before the one after it.
        (0.2, 1.0, SPENT, {"receive": 0.1, "send": 0.05, "assemble": 0.05}),
        (
            0.6,
            1.0,
            SPENT,
            {"receive": 0.1, "send": 0.05, "assemble": 0.05, "transform": 0.2, "read": 0.1, "queue": 0.1},
        ),
        # What was waited before the batch was asked for is no loader's stage.
        (1.5, 1.0, (1.0, 0, 0, 0, 0, 0), {"queue": 1.0, "loader": 0.5}),
        # A loader of 0.2.0 times nothing, and in vain nothing came.
        (0.3, 1.0, (), {"loader": 0.3}),
        (0.3, 0.0, (), {"loader": 0.3}),
        # A loader that lies says no more than there was.
        (0.3, 1.0, (4000.0, 0, 0, 0, 0, 0), {"queue": 0.3}),
        (0.0, 1.0, SPENT, {}),
    ],
)
def test_a_wait_is_cut_among_the_stages_that_reach_into_it(
    stall_s: float, took_s: float, of_loader: tuple[float, ...], cut: dict[str, float]
) -> None:
    found = stages.cut(stall_s, took_s, of_loader)

    assert {stage: part for stage, part in found.items() if part > 1e-9} == pytest.approx(cut)


@pytest.mark.parametrize("lie", [math.nan, math.inf, -math.inf, -1.0, 1e30])
def test_a_loader_that_says_anything_takes_no_more_than_the_wait(lie: float) -> None:
    found = stages.cut(0.3, 1.0, (lie, 0, lie, 0, 0, 0))

    assert sum(found.values()) <= 0.3 + 1e-9
    assert all(part > 0 for part in found.values())


def test_stages_of_a_newer_loader_are_passed_over_and_an_older_one_has_none() -> None:
    assert stages.unpack(stages.pack(*SPENT) + bytes(5)) == pytest.approx(SPENT)
    assert stages.unpack(b"") == ()


def test_a_piece_carries_them_as_the_contract_says() -> None:
    piece = Piece(7, 0, b"abc", b"\x08\x05", stages=stages.pack(*SPENT))

    wire = frames.encode((piece,))

    (message,) = pb.Frame.FromString(wire).pieces
    assert list(message.stages_s) == pytest.approx([0.5, 0.05, 0.0, 0.1, 0.2, 0.05])
    assert frames.decode(pb.Frame(pieces=[message]).SerializeToString()).pieces == (piece,)


def test_only_the_first_piece_of_a_batch_carries_them() -> None:
    pieces = list(frames.cut(7, b"\x08\x05", memoryview(b"abcdef"), 2, stages=b"1234"))

    assert [piece.stages for piece in pieces] == [b"1234", b"", b""]
    assert [piece.header for piece in pieces] == [b"\x08\x05", None, None]


def test_waits_by_stage_travel_and_what_is_not_known_is_left_out() -> None:
    travelling = stages.listed({"transform": 1.5, "receive": 0.25})

    assert stages.named([*travelling, 77]) == {"transform": 1.5, "receive": 0.25}
