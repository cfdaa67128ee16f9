"""A group of processes with little memory, so that the kernel ends who takes more: an out-of-memory kill that is real.

Control groups of version 1 and 2, as root. Where there are none to be made, `why_not` says so.
"""

import contextlib
import os
import secrets
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

ROOT = Path("/sys/fs/cgroup")

LIMIT_NBYTES = 48 << 20
"""What a process may take after it was put into the group; what it had stays with the group it came from."""


@dataclass(frozen=True, slots=True)
class Group:
    """A memory control group."""

    folder: Path

    def take_in(self, pid: int) -> None:
        """From now on this process' memory counts here."""
        (self.folder / "cgroup.procs").write_text(str(pid))

    @property
    def kills(self) -> int:
        """How many processes the kernel has ended here for want of memory."""
        for name in ("memory.events", "memory.oom_control"):
            if (file := self.folder / name).exists():
                counts = dict(line.split() for line in file.read_text().splitlines())
                return int(counts.get("oom_kill", 0))
        return 0


def _parent() -> Path | None:
    """Where a memory group can be made."""
    if (ROOT / "memory").is_dir():
        return ROOT / "memory"
    with contextlib.suppress(OSError):
        if "memory" in (ROOT / "cgroup.subtree_control").read_text().split():
            return ROOT
    return None


def why_not() -> str | None:
    """Why no group can be made here; None if one can."""
    parent = _parent()
    if os.geteuid() != 0:
        return "an out-of-memory kill of one process needs root, to make a control group"
    if parent is None or not os.access(parent, os.W_OK):
        return "there is no memory control group that could be divided here (in a container it is read-only)"
    return None


@contextlib.contextmanager
def little_memory() -> Iterator[Group]:
    """A group with LIMIT_NBYTES; removed afterwards, when the kernel has ended who was in it."""
    parent = _parent()
    assert parent is not None, "ask why_not first"
    group = Group(parent / f"feedline-breaking-{os.getpid()}-{secrets.token_hex(3)}")
    group.folder.mkdir()
    try:
        name = "memory.max" if (group.folder / "memory.max").exists() else "memory.limit_in_bytes"
        (group.folder / name).write_text(str(LIMIT_NBYTES))
        for swap in ("memory.swap.max", "memory.memsw.limit_in_bytes"):
            with contextlib.suppress(OSError):
                (group.folder / swap).write_text("0" if swap.endswith("max") else str(LIMIT_NBYTES))
        yield group
    finally:
        _remove(group.folder)


def _remove(folder: Path) -> None:
    procs = folder / "cgroup.procs"
    for pid in procs.read_text().split():  # who was not ended after all goes back
        with contextlib.suppress(OSError):
            (folder.parent / "cgroup.procs").write_text(pid)
    folder.rmdir()
