"""What a start costs: of a worker, and of a loader that serves a Keras Sequence with two workers.

The first is told in times of importing numpy alone, in CPU seconds. The second is told in times of importing TensorFlow
once, in CPU seconds of all processes and in seconds on the clock, until both workers are ready: one of them imports it
alone, to say what is served, and the other one after it. Each number is the median of some runs, taken in turn.

    python -m benchmarks.start                  two minutes on a quiet machine
"""

import argparse
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Callable
from pathlib import Path

from benchmarks.consumer import ROOT, quiet
from benchmarks.measured import tree_cpu_s
from benchmarks.peers.feedline_loader import serving

SEQUENCE = """
import keras
import numpy as np
import tensorflow

class Batches(keras.utils.PyDataset):
    def __len__(self):
        return 20

    def __getitem__(self, index):
        return np.full((32, 8), index), np.zeros(32)

made = Batches()
"""

Cost = tuple[float, float]
"""CPU seconds, and seconds on the clock."""


def running(code: str) -> Cost:
    """What a new interpreter takes to run this."""
    before, began = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter()
    subprocess.run([sys.executable, "-c", code], cwd=ROOT, env=quiet(), check=True)
    seconds, after = time.perf_counter() - began, resource.getrusage(resource.RUSAGE_CHILDREN)
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime, seconds


def starting() -> Cost:
    """What a loader takes until both of two workers are ready to serve a Keras Sequence."""
    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / "sequence.py").write_text(SEQUENCE)
        toml = Path(folder) / "loader.toml"
        toml.write_text('[datasets.d]\nobject = "sequence:made"\n')
        began = time.perf_counter()
        with serving(toml, Path(folder), "--workers", "2") as (_, pid):
            return tree_cpu_s(pid), time.perf_counter() - began


MEASURED: dict[str, Callable[[], Cost]] = {
    "numpy": lambda: running("import numpy"),
    "a worker": lambda: running("import feedline_server.workers.worker"),
    "TensorFlow": lambda: running("import keras, tensorflow"),
    "a loader, until both workers are ready": starting,
}


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=5, metavar="N", help="of each, in turn (default 5)")
    args = parser.parse_args()
    costs: defaultdict[str, list[Cost]] = defaultdict(list)
    for name, measure in MEASURED.items():
        measure()  # files come into the page cache, and Python compiles what it has not
        costs[name] = []
    for _ in range(args.runs):
        for name, measure in MEASURED.items():
            costs[name].append(measure())
    middle = {
        name: tuple(statistics.median(one[which] for one in found) for which in (0, 1)) for name, found in costs.items()
    }
    for name, (cpu_s, seconds) in middle.items():
        print(f"{name:<40} {cpu_s:6.2f} CPU s {seconds:6.2f} s")
    for name, to in (("a worker", "numpy"), ("a loader, until both workers are ready", "TensorFlow")):
        cpu, clock = (middle[name][which] / middle[to][which] for which in (0, 1))
        print(f"{name:<40} {cpu:6.2f} times {to} in CPU seconds, {clock:.2f} on the clock")


if __name__ == "__main__":
    main()
