"""What this loader serves: its datasets with their fingerprints, and whether a key asks for something that exists."""

from collections.abc import Mapping
from dataclasses import dataclass

from feedline_server.batches.assembly import most_nbytes
from feedline_server.batches.dataset import Dataset
from feedline_wire.errors import DatasetChanged, InvalidRequest
from feedline_wire.key import Key
from feedline_wire.listing import listed
from feedline_wire.orders import parse

LONGEST_NAME = 64
"""Characters of a name, or bytes of a fingerprint, that a message repeats: enough to recognise one's own."""


@dataclass(frozen=True, slots=True)
class Served:
    """One dataset and its identity."""

    dataset: Dataset
    fingerprint: bytes


@dataclass(frozen=True, slots=True)
class Catalog:
    """All that is served, and how large a batch may be."""

    served: Mapping[str, Served]
    max_batch_nbytes: int

    def seen_by(self, datasets: frozenset[str] | None) -> "Catalog":
        """The catalog of a caller who may have only these datasets; None: all."""
        if datasets is None:
            return self
        return Catalog({name: one for name, one in self.served.items() if name in datasets}, self.max_batch_nbytes)

    def dataset(self, key: Key) -> Dataset:
        """The dataset of a key that was checked."""
        return self.served[key.dataset].dataset

    def check(self, key: Key) -> int:
        """The bytes a batch takes. Raises InvalidRequest or DatasetChanged, saying what there is, if there is none."""
        served = self.served.get(key.dataset)
        if served is None:
            raise InvalidRequest(
                f"no dataset {_short(key.dataset)} is served here; there is: {listed(sorted(self.served))}"
            )
        dataset = served.dataset
        if key.fingerprint != served.fingerprint:
            theirs = key.fingerprint[:LONGEST_NAME].hex() + "…" * (len(key.fingerprint) > LONGEST_NAME)
            raise DatasetChanged(
                f"dataset {key.dataset!r} has the fingerprint {served.fingerprint.hex()}, the request has {theirs}: "
                "it is other data or another specification; connect anew, or serve the same data"
            )
        view = dataset.views.get(key.view)
        if view is None:
            raise InvalidRequest(
                f"dataset {key.dataset!r} has no view {_short(key.view)}; there is: {listed(sorted(dataset.views))}"
            )
        if parse(key.order).family not in dataset.orders:
            raise InvalidRequest(
                f"dataset {key.dataset!r} has no order {key.order!r}; there is: {', '.join(dataset.orders)}"
            )
        if not 1 <= key.rows <= view.samples:
            raise InvalidRequest(
                f"a batch of {key.rows} rows was requested; the view {key.view!r} has {view.samples} "
                f"samples, ask for 1..{view.samples}"
            )
        if key.offset >= view.samples:
            raise InvalidRequest(
                f"position {key.offset} is past the end of the view {key.view!r} ({view.samples} samples); "
                f"ask for position {key.offset % view.samples} of epoch {key.epoch + key.offset // view.samples}"
            )
        nbytes = most_nbytes(dataset, key.rows)
        if nbytes > self.max_batch_nbytes:
            raise self.too_large(f"a batch of {key.rows} rows", nbytes)
        return nbytes

    def too_large(self, batch: str, nbytes: int) -> InvalidRequest:
        """The refusal of a batch that takes so many bytes."""
        return InvalidRequest(
            f"{batch} takes {nbytes} bytes; this loader assembles at most {self.max_batch_nbytes} (half its memory "
            f"budget): ask for fewer rows, or start it with more memory"
        )


def _short(name: str) -> str:
    """A name that arrived, for a message: a hostile one may have half a megabyte, and each refusal would carry it."""
    return repr(name) if len(name) <= LONGEST_NAME else f"{name[:LONGEST_NAME]!r}… ({len(name)} characters)"
