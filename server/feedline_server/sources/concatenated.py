"""Several sources as one: the samples of the first, then those of the second, and so on."""

from collections.abc import Iterator, Mapping

import numpy as np
from numpy.typing import NDArray

from feedline_server.sources.source import Source, check_ids
from feedline_wire.errors import BadSample
from feedline_wire.tensors import Array


class Concatenated:
    """Sources with the same columns, laid end to end; the names are for messages."""

    def __init__(self, parts: Mapping[str, Source]) -> None:
        self._names = tuple(parts)
        self._parts = tuple(parts.values())
        self._starts = np.cumsum([0, *(part.samples for part in self._parts)], dtype=np.int64)
        self.samples = int(self._starts[-1])
        self.columns = self._parts[0].columns

    def __repr__(self) -> str:
        return f"<Concatenated {', '.join(self._names)}: {self.samples} samples>"

    def gather(self, ids: NDArray[np.int64], out: Mapping[str, Array]) -> None:
        """See Source. Samples of one part go straight to `out`; a mix goes through a temporary, part by part."""
        check_ids(ids, self.samples)
        owner = np.searchsorted(self._starts, ids, side="right") - 1
        for part in np.unique(owner).tolist():
            rows = np.flatnonzero(owner == part)
            if len(rows) == len(ids):
                self._gather(part, ids, out)
                return
            found = {name: np.empty((len(rows), *array.shape[1:]), array.dtype) for name, array in out.items()}
            self._gather(part, ids[rows], found)
            for name, array in found.items():
                out[name][rows] = array

    def content(self) -> Iterator[bytes]:
        """See Source."""
        for part in self._parts:
            yield b"part of %d samples" % part.samples
            yield from part.content()

    def _gather(self, part: int, ids: NDArray[np.int64], out: Mapping[str, Array]) -> None:
        start = int(self._starts[part])
        try:
            self._parts[part].gather(ids - start, out)
        except BadSample as error:
            # The part counts from 0; whoever reads the error asks by the dataset's ids.
            raise BadSample(
                f"in {self._names[part]}, whose sample 0 is sample {start}: {error.args[0]}",
                traceback=error.traceback,
                samples=(sample + start for sample in error.samples),
            ) from error
