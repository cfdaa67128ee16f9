"""Datasets that do more than hand out rows: finished here, with bad samples, in ready batches, or without an end."""

import logging
import pickle
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import islice
from typing import Any

import numpy as np
import pytest

import feedline
from feedline.reading.batch import rows_present
from feedline.testing import FakeLoader, serve
from feedline_wire.elementwise import Cast, Normalise, OneHot, Scale
from feedline_wire.errors import BadSample, DataError, InvalidRequest, ProtocolMismatch

PIXELS = np.arange(20 * 4, dtype=np.uint8).reshape(20, 4)
LABELS = np.arange(20) % 3
COLUMNS = {"x": PIXELS, "y": LABELS}


@contextmanager
def connected(columns: dict[str, Any], **declared: Any) -> Iterator[feedline.Loader]:
    with serve(columns, **declared) as fake, feedline.connect(fake.address) as loader:
        yield loader


# ---- categories ----


def test_a_trainer_can_print_the_names_of_classes() -> None:
    with connected(COLUMNS, categories={"y": ["cats", "dogs", "cows"]}) as loader:
        _, y = next(loader.epoch(batch_size=4, order="sequential"))
        classes = loader.dataset().classes

    assert [classes[number] for number in y] == ["cats", "dogs", "cows", "cats"]


@pytest.mark.parametrize(
    ("structure", "classes"),
    [(("x", "y"), ("a", "b")), ("x", ()), (("x",), ()), (("y", "x"), ("c", "d")), (("x", {"x": "x", "y": "y"}), ())],
)
def test_the_classes_are_those_of_the_only_target_that_has_names(structure: Any, classes: tuple[str, ...]) -> None:
    with connected(COLUMNS, structure=structure, categories={"y": ["a", "b"], "x": ["c", "d"]}) as loader:
        assert loader.dataset().classes == classes
        assert loader.dataset().categories["y"] == ("a", "b")


# ---- deferred transforms ----


def test_deferred_transforms_are_applied_here_and_travels_as_it_was() -> None:
    deferred = [("x", Scale(divide_by=255)), ("x", Normalise((0.1,), (0.5,))), ("y", OneHot(3))]
    with serve(COLUMNS, deferred=deferred) as fake, feedline.connect(fake.address) as loader:
        batch = next(loader.epoch(batch_size=20, order="sequential"))
        sent = loader.dataset().nbytes(20)

    x, y = batch
    plain = (PIXELS.astype(np.float32) / np.float32(255) - np.float32(0.1)) / np.float32(0.5)
    assert x.dtype == np.float32
    assert x.tobytes() == plain.tobytes()
    assert y.tolist() == np.eye(3)[LABELS].tolist()
    assert batch["x"] is x
    assert sent == 128 + 192 + 160  # uint8 pixels and labels to the next boundary of 64 bytes, ids


def test_a_dataset_shows_its_columns_as_they_are_when_they_are_finished() -> None:
    with connected(COLUMNS, deferred=[("x", Cast("float64")), ("y", OneHot(3))]) as loader:
        info = loader.dataset()

    assert repr(info) == ("<DatasetInfo fake samples=20 views={'train': 20} columns=(x float64(4), y float32(3))>")
    assert [str(column) for column in info.arriving] == ["x uint8(4)", "y int64()"]


def test_a_value_that_cannot_be_finished_is_an_error_naming_column_sample_and_operation() -> None:
    with (
        connected(COLUMNS, deferred=[("y", OneHot(2))]) as loader,
        pytest.raises(BadSample, match=r"column 'y' of 'fake', sample 5, 8: the value 2 is no class of 0\.\.1") as bad,
    ):
        list(loader.epoch(batch_size=5, order="sequential", start=1))

    assert bad.value.samples == (5, 8)


def test_a_deferred_transform_of_a_newer_loader_is_refused_when_connecting(monkeypatch: pytest.MonkeyPatch) -> None:
    with serve(COLUMNS) as fake:
        describe = fake._state.dataset.describe

        def newer(self: Any, fingerprint: bytes) -> Any:
            message = describe(fingerprint)
            message.deferred.add(column="x")
            return message

        monkeypatch.setattr("feedline.testing.memory.MemoryDataset.describe", newer)
        with pytest.raises(ProtocolMismatch, match="column 'x' is to be finished here in a way"):
            feedline.connect(fake.address, timeout_s=5)


# ---- bad samples ----


