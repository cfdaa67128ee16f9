"""Several sources as one: the samples of the first, then those of the second, and so on."""

from collections.abc import Collection, Iterator, Mapping
from itertools import pairwise
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from feedline_server.sources.arrays.stamp import Stamps
from feedline_server.sources.arrays.stored import Extent
from feedline_server.sources.selection import check_ids
from feedline_server.sources.source import Announcing, HasExtents, HasFiles, of_samples
from feedline_wire.errors import BadSample
from feedline_wire.tensors import Array

Ids = NDArray[np.int64]


class Part(Announcing, HasFiles, Protocol):
    """What is laid end to end."""


class Concatenated:
    """Sources with the same columns, laid end to end; the names are for messages."""

    def __init__(self, parts: Mapping[str, Part]) -> None:
        self._names = tuple(parts)
        self._parts = tuple(parts.values())
        self.starts = np.cumsum([0, *(part.samples for part in self._parts)], dtype=np.int64)
        """The first id of each part, and the number of all samples."""
        self.samples = int(self.starts[-1])
        self.columns = self._parts[0].columns
        self.most_ahead = min((part.most_ahead for part in self._parts if part.samples), default=0)

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {', '.join(self._names)}: {self.samples} samples>"

    def gather(self, ids: Ids, out: Mapping[str, Array]) -> None:
        """See Source. Samples of one part go straight to `out`; a mix goes through a temporary, part by part.

        It begins with the part of the first sample: else all workers that begin together wait for one part, which one
        of them decompresses.
        """
        check_ids(ids, self.samples)
        parts = list(parts_of(ids, self.starts))
        first = next((at for at, (_, _, places) in enumerate(parts) if not places[0]), 0)
        for part, own, places in parts[first:] + parts[:first]:
            if len(own) == len(ids) and (places == np.arange(len(ids))).all():
                self._gather(part, own, out)
                return
            found = {name: np.empty((len(own), *array.shape[1:]), array.dtype) for name, array in out.items()}
            self._gather(part, own, found)
            for name, array in found.items():
                out[name][places] = array

    def extents(self, name: str) -> tuple[Extent, ...] | None:
        """See HasExtents."""
        found: list[Extent] = []
        for part in self._parts:
            extents = part.extents(name) if isinstance(part, HasExtents) else None
            if extents is None:
                return None
            found += extents
        return tuple(found)

    def announce(self, ids: Ids, names: Collection[str]) -> None:
        """See Announcing."""
        for part, own, _ in parts_of(ids, self.starts):
            self._parts[part].announce(own, names)

    def files(self) -> Iterator[Stamps]:
        """See HasFiles."""
        for part in self._parts:
            yield from part.files()

    def content(self) -> Iterator[bytes]:
        """See Source."""
        for part in self._parts:
            yield b"part of %d samples" % part.samples
            yield from part.content()

    def _gather(self, part: int, own: Ids, out: Mapping[str, Array]) -> None:
        start = int(self.starts[part])
        try:
            self._parts[part].gather(own, out)
        except BadSample as error:
            where = f"in {self._names[part]}, whose sample 0 is sample {start}: "
            raise of_samples(error, [sample + start for sample in error.samples], where) from error


def parts_of(ids: Ids, starts: Ids) -> Iterator[tuple[int, Ids, Ids]]:
    """For each part that has some of these ids: which one, its own ids of them, and their places among all.

    `starts` are the first ids of the parts and the end of the last. A part's own ids stand in the order asked for.
    """
    owner = np.searchsorted(starts, ids, side="right") - 1
    order = np.argsort(owner, kind="stable")
    ends = np.cumsum(np.bincount(owner, minlength=len(starts) - 1)).tolist()
    for part, (start, end) in enumerate(pairwise((0, *ends))):
        if end > start:
            places = order[start:end]
            yield part, ids[places] - starts[part], places
