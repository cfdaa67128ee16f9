"""`feedline verify`: whether loaders keep the one law, seen from outside.

A batch is a pure function of its key. So batches are asked for again, of every loader, in another order and several at
once, which brings other workers with another past; and the ids of whole epochs are counted.
"""

import argparse
import json
import random
import zlib
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np

import feedline
from feedline.cli import evidence
from feedline.cli.arguments import Commands, add_batches, add_command, add_target, chosen, positive, shown
from feedline.cli.evidence import Counted, Numbers
from feedline.cli.inspect import resolved
from feedline.cli.progress import reporter
from feedline.cli.quantities import many
from feedline.reading.batch import Batch
from feedline.reading.feed import Feed
from feedline.reading.plan import Step
from feedline_wire.errors import InvalidRequest, LoaderUnavailable

EPILOG = """\
Three questions, each answered in a line:
  same     is a batch the same bytes from every loader, every worker, whatever was asked before? If not, the code that
           makes it depends on something that no key holds: the time, a counter, an unseeded generator, a global.
  once     does an epoch have every sample of the view exactly once?
  mixed    how random is the order? Each number stands beside that of a random order: the correlation of a sample's
           position with its place in the dataset, and with its position in the next epoch (0); samples that follow each
           other and are neighbours in the dataset, against chance (1); how unevenly batches draw from ten equal parts
           of the dataset, and from the classes if there are some (chi-square a degree of freedom: 1).
An order that is not random by intention (sequential, blocks) shows that in the third; only the first two can fail.

examples:
  feedline verify 127.0.0.1:50051
  feedline verify loader:50051 --view validation --order sequential
  feedline verify loader:50051 --again 500 --batches 1000       more batches twice, not the whole epoch

exit codes: 0 the law is kept, 1 it is not, or a failure (the reason is on standard error), 2 wrong usage
"""

AT_ONCE = 8
"""Batches asked for at the same time: enough that every worker of a usual loader has some."""

NAMED = 5
"""Batches that a message lists."""

Digest = Mapping[str, int]
"""CRC-32 of each column of a batch, its ids among them."""


@dataclass(frozen=True, slots=True)
class Differs:
    """A batch that was not what it was before."""

    step: int
    columns: tuple[str, ...]
    address: str

    def __str__(self) -> str:
        return f"batch {self.step} differs in {', '.join(self.columns)} at {self.address}"


@dataclass(frozen=True, slots=True)
class Epoch:
    """What arrived of one epoch."""

    ids: Numbers
    labels: Numbers | None
    digests: Mapping[int, Digest]
    """Of the batches that are asked for again, by their numbers."""


def add_to(commands: Commands) -> None:
    """Declare the command."""
    verify = add_command(commands, "verify", "check that batches are what their keys say", epilog=EPILOG)
    add_target(verify)
    add_batches(verify, batch_size=64)
    verify.add_argument(
        "--again", type=positive, default=64, metavar="N", help="batches that are asked for again (default 64)"
    )
    verify.add_argument("--batches", type=positive, metavar="N", help="look at so many only, not at whole epochs")
    verify.add_argument("--json", action="store_true", help="print one JSON object")
    verify.set_defaults(run=run)


def run(asked: argparse.Namespace) -> int:
    """Ask, compare, count and report."""
    show = reporter()
    with feedline.connect(asked.target, timeout_s=asked.timeout_s, **shown(asked)) as loader:
        if loader.dataset(asked.dataset).is_stream:
            raise InvalidRequest(
                f"dataset {loader.dataset(asked.dataset).name!r} is a stream: it has no keys, so every batch is "
                "another one, and nothing can be verified. Serve an object with __len__ and __getitem__ instead"
            )
        feed = loader.feed(**chosen(asked, loader.dataset(asked.dataset)))
        asked.order = feed.options.order  # with nothing said it is the dataset's
        steps = min(len(feed), asked.batches or len(feed))
        chosen_steps = again(steps, asked.again)
        epoch = taken(feed, asked.epoch, steps, frozenset(chosen_steps), show)
        following = taken(feed, asked.epoch + 1, steps, frozenset(), show)
    differs = [
        difference
        for address in _addresses(asked.target)
        for difference in compared(asked, address, epoch.digests, chosen_steps, show)
    ]
    show("")
    samples = feed.plan.samples
    once = evidence.counted(epoch.ids, samples) if steps == len(feed) and asked.order != "replacement" else None
    mixed = measures(epoch, following, feed.plan.batch_size)
    if asked.json:
        print(json.dumps(_as_json(differs, chosen_steps, once, mixed), indent=2))
    else:
        print("\n".join(_described(differs, chosen_steps, once, mixed, asked)))
    return 1 if differs or (once is not None and not once.is_exact) else 0


