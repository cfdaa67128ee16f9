"""On a GPU: every sample once, computed from its own copy, received into pinned memory, and copied beside the step."""

import time
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest

import feedline
from feedline.testing import FakeLoader, serve

pytestmark = pytest.mark.gpu

MIB = 1 << 20

ROUNDS = 5


@pytest.fixture
def loader() -> Iterator[FakeLoader]:
    """64 samples of 4 MiB, each full of its own number."""
    x = np.repeat(np.arange(64, dtype=np.float32), MIB).reshape(64, MIB)
    with serve({"x": x, "y": np.arange(64)}) as loader:
        yield loader


def test_each_sample_comes_once_and_a_busy_stream_reads_its_own_batch(connection: feedline.Loader) -> None:
    """The stream that computes is behind: a buffer or a copy that is reused too soon would show as another number."""
    import torch

    batches = connection.feed(batch_size=4, seed=3).torch(device="cuda", with_ids=True)
    matrix = torch.randn(4096, 4096, device="cuda")
    for _ in range(ROUNDS):
        read, sums = [], []
        for (x, y), ids in batches:
            for _ in range(8):
                matrix = torch.tanh(matrix @ matrix)
            sums.append((x.mean(1), y.clone()))
            read += ids.tolist()
        assert sorted(read) == list(range(64))
        assert [round(mean) for means, _ in sums for mean in means.tolist()] == read
        assert [number for _, numbers in sums for number in numbers.tolist()] == read


def test_batches_are_received_into_pinned_memory_where_the_trainer_copies_itself(connection: feedline.Loader) -> None:
    batches = connection.feed(batch_size=4).torch(pin_memory=True)

    assert all(x.is_pinned() and y.is_pinned() for x, y in batches)


def test_copying_ahead_costs_less_than_copying_in_the_step(connection: feedline.Loader) -> None:
    """Medians of an epoch, in turn; printed with `-s`."""
    import torch

    matrix = torch.randn(4096, 4096, device="cuda")

    def epoch(batches: Any) -> float:
        torch.cuda.synchronize()
        began = time.perf_counter()
        for x, _ in batches:
            (x.to("cuda").sum() + (matrix @ matrix).sum()).item()
        return time.perf_counter() - began

    ahead = connection.feed(batch_size=4, seed=3).torch(device="cuda")
    plain = connection.feed(batch_size=4, seed=3).torch()
    times = [(epoch(ahead), epoch(plain)) for _ in range(2 * ROUNDS + 1)][1:]
    medians = [float(np.median(column)) for column in zip(*times, strict=True)]
    print(f"16 batches of 16 MiB: {medians[0]:.3f} s copied ahead, {medians[1]:.3f} s copied in the step")  # noqa: T201

    assert medians[0] < medians[1]
