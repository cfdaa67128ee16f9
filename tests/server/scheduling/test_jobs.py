"""Jobs by number and key; what finished tasks tell about the next; what is answered where there is no batch."""

from types import SimpleNamespace
from typing import Any, cast

import numpy as np
import pytest

from feedline_server.memory.arena import GRAIN, Slot
from feedline_server.scheduling import jobs as module
from feedline_server.scheduling.catalog import Catalog
from feedline_server.scheduling.jobs import Estimates, Job, Jobs, refusal
from feedline_server.workers.messages import KilledWorkers, SlotTooSmall
from feedline_wire.errors import BatchKillsWorkers, FeedlineError, LoaderBroken
from feedline_wire.key import Key

KEY = Key("numbers", b"f", "train", "shuffle", 1, 0, 0, 1)


def a_job(*, weight: float = 1.0, is_shared: bool = False) -> Job:
    return Job(KEY, Slot(0, GRAIN), is_shared, weight, [])


def test_jobs_are_numbered_from_one() -> None:
    """A worker's progress cell holds 0 before its first task."""
    jobs = Jobs()

    assert [jobs.begin(a_job()) for _ in range(3)] == [1, 2, 3]


def test_the_load_is_the_sum_of_what_is_under_way_and_exactly_zero_when_nothing_is() -> None:
    jobs = Jobs()
    numbers = [jobs.begin(a_job(weight=weight)) for weight in (0.1, 0.2, 0.7)]

    assert jobs.load == pytest.approx(1.0)
    jobs.end(numbers[2])
    assert jobs.load == pytest.approx(0.3)
    for number in numbers[:2]:
        jobs.end(number)
    assert jobs.load == 0.0


def test_a_key_is_found_while_it_is_assembled_for_anybody() -> None:
    jobs = Jobs()
    job = a_job(is_shared=True)
    number = jobs.begin(job)

    assert jobs.find(KEY) is job
    jobs.end(number)
    assert jobs.find(KEY) is None


def test_a_task_weighs_what_its_kind_takes_quick_to_believe_that_it_is_long() -> None:
    estimates = Estimates()
    weights = [estimates.weight(KEY)]  # nothing is known

    for seconds in (0.0, 0.0, 0.001, 0.010, 0.0):
        estimates.note_seconds(KEY, seconds)
        weights.append(estimates.weight(KEY))

    # 2 ms weigh 1: 2, 1.75, 1.53, 1.46 ms, then at once 10 ms, and 8.75 ms.
    assert weights == pytest.approx([1.0, 0.875, 0.765625, 0.732421875, 1.0, 1.0])


def test_no_task_weighs_less_than_an_eighth_and_a_failure_makes_all_unknown() -> None:
    estimates = Estimates()
    for _ in range(100):
        estimates.note_seconds(KEY, 0.0)
    least = estimates.weight(KEY)
    estimates.note_seconds(KEY, None)

    assert least == 1 / 8
    assert estimates.weight(KEY) == 1.0


def test_what_outgrew_its_slot_gets_more_the_next_time_and_kinds_are_remembered_up_to_a_bound(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(Estimates, "REMEMBERED", 2)
    estimates = Estimates()
    kinds = [of_rows(rows) for rows in (1, 2, 3)]

    assert estimates.nbytes(kinds[0], 0) == 0
    for key in kinds[:2]:
        estimates.note_nbytes(key, 500)
    assert [estimates.nbytes(key, 100) for key in kinds] == [500, 500, 100]
    estimates.note_nbytes(kinds[2], 700)
    assert [estimates.nbytes(key, 100) for key in kinds] == [100, 100, 700]


def of_rows(rows: int) -> Key:
    return Key("numbers", b"f", "train", "shuffle", 1, 0, 0, rows)


def catalog(*, most: int = 1 << 20, is_stream: bool = False) -> Catalog:
    def too_large(batch: str, nbytes: int) -> FeedlineError:
        return LoaderBroken(f"{batch} is too large: {nbytes}")

    dataset = SimpleNamespace(is_stream=is_stream)
    found: Any = SimpleNamespace(max_batch_nbytes=most, too_large=too_large, dataset=lambda key: dataset)
    return cast(Catalog, found)


@pytest.mark.parametrize(
    ("nbytes", "answer"),
    [
        (GRAIN, "did not fit"),  # it would be assembled again for ever
        (GRAIN + 1, None),  # again, in a larger slot
        (1 << 20, None),
        ((1 << 20) + 1, "too large"),
    ],
)
def test_what_outgrew_its_slot_is_done_again_up_to_what_a_batch_may_take(nbytes: int, answer: str | None) -> None:
    found = refusal(a_job(), SlotTooSmall(1, nbytes), catalog())

    assert (found is None) if answer is None else (answer in str(found))


def test_a_batch_that_kills_workers_is_named_with_the_first_eight_of_its_samples(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(module, "sample_ids", lambda dataset, key: np.arange(20, 40))

    found = refusal(a_job(), KilledWorkers(1, 3, "signal SIGKILL"), catalog())

    assert isinstance(found, BatchKillsWorkers)
    assert "its sample ids begin 20, 21, 22, 23, 24, 25, 26, 27: look" in str(found)
    assert list(found.samples) == list(range(20, 36))  # errors name sixteen at most


def test_a_generators_batch_has_no_samples_to_name() -> None:
    found = refusal(a_job(), KilledWorkers(1, 3, "signal SIGKILL"), catalog(is_stream=True))

    assert isinstance(found, BatchKillsWorkers)
    assert "; look at it and at the code" in str(found)
