"""What a process has too little of is said in a sentence, with the limit and what to do."""

import errno
import os
import resource
import sys

import pytest

from feedline_wire.command_line import Command, Program
from feedline_wire.shortages import shortage


def failed(number: int) -> OSError:
    return OSError(number, os.strerror(number))


@pytest.mark.parametrize(
    ("error", "words"),
    [
        (
            failed(errno.ENOMEM),
            "too little memory ([Errno 12] Cannot allocate memory): let it have more (`ulimit -v`, now",
        ),
        (MemoryError(), "or ask for less, with --memory 256MiB or fewer --workers"),
        (ImportError("libx.so: failed to map segment from shared object"), "too little memory (libx.so: failed to map"),
        (
            failed(errno.EFBIG),
            "a file became too large ([Errno 27] File too large): let it write more (`ulimit -f`, now",
        ),
        (failed(errno.ENOSPC), "no space is left ([Errno 28] No space left on device): make room"),
    ],
)
def test_a_shortage_is_said_with_what_to_do(error: Exception, words: str) -> None:
    assert words in str(shortage(error))


def test_the_limit_is_said_as_it_is(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(resource, "getrlimit", lambda _: (1024, 4096))

    assert "(`ulimit -n`, now 1,024)" in str(shortage(failed(errno.EMFILE)))
    monkeypatch.setitem(sys.modules, "resource", None)  # as on other platforms
    assert "let it have more (`ulimit -n`)" in str(shortage(failed(errno.EMFILE)))


@pytest.mark.parametrize(
    "error", [failed(errno.EACCES), ImportError("no module"), ValueError("Cannot allocate memory")]
)
def test_what_is_no_shortage_is_not_taken_for_one(error: Exception) -> None:
    assert shortage(error) is None


def test_a_command_ends_with_the_sentence(capsys: pytest.CaptureFixture[str]) -> None:
    def run(_: object) -> int:
        raise failed(errno.ENOMEM)

    program = Program("feedline", "…", {"all": (Command("serve", "…", run, lambda parser: None),)})

    assert program.main(["serve"]) == 1
    assert capsys.readouterr().err.startswith("feedline serve: too little memory ([Errno 12]")
