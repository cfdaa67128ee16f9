"""A DataLoader's workers: any number of them, forked or spawned, delivers each batch once, also over a restart."""

import contextlib
import copy
import subprocess
import sys
import textwrap
import warnings
from collections.abc import Iterator
from itertools import chain
from typing import Any

import pytest

import feedline
from feedline_wire.errors import InvalidRequest

pytestmark = [pytest.mark.torch, pytest.mark.timeout(400)]  # each spawned worker imports torch

ONCE = list(range(100))


@contextlib.contextmanager
def served(arguments: str) -> Iterator[str]:
    """The address of a loader in a process of its own: a process that serves must not be forked (see `serve`)."""
    script = f"""
        import sys
        import numpy as np
        from feedline.testing import serve
        with serve({arguments}) as loader:
            print(loader.address, flush=True)
            sys.stdin.read()  # ends with this process and its forked children
    """
    words = [sys.executable, "-c", textwrap.dedent(script)]
    with subprocess.Popen(words, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        try:
            yield process.stdout.readline().strip()
        finally:
            process.terminate()  # a forked worker may have its standard input open still


@pytest.fixture(scope="module")
def address() -> Iterator[str]:
    samples = '{"x": np.repeat(np.arange(100, dtype=np.float32), 3).reshape(100, 3), "y": np.arange(100)}'
    with served(f"{samples}, shuffle_answers=True") as address:
        yield address


@pytest.fixture
def connection(address: str) -> Iterator[feedline.Loader]:
    with feedline.connect(address) as connection:
        yield connection


@pytest.fixture(autouse=True)
def as_in_a_trainer() -> Iterator[None]:
    """torch warns where there are more workers than cores, and Python where a process with threads forks."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


def of(connection: feedline.Loader, **arguments: Any) -> Any:
    from feedline.torch import IterableBatches

    return IterableBatches(connection.feed(batch_size=8, seed=3, **arguments), with_ids=True)


def reader(batches: Any, workers: int, **arguments: Any) -> Any:
    from torch.utils.data import DataLoader

    return DataLoader(batches, batch_size=None, num_workers=workers, **arguments)


def stateful(batches: Any, workers: int, **arguments: Any) -> Any:
    from torchdata.stateful_dataloader import StatefulDataLoader

    return StatefulDataLoader(batches, batch_size=None, num_workers=workers, **arguments)


def read(batches: Any) -> list[list[int]]:
    return [ids.tolist() for _, ids in batches]


def epochs(connection: feedline.Loader, number: int) -> list[list[list[int]]]:
    feed = connection.feed(batch_size=8, seed=3)
    return [[batch.ids.tolist() for batch in feed.epoch(epoch)] for epoch in range(number)]


@pytest.mark.parametrize(
    ("workers", "arguments"),
    [
        (0, {}),
        (1, {"multiprocessing_context": "fork"}),
        (3, {"multiprocessing_context": "fork"}),
        (2, {"multiprocessing_context": "fork", "persistent_workers": True}),
        (2, {"multiprocessing_context": "spawn"}),
        (2, {"multiprocessing_context": "spawn", "persistent_workers": True}),
    ],
)
def test_each_pass_is_one_epoch_in_the_feeds_order(
    connection: feedline.Loader, workers: int, arguments: dict[str, Any]
) -> None:
    data = reader(of(connection), workers, **arguments)

    assert len(data) == 13
    assert [read(data) for _ in range(3)] == epochs(connection, 3)


def test_two_passes_at_once_are_two_whole_epochs(connection: feedline.Loader) -> None:
    data = reader(of(connection), 2, multiprocessing_context="fork")

    both = [(one.tolist(), other.tolist()) for (_, one), (_, other) in zip(data, data, strict=True)]

    assert [[one for one, _ in both], [other for _, other in both]] == epochs(connection, 2)


def test_a_pass_that_was_left_is_followed_by_a_whole_epoch(connection: feedline.Loader) -> None:
    data = reader(of(connection), 2, multiprocessing_context="fork", persistent_workers=True)
    for _ in data:
        break

    assert read(data) == epochs(connection, 2)[1]


def test_an_epoch_that_is_named_is_read_by_workers_that_run_already(connection: feedline.Loader) -> None:
    batches = of(connection)
    data = reader(batches, 2, multiprocessing_context="fork", persistent_workers=True)
    first = read(data)
    batches.set_epoch(4)

    assert [first, read(data), read(data)] == [epochs(connection, 6)[epoch] for epoch in (0, 4, 5)]


def test_the_trainer_is_told_that_only_the_workers_know_the_place(connection: feedline.Loader) -> None:
    batches = of(connection)
    read(reader(batches, 1, multiprocessing_context="fork"))

    with pytest.raises(InvalidRequest, match="use torchdata's StatefulDataLoader"):
        batches.state_dict()


@pytest.mark.parametrize(("workers", "context"), [(0, None), (1, "fork"), (2, "fork"), (2, "spawn")])
@pytest.mark.parametrize("steps", [5, 13])
def test_torchdatas_loader_continues_with_the_very_next_batch(
    connection: feedline.Loader, workers: int, context: str | None, steps: int
) -> None:
    data = stateful(of(connection), workers, multiprocessing_context=context)
    iteration = iter(data)
    before = [next(iteration)[1].tolist() for _ in range(steps)]
    saved = copy.deepcopy(data.state_dict())
    del iteration, data
    resumed = stateful(of(connection), workers, multiprocessing_context=context)
    resumed.load_state_dict(saved)

    rest = read(resumed) or read(resumed)  # of workers that have nothing left a pass is empty

    assert [*before, *rest, *read(resumed)] == [*chain(*epochs(connection, 2 if steps < 13 else 3))]


@pytest.mark.parametrize(("saved_by", "workers"), [(1, 2), (2, 1), (2, 3)])
def test_another_number_of_workers_is_refused_with_the_number_to_take(
    connection: feedline.Loader, saved_by: int, workers: int
) -> None:
    data = stateful(of(connection), saved_by, multiprocessing_context="fork")
    next(iter(data))
    saved = copy.deepcopy(data.state_dict())
    resumed = stateful(of(connection), workers, multiprocessing_context="fork")
    resumed.load_state_dict(saved)

    with pytest.raises(InvalidRequest, match=f"continue with num_workers={saved_by}"):
        next(iter(resumed))


def test_what_one_worker_saved_the_trainer_itself_continues(connection: feedline.Loader) -> None:
    data = stateful(of(connection), 1, multiprocessing_context="fork")
    iteration = iter(data)
    before = [next(iteration)[1].tolist() for _ in range(5)]
    (worker,) = data.state_dict()["_snapshot"]["_worker_snapshots"].values()
    batches = of(connection)
    batches.load_state_dict(worker["dataset_state"])

    assert before + read(reader(batches, 0)) == epochs(connection, 1)[0]


@pytest.mark.parametrize("context", ["fork", "spawn"])
def test_numbered_batches_are_read_by_workers_too_and_follow_set_epoch(
    connection: feedline.Loader, context: str
) -> None:
    from torch.utils.data import DataLoader

    from feedline.torch import MapBatches, first

    batches = MapBatches(connection.feed(batch_size=8, seed=3), with_ids=True)
    data = DataLoader(
        batches, batch_size=1, collate_fn=first, num_workers=2, multiprocessing_context=context, persistent_workers=True
    )
    read_before = read(data)
    batches.set_epoch(1)

    assert [read_before, read(data)] == epochs(connection, 2)


def test_numbered_batches_are_read_ahead_where_numbers_follow_each_other(connection: feedline.Loader) -> None:
    from feedline.torch import MapBatches

    batches = MapBatches(connection.feed(batch_size=8, seed=3), with_ids=True)
    (all_of_it,) = epochs(connection, 1)

    for numbers in (range(13), [1, 3, 5, 7, 9, 11], [4, 2, 12, 0], [0, 1, 2, 9, 10, 11], [5, 5, 5]):
        assert [batches[number][1].tolist() for number in numbers] == [all_of_it[number] for number in numbers]
    with pytest.raises(IndexError, match="there is no step 13"):
        batches[13]


def test_a_stream_is_read_without_workers() -> None:
    from feedline.torch import IterableBatches, MapBatches

    with served('{"y": [np.arange(3)] * 4}, kind="stream"') as address, feedline.connect(address) as connection:
        batches = IterableBatches(connection.feed())
        batches.set_epoch(1)

        assert [len(y) for y in reader(batches, 0)] == [3, 3, 3, 3]
        with pytest.raises(InvalidRequest, match="use num_workers=0"):
            list(reader(batches, 1, multiprocessing_context="fork"))
        with pytest.raises(InvalidRequest, match=r"use feed.torch\(\)"):
            MapBatches(connection.feed())


def test_what_the_forms_cannot_do_is_refused(connection: feedline.Loader) -> None:
    from feedline.torch import MapBatches

    with pytest.raises(InvalidRequest, match="make it without rank and world"):
        MapBatches(connection.feed(rank=1, world=2))
    with pytest.raises(InvalidRequest, match="not a state of IterableBatches"):
        of(connection).load_state_dict({"worker": 1})
