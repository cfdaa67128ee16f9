"""`feedline verify`: whether a batch is a pure function of its key, as seen by a trainer.

Batches are fetched again, from every loader, in another order and several at once, which brings other workers with
another past; and the ids of whole epochs are counted.
"""

import argparse
import json
import random
import zlib
from collections import Counter
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass

import numpy as np

from feedline.cli import evidence
from feedline.cli.arguments import add_batches, add_target, connected, feed_of, positive
from feedline.cli.evidence import Content, Counted, Numbers
from feedline.cli.inspect import resolved
from feedline.reading.batch import Batch
from feedline.reading.feed import Feed
from feedline_wire.command_line import Command
from feedline_wire.errors import InvalidRequest, LoaderUnavailable
from feedline_wire.text import Progress, many

EPILOG = """\
Three questions, each answered in a line:
  same     is a batch the same bytes from every loader, every worker, whatever was fetched before? If not, the code that
           makes it depends on something that no key holds: the time, a counter, an unseeded generator, a global.
  once     does an epoch have every sample of the view exactly once? Of ready batches, which your own code makes, their
           numbers are counted, and `rows` compares what is in them with the next epoch, row by row.
  mixed    how random is the order? Each number stands beside that of a random order: the correlation of a sample's
           position with its place in the dataset, and with its position in the next epoch (0); samples that follow each
           other and are neighbours in the dataset, against chance (1); how unevenly batches draw from ten equal parts
           of the dataset, and from the classes if there are some (chi-square a degree of freedom: 1).
An order that is not random by intention (sequential, blocks) shows that in the third; only the first two can fail.

examples:
  feedline verify 127.0.0.1:50051
  feedline verify loader:50051 --view validation --order sequential
  feedline verify loader:50051 --again 500 --batches 1000       more batches twice, not the whole epoch
"""

CODES = ("both hold", "one does not, or a failure (the reason is on standard error)")

AT_ONCE = 8
"""Batches fetched at the same time: enough that every worker of a usual loader has some."""

MEASURES = {
    "drift": (0, "correlation of position and place in the dataset"),
    "next_epoch": (0, "correlation of position in this epoch and in the next"),
    "neighbours": (1, "neighbours that follow each other, against chance"),
    "parts": (1, "batches against ten parts of the dataset, chi-square"),
    "classes": (1, "batches against classes, chi-square"),
}
"""How mixed an order is: of each measure, what a random order has, and what is measured."""

Digest = Mapping[str, int]
"""CRC-32 of each column of a batch, its ids among them."""


@dataclass(frozen=True, slots=True)
class Difference:
    """A batch that was not what it was before."""

    batch: int
    columns: tuple[str, ...]
    address: str

    def __str__(self) -> str:
        return f"batch {self.batch} differs in {', '.join(self.columns)} at {self.address}"


@dataclass(frozen=True, slots=True)
class Epoch:
    """What arrived of one epoch."""

    ids: Numbers
    labels: Numbers | None
    digests: Mapping[int, Digest]
    """Of the batches that are fetched again, by their numbers."""
    rows: Counter[int] | None
    """How often each row came, by its content; None where samples have ids."""


def declare(parser: argparse.ArgumentParser) -> None:
    """Add its options."""
    add_target(parser)
    add_batches(parser, batch_size=64)
    parser.add_argument(
        "--again", type=positive, default=64, metavar="N", help="batches that are fetched again (default 64)"
    )
    parser.add_argument("--batches", type=positive, metavar="N", help="look at so many only, not at whole epochs")
    parser.add_argument("--json", action="store_true", help="print one JSON object")


def run(args: argparse.Namespace) -> int:
    """Fetch, compare, count and report; the exit code."""
    with connected(args) as loader:
        if loader.dataset(args.dataset).is_stream:
            raise InvalidRequest(
                f"dataset {loader.dataset(args.dataset).name!r} is a stream: it has no keys, so every batch is "
                "another one, and nothing can be verified. Serve an object with __len__ and __getitem__ instead"
            )
        feed = feed_of(loader, args)
        args.order = feed.options.order  # without --order it is the dataset's
        steps = min(len(feed), args.batches or len(feed))
        numbers = again(steps, args.again)
        epoch = taken(feed, args.epoch, steps, frozenset(numbers))
        following = taken(feed, args.epoch + 1, steps, frozenset())
    differences = [
        difference
        for address in _addresses(args.target)
        for difference in compared(args, address, epoch.digests, numbers)
    ]
    is_counted = steps == len(feed) and args.order != "replacement"
    unit = "batches" if feed.dataset.is_batched else "samples"
    once = evidence.counted(epoch.ids, feed.plan.samples, unit) if is_counted else None
    rows = None
    if is_counted and epoch.rows is not None and following.rows is not None:
        rows = evidence.content(epoch.rows, following.rows)
    mixed = measures(epoch, following, feed.plan.batch_size)
    if args.json:
        print(json.dumps(_as_json(differences, len(numbers), once, rows, mixed), indent=2))
    else:
        print("\n".join(_described(differences, len(numbers), once, rows, mixed, args=args)))
    is_wrong = (once is not None and not once.is_exact) or (rows is not None and rows.is_exact is False)
    return 1 if differences or is_wrong else 0


def again(steps: int, count: int) -> list[int]:
    """The batches to fetch again: the first, the last, and some between, in an order of no epoch."""
    numbers = sorted({round(place) for place in np.linspace(0, steps - 1, min(steps, count))})
    random.Random(0).shuffle(numbers)  # noqa: S311 - not a secret
    return numbers


