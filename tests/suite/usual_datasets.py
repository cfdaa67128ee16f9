"""Datasets as users have them, written as the usual programs write them, each served by one command.

Where a command is refused, the message has the line to write, and with it the next one works. `scripts/usual-datasets`
makes them all, runs the commands and prints them. x is filled with a number that tells which sample it is.
"""

import argparse
import contextlib
import json
import re
import shlex
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

import feedline

REMEDY = re.compile(r"feedline convert \S+ [^\s;,]+|--size \d+x\d+|--drop '[^']*'")
"""What a refusal says to write."""


@dataclass(frozen=True, slots=True)
class Case:
    """One dataset."""

    name: str
    make: Callable[[Path], None]
    """Writes it into a folder."""
    views: dict[str, int]
    """Samples of each view."""
    words: Sequence[str] = ("serve", "DATA")
    """The command; DATA is the folder, or a file in it."""
    says: str = ""
    """What its refusal says to write."""
    sample: Callable[[int, int], tuple[int, int]] = lambda number, _: (number, number)
    """x and y of a sample, by its number in its view and how many that has."""

    def samples(self, view: str) -> list[tuple[int, int]]:
        """x and y of all samples of a view."""
        return [self.sample(number, self.views[view]) for number in range(self.views[view])]

    def command(self, folder: Path) -> list[str]:
        """The command for the dataset in this folder."""
        return [word.replace("DATA", str(folder)) for word in self.words]


def image(number: int, size: tuple[int, int] = (8, 6)) -> bytes:
    """A PNG of one grey."""
    import cv2

    width, height = size
    return bytes(cv2.imencode(".png", np.full((height, width, 3), number, np.uint8))[1])


def put(folder: Path, **files: bytes) -> None:
    """Files by their paths, in which `__` is a slash and `_png` the suffix."""
    for name, data in files.items():
        path = folder / name.replace("__", "/").replace("_png", ".png")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)


def pandas_csv(folder: Path) -> None:
    """`DataFrame.to_csv`, which writes the index as a column without a name."""
    rows = [f"{i},{i}.0,{i}.0,{'rose' if i % 2 else 'iris'}" for i in range(20)]
    (folder / "flowers.csv").write_text("\n".join([",petal,sepal,kind", *rows, ""]))


def spark_parquet(folder: Path) -> None:
    """`DataFrame.write.parquet` of four tasks, two of which had nothing to do; one has another order of columns."""
    table = pa.table({"features": [[float(i)] * 3 for i in range(20)], "label": list(range(20))})
    for part, rows in enumerate([table.slice(0, 12), table.slice(0, 0), table.slice(12), table.slice(0, 0)]):
        name = f"part-0000{part}-3b1c-c000.snappy.parquet"
        pq.write_table(rows.select(["label", "features"]) if part == 2 else rows, folder / name)
        (folder / f".{name}.crc").write_bytes(b"crc")
    (folder / "_SUCCESS").touch()


def spark_partitions(folder: Path) -> None:
    """`DataFrame.write.partitionBy("label").parquet`."""
    for label in ("cat", "dog"):
        (folder / f"label={label}").mkdir()
        table = pa.table({"x": pa.array([[float(i)] * 2 for i in range(10)], pa.list_(pa.float32()))})
        pq.write_table(table, folder / f"label={label}" / "part-00000.c000.snappy.parquet")


def hugging_face(folder: Path) -> None:
    """`Dataset.save_to_disk`: a stream of Arrow, and JSON beside it."""
    table = pa.table({"data": [[float(i)] * 2 for i in range(20)], "label": list(range(20))})
    with pa.ipc.new_stream(str(folder / "data-00000-of-00001.arrow"), table.schema) as stream:
        stream.write_table(table)
    (folder / "dataset_info.json").write_text("{}")
    (folder / "state.json").write_text("{}")


def class_folders(folder: Path) -> None:
    """As `image_dataset_from_directory` wants them, below a folder for each split."""
    for view, count in (("train", 7), ("val", 3)):
        for label in ("cat", "dog"):
            put(folder, **{f"{view}__{label}__{i}_png": image(i) for i in range(count)})


