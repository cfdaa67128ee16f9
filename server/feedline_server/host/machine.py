"""What this process may use of its machine: cores and memory, as affinity and control groups allow.

A container's limits are smaller than the machine that it shows; a loader that ignored them would be throttled, or
killed.
"""

import math
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

CGROUP = Path("/sys/fs/cgroup")
PROC = Path("/proc")
NODES = Path("/sys/devices/system/node")


@dataclass(frozen=True, slots=True)
class Resources:
    """What there is for this process."""

    nodes: tuple[tuple[int, ...], ...]
    """The cores that it may run on, by NUMA node; those of one node where the machine does not tell."""
    quota: float | None
    """Cores' worth of CPU time, if that is limited."""
    memory_nbytes: int

    @property
    def cores(self) -> int:
        """That it may run on."""
        return sum(map(len, self.nodes))


def resources(cgroup: Path = CGROUP, proc: Path = PROC, nodes: Path = NODES) -> Resources:
    """All of it, as it is now."""
    allowed = os.sched_getaffinity(0)
    own = [sorted(allowed & _listed(folder / "cpulist")) for folder in sorted(nodes.glob("node[0-9]*"), key=_number_of)]
    found = tuple(tuple(cores) for cores in own if cores)
    if sum(map(len, found)) != len(allowed):
        found = (tuple(sorted(allowed)),)
    quotas = [quota for folder in _groups(cgroup, proc, "cpu") if (quota := _quota(folder)) is not None]
    return Resources(found, min(quotas, default=None), memory_nbytes(cgroup, proc))


def cores(cgroup: Path = CGROUP, proc: Path = PROC) -> int:
    """Cores this process may run on; a quota of CPU time (`docker run --cpus`) counts as so many cores, rounded up."""
    allowed = len(os.sched_getaffinity(0))
    quotas = [_quota(folder) for folder in _groups(cgroup, proc, "cpu")]
    return max(1, min([allowed, *(math.ceil(quota) for quota in quotas if quota is not None)]))


def memory_nbytes(cgroup: Path = CGROUP, proc: Path = PROC) -> int:
    """Bytes of memory this process may use: the machine's, or a control group's if that is less."""
    machine = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    limits = [
        _number(folder / name)
        for folder in _groups(cgroup, proc, "memory")
        for name in ("memory.max", "memory.limit_in_bytes")
    ]
    return min([machine, *(limit for limit in limits if limit is not None)])


def _groups(cgroup: Path, proc: Path, controller: str) -> Iterator[Path]:
    """The folders of the groups that hold this process, innermost first, in either version of control groups.

    Inside a container the path that /proc tells may be the host's and not exist; the outermost folder is then the
    container's.
    """
    try:
        lines = (proc / "self" / "cgroup").read_text().splitlines()
    except OSError:
        return
    for line in lines:
        _, controllers, path = line.split(":", 2)
        if controllers and controller not in controllers.split(","):
            continue
        root = cgroup / controllers if controllers else cgroup
        inner = root / path.lstrip("/")
        yield from (folder for folder in (inner, *inner.parents) if folder.is_relative_to(root))


def _quota(folder: Path) -> float | None:
    """Cores' worth of CPU time, or None if there is no quota here."""
    try:
        quota, period = (folder / "cpu.max").read_text().split()  # version 2: "200000 100000" or "max 100000"
    except (OSError, ValueError):
        quota_us, period_us = _number(folder / "cpu.cfs_quota_us"), _number(folder / "cpu.cfs_period_us")
        return quota_us / period_us if quota_us and period_us and quota_us > 0 else None
    return None if quota == "max" else int(quota) / int(period)


def _number_of(folder: Path) -> int:
    return int(folder.name.removeprefix("node"))


def _listed(file: Path) -> set[int]:
    """The numbers in a list of the kernel's: `0-3,8`."""
    try:
        parts = [part.partition("-") for part in file.read_text().strip().split(",") if part]
        return {core for low, _, high in parts for core in range(int(low), int(high or low) + 1)}
    except (OSError, ValueError):
        return set()


def _number(path: Path) -> int | None:
    try:
        return int(path.read_text())
    except (OSError, ValueError):  # not this version of control groups, or "max"
        return None
