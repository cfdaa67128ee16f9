"""What the sample ids of an epoch say about its order: is every sample there once, and how well are they mixed?

Of ready batches an id says nothing of what is in them: there rows are told apart by their content.
Decisions on arrays alone. Each measure of mixing stands beside what a random order has, because no number says by
itself whether it is good.
"""

from collections import Counter
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Numbers = NDArray[np.int64]

PARTS = 10
"""Equal parts of the dataset that each batch should draw from alike; a batch of 64 then has six or seven of each."""

NAMED = 5
"""Samples or batches that a message lists; enough to find the cause, few enough to read."""


@dataclass(frozen=True, slots=True)
class Counted:
    """How often the samples of a view came in an epoch."""

    wanted: int
    """Samples of the view."""
    distinct: int
    """Different samples that came."""
    again: int
    """Rows that came beyond the first of their sample."""
    repeated: tuple[int, ...]
    """The first few samples that came more than once."""
    unit: str = "samples"
    """What an id stands for: samples, or batches."""

    @property
    def is_exact(self) -> bool:
        """Every sample came once."""
        return self.distinct == self.wanted and not self.again

    def __str__(self) -> str:
        if self.is_exact:
            return f"each of {self.wanted:,} {self.unit} once"
        repeated = (
            f"; {self.again:,} rows again, of {self.unit} {', '.join(map(str, self.repeated))}" if self.again else ""
        )
        return f"{self.distinct:,} of {self.wanted:,} {self.unit}{repeated}"


def counted(ids: Numbers, wanted: int, unit: str = "samples") -> Counted:
    """How the ids of an epoch make up a view of `wanted` samples."""
    found, times = np.unique(ids, return_counts=True)
    return Counted(wanted, len(found), len(ids) - len(found), tuple(found[times > 1][:NAMED].tolist()), unit)


@dataclass(frozen=True, slots=True)
class Content:
    """How the rows of ready batches compare with those of the next epoch, by their content."""

    rows: int
    """That came in the epoch."""
    missing: int
    """Different rows of the next epoch that did not come."""
    again: int
    """Rows that came more often than in the next epoch, beyond the first of each."""
    most: int
    """How often the most frequent of those came."""

    @property
    def is_exact(self) -> bool | None:
        """The epochs have the same rows. None: rows are others in every epoch, and each came as often as it should."""
        return False if self.again else True if not self.missing else None

    def __str__(self) -> str:
        match self.is_exact:
            case True:
                return f"the same {self.rows:,} rows as in the next epoch, each as often"
            case False:
                return (
                    f"{self.again:,} of {self.rows:,} rows are repetitions, the most frequent came {self.most} times, "
                    f"while {self.missing:,} rows of the next epoch are missing"
                )
        return (
            f"{self.missing:,} of {self.rows:,} rows are others in the next epoch, as augmentation makes them, or a "
            "last batch that is left out; without these it is counted"
        )


def content(rows: Counter[int], following: Counter[int]) -> Content:
    """How rows, by digests of their content, compare with those of the following epoch."""
    more = {row: times for row, times in (rows - following).items() if rows[row] > 1}
    missing = len(following.keys() - rows.keys())
    return Content(rows.total(), missing, sum(more.values()), max((rows[row] for row in more), default=0))


def drift(ids: Numbers) -> float:
    """Correlation of the samples' positions with their places in the dataset; of a random order 0 ± 1/√samples."""
    return _correlation(np.arange(len(ids)), _ranks(ids))


def neighbours(ids: Numbers) -> float:
    """How many times as often as in a random order (2 (n - 1) / n) samples in a row are neighbours in the dataset."""
    beside = int((np.abs(np.diff(_ranks(ids))) == 1).sum())
    return beside / (2 * (len(ids) - 1) / len(ids))


def unevenness(groups: Numbers, batch_size: int) -> float | None:
    """χ² a degree of freedom of the groups' shares in each whole batch; 1 if batches are random, 0 if all are alike.

    None where batches or groups are too few to say. Batches are drawn without replacement, which makes the variance of
    a share smaller by (n - b) / (n - 1) than the χ² test has it (the hypergeometric distribution's).
    """
    kinds, group = np.unique(groups, return_inverse=True)
    samples, batches = len(groups), len(groups) // batch_size
    if len(kinds) < 2 or batches < 2:
        return None
    batch = np.arange(batches * batch_size) // batch_size
    cells = np.bincount(batch * len(kinds) + group[: len(batch)], minlength=batches * len(kinds))
    expected = np.bincount(group) * (batch_size / samples)
    chi_square = ((cells.reshape(batches, len(kinds)) - expected) ** 2 / expected).sum()
    freedom = batches * (len(kinds) - 1) * (samples - batch_size) / (samples - 1)
    return float(chi_square / freedom)


def parts(ids: Numbers) -> Numbers:
    """Which of the dataset's equal parts each sample is in."""
    return _ranks(ids) * min(PARTS, len(ids)) // len(ids)


def likeness(ids: Numbers, following: Numbers) -> float:
    """Correlation of the positions that the samples of two epochs have; of random orders 0 ± 1/√samples."""
    common, first, second = np.intersect1d(ids, following, return_indices=True)
    return _correlation(first, second) if len(common) > 2 else 0.0


def _ranks(ids: Numbers) -> Numbers:
    """The place of each sample among those that came: a view need not hold all of the dataset."""
    return np.searchsorted(np.unique(ids), ids)


def _correlation(one: Numbers, other: Numbers) -> float:
    return 0.0 if one.std() == 0 or other.std() == 0 else float(np.corrcoef(one, other)[0, 1])
