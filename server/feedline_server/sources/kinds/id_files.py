"""Files named by ids, with a partition (view: ids) and labels (id: class).

The layout of the well-known Keras data generator tutorial: `x` is the array in `ID.npy`, `y` the label of ID. A sample
may as well have an archive of several arrays, or several files.

The law: a list names samples, never places: an id leads to a file below the folder, or it is refused.
"""

from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path

import numpy as np

from feedline_server.declared.datasets import IdFilesConfig
from feedline_server.sources.files.array_files import array_files
from feedline_server.sources.files.links import missing_files
from feedline_server.sources.files.partition import addresses, classes_of, read_labels, read_partition
from feedline_server.sources.files.patterns import FilePattern, file_patterns
from feedline_server.sources.files.sample_files import Labels, SampleFiles
from feedline_server.sources.selection import leaks
from feedline_server.sources.source import Opened
from feedline_wire.errors import DataError
from feedline_wire.listing import counted

SLOT = "{id}"

USUAL = ("{id}.npy", "{id}.npz")
"""How files are named when nobody says: the first that the first id has."""


def opened(config: IdFilesConfig) -> Opened:
    """The files that the partition names; DataError if one has no usable label, or, by `notes`, is missing."""
    folder = data_folder(config)
    ids, views = addresses(read_partition(config.path / config.partition))
    labels, counts = _labels(config, ids)
    where = file_patterns(SLOT, config.files or {"": _usual(folder, ids[0])}, config.arrays)
    check = partial(_check_files, folder, ids, where, follow_links=config.follow_links)
    try:
        source = SampleFiles(folder, ids, array_files(folder, ids, where), labels)
    except DataError:
        check()  # if the first file is missing, others are, and the message names them
        raise

    def notes() -> Iterator[str]:
        check()
        yield from leaks(views, ids.__getitem__)

    return Opened(source, views, notes, counts)


def data_folder(config: IdFilesConfig) -> Path:
    """Where the files are."""
    if config.data is not None:
        return config.path / config.data
    inside = config.path / "data"
    return inside if inside.is_dir() else config.path


def _labels(config: IdFilesConfig, ids: Sequence[str]) -> tuple[Labels | None, Mapping[str, int]]:
    """The label of each id, and how many samples each class has."""
    if config.labels is None:
        return None, {}
    path = config.path / config.labels
    labels = classes_of(ids, read_labels(path), path, config.classes)
    one_hot = None
    if config.one_hot:
        one_hot = config.classes if config.classes is not None else int(labels.max()) + 1
    found, counts = np.unique(labels, return_counts=True)
    return Labels(labels, one_hot), dict(zip(map(str, found.tolist()), counts.tolist(), strict=True))


def _usual(folder: Path, name: str) -> str:
    return next((pattern for pattern in USUAL if (folder / pattern.replace(SLOT, name)).exists()), USUAL[0])


def _check_files(folder: Path, ids: Sequence[str], where: Sequence[FilePattern], *, follow_links: bool) -> None:
    """DataError naming the ids without a file."""
    for place in where:
        missing = missing_files(folder, [place.of(name) for name in ids], follow_links=follow_links)
        if missing:
            names = [ids[number] for number in missing]
            raise DataError(
                f"{folder}: no file for {counted(names, 'id', repr)} of the partition, wanted {place.of(names[0])}; "
                "add the files, take the ids out, or set `data` to the folder that has them"
            )
