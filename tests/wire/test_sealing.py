"""Sealed pieces are opened in their order, whole and unchanged, or not at all; no nonce is used twice with a key."""

import copy
import pickle
import threading
from collections import Counter
from collections.abc import Iterator
from typing import Any, ClassVar

import pytest
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from hypothesis import given
from hypothesis import strategies as st

from feedline_wire import sealing
from feedline_wire.errors import Damaged, LoaderUnavailable
from feedline_wire.sealing import TAG_NBYTES, Opener, Sealer

LANE = b"sixteen bytes..."
OTHER = b"another lane is."

pieces = st.lists(st.binary(max_size=40), min_size=1, max_size=6)


def sealed(sealer: Sealer, piece: bytes) -> bytes:
    into = bytearray(len(piece) + TAG_NBYTES)
    assert sealer.seal(memoryview(piece), memoryview(into)) == len(into)
    return bytes(into)


def opened(opener: Opener, wire: bytes) -> bytes:
    into = bytearray(len(wire) - TAG_NBYTES)
    opener.open(memoryview(wire), memoryview(into))
    return bytes(into)


@given(pieces)
def test_what_was_sealed_is_opened_in_its_order_and_cannot_be_read_before(texts: list[bytes]) -> None:
    sealer = Sealer(LANE)
    opener = Opener(LANE, sealer.key)

    wires = [sealed(sealer, text) for text in texts]

    assert [opened(opener, wire) for wire in wires] == texts
    assert not any(text in wire for text, wire in zip(texts, wires, strict=True) if len(text) > 4)


def changed(wires: list[bytes], how: str, at: int, byte: int) -> list[bytes]:
    """The same pieces, as somebody on the way could have changed them; `at` counts their bytes and themselves."""
    piece, later = at % len(wires), (at + 1) % len(wires)
    wires = list(wires)
    match how:
        case "flipped":
            wire = bytearray(wires[piece])
            wire[at % len(wire)] ^= 1 << byte % 8
            wires[piece] = bytes(wire)
        case "truncated":
            wires[piece] = wires[piece][: max(TAG_NBYTES, len(wires[piece]) - 1 - byte)]
        case "longer":
            wires[piece] += bytes([byte])
        case "left out":
            del wires[piece]
        case "replayed":
            wires.insert(piece, wires[piece])
        case "swapped":
            wires[piece], wires[later] = wires[later], wires[piece]
        case "begun anew":
            wires = wires[: piece + 1] + wires
    return wires


HOW = ["flipped", "truncated", "longer", "left out", "replayed", "swapped", "begun anew"]


@pytest.mark.parametrize("how", HOW)
@given(texts=pieces, at=st.integers(0, 400), byte=st.integers(0, 255))
def test_nothing_is_opened_that_is_not_the_next_piece_as_it_was_sealed(
    how: str, texts: list[bytes], at: int, byte: int
) -> None:
    sealer = Sealer(LANE)
    wires = [sealed(sealer, text) for text in texts]
    opener = Opener(LANE, sealer.key)
    after = changed(wires, how, at, byte)

    found = []
    try:
        found = [opened(opener, wire) for wire in after]
    except Damaged:
        is_damaged = True
    else:
        is_damaged = False

    # The end may be cut off, which the lane's own lengths show; all else is noticed where it is.
    assert is_damaged or after == wires[: len(after)]
    assert is_damaged or found == texts[: len(after)]


def test_a_piece_that_failed_cannot_be_tried_again() -> None:
    sealer = Sealer(LANE)
    wire = sealed(sealer, b"text")
    opener = Opener(LANE, sealer.key)
    with pytest.raises(Damaged, match="piece 0 of the lane is not what the loader sealed"):
        opened(opener, bytes([wire[0] ^ 1]) + wire[1:])

    with pytest.raises(Damaged, match="piece 1 of"):
        opened(opener, wire)


@pytest.mark.parametrize("nbytes", [0, 1, TAG_NBYTES - 1, TAG_NBYTES, TAG_NBYTES + 3, TAG_NBYTES + 5])
def test_a_piece_of_another_length_than_is_wanted_is_not_opened(nbytes: int) -> None:
    sealer = Sealer(LANE)
    wire = sealed(sealer, b"texts")[:nbytes]

    with pytest.raises(Damaged):
        Opener(LANE, sealer.key).open(memoryview(wire), memoryview(bytearray(4)))


@pytest.mark.parametrize("which", ["lane", "key", "both"])
def test_pieces_of_another_lane_are_not_opened(which: str) -> None:
    sealer, other = Sealer(LANE), Sealer(OTHER)
    opener = Opener(OTHER if which == "lane" else LANE, other.key if which == "key" else sealer.key)
    wire = sealed(other if which == "both" else sealer, b"text")

    with pytest.raises(Damaged):
        opened(opener, wire)


