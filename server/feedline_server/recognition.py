"""What a folder holds, told from its names alone.

The law: a folder is recognised for certain or not at all; what could be two things is an error that says so.
"""

from collections.abc import Iterable
from pathlib import Path

from feedline_server.declaration import ColumnsConfig, DatasetConfig, IdFilesConfig
from feedline_server.sources.columns import column_folders
from feedline_wire.errors import DataError, InvalidRequest

UNDERSTOOD = (
    "a loader.toml; columns, such as x.npy and y.npy; sub-folders of columns, such as train/x.npy and "
    "validation/x.npy; or partition.json and labels.json beside ID.npy files"
)

NAMED = 8
"""Entries of a folder that a message lists."""


def recognised(folder: Path) -> DatasetConfig:
    """The declaration that a folder's names amount to; InvalidRequest saying what is there if they amount to none."""
    try:
        names = sorted(entry.name + "/" * entry.is_dir() for entry in folder.iterdir())
    except OSError as error:
        raise InvalidRequest(f"{folder}: cannot be read ({error.strerror}); wanted a folder of data") from error
    lists = {"partition.json", "labels.json"} & set(names)
    if len(lists) == 2:
        return IdFilesConfig(path=folder)
    if lists:
        (there,) = lists
        (other,) = {"partition.json", "labels.json"} - lists
        raise InvalidRequest(f"{folder}: has {there} but no {other}; wanted both, or a loader.toml that names them")
    try:
        columns = column_folders(folder)
    except DataError as error:
        raise InvalidRequest(str(error)) from error
    if not columns:
        raise InvalidRequest(f"{folder}: found {_listed(names)}; understood is {UNDERSTOOD}")
    return ColumnsConfig(path=folder)


def dataset_name(folder: Path) -> str:
    """A dataset's name from its folder's: letters, digits, `.`, `_` and `-`."""
    name = "".join(
        letter if letter.isascii() and (letter.isalnum() or letter in "._-") else "-" for letter in folder.name
    )
    return name.strip(".-_") or "data"


def _listed(names: Iterable[str]) -> str:
    listed = list(names)
    return ", ".join(listed[:NAMED]) + (f", … ({len(listed)} in all)" if len(listed) > NAMED else "") or "nothing"
