"""`feedline bench`: how fast batches arrive in this process, and what that costs it.

A trainer without a model: it takes a batch, drops it, and takes the next. The first batch is not counted, because it
holds opening the stream and the loader's first read of its files; its time is shown beside.
"""

import argparse
import itertools
import json
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass

from feedline.cli.arguments import add_batches, add_target, connected, feed_of, natural, positive, seconds
from feedline.reading.batch import Batch
from feedline.reading.feed import Feed
from feedline_wire.command_line import Command
from feedline_wire.text import Progress, many, share, size

EPILOG = """\
Prints what was delivered (GB/s, samples/s, batches/s; 1 GB = 10^9 bytes), the share of time spent waiting for batches,
and the CPU seconds that each GB cost this process. Without --step-ms nothing is computed, so nearly all of the time is
waiting and the rates are the most that arrives here. With it the share is what a trainer with such steps would wait.

examples:
  feedline bench 127.0.0.1:50051
  feedline bench loader:50051 --batch-size 256 --step-ms 40     a model that computes 40 ms a step
  feedline bench loader:50051 --json | jq .gigabytes_per_s
"""


@dataclass(frozen=True, slots=True)
class Measured:
    """What happened after the first batch."""

    first_batch_s: float
    seconds: float
    batches: int
    samples: int
    nbytes: int
    waited_s: float
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
    with connected(args) as loader:
        batches = endless(feed_of(loader, args, prefetch=args.prefetch), args.epoch)
        measured = measure(batches, args.seconds, step_s=args.step_ms / 1000, show=Progress("s"))
    print(json.dumps(asdict(measured) | measured.rates, indent=2) if args.json else _described(measured, args.target))
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
    """Take batches for so many seconds, at least two of them. `show` gets seconds, of how many, and the rate."""
    began = time.perf_counter()
    next(batches)
    started = now = time.perf_counter()
    cpu_started = time.process_time()
    count = samples = nbytes = 0
    waited_s = 0.0

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
            now = time.perf_counter()
        show(now - started, duration_s, rate)
    return Measured(
        first_batch_s=started - began,
        seconds=now - started,
        batches=count,
        samples=samples,
        nbytes=nbytes,
        waited_s=waited_s,
        cpu_s=time.process_time() - cpu_started,
    )


def _described(measured: Measured, target: str) -> str:
    rates = measured.rates
    cpu = f"{rates['cpu_s_per_gigabyte']:.2f} s a GB" if "cpu_s_per_gigabyte" in rates else f"{measured.cpu_s:.2f} s"
    return "\n".join([
        f"batches of {measured.samples / measured.batches:.4g} from {target} for {measured.seconds:.1f} s, "
        f"the first after {measured.first_batch_s:.2f} s",
        f"delivered  {rates['gigabytes_per_s']:.3f} GB/s, {many(rates['samples_per_s'])} samples/s, "
        f"{many(rates['batches_per_s'])} batches/s",
        f"waited     {share(rates['waited_share'])} of the time",
        f"CPU        {cpu} in this process",
    ])  # fmt: skip


COMMAND = Command("bench", "measure how fast batches arrive here", run, declare, EPILOG)
