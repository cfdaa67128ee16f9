"""Where a file or folder lies now, also after it, or a folder above it, was renamed.

It is held by a descriptor that reads nothing (`O_PATH`). What was removed meanwhile lies nowhere, and neither does what
was renamed to where this process cannot see.
"""

import os
import weakref
from pathlib import Path


class HeldPath:
    """Takes a descriptor, for as long as anything refers to it."""

    def __init__(self, path: Path) -> None:
        """OSError if there is nothing. A link is followed now."""
        self._path = path
        self._fd = os.open(path, os.O_PATH | os.O_CLOEXEC)
        weakref.finalize(self, os.close, self._fd)  # versions of data are let go of by several threads

    def __repr__(self) -> str:
        return f"<HeldPath {self._path}>"

    def now(self) -> Path:
        """Where it lies; where it lay at first if it lies nowhere."""
        found = Path(f"/proc/self/fd/{self._fd}").readlink()
        try:
            # A removed one is said to be at "… (deleted)", where something else may lie.
            return found if os.path.samestat(found.stat(), os.fstat(self._fd)) else self._path
        except OSError:
            return self._path


def hold(path: Path) -> HeldPath | None:
    """Hold it; None where it cannot be held, such as for want of descriptors."""
    try:
        return HeldPath(path)
    except OSError:
        return None
