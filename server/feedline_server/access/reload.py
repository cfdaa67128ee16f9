"""Hot reload: certificates and tokens are read again when their files change, without a restart.

The last valid value stays in use until there is a newer valid one. A new file that is not valid is logged, once.
"""

import os
import threading
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Generic, TypeVar

import structlog

from feedline_wire.errors import InvalidRequest

Value = TypeVar("Value")

Stamps = tuple[tuple[int, int, int, int] | None, ...]
"""(size, modification time, device, inode) a file; None where there is no file. Links are followed: orchestrators
replace a secret by pointing a link elsewhere."""

log = structlog.get_logger()


class HotReloaded(Generic[Value]):
    """The newest valid value of some files. Thread-safe; asking costs a `stat` a file."""

    def __init__(self, what: str, files: Sequence[Path], read: Callable[[], Value]) -> None:
        """Read the files. `read` raises InvalidRequest if they are not valid; here it propagates."""
        self._what = what
        self._files = tuple(files)
        self._read = read
        self._lock = threading.Lock()
        self._seen = _stamps(self._files)
        self._value = read()

    def __repr__(self) -> str:
        return f"<HotReloaded {self._what}: {', '.join(map(str, self._files))}>"

    def now(self) -> Value:
        """The value; the same object while the files are the same."""
        if _stamps(self._files) != self._seen:
            with self._lock:
                self._renew()
        return self._value

    def _renew(self) -> None:
        stamps = _stamps(self._files)
        if stamps == self._seen:
            return  # another thread was faster
        try:
            value = self._read()
        except InvalidRequest as error:
            self._seen = stamps
            log.warning(f"the new {self._what} cannot be used; the old stay in use", reason=str(error))
            return
        # A certificate and a key are two files: what was read while they changed may be one of each.
        if _stamps(self._files) == stamps:
            self._seen, self._value = stamps, value
            log.info(f"new {self._what} in use", files=[str(file) for file in self._files])


def _stamps(files: Sequence[Path]) -> Stamps:
    return tuple(map(_stamp, files))


def _stamp(file: Path) -> tuple[int, int, int, int] | None:
    try:
        status = os.stat(file)  # noqa: PTH116 - Path.stat costs half as much again, and this is asked on every call
    except OSError:
        return None
    return (status.st_size, status.st_mtime_ns, status.st_dev, status.st_ino)