# ---- keys and nonces ----


class Spy:
    """Notes with which key and nonce the cipher is asked to seal."""

    used: ClassVar[Counter[tuple[bytes, bytes]]] = Counter()

    def __init__(self, key: bytes) -> None:
        self._key = key
        self._cipher = AESGCM(key)

    def encrypt_into(self, nonce: bytes, data: Any, associated: bytes, into: Any) -> int:
        Spy.used[self._key, bytes(nonce)] += 1
        return self._cipher.encrypt_into(nonce, data, associated, into)


@pytest.fixture
def spy() -> Iterator[Counter[tuple[bytes, bytes]]]:
    """All that ciphers were asked for: the key and the nonce."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sealing, "AESGCM", Spy)
        Spy.used = Counter()
        yield Spy.used


@given(
    lanes=st.lists(st.sampled_from([LANE, OTHER]), min_size=1, max_size=5),
    steps=st.lists(st.tuples(st.integers(0, 4), st.sampled_from(["seal", "fail", "copy"])), max_size=40),
)
def test_no_key_seals_two_pieces_with_one_nonce_whatever_happens(
    lanes: list[bytes], steps: list[tuple[int, str]]
) -> None:
    """Also where sealing failed, and where a sealer was copied: the copy goes on with the same count."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sealing, "AESGCM", Spy)
        Spy.used = Counter()
        sealers = [Sealer(lane) for lane in lanes]
        for which, step in steps:
            sealer = sealers[which % len(sealers)]
            if step == "seal":
                sealed(sealer, b"text")
            elif step == "fail":
                with pytest.raises(ValueError, match="buffer"):
                    sealer.seal(memoryview(b"text"), memoryview(bytearray(3)))
            else:
                sealers.append(copy.copy(sealer))

    assert all(count == 1 for count in Spy.used.values())
    assert len({sealer.key for sealer in sealers[: len(lanes)]}) == len(lanes)


def test_several_threads_use_no_nonce_twice(spy: Counter[tuple[bytes, bytes]]) -> None:
    sealer = Sealer(LANE)
    threads = [
        threading.Thread(target=lambda: [sealed(sealer, b"text") for _ in range(500)] and None) for _ in range(4)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert len(spy) == 2000
    assert set(spy.values()) == {1}


def test_a_sealer_goes_into_no_other_process() -> None:
    with pytest.raises(TypeError, match="cannot pickle"):
        pickle.dumps(Sealer(LANE))


def test_nothing_is_sealed_after_as_many_pieces_as_a_key_may_seal(
    spy: Counter[tuple[bytes, bytes]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sealing, "MOST_PIECES", 3)
    sealer = Sealer(LANE)
    for _ in range(3):
        sealed(sealer, b"text")

    for _ in range(2):
        with pytest.raises(LoaderUnavailable, match="its key has sealed 3 pieces; the next lane has another"):
            sealed(sealer, b"text")

    assert len(spy) == 3


def test_no_key_is_shown() -> None:
    sealer = Sealer(LANE)

    assert repr(sealer) == "<Sealer>"
    assert repr(Opener(LANE, sealer.key)) == "<Opener>"


# ---- where nothing can be sealed ----


@pytest.fixture
def asked_anew() -> Iterator[None]:
    """What is missing is found out once; here, anew."""
    sealing.missing.cache_clear()
    yield
    sealing.missing.cache_clear()


@pytest.mark.usefixtures("asked_anew")
@pytest.mark.parametrize("found", ["none", "old"])
def test_a_package_that_is_absent_or_too_old_is_named_with_what_installs_it(
    found: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    if found == "none":
        monkeypatch.delattr(sealing, "AESGCM")
    else:
        monkeypatch.setattr(sealing, "AESGCM", object)

    assert sealing.missing().startswith("needs cryptography 47 or newer; install with: pip install ")
    assert "[sealed]" in sealing.missing()


@pytest.mark.usefixtures("asked_anew")
@pytest.mark.parametrize(
    ("cpuinfo", "reason"),
    [
        ("flags\t\t: fpu sse2 aes avx\n", ""),
        ("Features\t: fp asimd aes pmull\n", ""),
        ("flags\t\t: fpu sse2 avx\n", "the processor has no instructions for AES"),
        (None, ""),
    ],
    ids=["x86", "arm", "without", "not Linux"],
)
def test_a_processor_without_instructions_for_aes_leaves_it_to_grpc(
    cpuinfo: str | None, reason: str, tmp_path: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    if cpuinfo is not None:
        (tmp_path / "cpuinfo").write_text(cpuinfo)
    monkeypatch.setattr(sealing, "CPUINFO", tmp_path / "cpuinfo")

    assert sealing.missing() == reason
