"""The kind `class_folders`: files in a folder a class, `root/CLASS/*` or `root/VIEW/CLASS/*`, of arrays or of images.

Classes and samples are found as Keras' DirectoryIterator finds them, so a class has the number, and a view the
samples, that they have there: both sorted by name, files of sub-folders below their class. Hidden ones are left out.
"""

import os
from collections.abc import Iterator, Mapping, Sequence
from itertools import pairwise
from pathlib import Path

import numpy as np

from feedline_server.declared.datasets import ClassFoldersConfig
from feedline_server.declared.forms import ARRAYS
from feedline_server.sources.arrays.npy import reading
from feedline_server.sources.files.array_files import ArrayFiles
from feedline_server.sources.files.links import check_inside
from feedline_server.sources.files.patterns import FilePattern, file_patterns
from feedline_server.sources.files.sample_files import Files, Labels, Part, SampleFiles
from feedline_server.sources.images import header as image_header
from feedline_server.sources.images.samples import ImageFiles
from feedline_server.sources.kinds.columns import LOST
from feedline_server.sources.selection import Selection, join
from feedline_server.sources.source import Opened
from feedline_server.sources.tables.table import EVERYTHING
from feedline_wire.errors import DataError
from feedline_wire.listing import listed

SLOT = "{name}"

KINDS = {"arrays": ARRAYS, "images": image_header.SUFFIXES}
"""What files may be, and how their names then end."""

FOREIGN = (".tif", ".tiff", ".ppm", ".pgm", ".gif")
"""Of images that Keras or others would take, and that are not decoded here: leaving them out must not go unnoticed."""


def opened(config: ClassFoldersConfig) -> Opened:
    """The files of all classes, with views as sub-folders, as a part of each class, or everything as one."""
    roots = {view: config.path / name for view, name in config.views.items()} or {EVERYTHING: config.path}
    if config.views and config.validation_split is not None:
        raise DataError(
            f"{config.path}: has both views and validation_split = {config.validation_split}; "
            "samples are split by sub-folders or by a share of each class, leave one of them out"
        )
    found = {view: _class_folders(root, config.classes) for view, root in roots.items()}
    classes = config.classes or tuple(sorted(set().union(*found.values())))
    names: list[str] = []
    left_out: list[str] = []
    ends = [0]  # of each class of each view
    suffixes = tuple(suffix for kind in KINDS if config.of in {kind, None} for suffix in KINDS[kind])
    for view, root in roots.items():
        for name in classes:
            folder = root / name
            if name in found[view]:
                for file in _files(config.path, folder, (*suffixes, *FOREIGN), follow_links=config.follow_links):
                    (left_out if file.lower().endswith(FOREIGN) else names).append(file)
            ends.append(len(names))
    if not names:
        raise DataError(
            f"{config.path}: found no {', '.join(suffixes)} file in {listed(classes)}; "
            "wanted files in a folder for each class"
        )
    parts = [range(*part) for part in pairwise(ends)]  # a part a class, view by view
    counts = np.array([len(part) for part in parts]).reshape(len(roots), len(classes))
    labels = np.repeat(np.tile(np.arange(len(classes)), len(roots)), counts.reshape(-1))
    labelled = Labels(labels.astype(np.int64), len(classes) if config.one_hot else None)
    source = SampleFiles(config.path, names, [*_parts(config, names), labelled])
    views = _views(roots, parts, config.validation_split)
    if empty := [view for view, selection in views.items() if not len(selection)]:
        raise DataError(f"{config.path}: view {empty[0]!r} has no samples; give it some or remove it")
    return Opened(
        source,
        views,
        lambda: (*_foreign(config.path, left_out), *_notes(roots, classes, counts.tolist())),
        dict(zip(classes, counts.sum(axis=0).tolist(), strict=True)),
    )