def test_bad_samples_are_left_out_named_and_counted(caplog: pytest.LogCaptureFixture) -> None:
    with connected(COLUMNS, bad=[2, 3, 17]) as loader, caplog.at_level(logging.WARNING, "feedline"):
        batches = list(loader.epoch(batch_size=5, order="sequential"))
        again = list(loader.epoch(1, batch_size=5, order="sequential"))
        stats = loader.stats
        shown = repr(loader)

    assert [batch.ids.tolist() for batch in batches] == [
        [0, 1, 4],
        [5, 6, 7, 8, 9],
        [10, 11, 12, 13, 14],
        [15, 16, 18, 19],
    ]
    assert [batch.bad.tolist() for batch in batches] == [[2, 3], [], [], [17]]
    assert [len(x) for x, y in batches] == [3, 5, 5, 4]
    assert repr(batches[0]) == "<Batch epoch=0 index=0 rows=3 bad=2 columns=(x uint8(3, 4), y int64(3,))>"
    assert len(again) == 4
    assert stats.bad_samples == 6
    assert shown.endswith("bad_samples=6>")
    assert [record.getMessage() for record in caplog.records] == [
        "samples of 'fake' are bad and are left out: 2, 3; the loader's log says what is wrong with them, further ones "
        "are counted in stats.bad_samples"
    ]


def test_bad_samples_are_replaced_named_and_counted(caplog: pytest.LogCaptureFixture) -> None:
    with connected(COLUMNS, bad=[2, 3], on_bad_sample="substitute") as loader:
        batch = next(loader.epoch(batch_size=5, order="sequential"))
        assert loader.stats.bad_samples == 2

    assert batch.ids.tolist() == [0, 1, 4, 4, 4]
    assert batch["x"].tolist() == PIXELS[[0, 1, 4, 4, 4]].tolist()
    assert batch.bad.tolist() == [2, 3]
    assert "are replaced by others: 2, 3" in caplog.text


def test_each_row_that_is_left_keeps_the_weight_of_its_own_position() -> None:
    """20 samples in batches of 8: the last has positions 16..23, of which the last four are padding."""
    with connected(COLUMNS, bad=[1, 18]) as loader:
        batches = list(loader.epoch(batch_size=8, order="sequential", remainder="pad"))

    assert batches[2].ids.tolist() == [16, 17, 19, 0, 2, 3]
    assert batches[2].weights is not None
    assert batches[2].weights.tolist() == [1, 1, 1, 0, 0, 0]


def test_a_batch_of_which_all_is_bad_is_an_error() -> None:
    with connected(COLUMNS, bad=range(5, 10)) as loader, pytest.raises(DataError, match="every sample of the batch"):
        list(loader.epoch(batch_size=5, order="sequential"))


def test_in_batches_of_one_a_bad_sample_is_passed_over_and_places_stay_right() -> None:
    """It was an error that ended the epoch, or none that anybody could answer."""
    with connected(COLUMNS, bad=[0, 7, 8, 19]) as loader:
        feed = loader.feed(batch_size=1, order="sequential")
        whole = [int(batch.ids[0]) for batch in feed.epoch(0)]
        some = feed.epoch(1)
        first = [int(next(some).ids[0]) for _ in range(7)]
        state = feed.state_dict()
        again = loader.feed(batch_size=1, order="sequential")
        again.load_state_dict(state)
        rest = [int(batch.ids[0]) for batch in again]
        counted = loader.stats.bad_samples

    assert whole == [1, 2, 3, 4, 5, 6, *range(9, 19)]
    assert first == [1, 2, 3, 4, 5, 6, 9]
    assert rest == list(range(10, 19))
    assert counted == 4 + 3 + 1


def test_an_epoch_in_which_each_sample_is_bad_is_an_error() -> None:
    with (
        connected(COLUMNS, bad=range(20)) as loader,
        pytest.raises(DataError, match="all 20 samples of epoch 0 are bad"),
    ):
        list(loader.epoch(batch_size=1))


def test_ranks_that_leave_samples_out_one_by_one_are_refused_with_the_way_out() -> None:
    """One would have no batch where the others wait for it."""
    with connected(COLUMNS, bad=[3]) as loader:
        with pytest.raises(
            InvalidRequest, match=r"leaves bad samples out, .* ask for batch_size=2 or more, or declare"
        ):
            loader.feed(batch_size=1, rank=0, world=2)
        loader.feed(batch_size=2, rank=0, world=2)
        loader.feed(batch_size=1)


