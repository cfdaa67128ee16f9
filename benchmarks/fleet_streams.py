"""What 64 loaders cost a trainer beside 4, in CPU: real loaders, tiny batches. Some eight minutes on two quiet cores.

    python -m benchmarks.fleet_streams [LOADERS [PAIRS]]

All loaders run all the time; trainers that name 4 of them or all read in turn, each a process of its own. A trainer
that is fed computes for 4 ms between batches; one that starves does nothing but ask. CPU seconds are counted, not the
clock; a busy machine shows as loaders that are slower than a trainer asks, whose batches then come from more of them.
"""

import argparse
import json
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from statistics import median

import numpy as np

import feedline
from benchmarks.peers.feedline_loader import serving

FEW, MANY, PAIRS = 4, 64, 3

ROWS, VALUES, BATCH = 1 << 15, 128, 16
"""A batch of 8 KiB."""

STEPS_S = {"fed": 0.004, "starving": 0.0}

SETTLE_S = 30.0
"""Streams that are not needed rest after five seconds; at first, while batches are late, more loaders are asked."""

BATCHES = 2000


def cpu_s() -> float:
    """Of this process, all threads."""
    used = resource.getrusage(resource.RUSAGE_SELF)
    return used.ru_utime + used.ru_stime


def endless(loader: feedline.Loader) -> Iterator[feedline.Batch]:
    """One epoch after the other."""
    epoch = 0
    while True:
        yield from loader.epoch(epoch, batch_size=BATCH, timeout_s=300)
        epoch += 1


def train(target: str, step_s: float) -> dict[str, float]:
    """What a trainer uses: CPU seconds a GB, and from how many loaders it reads at its end."""
    with feedline.connect(target, timeout_s=300) as loader:
        feed = endless(loader)
        until = time.monotonic() + SETTLE_S
        while time.monotonic() < until:
            next(feed)
            time.sleep(step_s)
        before, nbytes, asked = cpu_s(), 0, {one.address: one.asked for one in loader.stats.replicas}
        for _ in range(BATCHES):
            nbytes += sum(array.nbytes for array in next(feed).as_tuple())
            time.sleep(step_s)
        used = cpu_s() - before
        busy = sum(one.asked > asked.get(one.address, 0) for one in loader.stats.replicas)
    return {"s_per_gb": used / nbytes * 1e9, "us_per_batch": used / BATCHES * 1e6, "asked": busy}


def main() -> int:
    """Measure and print; 0."""
    if sys.argv[1:2] == ["train"]:
        print(json.dumps(train(sys.argv[2], float(sys.argv[3]))))
        return 0
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.fleet_streams", description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("loaders", nargs="?", type=int, default=MANY, help=f"beside {FEW} (default {MANY})")
    parser.add_argument("pairs", nargs="?", type=int, default=PAIRS, help=f"turns of each (default {PAIRS})")
    args = parser.parse_args()
    loaders, pairs = args.loaders, args.pairs
    with ExitStack() as running:
        folder = Path(running.enter_context(tempfile.TemporaryDirectory()))
        (folder / "data").mkdir()
        np.save(folder / "data/x.npy", np.random.default_rng(0).random((ROWS, VALUES), np.float32))
        np.save(folder / "data/y.npy", np.arange(ROWS))
        began = time.monotonic()
        many = str(loaders)
        options = ["--replicas", many, "--workers", many, "--memory", f"{8 * loaders}MiB", "--no-shm-lane"]
        addresses, _ = running.enter_context(serving(folder / "data", folder, *options))
        each = addresses.split(",")
        print(f"{loaders} loaders serve after {time.monotonic() - began:.0f} s", flush=True)
        for name, step_s in STEPS_S.items():
            taken: dict[int, list[float]] = {FEW: [], loaders: []}
            for _ in range(pairs):
                for count, costs in taken.items():
                    command = [sys.executable, "-m", "benchmarks.fleet_streams", "train"]
                    done = subprocess.run(
                        [*command, ",".join(each[:count]), str(step_s)], capture_output=True, text=True, check=True
                    )
                    found = json.loads(done.stdout)
                    costs.append(found["s_per_gb"])
                    print(
                        f"  {name}, {count:2} loaders: {found['s_per_gb']:6.1f} CPU s/GB, "
                        f"{found['us_per_batch']:5.0f} us a batch, {found['asked']} asked",
                        flush=True,
                    )
            ratios = [many / few for few, many in zip(taken[FEW], taken[loaders], strict=True)]
            print(f"{name}: {loaders} loaders cost {median(ratios):.2f} times what {FEW} cost ({sorted(ratios)})")
    return 0


if __name__ == "__main__":
    sys.exit(main())
