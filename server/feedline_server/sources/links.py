"""Whether a file that was found below a folder really is below it."""

import os
from pathlib import Path

from feedline_wire.errors import DataError


def check_inside(folder: Path, path: str | Path) -> None:
    """DataError if links lead out of the folder: what a list names must be what the operator declared."""
    base, real = os.path.realpath(folder), os.path.realpath(path)
    if real != base and not real.startswith(base.rstrip("/") + "/"):
        raise DataError(
            f"{path}: is a link out of {folder}, to {real}; set follow_links = true if that is meant, "
            "or put the file where the link is"
        )
