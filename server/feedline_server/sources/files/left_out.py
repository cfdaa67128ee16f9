"""Files of a dataset's folder that are not served: counted and named by kind, so that nothing is left out unnoticed."""

import os
from collections.abc import Collection, Iterable, Iterator
from itertools import islice
from pathlib import Path

from feedline_server.sources.arrays.suffixes import is_hidden, suffix_of
from feedline_wire.listing import listed

NO_DATA = frozenset(
    {".py", ".pyc", ".ipynb", ".toml", ".md", ".rst", ".log", ".crc", ".lock", ".sh"}
    | {"readme", "license", "licence", "copying", "notice", "changelog", "makefile", "dockerfile"}
    | {"thumbs.db", "desktop.ini", "__pycache__"}
)
"""Suffixes and names of what lies beside data and is none."""

CONVERTED = (".codes.json", "bad-samples.json")
"""What `feedline convert` writes beside columns."""

FOREIGN = frozenset({".avif", ".gif", ".heic", ".heif", ".jp2", ".pgm", ".ppm", ".svg", ".tif", ".tiff"})
"""Suffixes of images that are not decoded here."""

LOOKED_AT = 1_000_000
"""Files that are looked at, at most: some two seconds on a local disk."""


def left_out(folder: Path, files: Iterable[str | Path], apart: Collection[str] = ()) -> Iterator[str]:
    """A sentence for the operator if there are others below the folder than these, absolute or relative to it.

    Folders that are `apart` are not looked into.
    """
    served = {str(file).removeprefix(f"{folder}/") for file in files}
    others = [name for name in islice(_files(folder, apart), LOOKED_AT) if name not in served]
    if others:
        foreign = any(suffix_of(name) in FOREIGN for name in others)
        yield f"{folder}: left out are {by_kind(others)}" + (
            "; images are read as PNG, JPEG, BMP and WebP: convert the others, or serve them with a function of your "
            "own (kind = python)"
            if foreign
            else ""
        )


def by_kind(names: Iterable[str]) -> str:
    """`36 .avif (cat/1.avif, …), 2 .csv (a.csv, b.csv)`: how many of each kind, the most first."""
    kinds: dict[str, list[str]] = {}
    for name in names:
        base = name.rpartition("/")[2]
        kind = base[base.rfind(".") :].lower() if suffix_of(base) else "without a suffix"
        kinds.setdefault(kind, []).append(name)
    found = sorted(kinds.items(), key=lambda item: -len(item[1]))
    return listed(f"{len(of)} {kind} ({of[0]}{', …' if len(of) > 1 else ''})" for kind, of in found)


def _files(folder: Path, apart: Collection[str]) -> Iterator[str]:
    """Every file below it that may be data, relative to it."""
    base = f"{folder}/"
    for inside, folders, names in os.walk(folder):
        looked_into = [name for name in folders if not (is_hidden(name) or name in NO_DATA)]
        folders[:] = sorted(name for name in looked_into if f"{inside}/{name}" not in apart)
        below = f"{inside}/".removeprefix(base)
        for name in sorted(names):
            is_marker = name.startswith("_") and "." not in name  # Spark's _SUCCESS
            if not (is_hidden(name) or is_marker or _is_no_data(name.lower())):
                yield below + name


def _is_no_data(name: str) -> bool:
    stem, dot, suffix = name.rpartition(".")
    return name in NO_DATA or name.endswith(CONVERTED) or (bool(dot) and (dot + suffix in NO_DATA or stem in NO_DATA))
