"""Tensors without a copy on the CPU; on a device, copied ahead from memory that is not reused while a copy may run."""

import gc
import weakref
from typing import Any

import numpy as np
import pytest

import feedline
from feedline.testing import FakeLoader, serve
from feedline_wire.errors import InvalidRequest

pytestmark = pytest.mark.torch


def ids_of(batches: Any) -> list[int]:
    return [int(number) for _, ids in batches for number in ids]


# ---- what a batch is ----


@pytest.mark.parametrize("structure", ["x", ("x",), ("x", "y"), {"a": "x", "b": {"c": "y"}}, ({"x": "x"}, "y")])
def test_a_batch_is_the_tuple_or_dict_that_the_dataset_declares(structure: Any) -> None:
    x, y = np.arange(24, dtype=np.float32).reshape(8, 3), np.arange(8)
    with serve({"x": x, "y": y}, structure=structure) as loader, feedline.connect(loader.address) as connection:
        (batch,) = connection.feed(batch_size=8, order="sequential").torch()

    import torch

    def same(found: Any, declared: Any) -> bool:
        if isinstance(declared, str):
            return type(found) is torch.Tensor and np.array_equal(found.numpy(), {"x": x, "y": y}[declared])
        if isinstance(declared, dict):
            return type(found) is dict and all(same(found[name], part) for name, part in declared.items())
        return type(found) is tuple and all(same(*pair) for pair in zip(found, declared, strict=True))

    assert same(batch, structure)


def test_tensors_are_the_memory_that_was_received_into_aligned_and_writable(connection: feedline.Loader) -> None:
    received: list[Any] = []

    def allocate(nbytes: int) -> Any:
        received.append(np.empty(nbytes + 64, np.uint8))
        return received[-1][-received[-1].ctypes.data % 64 :][:nbytes]

    feed = connection.feed(batch_size=10)
    feed.receive_into(allocate)

    for x, y in feed.torch():
        assert [x.data_ptr() % 64, y.data_ptr() % 64] == [0, 0]
        assert any(0 <= x.data_ptr() - root.ctypes.data < root.nbytes for root in received)
        x.add_(1)


@pytest.mark.parametrize("dtype", ["bool", "int8", "uint8", "uint16", "int64", "float16", "float32", "complex64"])
def test_every_dtype_of_the_wire_is_a_tensor(dtype: str) -> None:
    values = np.arange(8).astype(dtype)
    with serve({"x": values}) as loader, feedline.connect(loader.address) as connection:
        (x,) = connection.feed(batch_size=8, order="sequential").torch()

    assert x.numpy().dtype == dtype
    assert x.tolist() == values.tolist()


def test_padding_has_a_weight_of_0_behind_the_declared_parts(connection: feedline.Loader) -> None:
    *_, (x, y, weights) = connection.feed(batch_size=60, remainder="pad").torch()

    assert (x.shape, y.shape) == ((60, 3), (60,))
    assert weights.tolist() == [1.0] * 40 + [0.0] * 20


def test_a_hundred_held_batches_keep_what_they_held(connection: feedline.Loader) -> None:
    held = list(connection.feed(batch_size=1).torch(with_ids=True))

    assert len(held) == 100
    assert all(y.tolist() == ids.tolist() and x.tolist() == [[float(ids)] * 3] for (x, y), ids in held)


# ---- a device ----


class Device:
    """Copies that are done when the test says so, of a device with memory of its own."""

    def __init__(self) -> None:
        self.allocated: list[weakref.ref[Any]] = []
        self.begun: list[bool] = []
        self.awaited: list[int] = []

    def allocate(self, nbytes: int) -> Any:
        import torch

        block = np.empty(nbytes + 64, np.uint8)
        self.allocated.append(weakref.ref(block))
        return torch.from_numpy(block)[-block.ctypes.data % 64 :][:nbytes]

    def begin(self, host: list[Any]) -> tuple[list[Any], Any]:
        number = len(self.begun)
        self.begun.append(False)
        done = type("Done", (), {"query": lambda _: self.begun[number], "number": number})()
        return [tensor.clone() for tensor in host], done

    def await_on_current_stream(self, copied: list[Any], done: Any) -> None:
        self.awaited.append(done.number)

    @property
    def in_use(self) -> int:
        gc.collect()
        return sum(block() is not None for block in self.allocated)


@pytest.fixture
def device() -> Device:
    return Device()


def test_batches_are_received_into_the_devices_own_memory_and_copied_from_there(
    connection: feedline.Loader, device: Device
) -> None:
    from feedline.torch import Batches

    feed = connection.feed(batch_size=10, prefetch=1)
    ids = ids_of(Batches(feed, with_ids=True, copies=device))

    assert sorted(ids) == list(range(100))
    assert len(device.allocated) == len(device.begun) == 10  # received there: none was copied into another block


def test_a_pinned_buffer_is_not_reused_while_a_copy_may_run(connection: feedline.Loader, device: Device) -> None:
    """All Python objects of the batch may be gone by then: the copy reads its memory until it is done."""
    from feedline.torch import Batches

    batches = Batches(connection.feed(batch_size=10, prefetch=1), copies=device)
    for batch in batches:
        del batch
    assert device.in_use == 10

    device.begun[:] = [True] * 9 + [False]
    next(iter(batches))

    assert device.in_use <= 2 + 3  # the one whose copy runs, and those of the new epoch
    assert device.allocated[8]() is None
    assert device.allocated[9]() is not None


def test_the_step_waits_for_its_own_copy_and_the_next_ones_are_under_way(loader: FakeLoader, device: Device) -> None:
    from feedline.torch import Batches

    with feedline.connect(loader.address) as connection:
        feed = connection.feed(batch_size=10)
        batches = iter(Batches(feed, copies=device))
        next(batches)
        loader.wait_until(lambda _: feed.buffered == 10 - len(device.begun))
        next(batches)

        assert device.awaited == [0, 1]
        assert len(device.begun) == 2 + 2


def test_a_place_counts_what_was_handed_out_and_not_what_was_copied_ahead(
    connection: feedline.Loader, device: Device
) -> None:
    from feedline.torch import Batches

    batches = Batches(connection.feed(batch_size=10, seed=4), with_ids=True, copies=device)
    iteration = iter(batches)
    read = [int(number) for _ in range(3) for number in next(iteration)[1]]
    other = connection.feed(batch_size=6).torch(with_ids=True)
    other.load_state_dict(batches.state_dict())

    assert sorted(read + ids_of(other)) == list(range(100))
    assert sorted(read + ids_of(batches)) == list(range(100))


def test_a_device_that_is_not_there_is_refused(connection: feedline.Loader) -> None:
    import torch

    if torch.cuda.is_available():
        pytest.skip("there is one")
    with pytest.raises(InvalidRequest, match="no CUDA device here"):
        connection.feed().torch(device="cuda")
    with pytest.warns(UserWarning, match="pin_memory=True does nothing here"):
        connection.feed().torch(pin_memory=True)
