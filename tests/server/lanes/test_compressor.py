"""A stream is compressed while its line is what holds it up and columns pass it faster so; else it is left alone."""

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from feedline_server.lanes import compressor as module
from feedline_server.lanes.compressor import REST_S, Compressor, Trial, Trials, chosen
from feedline_server.lanes.line import WINDOW_S, Passed, TimedLine
from feedline_wire import compression, tensors
from feedline_wire.compression import METHODS
from feedline_wire.key import Key

QUICK, STRONG = METHODS
GB = 1e9
KEY = Key("numbers", b"f" * 16, "train", "shuffle", 0, 0, 0, rows=1)
LAYOUT = tensors.lay_out([("x", np.dtype("<i4"), (250_000,))])
BODY = memoryview(np.arange(250_000, dtype="<i4").view(np.uint8)).cast("B")


def trials(*rows: tuple[float, float, float]) -> list[Trial]:
    """Of each method: what it leaves, and bytes a second of both ways."""
    return [
        Trial(method, ratio, 1 / there, 1 / back) for method, (ratio, there, back) in zip(METHODS, rows, strict=True)
    ]


@pytest.mark.parametrize(
    ("found", "line", "method"),
    [
        (trials((0.4, 1.0 * GB, 3 * GB), (0.3, 0.3 * GB, 0.9 * GB)), 0.05 * GB, STRONG),  # the line is the slowest
        (trials((0.4, 1.0 * GB, 3 * GB), (0.3, 0.3 * GB, 0.9 * GB)), 0.5 * GB, QUICK),
        (trials((0.4, 1.0 * GB, 3 * GB), (0.3, 0.3 * GB, 0.9 * GB)), 1.0 * GB, None),  # no quicker than the line
        (trials((0.4, 5.0 * GB, 0.4 * GB), (0.3, 0.1 * GB, 0.1 * GB)), 0.5 * GB, None),  # the trainer would be slower
        (trials((0.98, 5.0 * GB, 5 * GB), (0.95, 1 * GB, 1 * GB)), 0.125 * GB, None),  # not worth it
        ([], 0.125 * GB, None),  # too short to be tried
    ],
)
def test_a_column_is_given_the_method_with_which_it_passes_soonest(
    found: list[Trial], line: float, method: compression.Method | None
) -> None:
    assert chosen({"x": found}, 1 / line) == ({} if method is None else {"x": method})


class World:
    """A stream whose line and clock are in the test's hands."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, found: list[Trial], *, compresses: bool = False) -> None:
        self.now = 100.0
        self.line = TimedLine()
        monkeypatch.setattr(module, "tried", lambda *_: found)
        if not compresses:  # thousands of batches are sent, of which nobody reads one
            monkeypatch.setattr(compression, "compress", lambda chunk, *_: bytes(3 * len(chunk) // 10))
        self.compressor = Compressor(Trials(), self.line, lambda: self.now)

    def pass_window(
        self,
        line: float,
        busy: float = 1.0,
        *,
        ratio: float = 0.3,
        is_from_files: bool = False,
        seconds: float = 2 * WINDOW_S,
    ) -> None:
        """Send as much as a line of so many bytes a second carries in the part of a window in which it is busy."""
        meter = self.compressor._meter
        until, began = self.now + seconds, meter._began
        while self.now < until and meter._began == began:
            found = None if is_from_files else self.compressor.compressed(KEY, LAYOUT, BODY)
            on_line = len(BODY) * (1.0 if found is None else ratio)
            self.line.took(int(on_line), on_line / line)
            self.now += on_line / line / busy
            self.compressor.sent(KEY, len(BODY))

    def begin(self) -> None:
        """Have a thin line seen."""
        self.pass_window(THIN)
        assert self.compressor.is_on


SHRINKS = trials((0.3, 1.0 * GB, 3 * GB), (0.3, 0.2 * GB, 0.5 * GB))
GROWS = trials((1.0, 1.0 * GB, 3 * GB), (1.0, 0.2 * GB, 0.5 * GB))
THIN = 0.125 * GB


def test_a_line_that_has_time_to_spare_is_left_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    world = World(monkeypatch, SHRINKS)

    for _ in range(5):
        world.pass_window(THIN, 0.5)

    assert not world.compressor.is_on


def test_a_quick_line_is_left_alone_although_an_end_of_it_has_no_core_for_most_of_the_time(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The line is busy as a thin one is: what was sent has not been read yet. In one moment it shows what it is."""
    world = World(monkeypatch, SHRINKS)
    known = world.compressor._trials  # as of another stream, whose line was thin
    known.make(KEY, LAYOUT, np.frombuffer(BODY, np.uint8))

    for _ in range(20):
        world.pass_window(THIN / 2, seconds=0.45 * WINDOW_S)
        world.pass_window(3 * GB, seconds=0.05 * WINDOW_S)
        assert not world.compressor.is_on


