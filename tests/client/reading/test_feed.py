"""One trainer's way through a view: every sample as often as promised, from any place, whatever interrupts it."""

import copy
import json
import pickle
import time
import weakref
from collections import Counter
from collections.abc import Iterable, Iterator

import numpy as np
import pytest

import feedline
from feedline.reading.batch import Batch
from feedline.reading.plan import Remainder, Step
from feedline.testing import FakeLoader, serve
from feedline_wire.errors import BadSample, Closed, DatasetChanged, InvalidRequest, LoaderStalled
from feedline_wire.key import Key

SAMPLES = 101
X = np.arange(SAMPLES * 3, dtype=np.float32).reshape(SAMPLES, 3)
Y = np.arange(SAMPLES, dtype=np.int64) * 10

WAIT_S = 20.0
"""For what takes milliseconds: a test that waits so long should fail and say so."""


@pytest.fixture
def loader() -> Iterator[FakeLoader]:
    with serve({"x": X, "y": Y}, views={"train": range(SAMPLES), "few": range(7)}, shuffle_answers=True) as loader:
        yield loader


@pytest.fixture
def orderly() -> Iterator[FakeLoader]:
    """Answers in the order of the wants."""
    with serve({"x": X, "y": Y}) as loader:
        yield loader


@pytest.fixture
def connection(loader: FakeLoader) -> Iterator[feedline.Loader]:
    with feedline.connect(loader.address, timeout_s=WAIT_S) as connection:
        yield connection


def ids(batches: Iterable[Batch]) -> list[int]:
    return [int(sample) for batch in batches for sample in batch.ids]


def real_ids(batches: Iterable[Batch]) -> list[int]:
    """Without padding."""
    return [int(sample) for batch in batches for sample in batch.ids[: batch.rows - batch.step.padding]]


# ---- what a batch is ----


def test_a_batch_unpacks_into_what_the_dataset_declares_and_knows_its_samples(connection: feedline.Loader) -> None:
    batch = next(connection.epoch(2, batch_size=8, seed=5))

    x, y = batch
    assert (x == X[batch.ids]).all()
    assert (y == Y[batch.ids]).all()
    assert batch["y"] is y
    assert (batch.epoch, batch.index, batch.offset, batch.rows, batch.weights) == (2, 0, 0, 8, None)
    assert [len(part) for part in batch.as_tuple()] == [8, 8]
    assert repr(batch) == "<Batch epoch=2 index=0 rows=8 columns=(x float32(8, 3), y int64(8,))>"


def test_arrays_start_on_64_byte_boundaries_so_that_frameworks_take_them_without_a_copy(
    connection: feedline.Loader,
) -> None:
    for batch in connection.epoch(batch_size=7):
        assert [array.ctypes.data % 64 for array in batch.columns.values()] == [0, 0]


def test_a_batch_is_like_the_tuple_that_it_unpacks_into(connection: feedline.Loader) -> None:
    batch = next(iter(connection.epoch(batch_size=8)))
    padded = next(connection.epoch(view="few", batch_size=8, remainder="pad"))

    assert (len(batch), len(padded)) == (2, 3)
    assert batch[0] is batch["x"]
    assert batch[-1] is batch["y"]
    assert padded[2] is padded.weights
    assert [part.shape for part in batch[:2]] == [(8, 3), (8,)]
    with pytest.raises(IndexError):
        batch[2]


def test_an_epoch_knows_its_length_however_far_it_is(connection: feedline.Loader) -> None:
    epoch = connection.epoch(batch_size=10)

    assert len(epoch) == 11
    assert [len(epoch) for _ in epoch] == [11] * 11
    assert len(connection.epoch(batch_size=10, start=9)) == 2
    assert bool(epoch)


def test_a_column_that_is_not_there_is_refused_naming_those_that_are(connection: feedline.Loader) -> None:
    with pytest.raises(InvalidRequest, match="no column 'label'; it has: x, y"):
        next(connection.epoch())["label"]


def test_a_padded_batch_has_weights_and_real_samples_of_the_next_epoch_in_its_padding(
    connection: feedline.Loader,
) -> None:
    *_, last = connection.epoch(batch_size=40, remainder="pad")

    x, _, weights = last
    assert weights.tolist() == [1.0] * 21 + [0.0] * 19
    assert weights.dtype == np.float32
    assert (x == X[last.ids]).all()
    assert [part.shape for part in last.as_tuple()] == [(40, 3), (40,), (40,)]
    assert last.ids[21:].tolist() == next(connection.epoch(1, batch_size=19)).ids.tolist()


@pytest.mark.parametrize("structure", ["x", ("x",), {"x": "x", "y": "y"}])
def test_padding_without_a_y_cannot_be_told_to_keras(structure: object) -> None:
    with serve({"x": X, "y": Y}, structure=structure) as loader, feedline.connect(loader.address) as connection:  # type: ignore[arg-type]
        batch = next(connection.epoch(remainder="pad"))

        with pytest.raises(InvalidRequest, match="the dataset has no y"):
            batch.as_tuple()
        assert len(next(connection.epoch()).as_tuple()) == 1


