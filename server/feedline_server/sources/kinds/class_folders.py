"""The kind `class_folders`: files in a folder a class, `root/CLASS/*` or `root/VIEW/CLASS/*`, of arrays or of images.

Sub-folders called `train`, `validation`, `test` and the like that hold class folders are views, never classes.

Classes and samples are found as Keras' DirectoryIterator finds them, so a class has the number, and a view the
samples, that they have there: both sorted by name, files of sub-folders below their class. Hidden ones are left out.
"""

import json
import os
from collections.abc import Collection, Iterator, Mapping, Sequence
from itertools import pairwise
from pathlib import Path

import numpy as np

from feedline_server.declared.datasets import ClassFoldersConfig
from feedline_server.host.progress import OPENING
from feedline_server.sources.arrays.npy import reading
from feedline_server.sources.arrays.suffixes import format_of, is_hidden
from feedline_server.sources.files.array_files import ArrayFiles
from feedline_server.sources.files.left_out import left_out
from feedline_server.sources.files.links import check_inside
from feedline_server.sources.files.patterns import FilePattern, file_patterns
from feedline_server.sources.files.sample_files import LABEL, Files, Labels, Part, SampleFiles
from feedline_server.sources.images import header as image_header
from feedline_server.sources.images.samples import ImageFiles
from feedline_server.sources.selection import Selection, join
from feedline_server.sources.source import Opened
from feedline_server.sources.tables.names import is_view
from feedline_server.sources.tables.table import EVERYTHING, train_first
from feedline_server.sources.validation import Identities
from feedline_wire.errors import DataError
from feedline_wire.listing import listed

SLOT = "{name}"

KINDS = {"arrays": frozenset({".npy", ".npz", ".h5"}), "images": image_header.FORMATS}
"""What files may be."""


def opened(config: ClassFoldersConfig) -> Opened:
    """The files of all classes, with views as sub-folders, or everything as one."""
    roots = {view: config.path / name for view, name in (config.views or _views_here(config)).items()} or {
        EVERYTHING: config.path
    }
    found = {view: _class_folders(root, config.classes) for view, root in roots.items()}
    classes = config.classes or tuple(sorted(set().union(*found.values())))
    names: list[str] = []
    ends = [0]  # of each class of each view
    formats = frozenset().union(*(KINDS[kind] for kind in KINDS if config.of in {kind, None}))
    for view, root in roots.items():
        for name in classes:
            if name in found[view]:
                names += _files(config.path, root / name, formats, follow_links=config.follow_links)
            ends.append(len(names))
    if not names:
        there = "; ".join(left_out(config.path, ())) or f"{config.path}: has no files of data"
        raise DataError(
            f"{there}. Wanted {', '.join(sorted(formats))} files in a folder for each class ({listed(classes)})"
        )
    parts = [range(*part) for part in pairwise(ends)]  # a part a class, view by view
    counts = np.array([len(part) for part in parts]).reshape(len(roots), len(classes))
    labels = np.repeat(np.tile(np.arange(len(classes)), len(roots)), counts.reshape(-1))
    labelled = Labels(labels.astype(np.int64), len(classes) if config.one_hot else None)
    read = _parts(config, names)
    source = SampleFiles(config.path, names, [*read, labelled])
    views = _views(roots, parts)
    if empty := [view for view, selection in views.items() if not len(selection)]:
        raise DataError(f"{config.path}: view {empty[0]!r} has no samples; give it some or remove it")
    return Opened(
        source,
        views,
        lambda: (
            *(note for part in read if isinstance(part, ImageFiles) for note in part.notes()),
            *_numbering(config, classes),
            *_notes(roots, classes, counts.tolist()),
        ),
        names,
        {LABEL: classes},
        Identities(names),
    )


def _views_here(config: ClassFoldersConfig) -> dict[str, str]:
    """The sub-folders that are views by their names and hold class folders; empty if all are classes.

    DataError where that is not clear.
    """
    if config.classes is not None or not config.path.is_dir():
        return {}
    inside = _folders(config.path)
    views = [name for name in inside if is_view(name)]
    full = [name for name in views if _folders(config.path / name)]
    if full == inside:
        return dict(train_first({name: name for name in views}))
    if not full and views != inside:  # a class may be called "train"
        return {}
    declared = ", ".join(f"{json.dumps(name)} = {json.dumps(name)}" for name in full or views)
    empty = [name for name in views if name not in full]
    raise DataError(
        f"{config.path}: "
        + (
            f"{listed(f'{name}/' for name in empty)} is called as a view and has no class folders"
            if empty
            else f"{listed(f'{name}/' for name in full)} hold class folders, as views do, and "
            f"{listed(f'{name}/' for name in inside if name not in full)} is no view's name"
        )
        + f"; say which are views, views = {{{declared}}}, or which are classes, classes = {json.dumps(inside)}"
    )


