"""`feedline bench`: how fast batches arrive in this process, and what that costs it.

A trainer without a model: it takes a batch, drops it, and takes the next. The first batch is not counted, because it
holds opening the stream and the loader's first read of its files; its time is shown beside. Nor are the next ones,
until the reader knows how far to read ahead: what many loaders with slow batches do before is no measure of them.
"""

import argparse
import itertools
import json
import math
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass

from feedline.cli.arguments import add_batches, add_target, connected, feed_of, natural, positive, seconds
from feedline.fleet.rates import RATE_OF
from feedline.reading.batch import Batch
from feedline.reading.feed import Feed
from feedline_wire.command_line import Command
from feedline_wire.figures import ReplicaFigures
from feedline_wire.status import replicas_of
from feedline_wire.text import Progress, many, share, size
from feedline_wire.verdict import Verdict

EPILOG = """\
Prints what was delivered (GB/s, samples/s, batches/s; 1 GB = 10^9 bytes), the share of time spent waiting for batches,
and the CPU seconds that each GB cost this process. Without --step-ms nothing is computed, so nearly all of the time is
waiting and the rates are the most that arrives here. With it the share is what a trainer with such steps would wait;
also printed are what it waits for and how many workers would keep it fed, from the seconds that a batch takes a worker.

examples:
  feedline bench 127.0.0.1:50051
  feedline bench loader:50051 --batch-size 256 --step-ms 40     will it feed a model that computes 40 ms a step?
  feedline bench loader:50051 --json | jq .gigabytes_per_s
"""


@dataclass(frozen=True, slots=True)
class Measured:
    """What happened after the first batches."""

    first_batch_s: float
    seconds: float
    batches: int
    samples: int
    nbytes: int
    waited_s: float
    computed_s: float
    """In steps."""
    cpu_s: float
    """Of this process, all its threads."""

    @property
    def rates(self) -> dict[str, float]:
        """What is printed; `cpu_s_per_gigabyte` only where there were bytes."""
        rates = {
            "gigabytes_per_s": self.nbytes / 1e9 / self.seconds,
            "samples_per_s": self.samples / self.seconds,
            "batches_per_s": self.batches / self.seconds,
            "waited_share": self.waited_s / self.seconds,
        }
        return rates | ({"cpu_s_per_gigabyte": self.cpu_s / (self.nbytes / 1e9)} if self.nbytes else {})


@dataclass(frozen=True, slots=True)
class Need:
    """What a model with steps of a certain time takes of these loaders."""

    utilisation: float
    """The part of the time in which the model computed."""
    verdict: str
    worker_s: float
    """That a batch takes a worker."""
    workers: int
    """There are."""
    replicas: int
    workers_wanted: float
    """That keep the model fed, if nothing else holds it up."""

    @property
    def sentence(self) -> str:
        """What is wanted, in words."""
        more = math.ceil(self.workers_wanted - self.workers - ROUNDING)
        replicas = math.ceil(more / max(self.workers / max(self.replicas, 1), 1))
        wanted = f"a batch takes a worker {1000 * self.worker_s:.3g} ms, so {self.workers_wanted:.1f} workers feed it"
        if more <= 0:
            return f"{wanted}; there are {self.workers}"
        return f"{wanted}; there are {self.workers}: {more} more, or {replicas} more replica{'s' * (replicas > 1)}"


UNSETTLED_SHARE = 0.25
"""Of the time that is asked for, after the first batch, what passes uncounted at most."""

ROUNDING = 0.05
"""Of a worker: less is what two measurements differ by."""


def needed(measured: Measured, step_s: float, verdict: Verdict, replicas: Sequence[ReplicaFigures]) -> Need:
    """What a model with such steps takes, from what was measured."""
    batches = sum(one.batches for one in replicas)
    worker_s = sum(one.assembling_s for one in replicas) / batches if batches else 0.0
    return Need(
        utilisation=measured.computed_s / measured.seconds,
        verdict=str(verdict),
        worker_s=worker_s,
        workers=sum(one.workers for one in replicas),
        replicas=len(replicas),
        workers_wanted=worker_s / step_s,
    )


