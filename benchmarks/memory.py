"""Whether memory is flat: what the processes of a loader and its trainer have after each of three epochs.

Two datasets are served, one after the other: 13 subjects of 24 GB in all, which are sparse, so that they need no disk
but cost what others cost once they are read; and a folder of JPEG files. Every sample must come once in every epoch,
with the label that it had before.

    python -m benchmarks.memory                 24 GB three times: some minutes
    python -m benchmarks.memory --gb 2 --photographs 500

Needs the extras server and images. MB are 10^6 bytes. A process has memory of its own (anon), pages of files that it
has mapped (file; the kernel takes them back when it likes) and pages of the arena that batches are in (shmem; the same
ones in every process of the loader).
"""

import argparse
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeAlias

import numpy as np
import psutil

from benchmarks.consumer import ROOT, quiet
from benchmarks.peers.feedline_loader import serving

EPOCHS = 3
SUBJECTS = 13
MATRIX = (64, 64)
CLASSES = 5
BATCH_NBYTES = 4 << 20
MB = 1e6

PREFETCH = 16
"""Batches wanted ahead. Left to itself a trainer wants as many as the way to its loader is long, up to 256 MiB: on a
busy machine it would learn that the way got longer, which is growth but no leak."""

PARTS = {"rss": "VmRSS", "anon": "RssAnon", "file": "RssFile", "shmem": "RssShmem", "most": "VmHWM"}
"""What is shown of a process, and what the kernel calls it; `most` is the largest rss it ever had."""

Used: TypeAlias = Mapping[str, float]
"""MB by part."""


@dataclass(frozen=True, slots=True)
class Epoch:
    """After an epoch: what each process had."""

    number: int
    seconds: float
    processes: Mapping[str, Used]

    def total(self, *names: str) -> float:
        """Memory of their own of these processes, and the arena once."""
        chosen = [used for name, used in self.processes.items() if name.startswith(names)]
        return sum(used["anon"] for used in chosen) + max(used["shmem"] for used in chosen)


# ---- data ----


def write_subjects(folder: Path, nbytes: int) -> Path:
    """Pairs of files of one subject: matrices that are all zero and take no room, and a class of each."""
    folder.mkdir()
    rows = nbytes // (SUBJECTS * int(np.prod(MATRIX)) * 4)
    for subject in range(SUBJECTS):
        with (folder / f"s{subject:02}_x.npy").open("wb") as file:
            header = {"descr": "<f4", "fortran_order": False, "shape": (rows, *MATRIX)}
            np.lib.format.write_array_header_1_0(file, header)
            file.truncate(file.tell() + rows * int(np.prod(MATRIX)) * 4)
        first = subject * rows
        np.save(folder / f"s{subject:02}_y.npy", np.arange(first, first + rows, dtype=np.int64) % CLASSES)
    (folder / "loader.toml").write_text('[datasets.d]\nkind = "subjects"\n')
    return folder / "loader.toml"