# ---- every sample ----


@pytest.mark.parametrize("batch_size", [1, 13, 33])
@pytest.mark.parametrize("world", [1, 2, 3])
@pytest.mark.parametrize("remainder", ["drop", "short", "pad"])
def test_all_ranks_together_get_every_sample_as_often_as_the_remainder_promises(
    connection: feedline.Loader, remainder: Remainder, world: int, batch_size: int
) -> None:
    stride = world * batch_size
    feeds = [
        connection.feed(batch_size=batch_size, remainder=remainder, rank=rank, world=world, seed=3)
        for rank in range(world)
    ]

    for _ in range(2):
        batches = [batch for feed in feeds for batch in feed]
        counts = Counter(real_ids(batches))
        assert set(counts.values()) == {1}
        assert len(counts) == (SAMPLES - SAMPLES % stride if remainder == "drop" else SAMPLES)
        if remainder != "short":
            assert len({len(feed) for feed in feeds}) == 1
        assert all((batch["y"] == Y[batch.ids]).all() for batch in batches)


def test_wrapped_epochs_together_are_every_sample_once_an_epoch(connection: feedline.Loader) -> None:
    feed = connection.feed(batch_size=32, remainder="wrap")

    line = [sample for _ in range(32) for sample in ids(feed)]  # 32 epochs are a whole number of batches

    assert Counter(line) == Counter(dict.fromkeys(range(SAMPLES), 32))
    assert all(sorted(line[start : start + SAMPLES]) == list(range(SAMPLES)) for start in range(0, len(line), SAMPLES))


def test_batches_come_in_order_although_the_loader_answers_in_any(connection: feedline.Loader) -> None:
    assert ids(connection.epoch(batch_size=4, order="sequential")) == list(range(SAMPLES))


def test_small_frames_are_put_together() -> None:
    with serve({"x": X, "y": Y}, frame_bytes=7) as loader, feedline.connect(loader.address) as connection:
        assert sorted(ids(connection.epoch(batch_size=30))) == list(range(SAMPLES))


def test_epochs_differ_and_seeds_differ_and_the_same_is_the_same(connection: feedline.Loader) -> None:
    epochs = {(seed, epoch): tuple(ids(connection.epoch(epoch, seed=seed))) for seed in (0, 1) for epoch in (0, 1)}

    assert len(set(epochs.values())) == 4
    assert tuple(ids(connection.epoch(1, seed=1, batch_size=9))) == epochs[1, 1]


def test_each_loop_over_a_feed_is_the_next_epoch(connection: feedline.Loader) -> None:
    feed = connection.feed(batch_size=20)

    loops = [ids(feed) for _ in range(3)]

    assert loops == [ids(connection.epoch(epoch)) for epoch in range(3)]


def test_a_feed_has_the_length_of_its_epoch(connection: feedline.Loader) -> None:
    assert [len(connection.feed(batch_size=20, remainder=remainder)) for remainder in ("drop", "short")] == [5, 6]


def test_an_epoch_can_be_started_at_any_batch(connection: feedline.Loader) -> None:
    whole = list(connection.epoch(3, batch_size=10))

    rest = list(connection.epoch(3, start=8, batch_size=10))

    assert [batch.index for batch in rest] == [8, 9, 10]
    assert ids(rest) == ids(whole[8:])
    assert list(connection.epoch(3, start=11, batch_size=10)) == []


# ---- random access ----


def test_any_batch_can_be_fetched_by_its_step_or_key_any_number_of_times(connection: feedline.Loader) -> None:
    feed = connection.feed(batch_size=10, seed=2)
    walked = list(feed.epoch(4))

    step = feed.plan.step(4, 7)

    assert feed.fetch(step).ids.tolist() == walked[7].ids.tolist()
    assert feed.fetch(feed.key(step)).ids.tolist() == walked[7].ids.tolist()
    assert feed.fetch(step).index == 7
    assert feed.fetch(feed.key(step)).index == 7


def test_a_batch_fetched_by_its_key_has_no_padding(connection: feedline.Loader) -> None:
    """A key says how many rows it has, and not which of them were only asked for to fill a batch."""
    feed = connection.feed(batch_size=60, remainder="pad")

    by_step = feed.fetch(feed.plan.step(0, 1))
    by_key = feed.fetch(feed.key(feed.plan.step(0, 1)))

    assert (by_step.step.padding, by_key.step) == (19, Step(1, 0, 60, 60, 0, 0))
    assert by_key.weights is not None
    assert by_key.weights.tolist() == [1.0] * 60


