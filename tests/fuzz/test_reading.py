"""Frames that were tampered with are read as what they say, or refused; scripts/fuzz looks for longer."""

import importlib.util
from pathlib import Path
from types import ModuleType

import pytest
from hypothesis import given
from hypothesis import strategies as st


def _loaded(name: str) -> ModuleType:
    """A file beside this one that is no test."""
    spec = importlib.util.spec_from_file_location(name, Path(__file__).with_name(f"{name}.py"))
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


reading = _loaded("reading")

SEEDS = reading.seeds()


@pytest.mark.parametrize("number", range(len(SEEDS)))
def test_a_frame_that_is_left_alone_is_read(number: int) -> None:
    reading.read(SEEDS[number])


@given(st.sampled_from(SEEDS), st.lists(st.tuples(st.integers(0, 2000), st.integers(0, 255)), max_size=4))
def test_a_frame_with_other_bytes_in_it(seed: bytes, changes: list[tuple[int, int]]) -> None:
    wire = bytearray(seed)
    for at, byte in changes:
        if wire:
            wire[at % len(wire)] = byte

    reading.read(bytes(wire))


@given(st.sampled_from(SEEDS), st.sampled_from(SEEDS), st.integers(0, 2000), st.integers(0, 2000))
def test_a_frame_that_was_cut_and_goes_on_as_another(one: bytes, other: bytes, end: int, start: int) -> None:
    reading.read(one[:end] + other[start:])


@given(st.binary(max_size=300))
def test_any_bytes(wire: bytes) -> None:
    reading.read(wire)


# ---- the sealed lane ----

ANSWERS = reading.lane_seeds()


def test_answers_that_are_left_alone_are_read_and_those_no_longer_wanted_are_passed_over() -> None:
    wire, key = reading.sealed_answers(ANSWERS * 2)

    bodies = reading.read_sealed(wire, key)

    assert bodies == [ANSWERS[0][-len(bodies[0]) :]] * 2


@given(st.sampled_from(ANSWERS), st.lists(st.tuples(st.integers(0, 2000), st.integers(0, 255)), max_size=4))
def test_an_answer_with_other_bytes_in_it_before_it_was_sealed(seed: bytes, changes: list[tuple[int, int]]) -> None:
    """By a loader that means harm, or a fault in one."""
    answer = bytearray(seed)
    for at, byte in changes:
        answer[at % len(answer)] = byte

    reading.read_lane(bytes(answer))


@given(st.binary(max_size=300))
def test_any_bytes_that_were_sealed(answer: bytes) -> None:
    reading.read_lane(answer)


@given(st.data())
def test_sealed_answers_that_were_cut_repeated_and_joined_give_the_batches_before_the_change_or_none(
    data: st.DataObject,
) -> None:
    """By somebody on the way, who has no key."""
    wire, key = reading.sealed_answers(ANSWERS * 3)
    right = reading.read_sealed(wire, key)
    end, start = data.draw(st.integers(0, len(wire))), data.draw(st.integers(0, len(wire)))

    found = reading.read_sealed(wire[:end] + wire[start:], key)

    assert found == right[: len(found)]
    assert len(found) <= len(reading.read_sealed(wire[:end], key)) or start == end


@given(st.binary(max_size=300))
def test_any_bytes_on_the_lane_are_no_batch(wire: bytes) -> None:
    assert reading.read_sealed(wire, bytes(32)) == []
