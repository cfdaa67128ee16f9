"""`feedline peek`: one batch, as a trainer would get it."""

import argparse
import csv
import itertools
import json
import struct
import zlib
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from feedline.cli.arguments import add_batches, add_target, connected, feed_of, natural, positive
from feedline.reading import state
from feedline.reading.batch import Batch
from feedline.reading.feed import Feed
from feedline.reading.loader import Loader
from feedline_wire.command_line import Command
from feedline_wire.errors import InvalidRequest
from feedline_wire.key import from_text
from feedline_wire.structure import Structure
from feedline_wire.tensors import Array
from feedline_wire.text import size, unpacked

EPILOG = """\
Shows the structure that `for x, y in …` unpacks, the ids of the batch's samples, small arrays in full and of large ones
the least, the greatest and the mean value. The same arguments always show the same batch. --batch-key shows the one
that a training saw: `batch.key` of the step where its loss jumped. --save writes pictures as PNG, samples' ids and
numbers as CSV, and other arrays as .npy.

examples:
  feedline peek 127.0.0.1:50051
  feedline peek 127.0.0.1:50051 --view validation --order sequential --batch-size 4
  feedline peek loader:50051 --seed 7 --epoch 3 --start 118      the batch at step 118 of epoch 3
  feedline peek loader:50051 --batch-key digits/train/shuffle/7/3/7552/64/0a1b… --save spike
  feedline peek loader:50051 --state state.json --step 5 --batch-size 64 --rank 1 --world 4
                                   the sixth batch after a saved state, of a training with such batches and four ranks
"""

FEW = 16
"""Values that fit on a line."""


def declare(parser: argparse.ArgumentParser) -> None:
    """Add its options."""
    add_target(parser)
    add_batches(parser, batch_size=8)
    parser.add_argument(
        "--start", type=natural, default=0, metavar="STEP", help="number of the batch in its epoch (default 0)"
    )
    parser.add_argument("--batch-key", metavar="KEY", help="the batch of this `batch.key`")
    parser.add_argument("--state", type=Path, metavar="FILE", help="JSON of a state_dict(): batches after it")
    parser.add_argument("--step", type=natural, metavar="N", help="with --state: after so many more (default 0)")
    parser.add_argument("--rank", type=natural, default=0, metavar="R", help="whose batch it is (default 0)")
    parser.add_argument("--world", type=positive, default=1, metavar="W", help="of so many ranks (default 1)")
    parser.add_argument("--save", type=Path, metavar="DIR", help="write the batch there")


def run(args: argparse.Namespace) -> int:
    """Fetch the batch and print it; the exit code."""
    check(args)
    with connected(args) as loader:
        batch, structure = wanted(loader, args)
    print(described(batch, structure))
    if args.save is not None:
        try:
            names = save(batch, args.save)
        except OSError as error:
            raise InvalidRequest(f"--save {args.save}: {error.strerror or error}; name a folder to write to") from error
        print(f"saved      {len(names)} files in {args.save}")
    return 0


def check(args: argparse.Namespace) -> None:
    """InvalidRequest where an option would have to be passed over."""
    ways = {"--batch-key": args.batch_key is not None, "--state": args.state is not None, "--start": args.start > 0}
    said = [option for option, is_said in ways.items() if is_said]
    if len(said) > 1:
        raise InvalidRequest(f"{' and '.join(said)}: each says which batch; give one of them")
    if args.step is not None and args.state is None:
        raise InvalidRequest(f"--step {args.step}: counts from a --state; from an epoch's beginning it is --start")
    if args.rank >= args.world:
        raise InvalidRequest(f"--rank {args.rank}: of --world {args.world} ranks there are 0..{args.world - 1}")


def wanted(loader: Loader, args: argparse.Namespace) -> tuple[Batch, Structure]:
    """The batch that the arguments mean. Raises InvalidRequest where nothing can be seen twice."""
    if args.batch_key is not None:
        key = from_text(args.batch_key)
        served = loader.datasets.get(key.dataset)
        if served is not None and served.fingerprint.startswith(key.fingerprint):
            key = replace(key, fingerprint=served.fingerprint)  # a person has written its first digits
        feed = loader.feed(key.view, dataset=key.dataset, order=key.order, seed=key.seed, batch_size=key.rows)
        check_repeatable(feed, args.batch_key)
        return feed.fetch(key), feed.dataset.structure
    if args.state is not None:
        saved = read_state(args.state)
        args.seed, args.view, args.order = saved.get("seed", 0), saved.get("view", args.view), saved.get("order")
        args.dataset = args.dataset or saved.get("dataset")
        if args.batch_size is None and not loader.dataset(args.dataset).is_batched:
            raise InvalidRequest(
                f"--state {args.state}: say the training's --batch-size (and its --rank and --world, if it has "
                f"several): a state is good for any"
            )
        feed = feed_of(loader, args, rank=args.rank, world=args.world)
        check_repeatable(feed, f"--state {args.state}")
        _, cursor = state.read(saved, feed.ordering)
        step = next(itertools.islice(feed.plan.onward(feed.plan.settled(cursor)), args.step or 0, None))
        return feed.fetch(step), feed.dataset.structure
    feed = feed_of(loader, args, rank=args.rank, world=args.world)
    try:
        step = feed.plan.step(args.epoch, args.start)
    except IndexError as error:
        raise InvalidRequest(f"--start {args.start}: {error}") from error
    return feed.fetch(step), feed.dataset.structure


