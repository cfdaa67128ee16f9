"""What this loader serves: datasets with their fingerprints, and whether a key asks for something that exists."""

from collections.abc import Mapping
from dataclasses import dataclass

from feedline_server.assembly import layout_of
from feedline_server.dataset import Dataset
from feedline_server.order import ORDERS
from feedline_wire.errors import DatasetChanged, InvalidRequest
from feedline_wire.key import Key


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

    def check(self, key: Key) -> int:
        """The bytes a batch takes; InvalidRequest or DatasetChanged, saying what there is, if it cannot be had."""
        served = self.served.get(key.dataset)
        if served is None:
            raise InvalidRequest(f"no dataset {key.dataset!r} is served here; there is: {_listed(self.served)}")
        dataset = served.dataset
        if key.fingerprint != served.fingerprint:
            raise DatasetChanged(
                f"dataset {key.dataset!r} here has the fingerprint {served.fingerprint.hex()}, asked was "
                f"{key.fingerprint.hex()}: it is other data or another specification; connect anew, "
                "or serve the same data"
            )
        view = dataset.views.get(key.view)
        if view is None:
            raise InvalidRequest(
                f"dataset {key.dataset!r} has no view {key.view!r}; there is: {_listed(dataset.views)}"
            )
        if key.order not in ORDERS:
            raise InvalidRequest(f"there is no order {key.order!r}; there is: {', '.join(ORDERS)}")
        if not 1 <= key.rows <= view.samples:
            raise InvalidRequest(
                f"a batch of {key.rows} rows was asked; the view {key.view!r} has {view.samples} "
                f"samples, ask for 1..{view.samples}"
            )
        if key.offset >= view.samples:
            raise InvalidRequest(
                f"position {key.offset} is past the end of the view {key.view!r} ({view.samples} samples); "
                f"ask for position {key.offset % view.samples} of epoch {key.epoch + key.offset // view.samples}"
            )
        nbytes = layout_of(dataset, key.rows).nbytes
        if nbytes > self.max_batch_nbytes:
            raise InvalidRequest(
                f"a batch of {key.rows} rows takes {nbytes} bytes; this loader assembles at most "
                f"{self.max_batch_nbytes} "
                f"(half its memory budget): ask for fewer rows, or start it with more memory"
            )
        return nbytes


def _listed(names: Mapping[str, object]) -> str:
    return ", ".join(sorted(names)) or "nothing"
