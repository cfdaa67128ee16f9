"""What a folder holds, told from names, and from first bytes where a name has no suffix.

A folder is recognised for certain or not at all; what could be two things is an error that spells out both.
"""

import os
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

from feedline_server.declared.datasets import KINDS, kind_of
from feedline_server.declared.forms import ARROW, HDF5, is_object_name
from feedline_server.sources.arrays.suffixes import format_of, is_hidden
from feedline_server.sources.images.header import FORMATS as IMAGES
from feedline_server.sources.images.manifest import USUAL as USUAL_MANIFESTS
from feedline_server.sources.kinds.arrow import arrow_files
from feedline_server.sources.kinds.columns import column_folders
from feedline_server.sources.tables.names import inputs_and_targets, is_view
from feedline_wire.errors import DataError, InvalidRequest
from feedline_wire.listing import listed

UNDERSTOOD = (
    "a loader.toml; columns, such as x.npy and y.npy; sub-folders of columns, such as train/x.npy and "
    "validation/x.npy; partition.json and labels.json beside ID.npy files; one HDF5 file; several .npz or HDF5 files, "
    "one a subject; Arrow or Parquet files; manifest.json or manifest.csv with a list of images; or folders of two "
    "classes or more, such as cat/1.jpg and dog/2.jpg, also below train/ and validation/. Of a CSV or a single .npz, "
    "`feedline convert` makes columns"
)

ARRAYS = (".npy", ".npz", ".h5")
TABLES = (".parquet", ".arrow")

LOOKED_AT = 1000
"""Files of a sub-folder that are looked at to tell what it is."""

BELOW = 3
"""Folders of a sub-folder that are looked into for the same."""


@dataclass(frozen=True, slots=True)
class Reading:
    """What a folder may be, and what shows it."""

    kind: str | None
    """None: nothing that is served as it is."""
    shown_by: str


@dataclass(frozen=True, slots=True)
class Census:
    """What is in a folder, but for what is hidden."""

    formats: Mapping[str, str]
    """Of each file (arrays/suffixes)."""
    folders: Sequence[str]

    def of(self, *formats: str) -> list[str]:
        """The files of these formats."""
        return [name for name, is_of in self.formats.items() if is_of in formats]


def recognised_kind(path: Path, keys: Iterable[str]) -> str:
    """The kind that a folder or file amounts to, unless `keys` of loader.toml are those of another.

    InvalidRequest if neither tells.
    """
    told = kind_of(keys)
    try:
        kind = recognised(path)
    except InvalidRequest:
        if told is not None:
            return told
        raise
    is_of_it = set(keys) <= {one.name for one in KINDS[kind].fields()}
    return kind if is_of_it or told is None else told


def recognised(path: Path) -> str:
    """The kind that a folder amounts to, or a file; InvalidRequest saying what is there if that is none, or several."""
    if path.is_file():
        return _file(path)
    try:
        here = _census(path)
        found = list(_readings(path, here))
    except OSError as error:
        raise InvalidRequest(f"{path}: cannot be read ({error.strerror}); wanted a folder of data") from error
    except DataError as error:
        raise InvalidRequest(str(error)) from error
    kinds = [reading.kind for reading in found if reading.kind is not None]
    if len(found) == 1 and kinds:
        return kinds[0]
    if not kinds:
        names = sorted([*here.formats, *(f"{name}/" for name in here.folders)])
        raise InvalidRequest(f"{path}: found {listed(names)}; understood is {UNDERSTOOD}")
    could_be = " or ".join(f"{reading.kind or 'neither'} ({reading.shown_by})" for reading in found)
    lines = " or ".join(f'kind = "{kind}" (--kind {kind})' for kind in dict.fromkeys(kinds))
    raise InvalidRequest(f"{path}: could be {could_be}; say which, {lines}, or move away what is not meant")


def _census(folder: Path, most: int | None = None) -> Census:
    formats: dict[str, str] = {}
    folders: list[str] = []
    with os.scandir(folder) as entries:
        for entry in islice(entries, most):
            if entry.is_dir():
                folders += [] if is_hidden(entry.name) else [entry.name]
            elif entry.is_file() and not is_hidden(entry.name):
                formats[entry.name] = format_of(entry.path)
    return Census(dict(sorted(formats.items())), sorted(folders))


def _readings(path: Path, here: Census) -> Iterator[Reading]:
    """All that a folder may be."""
    lists = {"partition.json", "labels.json"} & here.formats.keys()
    if len(lists) == 2:
        yield Reading("id_files", "partition.json and labels.json name its files")
        return
    if lists:
        (there,) = lists
        (other,) = {"partition.json", "labels.json"} - lists
        raise InvalidRequest(f"{path}: has {there} but no {other}; wanted both, or a loader.toml that names them")
    if columns := here.of(".npy"):
        column_folders(path)  # says what is in it twice
        yield Reading("columns", f"{columns[0]} is a column")
    archives = {suffix: here.of(suffix) for suffix in (".npz", ".h5")}
    for suffix, files in archives.items():
        if len(files) > 1:
            yield Reading("subjects", f"{len(files)} {suffix} files, such as {files[0]}, are a subject each")
        elif files and suffix == ".h5":
            yield Reading("hdf5", f"{files[0]} holds columns")
        elif files:
            yield Reading(None, f"{files[0]}, of which `feedline convert` makes columns")
    inside = {name: _census(path / name, LOOKED_AT) for name in here.folders}
    if tables := here.of(*TABLES):
        yield Reading("arrow", f"{tables[0]} holds columns")
    elif any("=" in name or found.of(*TABLES) for name, found in inside.items()):
        yield from _tables_of_folders(path)
    manifests = [name for name in USUAL_MANIFESTS if name in here.formats]
    if manifests:
        yield Reading("images", f"{manifests[0]} lists images")
        return
    yield from _classes(path, inside)
    if not (columns or tables or any(archives.values())):  # beside those, arrays in sub-folders are lists and tables
        yield from _readings_of_arrays(inside)


