"""`feedline peek`: one batch, as a trainer would get it."""

import argparse

import numpy as np

from feedline.cli.arguments import add_batches, add_target, connected, feed_of, natural
from feedline.reading.batch import Batch
from feedline_wire.command_line import Command
from feedline_wire.errors import InvalidRequest
from feedline_wire.structure import Structure
from feedline_wire.tensors import Array
from feedline_wire.text import size, unpacked

EPILOG = """\
Shows the structure that `for x, y in …` unpacks, the ids of the batch's samples, small arrays in full and of large ones
the least, the greatest and the mean value. The same arguments always show the same batch.

examples:
  feedline peek 127.0.0.1:50051
  feedline peek 127.0.0.1:50051 --view validation --order sequential --batch-size 4
  feedline peek loader:50051 --seed 7 --epoch 3 --start 118      the batch at step 118 of epoch 3
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


def run(args: argparse.Namespace) -> int:
    """Fetch the batch and print it; the exit code."""
    with connected(args) as loader:
        feed = feed_of(loader, args)
        try:
            step = feed.plan.step(args.epoch, args.start)
        except IndexError as error:
            raise InvalidRequest(f"--start {args.start}: {error}") from error
        batch = feed.fetch(step)
        print(described(batch, feed.dataset.structure))
    return 0


def described(batch: Batch, structure: Structure) -> str:
    """The batch for people, a line an array."""
    bad = f", {len(batch.bad)} bad ones left out or replaced" if len(batch.bad) else ""
    lines = [
        f"batch      {batch.index} of epoch {batch.epoch}: {batch.rows} samples from position {batch.offset} on{bad}",
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
