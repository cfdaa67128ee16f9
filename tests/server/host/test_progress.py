"""A long opening says what it is at, and one that does not get on is given up."""

import threading

import pytest

from feedline_server.host import progress
from feedline_server.host.progress import OPENING, watched


def test_what_does_not_get_on_is_given_up_with_what_it_was_at() -> None:
    given_up = threading.Event()
    at: list[str] = []

    def expired(doing: str) -> None:
        at.append(doing)
        given_up.set()

    with watched("d", 1.0, expired):
        OPENING.note("file 7 of 9")
        assert given_up.wait(60)

    assert at == ["file 7 of 9"]


def test_what_gets_on_is_not_given_up_however_long_it_takes_and_says_what_it_is_at(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    said: list[tuple[str, str]] = []
    enough = threading.Event()

    def info(event: str, **fields: str) -> None:
        said.append((event, fields["at"]))
        OPENING.note(f"file {len(said)}")
        if len(said) == 3:
            enough.set()

    monkeypatch.setattr(progress.log, "info", info)

    with watched("d", 60, pytest.fail, say_s=0.01):
        assert enough.wait(60)

    assert said[:3] == [("opening", "its folder"), ("opening", "file 1"), ("opening", "file 2")]
