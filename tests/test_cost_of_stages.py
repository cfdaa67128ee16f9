"""Timing the stages of a batch costs each process some 3 us: the work is counted, which no neighbour changes.

How long that takes is measured by `python -m benchmarks.stages`.
"""

import sys
from collections.abc import Callable
from pathlib import Path
from types import FrameType
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parent.parent

WARM = 20
"""Runs before those that are counted: the first ones fill caches, and the interpreter specialises what it runs."""

RUNS = 10


@pytest.fixture(autouse=True)
def benchmarks_are_importable(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(ROOT))


def counted(act: Callable[[], object]) -> tuple[int, int]:
    """Instructions of Python that a run takes, and calls of what is not written in Python: the least of several runs.

    Some do more: what a second that is over, or a read that was interrupted for long, makes necessary.
    """
    for _ in range(WARM):
        act()
    instructions: list[int] = []
    calls: list[int] = []

    def trace(frame: FrameType, event: str, _: Any) -> Any:
        frame.f_trace_opcodes = True
        instructions[-1] += event == "opcode"
        return trace

    def profile(frame: FrameType, event: str, _: Any) -> None:
        calls[-1] += event == "c_call"

    before = sys.gettrace(), sys.getprofile()
    try:
        for _ in range(RUNS):
            instructions.append(0)
            calls.append(0)
            sys.settrace(trace)
            act()
            sys.settrace(None)
            sys.setprofile(profile)
            act()
            sys.setprofile(None)
    finally:
        sys.settrace(before[0])
        sys.setprofile(before[1])
    # Python 3.12 reports instructions from the second run on. The last call is setprofile itself.
    return min(instructions[1:]), min(calls) - 1


def cost(process: str) -> tuple[int, int]:
    from benchmarks.stages import PROCESSES

    found = [(counted(act), times) for act, times in PROCESSES[process]()]
    return sum(times * one[0] for one, times in found), sum(times * one[1] for one, times in found)


@pytest.mark.parametrize(
    ("process", "instructions", "calls"), [("worker", 203, 12), ("loader", 274, 16), ("trainer", 314, 12)]
)
def test_timing_a_batch_takes_no_more_than_when_its_time_was_measured(
    process: str, instructions: int, calls: int
) -> None:
    """Counted on Python 3.11, where they took 3.5, 3 and 3 us; 3.12 and 3.13 count up to an eighth less."""
    found = cost(process)

    assert instructions / 1.5 <= found[0] <= 1.5 * instructions, found
    assert calls / 1.5 <= found[1] <= 1.5 * calls, found


def test_what_does_twice_as_much_is_counted_twice() -> None:
    from benchmarks.stages import PROCESSES

    ((act, _),) = PROCESSES["worker"]()
    once, twice = counted(act), counted(lambda: (act(), act()))

    assert twice[0] > 1.9 * once[0]
    assert twice[1] == 2 * once[1]
