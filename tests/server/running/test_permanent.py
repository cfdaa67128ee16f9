"""Whether another start would help, and what a start ends with that it would not."""

import errno

import pytest

from feedline_server.running.permanent import exit_code, is_permanent
from feedline_wire.errors import BadSample, DataError, FeedlineError, InvalidRequest, LoaderBroken, LoaderUnavailable
from feedline_wire.extras import ExtraMissing


def because_of(error: FeedlineError, number: int) -> FeedlineError:
    error.__cause__ = OSError(number, "as the kernel says it")
    return error


@pytest.mark.parametrize(
    "error",
    [
        InvalidRequest("workers: found 0"),
        DataError("x.npy: is not an array"),
        BadSample("1.png: is no picture"),
        ExtraMissing("needs h5py"),
        because_of(InvalidRequest("loader.toml: cannot be read"), errno.EACCES),
        because_of(DataError("x.npy: there is no such file"), errno.ENOENT),
    ],
    ids=str,
)
def test_what_only_a_change_helps_is_permanent(error: FeedlineError) -> None:
    assert is_permanent(error)


@pytest.mark.parametrize(
    "error",
    [
        LoaderUnavailable("cannot listen: the port is in use"),
        LoaderBroken("a thread ended"),
        because_of(DataError("x.npy: cannot be read"), errno.EIO),
        because_of(DataError("x.npy: cannot be read"), errno.ESTALE),
        because_of(InvalidRequest("loader.toml: cannot be read"), errno.EMFILE),
    ],
    ids=str,
)
def test_what_may_pass_by_itself_is_not(error: FeedlineError) -> None:
    assert not is_permanent(error)


@pytest.mark.parametrize(
    ("said", "code", "words"),
    [
        (None, 1, ""),
        ("", 1, ""),
        (
            "0",
            0,
            "feedline serve: another start would end the same way; exit code 0 (FEEDLINE_PERMANENT_EXIT_CODE): "
            "change it, then start it again\n",
        ),
        (
            "256",
            1,
            "feedline serve: environment: FEEDLINE_PERMANENT_EXIT_CODE: found '256'; wanted an exit code, 0..255\n",
        ),
        (
            "none",
            1,
            "feedline serve: environment: FEEDLINE_PERMANENT_EXIT_CODE: found 'none'; wanted an exit code, 0..255\n",
        ),
    ],
)
def test_the_operator_chooses_the_exit_code(
    said: str | None, code: int, words: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.delenv("FEEDLINE_PERMANENT_EXIT_CODE", raising=False)
    if said is not None:
        monkeypatch.setenv("FEEDLINE_PERMANENT_EXIT_CODE", said)

    assert exit_code(1) == code
    assert capsys.readouterr().err == words
