"""Row 10: emulated accelerators with the parameters of MLPerf Storage, fed by feedline and by tf.data service.

An accelerator takes a batch and is busy with it for as long as its step takes; meanwhile it checks it. Its utilisation
is the share of the time that it was busy; as many are fed as stay at or above the benchmark's bar on average. Sample
sizes, batch sizes, step times and bars are those of an H100 in https://github.com/mlcommons/storage,
configs/dlio/workload/*_h100.yaml (v1.0), sample sizes rounded up to 8 bytes. Samples lie in the page cache, since this
row is about the way and not about a disk.
"""

from collections.abc import Callable, Collection, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from statistics import fmean, median
from typing import Any

from benchmarks import lanes
from benchmarks.consumer import Consumer, MissingError
from benchmarks.lines import Bound, Line, Side
from benchmarks.measured import Pace, Stretch
from benchmarks.pairs import Ratio
from benchmarks.peers import tf_data_service
from benchmarks.stage import Stage, say

MOST = 32
"""Accelerators that are tried."""


SETTLE_STEPS = 40
"""Before any counts. Memory that a virtual machine never touched is taken at half a gigabyte a second, and a trainer of
unet3d takes four. And the first epoch of resnet50 has 34 steps here, after which the second is waited for: 30 ms, once.
"""


@dataclass(frozen=True, slots=True)
class Model:
    """A workload."""

    name: str
    row_nbytes: int
    batch: int
    step_s: float
    bar: float
    nbytes: int
    """Of the samples that are there."""
    pipeline: str = "samples"
    """tf.data service's."""
    memory: str = "1GiB"
    prefetch_bytes: int = 256 << 20

    @property
    def demand(self) -> float:
        """GB/s of one accelerator."""
        return self.row_nbytes * self.batch / self.step_s / 1e9

    @property
    def most(self) -> int:
        """Accelerators that are tried: as many as there are batches for at once."""
        return min(MOST, self.nbytes // self.row_nbytes // self.batch)

    def __str__(self) -> str:
        return f"{self.name} ({self.batch} x {self.row_nbytes:,} B in {self.step_s} s: {self.demand:.2f} GB/s)"


MODELS = (
    # 34 steps an epoch, which begins with a wait for its first batch; real ones have thousands, but tf.data's gather
    # counts bytes in 32 bits.
    Model("resnet50", 150528, 400, 0.224, 0.90, 2000 << 20, pipeline="vectorised"),
    Model("cosmoflow", 2828488, 1, 0.0035, 0.70, 768 << 20),
    # A batch is a gigabyte, so the loader and the trainer need room for two.
    Model("unet3d", 146600632, 7, 0.323, 0.90, 14 * 146600632, memory="4GiB", prefetch_bytes=2 << 30),
)

QUICK = Model("resnet50, small", 15056, 40, 0.02, 0.90, 8 << 20)

Opened = tuple[str, dict[str, Any], tuple[int, ...]]
"""A module of benchmarks/peers, its options, and the processes that work for it."""


def measure(stage: Stage, rows: Collection[int]) -> Iterator[Line]:
    for model in (QUICK,) if stage.scale.is_quick else MODELS:
        say(f"  {model}")
        folder = stage.samples(model.row_nbytes, model.nbytes)
        with _feedline(stage, folder, model) as ours:
            utilisation = [_run(folder, model, ours, 1) for _ in range(1 if stage.scale.is_quick else 3)]
            yield _one(model, [fmean(one) for one in utilisation])
            fed = _most(partial(_is_fed, folder, model, ours), 1 if stage.scale.is_quick else model.most)
        if stage.scale.is_quick:
            return
        with _tf_data_service(model) as theirs:
            try:
                fed_by_peer = _most(partial(_is_fed, folder, model, theirs), model.most)
            except MissingError as error:
                yield Line(10, f"{model}: accelerators fed", "fed", bound=Bound(">=", 2.0), why_not=str(error))
                continue
        yield _number(model, fed, fed_by_peer)


def _one(model: Model, shares: list[float]) -> Line:
    return Line(
        10, f"{model}: utilisation of one accelerator", "share of time",
        ours=Side("feedline, tcp", median(shares)),
        ratio=Ratio(median(shares), min(shares), max(shares)), bound=Bound(">=", 0.995),
    )  # fmt: skip


def _number(model: Model, ours: int, peer: int) -> Line:
    line = Line(
        10, f"{model}: accelerators fed at {model.bar:.0%}", "fed",
        ours=Side("feedline, tcp", ours), peer=Side("tf.data service, no compression", peer), bound=Bound(">=", 2.0),
    )  # fmt: skip
    if not peer:
        return replace(line, why_not=f"tf.data service feeds none, feedline {ours}")
    return replace(line, ratio=Ratio(ours / peer, ours / peer, ours / peer))


# ---- accelerators ----


def _is_fed(folder: Path, model: Model, loader: Opened, count: int) -> bool:
    shares = _run(folder, model, loader, count)
    say(f"    {loader[0]}: {count} accelerators at {', '.join(f'{share:.1%}' for share in shares)}")
    return fmean(shares) >= model.bar


def _run(folder: Path, model: Model, loader: Opened, count: int) -> list[float]:
    """The utilisation of each of so many that run at once."""
    kind, options, pids = loader
    pace = Pace(
        seconds=max(2.0, 10 * model.step_s), settle_s=max(2.0, SETTLE_STEPS * model.step_s), compute_s=model.step_s
    )
    with ExitStack() as running:
        accelerators = [
            running.enter_context(
                Consumer(
                    kind,
                    {"folder": str(folder), "batch": model.batch, "rank": rank, "world": count, **options},
                    pids,
                )
            )
            for rank in range(count)
        ]
        for one in accelerators:
            one.wait()
        for one in accelerators:
            one.begin(pace)
        stretches: list[Stretch] = [one.end() for one in accelerators]
    return [one.utilisation for one in stretches]


def _most(is_fed: Callable[[int], bool], most: int) -> int:
    """The largest number that is fed: doubling until one is not, then halving the difference."""
    fed, failed = 0, 1
    while failed <= most and is_fed(failed):
        fed, failed = failed, failed * 2
    failed = min(failed, most + 1)
    while failed - fed > 1:
        middle = (fed + failed) // 2
        if is_fed(middle):
            fed = middle
        else:
            failed = middle
    return fed


@contextmanager
def _feedline(stage: Stage, folder: Path, model: Model) -> Iterator[Opened]:
    with ExitStack() as running:
        address, pid = lanes.loader(running, folder, stage.scratch, "tcp", "--memory", model.memory)
        yield "feedline_loader", {"address": address, "prefetch_bytes": model.prefetch_bytes}, (pid,)


@contextmanager
def _tf_data_service(model: Model) -> Iterator[Opened]:
    with tf_data_service.serving() as (address, pid):
        # All accelerators share a job, as the ranks of one training do.
        options = {"address": address, "compression": None, "pipeline": model.pipeline, "job": model.name}
        yield "tf_data_service", options, (pid,)
