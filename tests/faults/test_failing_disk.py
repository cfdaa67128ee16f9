"""A disk that cannot be read any more in mid-epoch, and later can: its own trainers are told, others notice nothing.

A page of a mapped file that cannot be read is SIGBUS to whoever touches it: a worker is ended, and the loader's own
process never touches one.
"""

import contextlib
import io
import json
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from breaking import failing_disk
from breaking.failing_disk import FailingDisk

import feedline
from feedline_wire.errors import BadSample, BatchKillsWorkers, DataError

StartLoader = Callable[..., Any]

pytestmark = pytest.mark.skipif(failing_disk.why_not() is not None, reason=str(failing_disk.why_not()))

SAMPLES = 64
ROW_NBYTES = 16 << 10
ONCE = Counter(range(SAMPLES))


def npy(array: np.ndarray) -> bytes:
    written = io.BytesIO()
    np.save(written, array)
    return written.getvalue()


ROWS = np.repeat(np.arange(SAMPLES, dtype=np.uint8)[:, None], ROW_NBYTES, axis=1)

MAPPED = {"x.npy": npy(ROWS)}

EACH = {f"{sample}.npy": npy(row) for sample, row in enumerate(ROWS)} | {
    "partition.json": json.dumps({"train": [*map(str, range(SAMPLES))]}).encode(),
    "labels.json": json.dumps({str(sample): 0 for sample in range(SAMPLES)}).encode(),
}

TOML = """
[datasets.failing]
path = "failing"

[datasets.good]
path = "good"
"""


@pytest.fixture(params=[MAPPED, EACH], ids=["mapped", "a file a sample"])
def disk(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[FailingDisk]:
    """One that holds `failing` of loader.toml."""
    found = FailingDisk(request.param)
    (tmp_path / "failing").mkdir()
    (tmp_path / "good").mkdir()
    np.save(tmp_path / "good" / "x.npy", ROWS)
    (tmp_path / "loader.toml").write_text(TOML)
    with found.mounted(tmp_path / "failing"):
        yield found


def read(epoch: feedline.Epoch) -> Iterator[int]:
    """The ids of what comes, which is what was written."""
    for batch in epoch:
        x = batch.data[0] if isinstance(batch.data, tuple) else batch.data
        assert (np.asarray(x) == batch.ids[:, None]).all(), f"{batch} has {x}"
        yield from batch.ids.tolist()


@pytest.mark.parametrize(
    "flags", [(), ("--no-shm-lane",), ("--no-shm-lane", "--no-tcp-lane")], ids=["shm", "tcp", "grpc"]
)
def test_a_disk_that_fails_in_mid_epoch_is_an_error_of_its_trainers_and_is_read_again_when_it_is_well(
    disk: FailingDisk, tmp_path: Path, start_loader: StartLoader, flags: tuple[str, ...]
) -> None:
    loader = start_loader(tmp_path / "loader.toml", "--workers", "2", *flags)
    with feedline.connect(loader.address) as trainer, feedline.connect(loader.address) as other:
        failing = trainer.epoch(0, dataset="failing", order="sequential", batch_size=4, prefetch=2, timeout_s=60)
        good = read(other.epoch(0, dataset="good", batch_size=4, prefetch=2, timeout_s=60))
        ids = [next(good) for _ in range(8)]
        assert next(iter(failing)).ids.tolist() == [0, 1, 2, 3]

        disk.fail()
        arrived = [*range(4)]
        with pytest.raises((BatchKillsWorkers, BadSample, DataError)) as caught:
            arrived.extend(read(failing))
        ids += good

        assert Counter(ids) == ONCE, "the other dataset is whole"
        assert arrived == [*range(len(arrived))]
        assert len(arrived) < SAMPLES
        assert disk.failures
        said = str(caught.value)
        if isinstance(caught.value, BatchKillsWorkers):
            assert "SIGBUS: a file it had mapped became shorter, or its disk cannot read it" in said
        else:
            assert "Input/output error" in said
        if isinstance(caught.value, BatchKillsWorkers | BadSample):
            # Of a batch of files its first may still lie in the page cache.
            assert {*range(len(arrived), len(arrived) + 4)} & {*caught.value.samples}
        else:
            assert "failing" in said

        disk.be_well()
        until = time.monotonic() + 120
        while len(arrived) < SAMPLES:  # what could not be opened is refused for a second
            assert time.monotonic() < until, "it is not read again"
            again = trainer.epoch(0, dataset="failing", order="sequential", batch_size=4, start=len(arrived) // 4)
            with contextlib.suppress(DataError):
                arrived.extend(read(again))
        assert arrived == [*range(SAMPLES)]
    assert loader.stop() == 0
