"""Worker-seconds a second that trainers want: a table of what they waited for, and what loaders did."""

from dataclasses import replace

import pytest

from feedline_wire.demand import demand_here, demand_workers
from feedline_wire.figures import ReaderFigures, ReplicaFigures

WORK = {"d/train": (600, 240.0)}
"""0.4 s a batch."""

FED = ReaderFigures("d/train", 0, 1, 60.0, {}, batches=600, trainer="a", loaders=1)
"""10 batches a second: 4 workers."""

LOADER = ReplicaFigures("a:1", 60.0, 8, 1 << 30, batches=600, assembling_s=240.0, work=WORK)


def waiting(share: float, stage: str = "queue") -> ReaderFigures:
    """It waited for so much of its time."""
    return replace(FED, waited={stage: 60.0 * share})


@pytest.mark.parametrize(
    ("readers", "replicas", "demand"),
    [
        pytest.param([FED], [LOADER], 4.0, id="fed: what it takes"),
        pytest.param([waiting(0.5)], [LOADER], 8.0, id="it waits half its time: twice that"),
        pytest.param([waiting(0.5, "storage")], [LOADER], 8.0, id="also where workers wait for storage"),
        pytest.param([waiting(0.5, "loader")], [LOADER], 8.0, id="or no loader was there"),
        pytest.param([waiting(1.0)], [LOADER], 400.0, id="it does nothing but wait: more than anything, not endless"),
        pytest.param([waiting(0.5, "receive")], [LOADER], 4.0, id="for the line: more workers spare it nothing"),
        pytest.param([waiting(0.5, "device")], [LOADER], 4.0, id="for its own accelerator: likewise"),
        pytest.param([waiting(0.5, "deferred")], [LOADER], 4.0, id="for its own transforms: likewise"),
        pytest.param([replace(waiting(0.5), elapsed_s=9.0, batches=90)], [LOADER], 4.0, id="it has just begun"),
        pytest.param([FED, FED], [LOADER, replace(LOADER, address="b:1")], 4.0, id="told by two loaders, it is one"),
        pytest.param([FED, replace(FED, trainer="b")], [LOADER], 8.0, id="two trainers"),
        pytest.param([replace(FED, loaders=2)], [LOADER], 4.0, id="one of its two loaders does not answer"),
        pytest.param([replace(FED, is_reading=False)], [LOADER], 0.0, id="it saves its weights"),
        pytest.param([replace(FED, is_reading=False), FED], [LOADER], 4.0, id="one loader was told late that it reads"),
        pytest.param([FED], [replace(LOADER, work={})], 4.0, id="a loader of an older release: of all its views"),
        pytest.param([], [replace(LOADER, workers_busy=3)], 3.0, id="nobody has had a batch: what is at work"),
        pytest.param([FED], [replace(LOADER, batches=0, workers_busy=5)], 5.0, id="batches that take minutes"),
        pytest.param([], [], 0.0, id="nothing"),
    ],
)
def test_the_demand(readers: list[ReaderFigures], replicas: list[ReplicaFigures], demand: float) -> None:
    assert demand_workers(readers, replicas) == pytest.approx(demand)


def test_loaders_that_were_just_added_change_nothing_although_figures_are_of_a_minute() -> None:
    """The trainer waited 75 % of the minute; three loaders more have worked for 5 s: it is not yet fed in them."""
    before = ReplicaFigures("a:1", 60.0, 1, 1 << 30, batches=150, assembling_s=60.0, work={"d/train": (150, 60.0)})
    added = replace(before, seconds=5.0, batches=12, assembling_s=5.0, work={"d/train": (12, 4.8)})
    reader = replace(FED, batches=150, waited={"queue": 45.0})

    assert demand_workers([reader], [before]) == pytest.approx(4.0)
    assert demand_workers([replace(reader, batches=186, waited={"queue": 41.4})], [before, added, added, added]) == (
        pytest.approx(4.0, rel=0.01)
    )


def test_a_costly_view_that_starves_is_not_hidden_by_a_cheap_one_that_is_fed() -> None:
    """1,000 batches of 0.1 ms a second, and one of 1 s where four are wanted: the average batch hides it."""
    cheap = ReaderFigures("cheap/train", 0, 1, 60.0, {}, batches=60_000, trainer="a", loaders=1)
    costly = ReaderFigures("costly/train", 0, 1, 60.0, {"queue": 45.0}, batches=60, trainer="b", loaders=1)
    work = {"cheap/train": (60_000, 6.0), "costly/train": (60, 60.0)}
    loader = ReplicaFigures("a:1", 60.0, 2, 1 << 30, batches=60_060, assembling_s=66.0, work=work)

    assert demand_workers([cheap, costly], [loader]) == pytest.approx(4.1)


def test_ranks_that_wait_for_one_another_want_what_the_one_does_that_waits_for_batches() -> None:
    """Rank 1 waits for batches half its time; rank 0 is fed, and waits for rank 1 in each step."""
    ranks = [replace(FED, world=2, trainer="a"), replace(waiting(0.5), rank=1, world=2, trainer="b")]

    assert demand_workers(ranks, [LOADER]) == pytest.approx(16.0)


def test_the_parts_of_all_loaders_add_up_to_the_whole() -> None:
    readers = [replace(waiting(0.5), loaders=2)]
    here = replace(LOADER, batches=300, assembling_s=120.0, work={"d/train": (300, 120.0)})
    slower = replace(here, assembling_s=240.0, work={"d/train": (300, 240.0)})

    parts = demand_here(readers, here), demand_here(readers, slower)

    assert parts == (pytest.approx(4.0), pytest.approx(8.0))
    assert sum(parts) == pytest.approx(demand_workers(readers, [here, slower]))


def test_trainers_of_an_older_release_want_what_they_take() -> None:
    assert demand_here([replace(waiting(0.5), loaders=0)], LOADER) == pytest.approx(4.0)
