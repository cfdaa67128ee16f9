"""tf.data service: a dispatcher and a worker in one process of their own, a client in the trainer's.

Two pipelines. `samples` is the guide's: every sample is an element; it is cached in the worker's memory and shuffled as
a whole, then batched. `vectorised` is the best we know: ids are shuffled and batched, and a batch is gathered at once
out of a tensor in the worker's memory.
"""

import contextlib
import subprocess
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from benchmarks.consumer import ROOT, quiet
from benchmarks.content import CLASSES, Array

if TYPE_CHECKING:
    import tensorflow as tf


@contextlib.contextmanager
def serving(*arguments: str) -> Iterator[tuple[str, int]]:
    """A dispatcher with one worker: its address and the process id of both."""
    command = [sys.executable, "-m", "benchmarks.peers.tf_data_service", *arguments]
    process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, cwd=ROOT, env=quiet())
    assert process.stdout is not None
    try:
        yield process.stdout.readline().strip(), process.pid
    finally:
        process.kill()
        process.wait(30)


def serve(worker_port: int, worker_address: str | None) -> None:
    """Run both until standard input ends; the address is the first line of standard output."""
    import tensorflow as tf

    service = tf.data.experimental.service
    dispatcher = service.DispatchServer()
    worker = service.WorkerServer(
        service.WorkerConfig(
            dispatcher_address=dispatcher.target.split("://")[1], port=worker_port, worker_address=worker_address
        )
    )
    print(dispatcher.target, flush=True)
    sys.stdin.read()
    del worker


def batches(options: Mapping[str, Any]) -> Iterator[tuple[Array, Array | None]]:
    import tensorflow as tf

    folder, batch = Path(options["folder"]), options["batch"]
    x = np.load(folder / "x.npy", mmap_mode="r")
    assert isinstance(x, np.memmap)
    make = _vectorised if options["pipeline"] == "vectorised" else _samples
    data = make(folder / "x.npy", x.shape[0], x.strides[0], x.offset, batch)
    data = data.apply(
        tf.data.experimental.service.distribute(
            processing_mode=tf.data.experimental.service.ShardingPolicy.OFF,
            service=options["address"],
            compression=options["compression"],
            job_name=options.get("job"),
        )
    ).prefetch(tf.data.AUTOTUNE)
    yield from data.as_numpy_iterator()


def _samples(file: Path, rows: int, row_nbytes: int, header: int, batch: int) -> "tf.data.Dataset":
    import tensorflow as tf

    def sample(record: "tf.Tensor", label: "tf.Tensor") -> "tuple[tf.Tensor, tf.Tensor]":
        return tf.ensure_shape(tf.io.decode_raw(record, tf.uint8), (row_nbytes,)), label

    records = tf.data.FixedLengthRecordDataset(str(file), row_nbytes, header_bytes=header)
    labels = tf.data.Dataset.range(rows).map(lambda i: i % CLASSES)
    data = tf.data.Dataset.zip((records, labels)).map(sample, num_parallel_calls=tf.data.AUTOTUNE).cache()
    return data.shuffle(rows, reshuffle_each_iteration=True).repeat().batch(batch, drop_remainder=True)


def _vectorised(file: Path, rows: int, row_nbytes: int, header: int, batch: int) -> "tf.data.Dataset":
    import tensorflow as tf

    def whole(path: "tf.Tensor") -> "tf.Tensor":
        body = tf.strings.substr(tf.io.read_file(path), header, rows * row_nbytes)
        return tf.reshape(tf.io.decode_raw(body, tf.uint8), (rows, row_nbytes))

    def shuffled(x: "tf.Tensor") -> "tf.data.Dataset":
        ids = tf.data.Dataset.range(rows).shuffle(rows).repeat().batch(batch, drop_remainder=True)
        return ids.map(lambda i: (tf.gather(x, i), i % CLASSES), num_parallel_calls=tf.data.AUTOTUNE)

    return tf.data.Dataset.from_tensors(str(file)).map(whole).flat_map(shuffled)


if __name__ == "__main__":
    serve(int(sys.argv[1]) if len(sys.argv) > 1 else 0, sys.argv[2] if len(sys.argv) > 2 else None)
