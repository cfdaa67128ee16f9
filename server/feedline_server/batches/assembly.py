"""One batch: from its key to its bytes in a slot.

A pure function of the key: positions become sample ids by arithmetic, the samples are read and transformed, each for
itself, and laid into the slot. Where nothing is done to them the source gathers them straight into it.
"""

import traceback
from collections.abc import Collection, Mapping, Sequence
from contextlib import suppress

import numpy as np
from numpy.typing import NDArray

from feedline_server.batches.dataset import Dataset
from feedline_server.host.user_code import exception_line
from feedline_server.order.positions import run_ahead, run_indices, view_indices
from feedline_server.sources.evidence import of_rows as evidence_of
from feedline_server.sources.ragged import Ragged, pad_into, values_of
from feedline_server.sources.source import SampleRequest
from feedline_wire import BAD, IDS
from feedline_wire.errors import BadSample, DataError, FeedlineError
from feedline_wire.key import Key
from feedline_wire.listing import EXAMPLES, listed
from feedline_wire.tensors import VARIES, Array, Column, Layout, clear_padding, lay_out, views

NUMBERS = np.dtype("<i8")
"""Of the columns of sample ids."""

LAYOUTS = 64
"""Numbers of rows whose layout is remembered: a trainer asks for one or two, a hostile one could ask for any."""


class Outgrown(Exception):
    """The batch is larger than its memory, which was lent by an estimate: it needs `nbytes`."""

    def __init__(self, nbytes: int) -> None:
        super().__init__(f"the batch takes {nbytes} bytes")
        self.nbytes = nbytes


def sample_ids(dataset: Dataset, key: Key) -> NDArray[np.int64]:
    """The id of each row's sample."""
    view = dataset.views[key.view]
    if dataset.is_stream:  # all that is read of an id is which view it belongs to
        positions = _positions(key)
        return view.ids(positions % view.samples) if view.samples else positions
    if view.measure is not None:
        indices = view_indices(key.order, view.samples, key.seed, key.epoch, _positions(key), view.lengths)
    else:
        indices = run_indices(key.order, view.samples, key.seed, key.epoch, key.offset, key.rows)
    return view.ids(indices)


def sample_request(dataset: Dataset, key: Key) -> SampleRequest:
    """The samples that a key means, each in its epoch."""
    samples = dataset.views[key.view].samples
    epochs = np.full(key.rows, key.epoch, np.uint64).view(np.int64)
    if key.offset + key.rows > samples:
        epochs += _positions(key) // max(samples, 1)
    return SampleRequest(sample_ids(dataset, key), epochs, key.seed)


def _positions(key: Key) -> NDArray[np.int64]:
    return np.arange(key.offset, key.offset + key.rows, dtype=np.int64)


def layout_of(dataset: Dataset, rows: int) -> Layout:
    """How the largest batch of so many rows lies, as far as is known without reading it. Computed once."""
    if (layout := dataset.layouts.get(rows)) is not None:
        return layout
    chain = dataset.chain
    shapes = []
    for column in dataset.columns:
        longest = chain.longest.get(column.name, 1)
        shapes.append((rows * chain.unit_rows, *(longest if size == VARIES else size for size in column.shape)))
    bad = None if dataset.on_bad_sample == "error" else np.broadcast_to(0, (rows, 2))
    if len(dataset.layouts) >= LAYOUTS:
        dataset.layouts.clear()
    layout = dataset.layouts[rows] = _layout(dataset.columns, shapes, rows, bad)
    return layout


def most_nbytes(dataset: Dataset, rows: int) -> int:
    """What a batch of so many rows takes at most, as far as is known without reading it."""
    return layout_of(dataset, rows).nbytes


def assemble(dataset: Dataset, key: Key, memory: Array) -> Layout:
    """Fill `memory` (uint8, at least `most_nbytes` long) with the batch.

    FeedlineError if it cannot be had, Outgrown if that was not enough.
    """
    rows = sample_request(dataset, key)
    _read_ahead(dataset, key)
    try:
        if dataset.on_bad_sample == "error":
            return _filled(dataset, key.view, rows, None, memory)
        return _mended(dataset, key, rows, memory)
    except (FeedlineError, Outgrown):
        raise
    except Exception as error:
        raise DataError(
            f"reading the batch {key} failed with {exception_line(error)}",
            traceback=traceback.format_exc(),
            samples=rows.ids,
        ) from error


def _read_ahead(dataset: Dataset, key: Key) -> None:
    """Have the disk read what batches after this one want."""
    if (source := dataset.announcing) is None:
        return
    view = dataset.views[key.view]
    dataset.latest.append((key.view, key.order, key.seed))
    most = source.most_ahead // len(set(dataset.latest))  # each order has a window of its own in memory
    ahead = run_ahead(key.order, view.samples, key.seed, key.epoch, key.offset, key.rows, most)
    if not len(ahead):
        return
    # What is wrong with files of other batches is an error of those batches.
    with suppress(FeedlineError, OSError):
        source.announce(view.ids(ahead), dataset.chain.reads)


def _mended(dataset: Dataset, key: Key, request: SampleRequest, memory: Array) -> Layout:
    """The batch without its bad samples, or with others for them: read until all that is read is good."""
    from feedline_server.batches.bad_samples import Fault, faults_named, replaced, without

    chain, view, known = dataset.chain, dataset.views[key.view], dataset.known_bad
    assert known is not None, "only a dataset that leaves out or replaces bad samples is mended"
    is_random = chain.is_generated or chain.ways[key.view].is_random
    found: set[Fault] = set()
    latest: object = None

    def bad(faults: Collection[Fault]) -> set[Fault]:
        return found.intersection(faults) | known.among(faults)

    while True:
        try:
            if dataset.on_bad_sample == "skip":
                mended, lines = without(request, bad, is_random=is_random)
            else:
                mended, lines = replaced(request, bad, view.samples, view.ids, is_random=is_random)
        except DataError as error:  # all are bad
            error.evidence = latest
            raise
        try:
            return _filled(dataset, key.view, mended, lines, memory)
        except BadSample as error:
            faults = faults_named(error, mended, is_random=is_random)
            if not faults:
                raise
            found |= set(faults)
            latest = error.evidence
            known.learn(faults, error)