def test_a_fetch_in_vain_wants_nothing_more(connection: feedline.Loader, loader: FakeLoader) -> None:
    loader.stall()
    feed = connection.feed(batch_size=10, timeout_s=0.1)

    with pytest.raises(LoaderStalled):
        feed.fetch(feed.plan.step(0, 0))

    assert repr(connection._fleet) == f"<Fleet {loader.address} replicas=1 outstanding=0>"


def test_a_batch_is_expected_to_be_as_large_as_its_rows_and_the_largest_seen(
    connection: feedline.Loader, monkeypatch: pytest.MonkeyPatch
) -> None:
    """30 rows of x and y in bytes, and their ids, each from a boundary of 64 bytes on."""
    expected: list[int] = []
    want = connection._fleet.want
    monkeypatch.setattr(connection._fleet, "want", lambda key, nbytes: expected.append(nbytes) or want(key, nbytes))
    feed = connection.feed(batch_size=30)

    feed.fetch(feed.plan.step(0, 3))
    feed.fetch(feed.plan.step(0, 0))
    next(iter(feed))

    # 384 + 256 + 240 bytes are 30 for each row; of the last batch's 11 rows 192 + 128 + 88 are 37 for each.
    assert expected == [11 * 30, 30 * 37, 30 * 37, 30 * 37, 30 * 37, 11 * 37]


def test_a_key_past_the_end_is_counted_in_the_next_epoch(connection: feedline.Loader) -> None:
    feed = connection.feed("few", batch_size=3, remainder="pad", rank=3, world=4)

    key = feed.key(feed.plan.step(5, 0))

    assert (key.epoch, key.offset, key.rows) == (6, 2, 3)


def test_a_read_ahead_follows_any_order_of_steps(connection: feedline.Loader, loader: FakeLoader) -> None:
    feed = connection.feed(batch_size=10, order="sequential", prefetch=4)
    numbers = [7, 2, 9, 0, 3, 5]

    ahead = feed.readahead(feed.plan.step(0, number) for number in numbers)

    assert [batch.index for batch in ahead] == numbers
    assert ahead.take() is None
    assert [key.offset for key in loader.requests] == [70, 20, 90, 0, 30, 50]


# ---- the window ----


def test_no_more_batches_are_wanted_ahead_than_prefetch_says(connection: feedline.Loader, loader: FakeLoader) -> None:
    loader.stall()
    epoch = connection.epoch(batch_size=5, prefetch=3, timeout_s=0.5)

    with pytest.raises(LoaderStalled):
        next(epoch)

    loader.resume()
    epoch._ahead._timeout_s = WAIT_S
    next(epoch)
    loader.wait_until(lambda seen: seen.answered == 4)
    assert [key.offset for key in loader.requests] == [0, 5, 10, 15]


def test_no_more_bytes_are_wanted_ahead_than_prefetch_bytes_says_but_always_one_batch(
    connection: feedline.Loader, loader: FakeLoader
) -> None:
    def wanted(prefetch_bytes: int) -> int:
        before = len(loader.requests)
        feed = connection.feed(batch_size=10, prefetch_bytes=prefetch_bytes)
        epoch = feed.epoch(0)
        next(epoch)
        feed.fetch(feed.plan.step(0, 0))  # asked for after those: when it is here, those have been seen
        return len(loader.requests) - before - 1

    # A batch of ten takes 336 bytes, expected as ten times 34. One batch more takes the place of the first
    # when that was handed out.
    assert [wanted(1), wanted(336), wanted(341), wanted(700)] == [2, 2, 3, 4]


def test_a_feed_that_reads_far_ahead_has_its_buffers_kept(connection: feedline.Loader) -> None:
    connection.feed(prefetch_bytes=4 << 30)

    assert connection._fleet._buffers.kept_nbytes == 8 << 30


def test_an_iteration_left_early_wants_nothing_more(orderly: FakeLoader) -> None:
    with feedline.connect(orderly.address) as connection:
        orderly.stall(after=1)
        feed = connection.feed(batch_size=5, prefetch=8)
        for _ in feed:
            break

        orderly.resume()
        assert feed.fetch(feed.plan.step(1, 0)).epoch == 1

        assert (feed.buffered, repr(connection._fleet)) == (0, f"<Fleet {orderly.address} replicas=1 outstanding=0>")


def test_closing_an_epoch_ends_it_with_an_error_and_not_as_if_it_were_complete(connection: feedline.Loader) -> None:
    with connection.epoch(batch_size=5) as epoch:
        next(epoch)
    epoch.close()

    with pytest.raises(Closed, match="this iteration was closed"):
        next(epoch)


def test_an_epoch_from_which_a_batch_was_lost_by_an_interrupt_says_so(connection: feedline.Loader) -> None:
    """Ctrl-C between taking a batch and handing it out must not become a hole that nobody sees."""
    feed = connection.feed(batch_size=5)
    epoch = iter(feed)
    first = next(epoch)
    epoch._ahead.take()  # taken and never handed out

    with pytest.raises(Closed, match="interrupted while it handed out a batch"):
        next(epoch)
    assert sorted(ids([first]) + ids(feed)) == list(range(SAMPLES))


