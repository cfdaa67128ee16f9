"""The kind `id_files`: files named by ids, with a partition (view: ids) and labels (id: class).

The layout of the well-known Keras data generator tutorial: `x` is the array in `ID.npy`, `y` the label of ID. A sample
may as well have an archive of several arrays, or several files. A list names samples, never places: an id leads to a
file below the folder, or it is refused.
"""

from collections.abc import Iterator
from functools import partial
from pathlib import Path

from feedline_server.declared.datasets import IdFilesConfig
from feedline_server.sources.files.array_files import ArrayFiles
from feedline_server.sources.files.links import data_folder, missing_files
from feedline_server.sources.files.partition import addresses, classes_of, read_labels, read_partition
from feedline_server.sources.files.patterns import file_patterns
from feedline_server.sources.files.sample_files import Files, Labels, Part, SampleFiles
from feedline_server.sources.images.classes import empty_classes
from feedline_server.sources.selection import leaks
from feedline_server.sources.source import Opened
from feedline_server.sources.validation import Identities
from feedline_wire.errors import DataError

SLOT = "{id}"

USUAL = ("{id}.npy", "{id}.npz")
"""How files are named when that is not declared: the first that the first id has."""


def opened(config: IdFilesConfig) -> Opened:
    """The files that the partition names; DataError if one has no usable label, or, by `notes`, is missing."""
    folder = data_folder(config.path, config.data, "data")
    ids, views = addresses(read_partition(config.path / config.partition))
    labels: list[Part] = []
    classes = None
    if config.labels is not None:
        path = config.path / config.labels
        classes = classes_of(ids, read_labels(path), path, config.classes)
        labels = [Labels(classes, (config.classes or int(classes.max()) + 1) if config.one_hot else None)]
    patterns = file_patterns(SLOT, config.files or {"": _usual(folder, ids[0])}, config.arrays)
    missing = partial(missing_files, folder, ids, patterns, "partition", follow_links=config.follow_links)

    def notes() -> Iterator[str]:
        if text := missing():
            raise DataError(f"{text}; add the files, take the ids out, or set `data` to the folder that has them")
        if classes is not None and config.classes is None:
            yield from empty_classes(classes, config.path)
        yield from leaks(views, ids.__getitem__)

    try:
        files = [ArrayFiles(Files(folder, ids, pattern, follow_links=config.follow_links)) for pattern in patterns]
    except DataError:
        tuple(notes())  # if the first file is missing, others are, and the message names them
        raise
    read = [f"{folder}/{pattern.of(name)}" for pattern in patterns for name in ids]
    lists = [config.path / name for name in (config.partition, config.labels) if name is not None]
    source = SampleFiles(folder, ids, [*files, *labels])
    return Opened(source, views, notes, [*lists, *read], identities=Identities(ids))


def _usual(folder: Path, name: str) -> str:
    return next((pattern for pattern in USUAL if (folder / pattern.replace(SLOT, name)).exists()), USUAL[0])
