"""Which pieces of a conversion are written, so that one that was killed goes on where it was.

A piece stands in the journal only when its bytes are on the disk, so the journal holds after a loss of power too. A
journal of other data, or of other pieces, is not continued.
"""

import json
import os
from collections.abc import Iterable
from pathlib import Path

FORM = 1
"""Raised when what the numbers of pieces mean changes."""


class Journal:
    """An open journal; close it."""

    def __init__(self, path: Path, identity: bytes, rows: int) -> None:
        """Open the journal of a conversion of the data of that identity, in pieces of so many rows."""
        self._path = path
        self.done: set[int] = set()
        """Pieces that are written."""
        head = json.dumps({"form": FORM, "data": identity.hex(), "rows": rows})
        known = path.read_text().split("\n") if path.exists() else []
        self.is_continued = bool(known) and known[0] == head
        """There was one of the same conversion already."""
        if self.is_continued:
            # The last line may be cut short: it ends without a newline, and then it is not believed.
            self.done = {int(line) for line in known[1:-1]}
        self._file = path.open("a" if self.is_continued else "w")
        if self.is_continued:
            self._file.truncate(len("\n".join(known[:-1])) + 1)
        else:
            self._write([head])

    def add(self, pieces: Iterable[int]) -> None:
        """These are written, and on the disk."""
        new = [piece for piece in pieces if piece not in self.done]
        if new:
            self.done.update(new)
            self._write(map(str, new))

    def close(self) -> None:
        """Close the file, which is removed if no piece is in it. Idempotent."""
        self._file.close()
        if not self.done:
            self._path.unlink(missing_ok=True)

    def _write(self, lines: Iterable[str]) -> None:
        self._file.write("".join(f"{line}\n" for line in lines))
        self._file.flush()
        os.fsync(self._file.fileno())
