"""What a file is, told by its suffix; where it has none, by its first bytes."""

import os
import re
from pathlib import Path

ALIASES = {
    ".pq": ".parquet",
    ".parq": ".parquet",
    ".hdf5": ".h5",
    ".mat": ".h5",
    ".feather": ".arrow",
    ".ipc": ".arrow",
    ".jpeg": ".jpg",
    ".jpe": ".jpg",
    ".jfif": ".jpg",
}
"""Other names for the same."""

BEGINNINGS = (
    (rb"\x93NUMPY", ".npy"),
    (rb"PK\x03\x04", ".npz"),
    (rb"\x89HDF\r\n\x1a\n", ".h5"),
    (rb"PAR1", ".parquet"),
    (rb"ARROW1", ".arrow"),
    (rb"\x89PNG\r\n\x1a\n", ".png"),
    (rb"\xff\xd8\xff", ".jpg"),
    (rb"RIFF....WEBP", ".webp"),
    (rb"BM....\0\0\0\0", ".bmp"),
)
"""Patterns of the first bytes of files that are served, or of which a remark says how."""

LOST = "lost+found"
"""What a file system keeps at its root; only root can look into it, and a volume may be mounted right here."""

LONGEST = 12
"""Bytes that tell."""


def is_hidden(name: str) -> bool:
    """Whether a file or folder is left out wherever it is, by its name."""
    return name.startswith(".") or name == LOST


def suffix_of(name: str) -> str:
    """The suffix that stands for what a file of this name is, in lower case; empty if the name has none.

    Numbers alone are none: `part.00001`.
    """
    base = name[name.rfind("/") + 1 :]  # there may be a million
    dot = base.rfind(".")
    suffix = base[dot:].lower() if dot > 0 else ""
    return "" if suffix[1:].isdecimal() or suffix == "." else ALIASES.get(suffix, suffix)


def format_of(path: str | Path) -> str:
    """The same, and of a name without one what the first bytes tell: `.npy`, `.npz`, `.h5`, `.parquet`, `.png`, …

    Empty if they tell nothing or cannot be read.
    """
    if suffix := suffix_of(os.fspath(path)):
        return suffix
    try:
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)  # a pipe would wait
        try:
            start = os.read(fd, LONGEST)
        finally:
            os.close(fd)
    except OSError:
        return ""
    return next((suffix for form, suffix in BEGINNINGS if re.match(form, start, re.DOTALL)), "")
