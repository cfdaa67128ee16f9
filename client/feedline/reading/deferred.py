"""What a trainer does to a batch when it has arrived: the dataset's late operations, and what became of bad samples.

The law: nothing is guessed. A batch is shorter than what its key asked for only by the samples that it names as bad,
and each row that is there keeps the weight of its own position.
"""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from feedline_wire.elementwise import Late, Misfit
from feedline_wire.errors import BadSample, ProtocolMismatch
from feedline_wire.tensors import Array


def finished(arrays: dict[str, Array], late: Sequence[Late], ids: NDArray[np.int64], dataset: str) -> dict[str, Array]:
    """The columns after everything late; those that are not touched are the same arrays.

    BadSample, naming them, if samples have values that an operation cannot take.
    """
    if not late:
        return arrays
    columns = dict(arrays)
    for name, operation in late:
        values = columns[name]
        try:
            columns[name] = operation.apply(values)
        except Misfit as misfit:
            # Of batches made by the dataset's own code the ids are of batches, and the rows say nothing about them.
            samples = ids[list(misfit.rows)] if len(values) == len(ids) else ids
            named = ", ".join(map(str, samples.tolist()))
            raise BadSample(
                f"column {name!r} of {dataset!r}, sample {named}: {misfit} (what is done to it here, late, is "
                f"{operation}); correct the data or the loader's declaration",
                samples=samples,
            ) from misfit
    return columns


def rows_present(bad: NDArray[np.int64], ids: NDArray[np.int64], asked: int) -> NDArray[np.int64] | None:
    """Which of the rows that a key asked for are in the batch, where some were left out; None if all are.

    ProtocolMismatch if what is named as bad is not what is missing.
    """
    left_out = bad[:, 0]
    if len(ids) == asked:
        return None
    present = np.ones(asked, bool)
    if left_out.min() >= 0 and left_out.max() < asked:
        present[left_out] = False
    rows = np.flatnonzero(present)
    if len(rows) != len(ids):
        raise ProtocolMismatch(
            f"a batch of {asked} rows came with {len(ids)}, and rows {left_out.tolist()} are named as left out"
        )
    return rows
