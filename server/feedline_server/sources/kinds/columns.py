"""The kind `columns`: `.npy` files in a folder, one a column, memory-mapped; or sub-folders of them, one a view.

Files whose names say views, `x_train.npy`, `x_test.npy`, are the columns of these.

Nothing is read until it is gathered, and a gather copies from the page cache straight into the batch. A
file that changed since it was opened is an error, never another batch under the same key.
"""

from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path

from feedline_server.declared.datasets import ColumnsConfig
from feedline_server.sources.arrays import npy
from feedline_server.sources.arrays.formats import find_column
from feedline_server.sources.arrays.npy import reading
from feedline_server.sources.arrays.suffixes import format_of, is_hidden, suffix_of
from feedline_server.sources.source import Opened
from feedline_server.sources.tables.names import by_view
from feedline_server.sources.tables.table import open_arrays, train_first
from feedline_wire.errors import DataError
from feedline_wire.listing import listed


def opened(config: ColumnsConfig) -> Opened:
    """The folder's columns, with views as declared, or as its sub-folders or names are, or everything as one.

    Raises DataError.
    """
    folder = config.path
    parts = column_folders(folder, tuple(config.views.values()))
    if not parts:
        raise DataError(
            f"{folder}: found no .npy file here or one folder down; wanted one a column, like x.npy and y.npy"
        )
    declared = {*config.views, *(config.inputs or ()), *(config.targets or ())}
    if not declared and (views := by_view(parts.get("", ()), folder)):
        files = parts[""]
        parts = train_first({view: {column: files[stem] for column, stem in of.items()} for view, of in views.items()})
    arrays = {part: {name: find_column(path, name) for name, path in files.items()} for part, files in parts.items()}
    try:
        found = open_arrays(arrays, folder, config.views)
        return replace(found, files=[path for of in parts.values() for path in of.values()])
    except DataError as error:
        raise DataError(f"{error}{another_kind(folder)}") from error


def column_folders(folder: Path, aside: tuple[str, ...] = ()) -> dict[str, dict[str, Path]]:
    """The column files of each part by column: {"": files} of the folder itself, or {view: files} of its sub-folders.

    `train` comes first. Files named in `aside` are no columns. DataError if both could be meant.
    """
    with reading(folder, "a folder of .npy files"):
        children = sorted(child for child in folder.iterdir() if not is_hidden(child.name))
        own = _column_files(children, folder, aside)
        inside = {child.name: _column_files(child.iterdir(), folder, aside) for child in children if child.is_dir()}
    inside = {name: files for name, files in inside.items() if files}
    if same := [name for name, files in inside.items() if own.keys() & files.keys()]:
        raise DataError(
            f"{folder}: the columns {listed(sorted(path.name for path in own.values()))} are here and also in "
            f"{listed(f'{name}/' for name in sorted(same))}; move away the ones that are not meant"
        )
    return {"": own} if own else train_first(inside)


def another_kind(folder: Path) -> str:
    """What a folder whose files make no columns may be, by their names: the end of a message; "" if nothing else."""
    try:
        parts = column_folders(folder)
    except DataError:
        return ""
    if parts and "" not in parts:
        return '; if the sub-folders are classes, declare kind = "class_folders"'
    stems = [name for files in parts.values() for name in files]
    if boundaries := sorted({"lengths", "offsets"} & set(stems)):
        return f'; if {boundaries[0]}.npy tells where sequences end, declare kind = "sequences"'
    subjects: dict[str, set[str]] = {}
    for stem in stems:
        subject, _, column = stem.rpartition("_")
        subjects.setdefault(subject, set()).add(column)
    if len(subjects) > 1 and "" not in subjects and len(set(map(frozenset, subjects.values()))) == 1:
        return '; if the files are SUBJECT_COLUMN.npy, declare kind = "subjects"'
    return ""


def _column_files(entries: Iterable[Path], folder: Path, aside: tuple[str, ...]) -> dict[str, Path]:
    """The files of these that are columns, by their names without suffix."""
    apart = {folder / text for text in aside}
    found: dict[str, Path] = {}
    for path in sorted(entries):
        if path.name.startswith(".") or path in apart or not npy.is_file(path, {".npy"}) or format_of(path) != ".npy":
            continue
        name = path.stem if suffix_of(path.name) else path.name
        if name in found:
            raise DataError(f"{folder}: {found[name].name} and {path.name} are both the column {name!r}; rename one")
        found[name] = path
    return found
