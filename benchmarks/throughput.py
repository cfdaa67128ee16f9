"""Shuffled batches to a trainer: feedline against tf.data service, in turn, on one machine.

Both serve the same (32, 32, 32, 1) float32 samples out of one .npy file over loopback, shuffled, in batches of 32, to a
trainer in a process of its own that checks every batch: each row carries its id, and its sum must be what was written.
Each run counts the trainer's CPU seconds. The ratios are taken pair by pair, so a machine that gets slower halfway does
not decide.

    python benchmarks/throughput.py                 about two minutes
    python benchmarks/throughput.py --pairs 9 --json throughput.json

Needs the server extra and TensorFlow (pip install 'feedline[demo]').
"""

import argparse
import contextlib
import json
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np

Array: TypeAlias = "np.ndarray[Any, Any]"

SHAPE = (32, 32, 32, 1)
ROW_VALUES = int(np.prod(SHAPE))
BATCH = 32


def write_samples(folder: Path, samples: int) -> None:
    """x[i] begins with i, and its last value makes the row's sum i again, so that content is cheap to check."""
    draw = np.random.default_rng(0)
    x = np.lib.format.open_memmap(folder / "x.npy", mode="w+", dtype="<f4", shape=(samples, *SHAPE))
    flat = x.reshape(samples, ROW_VALUES)
    pattern = draw.integers(-4, 5, ROW_VALUES).astype("<f4")
    pattern[0] = 0
    pattern[-1] = -pattern[:-1].sum()
    flat[:] = pattern
    flat[:, 0] = np.arange(samples)
    x.flush()
    np.save(folder / "y.npy", np.arange(samples, dtype=np.int64) % 6)


def check(x: Array, y: Array) -> None:
    """Raise unless every row is a whole sample and its label is its own."""
    flat = np.asarray(x).reshape(len(x), -1)
    ids = flat[:, 0].astype(np.int64)
    if not np.array_equal(ids % 6, np.asarray(y)) or not np.array_equal(flat[:, -1], np.full(len(x), flat[0, -1])):
        raise SystemExit("a batch arrived with wrong content")
    row = int(ids[0]) % len(flat)
    if abs(float(flat[row].sum(dtype=np.float64)) - float(ids[row])) > 1e-3:
        raise SystemExit("a row arrived with wrong content")


def drain(batches: Iterator[tuple[Any, Any]], seconds: float) -> dict[str, float]:
    """Take batches for that long after a warm-up; bytes, wall and CPU seconds of this process."""
    for _ in range(8):
        next(batches)
    begin, cpu = time.perf_counter(), cpu_seconds()
    nbytes = count = 0
    while time.perf_counter() - begin < seconds:
        x, y = next(batches)
        check(x, y)
        nbytes += x.nbytes
        count += 1
    wall = time.perf_counter() - begin
    return {"gb": nbytes / 1e9, "wall": wall, "cpu": cpu_seconds() - cpu, "batches": count}


def cpu_seconds() -> float:
    used = resource.getrusage(resource.RUSAGE_SELF)
    return used.ru_utime + used.ru_stime


# ---- the trainers, each in a process of its own ----


def train_feedline(address: str, seconds: float) -> dict[str, float]:
    import feedline

    def batches() -> Iterator[tuple[Any, Any]]:
        with feedline.connect(address) as loader:
            for epoch in range(10_000):
                yield from map(feedline.Batch.as_tuple, loader.epoch(epoch, batch_size=BATCH, seed=1))

    return drain(batches(), seconds)


def train_tf_data_service(address: str, seconds: float, folder: Path, compression: str | None) -> dict[str, float]:
    import tensorflow as tf

    samples = len(np.load(folder / "y.npy"))
    header = np.lib.format.open_memmap(folder / "x.npy", mode="r").offset

    def sample(record: "tf.Tensor", label: "tf.Tensor") -> "tuple[tf.Tensor, tf.Tensor]":
        return tf.reshape(tf.io.decode_raw(record, tf.float32), SHAPE), label

    # The worker reads the file once, keeps the samples in memory and shuffles all of them: what the service does best.
    records = tf.data.FixedLengthRecordDataset(str(folder / "x.npy"), ROW_VALUES * 4, header_bytes=header)
    labels = tf.data.Dataset.range(samples).map(lambda i: i % 6)
    data = tf.data.Dataset.zip((records, labels)).map(sample, num_parallel_calls=tf.data.AUTOTUNE).cache()
    data = data.shuffle(samples, reshuffle_each_iteration=True).repeat().batch(BATCH, drop_remainder=True)
    data = data.apply(
        tf.data.experimental.service.distribute(
            processing_mode=tf.data.experimental.service.ShardingPolicy.OFF, service=address, compression=compression
        )
    ).prefetch(tf.data.AUTOTUNE)
    return drain(data.as_numpy_iterator(), seconds)


def serve_tf_data() -> None:
    """A dispatcher and a worker; the address on the first line of standard output, until standard input ends."""
    import tensorflow as tf

    dispatcher = tf.data.experimental.service.DispatchServer()
    worker = tf.data.experimental.service.WorkerServer(
        tf.data.experimental.service.WorkerConfig(dispatcher_address=dispatcher.target.split("://")[1])
    )
    print(dispatcher.target, flush=True)
    sys.stdin.read()
    del worker


# ---- the loaders ----