def check_repeatable(feed: Feed, text: str) -> None:
    """InvalidRequest where a key says nothing about what is in its batch."""
    if feed.dataset.is_stream:
        raise InvalidRequest(
            f"{text}: {feed.dataset.name!r} is a stream: whatever its code yields next is answered to any key, so the "
            f"batch that was seen cannot be seen again"
        )
    if not feed.dataset.is_deterministic:
        raise InvalidRequest(
            f"{text}: {feed.dataset.name!r} is served with deterministic = false: its code may make another batch of "
            f"the same key, so what would be shown is not what was seen"
        )


def read_state(file: Path) -> dict[str, Any]:
    """A saved state. Raises InvalidRequest if the file holds none."""
    try:
        found = json.loads(file.read_text())
    except (OSError, ValueError) as error:
        raise InvalidRequest(f"--state {file}: {error}; wanted the JSON of a state_dict()") from error
    if not isinstance(found, dict):
        raise InvalidRequest(f"--state {file}: found {type(found).__name__}; wanted the JSON of a state_dict()")
    return found


# ---- files ----


def save(batch: Batch, folder: Path) -> list[str]:
    """Write a batch into a folder, which is made; the names of its files."""
    folder.mkdir(parents=True, exist_ok=True)
    names: list[str] = []
    table: dict[str, Array] = {"id": batch.ids} if len(batch.ids) == batch.rows else {}
    for name, array in batch.columns.items():
        if array.ndim == 1:
            table[name] = array
        elif is_pictures(array):
            for row, image in enumerate(array):
                names.append(f"{_file_name(name)}-{row:04}.png")
                (folder / names[-1]).write_bytes(png(image))
        else:
            names.append(f"{_file_name(name)}.npy")
            np.save(folder / names[-1], array)
    with (folder / "batch.csv").open("w", newline="") as file:
        rows = csv.writer(file)
        rows.writerow(["row", *table])
        rows.writerows([row, *(column[row].item() for column in table.values())] for row in range(batch.rows))
    return [*names, "batch.csv"]


def _file_name(column: str) -> str:
    """A column's name as a file's: a loader says what it is, and files are written nowhere but in the folder."""
    return column.replace("%", "%25").replace("/", "%2F").replace("\0", "%00")


def is_pictures(array: Array) -> bool:
    """Its rows are pictures: height, width and, if any, one, three or four colours of a byte."""
    return array.dtype == np.uint8 and (array.ndim == 3 or (array.ndim == 4 and array.shape[3] in {1, 3, 4}))


def png(image: Array) -> bytes:
    """A picture as PNG (ISO 15948)."""
    height, width, *colours = image.shape
    kind = {1: 0, 3: 2, 4: 6}[colours[0] if colours else 1]

    def chunk(name: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))

    lines = np.zeros((height, 1 + image.size // max(height, 1)), np.uint8)  # each begins with its filter: none
    lines[:, 1:] = image.reshape(height, -1)
    head = struct.pack(">IIBBBBB", width, height, 8, kind, 0, 0, 0)
    data = chunk(b"IHDR", head) + chunk(b"IDAT", zlib.compress(lines.tobytes())) + chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + data


def described(batch: Batch, structure: Structure) -> str:
    """The batch for people, a line an array."""
    bad = f", {len(batch.bad)} bad ones left out or replaced" if len(batch.bad) else ""
    lines = [
        f"batch      {batch.index} of epoch {batch.epoch}: {batch.rows} samples from position {batch.offset} on{bad}",
        f"key        {batch.key}",
        f"structure  {unpacked(structure)}",
        f"ids        {_values(batch.ids)}",
        *([f"bad        {_values(batch.bad)}"] if len(batch.bad) else []),
    ]
    width = max(map(len, batch.columns), default=0)
    for name, array in batch.columns.items():
        kind = f"{array.dtype.name} {array.shape}"
        lines.append(f"{name:{width}}  {kind:24} {size(array.nbytes):>9}  {_values(array)}")
    return "\n".join(lines)


def _values(array: Array) -> str:
    """All values where they are few, else what says most about many."""
    if array.size <= FEW:
        return " ".join(f"{value:g}" if array.dtype.kind == "f" else str(value) for value in array.reshape(-1))
    if array.dtype.kind == "c":
        return "complex"
    wide = array.astype(np.float64)  # a sum of float16 overflows
    finite = wide[np.isfinite(wide)]
    strange = "" if finite.size == wide.size else f", {wide.size - finite.size} not finite"
    if not finite.size:
        return strange.removeprefix(", ")
    return f"min {finite.min():g}, max {finite.max():g}, mean {finite.mean():.4g}{strange}"


COMMAND = Command("peek", "show one batch as a trainer gets it", run, declare, EPILOG)
