"""What goes out of scope without `close` lets go of its threads, its descriptors and its streams (promise G6)."""

import gc
import operator
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

import feedline

StartLoader = Callable[..., Any]

SAMPLES = 101


@pytest.fixture
def address(hundred_and_one: Path, start_loader: StartLoader) -> str:
    """A loader that serves four streams, with lanes."""
    return str(start_loader(hundred_and_one, "--workers", "1", "--max-trainers", "4").address)


@pytest.fixture
def no_collection() -> Iterator[None]:
    """What is let go of must not wait for the garbage collector."""
    gc.collect()
    gc.disable()
    yield
    gc.enable()


def held() -> tuple[int, int]:
    """Threads of ours, and descriptors of this process."""
    threads = sum(thread.name.startswith("feedline") for thread in threading.enumerate())
    return threads, sum(1 for _ in Path("/proc/self/fd").iterdir())


def until(holds: Callable[[], bool], what: str) -> None:
    deadline = time.monotonic() + 100
    while not holds():
        assert time.monotonic() < deadline, f"still not: {what}"
        time.sleep(0.02)  # a thread closes it, and tells nobody


def test_loaders_that_are_dropped_one_after_the_other_let_go_of_their_streams(
    address: str, no_collection: None
) -> None:
    """65 of them ended in LoaderBusy, for other trainers too."""
    with feedline.connect(address) as watcher:
        assert watcher.status().counters["batches"] == 0
        before = held()

        for number in range(20):
            batch = next(feedline.connect(address).epoch(number, batch_size=4))
            assert len(batch.ids) == 4
            del batch
            until(lambda: not watcher.status().trainers, "its stream has ended")

        until(lambda: all(map(operator.le, held(), before)), "its threads and descriptors are gone")


def test_what_still_refers_to_a_connection_keeps_it(address: str, no_collection: None) -> None:
    epoch = feedline.connect(address).feed(batch_size=4, order="sequential").epoch(0)

    assert Counter(sample for batch in epoch for sample in batch.ids.tolist()) == Counter(range(SAMPLES))


def test_a_feed_that_is_dropped_wants_nothing_more(address: str, no_collection: None) -> None:
    with feedline.connect(address) as loader:
        for number in range(3):
            feed = loader.feed(batch_size=2, prefetch=8, seed=number)
            assert sum(1 for _ in feed) == 51  # at its end, and reading the next epoch ahead
            next(iter(feed))
        del feed

        loader.status()
        until(lambda: not loader._fleet._tracker.outstanding, "nothing is on its way to it")
        assert Counter(s for b in loader.epoch(0, batch_size=4) for s in b.ids.tolist()) == Counter(range(SAMPLES))


@pytest.mark.keras
@pytest.mark.timeout(480)  # TensorFlow and two `fit`, which take a busy machine minutes
def test_sequences_that_are_dropped_let_go_of_their_streams(address: str, monkeypatch: pytest.MonkeyPatch) -> None:
    import keras

    from feedline.keras import passes

    monkeypatch.setattr(passes, "GIVEN_UP_S", 0.5)  # 5 s in earnest
    model = keras.Sequential([keras.layers.Flatten(), keras.layers.Dense(1)])
    model.compile(loss="mse")
    with feedline.connect(address) as watcher:
        for number in range(6):
            sequence = feedline.RemoteSequence(address, batch_size=16, seed=number)
            assert sequence[0][0].shape == (16, 8, 3)
            if number % 3 == 0:
                model.fit(sequence, epochs=2, verbose=0)
            del sequence
            gc.collect()  # Keras and TensorFlow refer to it in circles
        until(lambda: not watcher.status().trainers, "their streams have ended")
        until(lambda: held()[0] <= 2, "their threads are gone")
