"""The kind `hdf5`: columns in one HDF5 file, its datasets, or groups of them, one a view."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from feedline_server.declared.datasets import Hdf5Config
from feedline_server.declared.forms import HDF5
from feedline_server.sources.arrays.formats import open_file
from feedline_server.sources.arrays.stored import check_rows, chosen, costs
from feedline_server.sources.source import Opened
from feedline_server.sources.tables.table import open_arrays, train_first
from feedline_wire.errors import DataError
from feedline_wire.listing import listed


def opened(config: Hdf5Config) -> Opened:
    """The file's columns, with views as declared, or as its groups are, or everything as one. Raises DataError."""
    path = hdf5_file(config.path)
    with open_file(path) as file:
        parts = {"": config.arrays} if config.arrays else _groups(file.names, path)
        arrays = {
            part: {column: file.stored(name) for column, name in chosen(file, names).items()}
            for part, names in parts.items()
        }
    every = [array for part in arrays.values() for array in part.values()]
    for array in every:
        check_rows(array)
    found = open_arrays(arrays, path.parent, config.views)
    return replace(found, notes=lambda: (*found.notes(), *costs(every)))


def hdf5_file(path: Path) -> Path:
    """The file that is meant: the path itself, or the only HDF5 file in this folder."""
    if not path.is_dir():
        return path
    files = sorted(file for file in path.iterdir() if file.suffix.lower() in HDF5 and not file.name.startswith("."))
    if len(files) == 1:
        return files[0]
    there = listed([file.name for file in files])
    raise DataError(f"{path}: found {there}; wanted one HDF5 file, set path to the one that is meant")


def _groups(names: Sequence[str], path: Path) -> Mapping[str, Mapping[str, str]]:
    """The datasets of each group by the last part of their names; of the file itself under the empty name."""
    groups: dict[str, dict[str, str]] = {}
    for name in names:
        group, _, column = name.rpartition("/")
        groups.setdefault(group, {})[column] = name
    if not groups:
        raise DataError(f"{path}: has no datasets in it")
    if "" in groups and len(groups) > 1:
        raise DataError(
            f"{path}: has the datasets {listed(names)}; columns are at the top or in groups, one a view, "
            'so name those that are meant, such as arrays = {x = "signals/eeg"}'
        )
    return train_first(groups)
