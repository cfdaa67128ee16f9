"""What the order of a batch costs, beside numpy's permutation of the whole epoch.

    python benchmarks/order.py

A batch's cost is what a worker pays before it reads anything. numpy's is paid by every worker at the start of every
epoch, in time and in memory, and then by a look-up a batch. Run it on a quiet machine; read ratios.
"""

import argparse
import statistics
import time
from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from feedline_server.order.positions import view_indices

SAMPLES = (10**3, 1025, 10**6 + 1, 4**10 + 1, 10**9)
"""A drawn order; where most batches have to walk; a million and one; just above a power of four, where networks
of even width cost up to four times as much; a billion."""

PERMUTED_AT_MOST = 10**7
"""Samples that numpy is asked to permute: 80 MB. A billion would take 8 GB."""

ORDERS_OF_A_BILLION = ("shuffle", "replacement", "blocks", "blocks:64x16", "blocks:32x1", "blocks:64:in-order")
"""Also blocks in small windows: a batch of 4096 touches 128 windows of one block of 32."""

BATCHES = 64
"""Batches a measurement, spread over the epoch, so that batches with and without walks are in it."""


def main() -> None:
    parser = argparse.ArgumentParser(
        description="Microseconds a batch for the shuffle order, beside numpy's permutation."
    )
    parser.add_argument("--samples", type=int, nargs="+", default=SAMPLES, help="view sizes (default: %(default)s)")
    parser.add_argument(
        "--rows", type=int, nargs="+", default=(32, 256, 4096), help="batch sizes (default: %(default)s)"
    )
    parser.add_argument("--runs", type=int, default=15, help="measurements, of which the median counts (default: 15)")
    asked = parser.parse_args()

    print(f"numpy {np.__version__}, median of {asked.runs} runs of {BATCHES} batches\n")
    print("                      feedline                              numpy.random.Generator.permutation")
    print("      samples   rows  us a batch  ns a row  first batch us  us a batch   epoch's start ms        MB")
    for samples in asked.samples:
        for rows in asked.rows:
            print(row(samples, rows, asked.runs))
    print("\n us a batch of a billion samples, by order\n")
    for order in ORDERS_OF_A_BILLION:
        times = [us_a_batch(order, 10**9, spread(10**9, rows), asked.runs) for rows in asked.rows]
        print(f"{order:>20}", *(f"{rows:6} rows {time:7.1f}" for rows, time in zip(asked.rows, times, strict=True)))


def us_a_batch(order: str, samples: int, batches: list[NDArray[np.int64]], runs: int) -> float:
    return median_us(lambda: [view_indices(order, samples, 1, 2, batch) for batch in batches], runs) / len(batches)


def row(samples: int, rows: int, runs: int) -> str:
    batches = spread(samples, rows)
    ours = us_a_batch("shuffle", samples, batches, runs)
    first = first_batch_us(samples, rows, runs)
    return f"{samples:13,} {rows:6} {ours:11.1f} {ours * 1e3 / rows:9.1f} {first:15.1f} {peer(samples, batches, runs)}"


def peer(samples: int, batches: list[NDArray[np.int64]], runs: int) -> str:
    mb = samples * 8 / 1e6
    if samples > PERMUTED_AT_MOST:
        return f"{'-':>11} {'not tried':>18} {mb:9.2f}"
    generator = np.random.default_rng(1)
    build = median_us(lambda: generator.permutation(samples), min(runs, 5)) / 1e3
    whole = generator.permutation(samples)
    lookup = median_us(lambda: [whole[batch % samples] for batch in batches], runs) / len(batches)
    return f"{lookup:11.1f} {build:18.3f} {mb:9.2f}"


def spread(samples: int, rows: int) -> list[NDArray[np.int64]]:
    """Batches that begin all over the epoch; one larger than the view runs on into later epochs."""
    starts = np.random.default_rng(0).integers(0, max(samples - rows, 0) + 1, BATCHES)
    return [np.arange(start, start + rows) for start in starts]


def first_batch_us(samples: int, rows: int, runs: int) -> float:
    """The first batch of an epoch nobody asked for yet: keys, or a small order, are derived."""
    epochs = iter(range(1000, 1000 + 8 * runs, 8))
    positions = np.arange(rows)
    return median_us(lambda: view_indices("shuffle", samples, 1, next(epochs), positions), runs, warm=False)


def median_us(work: Callable[[], object], runs: int, *, warm: bool = True) -> float:
    if warm:
        work()
    times = []
    for _ in range(runs):
        start = time.perf_counter()
        work()
        times.append(time.perf_counter() - start)
    return statistics.median(times) * 1e6


if __name__ == "__main__":
    main()