def again(steps: int, wanted: int) -> list[int]:
    """The batches to ask for again: the first, the last, and some between, in an order that nobody asked in before."""
    numbers = sorted({round(place) for place in np.linspace(0, steps - 1, min(steps, wanted))})
    random.Random(0).shuffle(numbers)  # noqa: S311 - not a secret
    return numbers


def taken(feed: Feed, number: int, steps: int, kept: frozenset[int], show: Callable[[str], None]) -> Epoch:
    """The first `steps` batches of an epoch: ids and classes of all, what `kept` name as digests."""
    ids, labels, digests = [], [], {}
    column = _label_column(feed)
    for batch in feed.epoch(number):
        if batch.index >= steps:
            break
        ids.append(batch.ids)
        if column is not None:
            labels.append(batch[column].astype(np.int64))
        if batch.index in kept:
            digests[batch.index] = digest(batch)
        show(f"epoch {number}: {batch.index + 1} of {steps} batches")
    return Epoch(np.concatenate(ids), np.concatenate(labels) if labels else None, digests)


def digest(batch: Batch) -> Digest:
    """What a batch is compared by."""
    columns = {"the sample ids": batch.ids, **batch.columns}
    return {
        name: zlib.crc32(np.ascontiguousarray(array).view(np.uint8).data, zlib.crc32(repr(array.shape).encode()))
        for name, array in columns.items()
    }


def compared(
    asked: argparse.Namespace, address: str, known: Mapping[int, Digest], order: list[int], show: Callable[[str], None]
) -> Iterator[Differs]:
    """Ask one loader for the batches again, twice, several at once; what is not as it was."""
    with (
        feedline.connect(address, timeout_s=asked.timeout_s, **shown(asked)) as loader,
        ThreadPoolExecutor(AT_ONCE) as pool,
    ):
        feed = loader.feed(**chosen(asked, loader.dataset(asked.dataset)))

        def fetched(number: int) -> tuple[int, Digest]:
            step: Step = feed.plan.step(asked.epoch, number)
            return number, digest(feed.fetch(step))

        for done, (number, found) in enumerate(pool.map(fetched, [*order, *reversed(order)]), 1):
            show(f"{address}: {done} of {2 * len(order)} batches again")
            columns = tuple(name for name, value in known[number].items() if found.get(name) != value)
            if columns:
                yield Differs(number, columns, address)


def measures(epoch: Epoch, following: Epoch, batch_size: int) -> dict[str, float]:
    """How the epoch is mixed; what too few samples cannot tell is left out."""
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
    """Every loader behind a target; LoaderUnavailable if a name has none, because it would go unverified."""
    addresses, problems = resolved(target)
    if problems:
        raise LoaderUnavailable("; ".join(problems))
    return [address.at for address in addresses]


def _label_column(feed: Feed) -> str | None:
    """The column of whole numbers, one a sample: classes, most likely."""
    whole = [column.name for column in feed.dataset.columns if column.dtype.kind in "iu" and column.shape == ()]
    return whole[0] if len(whole) == 1 and not feed.dataset.is_batched else None


WORDS = {
    "drift": "correlation of position and place in the dataset",
    "next_epoch": "correlation of position in this epoch and in the next",
    "neighbours": "neighbours that follow each other, against chance",
    "parts": "batches against ten parts of the dataset, chi-square",
    "classes": "batches against classes, chi-square",
}
RANDOM = {"drift": 0, "next_epoch": 0, "neighbours": 1, "parts": 1, "classes": 1}


def _described(
    differs: list[Differs],
    order: list[int],
    once: Counted | None,
    mixed: Mapping[str, float],
    asked: argparse.Namespace,
) -> Iterator[str]:
    if differs:
        yield f"same       NO: {len(differs)} of {2 * len(order)} batches that were asked for again are others"
        yield from (f"  {difference}" for difference in differs[:NAMED])
        yield "  the code that makes them depends on something besides dataset, seed, epoch and sample"
    else:
        yield f"same       yes: {many(len(order))} batches, asked for twice again of every loader"
    if once is None:
        why = "samples are drawn with replacement" if asked.order == "replacement" else "only a part was looked at"
        yield f"once       not asked: {why}"
    else:
        yield f"once       {'yes' if once.is_exact else 'NO'}: {once}"
    yield f"mixed      order {asked.order}, epoch {asked.epoch}; a random order has the number in brackets"
    yield from (f"  {value:9.3f} ({RANDOM[name]})  {WORDS[name]}" for name, value in mixed.items())


def _as_json(
    differs: list[Differs], order: list[int], once: Counted | None, mixed: Mapping[str, float]
) -> dict[str, object]:
    return {
        "same": not differs,
        "asked_again": len(order),
        "differences": [{"batch": one.step, "columns": list(one.columns), "address": one.address} for one in differs],
        "once": None if once is None else once.is_exact,
        "samples": None if once is None else {"wanted": once.wanted, "distinct": once.distinct, "again": once.again},
        "mixed": dict(mixed),
    }
