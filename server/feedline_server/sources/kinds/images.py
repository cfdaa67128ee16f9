"""The kind `images`: those that a manifest lists, `[{"image_id": …, "disease_class": …}, …]`, or the same as CSV.

An image is one sample however often it is listed, addressed by where it is listed first, and it has one
class. What a view lists twice comes twice in its epoch.
"""

from collections.abc import Iterator, Mapping, Sequence
from itertools import chain, pairwise

import numpy as np
from numpy.typing import NDArray

from feedline_server.declared.datasets import ImagesConfig
from feedline_server.declared.forms import MANIFESTS
from feedline_server.sources.files.links import data_folder, missing_files
from feedline_server.sources.files.patterns import FilePattern
from feedline_server.sources.files.sample_files import LABEL, Files, Labelling, Labels, Part, SampleFiles
from feedline_server.sources.images.classes import Classes, classes_of, empty_classes, regression_targets
from feedline_server.sources.images.manifest import USUAL, Entries, Fields, read_manifest
from feedline_server.sources.images.samples import ImageFiles
from feedline_server.sources.selection import compact, declared, leaks
from feedline_server.sources.source import Opened
from feedline_server.sources.tables.table import EVERYTHING
from feedline_server.sources.validation import Identities
from feedline_wire.errors import DataError
from feedline_wire.tensors import Array

SLOT = "{id}"


def opened(config: ImagesConfig) -> Opened:
    """The images of the manifest or manifests; DataError if a label is no class or, by `notes`, a file is missing."""
    _check_ways(config)
    manifests = _manifests(config)
    listed = list(chain.from_iterable(entries.images for entries in manifests.values()))
    names = tuple(dict.fromkeys(listed))
    sample = {name: number for number, name in enumerate(names)}
    samples = np.fromiter(map(sample.__getitem__, listed), np.int64, len(listed))  # of each entry
    classes = _classes(config, manifests)
    values = regression_targets(list(manifests.values())) if config.regression else classes.numbers if classes else None
    views = {view: compact(samples[entries]) for view, entries in _views(config, manifests).items()}
    folder = data_folder(config.path, config.data, "images")
    pattern = FilePattern(SLOT, config.files)
    labels = None
    if values is not None:
        one_hot = classes.count if classes is not None and config.one_hot else None
        labels = Labels(_of_samples(config, names, samples, values), one_hot)

    def missing() -> Iterator[str]:
        if found := missing_files(folder, names, [pattern], "manifest", follow_links=config.follow_links):
            if config.on_bad_sample == "error":
                raise DataError(
                    f"{found}; add the files, take them out of the manifest, or set `data` to the folder that has "
                    "them and `files` to how they are named"
                )
            yield found

    def gaps() -> Iterator[str]:
        if classes is not None and config.classes is None and not classes.names:
            yield from empty_classes(classes.numbers, config.path)

    try:
        images = ImageFiles(Files(folder, names, pattern, follow_links=config.follow_links), config)
    except DataError:
        tuple(missing())  # if the first file is missing, others are, and the message names them
        raise
    parts: list[Part] = [images] if labels is None else [images, labels]
    categories = {LABEL: classes.names} if classes is not None and classes.names else {}
    return Opened(
        SampleFiles(folder, names, parts),
        views,
        lambda: (*missing(), *gaps(), *images.notes(), *leaks(views, names.__getitem__)),
        [*(entries.path for entries in manifests.values()), *(f"{folder}/{pattern.of(name)}" for name in names)],
        categories,
        Identities(names),
    )


def _own_manifests(config: ImagesConfig) -> dict[str, str]:
    return {view: text for view, text in config.views.items() if text.endswith(MANIFESTS)}


def _check_ways(config: ImagesConfig) -> None:
    if config.views and config.split is not None:
        raise DataError(f"{config.path}: has views and split; images are parted in one way, leave one of them out")
    if _own_manifests(config) and config.manifest is not None:
        raise DataError(f"{config.path}: has a manifest, and views have manifests of their own; leave one out")


def _manifests(config: ImagesConfig) -> dict[str, Entries]:
    """The entries of each view that has a manifest of its own, or all of them under one name."""
    fields = Fields(config.image, config.label, config.split)
    if own := _own_manifests(config):
        return {view: read_manifest(config.path / text, fields) for view, text in own.items()}
    there = [name for name in USUAL if (config.path / name).exists()]
    if config.manifest is None and len(there) != 1:
        found = "both" if there else "neither"
        raise DataError(f"{config.path}: found {found} of {' and '.join(USUAL)}; say manifest = … or views = …")
    return {EVERYTHING: read_manifest(config.path / (config.manifest or there[0]), fields)}


def _classes(config: ImagesConfig, manifests: Mapping[str, Entries]) -> Classes | None:
    entries = list(manifests.values())
    without = [each.path for each in entries if each.labels is None]
    if not without:
        return None if config.regression else classes_of(entries, config.classes)
    if len(without) < len(entries):
        raise DataError(f"{without[0]}: has no classes, other manifests have; say label = …, or label = false")
    if declared := [key for key in ("one_hot", "classes", "regression") if getattr(config, key)]:
        raise DataError(f"{without[0]}: has no labels, but {declared[0]} is declared")
    return None


def _of_samples(config: ImagesConfig, names: Sequence[str], samples: NDArray[np.int64], values: Labelling) -> Labelling:
    """The label of each image, of those of its entries; DataError if they differ."""
    found: Array = np.empty(len(names), values.dtype)
    found[samples] = values
    two = np.flatnonzero(found[samples] != values)
    if len(two):
        sample = int(samples[two[0]])
        both = sorted(set(values[samples == sample].tolist()))
        raise DataError(f"{config.path}: {names[sample]!r} is listed with the labels {both}; an image has one")
    return found


def _views(config: ImagesConfig, manifests: Mapping[str, Entries]) -> dict[str, NDArray[np.int64]]:
    """The entries of each view; entries are numbered manifest after manifest."""
    ends = np.cumsum([0, *map(len, manifests.values())]).tolist()
    everything = np.arange(ends[-1])
    if config.split is not None:
        splits = list(chain.from_iterable(entries.splits or () for entries in manifests.values()))
        of = np.array(splits)
        return {view: np.flatnonzero(of == view) for view in dict.fromkeys(splits)}
    if config.views and not _own_manifests(config):
        parts = {view: declared(view, text, ends[-1], config.path) for view, text in config.views.items()}
        return {view: everything[np.asarray(part)] for view, part in parts.items()}
    return {view: everything[slice(*part)] for view, part in zip(manifests, pairwise(ends), strict=True)}
