"""A memory control group: whoever starts in it has so much memory, page cache included, on a machine that has more.

Needs to be root, and control groups of version 1 or 2 that can be written to.
"""

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path

from benchmarks.consumer import MissingError

ROOTS = {
    Path("/sys/fs/cgroup/memory"): "memory.limit_in_bytes",
    Path("/sys/fs/cgroup"): "memory.max",
}
"""Where groups are made, and the file with their limit, in version 1 and in version 2."""


@contextlib.contextmanager
def group(nbytes: int) -> Iterator[tuple[str, ...]]:
    """A group of so many bytes: what a command begins with to run in it. MissingError if none can be made here."""
    with contextlib.ExitStack() as made:
        folder = _made(nbytes)
        made.callback(folder.rmdir)  # by then its processes have ended
        yield ("sh", "-c", f'echo $$ > {folder}/cgroup.procs && exec "$@"', "sh")


def _made(nbytes: int) -> Path:
    why = "there are no control groups"
    for root, limit in ROOTS.items():
        folder = root / f"feedline-benchmark-{os.getpid()}"
        try:
            folder.mkdir()
        except OSError as error:
            why = str(error)
            continue
        try:
            (folder / limit).write_text(str(nbytes))
        except OSError as error:  # of version 2 without this controller
            folder.rmdir()
            why = str(error)
        else:
            return folder
    raise MissingError(f"no memory control group can be made here ({why})")
