"""What a folder holds, told from its names alone.

A folder is recognised for certain or not at all; what could be two things is an error that says so.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from feedline_server.declared.datasets import (
    ArrowConfig,
    ColumnsConfig,
    Declaration,
    Hdf5Config,
    IdFilesConfig,
    ImagesConfig,
    SubjectsConfig,
)
from feedline_server.declared.forms import ARRAYS, ARROW, HDF5, is_object_name
from feedline_server.sources.images.manifest import USUAL as USUAL_MANIFESTS
from feedline_server.sources.kinds.arrow import arrow_files
from feedline_server.sources.kinds.columns import column_folders
from feedline_wire.errors import DataError, InvalidRequest
from feedline_wire.listing import listed

UNDERSTOOD = (
    "a loader.toml; columns, such as x.npy and y.npy; sub-folders of columns, such as train/x.npy and "
    "validation/x.npy; partition.json and labels.json beside ID.npy files; one HDF5 file; several .npz or HDF5 files, "
    "one a subject; Arrow or Parquet files; or manifest.json or manifest.csv with a list of images. Of a CSV or a "
    "single .npz, `feedline convert` makes columns. Folders of classes are declared: kind = class_folders"
)


def recognised(path: Path) -> Declaration:
    """The declaration that a folder's names amount to; InvalidRequest saying what is there if they amount to none.

    A path that is a file is what its suffix says.
    """
    if path.is_file():
        return _file(path)
    try:
        entries = sorted(path.iterdir())
    except OSError as error:
        raise InvalidRequest(f"{path}: cannot be read ({error.strerror}); wanted a folder of data") from error
    if found := _lists(path, [entry.name for entry in entries]):
        return found
    try:
        columns = column_folders(path)
    except DataError as error:
        raise InvalidRequest(str(error)) from error
    if columns:
        return ColumnsConfig(path=path)
    files = [entry for entry in entries if entry.is_file() and not entry.name.startswith(".")]
    if found := _by_suffix(path, [file.suffix.lower() for file in files]):
        return found
    if {entry.name for entry in entries} & set(USUAL_MANIFESTS):
        return ImagesConfig(path=path)
    names = [entry.name + "/" * entry.is_dir() for entry in entries]
    raise InvalidRequest(f"{path}: found {listed(names)}; understood is {UNDERSTOOD}")


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


def _file(path: Path) -> Declaration:
    suffix = path.suffix.lower()
    if suffix in HDF5:
        return Hdf5Config(path=path)
    if suffix in ARROW:
        return ArrowConfig(path=path)
    if suffix == ".py":
        raise InvalidRequest(f"{path}: is a module; name the object in it that is served: {path}:NAME")
    if suffix in (".npz", ".csv"):
        raise InvalidRequest(f"{path}: make columns of it first: feedline convert {path} {path.with_suffix('')}")
    wanted = ", ".join((*HDF5, *ARROW))
    raise InvalidRequest(
        f"{path}: is a file; wanted a loader.toml, a folder of data, such as {path.parent}, or a file of {wanted}"
    )


def _lists(folder: Path, names: Sequence[str]) -> Declaration | None:
    """Files named by the ids of lists, if there are both lists."""
    lists = {"partition.json", "labels.json"} & set(names)
    if len(lists) == 2:
        return IdFilesConfig(path=folder)
    if not lists:
        return None
    (there,) = lists
    (other,) = {"partition.json", "labels.json"} - lists
    raise InvalidRequest(f"{folder}: has {there} but no {other}; wanted both, or a loader.toml that names them")


def _by_suffix(folder: Path, suffixes: Sequence[str]) -> Declaration | None:
    """What files of one kind amount to: other kinds of arrays beside them could be meant as well."""
    known = [suffix for suffix in suffixes if suffix in (*ARRAYS, *ARROW)]
    if not known:
        return _arrow_views(folder)
    if all(suffix in ARROW for suffix in known):
        return ArrowConfig(path=folder)
    if len(known) == 1 and known[0] in HDF5:
        return Hdf5Config(path=folder)
    if len(known) > 1 and len(set(known)) == 1:
        return SubjectsConfig(path=folder)
    return None


def _arrow_views(folder: Path) -> Declaration | None:
    """Sub-folders of Arrow or Parquet files, which no other kind has."""
    try:
        arrow_files(folder)
    except DataError:
        return None
    return ArrowConfig(path=folder)