def _folders(root: Path) -> list[str]:
    with reading(root, "a folder with one for each class"):
        return sorted(entry.name for entry in root.iterdir() if entry.is_dir() and not is_hidden(entry.name))


def _parts(config: ClassFoldersConfig, names: Sequence[str]) -> Sequence[Part]:
    """What reads the files; DataError if some are arrays and some are images, or not what is declared about them."""
    firsts: dict[str, str] = {}
    for name in names:
        kind = "images" if format_of(f"{config.path}/{name}") in KINDS["images"] else "arrays"
        firsts.setdefault(kind, name)
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
        files = Files(config.path, names, FilePattern(SLOT, SLOT), follow_links=config.follow_links)
        return [ImageFiles(files, config)]
    if for_images := config.set_image_fields:
        raise DataError(f"{config.path}: the files are arrays ({firsts['arrays']}); {for_images[0]} = … is for images")
    patterns = file_patterns(SLOT, {"": SLOT}, config.arrays)
    return [ArrayFiles(Files(config.path, names, pattern, follow_links=config.follow_links)) for pattern in patterns]


def _views(roots: Collection[str], parts: Sequence[range]) -> dict[str, Selection]:
    """What each view holds of the parts, which are one a class for each root."""
    each = len(parts) // len(roots)
    return {view: join(parts[place * each : (place + 1) * each]) for place, view in enumerate(roots)}


def _class_folders(root: Path, declared: tuple[str, ...] | None) -> set[str]:
    found = set(_folders(root))
    if not found:
        raise DataError(f"{root}: has no sub-folders; wanted one for each class")
    if declared is None:
        return found
    if missing := [name for name in declared if name not in found]:
        raise DataError(f"{root}: has no folder for the class {missing[0]!r}; it has {listed(sorted(found))}")
    return found & set(declared)


def _files(base: Path, folder: Path, formats: Collection[str], *, follow_links: bool) -> Iterator[str]:
    """The files of a class, relative to `base`, in Keras' order."""
    if not follow_links:
        check_inside(base, folder)
    found: dict[str, list[str]] = {}
    _list_into(found, base, str(folder), formats, follow_links=follow_links, above=())
    for inside in sorted(found):
        below = inside.removeprefix(f"{base}/")
        yield from (f"{below}/{name}" for name in sorted(found[inside]))


def _list_into(
    found: dict[str, list[str]],
    base: Path,
    folder: str,
    formats: Collection[str],
    *,
    follow_links: bool,
    above: tuple[str, ...],
) -> None:
    """Add the names of the files in this folder, and in all below it, to `found`; `above` are the folders it is in."""
    OPENING.note(f"the files in {folder}")
    real = os.path.realpath(folder)
    if real in above:
        raise DataError(f"{folder}: is a link to a folder that it is in; remove it")
    names = found[folder] = []
    with reading(Path(folder), "the files of a class"), os.scandir(folder) as entries:
        for entry in entries:
            is_folder = entry.is_dir()
            if is_hidden(entry.name):
                continue
            if not follow_links and entry.is_symlink():
                check_inside(base, entry.path)
            if is_folder:
                _list_into(found, base, entry.path, formats, follow_links=follow_links, above=(*above, real))
            elif format_of(entry.path) in formats:
                names.append(entry.name)


def _numbering(config: ClassFoldersConfig, classes: Sequence[str]) -> Iterator[str]:
    """A remark where folders are named by other numbers than theirs."""
    if config.classes is None and all(name.isdecimal() for name in classes):
        other = [f"{name}/ is class {number}" for number, name in enumerate(classes) if int(name) != number]
        if other:
            in_order = json.dumps(sorted(classes, key=int))
            yield (
                f"{config.path}: classes are numbered as the names of their folders are sorted, as in Keras: "
                f"{listed(other)}; to number them in the order of numbers, declare classes = {in_order}"
            )


def _notes(roots: Mapping[str, Path], classes: Sequence[str], counts: Sequence[Sequence[int]]) -> Iterator[str]:
    for (view, root), row in zip(roots.items(), counts, strict=True):
        without = [name for name, count in zip(classes, row, strict=True) if not count]
        if without:
            yield f"view {view!r} has no files of {len(without)} of {len(classes)} classes in {root}: {listed(without)}"
