"""Which samples there are and what their classes are, when a partition and labels say so in JSON.

An id's address is its place among the unique ids in order of first appearance, so the same files give the same
addresses everywhere; a view whose ids are consecutive costs nothing.
"""

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from feedline_server.sources.arrays.npy import reading
from feedline_server.sources.files.links import stays_inside, without_dots
from feedline_server.sources.selection import Chosen, compact
from feedline_wire.errors import DataError
from feedline_wire.listing import counted


def read_partition(path: Path) -> dict[str, list[str]]:
    """The ids of each view, as written; DataError if they are not lists of usable file names."""
    found = _read_object(path, '{"train": [ids], "validation": [ids]}')
    return {view: _ids(path, view, ids) for view, ids in found.items()}


def read_labels(path: Path) -> dict[str, Any]:
    """The label of each id, as written."""
    found = _read_object(path, '{"an id": its class, …}')
    labels = {without_dots(name): label for name, label in found.items()}
    if len(labels) < len(found):
        twice = next(name for name in found if name != without_dots(name) in found)
        raise DataError(f"{path}: {twice!r} and {without_dots(twice)!r} are the same id; leave one out")
    return labels


def addresses(partition: Mapping[str, Sequence[str]]) -> tuple[tuple[str, ...], dict[str, Chosen]]:
    """The id at each address, and each view's addresses."""
    names = tuple(dict.fromkeys(chain.from_iterable(partition.values())))
    place = {name: address for address, name in enumerate(names)}
    return names, {
        view: compact(np.fromiter(map(place.__getitem__, ids), np.int64, len(ids))) for view, ids in partition.items()
    }


def classes_of(ids: Sequence[str], labels: Mapping[str, Any], path: Path, classes: int | None) -> NDArray[np.int64]:
    """The class of each id; DataError naming the ids that have none, or none from 0 to below `classes`."""
    without = [name for name in ids if name not in labels]
    if without:
        raise DataError(
            f"{path}: no label for {counted(without, 'id', repr)} of the partition; add them or take the ids out"
        )
    limit = classes if classes is not None else 1 << 63  # what int64 holds
    wrong = [name for name in ids if type(labels[name]) is not int or not 0 <= labels[name] < limit]
    if wrong:
        wanted = "from 0" if classes is None else f"0..{classes - 1} (classes = {classes})"
        found = counted(wrong, "id", lambda name: f"{name!r}: {json.dumps(labels[name])}")
        raise DataError(f"{path}: the labels of {found} are no classes; wanted whole numbers {wanted}")
    return np.fromiter(map(labels.__getitem__, ids), np.int64, len(ids))


def _ids(path: Path, view: str, ids: object) -> list[str]:
    if not isinstance(ids, list):
        raise DataError(f"{path}: view {view!r} is {type(ids).__name__}; wanted a list of ids")
    if not ids:
        raise DataError(f"{path}: view {view!r} is empty; give it ids or remove it")
    strange = [name for name in ids if type(name) not in (str, int)]
    if strange:
        raise DataError(f"{path}: view {view!r} holds {json.dumps(strange[0])}; wanted ids, as text or whole numbers")
    names = [without_dots(str(name)) for name in ids]
    outside = [name for name in names if not stays_inside(name)]
    if outside:
        raise DataError(
            f"{path}: view {view!r} has {counted(outside, 'id', repr)} that name no file inside the data folder; "
            "wanted names relative to it, such as subject-7/scan-2, without .."
        )
    return names


def _read_object(path: Path, wanted: str) -> dict[str, Any]:  # Any: JSON, checked by the caller
    try:
        with reading(path, f"JSON: {wanted}"):
            found = json.loads(path.read_bytes(), object_pairs_hook=_no_repeats)
    except (ValueError, RecursionError) as error:
        raise DataError(f"{path}: is not the JSON that was wanted: {error}; wanted {wanted}") from error
    if not isinstance(found, dict) or not found:
        what = "nothing" if not found else type(found).__name__
        raise DataError(f"{path}: holds {what}; wanted JSON: {wanted}")
    return found


def _no_repeats(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    # JSON lets the last one win, without a word: a sample would silently have another label.
    found = dict(pairs)
    if len(found) < len(pairs):
        (name, _), *_ = Counter(name for name, _ in pairs).most_common(1)
        raise ValueError(f"{name!r} is there twice")
    return found