def test_an_epoch_whose_last_batch_was_lost_by_an_interrupt_does_not_end_as_if_complete(
    connection: feedline.Loader,
) -> None:
    epoch = connection.epoch(batch_size=60)
    next(epoch)
    epoch._ahead.take()

    with pytest.raises(Closed, match="interrupted while it handed out a batch"):
        next(epoch)


def test_waits_are_counted(connection: feedline.Loader) -> None:
    feed = connection.feed(batch_size=10)
    list(feed)

    found = feed.stats.as_dict()
    assert (found["batches"], found["rows"]) == (11, 101)
    assert 0 <= found["ready"] < 11
    assert 0 < found["waited_s"] <= found["elapsed_s"]
    assert found["waited_s"] == sum(found["stages"].values())
    assert found["waiting_share"] == pytest.approx(found["waited_s"] / found["elapsed_s"])


def test_a_batch_that_the_trainer_let_go_of_is_held_by_nobody(connection: feedline.Loader) -> None:
    """The first of each dataset was, for as long as the connection, and what had come in the last message of a stream:
    with batches of a gigabyte a gigabyte each."""
    memories = [weakref.ref(owner(batch["x"])) for batch in connection.epoch(0, batch_size=10)]

    assert len(memories) == 11
    until = time.monotonic() + WAIT_S
    while any(memory() is not None for memory in memories):
        assert time.monotonic() < until
        time.sleep(0.01)  # the connection's thread may not be back from giving the last


def owner(array: np.ndarray) -> np.ndarray:
    """Whose memory a view is of."""
    while array.base is not None:
        array = array.base
    return array


# ---- from one epoch into the next ----


def keys_of(loader: FakeLoader, epoch: int) -> list[int]:
    return sorted(key.offset for key in loader.requests if key.epoch == epoch)


def test_from_the_second_epoch_on_the_next_one_is_read_ahead(connection: feedline.Loader, loader: FakeLoader) -> None:
    feed = connection.feed(batch_size=20, prefetch=3)
    first = ids(feed)
    connection.feed().fetch(feed.plan.step(0, 0))  # asked for after all others: when it is here, those were seen
    assert (keys_of(loader, 1), feed.buffered) == ([], 0)

    second = ids(feed)

    loader.wait_until(lambda seen: keys_of(seen, 2) == [0, 20, 40])
    assert keys_of(loader, 1) == [0, 20, 40, 60, 80, 100]
    rest = [ids(feed) for _ in range(3)]
    assert [first, second, *rest] == [ids(connection.epoch(epoch)) for epoch in range(5)]


def test_what_was_read_ahead_of_an_epoch_is_handed_out_and_not_asked_for_again(orderly: FakeLoader) -> None:
    with feedline.connect(orderly.address, timeout_s=WAIT_S) as connection:
        feed = connection.feed(batch_size=20, prefetch=3)
        for _ in range(5):
            list(feed)
        orderly.wait_until(lambda seen: len(seen.requests) == 5 * 6 + 3)

    assert len({(key.epoch, key.offset) for key in orderly.requests}) == 5 * 6 + 3


def test_the_first_batches_of_an_epoch_are_there_when_it_begins(orderly: FakeLoader) -> None:
    with feedline.connect(orderly.address, timeout_s=WAIT_S) as connection:
        feed = connection.feed(batch_size=20, prefetch=3)
        list(feed)
        list(feed)
        orderly.wait_until(lambda seen: seen.answered == 2 * 6 + 3)
        orderly.stall()  # nothing more can come

        epoch = iter(feed)
        found = [next(epoch).index for _ in range(3)]

        assert (found, epoch.delivered) == ([0, 1, 2], 3)
        orderly.resume()
        assert len(list(epoch)) == 3


def test_small_epochs_are_read_ahead_as_far_as_the_window_goes_and_no_further(orderly: FakeLoader) -> None:
    with feedline.connect(orderly.address, timeout_s=WAIT_S) as connection:
        feed = connection.feed(batch_size=60, prefetch=5)
        for _ in range(2):
            assert len(list(feed)) == 2

        orderly.wait_until(lambda seen: len(seen.requests) == 2 * 2 + 5)
        feed.fetch(feed.plan.step(0, 0))
        assert len(orderly.requests) == 2 * 2 + 5 + 1


@pytest.mark.parametrize("remainder", ["drop", "short", "pad", "wrap"])
@pytest.mark.parametrize("world", [1, 3])
def test_epochs_that_are_read_as_one_are_those_that_are_read_alone(
    connection: feedline.Loader, remainder: Remainder, world: int
) -> None:
    for rank in range(world):
        feed, alone = (
            connection.feed("few", batch_size=2, remainder=remainder, rank=rank, world=world) for _ in range(2)
        )

        assert [ids(feed) for _ in range(6)] == [ids(alone.epoch(epoch)) for epoch in (0, 1, 2, 3, 4, 5)]


