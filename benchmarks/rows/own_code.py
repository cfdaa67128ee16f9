"""Row 15: samples of the operator's own code that cost next to nothing, so that what is done beside them shows.

Both sides run the same object, unchanged, in two workers: rows of 4 KiB out of an array, and minGPT's characters as
tensors of torch.
"""

from collections.abc import Collection, Iterator
from contextlib import ExitStack
from pathlib import Path

from benchmarks import lanes
from benchmarks.consumer import ROOT
from benchmarks.lines import Bound, Line
from benchmarks.stage import Contestant, Stage, say

WORKERS = 2

ROW_NBYTES = 4096

BATCH = 64
"""minGPT's."""

BOUND = Bound(">=", 1.0)

OBJECTS = {"rows of 4 KiB": ("Rows", "samples"), "minGPT's characters": ("Chars", "chars")}
"""What is served of benchmarks/peers/torch_loader, and what its peer is asked for."""


def measure(stage: Stage, rows: Collection[int]) -> Iterator[Line]:
    folder = stage.samples(ROW_NBYTES)
    for what, (name, pipeline) in OBJECTS.items():
        say(f"  {what}")
        options = {"is_unchecked": name == "Chars"}
        torch = f"torch DataLoader, {WORKERS} workers"
        with ExitStack() as running:
            toml = _declared(stage.scratch / f"{name}.toml", name, folder)
            address, pid = lanes.loader(running, toml, stage.scratch, "shm", "--workers", str(WORKERS))
            contestants = {
                "feedline, shm": Contestant("feedline_loader", {"address": address, **options}, (pid,)),
                torch: Contestant("torch_loader", {"workers": WORKERS, "pipeline": pipeline, **options}),
            }
            outcome = stage.contest(folder, BATCH, contestants)
        yield outcome.line(
            15, f"{what}, batches of {BATCH}", "feedline, shm", torch, bound=BOUND,
            unit="krow/s", of=lambda taken: taken.rows_per_s / 1e3,
        )  # fmt: skip


def _declared(toml: Path, name: str, folder: Path) -> Path:
    arguments = f'arguments = {{file = "{folder / "x.npy"}"}}\n' if name == "Rows" else ""
    toml.write_text(
        f'[datasets.code]\nobject = "benchmarks.peers.torch_loader:{name}"\nmodules = "{ROOT}"\n{arguments}'
    )
    return toml
