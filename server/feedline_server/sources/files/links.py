"""Whether files that a list names are there, and really are below the folder that they are named in."""

import os
from collections.abc import Iterable, Sequence
from pathlib import Path

from feedline_server.host.progress import OPENING
from feedline_server.sources.arrays.npy import reading
from feedline_server.sources.files.patterns import FilePattern
from feedline_wire.errors import DataError
from feedline_wire.listing import counted


def data_folder(folder: Path, declared: str | None, usual: str) -> Path:
    """Where the files are that a list names: as declared, else in the `usual` sub-folder if there is one."""
    inside = folder / (declared or usual)
    return inside if declared is not None or inside.is_dir() else folder


def without_dots(name: str) -> str:
    """The name of the same file without `.` in it: `./a.png` is `a.png`."""
    return name if "." not in name.split("/") else "/".join(part for part in name.split("/") if part != ".")


def stays_inside(name: str) -> bool:
    """Whether a name leads to a place below a folder, links aside: it is not absolute and does not climb."""
    # A list names files: one that is absolute or climbs would serve a file that the operator never declared.
    parts = name.split("/") if "/" in name else (name,)
    return "" not in parts and "." not in parts and ".." not in parts and "\0" not in name


def check_inside(folder: Path, path: str | Path) -> None:
    """DataError if links lead out of the folder: what a list names must be what the operator declared."""
    base, real = os.path.realpath(folder), os.path.realpath(path)
    if real != base and not real.startswith(base.rstrip("/") + "/"):
        raise DataError(
            f"{path}: is a link out of {folder}, to {real}; set follow_links = true if that is meant, "
            "or put the file where the link is"
        )


def missing_files(
    folder: Path, ids: Sequence[str], patterns: Iterable[FilePattern], of: str, *, follow_links: bool
) -> str:
    """Which ids of a list have no file, for a message; empty if all have.

    DataError if a file is by a link outside of the folder. Folders are listed once; a million questions would take
    minutes.
    """
    for pattern in patterns:
        names = [pattern.of(name) for name in ids]
        there, links = _listing(folder, {name.rpartition("/")[0] for name in names}, follow_links=follow_links)
        if links and not follow_links:
            for name in names:
                if name in links:
                    check_inside(folder, folder / name)
        if missing := [name for name, file in zip(ids, names, strict=True) if file not in there]:
            return f"{folder}: no file for {counted(missing, 'id', repr)} of the {of}, wanted {pattern.of(missing[0])}"
    return ""


def _listing(folder: Path, parents: Iterable[str], *, follow_links: bool) -> tuple[set[str], set[str]]:
    """What is in these sub-folders, and which of it are links."""
    there: set[str] = set()
    links: set[str] = set()
    for parent in sorted(parents):
        OPENING.note(f"the files in {folder / parent}")
        with reading(folder / parent, "the folder of the files that are named"), os.scandir(folder / parent) as entries:
            for entry in entries:
                name = f"{parent}/{entry.name}" if parent else entry.name
                there.add(name)
                if entry.is_symlink():
                    links.add(name)
        if not follow_links:
            check_inside(folder, folder / parent)
    return there, links
