"""What a stretch of consuming moved, and what it cost on either side.

CPU seconds and memory are read from the kernel for whole trees of processes: the trainer is the process that iterates;
the loader is whoever works for it, which for peers inside the trainer are the trainer's worker processes.
"""

import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import psutil

MB = 1e6

Taken = TypeVar("Taken")


@dataclass(frozen=True, slots=True)
class Pace:
    """How long a stretch is, and how long batches are taken before it without counting."""

    seconds: float
    settle_s: float
    compute_s: float = 0.0
    """What a step takes once its batch is there: the batch is checked meanwhile, and the rest is slept."""


@dataclass(frozen=True, slots=True)
class Stretch:
    """One window of one contestant."""

    gb: float
    rows: int
    batches: int
    seconds: float
    trainer_cpu_s: float
    loader_cpu_s: float
    trainer_rss_mb: float
    """The most it ever had."""
    loader_rss_mb: float
    """The most that each of its processes ever had, added up; pages that they share count in each."""
    computed_s: float = 0.0
    """Spent as a model would, by an emulated accelerator."""

    @property
    def gb_per_s(self) -> float:
        return self.gb / self.seconds

    @property
    def rows_per_s(self) -> float:
        return self.rows / self.seconds

    @property
    def trainer_cpu_s_per_gb(self) -> float:
        return self.trainer_cpu_s / self.gb

    @property
    def loader_cpu_s_per_gb(self) -> float:
        return self.loader_cpu_s / self.gb

    @property
    def utilisation(self) -> float:
        """The share of the time that the accelerator computed (MLPerf Storage's AU)."""
        return self.computed_s / self.seconds

    @property
    def cpu_s_per_gb(self) -> float:
        """Both ends together."""
        return (self.trainer_cpu_s + self.loader_cpu_s) / self.gb


class Meter:
    """CPU of this process and of its loader: the trees below `loader_pids`, and this process' children."""

    def __init__(self, loader_pids: Iterable[int]) -> None:
        self._me = psutil.Process()
        self._loaders = [psutil.Process(pid) for pid in loader_pids]

    def cpu(self) -> tuple[float, float]:
        """Seconds that the trainer and the loader have used until now."""
        return _cpu(self._me), sum(map(_cpu, self._loader()))

    def peak_rss_mb(self) -> tuple[float, float]:
        """The trainer's and the loader's."""
        return _peak_rss_mb(self._me), sum(map(_peak_rss_mb, self._loader()))

    def _loader(self) -> Iterator[psutil.Process]:
        yield from self._me.children(recursive=True)
        for loader in self._loaders:
            yield loader
            yield from loader.children(recursive=True)


def stretch(batches: Iterator[Taken], check: Callable[[Taken], tuple[int, int]], pace: Pace, meter: Meter) -> Stretch:
    """Take batches for that long, and check each; `check` gives its bytes and rows."""
    settled = time.perf_counter() + pace.settle_s
    while time.perf_counter() < settled:
        batch, computes = next(batches), time.perf_counter()
        check(batch)
        del batch
        _compute_until(computes + pace.compute_s)
    trainer, loader = meter.cpu()
    began = time.perf_counter()
    nbytes = rows = count = 0
    computed_s = 0.0
    while (wall := time.perf_counter() - began) < pace.seconds or not count:
        batch, computes = next(batches), time.perf_counter()
        more_nbytes, more_rows = check(batch)
        del batch  # as a trainer would: not while it waits for the next
        nbytes, rows, count = nbytes + more_nbytes, rows + more_rows, count + 1
        if pace.compute_s:
            _compute_until(computes + pace.compute_s)
            computed_s += time.perf_counter() - computes  # as measured: a sleep is some 0.1 ms longer than asked for
    trainer_after, loader_after = meter.cpu()
    trainer_rss, loader_rss = meter.peak_rss_mb()
    return Stretch(
        gb=nbytes / 1e9,
        rows=rows,
        batches=count,
        seconds=wall,
        trainer_cpu_s=trainer_after - trainer,
        loader_cpu_s=loader_after - loader,
        trainer_rss_mb=trainer_rss,
        loader_rss_mb=loader_rss,
        computed_s=computed_s,
    )


def _compute_until(then: float) -> None:
    if (left := then - time.perf_counter()) > 0:
        time.sleep(left)


def tree_cpu_s(pid: int) -> float:
    """Seconds that a process and all below it have used."""
    root = psutil.Process(pid)
    return sum(map(_cpu, [root, *root.children(recursive=True)]))


def _cpu(process: psutil.Process) -> float:
    try:
        used = process.cpu_times()
    except psutil.NoSuchProcess:
        return 0.0
    return float(used.user + used.system)


def _peak_rss_mb(process: psutil.Process) -> float:
    # Not getrusage: its maximum is inherited from whoever started the process.
    try:
        status = Path(f"/proc/{process.pid}/status").read_text()
    except OSError:
        return 0.0
    line = next((line for line in status.splitlines() if line.startswith("VmHWM:")), "VmHWM: 0 kB")
    return int(line.split()[1]) * 1024 / MB
