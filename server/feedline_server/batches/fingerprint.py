"""Who a dataset is: 16 bytes that copies of the same data have in common, on any host, in any folder.

The law: it is made of content and of what was declared about it, never of paths, names or times. Replicas that
serve other data, other views or another order differ, so a trainer can never mix them.

Cost is bounded whatever the dataset's size: `sources.content` says which bytes are looked at and why. What lies
between the sampled blocks of a large file is not noticed here; that a file changes while it is served is
(`sources.stamp`).
"""

import json
from collections.abc import Iterator
from hashlib import blake2b

import numpy as np

from feedline_server.batches.dataset import Dataset
from feedline_server.declared.datasets import Declaration
from feedline_server.order.positions import ORDER_VERSION
from feedline_server.sources.selection import Ranges

FORM = 1
"""Raised when what is hashed, or how, changes: an old and a new loader must not agree by chance."""


def fingerprint(dataset: Dataset, config: Declaration) -> bytes:
    """16 bytes of identity: content, structure, views, what the declaration says, and the version of the orders."""
    found = blake2b(digest_size=16)
    for chunk in _identity(dataset, config):
        found.update(len(chunk).to_bytes(8, "little"))  # so that chunks cannot run into each other
        found.update(chunk)
    return found.digest()


def _identity(dataset: Dataset, config: Declaration) -> Iterator[bytes]:
    yield json.dumps(
        {
            "form": FORM,
            "order": ORDER_VERSION,
            "declared": config.meaning,
            "columns": [(column.name, column.dtype.str, column.shape) for column in dataset.columns],
            "structure": dataset.structure,
            "samples": dataset.source.samples,
        }
    ).encode()
    for name, view in sorted(dataset.views.items()):
        yield name.encode()
        if isinstance(view.selection, range | Ranges):
            parts = view.selection.parts if isinstance(view.selection, Ranges) else (view.selection,)
            yield b",".join(b"%d:%d" % (part.start, part.stop) for part in parts)
        else:
            yield np.ascontiguousarray(view.selection, "<i8").tobytes()
    yield from dataset.source.content()
    yield from dataset.chain.content