def declare(parser: argparse.ArgumentParser) -> None:
    """Add its options."""
    add_target(parser)
    add_batches(parser, batch_size=64)
    parser.add_argument("--seconds", type=seconds, default=10.0, metavar="S", help="how long (default 10)")
    parser.add_argument("--prefetch", type=positive, metavar="N", help="batches read ahead (default: the library's)")
    parser.add_argument(
        "--step-ms", type=natural, default=0, metavar="MS", help="idle after each batch, as a model's step"
    )
    parser.add_argument("--json", action="store_true", help="print one JSON object")


def run(args: argparse.Namespace) -> int:
    """Measure and report; the exit code."""
    step_s = args.step_ms / 1000
    need: Need | None = None
    with connected(args) as loader:
        feed = feed_of(loader, args, prefetch=args.prefetch)
        measured = measure(endless(feed, args.epoch), args.seconds, step_s=step_s, show=Progress("s"))
        if step_s:
            need = needed(measured, step_s, feed.why(), replicas_of(loader.statuses()))
    if args.json:
        print(json.dumps(asdict(measured) | measured.rates | (asdict(need) if need else {}), indent=2))
    else:
        print(_described(measured, args.target, need))
    return 0


def endless(feed: Feed, epoch: int) -> Iterator[Batch]:
    """All batches from an epoch on."""
    return itertools.chain.from_iterable(feed.epoch(number) for number in itertools.count(epoch))


def measure(
    batches: Iterator[Batch],
    duration_s: float,
    *,
    step_s: float,
    show: Callable[[float, float, Callable[[], str]], None],
) -> Measured:
    """Take batches for so many seconds, at least three of them. `show` gets seconds, of how many, and the rate."""
    asked_at = time.perf_counter()
    next(batches)
    came_at = time.perf_counter()
    first_batch_s = came_at - asked_at
    for _ in itertools.islice(batches, RATE_OF):
        if step_s:
            time.sleep(step_s)
        if time.perf_counter() - came_at >= UNSETTLED_SHARE * duration_s:
            break
    started = now = time.perf_counter()
    cpu_started = time.process_time()
    count = samples = nbytes = 0
    waited_s = computed_s = 0.0

    def rate() -> str:
        return f"{size(nbytes / (now - started))}/s"

    while count == 0 or now - started < duration_s:
        asked_at = time.perf_counter()
        batch = next(batches)
        now = time.perf_counter()
        waited_s += now - asked_at
        count, samples = count + 1, samples + batch.rows
        nbytes += batch.ids.nbytes + sum(array.nbytes for array in batch.columns.values())
        del batch
        if step_s:
            time.sleep(step_s)
            began, now = now, time.perf_counter()
            computed_s += now - began
        show(now - started, duration_s, rate)
    return Measured(
        first_batch_s=first_batch_s,
        seconds=now - started,
        batches=count,
        samples=samples,
        nbytes=nbytes,
        waited_s=waited_s,
        computed_s=computed_s,
        cpu_s=time.process_time() - cpu_started,
    )


def _described(measured: Measured, target: str, need: Need | None) -> str:
    rates = measured.rates
    cpu = f"{rates['cpu_s_per_gigabyte']:.2f} s a GB" if "cpu_s_per_gigabyte" in rates else f"{measured.cpu_s:.2f} s"
    return "\n".join([
        f"batches of {measured.samples / measured.batches:.4g} from {target} for {measured.seconds:.1f} s, "
        f"the first after {measured.first_batch_s:.2f} s",
        f"delivered  {rates['gigabytes_per_s']:.3f} GB/s, {many(rates['samples_per_s'])} samples/s, "
        f"{many(rates['batches_per_s'])} batches/s",
        f"waited     {share(rates['waited_share'])} of the time",
        f"CPU        {cpu} in this process",
        *([] if need is None else [
            f"computed   {share(need.utilisation)} of the time: {need.verdict}",
            f"workers    {need.sentence}",
        ]),
    ])  # fmt: skip


COMMAND = Command("bench", "measure how fast batches arrive here", run, declare, EPILOG)