def test_a_rank_without_a_share_has_empty_epochs_for_ever(connection: feedline.Loader) -> None:
    feed = connection.feed("few", batch_size=1, remainder="short", rank=7, world=8)

    assert [ids(feed) for _ in range(5)] == [[]] * 5


def test_another_place_is_not_served_what_was_read_ahead_for_the_next(connection: feedline.Loader) -> None:
    feed = connection.feed(batch_size=20, prefetch=3)
    other_seed = connection.feed(batch_size=20, seed=9).state_dict()
    alone = {epoch: ids(connection.epoch(epoch)) for epoch in range(3)}

    def go_on() -> None:
        for _ in range(2):
            list(feed)

    go_on()
    again = ids(feed.epoch(0))
    go_on()
    feed.set_epoch(1)
    chosen = ids(feed)
    go_on()
    from_its_middle = ids(feed.epoch(2, start=4))
    go_on()
    there = feed.state_dict()["epoch"]
    feed.load_state_dict(other_seed | {"epoch": there})
    sown = ids(feed)

    assert (again, chosen, from_its_middle) == (alone[0], alone[1], alone[2][80:])
    assert sown == ids(connection.epoch(int(there), seed=9))


def test_an_epoch_in_progress_keeps_its_seed_when_a_state_is_loaded(connection: feedline.Loader) -> None:
    feed = connection.feed(batch_size=20, prefetch=1)
    epoch = iter(feed)
    got = next(epoch).ids.tolist()

    feed.load_state_dict(connection.feed(batch_size=20, seed=9).state_dict())

    assert got + ids(epoch) == ids(connection.epoch(0))
    assert ids(feed) == ids(connection.epoch(0, seed=9))


def test_an_epoch_that_is_left_early_gives_up_what_was_read_ahead_and_is_gone_on_with(
    orderly: FakeLoader,
) -> None:
    with feedline.connect(orderly.address, timeout_s=WAIT_S) as connection:
        feed = connection.feed(batch_size=20, prefetch=3)
        list(feed)
        list(feed)
        got = []
        for batch in feed:
            got += batch.ids.tolist()
            break

        assert feed.buffered == 0
        assert got + ids(feed) == ids(connection.epoch(2))


def test_an_epoch_that_has_ended_stays_ended_while_the_next_one_is_read(connection: feedline.Loader) -> None:
    feed = connection.feed(batch_size=20, prefetch=3)
    list(feed)
    with iter(feed) as second:
        list(second)
    third = iter(feed)
    got = next(third).ids.tolist()

    assert next(second, None) is None
    second.close()

    assert got + ids(third) == ids(connection.epoch(2))


def test_closing_a_feed_gives_up_what_was_read_ahead_of_an_epoch(orderly: FakeLoader) -> None:
    with feedline.connect(orderly.address, timeout_s=WAIT_S) as connection:
        feed = connection.feed(batch_size=20, prefetch=3)
        list(feed)
        list(feed)
        feed.fetch(feed.plan.step(0, 0))  # asked for after those that were read ahead, so those are here too
        assert feed.buffered == 3

        feed.close()

        assert feed.buffered == 0
        assert repr(connection._fleet) == f"<Fleet {orderly.address} replicas=1 outstanding=0>"


# ---- errors ----


def test_a_bad_sample_is_the_error_of_exactly_its_batch_and_can_be_asked_for_again(
    connection: feedline.Loader, loader: FakeLoader
) -> None:
    bad = BadSample("sample 30 is no image", traceback="Traceback: …", samples=[30])
    loader.fail(lambda key: bad if key.offset == 30 else None)
    epoch = connection.epoch(batch_size=10, order="sequential")
    got = [next(epoch).index for _ in range(3)]

    for _ in range(2):
        with pytest.raises(BadSample, match="sample 30 is no image") as error:
            next(epoch)
        assert error.value.samples == (30,)
        assert "Traceback: …" in str(error.value)

    loader.fail(None)
    assert got + [batch.index for batch in epoch] == list(range(11))


