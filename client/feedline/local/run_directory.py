"""What fleets this user has on this host: a file each in a directory that nobody else can write to.

A process is known by its id and the moment of its start, so that an id which another process has by now is never sent a
signal.
"""

import contextlib
import json
import os
import re
import stat
import tempfile
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from feedline_wire.errors import InvalidRequest

_NAME = re.compile(r"[A-Za-z][A-Za-z0-9_-]{0,62}")


@dataclass(frozen=True, slots=True)
class Process:
    """One process, and no other that gets its id later."""

    pid: int
    started: str
    """Clock ticks from the boot to its start, and which boot."""

    @classmethod
    def of(cls, pid: int) -> "Process | None":
        """The one that has this id now; None if it has ended."""
        try:
            # The second field is a name in parentheses, which may hold anything; proc_pid_stat(5).
            fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
            boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
        except OSError:
            return None
        return None if fields[0] in {"Z", "X"} else cls(pid, f"{fields[19]}@{boot}")

    @property
    def is_running(self) -> bool:
        """It has not ended."""
        return Process.of(self.pid) == self


@dataclass(frozen=True, slots=True)
class Record:
    """What was started under a name."""

    engine: str
    words: tuple[str, ...]
    """Of `feedline serve`, or of Compose."""
    replicas: int
    process: Process | None = None
    """Of a local fleet."""
    addresses: tuple[str, ...] = ()
    """Once it serves."""
    more: Mapping[str, str] = field(default_factory=dict)


class RunDirectory:
    """The directory. Raises InvalidRequest if it is not this user's alone."""

    def __init__(self, path: Path | None = None) -> None:
        self.path = path or _default()
        self.path.mkdir(mode=0o700, parents=True, exist_ok=True)
        found = self.path.lstat()
        if not stat.S_ISDIR(found.st_mode) or found.st_uid != os.getuid() or found.st_mode & 0o077:
            raise InvalidRequest(
                f"{self.path}: is to hold what this user runs, and others own it or may write to it; remove it, or set "
                f"XDG_RUNTIME_DIR to a directory of this user's alone"
            )

    def __repr__(self) -> str:
        return f"<RunDirectory {self.path} {','.join(self.names())}>"

    def file(self, name: str, suffix: str) -> Path:
        """One of a fleet's files. Raises InvalidRequest if that is no name."""
        if not _NAME.fullmatch(name):
            raise InvalidRequest(
                f"the name of a fleet is {name!r}; wanted a letter, and then up to 62 letters, digits, '-' and '_', "
                f"such as digits"
            )
        return self.path / f"{name}.{suffix}"

    def names(self) -> list[str]:
        """Of all that was started and not ended with `down`."""
        return sorted(file.stem for file in self.path.glob("*.json"))

    def read(self, name: str) -> Record | None:
        """What was started under this name; None if nothing was."""
        file = self.file(name, "json")
        try:
            found: dict[str, Any] = json.loads(file.read_text())
            words, addresses, process = (found.pop(key) for key in ("words", "addresses", "process"))
            return Record(
                words=tuple(words),
                addresses=tuple(addresses),
                process=Process(**process) if process else None,
                **found,
            )
        except FileNotFoundError:
            return None
        except (ValueError, KeyError, TypeError) as error:
            raise InvalidRequest(
                f"{file}: is not what `feedline up` wrote ({error!r}); end by hand what it names, and remove it"
            ) from error

    def taken(self, name: str) -> InvalidRequest:
        """The error of who would start another fleet of this name."""
        return InvalidRequest(
            f"there is a fleet {name!r} on this host already; choose another name, or end it first: "
            f"`feedline down {name}`"
        )

    def write(self, name: str, record: Record) -> None:
        """Note it. Atomic."""
        file = self.file(name, "json")
        partial = file.with_suffix(".partial")
        partial.write_text(json.dumps(asdict(record)))
        partial.replace(file)

    def forget(self, name: str) -> None:
        """It has ended. Its log stays until the next one of the name."""
        for suffix in ("json", "ports"):
            self.file(name, suffix).unlink(missing_ok=True)

    @contextlib.contextmanager
    def locked(self, name: str) -> Iterator[None]:
        """Nobody else starts or ends the fleet meanwhile; InvalidRequest if somebody does. No file of it stays."""
        import fcntl  # which other platforms, on which no loader runs, do not have

        file = self.file(name, "lock")
        is_held = False
        while not is_held:
            with file.open("w") as lock:
                try:
                    fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                except BlockingIOError:
                    raise InvalidRequest(f"the fleet {name!r} is being started or ended by another command") from None
                # Else another command removed it between this one's opening and locking it: who comes next makes a new.
                is_held = _is_same(lock.fileno(), file)
                if is_held:
                    try:
                        yield
                    finally:
                        file.unlink(missing_ok=True)


def _is_same(fd: int, file: Path) -> bool:
    try:
        return os.path.samestat(os.fstat(fd), file.stat())
    except FileNotFoundError:
        return False


def _default() -> Path:
    """As the XDG base directories have it; where there is none, a directory of this user's own for temporary files."""
    runtime = os.environ.get("XDG_RUNTIME_DIR")
    return Path(runtime) / "feedline" if runtime else Path(tempfile.gettempdir()) / f"feedline-{os.getuid()}"
