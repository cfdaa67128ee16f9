"""A batch is a pure function of its key."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

VIEWS = {"train": range(900), "validation": range(900, 1000)}
LARGEST = 2**64 - 1


def ids_of_epoch(loader: Any, key: Callable[..., Any], rows: int, samples: int = 900, **different: Any) -> list[int]:
    """The ids of an epoch, cut into batches of `rows`; the last one is short."""
    starts = range(0, samples, rows)
    keys = [key(offset=start, rows=min(rows, samples - start), **different) for start in starts]
    return [sample for batch in loader.fetch(*keys) for sample in batch.ids]


# ---- what is in it ----


def test_a_batch_has_every_column_and_the_ids(loader: Any, key: Callable[..., Any]) -> None:
    (batch,) = loader.fetch(key(rows=5))

    assert {name: (array.dtype.str, array.shape) for name, array in batch.arrays.items()} == {
        "x": ("<f4", (5, 6000)),
        "y": ("<i8", (5,)),
        "__ids__": ("<i8", (5,)),
    }


@pytest.mark.parametrize("order", ["shuffle", "sequential"])
@pytest.mark.parametrize("view", ["train", "validation"])
def test_every_row_is_of_the_sample_that_its_id_names(
    loader: Any, key: Callable[..., Any], view: str, order: str
) -> None:
    (batch,) = loader.fetch(key(view=view, order=order, offset=13, rows=64))

    expected = np.array(batch.ids)
    np.testing.assert_array_equal(batch.arrays["x"], np.broadcast_to(expected[:, None], (64, 6000)))
    np.testing.assert_array_equal(batch.arrays["y"], expected)


def test_a_batch_of_twenty_megabytes_arrives_whole(loader: Any, key: Callable[..., Any]) -> None:
    (batch,) = loader.fetch(key(rows=900))

    assert len(batch.body) > 20_000_000
    ids = np.array(batch.ids)
    assert (batch.arrays["x"] == ids[:, None]).all()
    assert (batch.arrays["y"] == ids).all()


def test_a_batch_may_be_a_single_row(loader: Any, key: Callable[..., Any]) -> None:
    (batch,) = loader.fetch(key(order="sequential", offset=7, rows=1))

    assert batch.ids == [7]
    assert batch.arrays["x"].shape == (1, 6000)


# ---- in which order ----


@pytest.mark.parametrize(("view", "ids"), VIEWS.items())
def test_sequential_is_the_order_of_the_dataset(loader: Any, key: Callable[..., Any], view: str, ids: range) -> None:
    asked = {"view": view, "order": "sequential", "samples": len(ids)}

    assert ids_of_epoch(loader, key, 100, **asked) == list(ids)
    assert ids_of_epoch(loader, key, 100, seed=5, epoch=7, **asked) == list(ids)


@pytest.mark.parametrize("epoch", [0, 1, 1000])
@pytest.mark.parametrize(("view", "ids"), VIEWS.items())
def test_a_shuffled_epoch_has_every_sample_of_the_view_once(
    loader: Any, key: Callable[..., Any], view: str, ids: range, epoch: int
) -> None:
    shuffled = ids_of_epoch(loader, key, 100, view=view, samples=len(ids), epoch=epoch)

    assert shuffled != list(ids)
    assert sorted(shuffled) == list(ids)


def test_seeds_and_epochs_have_orders_of_their_own(loader: Any, key: Callable[..., Any]) -> None:
    """(3, 1) beside (4, 0) and (2, 2): with a seed that is added to the epoch they would be the same."""
    asked = [(3, 0), (3, 1), (4, 0), (2, 2), (0, 0), (0, 3), (LARGEST, 0), (0, LARGEST), (2**32, 0), (0, 2**32)]

    batches = loader.fetch(*(key(seed=seed, epoch=epoch, rows=50) for seed, epoch in asked))

    assert len({tuple(batch.ids) for batch in batches}) == len(asked)


@pytest.mark.parametrize("rows", [7, 64, 333])
def test_the_cut_into_batches_does_not_change_the_order(loader: Any, key: Callable[..., Any], rows: int) -> None:
    assert ids_of_epoch(loader, key, rows) == ids_of_epoch(loader, key, 900)


@pytest.mark.parametrize("order", ["shuffle", "sequential"])
def test_positions_past_the_end_run_on_into_the_next_epoch(loader: Any, key: Callable[..., Any], order: str) -> None:
    across, tail, head = loader.fetch(
        key(order=order, epoch=4, offset=880, rows=50),
        key(order=order, epoch=4, offset=880, rows=20),
        key(order=order, epoch=5, offset=0, rows=30),
    )

    assert across.ids == tail.ids + head.ids
    np.testing.assert_array_equal(across.arrays["x"], np.concatenate([tail.arrays["x"], head.arrays["x"]]))
    np.testing.assert_array_equal(across.arrays["y"], np.concatenate([tail.arrays["y"], head.arrays["y"]]))


def test_a_whole_view_may_begin_at_its_last_position(loader: Any, key: Callable[..., Any]) -> None:
    across, last, head = loader.fetch(
        key(view="validation", offset=99, rows=100),
        key(view="validation", offset=99, rows=1),
        key(view="validation", epoch=1, offset=0, rows=99),
    )

    assert across.ids == last.ids + head.ids


def test_a_batch_larger_than_the_view_goes_through_several_epochs(loader: Any, key: Callable[..., Any]) -> None:
    across, first, second, third = loader.fetch(
        key(view="validation", offset=90, rows=210),
        key(view="validation", offset=90, rows=10),
        key(view="validation", epoch=1, offset=0, rows=100),
        key(view="validation", epoch=2, offset=0, rows=100),
    )

    assert across.ids == first.ids + second.ids + third.ids


# ---- and always the same bytes ----


def test_a_key_gives_the_same_bytes_when_it_is_asked_again(loader: Any, key: Callable[..., Any]) -> None:
    asked = key(offset=100, rows=33)  # an odd number of rows: the padding between arrays is part of the bytes

    with loader.stream() as stream:
        stream.want({1: asked})
        first = stream.receive(1)[1]
        stream.want({2: key(epoch=3, rows=200), 3: asked})
        again = stream.receive(2)[3]

    assert first.digest == again.digest


def test_a_key_gives_the_same_bytes_on_two_streams(loader: Any, key: Callable[..., Any]) -> None:
    asked = key(offset=100, rows=33)

    with loader.stream() as one, loader.stream() as other:
        one.want({1: asked})
        other.want({1: asked})

        assert one.receive(1)[1].digest == other.receive(1)[1].digest


def test_keys_give_the_same_bytes_in_whatever_order_they_are_asked(loader: Any, key: Callable[..., Any]) -> None:
    keys = [key(offset=33 * i, rows=33) for i in range(20)]

    forwards = loader.fetch(*keys)
    backwards = loader.fetch(*reversed(keys))

    assert [batch.digest for batch in forwards] == [batch.digest for batch in reversed(backwards)]
