"""Who a dataset is: 16 bytes that copies of the same data have in common, on any host, in any folder.

They are made of content and of what is declared, never of paths, names or times. Replicas that serve other data, other
views or another meaning of a key differ, so a trainer never mixes them, and a saved state of one is refused by another.

What a key means has versions, and those that a dataset uses are hashed:

* of its kind and of each of its transforms: `version` of their classes in declared/
* of each order that it may be asked in: `ORDER_VERSIONS` in order/positions
* of the random numbers of its transforms and of substitutes: `VERSION` in transforms/randomness
* of the seeds and epochs of the operator's Python: `VERSION` in feedline_wire/seeding, as part of the source's content

Whoever changes how one of these turns a key into bytes raises its version by one in the same commit, and writes the new
values into tests/server/batches/test_golden.py, which fails for every kind that the change reaches. A new key of
loader.toml raises nothing: of what is declared only what is not at its default is hashed.

Cost is bounded whatever the dataset's size: sources/arrays/content says which bytes are looked at and why. What lies
between the sampled blocks of a large file is not noticed here; that a file changes while it is served is
(sources/arrays/stamp).
"""

import json
from collections.abc import Iterator
from hashlib import blake2b

import numpy as np

from feedline_server.batches.dataset import Dataset
from feedline_server.declared.datasets import Declaration
from feedline_server.order.positions import ORDER_VERSIONS
from feedline_server.sources.selection import Ranges
from feedline_server.transforms import randomness

FORM = 2
"""Raised when what is hashed of every dataset, or how, changes: an old and a new loader must not agree by chance."""


def fingerprint(dataset: Dataset, config: Declaration) -> bytes:
    """16 bytes of identity: content, structure, views, what is declared, and the versions of what a key means."""
    found = blake2b(digest_size=16)
    for chunk in _identity(dataset, config):
        found.update(len(chunk).to_bytes(8, "little"))  # so that chunks cannot run into each other
        found.update(chunk)
    return found.digest()


def _identity(dataset: Dataset, config: Declaration) -> Iterator[bytes]:
    yield json.dumps(
        {
            "form": FORM,
            "declared": config.meaning,
            "versions": _versions(dataset),
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


def _versions(dataset: Dataset) -> dict[str, int]:
    """Of the orders that the dataset may be asked in, and of random numbers if it draws any. No stream has an order."""
    found = {order: ORDER_VERSIONS[order] for order in dataset.orders if order in ORDER_VERSIONS}
    if dataset.on_bad_sample == "substitute" or any(way.is_random for way in dataset.chain.ways.values()):
        found["random numbers"] = randomness.VERSION
    return found
