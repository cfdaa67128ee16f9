"""`feedline bench`: how fast batches arrive in this process, and what that costs it.

A trainer without a model: it takes a batch, drops it, and takes the next. The time to the first batch is told apart,
because it holds opening the stream and the loader's first read of its files.
"""

import argparse
import itertools
import json
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass

import feedline
from feedline.cli.arguments import (
    Commands,
    add_batches,
    add_command,
    add_target,
    chosen,
    natural,
    positive,
    seconds,
    shown,
)
from feedline.cli.progress import reporter
from feedline.cli.quantities import many, share, size
from feedline.reading.batch import Batch
from feedline.reading.feed import Feed

EPILOG = """\
Prints what was delivered (GB/s, samples/s, batches/s; 1 GB = 10^9 bytes), the share of time spent waiting for batches,
and the CPU seconds that each GB cost this process. Without --step-ms nobody computes, so nearly all of the time is
waiting and the rates are the most that arrives here. With it the share is what a trainer with such steps would wait.

examples:
  feedline bench 127.0.0.1:50051
  feedline bench loader:50051 --batch-size 256 --step-ms 40     a model that computes 40 ms a step
  feedline bench loader:50051 --json | jq .gigabytes_per_s

exit codes: 0 measured, 1 failure (the reason is on standard error), 2 wrong usage
"""

SHOW_EVERY_S = 0.5
"""A progress line that changes faster cannot be read."""


@dataclass(frozen=True, slots=True)
class Measured:
    """What happened from the first batch on, which itself is not counted."""

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


def add_to(commands: Commands) -> None:
    """Declare the command."""
    bench = add_command(commands, "bench", "measure how fast batches arrive here", epilog=EPILOG)
    add_target(bench)
    add_batches(bench, batch_size=64)
    bench.add_argument("--seconds", type=seconds, default=10.0, metavar="S", help="how long (default 10)")
    bench.add_argument("--prefetch", type=positive, metavar="N", help="batches read ahead (default: the library's)")
    bench.add_argument(
        "--step-ms", type=natural, default=0, metavar="MS", help="idle after each batch, as a model's step"
    )
    bench.add_argument("--json", action="store_true", help="print one JSON object")
    bench.set_defaults(run=run)


def run(asked: argparse.Namespace) -> int:
    """Measure and report."""
    with feedline.connect(asked.target, timeout_s=asked.timeout_s, **shown(asked)) as loader:
        options = chosen(asked, loader.dataset(asked.dataset))
        if asked.prefetch is not None:
            options["prefetch"] = asked.prefetch
        feed = loader.feed(**options)
        measured = measure(endless(feed, asked.epoch), asked.seconds, step_s=asked.step_ms / 1000, show=reporter())
    print(json.dumps(asdict(measured) | measured.rates, indent=2) if asked.json else _described(measured, asked))
    return 0


def endless(feed: Feed, epoch: int) -> Iterator[Batch]:
    """All batches from an epoch on."""
    return itertools.chain.from_iterable(feed.epoch(number) for number in itertools.count(epoch))


def measure(batches: Iterator[Batch], duration_s: float, *, step_s: float, show: Callable[[str], None]) -> Measured:
    """Take batches for so many seconds, at least two of them."""
    began = time.perf_counter()
    next(batches)
    started = shown = now = time.perf_counter()
    cpu_started = time.process_time()
    count = samples = nbytes = 0
    waited_s = 0.0
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
        if now - shown > SHOW_EVERY_S:
            shown = now
            show(f"{now - started:.0f} of {duration_s:g} s: {size(nbytes / (now - started))}/s")
    show("")
    return Measured(
        first_batch_s=started - began,
        seconds=now - started,
        batches=count,
        samples=samples,
        nbytes=nbytes,
        waited_s=waited_s,
        cpu_s=time.process_time() - cpu_started,
    )


def _described(measured: Measured, asked: argparse.Namespace) -> str:
    rates = measured.rates
    cpu = f"{rates['cpu_s_per_gigabyte']:.2f} s a GB" if "cpu_s_per_gigabyte" in rates else f"{measured.cpu_s:.2f} s"
    return "\n".join([
        f"batches of {measured.samples / measured.batches:.4g} from {asked.target} for {measured.seconds:.1f} s, "
        f"the first after {measured.first_batch_s:.2f} s",
        f"delivered  {rates['gigabytes_per_s']:.3f} GB/s, {many(rates['samples_per_s'])} samples/s, "
        f"{many(rates['batches_per_s'])} batches/s",
        f"waited     {share(rates['waited_share'])} of the time",
        f"CPU        {cpu} in this process",
    ])  # fmt: skip