def write_photographs(folder: Path, photographs: int) -> Path:
    """JPEGs in a folder for each class."""
    from benchmarks import images

    per_class = -(-photographs // CLASSES)
    images.write(folder / "all", CLASSES * per_class, (500, 375))
    for number, path in enumerate(sorted((folder / "all" / "images").glob("*.jpg"))):
        of_class = folder / "data" / f"class-{number // per_class}"
        of_class.mkdir(parents=True, exist_ok=True)
        path.rename(of_class / path.name)
    text = f'[datasets.d]\nkind = "class_folders"\npath = "{folder / "data"}"\nsize = [224, 224]\n'
    (folder / "loader.toml").write_text(text)
    return folder / "loader.toml"


# ---- the trainer, a process of its own ----


def train(address: str) -> None:
    """An epoch for every line that is read; says when it is over."""
    import feedline

    with feedline.connect(address) as loader:
        info = loader.dataset()
        (view,) = info.views
        samples = info.views[view]
        shape = next(column.shape for column in info.columns if column.name == "x")
        dtype = next(column.dtype for column in info.columns if column.name == "x")
        rows = max(1, BATCH_NBYTES // (int(np.prod(shape)) * dtype.itemsize))
        classes = np.zeros(samples, np.int64)
        for epoch, _ in enumerate(sys.stdin):
            seen = np.zeros(samples, np.int64)
            for batch in loader.epoch(epoch, batch_size=rows, seed=1, prefetch=PREFETCH):
                x, y = batch
                assert x.shape == (batch.rows, *shape)
                seen[batch.ids] += 1
                if epoch and not np.array_equal(classes[batch.ids], y):
                    raise SystemExit(f"{batch!r} has other labels than in the first epoch")
                classes[batch.ids] = y
            if not (seen == 1).all():
                raise SystemExit(f"epoch {epoch} did not deliver every sample once")
            print(json.dumps({"samples": samples}), flush=True)


def watched(config: Path, scratch: Path, workers: int) -> Iterator[Epoch]:
    """Serve it for the epochs, and look at the processes after each."""
    with serving(config, scratch, "--workers", str(workers)) as (address, pid):
        command = [sys.executable, "-m", "benchmarks.memory", "--train", address]
        with subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, cwd=ROOT, env=quiet()
        ) as trainer:
            assert trainer.stdin is not None
            assert trainer.stdout is not None
            for number in range(1, EPOCHS + 1):
                began = time.perf_counter()
                trainer.stdin.write("go\n")
                trainer.stdin.flush()
                if not trainer.stdout.readline():
                    raise SystemExit(f"the trainer ended with code {trainer.wait()}")
                children = psutil.Process(pid).children()
                pids = {"loader": pid} | {f"loader, worker {at}": child.pid for at, child in enumerate(children, 1)}
                processes = {name: used(one) for name, one in (pids | {"trainer": trainer.pid}).items()}
                yield Epoch(number, time.perf_counter() - began, processes)


def used(pid: int) -> Used:
    """What a process has now."""
    fields = dict(line.split(":", 1) for line in Path(f"/proc/{pid}/status").read_text().splitlines())
    return {part: int(fields[name].split()[0]) * 1024 / MB for part, name in PARTS.items()}


# ---- the table ----


def show(epochs: Sequence[Epoch]) -> None:
    print(f"{'':<22}" + "".join(f"{f'epoch {one.number} ({one.seconds:.0f} s)':>34}" for one in epochs))
    print(f"{'MB':<22}" + f"{'  rss  anon  file shmem  most':>34}" * len(epochs))
    for name in epochs[0].processes:
        cells = ["".join(f"{one.processes[name][part]:6.0f}" for part in PARTS) for one in epochs]
        print(f"{name:<22}" + "".join(f"{cell:>34}" for cell in cells))
    first, last = epochs[0], epochs[-1]
    for who in ("loader", "trainer"):
        grown = last.total(who) - first.total(who)
        print(f"{who}: {last.total(who):.0f} MB besides mapped files, {grown:+.0f} MB since the first epoch")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--gb", type=float, default=24.0, help="of the subjects (default 24)")
    parser.add_argument("--photographs", type=int, default=2000, help="JPEG files (default 2000)")
    parser.add_argument("--workers", type=int, default=2, help="of the loader (default 2)")
    parser.add_argument("--train", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.train:
        train(arguments.train)
        return
    with tempfile.TemporaryDirectory(prefix="feedline-bench-") as temporary:
        scratch = Path(temporary)
        subjects = write_subjects(scratch / "subjects", int(arguments.gb * 1e9))
        print(f"{SUBJECTS} subjects of {arguments.gb:g} GB; {psutil.virtual_memory().available / 1e9:.1f} GB are free")
        show(list(watched(subjects, scratch, arguments.workers)))
        photographs = write_photographs(scratch / "photographs", arguments.photographs)
        print(f"\n{arguments.photographs} photographs, decoded and resized")
        show(list(watched(photographs, scratch, arguments.workers)))


if __name__ == "__main__":
    main()