def taken(feed: Feed, number: int, steps: int, kept: frozenset[int]) -> Epoch:
    """The first `steps` batches of an epoch: ids and classes of all, digests of those that `kept` names."""
    show = Progress("batches", f"epoch {number}")
    ids, labels, digests = [], [], {}
    rows = Counter[int]() if feed.dataset.is_batched else None
    column = _label_column(feed)
    for batch in feed.epoch(number):
        if batch.index >= steps:
            break
        ids.append(batch.ids)
        if column is not None:
            labels.append(batch[column].astype(np.int64))
        if batch.index in kept:
            digests[batch.index] = digest(batch)
        if rows is not None:
            rows.update(row_digests(batch))
        show(batch.index + 1, steps)
    return Epoch(np.concatenate(ids), np.concatenate(labels) if labels else None, digests, rows)


def digest(batch: Batch) -> Digest:
    """What a batch is compared by."""
    columns = {"the sample ids": batch.ids, **batch.columns}
    return {
        name: zlib.crc32(np.ascontiguousarray(array).view(np.uint8).data, zlib.crc32(repr(array.shape).encode()))
        for name, array in columns.items()
    }


def row_digests(batch: Batch) -> Iterator[int]:
    """What each row of a ready batch is told apart by: a hash of all its columns."""
    columns = [np.ascontiguousarray(array) for array in batch.columns.values()]
    for row in zip(*columns, strict=True):
        yield hash(tuple([array.tobytes() for array in row]))


def compared(
    args: argparse.Namespace, address: str, known: Mapping[int, Digest], numbers: list[int]
) -> Iterator[Difference]:
    """Fetch the batches again from one loader, twice, several at once; what is not as it was."""
    show = Progress("batches again", address)
    with connected(args, address) as loader, ThreadPoolExecutor(AT_ONCE) as pool:
        feed = feed_of(loader, args)

        def fetched(number: int) -> tuple[int, Digest]:
            return number, digest(feed.fetch(feed.plan.step(args.epoch, number)))

        for done, (number, found) in enumerate(pool.map(fetched, [*numbers, *reversed(numbers)]), 1):
            show(done, 2 * len(numbers))
            columns = tuple(name for name, value in known[number].items() if found.get(name) != value)
            if columns:
                yield Difference(number, columns, address)


def measures(epoch: Epoch, following: Epoch, batch_size: int) -> dict[str, float]:
    """How mixed the epoch is, by MEASURES; what too few samples cannot tell is left out."""
    if len(epoch.ids) < 3:
        return {}
    found = {
        "drift": evidence.drift(epoch.ids),
        "next_epoch": evidence.likeness(epoch.ids, following.ids),
        "neighbours": evidence.neighbours(epoch.ids),
        "parts": evidence.unevenness(evidence.parts(epoch.ids), batch_size),
        "classes": None if epoch.labels is None else evidence.unevenness(epoch.labels, batch_size),
    }
    return {name: value for name, value in found.items() if value is not None}


def _addresses(target: str) -> list[str]:
    """Every loader behind a target. Raises LoaderUnavailable if a name has none, because it would go unverified."""
    addresses, problems = resolved(target)
    if problems:
        raise LoaderUnavailable("; ".join(problems))
    return [address.at for address in addresses]


def _label_column(feed: Feed) -> str | None:
    """The column of whole numbers, one a sample: classes, most likely."""
    whole = [column.name for column in feed.dataset.columns if column.dtype.kind in "iu" and column.shape == ()]
    return whole[0] if len(whole) == 1 and not feed.dataset.is_batched else None


def _described(
    differences: list[Difference],
    count: int,
    once: Counted | None,
    rows: Content | None,
    mixed: Mapping[str, float],
    *,
    args: argparse.Namespace,
) -> Iterator[str]:
    if differences:
        yield f"same       NO: {len(differences)} of {2 * count} batches that were fetched again are others"
        yield from (f"  {difference}" for difference in differences[: evidence.NAMED])
        yield "  the code that makes them depends on something besides dataset, seed, epoch and sample"
    else:
        yield f"same       yes: {many(count)} batches, fetched twice again from every loader"
    if once is None:
        why = "samples are drawn with replacement" if args.order == "replacement" else "only a part was looked at"
        yield f"once       not known: {why}"
    else:
        yield f"once       {'yes' if once.is_exact else 'NO'}: {once}"
    if rows is not None:
        yield f"rows       {'NO' if rows.is_exact is False else 'yes' if rows.is_exact else 'not known'}: {rows}"
        if rows.is_exact is False:
            yield "  the code keeps something from one batch to the next, or draws rows with replacement by intention"
    yield f"mixed      order {args.order}, epoch {args.epoch}; a random order has the number in brackets"
    yield from (
        f"  {mixed[name]:9.3f} ({of_random})  {what}" for name, (of_random, what) in MEASURES.items() if name in mixed
    )


def _as_json(
    differences: list[Difference],
    count: int,
    once: Counted | None,
    rows: Content | None,
    mixed: Mapping[str, float],
) -> dict[str, object]:
    return {
        "same": not differences,
        "asked_again": count,
        "differences": [asdict(difference) for difference in differences],
        "once": None if once is None else once.is_exact,
        "samples": None if once is None else {"wanted": once.wanted, "distinct": once.distinct, "again": once.again},
        "rows": None if rows is None else {"same": rows.is_exact, **asdict(rows)},
        "mixed": dict(mixed),
    }


COMMAND = Command(
    "verify", "check that every sample comes once, in batches that never differ", run, declare, EPILOG, CODES
)
