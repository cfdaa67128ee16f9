"""Numbers, structures and progress as people read them."""

import sys

import pytest

from feedline_wire import text
from feedline_wire.structure import Structure
from feedline_wire.text import Progress, duration, share, size, unpacked


@pytest.mark.parametrize(
    ("count", "shown"),
    [
        (0, "0 B"),
        (999, "999 B"),
        (1000, "1.0 kB"),
        (999_960, "1.0 MB"),
        (2_500_000_000, "2.5 GB"),
        (10**18, "1000000.0 TB"),
    ],
)
def test_sizes_are_read_in_the_largest_unit(count: int, shown: str) -> None:
    assert size(count) == shown


def test_times_and_shares_are_read_as_people_write_them() -> None:
    assert duration(93784.9) == "1 day, 2:03:04"
    assert duration(2.0**80) == "> 1000 years"
    assert share(0.0344) == "3.4 %"


def test_a_word_of_a_peers_is_short_and_plain() -> None:
    assert text.plain("tcp,grpc", 16) == "tcp,grpc"
    assert text.plain('\x1b[31m"} 1\nfeedline_workers 9', 16) == "??31m???1?feedli"


@pytest.mark.parametrize(
    ("structure", "shown"),
    [
        ("x", "x"),
        (("x", "y"), "(x, y)"),
        (("x",), "(x,)"),
        (({"a": "a", "b": ("c", "d")}, "y"), '({"a": a, "b": (c, d)}, y)'),
    ],
)
def test_a_structure_is_written_as_python_unpacks_it(structure: Structure, shown: str) -> None:
    assert unpacked(structure) == shown


def test_progress_on_a_terminal_is_one_line_that_goes_at_the_end(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    monkeypatch.setattr(text, "SHOW_EVERY_S", 0)
    clock = iter([0.0, 0.0, 10.0, 20.0])
    monkeypatch.setattr(text.time, "monotonic", lambda: next(clock))
    show = Progress("samples", "digits")

    for done in (0, 500, 2000):
        show(done, 2000, lambda: "1 MB/s")

    first, second, last = capsys.readouterr().err.split("\r\x1b[K")[1:]
    assert first == "digits: 0 of 2,000 samples: 1 MB/s"
    assert second == "digits: 500 of 2,000 samples, 30 s left: 1 MB/s"
    assert last == ""


def test_progress_elsewhere_is_a_line_now_and_then(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    clock = iter([0.0, 1.0, 31.0, 32.0, 40.0])
    monkeypatch.setattr(text.time, "monotonic", lambda: next(clock))
    show = Progress("samples")

    for done in (1, 2, 3, 4):
        show(done, 4)

    assert capsys.readouterr().err == "2 of 4 samples, 62 s left\n"