def test_an_epoch_goes_on_where_it_was_after_a_stall(connection: feedline.Loader, loader: FakeLoader) -> None:
    feed = connection.feed(batch_size=10, timeout_s=2, prefetch=2)
    loader.stall(after=3)
    epoch = iter(feed)
    got = [next(epoch) for _ in range(3)]

    for _ in range(2):
        with pytest.raises(LoaderStalled) as error:
            next(epoch)
        assert "positions 30..39 within 2 s from " + loader.address in str(error.value)

    loader.resume()
    feed.close()  # what follows has a longer deadline
    with connection.feed(batch_size=10) as patient:
        patient.load_state_dict(feed.state_dict())
        assert sorted(ids(got) + ids(patient)) == list(range(SAMPLES))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"view": "test"}, "view is 'test'; dataset 'fake' has: train, few"),
        ({"dataset": "voxels"}, "serves no dataset 'voxels'; it serves: fake"),
        ({"order": "random"}, "order is 'random'; dataset 'fake' has: shuffle, sequential"),
        ({"remainder": "keep"}, "remainder is 'keep'; there is: drop, short, pad, wrap"),
        (
            {"batch_size": 0},
            "batch_size is 0; a batch has one sample or more, counted in 32 bits, ask for 1..4294967295",
        ),
        ({"batch_size": -3}, "batch_size is -3"),
        ({"batch_size": "8"}, "in 32 bits, ask for 1..4294967295, a whole number"),
        ({"batch_size": 8.0}, "batch_size is 8.0"),
        ({"batch_size": True}, "batch_size is True"),
        ({"view": "few", "batch_size": 4097, "remainder": "pad"}, "repeated in a batch of 4096 at most"),
        ({"view": "few", "batch_size": 8, "remainder": "drop"}, "remainder 'drop' leaves nothing"),
        ({"rank": 2, "world": 2}, "rank is 2; the world has 2 ranks, ask for 0..1"),
        ({"rank": -1}, "rank is -1"),
        ({"world": 0}, "world is 0"),
        ({"seed": -1}, "seed is -1; seeds are 64 bits, ask for 0 or more"),
        ({"seed": 2**64}, "seed is 18446744073709551616"),
        ({"epoch": -1}, "epoch is -1"),
        ({"start": 5}, "start is 5; the epoch has 4 batches, ask for 0..4"),
        ({"prefetch": 0}, "prefetch is 0"),
        ({"prefetch_bytes": 0}, "prefetch_bytes is 0"),
        ({"timeout_s": 0}, "timeout_s is 0"),
        (
            {"remainder": "drop", "world": 4, "batch_size": 26},
            "a global batch has 4 x 26 samples and the view 'train' 101",
        ),
    ],
)
def test_what_makes_no_sense_is_refused_at_once_naming_what_was_found_and_wanted(
    connection: feedline.Loader, arguments: dict[str, object], message: str
) -> None:
    with pytest.raises(InvalidRequest) as error:
        connection.epoch(**arguments)  # type: ignore[arg-type]

    assert message in str(error.value)


def test_a_view_smaller_than_the_batch_is_one_short_batch(connection: feedline.Loader) -> None:
    whole = list(connection.epoch(view="few"))  # 7 samples; a batch has 32 by default

    assert [batch.rows for batch in whole] == [7]
    assert sorted(ids(whole)) == list(range(7))
    assert [batch.rows for rank in range(2) for batch in connection.epoch(view="few", rank=rank, world=2)] == [4, 3]


def test_a_view_smaller_than_the_batch_is_repeated_where_batches_are_padded(connection: feedline.Loader) -> None:
    (padded,) = connection.epoch(view="few", batch_size=20, remainder="pad", order="sequential")

    assert padded.ids.tolist() == [0, 1, 2, 3, 4, 5, 6] * 2 + [0, 1, 2, 3, 4, 5]
    assert padded.weights is not None
    assert padded.weights.tolist() == [1.0] * 7 + [0.0] * 13


def test_a_view_smaller_than_the_batch_is_wrapped_over_several_epochs(connection: feedline.Loader) -> None:
    feed = connection.feed("few", batch_size=20, remainder="wrap", order="sequential")

    assert [ids(feed.epoch(epoch)) for epoch in range(3)] == [
        ([*range(7)] * 3)[:20],
        [],
        [6, *range(7), *range(7), *range(5)],
    ]


def test_a_loader_that_has_no_memory_for_one_sample_asks_for_no_smaller_batch() -> None:
    with (
        serve({"x": X}, max_batch_bytes=10) as loader,
        feedline.connect(loader.address) as connection,
        pytest.raises(InvalidRequest, match="at most; start it with more memory"),
    ):
        connection.feed(batch_size=1)


def test_a_batch_over_the_loaders_limit_is_refused_at_once() -> None:
    with serve({"x": X, "y": Y}, max_batch_bytes=1000) as loader, feedline.connect(loader.address) as connection:
        with pytest.raises(
            InvalidRequest, match="takes 1792 bytes, and the loader assembles 1000 at most; ask for about 35"
        ):
            connection.feed(batch_size=64)
        assert connection.feed(batch_size=31)


def test_numbers_of_numpy_are_numbers(connection: feedline.Loader) -> None:
    assert len(connection.feed(batch_size=np.int32(50), seed=np.uint64(2**63))) == 3  # type: ignore[arg-type]


# ---- state ----


