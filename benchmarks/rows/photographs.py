"""Row 21: photographs for a model that sees 224 x 224, against what reads them in the trainer.

torchvision in a DataLoader and tf.data decode on the same cores, in as many processes or threads as feedline has
workers. They resize to the same size (torchvision as Pillow does, with the mean of an area), and are not checked for
content: row 9 checks feedline's pixels. Of large photographs feedline is measured with `decode = "reduced"` as well.
Random resized crops are what trainings on ImageNet begin with; tf.data decodes only the part.
"""

from collections.abc import Collection, Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

from benchmarks import lanes
from benchmarks.lines import Bound, Line
from benchmarks.measured import Pace
from benchmarks.stage import Contestant, Stage, say

WORKERS = 2

BATCH = 64

PACE = Pace(seconds=3.0, settle_s=1.0)
"""A batch of large photographs takes half a second."""

AHEAD = 4
"""Batches that feedline's trainer reads ahead, as two workers of DataLoader do: what it has asked for is decoded in the
next contestant's second of settling. Its default of 256 MB would be 1,700 photographs, seconds of that one's turn."""

SIZE = (224, 224)

OURS, REDUCED = "feedline, shm", 'feedline, shm, decode = "reduced"'
TORCH, TF = f"torchvision, DataLoader, {WORKERS} workers", f"tf.data, {WORKERS} threads"

HEAD = '[datasets.photographs]\nkind = "images"\npath = "."\n'

RESIZED = f"{HEAD}size = {list(SIZE)}\n"

CROPPED = f"""{HEAD}
[[datasets.photographs.transforms]]
name = "random_resized_crop"
column = "x"
size = {list(SIZE)}
"""


@dataclass(frozen=True, slots=True)
class Case:
    """Photographs, and what is made of them."""

    photograph: tuple[int, int]
    count: int
    copies: int
    """Files of each: an epoch must be of several batches, for a DataLoader reads ahead no further than to its end."""
    pipeline: str
    """What the peers do."""
    declared: dict[str, str]
    """What feedline does: a loader.toml by contestant."""
    bounds: dict[str, Bound]
    """By peer."""


CASES = {
    "resized": Case((500, 375), 600, 1, "whole", {OURS: RESIZED}, {TORCH: Bound(">=", 1.0), TF: Bound(">=", 1.0)}),
    "resized, large": Case(
        (2000, 1500), 32, 12, "whole", {OURS: RESIZED, REDUCED: f'{RESIZED}decode = "reduced"\n'},
        {TORCH: Bound(">=", 1.0), TF: Bound(">=", 1.0)},
    ),
    "a random resized crop": Case(
        (500, 375), 600, 1, "random crop", {OURS: CROPPED}, {TORCH: Bound(">=", 1.0), TF: Bound(">=", 0.8)}
    ),
}  # fmt: skip


def measure(stage: Stage, rows: Collection[int]) -> Iterator[Line]:
    try:
        from benchmarks import images
    except ImportError as error:
        yield Line(21, "JPEG to 224 x 224", "images/s", why_not=str(error))
        return
    for title, case in CASES.items():
        what = f"JPEG {case.photograph[0]} x {case.photograph[1]} to {SIZE[0]} x {SIZE[1]}, {title}"
        say(f"  {what}")
        folder = stage.scratch / f"photographs-{case.photograph[0]}"
        if not folder.exists():
            images.write(folder, BATCH if stage.scale.is_quick else case.count, case.photograph, case.copies)
        with ExitStack() as running:
            contestants = {name: _ours(running, stage, folder, toml) for name, toml in case.declared.items()}
            local = {"size": SIZE, "workers": WORKERS, "pipeline": case.pipeline, "is_unchecked": True}
            contestants[TORCH] = Contestant("torchvision_loader", local)
            contestants[TF] = Contestant("tf_data_images", local)
            outcome = stage.contest(folder, BATCH, contestants, PACE)
        pairs = [(ours, peer, bound) for ours in case.declared for peer, bound in case.bounds.items()]
        if REDUCED in case.declared:
            pairs.append((REDUCED, OURS, Bound(">=", 1.5)))
        for ours, peer, bound in pairs:
            yield outcome.line(
                21, f"{what}{', reduced' if ours == REDUCED else ''}: {peer}", ours, peer, bound=bound,
                unit="images/s", of=lambda taken: taken.rows_per_s,
            )  # fmt: skip


def _ours(running: ExitStack, stage: Stage, folder: Path, declared: str) -> Contestant:
    toml = folder / f"{len(list(folder.glob('*.toml')))}.toml"
    toml.write_text(declared)
    address, pid = lanes.loader(running, toml, stage.scratch, "shm", "--workers", str(WORKERS))
    return Contestant("feedline_loader", {"address": address, "prefetch": AHEAD, "is_unchecked": True}, (pid,))
