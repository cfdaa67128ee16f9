"""What a trainer consumed, in a file that survives it: one line a batch, with the state to continue after it.

Each line is one write call, made when its batch was consumed. So after any death the file holds whole lines and at
most one torn line, whose batch was not consumed.
"""

import hashlib
import json
import os
from collections import deque
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np


@dataclass(frozen=True, slots=True)
class Consumed:
    """One batch, as its trainer had it."""

    epoch: int
    index: int
    ids: tuple[int, ...]
    digest: str
    nbytes: int
    waited_s: float
    """From asking for it to having it."""


@dataclass(frozen=True, slots=True)
class Health:
    """What a trainer's process held at the end of an epoch, and what had happened to its keys."""

    pid: int
    fds: int
    rss: int
    threads: int
    stats: Mapping[str, int]


@dataclass(frozen=True, slots=True)
class Failure:
    """What ended a trainer."""

    kind: str
    text: str
    after_s: float
    """How long it had waited for what did not come."""


Line = Consumed | Health | Failure


def digest(columns: Mapping[str, np.ndarray], ids: np.ndarray) -> str:
    """What stands for all bytes of a batch, and its sample ids."""
    hashed = hashlib.blake2b(digest_size=12)
    for name, column in sorted(columns.items()):
        hashed.update(f"{name} {column.dtype.str} {column.shape}".encode())
        hashed.update(np.ascontiguousarray(column).data)
    hashed.update(np.ascontiguousarray(ids).data)
    return hashed.hexdigest()


class Writer:
    """Appends lines; what a predecessor left torn is cut off first. `state` is where that one was."""

    def __init__(self, path: Path) -> None:
        self.state: dict[str, Any] | None = None
        whole = 0
        if path.exists():
            data = path.read_bytes()
            whole = data.rfind(b"\n") + 1
            for line in reversed(data[:whole].splitlines()):
                if (state := json.loads(line).get("state")) is not None:
                    self.state = state
                    break
        self._fd = os.open(path, os.O_WRONLY | os.O_CREAT, 0o644)
        os.ftruncate(self._fd, whole)
        os.lseek(self._fd, 0, os.SEEK_END)

    def write(self, line: str, **values: object) -> None:
        """One line, by one call: a process that is killed has written it or not."""
        os.write(self._fd, json.dumps({"line": line, **values}, separators=(",", ":")).encode() + b"\n")


def read(path: Path) -> Iterator[Line]:
    """The lines of a record, in order; a torn last one is none."""
    with path.open("rb") as lines:
        for line in lines:
            if line.endswith(b"\n"):
                yield _parsed(line)


class Follower(Iterator[Line]):
    """The lines of a record that is being written. Where `next` finds none yet it stops, and later goes on."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._at = 0
        self._lines: deque[bytes] = deque()

    def __next__(self) -> Line:
        if not self._lines and not self._has_more():
            raise StopIteration
        return _parsed(self._lines.popleft())

    def _has_more(self) -> bool:
        if not self._path.exists():
            return False
        with self._path.open("rb") as file:
            file.seek(self._at)
            data = file.read()
        whole = data[: data.rfind(b"\n") + 1]  # what is torn may be cut off and written anew
        self._at += len(whole)
        self._lines.extend(whole.splitlines())
        return bool(self._lines)


_KINDS: dict[str, type[Any]] = {"consumed": Consumed, "health": Health, "failure": Failure}


def _parsed(line: bytes) -> Line:
    values = json.loads(line)
    values.pop("state", None)
    kind = _KINDS[values.pop("line")]
    if kind is Consumed:
        values["ids"] = tuple(values["ids"])
    parsed: Line = kind(**values)
    return parsed