@pytest.mark.parametrize("done", [0, 1, 7, 10, 11, 12, 15])
def test_a_trainer_continues_with_the_very_next_batch(
    connection: feedline.Loader, loader: FakeLoader, done: int
) -> None:
    feed = connection.feed(batch_size=10, seed=4)
    line = [batch for _ in range(3) for batch in feed]
    feed = connection.feed(batch_size=10, seed=4)
    loops = (batch for _ in range(3) for batch in feed)
    for _ in range(done):
        next(loops)
    saved = json.loads(json.dumps(feed.state_dict()))

    with feedline.connect(loader.address) as another:
        resumed = another.feed(batch_size=10)
        resumed.load_state_dict(saved)
        rest = [batch for _ in range(3 - done // 11) for batch in resumed]

    assert ids(rest) == ids(line[done:])
    assert [batch.epoch for batch in rest] == [batch.epoch for batch in line[done:]]


@pytest.mark.parametrize("remainder", ["short", "pad", "wrap"])
def test_a_state_is_continued_with_another_batch_size_and_world(
    connection: feedline.Loader, remainder: Remainder
) -> None:
    feed = connection.feed(batch_size=10, remainder=remainder)
    epoch = iter(feed)
    before = [next(epoch) for _ in range(4)]
    saved = feed.state_dict()
    assert (saved["epoch"], saved["offset"]) == (0, 40)

    after: list[Batch] = []
    for rank in range(3):
        resumed = connection.feed(batch_size=7, remainder=remainder, rank=rank, world=3)
        resumed.load_state_dict(saved)
        after += resumed

    counts = Counter(ids(before) + real_ids(after))
    if remainder == "wrap":
        assert counts.keys() == set(range(SAMPLES))
        assert sum(counts.values()) == 40 + 3 * 21
    else:
        assert counts == Counter(range(SAMPLES))


def test_the_state_at_an_epochs_end_is_the_start_of_the_next_and_never_an_empty_epoch(
    connection: feedline.Loader,
) -> None:
    for remainder in ("drop", "short", "pad"):
        feed = connection.feed(batch_size=25, remainder=remainder)
        for batch in feed:
            last = batch
            assert feed.state_dict()["epoch"] == (1 if batch.index == len(feed) - 1 else 0)
        assert last.epoch == 0
        assert (feed.state_dict()["epoch"], feed.state_dict()["offset"]) == (1, 0)


def test_the_state_of_a_wrapped_feed_is_where_the_epoch_spilled_to(connection: feedline.Loader) -> None:
    feed = connection.feed(batch_size=25, remainder="wrap")
    list(feed)

    assert (feed.state_dict()["epoch"], feed.state_dict()["offset"]) == (1, 24)


def test_what_was_fetched_and_not_consumed_is_not_in_the_state(connection: feedline.Loader, loader: FakeLoader) -> None:
    feed = connection.feed(batch_size=10, prefetch=6)
    epoch = iter(feed)
    next(epoch)
    loader.wait_until(lambda seen: seen.answered == 7)

    assert feed.state_dict()["offset"] == 10


def test_a_state_with_less_left_than_a_global_batch_continues_with_the_next_epoch_where_the_rest_is_dropped(
    connection: feedline.Loader,
) -> None:
    feed = connection.feed(batch_size=10, remainder="short")
    feed.load_state_dict(feed.state_dict() | {"offset": 95})
    resumed = connection.feed(batch_size=10, remainder="drop")

    resumed.load_state_dict(feed.state_dict())

    assert {batch.epoch for batch in resumed} == {1}


def test_a_rank_without_a_share_of_the_last_batch_ends_with_the_others(connection: feedline.Loader) -> None:
    feeds = [connection.feed("few", batch_size=2, rank=rank, world=3) for rank in range(3)]

    loops = [[[batch.epoch for batch in feed] for _ in range(3)] for feed in feeds]

    assert loops == [[[0, 0], [1, 1], [2, 2]], [[0], [1], [2]], [[0], [1], [2]]]


def test_set_epoch_goes_to_an_epoch_but_keeps_a_place_just_loaded(connection: feedline.Loader) -> None:
    feed = connection.feed(batch_size=10)
    feed.load_state_dict(feed.state_dict() | {"epoch": 3, "offset": 40})

    feed.set_epoch(3)
    resumed = [batch.index for batch in feed]
    feed.set_epoch(4)
    following = [(batch.epoch, batch.index) for batch in feed]
    feed.set_epoch(0)
    epoch = iter(feed)
    again = [next(epoch).index for _ in range(2)]
    feed.set_epoch(0)

    assert resumed == list(range(4, 11))
    assert following == [(4, index) for index in range(11)]
    assert again == [0, 1]
    assert [batch.index for batch in feed] == list(range(11)), "an epoch begun and left starts anew"


def test_set_epoch_keeps_a_place_that_was_loaded_into_a_feed_that_had_been_read_from(
    connection: feedline.Loader,
) -> None:
    """As a training loop does that goes back to its last checkpoint and announces each epoch."""
    feed = connection.feed(batch_size=10)
    epoch = iter(feed)
    for _ in range(4):
        next(epoch)
    saved = feed.state_dict()
    next(epoch)

    feed.load_state_dict(saved)
    feed.set_epoch(0)

    assert [batch.index for batch in feed] == list(range(4, 11))


def test_an_iteration_begun_before_a_state_was_loaded_does_not_move_the_place(connection: feedline.Loader) -> None:
    feed = connection.feed(batch_size=10)
    old = iter(feed)
    feed.load_state_dict(feed.state_dict() | {"epoch": 7})

    next(old)

    assert (feed.state_dict()["epoch"], feed.state_dict()["offset"]) == (7, 0)


def test_a_state_of_other_data_is_refused(connection: feedline.Loader) -> None:
    feed = connection.feed()

    with pytest.raises(DatasetChanged, match="fingerprint 00ff"):
        feed.load_state_dict(feed.state_dict() | {"fingerprint": "00ff"})


# ---- copies, repr, close ----


@pytest.mark.parametrize("copied", [copy.deepcopy, lambda feed: pickle.loads(pickle.dumps(feed))])
def test_a_copy_is_a_client_of_its_own_at_the_same_place(
    connection: feedline.Loader, loader: FakeLoader, copied: object
) -> None:
    feed = connection.feed(batch_size=10, seed=9, prefetch=3)
    epoch = iter(feed)
    for _ in range(4):
        next(epoch)
    assert callable(copied)

    with copied(feed) as another:
        connection.close()

        assert another.state_dict() == feed.state_dict()
        assert [batch.index for batch in another] == list(range(4, 11))
        assert repr(another) == "<Feed fake/train epoch=1 next=0 buffered=0/3 replicas=1>"
    loader.wait_until(lambda seen: seen.streams == 0)  # with the copy its connection was closed


def test_a_feed_shows_where_it_is(connection: feedline.Loader, loader: FakeLoader) -> None:
    feed = connection.feed(batch_size=10, prefetch=4)
    feed.set_epoch(3)
    epoch = iter(feed)
    for _ in range(2):
        next(epoch)
    loader.wait_until(lambda seen: seen.answered == 6)
    feed.fetch(feed.plan.step(0, 0))  # answered after those, so they are here

    assert repr(feed) == "<Feed fake/train epoch=3 next=2 buffered=4/4 replicas=1>"
    assert repr(epoch) == f"<Epoch 3 delivered=2 of {feed!r}>"
    assert repr(connection) == f"<Loader {loader.address} datasets=fake replicas=1>"


def test_a_closed_feed_says_so_and_the_connection_lives_on(connection: feedline.Loader) -> None:
    with connection.feed() as feed:
        epoch = iter(feed)
        next(epoch)
    feed.close()

    with pytest.raises(Closed, match="this iteration was closed"):
        next(epoch)
    for use in (lambda: iter(feed), lambda: feed.fetch(feed.plan.step(0, 0)), lambda: feed.readahead([])):
        with pytest.raises(Closed, match="this feed was closed"):
            use()
    assert len(list(connection.epoch())) == 4


def test_a_connection_tells_what_is_served(connection: feedline.Loader) -> None:
    info = connection.dataset()

    assert info is connection.datasets["fake"]
    assert (info.samples, dict(info.views), info.structure) == (SAMPLES, {"train": 101, "few": 7}, ("x", "y"))
    assert repr(info) == (
        "<DatasetInfo fake samples=101 views={'train': 101, 'few': 7} columns=(x float32(3), y int64())>"
    )
    assert connection.status().counters["batches"] == 0


def test_keys_carry_the_whole_identity(connection: feedline.Loader, loader: FakeLoader) -> None:
    next(connection.epoch(2, start=1, batch_size=50, seed=6, prefetch=1))

    fingerprint = connection.dataset().fingerprint
    assert loader.requests[0] == Key("fake", fingerprint, "train", "shuffle", seed=6, epoch=2, offset=50, rows=50)


# ---- what loaders see of it ----


def test_epochs_of_one_connection_are_one_trainer_to_its_loaders(
    connection: feedline.Loader, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each was one that began: those of the last seconds were added up, and none was believed to wait."""
    told: dict[str, set[str]] = {"train": set(), "few": set()}
    monkeypatch.setattr(connection._fleet, "report", lambda reader: told[reader.view].add(reader.trainer) or "")

    for epoch in range(3):
        assert len(ids(connection.epoch(epoch, batch_size=8))) == SAMPLES
        assert len(ids(connection.epoch(0, view="few", batch_size=7))) == 7
    alone = connection.feed(batch_size=8)
    next(iter(alone))

    assert len(told["few"]) == 1
    assert len(told["train"]) == 2
    assert alone.stats.batches == 1
