"""Cores and memory that this process may use, in a machine or a container."""

import os
from pathlib import Path

import pytest

from feedline_server.host import machine


def groups(root: Path, listed: str, files: dict[str, str]) -> tuple[Path, Path]:
    """A /sys/fs/cgroup and a /proc."""
    (root / "proc" / "self").mkdir(parents=True)
    (root / "proc" / "self" / "cgroup").write_text(listed)
    (root / "cgroup").mkdir()
    for name, text in files.items():
        (root / "cgroup" / name).parent.mkdir(parents=True, exist_ok=True)
        (root / "cgroup" / name).write_text(text)
    return root / "cgroup", root / "proc"


@pytest.mark.parametrize(
    ("listed", "files", "nbytes"),
    [
        ("0::/\n", {"memory.max": "1000000\n"}, 1_000_000),
        ("0::/user/job\n", {"user/memory.max": "2000000\n", "user/job/memory.max": "max\n"}, 2_000_000),
        ("0::/user/job\n", {"user/memory.max": "2000000\n", "user/job/memory.max": "1000000\n"}, 1_000_000),
        ("0::/the/hosts/path\n", {"memory.max": "3000000\n"}, 3_000_000),
        ("4:memory:/job\n", {"memory/job/memory.limit_in_bytes": "1000000\n"}, 1_000_000),
        ("4:memory:/docker/abc\n", {"memory/memory.limit_in_bytes": "2000000\n"}, 2_000_000),
        ("4:cpu:/job\n", {"cpu/job/memory.limit_in_bytes": "1000000\n"}, None),
        ("4:memory:/\n", {"memory/memory.limit_in_bytes": "9223372036854771712\n"}, None),
        ("0::/\n", {"memory.max": "max\n"}, None),
        ("", {}, None),
    ],
)
def test_memory_is_what_the_innermost_limit_leaves(
    tmp_path: Path, listed: str, files: dict[str, str], nbytes: int | None
) -> None:
    machines = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")

    assert machine.memory_nbytes(*groups(tmp_path, listed, files)) == (nbytes or machines)


@pytest.mark.parametrize(
    ("listed", "files", "cores"),
    [
        ("0::/\n", {"cpu.max": "100000 100000\n"}, 1),
        ("0::/\n", {"cpu.max": "50000 100000\n"}, 1),
        ("0::/\n", {"cpu.max": "250000 100000\n"}, 3),
        ("0::/\n", {"cpu.max": "99900000 100000\n"}, 8),
        ("0::/\n", {"cpu.max": "max 100000\n"}, 8),
        ("2:cpu,cpuacct:/job\n", {"cpu,cpuacct/job/cpu.cfs_quota_us": "200000\n"}, 8),
        (
            "2:cpu,cpuacct:/job\n",
            {"cpu,cpuacct/job/cpu.cfs_quota_us": "200000", "cpu,cpuacct/job/cpu.cfs_period_us": "100000"},
            2,
        ),
        ("2:cpu:/\n", {"cpu/cpu.cfs_quota_us": "-1", "cpu/cpu.cfs_period_us": "100000"}, 8),
        ("", {}, 8),
    ],
)
def test_cores_are_those_of_the_affinity_within_the_quota(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, listed: str, files: dict[str, str], cores: int
) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: set(range(8)))

    assert machine.cores(*groups(tmp_path, listed, files)) == cores