def _parts(config: ClassFoldersConfig, names: Sequence[str]) -> Sequence[Part]:
    """What reads the files; DataError if some are arrays and some are images, or not what is declared about them."""
    firsts: dict[str, str] = {}
    for kind, suffixes in KINDS.items():
        if first := next((name for name in names if name.lower().endswith(suffixes)), ""):
            firsts[kind] = first
    if len(firsts) > 1:
        raise DataError(
            f"{config.path}: has arrays ({firsts['arrays']}) and images ({firsts['images']}); "
            'say of = "arrays" or of = "images"'
        )
    if "images" in firsts:
        if config.arrays is not None:
            raise DataError(
                f"{config.path}: the files are images ({firsts['images']}); arrays = … is for files of arrays"
            )
        return [ImageFiles(Files(config.path, names, FilePattern(SLOT, SLOT)), config)]
    if for_images := config.set_image_fields:
        raise DataError(f"{config.path}: the files are arrays ({firsts['arrays']}); {for_images[0]} = … is for images")
    patterns = file_patterns(SLOT, {"": SLOT}, config.arrays)
    return [ArrayFiles(Files(config.path, names, pattern)) for pattern in patterns]


def _views(roots: Mapping[str, Path], parts: Sequence[range], share: float | None) -> dict[str, Selection]:
    """What each view holds of the parts, which are one a class for each root."""
    if share is None:
        each = len(parts) // len(roots)
        return {view: join(parts[place * each : (place + 1) * each]) for place, view in enumerate(roots)}
    cuts = [int(share * len(part)) for part in parts]  # rounded as Keras does
    both = list(zip(parts, cuts, strict=True))
    return {
        EVERYTHING: join(part[cut:] for part, cut in both),
        "validation": join(part[:cut] for part, cut in both),
    }


def _class_folders(root: Path, declared: tuple[str, ...] | None) -> set[str]:
    with reading(root, "a folder with one for each class"):
        found = {entry.name for entry in root.iterdir() if entry.is_dir() and not _is_left_out(entry.name)}
    if not found:
        raise DataError(f"{root}: has no sub-folders; wanted one for each class")
    if declared is None:
        return found
    if missing := [name for name in declared if name not in found]:
        raise DataError(f"{root}: has no folder for the class {missing[0]!r}; it has {listed(sorted(found))}")
    return found & set(declared)


def _files(base: Path, folder: Path, suffixes: tuple[str, ...], *, follow_links: bool) -> Iterator[str]:
    """The files of a class, relative to `base`, in Keras' order."""
    if not follow_links:
        check_inside(base, folder)
    found: dict[str, list[str]] = {}
    _list_into(found, base, str(folder), suffixes, follow_links=follow_links, above=())
    for inside in sorted(found):
        below = inside.removeprefix(f"{base}/")
        yield from (f"{below}/{name}" for name in sorted(found[inside]))


def _list_into(
    found: dict[str, list[str]],
    base: Path,
    folder: str,
    suffixes: tuple[str, ...],
    *,
    follow_links: bool,
    above: tuple[str, ...],
) -> None:
    """Add the names of the files in this folder, and in all below it, to `found`; `above` are the folders it is in."""
    real = os.path.realpath(folder)
    if real in above:
        raise DataError(f"{folder}: is a link to a folder that it is in; remove it")
    names = found[folder] = []
    with reading(Path(folder), "the files of a class"), os.scandir(folder) as entries:
        for entry in entries:
            is_folder = entry.is_dir()
            if _is_left_out(entry.name) or not (is_folder or entry.name.lower().endswith(suffixes)):
                continue
            if not follow_links and entry.is_symlink():
                check_inside(base, entry.path)
            if is_folder:
                _list_into(found, base, entry.path, suffixes, follow_links=follow_links, above=(*above, real))
            else:
                names.append(entry.name)


def _is_left_out(name: str) -> bool:
    return name.startswith(".") or name == LOST


def _foreign(base: Path, names: Sequence[str]) -> Iterator[str]:
    if names:
        yield (
            f"{base}: left out are {listed(names)}; convert them to PNG, or serve them with a function of your own "
            "(kind = python)"
        )


def _notes(roots: Mapping[str, Path], classes: Sequence[str], counts: Sequence[Sequence[int]]) -> Iterator[str]:
    for (view, root), row in zip(roots.items(), counts, strict=True):
        without = [name for name, count in zip(classes, row, strict=True) if not count]
        if without:
            yield f"view {view!r} has no files of {len(without)} of {len(classes)} classes in {root}: {listed(without)}"
