"""One batch: from its key to its bytes in a slot.

A pure function of the key: positions become sample ids by arithmetic, the source gathers the samples straight into the
slot.
"""

import traceback

import numpy as np
from numpy.typing import NDArray

from feedline_server.dataset import Dataset
from feedline_server.order import view_indices
from feedline_server.sources.source import DrawnSource
from feedline_wire import IDS
from feedline_wire.errors import DataError, FeedlineError
from feedline_wire.key import Key
from feedline_wire.tensors import Array, Column, Layout, batch_layout, clear_padding, views

IDS_COLUMN = Column(IDS, np.dtype("<i8"), ())


class Outgrown(Exception):
    """The batch is larger than its memory, which was lent by an estimate: it needs `nbytes`."""

    def __init__(self, nbytes: int) -> None:
        super().__init__(f"the batch takes {nbytes} bytes")
        self.nbytes = nbytes


def most_nbytes(dataset: Dataset, rows: int) -> int:
    """What a batch of so many rows takes at most, as far as is known without reading it."""
    return layout_of(dataset, rows).nbytes


def sample_ids(dataset: Dataset, key: Key) -> NDArray[np.int64]:
    """The id of each row's sample."""
    view = dataset.views[key.view]
    positions = np.arange(key.offset, key.offset + key.rows, dtype=np.int64)
    return view.ids(view_indices(key.order, view.samples, key.seed, key.epoch, positions))


def layout_of(dataset: Dataset, rows: int) -> Layout:
    """How a batch of that many rows lies in its slot."""
    return batch_layout((*dataset.columns, IDS_COLUMN), rows)


def assemble(dataset: Dataset, key: Key, memory: Array) -> Layout:
    """Fill `memory` (uint8, at least `layout_of(…).nbytes` long) with the batch; FeedlineError if it cannot be had."""
    layout = layout_of(dataset, key.rows)
    ids = sample_ids(dataset, key)
    body = memory[: layout.nbytes]
    clear_padding(body, layout)  # the slot was another batch's: equal keys mean equal bytes, and nobody else's leak
    out = views(body, layout)
    out.pop(IDS)[:] = ids
    try:
        if isinstance(dataset.source, DrawnSource):
            raise NotImplementedError("a source that draws")
        dataset.source.gather(ids, out)
    except FeedlineError:
        raise
    except Exception as error:
        raise DataError(
            f"reading the batch {key} failed with {type(error).__name__}: {error}",
            traceback=traceback.format_exc(),
            samples=ids,
        ) from error
    return layout
