"""Rows 2, 3 and 8: against loaders that run inside the trainer, on the same file in the page cache.

They have no way to go: what they deliver was copied within the trainer's processes, and by threads it was copied once.
feedline's batches come from another process, over TCP as from another host; where that is the limit its shm lane, which
is what a trainer on the loader's host has by itself, is shown as well.
"""

from collections.abc import Collection, Iterator, Mapping
from contextlib import ExitStack
from dataclasses import dataclass

from benchmarks import lanes
from benchmarks.lines import Bound, Line
from benchmarks.stage import Contestant, Outcome, Stage, say

WORKERS = 2

EPOCH_NBYTES = 512 << 20
"""So that peers that pay at the start of every epoch are not measured by it."""

SMALL_NBYTES = 64 << 20
"""A million rows of 64 B."""

SMALL = ((64, 4096), (64, 32768), (512, 4096))
"""Bytes of a row, and rows of a batch."""


@dataclass(frozen=True, slots=True)
class Shape:
    """Rows and batches, and how torch is asked to read them."""

    row_nbytes: int
    batch: int
    torch: str
    torch_bound: Bound

    def __str__(self) -> str:
        return f"{self.row_nbytes:,} B rows, batches of {self.batch}"


SHAPES = (
    Shape(4096, 1024, "torch DataLoader, 2 workers, its default", Bound(">=", 3.0, 4.0)),
    Shape(150528, 128, "torch DataLoader, 2 workers, batched", Bound(">=", 1.0, 1.5)),
)

PEERS: dict[str, tuple[str, dict[str, object]]] = {
    "torch DataLoader, 2 workers, its default": ("torch_loader", {"workers": WORKERS, "pipeline": "samples"}),
    "torch DataLoader, 2 workers, batched": ("torch_loader", {"workers": WORKERS, "pipeline": "batched"}),
    "grain, its default": ("grain_loader", {"workers": 0, "threads": None, "pipeline": "samples"}),
    "grain, 2 workers, batched": ("grain_loader", {"workers": WORKERS, "threads": 0, "pipeline": "batched"}),
    "MosaicML streaming, 2 workers": ("streaming_loader", {"workers": WORKERS}),
    "Keras PyDataset, 2 workers": (
        "keras_dataset", {"workers": WORKERS, "processes": True, "pipeline": "samples"},
    ),
    "Keras PyDataset, 2 workers, batched": (
        "keras_dataset", {"workers": WORKERS, "processes": True, "pipeline": "batched"},
    ),
    "Keras PyDataset, 2 threads, batched": (
        "keras_dataset", {"workers": WORKERS, "processes": False, "pipeline": "batched"},
    ),
}  # fmt: skip

THREADS = {"grain, its default", "Keras PyDataset, 2 threads, batched"}
"""What these do is bound by memory alone, as a bare gather is."""


def measure(stage: Stage, rows: Collection[int]) -> Iterator[Line]:
    if 8 in rows:
        yield from _small(stage)
    if 2 in rows or 3 in rows:
        yield from _local(stage)


def _local(stage: Stage) -> Iterator[Line]:
    for shape in SHAPES[: 1 if stage.scale.is_quick else None]:
        say(f"  {shape}")
        outcome = _contest(stage, shape.row_nbytes, shape.batch, PEERS, nbytes=EPOCH_NBYTES, by=("tcp", "shm"))
        for peer in PEERS:
            if peer.startswith("torch"):
                bound = shape.torch_bound if peer == shape.torch else None
                yield outcome.line(2, f"{peer}; {shape}", "feedline, tcp", peer, bound=bound)
                continue
            bound = Bound(">=", 1.0, 2.0)
            yield outcome.line(3, f"{peer}; {shape}", "feedline, tcp", peer, bound=bound)
            if peer in THREADS:
                yield outcome.line(3, f"{peer}, against the shm lane; {shape}", "feedline, shm", peer, bound=bound)


def _small(stage: Stage) -> Iterator[Line]:
    torch = "torch DataLoader, its default"
    for row_nbytes, batch in SMALL[: 1 if stage.scale.is_quick else None]:
        what = f"{row_nbytes} B rows, batches of {batch:,}"
        say(f"  {what}")
        peers = {torch: ("torch_loader", {"workers": 0, "pipeline": "samples"})}
        outcome = _contest(stage, row_nbytes, batch, peers, nbytes=SMALL_NBYTES, by=("tcp", "shm"))
        for lane in ("tcp", "shm"):
            yield outcome.line(
                8, f"{lane} lane, {what}", f"feedline, {lane}", torch, bound=Bound(">=", 50.0, 100.0),
                unit="Mrow/s", of=lambda taken: taken.rows_per_s / 1e6,
            )  # fmt: skip


def _contest(
    stage: Stage,
    row_nbytes: int,
    batch: int,
    peers: Mapping[str, tuple[str, dict[str, object]]],
    *,
    nbytes: int,
    by: tuple[str, ...],
) -> Outcome:
    folder = stage.samples(row_nbytes, nbytes)
    with ExitStack() as running:
        contestants = lanes.contestants(running, folder, stage.scratch, by)
        contestants |= {name: Contestant(kind, options) for name, (kind, options) in peers.items()}
        return lanes.absent(stage.contest(folder, batch, contestants))