def test_nothing_bad_is_nothing_to_say() -> None:
    with connected(COLUMNS, bad=[]) as loader:
        batches = list(loader.epoch(batch_size=6))
        shown = repr(loader)

    assert sum(len(batch.ids) for batch in batches) == 20
    assert "bad" not in repr(batches[0]) + shown


@pytest.mark.parametrize("bad", [[[4, 7]], [[-1, 7]], [[1, 7], [1, 8]]])
def test_rows_that_are_missing_must_be_those_that_are_named(bad: list[list[int]]) -> None:
    left_out = np.array(bad)[:, 0]

    with pytest.raises(ProtocolMismatch, match="are named as left out"):
        rows_present(left_out, wanted=3 + len(bad), arrived=3)


# ---- ready batches ----

BATCHES = {
    "x": [np.full((rows, 2), number, np.float32) for number, rows in enumerate((4, 4, 2, 5, 4))],
    "y": [np.full(rows, number) for number, rows in enumerate((4, 4, 2, 5, 4))],
}


def test_ready_batches_come_as_they_were_made() -> None:
    with connected(BATCHES, kind="batches", deferred=[("y", OneHot(5))]) as loader:
        feed = loader.feed(order="sequential")
        batches = list(feed)
        info = loader.dataset()

    assert len(feed) == 5
    assert [batch.rows for batch in batches] == [4, 4, 2, 5, 4]
    assert [batch.ids.tolist() for batch in batches] == [[0], [1], [2], [3], [4]]
    assert all((batch["x"] == number).all() for number, batch in enumerate(batches))
    assert batches[2]["y"].tolist() == [[0, 0, 1, 0, 0]] * 2
    assert repr(info).startswith("<DatasetInfo fake batched samples=5 ")


def test_ready_batches_are_shuffled_resumed_and_divided_like_samples() -> None:
    with connected(BATCHES, kind="batches") as loader:
        feed = loader.feed(seed=4)
        first = [batch.ids.tolist() for batch in islice(feed, 2)]
        resumed = loader.feed(seed=4)
        resumed.load_state_dict(feed.state_dict())
        rest = [batch.ids.tolist() for batch in resumed]
        ranks = [[b.ids.tolist() for b in loader.epoch(seed=4, rank=rank, world=2)] for rank in (0, 1)]

    assert sorted(first + rest) == [[0], [1], [2], [3], [4]]
    assert first + rest != [[0], [1], [2], [3], [4]]
    assert [one for pair in zip(ranks[0], ranks[1], strict=False) for one in pair] == (first + rest)[:4]
    assert ranks[0][2] == (first + rest)[4]


def test_a_padded_ready_batch_has_no_weight_at_all() -> None:
    with connected(BATCHES, kind="batches") as loader:
        ranks = [list(loader.epoch(order="sequential", remainder="pad", rank=rank, world=2)) for rank in (0, 1)]

    assert ranks[0][2].weights.tolist() == [1, 1, 1, 1]
    assert ranks[1][2].weights.tolist() == [0, 0, 0, 0]


def test_the_size_of_ready_batches_cannot_be_asked_for() -> None:
    with connected(BATCHES, kind="batches") as loader:
        with pytest.raises(InvalidRequest, match="made by its own code on the loader, which decides their size"):
            loader.feed(batch_size=32)

        assert loader.feed(batch_size=1).plan.batch_size == 1


def test_many_ready_batches_of_different_size_are_wanted_ahead_within_the_memory_allowed() -> None:
    many = {"x": [np.zeros((1 + number % 7, 1000), np.float32) for number in range(40)]}
    with serve(many, kind="batches") as fake, feedline.connect(fake.address) as loader:
        for count, _ in enumerate(loader.epoch(prefetch_bytes=100_000), start=1):
            assert len(fake.requests) <= count + 16
            if count > 14:  # all sizes were seen: the largest has 28,000 bytes
                assert len(fake.requests) <= count + 5


# ---- streams ----


def test_a_stream_gives_what_comes_next_for_so_many_batches_an_epoch() -> None:
    with connected(BATCHES, kind="stream") as loader:
        feed = loader.feed()
        epochs = [[int(batch["y"][0]) for batch in feed] for _ in range(2)]

    assert len(feed) == 5
    assert [sorted(epoch) for epoch in epochs] == [[0, 1, 2, 3, 4]] * 2
    assert feed.options.order == "stream"