def photographs(folder: Path) -> None:
    """Images of two cameras, without a suffix or with another."""
    put(folder, **{f"cat__{i}.jfif": image(i, (8, 6)) for i in range(7)})
    put(folder, **{f"dog__{i}": image(i, (6, 8)) for i in range(3)})


def competition(folder: Path) -> None:
    """Of a competition: a CSV of image names and labels, with which pandas wrote numbers that have a gap as floats."""
    put(folder, **{f"images__{i}_png": image(i) for i in range(20)})
    lines = [f"./{i}.png,{float(i % 3)}" for i in range(20)]
    (folder / "manifest.csv").write_text("\n".join(["image_id,label", *lines, ""]))


def matlab(folder: Path) -> None:
    """`save('data.mat', 'x', 'y', '-v7.3')`: 512 bytes of its own, dimensions from last to first, compressed chunks."""
    with h5py.File(folder / "data.mat", "w", userblock_size=512) as file:
        for name, array in (("x", np.repeat(np.arange(20.0), 3).reshape(20, 3)), ("y", np.arange(20.0).reshape(20, 1))):
            file.create_dataset(name, data=array.T, chunks=array.T.shape, compression=3)
            file[name].attrs["MATLAB_class"] = np.bytes_("double")
        file.create_group("#refs#")


def keras_hdf5(folder: Path) -> None:
    """Keras' own example sets, as people put them into one HDF5 file."""
    with h5py.File(folder / "signs.h5", "w") as file:
        for view, count in (("train", 14), ("test", 6)):
            x = np.repeat(np.arange(count, dtype=np.uint8), 12).reshape(count, 2, 2, 3)
            file.create_dataset(f"x_{view}", data=x, chunks=(5, 2, 2, 3), compression="gzip")
            file[f"y_{view}"] = np.arange(count)


def keras_npz(folder: Path) -> None:
    """`mnist.npz`."""
    arrays = {
        f"x_{view}": np.repeat(np.arange(count), 4).reshape(-1, 2, 2) for view, count in (("train", 14), ("test", 6))
    }
    np.savez(folder / "mnist.npz", **arrays, y_train=np.arange(14), y_test=np.arange(6))


def numpy_files(folder: Path) -> None:
    """`np.save` of what was in a notebook."""
    for view, count in (("train", 14), ("test", 6)):
        np.save(folder / f"{view}_images.npy", np.repeat(np.arange(count), 4).reshape(-1, 2, 2))
        np.save(folder / f"{view}_labels.npy", np.arange(count))


def subjects(folder: Path) -> None:
    """A recording of each subject."""
    for subject in range(4):
        np.savez(
            folder / f"s{subject:02d}.npz", x=np.repeat(np.arange(5.0) + 5 * subject, 3).reshape(5, 3), y=np.arange(5)
        )


def tutorial(folder: Path) -> None:
    """The well-known tutorial on data generators."""
    (folder / "data").mkdir()
    for i in range(20):
        np.save(folder / "data" / f"id-{i}.npy", np.full((2, 2), i % 14, np.float32))
    ids = [f"id-{i}" for i in range(20)]
    (folder / "partition.json").write_text(json.dumps({"train": ids[:14], "validation": ids[14:]}))
    (folder / "labels.json").write_text(json.dumps({name: i % 14 for i, name in enumerate(ids)}))


