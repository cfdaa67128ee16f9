"""A batch as people look at it: its first rows as pictures, or its values as histograms, as plain values.

It is asked for as a trainer asks, by who may: it takes a stream's place while it is assembled, and gives it back.
"""

import base64
import threading
from collections.abc import Iterable

import numpy as np

from feedline_server.access.tokens import Caller
from feedline_server.scheduling.catalog import Catalog
from feedline_server.scheduling.scheduler import Scheduler
from feedline_server.scheduling.stream import Batch, Refusal
from feedline_server.sources.evidence import Evidence, Picture, numbers, pictures, summary
from feedline_wire.errors import FeedlineError, InvalidRequest, LoaderStalled
from feedline_wire.key import Key
from feedline_wire.tensors import Array, views
from feedline_wire.view import Values

ROWS = 8
"""Pictures in a row on the page."""

BINS = 48

WITHIN_S = 10.0
"""A page is not worth a longer wait."""


def batch_values(
    scheduler: Scheduler, catalog: Catalog, datasets: frozenset[str] | None, of: str, offset: int
) -> Values:
    """The first rows from a position of `dataset/view` on. Raises a FeedlineError if there are none."""
    key = key_of(catalog.seen_by(datasets), of, offset)
    stream = scheduler.open_stream("page", Caller("page", datasets))
    expiry = threading.Timer(
        WITHIN_S, scheduler.close_stream, [stream, LoaderStalled(f"not there after {WITHIN_S:g} s")]
    )
    expiry.daemon = True
    expiry.start()
    try:
        scheduler.want(stream, [(1, key)])
        deliveries = scheduler.next_deliveries(stream, 1)
        match deliveries:
            case [Batch() as batch]:
                body = np.frombuffer(scheduler.body(batch), np.uint8).copy()
                scheduler.release(stream, [batch], sent=False)
                return {"title": str(key), "columns": [_column(*one) for one in views(body, batch.layout).items()]}
            case [Refusal(error=error)]:
                raise error
        raise stream.error or LoaderStalled("the loader is going away")
    finally:
        expiry.cancel()
        scheduler.close_stream(stream)


def key_of(catalog: Catalog, of: str, offset: int) -> Key:
    """What is asked for; InvalidRequest if there is no such view, or it has no keys."""
    dataset, _, view = of.partition("/")
    served = catalog.served.get(dataset)
    if served is None or view not in served.dataset.views:
        raise InvalidRequest("there is no such dataset and view here")
    if served.dataset.is_stream:
        raise InvalidRequest(f"{dataset!r} is a stream: what is shown here would be missing in a training")
    orders = served.dataset.orders
    rows = 1 if served.dataset.is_batched else ROWS
    samples = served.dataset.views[view].samples
    order = "sequential" if "sequential" in orders else orders[0]
    return Key(dataset, served.fingerprint, view, order, 0, 0, offset, max(min(rows, samples - offset), 1))


def evidence_values(evidence: Evidence) -> Values:
    """What is shown of a bad sample, as a batch is."""
    columns = [
        {
            "name": one.name,
            "dtype": one.dtype,
            "shape": list(one.shape),
            "summary": one.summary,
            "images": _images(one.pictures),
            "histogram": [],
            "values": one.values,
        }
        for one in evidence.arrays
    ]
    return {"title": evidence.title, "columns": columns}


def _column(name: str, values: Array) -> Values:
    finite = numbers(values)
    images = _images(pictures(values[:ROWS]))
    return {
        "name": name,
        "dtype": values.dtype.name,
        "shape": list(values.shape),
        "summary": summary(values, values.size),
        "images": images,
        "histogram": [] if images or not finite.size else np.histogram(finite, BINS)[0].tolist(),
    }


def _images(shown: Iterable[Picture]) -> list[Values]:
    return [
        {"row": row, "shape": list(one.shape), "data": base64.b64encode(one.pixels).decode()}
        for row, one in enumerate(shown)
    ]


def refused(error: FeedlineError) -> str:
    """Why there is no batch, for the page."""
    return f"{type(error).__name__}: {error}"