@contextlib.contextmanager
def feedline_loader(folder: Path, workers: int) -> Iterator[str]:
    port_file = folder.parent / "port"
    command = [sys.executable, "-m", "feedline_server", "serve", str(folder), "--listen", "127.0.0.1:0"]
    command += ["--workers", str(workers), "--port-file", str(port_file), "--log-level", "error"]
    loader = subprocess.Popen(command)
    try:
        deadline = time.monotonic() + 60
        while not port_file.exists():
            if loader.poll() is not None or time.monotonic() > deadline:
                raise SystemExit("the loader did not start")
            time.sleep(0.05)
        yield f"127.0.0.1:{port_file.read_text().strip()}"
    finally:
        loader.terminate()
        loader.wait(30)
        port_file.unlink(missing_ok=True)


@contextlib.contextmanager
def tf_data_service() -> Iterator[str]:
    command = [sys.executable, __file__, "--role", "serve-tf-data"]
    service = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=quiet())
    assert service.stdout is not None
    try:
        yield service.stdout.readline().strip()
    finally:
        service.kill()
        service.wait(30)


def run(role: str, address: str, folder: Path, seconds: float) -> dict[str, float]:
    command = [sys.executable, __file__, "--role", role, "--address", address, "--folder", str(folder)]
    done = subprocess.run(
        [*command, "--seconds", str(seconds)], stdout=subprocess.PIPE, text=True, check=True, env=quiet()
    )
    result: dict[str, float] = json.loads(done.stdout.splitlines()[-1])
    return result


def quiet() -> dict[str, str]:
    return os.environ | {"TF_CPP_MIN_LOG_LEVEL": "3", "CUDA_VISIBLE_DEVICES": ""}


# ---- the comparison ----

PEERS = {"tf-none": "tf.data service, no compression", "tf-auto": "tf.data service, default"}


def compare(arguments: argparse.Namespace) -> None:
    with tempfile.TemporaryDirectory(prefix="feedline-bench-") as scratch:
        folder = Path(scratch) / "samples"
        folder.mkdir()
        write_samples(folder, arguments.samples)
        results: dict[str, list[tuple[dict[str, float], dict[str, float]]]] = {peer: [] for peer in PEERS}
        with feedline_loader(folder, arguments.workers) as ours, tf_data_service() as theirs:
            for pair in range(arguments.pairs):
                for peer in PEERS:
                    a = run("feedline", ours, folder, arguments.seconds)
                    b = run(peer, theirs, folder, arguments.seconds)
                    results[peer].append((a, b))
                    outcome = f"{rate(a):.2f} against {rate(b):.2f} GB/s"
                    print(f"pair {pair + 1}/{arguments.pairs} {peer}: {outcome}", file=sys.stderr)
    report(results, arguments)


def rate(result: dict[str, float]) -> float:
    return result["gb"] / result["wall"]


def report(results: dict[str, list[tuple[dict[str, float], dict[str, float]]]], arguments: argparse.Namespace) -> None:
    columns = f"{'feedline against':<34}{'ratio':>7}{'(min - max)':>16}{'ours':>8}{'peer':>8}"
    print(f"{columns}  GB/s   trainer CPU s/GB: ours, peer")
    table = {}
    for peer, pairs in results.items():
        ratios = [rate(a) / rate(b) for a, b in pairs]
        row = {
            "ratio": statistics.median(ratios),
            "ratio_min": min(ratios),
            "ratio_max": max(ratios),
            "ours_gb_s": statistics.median(rate(a) for a, _ in pairs),
            "peer_gb_s": statistics.median(rate(b) for _, b in pairs),
            "ours_cpu_s_per_gb": statistics.median(a["cpu"] / a["gb"] for a, _ in pairs),
            "peer_cpu_s_per_gb": statistics.median(b["cpu"] / b["gb"] for _, b in pairs),
        }
        table[peer] = row
        spread = f"({row['ratio_min']:.2f} - {row['ratio_max']:.2f})"
        print(
            f"{PEERS[peer]:<34}{row['ratio']:>6.2f}x{spread:>16}{row['ours_gb_s']:>8.2f}{row['peer_gb_s']:>8.2f}"
            f"{row['ours_cpu_s_per_gb']:>24.2f},{row['peer_cpu_s_per_gb']:>6.2f}"
        )
    if arguments.json:
        arguments.json.write_text(json.dumps(table, indent=2) + "\n")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pairs", type=int, default=5, help="runs of each, in turn (default 5)")
    parser.add_argument("--seconds", type=float, default=3.0, help="length of a run (default 3)")
    parser.add_argument("--samples", type=int, default=2048, help="samples in the file, 128 KiB each (default 2048)")
    parser.add_argument("--workers", type=int, default=len(os.sched_getaffinity(0)), help="feedline's (default: cores)")
    parser.add_argument("--json", type=Path, help="write the table here as well")
    parser.add_argument("--role", choices=["feedline", *PEERS, "serve-tf-data"], help=argparse.SUPPRESS)
    parser.add_argument("--address", help=argparse.SUPPRESS)
    parser.add_argument("--folder", type=Path, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    match arguments.role:
        case None:
            compare(arguments)
        case "serve-tf-data":
            serve_tf_data()
        case "feedline":
            print(json.dumps(train_feedline(arguments.address, arguments.seconds)))
        case peer:
            compression = None if peer == "tf-none" else "AUTO"
            result = train_tf_data_service(arguments.address, arguments.seconds, arguments.folder, compression)
            print(json.dumps(result))


if __name__ == "__main__":
    main()
