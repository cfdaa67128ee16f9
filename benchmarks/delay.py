"""What a long way to the loaders costs: throughput over a line of 20 ms each way, against the same line without delay.

A real loader, a delaying line in a process of its own (tests/faults/proxy.py), and a trainer in another that takes
batches as fast as they come. Both lines are measured in turn, several times, so that a machine that gets slower halfway
does not decide. For batches of several sizes: small ones are bound by how many are asked for ahead, large ones by
bytes. The tcp lane would go past the line, so batches come by gRPC.

    python benchmarks/delay.py                     about two minutes
    python benchmarks/delay.py --delay-ms 50 --pairs 5

Needs the server extra.
"""

import argparse
import contextlib
import json
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

ROOT = Path(__file__).parent.parent
ROW_NBYTES = 4096
SAMPLES = 16384

BATCHES = {"4 KiB": 1, "64 KiB": 16, "1 MiB": 256, "4 MiB": 1024}
"""Rows of 4 KiB in a batch."""

SETTLE_S = 2.0
"""Until the window has grown; at 20 ms it doubles each 40 ms."""


def train(address: str, rows: int, seconds: float, prefetch: int | None) -> dict[str, Any]:
    """Take batches for that long after a warm-up; batches and bytes a second."""
    import feedline

    with feedline.connect(address) as loader:
        feed = loader.feed(batch_size=rows, seed=1, prefetch=prefetch)

        def batches() -> Iterator[Any]:
            while True:
                yield from feed

        coming = batches()
        count, began = 0, time.perf_counter()
        while time.perf_counter() - began < SETTLE_S:
            next(coming)
        began = time.perf_counter()
        while time.perf_counter() - began < seconds:
            next(coming)
            count += 1
        wall = time.perf_counter() - began
        ahead = int(repr(feed).partition("buffered=")[2].partition("/")[2].split()[0])
    return {"batches_per_s": count / wall, "mb_per_s": count * rows * ROW_NBYTES / wall / 1e6, "ahead": ahead}


@contextlib.contextmanager
def loader(folder: Path) -> Iterator[str]:
    port_file = folder.parent / "port"
    command = [sys.executable, "-m", "feedline_server", "serve", str(folder), "--listen", "127.0.0.1:0"]
    command += ["--port-file", str(port_file), "--log-level", "error", "--no-tcp-lane", "--no-shm-lane"]
    process = subprocess.Popen(command)
    try:
        deadline = time.monotonic() + 60
        while not port_file.exists():
            if process.poll() is not None or time.monotonic() > deadline:
                raise SystemExit("the loader did not start")
            time.sleep(0.05)
        yield f"127.0.0.1:{port_file.read_text().strip()}"
    finally:
        process.terminate()
        process.wait(30)


@contextlib.contextmanager
def line(address: str, delay_ms: float, listen: str = "127.0.0.1:0") -> Iterator[str]:
    command = [sys.executable, str(ROOT / "tests/faults/proxy.py"), address, "--delay-ms", str(delay_ms)]
    command += ["--listen", listen]
    process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    assert process.stdin is not None
    try:
        yield process.stdout.readline().strip()
    finally:
        process.stdin.close()
        process.wait(30)


def run(address: str, rows: int, asked: argparse.Namespace) -> dict[str, Any]:
    command = [sys.executable, __file__, "--address", address, "--rows", str(rows), "--seconds", str(asked.seconds)]
    if asked.prefetch is not None:
        command += ["--prefetch", str(asked.prefetch)]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
    result: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return result


def compare(asked: argparse.Namespace) -> None:
    with tempfile.TemporaryDirectory(prefix="feedline-bench-") as scratch:
        folder = Path(scratch) / "samples"
        folder.mkdir()
        np.save(folder / "x.npy", np.zeros((SAMPLES, ROW_NBYTES // 4), np.float32))
        np.save(folder / "y.npy", np.arange(SAMPLES))
        table = {}
        print(f"{'batch':<8}{'near MB/s':>11}{'far MB/s':>11}{'far/near':>10}{'(min - max)':>16}{'ahead':>7}")
        with loader(folder) as address, line(address, 0) as near, line(address, asked.delay_ms) as far:
            for name in asked.batches:
                rows = BATCHES[name]
                pairs = [(run(near, rows, asked), run(far, rows, asked)) for _ in range(asked.pairs)]
                ratios = [b["mb_per_s"] / a["mb_per_s"] for a, b in pairs]
                table[name] = row = {
                    "near_mb_per_s": statistics.median(a["mb_per_s"] for a, _ in pairs),
                    "far_mb_per_s": statistics.median(b["mb_per_s"] for _, b in pairs),
                    "ratio": statistics.median(ratios),
                    "ahead": max(b["ahead"] for _, b in pairs),
                }
                spread = f"({min(ratios):.2f} - {max(ratios):.2f})"
                print(
                    f"{name:<8}{row['near_mb_per_s']:>11.1f}{row['far_mb_per_s']:>11.1f}{row['ratio']:>10.2f}"
                    f"{spread:>16}{row['ahead']:>7}",
                    flush=True,
                )
        if asked.json:
            asked.json.write_text(json.dumps(table, indent=2) + "\n")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--delay-ms", type=float, default=20.0, help="each way (default 20)")
    parser.add_argument("--batches", nargs="+", choices=BATCHES, default=[*BATCHES], help="sizes (default: all)")
    parser.add_argument("--pairs", type=int, default=3, help="runs of each line, in turn (default 3)")
    parser.add_argument("--seconds", type=float, default=3.0, help="length of a run (default 3)")
    parser.add_argument("--prefetch", type=int, help="batches asked ahead (default: learnt)")
    parser.add_argument("--json", type=Path, help="write the table here as well")
    parser.add_argument("--address", help=argparse.SUPPRESS)
    parser.add_argument("--rows", type=int, help=argparse.SUPPRESS)
    asked = parser.parse_args()
    if asked.address:
        print(json.dumps(train(asked.address, asked.rows, asked.seconds, asked.prefetch)))
    else:
        compare(asked)


if __name__ == "__main__":
    main()
