"""A view of 101 numbered samples, on two real loaders that many tests read from."""

from collections.abc import Callable
from pathlib import Path
from typing import Protocol

import numpy as np
import pytest

SAMPLES = 101
"""Prime: no batch size and no number of ranks divides it by accident."""


class Started(Protocol):
    """What these tests need of a started loader."""

    address: str


@pytest.fixture(scope="session")
def hundred_and_one(
    tmp_path_factory: pytest.TempPathFactory, numbered_columns: Callable[..., dict[str, np.ndarray]]
) -> Path:
    """A folder of numbered columns."""
    folder = tmp_path_factory.mktemp("data") / "numbered"
    numbered_columns(folder, SAMPLES, (8, 3))
    return folder


@pytest.fixture(scope="session")
def one_worker(hundred_and_one: Path, start_shared_loader: Callable[..., Started]) -> str:
    """Address of a loader with one worker."""
    return start_shared_loader(hundred_and_one, "--workers", "1").address


@pytest.fixture(scope="session")
def four_workers(hundred_and_one: Path, start_shared_loader: Callable[..., Started]) -> str:
    """Address of a loader with four workers over the same data."""
    return start_shared_loader(hundred_and_one, "--workers", "4").address