CASES = (
    Case(
        "CSV of pandas",
        pandas_csv,
        {"train": 20},
        ("convert", "DATA/flowers.csv", "DATA/flowers", "--target", "kind", "--codes", "kind"),
        "--drop 'Unnamed: 0'",
        lambda number, _: (number, number % 2),
    ),
    Case("Parquet of Spark", spark_parquet, {"train": 20}),
    Case(
        "Parquet of Spark, partitioned",
        spark_partitions,
        {"train": 20},
        sample=lambda number, _: (number % 10, number // 10),
    ),
    Case("Hugging Face, saved to disk", hugging_face, {"train": 20}),
    Case(
        "class folders under train/ and val/",
        class_folders,
        {"train": 14, "validation": 6},
        sample=lambda number, count: (number % (count // 2), number // (count // 2)),
    ),
    Case(
        "photographs of two cameras",
        photographs,
        {"train": 10},
        says="--size 8x6",
        sample=lambda number, _: (number % 7, number // 7),
    ),
    Case("images and a CSV", competition, {"train": 20}, sample=lambda number, _: (number, number % 3)),
    Case("MATLAB 7.3", matlab, {"train": 20}),
    Case("HDF5 with x_train … y_test", keras_hdf5, {"train": 14, "test": 6}),
    Case("mnist.npz", keras_npz, {"train": 14, "test": 6}, ("serve", "DATA/mnist.npz"), "feedline convert "),
    Case("train_images.npy … test_labels.npy", numpy_files, {"train": 14, "test": 6}),
    Case("an .npz a subject", subjects, {"train": 20}, sample=lambda number, _: (number, number % 5)),
    Case("the tutorial's partition and labels", tutorial, {"train": 14, "validation": 6}),
)


def served(words: Sequence[str]) -> tuple[subprocess.Popen[str], str]:
    """The command as a process that serves, and its port; or one that has ended, and what it said."""
    serving = ["--port-file", "-", "--workers", "1", "--listen", "127.0.0.1:0"] if words[0] == "serve" else []
    process = subprocess.Popen(
        [sys.executable, "-m", "feedline_server", *words, *serving],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    assert process.stderr is not None
    if words[0] == "serve" and (port := process.stdout.readline().strip()):
        return process, port
    said = process.stderr.read()
    process.wait()
    return process, said


def run(
    case: Case, folder: Path, show: Callable[[str], object] = lambda line: None
) -> dict[str, list[tuple[int, int]]]:
    """Make a dataset, serve it by its command, or by what that says, and read every view: (x, y) of each sample."""
    case.make(folder)
    words = case.command(folder)
    show(shlex.join(["feedline", *words]))
    process, said = served(words)
    with process, contextlib.ExitStack() as ending:
        ending.callback(process.kill)
        if process.poll() not in {None, 0}:
            words = mended(case, words, said)
            show(f"    it says: {shlex.join(['feedline', *words])}")
            process, said = ending.enter_context(served_by(words))
        if words[0] == "convert":
            assert process.poll() == 0, said
            show(shlex.join(["feedline", "serve", words[2]]))
            process, said = ending.enter_context(served_by(["serve", words[2]]))
        assert said.isdecimal(), said
        with feedline.connect(f"127.0.0.1:{said}") as loader:
            return {view: list(_samples(loader.feed(view, batch_size=4).epoch(0))) for view in case.views}


def mended(case: Case, words: list[str], said: str) -> list[str]:
    """The command with what its refusal says to write."""
    remedy = REMEDY.search(said)
    assert remedy is not None, said
    assert case.says, said
    assert case.says in remedy[0], said
    line = shlex.split(remedy[0])
    return line[1:] if line[0] == "feedline" else [*words, *line]


@contextlib.contextmanager
def served_by(words: Sequence[str]) -> Iterator[tuple[subprocess.Popen[str], str]]:
    process, said = served(words)
    with process:
        try:
            yield process, said
        finally:
            process.kill()


def _samples(batches: Any) -> Iterator[tuple[int, int]]:  # Any: a feed's epoch, and whatever is in its batches
    for x, y in batches:
        for sample, label in zip(x, y, strict=True):
            yield sample_of(sample, label)


def sample_of(x: Any, y: Any) -> tuple[int, int]:  # Any: arrays and numbers of any dtype
    """The numbers that a sample and its label are filled with."""
    (number,), (label,) = np.unique(x), np.unique(y)
    return int(number), int(label)


def main() -> int:
    """All of them, or those whose names have a word in them."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("word", nargs="?", default="", help="only datasets whose names have it")
    args = parser.parse_args()
    for case in CASES:
        if args.word in case.name:
            with tempfile.TemporaryDirectory() as folder:
                print(f"\n{case.name}")
                found = run(case, Path(folder), print)
                assert all(sorted(samples) == sorted(case.samples(view)) for view, samples in found.items()), found
                print(
                    "    served: " + ", ".join(f"{view} {len(samples)}" for view, samples in found.items()), flush=True
                )
    return 0


if __name__ == "__main__":
    sys.exit(main())
