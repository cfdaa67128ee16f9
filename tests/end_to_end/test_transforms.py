"""Transforms and bad samples over a real socket: the same bytes from one worker and from four, and errors that help."""

from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

import feedline

SAMPLES = 90
BLACK = [7, 31, 32, 77]

DATASET = """
[datasets.POLICY]
views = {train = "0:60", validation = "60:"}
on_bad_sample = "POLICY"

[[datasets.POLICY.transforms]]
name = "random_crop"
column = "x"
size = [6, 6]
padding = 2

[[datasets.POLICY.transforms]]
code = "operators_transforms:noisy"
column = "x"

[[datasets.POLICY.transforms]]
name = "scale"
column = "x"
factor = 0.5
late = true
"""

CODE = """
def noisy(x, rng):
    if not x.any():
        raise ValueError("a black picture")
    return (x + rng.integers(1, 9, x.shape)).astype("float32")
"""

Start = Callable[..., object]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Pictures, some of them black; served as three datasets, one for each policy."""
    folder = tmp_path_factory.mktemp("pictures")
    x = np.random.default_rng(5).integers(50, 99, (SAMPLES, 8, 8), np.uint8)
    x[BLACK] = 0
    np.save(folder / "x.npy", x)
    np.save(folder / "y.npy", np.arange(SAMPLES))
    (folder / "operators_transforms.py").write_text(CODE)
    policies = ("error", "skip", "substitute")
    (folder / "loader.toml").write_text("".join(DATASET.replace("POLICY", policy) for policy in policies))
    return folder


@pytest.fixture(scope="module")
def one(folder: Path, start_shared_loader: Start) -> Iterator[feedline.Loader]:
    """A loader with one worker."""
    with feedline.connect(start_shared_loader(folder, "--workers", "1").address) as loader:
        yield loader


@pytest.fixture(scope="module")
def four(folder: Path, start_shared_loader: Start) -> Iterator[feedline.Loader]:
    """A loader with four."""
    with feedline.connect(start_shared_loader(folder, "--workers", "4").address) as loader:
        yield loader


def epoch(loader: feedline.Loader, dataset: str, rows: int, number: int = 0) -> dict[int, NDArray]:
    """Sample id → its x, of an epoch of `train`."""
    return {
        sample: batch["x"][row].copy()
        for batch in loader.epoch(number, dataset=dataset, view="train", batch_size=rows, seed=3)
        for row, sample in enumerate(batch.ids.tolist())
    }


@pytest.mark.parametrize("policy", ["skip", "substitute"])
def test_samples_are_the_same_from_one_worker_and_from_four_and_however_they_are_cut(
    one: feedline.Loader, four: feedline.Loader, policy: str
) -> None:
    whole, again, cut, elsewhere = (
        epoch(loader, policy, rows) for loader, rows in ((one, 32), (one, 32), (one, 7), (four, 16))
    )
    later = epoch(four, policy, 32, 1)

    assert set(whole) == set(range(60)) - set(BLACK)
    for other in (again, cut, elsewhere):
        assert other.keys() == whole.keys()
        for sample, x in whole.items():
            np.testing.assert_array_equal(other[sample], x)
    assert sum((later[sample] != x).any() for sample, x in whole.items()) > 50
    assert next(iter(whole.values())).dtype == np.float32  # the trainer's last step


def test_a_bad_sample_reaches_the_trainer_with_all_that_helps(one: feedline.Loader) -> None:
    with pytest.raises(feedline.BadSample) as error:
        list(one.epoch(dataset="error", view="train", batch_size=60, order="sequential"))

    text = str(error.value)
    assert "dataset 'error', transforms.1 (operators_transforms:noisy): sample 7: ValueError: a black picture" in text
    assert 'raise ValueError("a black picture")' in text
    assert error.value.samples == (7,)
