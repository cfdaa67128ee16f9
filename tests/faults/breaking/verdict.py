"""Whether what trainers recorded is what an undisturbed run gives: batch by batch, byte by byte, every sample once."""

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import numpy as np

import feedline
from breaking import record
from breaking.data import Data
from breaking.record import Consumed, Failure, Health

MORE_FDS = 8
MORE_RSS = 160 << 20
"""What a process that lives on may hold more after the faults than before: descriptors of gRPC's own; 128 MiB that the
allocator keeps because it is told to (feedline_wire/memory.py), and what is read ahead. With ten faults in a run a leak
of one descriptor, or of 16 MiB, for each shows."""

CONNECTED_FDS = 15
"""Of a trainer that reads from its loaders; one that says how it is when it has lost all of them has five."""


class Undisturbed:
    """Epochs as a loader gives them to which nothing happens, read when they are asked for and kept."""

    def __init__(self, address: str, data: Data, batch_size: int, seed: int) -> None:
        self._address = address
        self._data = data
        self._options = {"batch_size": batch_size, "seed": seed}
        self._epochs: dict[int, list[str]] = {}
        self._x = np.load(data.folder / "x.npy", mmap_mode="r")

    def epoch(self, number: int) -> list[str]:
        """The digests of its batches, each compared with the rows in the file."""
        if number not in self._epochs:
            with feedline.connect(self._address) as loader:
                self._epochs[number] = [
                    self._checked(batch)
                    for batch in loader.epoch(number, **self._options)  # type: ignore[arg-type]
                ]
        return self._epochs[number]

    def forget(self, number: int) -> None:
        """It is not needed again."""
        self._epochs.pop(number, None)

    def _checked(self, batch: feedline.Batch) -> str:
        assert np.array_equal(batch["x"], self._x[batch.ids]), "the undisturbed run differs from the file"
        assert np.array_equal(batch["y"], batch.ids)
        return record.digest({"x": batch["x"], "y": batch["y"]}, batch.ids)


@dataclass(slots=True)
class Seen:
    """What a trainer saw."""

    epochs: int = 0
    batches: int = 0
    nbytes: int = 0
    longest_s: float = 0.0
    hedged: int = 0
    retried: int = 0
    damaged: int = 0
    fds: int = 0
    rss: int = 0
    """The most that a trainer's process had at the end of an epoch."""


class Account:
    """Follows one trainer's record, line by line; an AssertionError is a deviation."""

    def __init__(self, undisturbed: Undisturbed, samples: int) -> None:
        self.seen = Seen()
        self._undisturbed = undisturbed
        self._whole = Counter(range(samples))
        self._epoch, self._index = 0, 0
        self._ids: Counter[int] = Counter()
        self._healths: list[Health] = []

    def follow(self, lines: Iterable[record.Line]) -> None:
        """Take these into account."""
        for line in lines:
            match line:
                case Consumed():
                    self._consumed(line)
                case Health():
                    self._healthy(line)
                case Failure():
                    raise AssertionError(f"the trainer ended with {line}")

    @property
    def is_between_epochs(self) -> bool:
        """What was followed ends with an epoch that is whole."""
        return self._index == 0

    def _consumed(self, batch: Consumed) -> None:
        expected = self._undisturbed.epoch(self._epoch)
        here = (self._epoch, self._index)
        assert (batch.epoch, batch.index) == here, f"batch {(batch.epoch, batch.index)} came where {here} was due"
        assert batch.digest == expected[self._index], f"batch {here} differs from the undisturbed run"
        self._ids.update(batch.ids)
        seen = self.seen
        seen.batches += 1
        seen.nbytes += batch.nbytes
        seen.longest_s = max(seen.longest_s, batch.waited_s)
        self._index += 1
        if self._index == len(expected):
            assert self._ids == self._whole, f"epoch {self._epoch} is not every sample once"
            self._ids = Counter()
            self._epoch, self._index = self._epoch + 1, 0
            seen.epochs += 1

    def _healthy(self, health: Health) -> None:
        self.seen.fds, self.seen.rss = max(self.seen.fds, health.fds), max(self.seen.rss, health.rss)
        same = [one for one in self._healths if one.pid == health.pid]
        earlier = same[-1].stats if same else dict.fromkeys(health.stats, 0)
        for name in ("hedged", "retried", "damaged"):
            setattr(self.seen, name, getattr(self.seen, name) + health.stats[name] - earlier[name])
        if same:
            most = max(same[0].fds, CONNECTED_FDS) + MORE_FDS
            assert health.fds <= most, f"descriptors of the trainer: {same[0]}, later {health}"
            assert health.rss <= same[0].rss + MORE_RSS, f"memory of the trainer: {same[0]}, later {health}"
        self._healths.append(health)


def judged(path: Path, undisturbed: Undisturbed, samples: int, *, within_s: float) -> Seen:
    """What a trainer that has ended saw; an AssertionError if it is not what it should be."""
    account = Account(undisturbed, samples)
    account.follow(record.read(path))
    assert account.is_between_epochs, "the record ends in the middle of an epoch"
    assert account.seen.epochs > 0, "no epoch was finished"
    assert account.seen.longest_s <= within_s, f"waited {account.seen.longest_s} s for one batch; stated: {within_s} s"
    return account.seen