def test_a_thin_line_is_seen_in_a_window_and_its_batches_come_out_as_they_were(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    pytest.importorskip("numcodecs")
    world = World(monkeypatch, SHRINKS, compresses=True)

    world.begin()

    found = world.compressor.compressed(KEY, LAYOUT, BODY)
    assert found is not None
    assert len(found.body) < len(BODY) / 2
    body = np.empty(LAYOUT.nbytes, np.uint8)
    compression.read_body(found.body, compression.read_lengths(found.lengths, LAYOUT), LAYOUT, body)
    assert body.tobytes() == bytes(BODY)


def test_columns_that_nothing_makes_shorter_are_tried_once_and_then_sent_from_files_again(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    world = World(monkeypatch, GROWS)
    world.begin()
    assert world.compressor.compressed(KEY, LAYOUT, BODY) is None

    for _ in range(40):
        world.pass_window(THIN)
        assert not world.compressor.is_on


def test_what_makes_a_stream_no_faster_ends_and_is_tried_again_later_each_time(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The trial promised more than there was: the line stands idle while an end of it is at work."""
    world = World(monkeypatch, SHRINKS)
    begins: list[float] = []
    on_s = 0.0
    for _ in range(250):
        was_on, before = world.compressor.is_on, world.now
        world.pass_window(THIN, 0.25 if was_on else 1.0)
        on_s += (world.now - before) * was_on
        if world.compressor.is_on and not was_on:
            begins.append(world.now)

    gaps = np.diff(begins)
    assert len(gaps) >= 3
    assert gaps[0] >= REST_S
    assert np.all(gaps[1:3] > 3 * gaps[:2])
    assert on_s < 0.06 * (world.now - 100.0)


def test_what_makes_a_stream_slower_ends_although_the_line_is_never_idle(monkeypatch: pytest.MonkeyPatch) -> None:
    world = World(monkeypatch, SHRINKS)
    world.begin()

    for _ in range(2):
        world.pass_window(0.2 * THIN)

    assert not world.compressor.is_on


def test_what_makes_a_stream_faster_goes_on(monkeypatch: pytest.MonkeyPatch) -> None:
    world = World(monkeypatch, SHRINKS)
    world.begin()

    for _ in range(20):
        world.pass_window(THIN)
        assert world.compressor.is_on


def test_it_ends_at_once_and_may_begin_at_once_where_the_line_became_quick(monkeypatch: pytest.MonkeyPatch) -> None:
    world = World(monkeypatch, SHRINKS)
    world.begin()
    world.pass_window(THIN)

    world.pass_window(3 * GB)
    assert not world.compressor.is_on

    world.begin()


def test_nothing_is_judged_before_a_batch_was_looked_at(monkeypatch: pytest.MonkeyPatch) -> None:
    """What was ready when it began goes from files, and there may be many seconds of it on a thin line."""
    world = World(monkeypatch, SHRINKS)
    world.begin()

    for _ in range(5):
        world.pass_window(THIN, is_from_files=True)
        assert world.compressor.is_on


def test_a_line_of_nothing_is_no_line(monkeypatch: pytest.MonkeyPatch) -> None:
    class Nothing:
        def passed(self) -> Passed:
            return Passed(0, 0.0)

    world = World(monkeypatch, SHRINKS)
    world.compressor.use(Nothing())

    world.pass_window(THIN)

    assert not world.compressor.is_on


def test_each_method_is_tried_on_a_piece_of_each_column() -> None:
    pytest.importorskip("numcodecs")
    found = Trials()
    layout = tensors.lay_out([("x", np.dtype("<i4"), (250_000,)), ("y", np.dtype("<i8"), (3,))])
    body: Any = np.zeros(layout.nbytes, np.uint8)
    body[: len(BODY)] = np.frombuffer(BODY, np.uint8)

    made = found.make(KEY, layout, body)

    assert found.known(KEY) == made
    assert [trial.method for trial in made["x"]] == [QUICK, STRONG]
    assert all(0 < trial.ratio < 0.5 and trial.compress_s > 0 and trial.decompress_s > 0 for trial in made["x"])
    assert set(made) == {"x"}  # y is too short for it
    assert found.known(replace(KEY, dataset="another")) is None


def test_a_batch_that_would_take_very_much_memory_beside_the_arena_goes_as_it_is(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    world = World(monkeypatch, SHRINKS)
    world.begin()

    assert world.compressor.compressed(KEY, LAYOUT, memoryview(bytes((64 << 20) + 1))) is None


def test_of_very_many_datasets_those_tried_last_are_remembered(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "tried", lambda *_: SHRINKS)
    found = Trials()
    body = np.frombuffer(BODY, np.uint8)

    for number in range(1000):
        found.make(replace(KEY, dataset=str(number)), LAYOUT, body)

    known = [number for number in range(1000) if found.known(replace(KEY, dataset=str(number))) is not None]
    assert known == list(range(1000 - module.REMEMBERED, 1000))
