"""The kind `columns`: `.npy` files in a folder, one a column, memory-mapped; or sub-folders of them, one a view.

Nothing is read until it is gathered, and a gather copies from the page cache straight into the batch. A
file that changed since it was opened is an error, never another batch under the same key.
"""

from collections.abc import Iterable
from pathlib import Path

from feedline_server.declared.datasets import ColumnsConfig
from feedline_server.sources.arrays.formats import find_column
from feedline_server.sources.arrays.npy import reading
from feedline_server.sources.source import Opened
from feedline_server.sources.tables.table import open_arrays, train_first
from feedline_wire.errors import DataError
from feedline_wire.listing import listed

LOST = "lost+found"
"""What a file system keeps at its root; only root can look into it, and a volume may be mounted right here."""


def opened(config: ColumnsConfig) -> Opened:
    """The folder's columns, with views as declared, or as its sub-folders are, or everything as one. DataError."""
    folder = config.path
    parts = column_folders(folder, tuple(config.views.values()))
    if not parts:
        raise DataError(
            f"{folder}: found no .npy file here or one folder down; wanted one a column, like x.npy and y.npy"
        )
    arrays = {part: {path.stem: find_column(path) for path in files} for part, files in parts.items()}
    try:
        return open_arrays(arrays, folder, config.views)
    except DataError as error:
        raise DataError(f"{error}{another_kind(folder)}") from error


def column_folders(folder: Path, aside: tuple[str, ...] = ()) -> dict[str, list[Path]]:
    """The column files of each part: {"": files} of the folder itself, or {view: files} of its sub-folders.

    `train` comes first. Files named in `aside` are no columns. DataError if both could be meant.
    """
    with reading(folder, "a folder of .npy files"):
        children = sorted(child for child in folder.iterdir() if not child.name.startswith(".") and child.name != LOST)
        own = _column_files(children, folder, aside)
        inside = {child.name: _column_files(child.iterdir(), folder, aside) for child in children if child.is_dir()}
    inside = {name: files for name, files in inside.items() if files}
    names = {path.name for path in own}
    if same := [name for name, files in inside.items() if names & {path.name for path in files}]:
        raise DataError(
            f"{folder}: the columns {listed(sorted(names))} are here and also in "
            f"{listed(f'{name}/' for name in sorted(same))}; move away the ones that are not meant"
        )
    if own:
        return {"": own}
    return train_first(inside)


def another_kind(folder: Path) -> str:
    """What a folder whose files make no columns may be, by their names: the end of a message; "" if nothing else."""
    try:
        parts = column_folders(folder)
    except DataError:
        return ""
    if parts and "" not in parts:
        return '; if the sub-folders are classes, declare kind = "class_folders"'
    stems = [path.stem for files in parts.values() for path in files]
    if boundaries := sorted({"lengths", "offsets"} & set(stems)):
        return f'; if {boundaries[0]}.npy tells where sequences end, declare kind = "sequences"'
    subjects: dict[str, set[str]] = {}
    for stem in stems:
        subject, _, column = stem.rpartition("_")
        subjects.setdefault(subject, set()).add(column)
    if len(subjects) > 1 and "" not in subjects and len(set(map(frozenset, subjects.values()))) == 1:
        return '; if the files are SUBJECT_COLUMN.npy, declare kind = "subjects"'
    return ""


def _column_files(entries: Iterable[Path], folder: Path, aside: tuple[str, ...]) -> list[Path]:
    apart = {folder / text for text in aside}
    return sorted(
        path
        for path in entries
        if path.suffix == ".npy" and not path.name.startswith(".") and path not in apart and path.is_file()
    )
