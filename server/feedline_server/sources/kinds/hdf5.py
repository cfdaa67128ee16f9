"""The kind `hdf5`: columns in one HDF5 file, its datasets, or groups of them, one a view.

Datasets whose names say views, `x_train` and `x_test`, are the columns of these.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from feedline_server.declared.datasets import Hdf5Config
from feedline_server.sources.arrays.formats import open_file
from feedline_server.sources.arrays.hdf5 import H5File
from feedline_server.sources.arrays.stored import Stored, check_rows, chosen, costs
from feedline_server.sources.arrays.suffixes import format_of
from feedline_server.sources.source import Opened
from feedline_server.sources.tables.names import by_view
from feedline_server.sources.tables.table import open_arrays, train_first
from feedline_wire.errors import DataError
from feedline_wire.listing import listed


def opened(config: Hdf5Config) -> Opened:
    """The file's columns, with views as declared, or as its groups are, or everything as one. Raises DataError."""
    path = hdf5_file(config.path)
    with open_file(path) as file:
        assert isinstance(file, H5File), "hdf5_file finds no other"
        parts = {"": config.arrays} if config.arrays else _groups(file.names, config, path)
        columns = {part: _without(config, chosen(file, names), path) for part, names in parts.items()}
        names, coded = _coded(file, columns, config)
        arrays = {
            part: {column: coded.get(name) or file.stored(name) for column, name in of.items()}
            for part, of in columns.items()
        }
    turned = _samples_are_last(arrays)
    if turned:
        arrays = {part: {name: _turned(array) for name, array in of.items()} for part, of in arrays.items()}
    every = [array for part in arrays.values() for array in part.values()]
    for array in every:
        check_rows(array)
    found = open_arrays(arrays, path.parent, config.views)
    return replace(
        found,
        notes=lambda: (*found.notes(), *_matlab(path, every, turned=turned), *costs(every)),
        files=[path],
        categories=names,
    )


def _without(config: Hdf5Config, columns: Mapping[str, str], path: Path) -> dict[str, str]:
    """The columns but for those that are dropped. DataError if one of those, or of `codes`, is none of them."""
    for key in ("drop", "codes"):
        if unknown := [name for name in getattr(config, key) if name not in columns]:
            raise DataError(f"{path}: {key} names the column {unknown[0]!r}; the columns are {', '.join(columns)}")
    return {column: name for column, name in columns.items() if column not in config.drop}


def _coded(
    file: H5File, parts: Mapping[str, Mapping[str, str]], config: Hdf5Config
) -> tuple[dict[str, tuple[str, ...]], dict[str, Stored]]:
    """What the numbers of each column of text stand for, over all parts; and the numbers, by dataset."""
    names: dict[str, tuple[str, ...]] = {}
    coded: dict[str, Stored] = {}
    for column, declared in config.codes.items():
        texts = {of[column]: [text.strip() for text in file.texts(of[column])] for of in parts.values()}
        names[column] = declared or tuple(sorted(set().union(*texts.values())))
        number_of = {text: number for number, text in enumerate(names[column])}
        for name, of in texts.items():
            wrong = next((row for row, text in enumerate(of) if not text or text not in number_of), None)
            if wrong is not None:
                what = f"{of[wrong]!r}, which is none of {listed(names[column])}" if of[wrong] else "no text"
                raise DataError(f"{file.named(name)}: row {wrong} has {what}; correct it, or add it to codes")
            coded[name] = file.coded(name, np.array([number_of[text] for text in of], np.int64))
    return names, coded


def hdf5_file(path: Path) -> Path:
    """The file that is meant: the path itself, or the only HDF5 file in this folder."""
    if not path.is_dir():
        return path
    files = sorted(
        file for file in path.iterdir() if file.is_file() and file.name[0] != "." and format_of(file) == ".h5"
    )
    if len(files) == 1:
        return files[0]
    there = listed([file.name for file in files])
    raise DataError(f"{path}: found {there}; wanted one HDF5 file, set path to the one that is meant")


def _groups(names: Sequence[str], config: Hdf5Config, path: Path) -> Mapping[str, Mapping[str, str]]:
    """The datasets of each group by the last part of their names; of the file itself under the empty name."""
    declared = {*config.views, *(config.inputs or ()), *(config.targets or ())}
    if not declared and not any("/" in name for name in names) and (views := by_view(names, path)):
        return train_first(views)
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


def _turned(array: Stored) -> Stored:
    """The same bytes, with dimensions from last to first."""
    header = array.header
    return replace(array, header=replace(header, shape=header.shape[::-1], fortran=not header.fortran))


def _samples_are_last(parts: Mapping[str, Mapping[str, Stored]]) -> bool:
    """Whether arrays of MATLAB have a sample in their last dimension: only there all are of one length."""
    shapes = [[array.header.shape for array in part.values()] for part in parts.values()]
    is_matlab = all(array.header.fortran for part in parts.values() for array in part.values())
    if not is_matlab or not all(shape for part in shapes for shape in part):
        return False
    agree = [all(len({shape[end] for shape in part}) == 1 for part in shapes) for end in (0, -1)]
    return agree == [False, True]


def _matlab(path: Path, arrays: Sequence[Stored], *, turned: bool) -> Iterator[str]:
    if turned:
        yield (
            f"{path}: was written by MATLAB with the samples in the last dimension; they are served with their "
            "dimensions from last to first, as h5py shows them"
        )
    elif any(array.header.fortran for array in arrays):
        yield f"{path}: was written by MATLAB; a sample is a row of the first dimension, as MATLAB shows it"
