"""Which worker opens which dataset."""

import os
import time
from collections import deque
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from feedline_server.declared.datasets import ColumnsConfig
from feedline_server.host.held_path import HeldPath
from feedline_server.workers.messages import Failed, OfferDatasets, OfferedDataset, Task
from feedline_server.workers.openings import Offer, Openings, who_opens
from feedline_wire.errors import DataError, FeedlineError, InvalidRequest
from feedline_wire.key import Key

A, B = ("a", b"1"), ("b", b"2")


def worker(
    name: str, *, has: tuple[Any, ...] = (), opening: tuple[Any, ...] = (), held: int = 0, ready: bool = True
) -> Any:
    return SimpleNamespace(
        name=name, open=set(has), opening=deque(opening), held=deque(range(held)), load=held, ready=ready
    )


@pytest.mark.parametrize(
    ("workers", "wanted", "opens"),
    [
        ([worker("1"), worker("2")], [A], [("1", A)]),
        ([worker("1", held=2), worker("2", held=1)], [A], [("2", A)]),  # none has it: the one that holds least
        ([worker("1", has=(A,)), worker("2", held=1)], [A], []),  # one has it: only one that does nothing else
        ([worker("1", has=(A,), held=2), worker("2")], [A], [("2", A)]),
        ([worker("1", opening=(A,)), worker("2")], [A], []),  # one at a time, also if it never ends
        ([worker("1", opening=(A,)), worker("2")], [A, B], [("2", B)]),
        ([worker("1"), worker("2")], [A, B], [("1", A), ("2", B)]),
        ([worker("1")], [A, B], [("1", A)]),
        ([worker("1", ready=False)], [A], []),
        ([worker("1", has=(A,), held=2)], [A], []),
    ],
)
def test_one_worker_at_a_time_opens_what_is_wanted(workers: list[Any], wanted: list[Any], opens: list[Any]) -> None:
    assert [(one.name, which) for one, which in who_opens(dict.fromkeys(wanted, workers))] == opens


# ---- what was renamed ----


class Worker:
    """As `Openings` sees one; `told` are the paths that it was told to open A at."""

    number = 0

    def __init__(self, path: Path) -> None:
        self.open = {A}
        self.opening: deque[Any] = deque()
        self.paths: dict[Any, Path | None] = {A: path}
        self.told: list[Path | None] = []

    def tell_to_open(self, which: Any, path: Path | None, _now: float) -> None:
        self.open.discard(which)
        self.opening.append(which)
        self.paths[which] = path
        self.told.append(path)

    def end_opening(self, which: Any, _now: float) -> None:
        self.opening.remove(which)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "a").mkdir()
    return tmp_path / "a"


@pytest.fixture
def worker_of_a(folder: Path) -> Iterator[tuple[Worker, Openings]]:
    """It has A open, whose files are in `folder`."""
    one = Worker(folder)
    config = ColumnsConfig.declare(path=folder)
    offer = Offer(
        OfferDatasets((OfferedDataset(A[0], config, A[1], slice(0, 0)),)),
        os.open(os.devnull, os.O_RDONLY),
        {A: HeldPath(folder)},
    )
    openings = Openings([one], offer)  # type: ignore[list-item]  # what it uses of one
    yield one, openings
    openings.close()


def failed(number: int, error: FeedlineError) -> tuple[Task, Failed]:
    key = Key(A[0], A[1], "train", "shuffle", 0, 0, number, 1)
    return Task(number, key, 0, 1), Failed(number, error)


def test_what_fails_where_it_was_told_to_look_is_an_error(worker_of_a: tuple[Worker, Openings]) -> None:
    worker, openings = worker_of_a

    assert openings.moved(worker, [failed(1, DataError("another file took its place"))]) == []  # type: ignore[arg-type]
    assert worker.told == []


def test_what_fails_because_its_folder_was_renamed_is_done_again_where_it_lies_now(
    worker_of_a: tuple[Worker, Openings], folder: Path
) -> None:
    worker, openings = worker_of_a
    now = folder.rename(folder.with_name("old"))
    answers = [failed(number, DataError("another file took its place")) for number in (1, 2)]
    answers.append(failed(3, InvalidRequest("this has nothing to do with files")))

    again = openings.moved(worker, answers)  # type: ignore[arg-type]

    assert [task.number for task in again] == [1, 2]
    assert worker.told == [now], "once, for both"


def test_a_folder_that_is_renamed_while_it_is_opened_is_opened_again_and_else_refused(
    worker_of_a: tuple[Worker, Openings], folder: Path
) -> None:
    worker, openings = worker_of_a
    worker.tell_to_open(A, folder, 0.0)
    now = folder.rename(folder.with_name("old"))

    openings.failed(worker, A, DataError("there is no such file"))  # type: ignore[arg-type]
    assert worker.told == [folder, now]
    assert openings.refusal(A, time.monotonic()) is None

    openings.failed(worker, A, error := DataError("it is no array"))  # type: ignore[arg-type]
    assert worker.told == [folder, now]
    assert openings.refusal(A, time.monotonic()) is error