def _classes(path: Path, inside: Mapping[str, Census]) -> Iterator[Reading]:
    """Whether sub-folders are classes, or views that hold class folders, by what is in them."""
    below = {
        name: [(folder, _census(path / name / folder, LOOKED_AT)) for folder in found.folders[:BELOW]]
        for name, found in inside.items()
    }
    views = [name for name, found in inside.items() if is_view(name) and found.folders and not found.of(*ARRAYS)]
    pictures = [name for name, found in inside.items() if found.of(*IMAGES)]
    pictures += [name for name in inside if name not in pictures and any(one.of(*IMAGES) for _, one in below[name])]
    deep = [f"{name}/{folder}" for name in views for folder, one in below[name] if one.of(*IMAGES, *ARRAYS)]
    if deep:
        yield Reading("class_folders", f"{deep[0]}/ holds files of a class of the view {deep[0].partition('/')[0]}")
    elif len(pictures) > 1:
        yield Reading("class_folders", f"{listed(f'{name}/' for name in pictures)} hold images of a class each")


def _readings_of_arrays(inside: Mapping[str, Census]) -> Iterator[Reading]:
    """What sub-folders of files of arrays may be: views with columns, classes, or subjects."""
    files = {name: found.of(*ARRAYS) for name, found in inside.items() if found.of(*ARRAYS)}
    if not files:
        return
    formats = Counter(inside[name].formats[file] for name, of in files.items() for file in of)
    is_alike = len({frozenset(of) for of in files.values()}) == 1
    (first, (example, *_)), *_ = files.items()
    if set(formats) == {".npy"}:
        names = [file.rpartition(".")[0] for file in files[first]]
        if any(map(is_view, files)) or len(files) == 1 or (is_alike and all(inputs_and_targets(names))):
            yield Reading("columns", f"{first}/{example} is a column of the view {first}")
            return
        if is_alike and len(names) == 1:
            yield Reading("columns", f"{first}/{example} is a column of the view {first}")
    if len(files) > 1:
        yield Reading("class_folders", f"{first}/{example} is a sample of the class {first}")
        if is_alike:
            yield Reading("subjects", f'files = "{{subject}}/{example}"')


def python_object(path: Path) -> tuple[str, dict[str, Any]] | None:
    """The name and the declaration of the Python object that `module:name` or `folder/module.py:name` means.

    None if it means a file or folder; InvalidRequest if it is nearly an object.
    """
    file, colon, name = str(path).rpartition(":")
    if not colon or path.exists():
        return None
    folder, module = Path(file).absolute().parent, Path(file).name.removesuffix(".py")
    while (folder / "__init__.py").is_file():  # a module of a package imports its neighbours by the package's name
        folder, module = folder.parent, f"{folder.name}.{module}"
    if not is_object_name(f"{module}:{name}"):
        raise InvalidRequest(
            f"{path}: is no file or folder, and no module:name either; wanted my_classes:training_generator, or "
            "folder/my_classes.py:training_generator, of letters, digits and _"
        )
    return dataset_name(Path(module)), {"kind": "python", "path": str(folder), "object": f"{module}:{name}"}


def dataset_name(folder: Path) -> str:
    """A dataset's name from its folder's: letters, digits, `.`, `_` and `-`."""
    name = "".join(
        letter if letter.isascii() and (letter.isalnum() or letter in "._-") else "-" for letter in folder.name
    )
    return name.strip(".-_") or "data"


def _file(path: Path) -> str:
    match format_of(path):
        case ".h5":
            return "hdf5"
        case ".parquet" | ".arrow":
            return "arrow"
        case ".py":
            raise InvalidRequest(f"{path}: is a module; name the object in it that is served: {path}:NAME")
        case ".npz" | ".csv":
            raise InvalidRequest(f"{path}: make columns of it first: feedline convert {path} {path.with_suffix('')}")
    wanted = ", ".join((*HDF5, *ARROW))
    raise InvalidRequest(
        f"{path}: is a file; wanted a loader.toml, a folder of data, such as {path.parent}, or a file of {wanted}"
    )


def _tables_of_folders(folder: Path) -> Iterator[Reading]:
    """Sub-folders of Arrow or Parquet files, or folders that are values of a column."""
    try:
        files = next(iter(arrow_files(folder).values()))
    except DataError:
        return
    yield Reading("arrow", f"{files[0].path.relative_to(folder)} holds columns")
