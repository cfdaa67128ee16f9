"""What a start costs: of a trainer, of a worker, of a loader of columns and of one that serves a Keras Sequence.

Each is told in times of what it cannot do without, in CPU seconds and on the clock: `import feedline` in times of grpc,
protobuf and numpy, a worker and a loader of columns (one worker, until it serves) of numpy, a loader of a Sequence
(until both of two workers are ready, and until a trainer that was there has its first batch) of TensorFlow. `connect`
and the first batch of a loader that serves are told in seconds. Each number is the median of some runs, taken in turn.
Row 19 of the suite is the same.

    python -m benchmarks.start                  three minutes on a quiet machine
    python -m benchmarks.start --without-tensorflow
"""

import argparse
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np

from benchmarks.consumer import ROOT, quiet
from benchmarks.measured import tree_cpu_s
from benchmarks.pairs import rounds
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

FIRST_BATCH = """
import sys, time
import feedline

began, cpu = time.perf_counter(), time.process_time()
with feedline.connect(sys.argv[1], timeout_s=300) as loader:
    next(loader.epoch(0, batch_size=%d))
    print(time.process_time() - cpu, time.perf_counter() - began)
"""

IMPORTED = (
    "import grpc, google.protobuf.message, google.protobuf.descriptor_pool, google.protobuf.symbol_database, "
    "google.protobuf.internal.builder, numpy"
)

Cost = tuple[float, float]
"""CPU seconds, and seconds on the clock."""


def running(code: str) -> Cost:
    """What a new interpreter takes to run this."""
    before, began = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter()
    subprocess.run([sys.executable, "-c", code], cwd=ROOT, env=compiled(), check=True)
    seconds, after = time.perf_counter() - began, resource.getrusage(resource.RUSAGE_CHILDREN)
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime, seconds


def compiled() -> dict[str, str]:
    """The environment, in which Python keeps what it has compiled, as of a package that pip installed."""
    return quiet() | {"PYTHONDONTWRITEBYTECODE": "", "PYTHONPYCACHEPREFIX": str(Path(tempfile.gettempdir()) / "pyc")}


def first_batch(address: str, rows: int) -> Cost:
    """What a trainer takes from `connect` to its first batch; its imports are behind it."""
    command = [sys.executable, "-c", FIRST_BATCH % rows, address]
    said = subprocess.run(command, cwd=ROOT, env=compiled(), check=True, stdout=subprocess.PIPE, text=True).stdout
    cpu_s, seconds = map(float, said.split())
    return cpu_s, seconds


def columns(folder: Path) -> Path:
    """A dataset of its own folder in this one, where a loader writes its log and its port."""
    (folder / "data").mkdir()
    np.save(folder / "data" / "x.npy", np.zeros((1000, 1024), np.float32))
    return folder / "data"


def starting_with_columns() -> Cost:
    """What a loader of columns takes until it serves."""
    with tempfile.TemporaryDirectory() as folder:
        data = columns(Path(folder))
        began = time.perf_counter()
        with serving(data, Path(folder), "--workers", "1") as (_, pid):
            return tree_cpu_s(pid), time.perf_counter() - began


def connecting() -> Cost:
    """The first batch of a loader that has served others."""
    with (
        tempfile.TemporaryDirectory() as folder,
        serving(columns(Path(folder)), Path(folder), "--workers", "1") as (address, _),
    ):
        first_batch(address, 8)
        return first_batch(address, 8)


def sequence(folder: Path) -> Path:
    """What serves a Keras Sequence."""
    (folder / "sequence.py").write_text(SEQUENCE)
    toml = folder / "loader.toml"
    toml.write_text('[datasets.d]\nobject = "sequence:made"\n')
    return toml


def starting() -> Cost:
    """What a loader takes until both of two workers are ready to serve a Keras Sequence."""
    with tempfile.TemporaryDirectory() as folder:
        toml = sequence(Path(folder))
        began = time.perf_counter()
        with serving(toml, Path(folder), "--workers", "2") as (_, pid):
            return tree_cpu_s(pid), time.perf_counter() - began


def first_of_sequence() -> Cost:
    """What a loader of one worker takes until a trainer that was there has the first batch of a Keras Sequence."""
    import feedline

    with tempfile.TemporaryDirectory() as folder:
        toml = sequence(Path(folder))
        began = time.perf_counter()
        with (
            serving(toml, Path(folder), "--workers", "1") as (address, pid),
            feedline.connect(address, timeout_s=300) as loader,
        ):
            next(loader.epoch(0))
            return tree_cpu_s(pid), time.perf_counter() - began


MEASURED: dict[str, Callable[[], Cost]] = {
    "grpc, protobuf and numpy": lambda: running(IMPORTED),
    "import feedline": lambda: running("import feedline"),
    "numpy": lambda: running("import numpy"),
    "a worker": lambda: running("import feedline_server.workers.worker"),
    "a loader of columns, until it serves": starting_with_columns,
    "connect and the first batch": connecting,
    "TensorFlow": lambda: running("import keras, tensorflow"),
    "a loader, until both workers are ready": starting,
    "a loader, until the first batch of a Sequence": first_of_sequence,
}

TOLD_IN = {
    "import feedline": "grpc, protobuf and numpy",
    "a worker": "numpy",
    "a loader of columns, until it serves": "numpy",
    "a loader, until both workers are ready": "TensorFlow",
    "a loader, until the first batch of a Sequence": "TensorFlow",
}


def measured(runs: int, *, with_tensorflow: bool) -> dict[str, list[Cost]]:
    """All of them, in turn."""
    chosen = dict(list(MEASURED.items())[: None if with_tensorflow else -3])
    for measure in chosen.values():
        measure()  # files come into the page cache, and Python compiles what it has not
    return rounds(chosen, runs)


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=5, metavar="N", help="of each, in turn (default 5)")
    parser.add_argument("--without-tensorflow", action="store_true", help="leave out what imports it")
    args = parser.parse_args()
    costs = measured(args.runs, with_tensorflow=not args.without_tensorflow)
    middle = {
        name: tuple(statistics.median(one[which] for one in found) for which in (0, 1)) for name, found in costs.items()
    }
    for name, (cpu_s, seconds) in middle.items():
        print(f"{name:<40} {cpu_s:7.3f} CPU s {seconds:7.3f} s")
    for name, to in TOLD_IN.items():
        if name not in middle:
            continue
        cpu, clock = (middle[name][which] / middle[to][which] for which in (0, 1))
        print(f"{name:<40} {cpu:6.2f} times {to} in CPU seconds, {clock:.2f} on the clock")


if __name__ == "__main__":
    main()
