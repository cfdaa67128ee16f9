"""A group of processes that can start no more processes or threads, as a container with a pids limit that is reached.

The pids control group, as root. Where there is none to be made, `why_not` says so.
"""

import contextlib
import os
import secrets
from collections.abc import Iterator
from pathlib import Path

PARENTS = (Path("/sys/fs/cgroup/pids"), Path("/sys/fs/cgroup"))


def why_not() -> str | None:
    """Why no group can be made here; None if one can."""
    if os.geteuid() != 0:
        return "a limit on the processes of one loader needs root, to make a control group"
    return None if _parent() is not None else "there is no pids control group that could be divided here"


def _parent() -> Path | None:
    version_1, version_2 = PARENTS
    if version_1.is_dir() and os.access(version_1, os.W_OK):
        return version_1
    with contextlib.suppress(OSError):
        if "pids" in (version_2 / "cgroup.subtree_control").read_text().split():
            return version_2
    return None


@contextlib.contextmanager
def no_more_processes(*pids: int) -> Iterator[None]:
    """While it lasts, these processes, with all of their threads, can start nothing."""
    parent = _parent()
    assert parent is not None, "where there is none, this is not called"
    group = parent / f"feedline-pids-{secrets.token_hex(4)}"
    group.mkdir()
    try:
        for pid in pids:
            (group / "cgroup.procs").write_text(str(pid))
        (group / "pids.max").write_text("1")  # less than there are: what runs runs on
        yield
    finally:
        (group / "pids.max").write_text("max")
        for pid in (group / "cgroup.procs").read_text().split():
            with contextlib.suppress(OSError):  # it has ended meanwhile
                (parent / "cgroup.procs").write_text(pid)
        with contextlib.suppress(OSError):  # one that ends just now is in it for a moment more
            group.rmdir()
