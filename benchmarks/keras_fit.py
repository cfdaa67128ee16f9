"""A step of `fit` over a RemoteSequence, in times of one over a local PyDataset(workers=2) of the same arrays.

Both train the same small model, whose step takes 5 ms beside (a callback sleeps, as a GPU computes), in turn: a `fit`
of three epochs each, of which the second and third count. One process for each backend of Keras; the loader is a
process of its own, over TCP on this host. The PyDataset gathers whole batches from the same memory-mapped files by an
order that it shuffles in `on_epoch_end`. Beside the ratio: the part of the remote batches that were there when asked
for.

    python -m benchmarks.keras_fit                  15 minutes on a quiet machine
    python -m benchmarks.keras_fit --backends torch --shapes volumes --rounds 3
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.consumer import ROOT, quiet
from benchmarks.lanes import arguments
from benchmarks.peers.feedline_loader import serving

BACKENDS = ("tensorflow", "jax", "torch")

SHAPES: dict[str, tuple[int, tuple[int, ...], str, int]] = {
    # rows of a batch, shape and dtype of a sample, batches of an epoch
    "rows": (256, (64,), "float32", 90),
    "images": (32, (224, 224, 3), "uint8", 90),
    "volumes": (4, (96, 96, 96, 1), "float32", 45),
}

EPOCHS = 3


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--backends", nargs="+", choices=BACKENDS, default=BACKENDS)
    parser.add_argument("--shapes", nargs="+", choices=SHAPES, default=list(SHAPES))
    parser.add_argument("--rounds", type=int, default=11)
    parser.add_argument("--step-ms", type=float, default=5.0)
    parser.add_argument("--lane", choices=("grpc", "tcp", "shm"), default="tcp")
    parser.add_argument("--one", nargs=2, metavar=("FOLDER", "ADDRESS"), help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.one:
        print(json.dumps(rounds(Path(args.one[0]), args.one[1], args.shapes[0], args.rounds, args.step_ms / 1000)))
        return
    print("| shape of a batch | backend | step, remote / local (min - max) | remote ms | local ms | found ready |")
    print("| --- | --- | --- | --- | --- | --- |")
    with tempfile.TemporaryDirectory() as scratch:
        for shape in args.shapes:
            folder = write(Path(scratch) / shape, shape)
            with serving(folder, Path(scratch), *arguments(args.lane)) as (address, _):
                for backend in args.backends:
                    print(line(shape, backend, measured(args, folder, address, shape, backend)), flush=True)


def write(folder: Path, shape: str) -> Path:
    """The arrays, each row of a number of its own."""
    rows, sample, dtype, steps = SHAPES[shape]
    folder.mkdir()
    x = np.lib.format.open_memmap(folder / "x.npy", mode="w+", dtype=dtype, shape=(rows * steps, *sample))
    x[:] = np.arange(len(x)).reshape(-1, *[1] * len(sample)) % 251
    x.flush()
    np.save(folder / "y.npy", np.arange(len(x), dtype=np.float32)[:, None])
    return folder


def measured(args: argparse.Namespace, folder: Path, address: str, shape: str, backend: str) -> dict[str, list[float]]:
    command = [sys.executable, "-m", "benchmarks.keras_fit", "--one", str(folder), address, "--shapes", shape]
    command += ["--rounds", str(args.rounds), "--step-ms", str(args.step_ms)]
    env = quiet() | {"KERAS_BACKEND": backend, "TF_CPP_MIN_LOG_LEVEL": "3"}
    ran = subprocess.run(command, cwd=ROOT, env=env, stdout=subprocess.PIPE, text=True, check=True)
    found: dict[str, list[float]] = json.loads(ran.stdout.splitlines()[-1])
    return found


def line(shape: str, backend: str, found: dict[str, list[float]]) -> str:
    rows, sample, dtype, _ = SHAPES[shape]
    ratios = [remote / local for remote, local in zip(found["remote"], found["local"], strict=True)]
    ms = {name: statistics.median(found[name]) * 1000 for name in ("remote", "local")}
    return (
        f"| {shape}: {(rows, *sample)} {dtype} | {backend} | {statistics.median(ratios):.2f} "
        f"({min(ratios):.2f} - {max(ratios):.2f}) | {ms['remote']:.1f} | {ms['local']:.1f} | "
        f"{statistics.median(found['ready']):.1%} (least {min(found['ready']):.1%}) |"
    )


# ---- in a process with a backend ----


def rounds(folder: Path, address: str, shape: str, count: int, step_s: float) -> dict[str, list[float]]:
    """Seconds a step of each, and the part found ready, of each round."""
    import keras

    from feedline import RemoteSequence

    rows, sample, _, _ = SHAPES[shape]

    class Local(keras.utils.PyDataset):  # type: ignore[misc]  # keras publishes no types
        def __init__(self) -> None:
            super().__init__(workers=2)
            self.x = np.load(folder / "x.npy", mmap_mode="r")
            self.y = np.load(folder / "y.npy")
            self.order = np.arange(len(self.x))
            self.on_epoch_end()

        def __len__(self) -> int:
            return len(self.order) // rows

        def on_epoch_end(self) -> None:
            np.random.default_rng().shuffle(self.order)

        def __getitem__(self, index: int) -> tuple[Any, Any]:
            ids = self.order[index * rows : (index + 1) * rows]
            return self.x[ids], self.y[ids]

    class Clock(keras.callbacks.Callback):  # type: ignore[misc]
        """Seconds a step, and batches found ready, from the second epoch on."""

        def __init__(self, sequence: Any) -> None:
            super().__init__()
            self.sequence, self.seconds, self.steps, self.began = sequence, 0.0, 0, 0.0
            self.before: Sequence[int] = (0, 0)

        def counters(self) -> tuple[int, int]:
            stats = getattr(self.sequence, "stats", None)
            return (0, 0) if stats is None else (stats.requests, stats.ready)

        def on_epoch_begin(self, epoch: int, logs: Any = None) -> None:
            self.began = time.perf_counter()
            if epoch == 1:
                self.before = self.counters()

        def on_train_batch_end(self, batch: int, logs: Any = None) -> None:
            time.sleep(step_s)

        def on_epoch_end(self, epoch: int, logs: Any = None) -> None:
            if epoch:
                self.seconds += time.perf_counter() - self.began
                self.steps += len(self.sequence)

        def ready(self) -> float:
            requests, ready = (now - then for now, then in zip(self.counters(), self.before, strict=True))
            return ready / requests

    def step(sequence: Any) -> Clock:
        clock = Clock(sequence)
        model.fit(sequence, epochs=EPOCHS, callbacks=[clock], verbose=0)
        return clock

    inputs = keras.Input(sample)
    first = keras.layers.Flatten()(inputs[:, :4] if len(sample) == 1 else inputs[:, :2, :2])
    model = keras.Model(inputs, keras.layers.Dense(1)(keras.ops.cast(first, "float32") / 255))
    model.compile("sgd", "mse")
    found: dict[str, list[float]] = {"remote": [], "local": [], "ready": []}
    with RemoteSequence(address, batch_size=rows, remainder="drop", connect_timeout_s=60) as remote:
        local = Local()
        step(local), step(remote)  # compiles, and brings the file into the page cache
        for _ in range(count):
            clocks = {"remote": step(remote), "local": step(local)}
            for name, clock in clocks.items():
                found[name].append(clock.seconds / clock.steps)
            found["ready"].append(clocks["remote"].ready())
    return found


if __name__ == "__main__":
    os.environ.setdefault("KERAS_BACKEND", "tensorflow")
    main()
