"""Copies of the operator's objects: what one does is not seen by another, and what is large is shared."""

import threading
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest

from feedline_server.sources.python import copies as python_copies
from feedline_server.sources.python.copies import Copies, TooLarge


class Holder:
    def __init__(self, **held: Any) -> None:
        self.__dict__.update(held)

    def itself(self) -> "Holder":
        return self


def test_what_is_done_to_a_copy_is_not_seen_by_the_next() -> None:
    inner = Holder(numbers=[1, 2])
    copies = Copies(Holder(indexes=np.arange(4), inner=inner, inner_too=inner, files={"a": {"b": [3]}}))

    one = copies.another()
    one.indexes[:] = 9
    one.inner.numbers.append(3)
    one.files["a"]["b"].clear()
    another = copies.another()

    assert another.indexes.tolist() == [0, 1, 2, 3]
    assert another.inner.numbers == [1, 2]
    assert another.inner is another.inner_too, "what was one object is one object"
    assert another.files == {"a": {"b": [3]}}


def test_the_bound_methods_of_a_copy_are_its_own() -> None:
    holder = Holder()
    holder.call = holder.itself

    copy = Copies(holder).another()

    assert copy.call() is copy


def test_arrays_of_files_and_open_files_are_shared(tmp_path: Path) -> None:
    np.save(tmp_path / "x.npy", np.arange(10))
    mapped = np.load(tmp_path / "x.npy", mmap_mode="r")
    with h5py.File(tmp_path / "x.h5", "w") as file, (tmp_path / "x.npy").open("rb") as opened:
        file["x"] = np.arange(3)
        held = Holder(mapped=mapped, part=mapped[2:], plain=np.asarray(mapped), file=opened, h5=file, set=file["x"])

        copy = Copies(held).another()

        for name in ("mapped", "part", "plain", "file", "h5", "set"):
            assert getattr(copy, name) is getattr(held, name)


def test_what_cannot_be_copied_is_shared() -> None:
    class Local:
        pass

    held = Holder(lock=threading.Lock(), function=lambda: 3, kind=Local, local=Local(), module=np, running=iter([1]))

    copy = Copies(held).another()

    assert copy.lock is held.lock
    assert copy.function() == 3
    assert copy.kind is Local
    assert type(copy.local) is Local
    assert copy.local is not held.local
    assert copy.module is np


def test_large_arrays_are_shared_and_may_not_be_written_to(monkeypatch: pytest.MonkeyPatch) -> None:
    """Shuffled in place, they would be in another order in every worker, and nobody would know."""
    monkeypatch.setattr(python_copies, "SHARED_NBYTES", 1000)
    data = np.zeros(1001, np.uint8)

    copy = Copies(Holder(data=data, indexes=np.arange(100))).another()

    assert copy.data is data
    copy.indexes[0] = 5
    with pytest.raises(ValueError, match="read-only"):
        copy.data[0] = 5


def test_many_arrays_that_are_large_together_are_shared(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(python_copies, "COPY_NBYTES", 100_000)
    monkeypatch.setattr(python_copies, "SHARED_IF_MANY_NBYTES", 500)
    images = [np.zeros(1000, np.uint8) for _ in range(200)]

    copy = Copies(Holder(images=images, indexes=np.arange(10))).another()

    assert copy.images is not images
    assert all(one is other for one, other in zip(copy.images, images, strict=True))
    assert copy.indexes.flags.writeable


def test_what_is_too_large_to_be_copied_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(python_copies, "COPY_NBYTES", 1000)

    with pytest.raises(TooLarge):
        Copies(Holder(numbers=list(range(1000))))
