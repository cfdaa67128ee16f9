"""Descriptors are divided so that strangers never have what workers and trainers need."""

import errno
import os
from multiprocessing import Pipe

import pytest

from feedline_server.host.descriptors import divide, give, is_shortage, receive


@pytest.mark.parametrize(
    ("limit", "opened", "workers", "trainers", "wanted", "strangers"),
    [
        (1024, 40, 2, 64, 488, 300),
        (1024, 1014, 2, 64, 1462, -187),
        (1 << 20, 40, 64, 64, 984, 1024),
        (1 << 20, 40, 2, 4000, 20168, 1024),
    ],
    ids=["as usual", "500 datasets", "no limit", "many trainers"],
)
def test_what_is_wanted_and_what_strangers_may_have(
    limit: int, opened: int, workers: int, trainers: int, wanted: int, strangers: int
) -> None:
    division = divide(limit=limit, opened=opened, workers=workers, trainers=trainers)

    assert (division.wanted, division.strangers) == (wanted, strangers)
    held = opened + 48 + workers * 8 + trainers * 5
    assert limit < wanted or held + strangers + 2 * 2 * (strangers // 8) <= limit


@pytest.mark.parametrize("number", [errno.EMFILE, errno.ENFILE, errno.EAGAIN, errno.ENOMEM, errno.ENOBUFS])
def test_a_shortage_passes(number: int) -> None:
    assert is_shortage(OSError(number, "short"))
    assert not is_shortage(OSError(errno.EBADF, "closed"))


def test_a_descriptor_is_given_in_the_middle_of_what_both_ends_say_and_nothing_is_waited_for() -> None:
    """Python 3.14's own way waits for an answer, and took what a worker said meanwhile for it."""
    ours, theirs = Pipe()
    reading, writing = os.pipe()
    theirs.send("said before it was given one")
    ours.send("here comes one")

    give(ours, writing)
    ours.send("it was given")

    assert theirs.recv() == "here comes one"
    given = receive(theirs)
    assert theirs.recv() == "it was given"
    assert ours.recv() == "said before it was given one"
    os.write(given, b"the same pipe")
    assert os.read(reading, 100) == b"the same pipe"
    assert not os.get_inheritable(given)
    for fd in (reading, writing, given):
        os.close(fd)
    ours.close()
    with pytest.raises(EOFError):
        receive(theirs)
    theirs.close()


def test_a_message_in_place_of_a_descriptor_is_an_error() -> None:
    ours, theirs = Pipe()
    ours.send("no descriptor")

    with pytest.raises(OSError, match="announced and did not come"):
        receive(theirs)

    ours.close()
    theirs.close()
