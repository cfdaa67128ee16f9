"""What this loader serves: its datasets with their fingerprints, and whether a key asks for something that exists."""

from dataclasses import dataclass, field

from feedline_server.batches.assembly import layout_of
from feedline_server.batches.dataset import Dataset
from feedline_server.host.held_path import HeldPath
from feedline_server.lanes.from_files import ZeroCopySource
from feedline_wire.errors import DatasetChanged, InvalidRequest
from feedline_wire.key import Key, most_rows
from feedline_wire.listing import listed
from feedline_wire.orders import parse

LONGEST_NAME = 64
"""Characters of a name, or bytes of a fingerprint, that a message repeats: enough to recognise one's own."""


@dataclass(frozen=True, slots=True)
class Served:
    """One version of a dataset and its identity."""

    dataset: Dataset
    fingerprint: bytes
    from_files: ZeroCopySource | None = None
    """What of it can be sent from where it lies."""
    held: HeldPath | None = None
    """Where it lies, also after it was renamed; None: where it is declared to lie."""


@dataclass(frozen=True, slots=True)
class Catalog:
    """All that is served, and how large a batch may be. *Thread-safe.*"""

    served: dict[str, Served]
    """The newest version of each dataset, by name."""
    max_batch_nbytes: int
    older: dict[str, tuple[Served, ...]] = field(default_factory=dict)
    """Versions that are served beside the newest, the oldest first."""

    @property
    def versions(self) -> list[tuple[str, Served]]:
        """All of them, the newest of a dataset after its others."""
        return [(name, one) for name, newest in self.served.items() for one in (*self.older.get(name, ()), newest)]

    def add(self, name: str, newest: Served) -> None:
        """A version of a dataset that is the newest from now on; one of the same fingerprint is this one now."""
        others = (*self.older.get(name, ()), self.served[name])
        # In this order: a key of either finds its version at every moment.
        self.older[name] = tuple(one for one in others if one.fingerprint != newest.fingerprint)
        self.served[name] = newest

    def drop(self, name: str, fingerprint: bytes) -> None:
        """An older version is served no longer. Idempotent."""
        self.older[name] = tuple(one for one in self.older.get(name, ()) if one.fingerprint != fingerprint)

    def find(self, name: str, fingerprint: bytes) -> Served | None:
        """The version of this fingerprint; None if it is not served."""
        newest = self.served.get(name)
        if newest is not None and newest.fingerprint == fingerprint:
            return newest
        return next((one for one in self.older.get(name, ()) if one.fingerprint == fingerprint), None)

    def seen_by(self, datasets: frozenset[str] | None) -> "Catalog":
        """The catalog of a caller who may have only these datasets; None: all."""
        if datasets is None:
            return self
        return Catalog(
            {name: one for name, one in self.served.items() if name in datasets},
            self.max_batch_nbytes,
            {name: some for name, some in self.older.items() if name in datasets},
        )

    def dataset(self, key: Key) -> Dataset:
        """The dataset of a key that was checked."""
        served = self.find(key.dataset, key.fingerprint)
        assert served is not None, "a version is served for as long as a stream has wanted keys of it"
        return served.dataset

    def from_files(self, key: Key) -> ZeroCopySource | None:
        """What can be sent of a key's dataset from where it lies."""
        served = self.find(key.dataset, key.fingerprint)
        return None if served is None else served.from_files

    def check(self, key: Key) -> int:
        """The bytes a batch takes. Raises InvalidRequest or DatasetChanged, saying what there is, if there is none."""
        served = self.served.get(key.dataset)
        if served is None:
            raise InvalidRequest(
                f"no dataset {_short(key.dataset)} is served here; there is: {listed(sorted(self.served))}"
            )
        newest = served.fingerprint
        served = self.find(key.dataset, key.fingerprint)
        if served is None:
            theirs = key.fingerprint[:LONGEST_NAME].hex() + "…" * (len(key.fingerprint) > LONGEST_NAME)
            raise DatasetChanged(
                f"dataset {key.dataset!r} has the fingerprint {newest.hex()}, the request has {theirs}: "
                "it is other data or another specification; connect anew, or serve the same data",
                elsewhere=True,
            )
        dataset = served.dataset
        view = dataset.views.get(key.view)
        if view is None:
            raise InvalidRequest(
                f"dataset {key.dataset!r} has no view {_short(key.view)}; there is: {listed(sorted(dataset.views))}"
            )
        if parse(key.order).family not in dataset.orders:
            raise InvalidRequest(
                f"dataset {key.dataset!r} has no order {key.order!r}; there is: {', '.join(dataset.orders)}"
            )
        most = most_rows(view.samples, is_batched=dataset.is_batched)
        if not 1 <= key.rows <= most:
            raise InvalidRequest(
                f"a batch of {key.rows} rows was requested; the view {key.view!r} has {view.samples} "
                f"samples, ask for 1..{most}"
            )
        if key.offset >= view.samples:
            raise InvalidRequest(
                f"position {key.offset} is past the end of the view {key.view!r} ({view.samples} samples); "
                f"ask for position {key.offset % view.samples} of epoch {key.epoch + key.offset // view.samples}"
            )
        nbytes = layout_of(dataset, key.rows).nbytes
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