def test_an_endless_stream_never_ends_and_has_no_length() -> None:
    with connected(BATCHES, kind="endless") as loader:
        feed = loader.feed()
        with feed.epoch(0) as epoch:
            numbers = [int(batch["y"][0]) for batch in islice(epoch, 12)]

        assert sorted(numbers) == sorted([*range(5), *range(5), 0, 1])
        with pytest.raises(InvalidRequest, match="never ends, so it has no length; declare its steps_per_epoch"):
            len(feed)
        assert feed._batches.waits._reader.steps == 0  # what loaders are told


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"seed": 3}, "seed is 3, and dataset 'fake' is a stream"),
        ({"order": "shuffle"}, "order is 'shuffle', and dataset 'fake' is a stream"),
        ({"remainder": "pad"}, "remainder is 'pad', and dataset 'fake' is a stream"),
        ({"world": 2, "rank": 1}, "cannot be divided by ranks, and need not be"),
        ({"batch_size": 8}, "leave batch_size out"),
    ],
)
def test_what_only_samples_with_numbers_can_have_is_refused_for_a_stream(
    arguments: dict[str, Any], message: str
) -> None:
    with connected(BATCHES, kind="stream") as loader, pytest.raises(InvalidRequest, match=message):
        loader.feed(**arguments)


def test_nothing_of_a_stream_can_be_returned_to() -> None:
    with connected(BATCHES, kind="stream") as loader:
        feed = loader.feed()
        for ask in (feed.state_dict, lambda: feed.load_state_dict({}), lambda: feed.epoch(0, start=2)):
            with pytest.raises(InvalidRequest, match="whatever its code yields next comes next, and nothing can be"):
                ask()

        assert len(list(feed.epoch(7))) == 5


def test_a_copy_of_a_streams_feed_is_another_trainer_of_it() -> None:
    with connected(BATCHES, kind="stream") as loader, pickle.loads(pickle.dumps(loader.feed())) as copy:
        assert len(list(copy)) == 5


def test_a_stream_goes_on_where_a_loader_was_lost(fake_stream: FakeLoader) -> None:
    """What was on its way is lost with it; the count of batches is kept, as promised."""
    with feedline.connect(fake_stream.address) as loader:
        epoch = loader.epoch()
        next(epoch)
        fake_stream.drop_streams()

        assert len(list(epoch)) == 4


@pytest.fixture
def fake_stream() -> Iterator[FakeLoader]:
    with serve(BATCHES, kind="stream") as fake:
        yield fake


# ---- orders ----


def test_an_order_is_asked_for_by_any_of_its_names_and_kept_by_its_whole_one() -> None:
    with serve(COLUMNS) as fake, feedline.connect(fake.address) as loader:
        feed = loader.feed(order="blocks:4", batch_size=4)
        next(iter(feed))
        state = feed.state_dict()
        again = loader.feed(order="blocks:4x256", batch_size=4)
        again.load_state_dict(state)

    assert fake.requests[0].order == "blocks:4x256"
    assert state["order"] == "blocks:4x256"


def test_contiguous_blocks_come_whole_and_each_once() -> None:
    with connected(COLUMNS) as loader:
        batches = [batch.ids.tolist() for batch in loader.epoch(order="blocks:6:in-order", batch_size=6)]

    assert sorted(batches[:3]) == [[0, 1, 2, 3, 4, 5], [6, 7, 8, 9, 10, 11], [12, 13, 14, 15, 16, 17]]
    assert batches[3] == [18, 19]


def test_draws_with_replacement_are_counted_by_position() -> None:
    with connected(COLUMNS) as loader:
        epoch = loader.epoch(order="replacement", batch_size=3, seed=1)
        ids = [sample for batch in epoch for sample in batch.ids.tolist()]

    assert epoch.delivered == 7
    assert len(ids) == 20
    assert len(set(ids)) < 20


def test_an_order_that_a_dataset_does_not_have_is_refused() -> None:
    with connected(COLUMNS) as loader, pytest.raises(InvalidRequest, match="dataset 'fake' has: shuffle, sequential"):
        loader.feed(order="stream", batch_size=5)


def test_an_order_that_is_not_written_right_says_how_it_is() -> None:
    with connected(COLUMNS) as loader, pytest.raises(InvalidRequest, match=r"a block has 1\.\.1000000000 samples"):
        loader.feed(order="blocks:0", batch_size=5)