# ---- samples, as if all were good ----


def _filled(
    dataset: Dataset, view: str, request: SampleRequest, bad: NDArray[np.int64] | None, memory: Array
) -> Layout:
    """Lay these samples into the memory, with their ids, and with the bad ones that they are without.

    Where the layout follows from the number of samples, what can be written straight into the memory is. Elsewhere it
    shows when the samples are there: they are laid as long as the longest of them.
    """
    columns, chain, ids = dataset.columns, dataset.chain, request.ids
    if not len(ids):  # the one sample that was asked for is bad
        shapes = [(0, *(0 if size == VARIES else size for size in column.shape)) for column in columns]
        layout = _layout(columns, shapes, 0, bad)
        _cleared(memory, layout)[BAD][:] = bad
        return layout
    rows = None if chain.is_fixed else chain.prepared(view, request, {})
    if rows is None and bad is None:
        layout = layout_of(dataset, len(ids))
    else:
        shapes = [(len(ids), *one.shape) if rows is None else _shape(rows.columns[one.name]) for one in columns]
        layout = _layout(columns, shapes, len(ids), bad)
    placed = _cleared(memory, layout)
    placed.pop(IDS)[:] = ids
    if bad is not None:
        placed.pop(BAD)[:] = bad
    of_rows = ids
    if chain.is_straight:
        chain.watch.begin_read()
        chain.gather(ids, placed)
        chain.watch.end_read()
    else:
        rows = rows if rows is not None else chain.prepared(view, request, placed)
        for column in columns:
            _lay(rows.columns[column.name], column, placed[column.name])
        chain.scratch.tidy()
        of_rows = rows.request.ids
    if dataset.nan == "error":
        _check_numbers(dataset, placed, of_rows)
    return layout


def _layout(
    columns: Sequence[Column], shapes: Sequence[tuple[int, ...]], ids: int, bad: NDArray[np.int64] | None
) -> Layout:
    arrays = [(column.name, column.dtype, shape) for column, shape in zip(columns, shapes, strict=True)]
    arrays.append((IDS, NUMBERS, (ids,)))
    if bad is not None:
        arrays.append((BAD, NUMBERS, bad.shape))
    return lay_out(arrays)


def _cleared(memory: Array, layout: Layout) -> dict[str, Array]:
    """The arrays in the memory; Outgrown if it is too small."""
    if layout.nbytes > len(memory):
        raise Outgrown(layout.nbytes)
    body = memory[: layout.nbytes]
    clear_padding(body, layout)  # the slot was another batch's: equal keys mean equal bytes, and none of its leak
    return views(body, layout)


def _shape(found: Array | Ragged) -> tuple[int, ...]:
    return (len(found), found.longest, *found.values.shape[1:]) if isinstance(found, Ragged) else found.shape


def _lay(found: Array | Ragged, column: Column, place: Array) -> None:
    """Write a column where it belongs, if it is not there yet."""
    if found is place:
        return
    shape = _shape(found)
    values = values_of(found)
    fits = len(shape) == len(column.shape) + 1 and all(
        size in {VARIES, have} for size, have in zip(column.shape, shape[1:], strict=True)
    )
    # Numpy would repeat what is too small until it fits.
    if not fits or shape != place.shape or values.dtype != column.dtype:
        raise DataError(f"column {column} was read as {values.dtype} of shape {shape}; wanted {place.shape}")
    if isinstance(found, Ragged):
        pad_into(place, found)
    else:
        np.copyto(place, found)


def _check_numbers(dataset: Dataset, out: Mapping[str, Array], of_rows: NDArray[np.int64]) -> None:
    """BadSample naming the samples in which something is not a number."""
    for column in dataset.columns:
        values = out[column.name]
        # The smallest is nan if one is: a fifth of the cost of looking at each.
        if column.dtype.kind in "fc" and values.size and np.isnan(values.min()):
            flat = values.reshape(len(values), -1)
            is_bad = np.isnan(flat).any(axis=1)
            samples = np.unique(of_rows[is_bad])
            first = int(np.flatnonzero(is_bad)[0])
            shown = {one.name: out[one.name] for one in dataset.columns}
            raise BadSample(
                f"dataset {dataset.name!r}: column {column.name!r} holds what is not a number (nan) in "
                f"sample{'s' if len(samples) > 1 else ''} {listed(samples, EXAMPLES)}"
                f"{_around(flat[first], values.shape[1:])}; mend the data, or "
                'set nan = "allow", or leave such samples out with on_bad_sample = "skip"',
                samples=samples,
                evidence=evidence_of(f"sample {of_rows[first]}, as it would have been sent", shown, first),
            )


def _around(values: Array, shape: tuple[int, ...]) -> str:
    """Where the first nan of a sample is, how many there are, and the values about it: ` (2 of 9 values, …)`."""
    bad = np.isnan(values)
    at = int(np.flatnonzero(bad)[0])
    near = " ".join(f"{value:.4g}" for value in values[max(at - 2, 0) : at + 3])
    place = ", ".join(map(str, np.unravel_index(at, shape))) if shape else "0"
    return f" ({np.count_nonzero(bad)} of {values.size} values of the first, from [{place}] on: {near})"
