"""What the page is told of bad samples and errors: each with what can be shown of it, for who may read the dataset."""

import time
from types import SimpleNamespace
from typing import Any, cast

import numpy as np
import pytest

from feedline_server.scheduling.status import SchedulerStatus
from feedline_server.sources.evidence import Evidence, of_sample
from feedline_server.watching.batch import evidence_values
from feedline_server.watching.observer import Observer
from feedline_wire.errors import BadSample, BatchKillsWorkers, DataError, FeedlineError, InvalidRequest
from feedline_wire.status import LoaderCounters


def observed(bad: list[tuple[str, FeedlineError]], failures: list[tuple[str, FeedlineError]]) -> Observer:
    """Of a loader in which this was found."""
    now = time.monotonic()
    told = tuple((now, *one) for one in failures)
    status = SchedulerStatus((), LoaderCounters(), None, draining=False, failures=told)
    pool = SimpleNamespace(spent=SimpleNamespace(bad=[(now, *one) for one in bad]))
    scheduler = SimpleNamespace(status=lambda: status)
    return Observer(cast("Any", scheduler), cast("Any", pool), replica="r", version="0")


def with_evidence(error: FeedlineError) -> Evidence:
    found = of_sample("t", {"x": np.arange(3)})
    assert found is not None
    error.evidence = found
    return found


def test_what_can_be_shown_is_found_by_its_id_by_who_may_read_the_dataset() -> None:
    bad, failed = BadSample("bad", samples=[3]), DataError("failed", samples=[4])
    of_bad, of_failed = with_evidence(bad), with_evidence(failed)
    observer = observed([("d", bad)], [("e", failed)])

    assert [one["evidence"] for one in observer.bad_samples(None)] == [of_bad.id]
    assert [one["evidence"] for one in observer.failures(None)] == [of_failed.id]
    assert observer.evidence(None, of_bad.id) is of_bad
    assert observer.evidence(frozenset({"e"}), of_failed.id) is of_failed
    assert observer.evidence(frozenset({"e"}), of_bad.id) is None
    assert observer.evidence(frozenset(), of_failed.id) is None
    assert observer.evidence(None, "") is None
    assert observer.bad_samples(frozenset({"e"})) == []


@pytest.mark.parametrize(
    ("error", "why"),
    [
        (BadSample("no image", samples=[1]), "Nothing to show: no values were read of it, and the message says why."),
        (BatchKillsWorkers("died", samples=[1]), "Nothing to show: what the worker held ended with it."),
        (InvalidRequest("batch_size"), ""),
    ],
)
def test_where_nothing_can_be_shown_it_is_said_why(error: FeedlineError, why: str) -> None:
    (found,) = observed([], [("d", error)]).failures(None)

    assert (found["evidence"], found["why_none"]) == ("", why)


def test_it_is_drawn_as_a_batch_is() -> None:
    error = BadSample("bad")

    found = evidence_values(with_evidence(error))

    assert found == {
        "title": "t",
        "columns": [
            {
                "name": "x",
                "dtype": "int64",
                "shape": [3],
                "summary": "min 0, max 2, mean 1",
                "images": [],
                "histogram": [],
                "values": "0 1 2",
            }
        ],
    }
