"""Whether files that a list names are there, and really are below the folder that they are named in."""

import os
from collections.abc import Sequence
from pathlib import Path

from feedline_wire.errors import DataError


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


def missing_files(folder: Path, names: Sequence[str], *, follow_links: bool) -> list[int]:
    """The places in `names` of files that are not there. DataError if one is by a link outside of the folder.

    Folders are listed once; a million questions would take minutes.
    """
    there: set[str] = set()
    links: set[str] = set()
    for parent in sorted({name.rpartition("/")[0] for name in names}):
        try:
            with os.scandir(folder / parent) as entries:
                for entry in entries:
                    name = f"{parent}/{entry.name}" if parent else entry.name
                    there.add(name)
                    if entry.is_symlink():
                        links.add(name)
        except OSError as error:
            raise DataError(
                f"{folder / parent}: cannot be read ({error.strerror}); wanted the folder of the files that are named"
            ) from error
        if not follow_links:
            check_inside(folder, folder / parent)
    if links and not follow_links:
        for name in names:
            if name in links:
                check_inside(folder, folder / name)
    return [number for number, name in enumerate(names) if name not in there]
