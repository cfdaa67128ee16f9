"""Photographs decoded and resized by a loader, against a bare OpenCV loop on the same cores.

Both read the same JPEG files in random order, decode them and resize them to 224 x 224. The loop is as many processes
as the loader has workers; each writes into one array and sends nothing anywhere. The loader's images go over loopback
to a trainer that checks them: the class of an image is its number, and its pixels must have the checksum that plain
OpenCV gave. Rates are taken in turn; beside them stand the CPU seconds of all processes, which other work on the
machine changes less. The loop runs as anybody would write it, and with the memory of decoded images kept, as the loader
keeps it.

    python -m benchmarks.images                 about two minutes
    python -m benchmarks.images --rounds 9 --photo 2000 1500

Needs the extras server and images.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
import zlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

import cv2
import numpy as np
import psutil

from benchmarks.consumer import ROOT, quiet
from benchmarks.measured import Meter, Pace, Stretch, stretch
from benchmarks.pairs import Ratio, ratio, rounds
from benchmarks.peers.feedline_loader import serving

OURS = "feedline"
LOOPS = {
    "bare OpenCV": {},
    "bare OpenCV, memory kept": {
        "MALLOC_MMAP_THRESHOLD_": str(32 << 20),
        "MALLOC_TRIM_THRESHOLD_": str(128 << 20),
        "MALLOC_TOP_PAD_": str(32 << 20),
    },
}
"""The peers, and what they are started with (mallopt(3); the values of feedline_wire.memory)."""

SIZE = (224, 224)
BATCH = 64
AHEAD = 4
"""Batches that the trainer reads ahead. What it has asked for at the end of its turn is decoded in the loop's, and the
default of 256 MB would be 1,700 photographs: most of a second of both cores."""
QUALITY = 90

CONFIG = """
[datasets.photographs]
kind = "images"
path = "."
size = [224, 224]
"""


def write(folder: Path, photographs: int, size: tuple[int, int], copies: int = 1) -> None:
    """JPEGs of structure at every scale, each so many times, a manifest of their numbers as classes, and checksums."""
    draw = np.random.default_rng(0)
    (folder / "images").mkdir(parents=True)
    entries, sums = [], []
    for _ in range(photographs):
        photograph = cv2.imencode(".jpg", _photograph(draw, size), [cv2.IMWRITE_JPEG_QUALITY, QUALITY])[1].tobytes()
        for _ in range(copies):
            path = folder / "images" / f"{len(entries):05}.jpg"
            path.write_bytes(photograph)
            entries.append({"image_id": path.name, "disease_class": len(entries)})
        sums += [zlib.crc32(plain(path))] * copies
    (folder / "manifest.json").write_text(json.dumps(entries))
    (folder / "loader.toml").write_text(CONFIG)
    np.save(folder / "sums.npy", np.array(sums, np.int64))


def _photograph(draw: np.random.Generator, size: tuple[int, int]) -> "np.ndarray[Any, Any]":
    """Noise of halving sizes and strengths, as natural images have it; some 100 KB at 500 x 375."""
    image = np.zeros((size[1], size[0], 3), np.float32)
    for octave in range(2, 8):
        noise = draw.standard_normal((2**octave, 2**octave, 3), np.float32)
        image += cv2.resize(noise, size, interpolation=cv2.INTER_CUBIC) / octave
    return np.clip(image * 60 + 128, 0, 255).astype(np.uint8)


def plain(path: Path, out: "np.ndarray[Any, Any] | None" = None) -> "np.ndarray[Any, Any]":
    """What anybody would write: read, decode, resize, red first."""
    image = cv2.resize(cv2.imread(str(path)), SIZE)
    return cv2.cvtColor(image, cv2.COLOR_BGR2RGB, out)


# ---- the contestants ----


@dataclass(frozen=True, slots=True)
class Taken:
    """What one turn of a contestant got, and the CPU seconds of all its processes."""

    images: int
    seconds: float
    cpu_s: float

    @property
    def rate(self) -> float:
        return self.images / self.seconds

    @property
    def per_cpu_s(self) -> float:
        return self.images / self.cpu_s


@contextmanager
def feedline(folder: Path, workers: int, pace: Pace) -> Iterator[Callable[[], Taken]]:
    import feedline as client

    sums = np.load(folder / "sums.npy")
    with (
        serving(folder / "loader.toml", folder, "--workers", str(workers)) as (address, _),
        client.connect(address) as loader,
    ):
        feed = loader.feed(batch_size=BATCH, seed=1, remainder="drop", prefetch=AHEAD)
        batches = (batch for _ in iter(int, 1) for batch in feed)

        def check(batch: client.Batch) -> tuple[int, int]:
            x, y = batch
            row = int(y[0]) % len(x)
            if zlib.crc32(x[row]) != sums[y[row]]:
                raise SystemExit(f"photograph {y[row]} is not as OpenCV has it")
            return x.nbytes, len(x)

        meter = Meter(())  # the loader is below this process, and so are the loops, which now do nothing

        def turn() -> Taken:
            one: Stretch = stretch(batches, check, pace, meter)
            return Taken(one.rows, one.seconds, one.trainer_cpu_s + one.loader_cpu_s)

        yield turn


@contextmanager
def bare(folder: Path, workers: int, pace: Pace, environment: Mapping[str, str]) -> Iterator[Callable[[], Taken]]:
    command = [sys.executable, "-m", "benchmarks.images", "--loop", str(folder), "--seconds", str(pace.seconds)]
    with ExitStack() as running:
        loops = [
            running.enter_context(_process([*command, "--seed", str(seed)], environment)) for seed in range(workers)
        ]

        def turn() -> Taken:
            for loop in loops:
                assert loop.stdin is not None
                loop.stdin.write(b"go\n")
                loop.stdin.flush()
            taken = [json.loads(loop.stdout.readline()) for loop in loops if loop.stdout is not None]
            return Taken(sum(one["images"] for one in taken), pace.seconds, sum(one["cpu_s"] for one in taken))

        yield turn


@contextmanager
def _process(command: Sequence[str], environment: Mapping[str, str]) -> Iterator["subprocess.Popen[bytes]"]:
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, cwd=ROOT, env={**quiet(), **environment}
    ) as process:
        yield process  # its standard input is closed at the end, and it ends with it


def loop(folder: Path, seconds: float, seed: int) -> None:
    """Decode until the time is over, once for every line that is read."""
    cv2.setNumThreads(1)
    paths = sorted((folder / "images").glob("*.jpg"))
    draw = np.random.default_rng(seed)
    batch = np.empty((BATCH, SIZE[1], SIZE[0], 3), np.uint8)
    me = psutil.Process()
    for _ in sys.stdin:
        cpu = sum(me.cpu_times()[:2])
        until, images = time.perf_counter() + seconds, 0
        while time.perf_counter() < until:
            plain(paths[draw.integers(len(paths))], batch[images % BATCH])
            images += 1
        print(json.dumps({"images": images, "cpu_s": sum(me.cpu_times()[:2]) - cpu}), flush=True)


# ---- the comparison ----


def measure(folder: Path, workers: int, pace: Pace, count: int) -> dict[str, list[Taken]]:
    """All in turn, `count` times."""
    with ExitStack() as running:
        turns = {OURS: running.enter_context(feedline(folder, workers, pace))}
        for name, environment in LOOPS.items():
            turns[name] = running.enter_context(bare(folder, workers, pace, environment))
        rounds(turns, 1)  # imports, page cache
        return rounds(turns, count)


def ratios(taken: dict[str, list[Taken]], peer: str) -> dict[str, Ratio]:
    """feedline divided by one of the loops: images a second, and images a CPU second."""
    ours, theirs = taken[OURS], taken[peer]
    return {
        "images/s": ratio([one.rate for one in ours], [one.rate for one in theirs]),
        "images/CPU s": ratio([one.per_cpu_s for one in ours], [one.per_cpu_s for one in theirs]),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=7, help="of each, in turn (default 7)")
    parser.add_argument("--seconds", type=float, default=5.0, help="length of a turn (default 5)")
    parser.add_argument("--photographs", type=int, default=600, help="files (default 600)")
    parser.add_argument("--photo", type=int, nargs=2, default=(500, 375), help="width and height (default 500 375)")
    parser.add_argument("--workers", type=int, default=len(os.sched_getaffinity(0)), help="processes (default: cores)")
    parser.add_argument("--loop", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--seed", type=int, default=0, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.loop is not None:
        loop(arguments.loop, arguments.seconds, arguments.seed)
        return
    with tempfile.TemporaryDirectory(prefix="feedline-bench-") as scratch:
        folder = Path(scratch) / "photographs"
        write(folder, arguments.photographs, tuple(arguments.photo))
        pace = Pace(arguments.seconds, settle_s=1.0)
        taken = measure(folder, arguments.workers, pace, arguments.rounds)
    for name, turns in taken.items():
        rate, per_cpu_s = median(one.rate for one in turns), median(one.per_cpu_s for one in turns)
        print(f"{name:<26}{rate:8.0f} images/s {per_cpu_s:8.0f} images/CPU s")
    for peer in LOOPS:
        for what, found in ratios(taken, peer).items():
            print(f"feedline / {peer:<26}{what:<14}{found}")


if __name__ == "__main__":
    main()
