"""A batch on its way through the transforms: its columns as they are now, and whose samples they are.

What a transform writes goes into memory of the worker's own that is used again for the next batch, or, where
it is the last one to touch a column, straight into the slot.
"""

import threading
from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from feedline_server.sources.evidence import Evidence, of_rows
from feedline_server.sources.ragged import Ragged
from feedline_server.sources.source import SampleRequest
from feedline_server.transforms import randomness
from feedline_wire.errors import BadSample
from feedline_wire.listing import EXAMPLES, listed
from feedline_wire.tensors import Array

KEPT_NBYTES = 64 << 20
"""Of a dataset's memory between batches. The largest pieces beyond it are given back: touching them anew is little
beside filling them, and a worker must not stay as large as its largest batch."""


class Scratch(threading.local):
    """Memory for columns, used again and again. Each thread has its own."""

    def __init__(self) -> None:
        self._pieces: dict[tuple[str, int], Array] = {}

    def take(self, name: str, side: int, dtype: np.dtype[Any], shape: tuple[int, ...]) -> Array:
        """An array with anything in it; what was taken before for this column and side is overwritten."""
        nbytes = dtype.itemsize * int(np.prod(shape, dtype=np.int64))
        piece = self._pieces.get((name, side))
        if piece is None or len(piece) < nbytes:
            piece = self._pieces[name, side] = np.empty(nbytes, np.uint8)
        return piece[:nbytes].view(dtype).reshape(shape)

    def tidy(self) -> None:
        """The batch is done: give back what is too much."""
        while sum(map(len, self._pieces.values())) > KEPT_NBYTES:
            del self._pieces[max(self._pieces, key=lambda place: len(self._pieces[place]))]


class Rows:
    """So many samples (of a batched dataset: rows of its units), and their columns."""

    def __init__(self, columns: dict[str, Array | Ragged], request: SampleRequest, scratch: Scratch) -> None:
        self.columns = columns
        self.request = request
        self._scratch = scratch
        self._sides: dict[str, int] = {}
        self._ends: Mapping[str, Array] = {}
        self._purpose = self._named = ""

    def __len__(self) -> int:
        return len(self.request.ids)

    def begin(self, purpose: str, named: str, ends: Mapping[str, Array]) -> None:
        """The next transform: what it draws for, what messages call it, and where the columns it is the last for go."""
        self._purpose, self._named, self._ends = purpose, named, ends

    def space(self, name: str, dtype: np.dtype[Any], shape: tuple[int, ...]) -> Array:
        """Where the column's new values go: C-contiguous, with anything in it, and not where its values are now."""
        end = self._ends.get(name)
        if end is not None and end.dtype == dtype and end.shape == shape:
            return end
        side = self._sides[name] = 1 - self._sides.get(name, 0)
        return self._scratch.take(name, side, dtype, shape)

    @property
    def named(self) -> str:
        """What messages call the transform."""
        return self._named

    def words(self, count: int) -> NDArray[np.uint64]:
        """So many random words for each row, this transform's own: (rows, count)."""
        return randomness.words(self.request, self._purpose, count)

    def bad_values(self, column: Array | Ragged, at: NDArray[np.int64], message: str) -> BadSample:
        """The same, of these rows of a column's values: of a Ragged one they are steps."""
        return self.bad(np.searchsorted(column.offsets, at, "right") - 1 if isinstance(column, Ragged) else at, message)

    def bad(self, rows: Iterable[int], message: str, traceback: str = "") -> BadSample:
        """The error that says which samples these rows are."""
        rows = list(rows)
        samples = np.unique(self.request.ids[rows])
        return BadSample(
            f"{self._named}: sample{'s' if len(samples) > 1 else ''} {listed(samples, EXAMPLES)}: {message}",
            traceback=traceback,
            samples=samples,
            evidence=self.evidence(f"sample {self.request.ids[rows[0]]}", rows[0]),
        )

    def evidence(self, whose: str, first: int, count: int = 1) -> Evidence | None:
        """What can be shown of these rows as they came to the transform; what it changed in place is changed."""
        return of_rows(f"{whose}, as it came to {self._named}", self.columns, first, count)
