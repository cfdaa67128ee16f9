"""What a long way to the loader costs: throughput at 20 ms each way, against the same way without delay.

A real loader, a trainer that checks every batch and takes them as fast as they come, and a way between them in a
process of its own (benchmarks/way.py). Both ways are taken in turn, several times, so that a machine that gets slower
halfway does not decide. For batches of several sizes: small ones are bound by how many are asked for ahead, large ones
by bytes. Beside the rates stand the CPU seconds a GB of trainer, loader and way, near and far: on a machine whose cores
are all busy a ratio below one says nothing as long as these differ.

    python -m benchmarks.delay                     by gRPC and by the tcp lane, about three minutes
    python -m benchmarks.delay --delay-ms 50 --pairs 5 --lanes tcp --batches "1 MiB"

Needs the server extra.
"""

import argparse
import json
import tempfile
from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from statistics import median
from typing import Any

from benchmarks import content, lanes
from benchmarks.consumer import Consumer
from benchmarks.measured import Pace, Stretch
from benchmarks.pairs import Ratio, ratio, rounds
from benchmarks.stage import Contestant
from benchmarks.way import Way, free_port, way

ROW_NBYTES = 4096
SAMPLES_NBYTES = 256 << 20

LANES = ("grpc", "tcp")
"""Those that a way can lie on: shm has none."""

BATCHES = {"4 KiB": 1, "64 KiB": 16, "1 MiB": 256, "4 MiB": 1024}
"""Rows of 4 KiB in a batch."""

SETTLE_S = 2.0
"""Until the window has grown; at 20 ms it doubles each 40 ms."""

HOSTS = {"far": "127.0.0.2", "near": "127.0.0.3"}
"""Where a loader is that far away, at ports of its own: trainers look for the tcp lane at the host of their target."""


@dataclass(frozen=True, slots=True)
class There:
    """A loader at the end of a way, or of one for each of its ports."""

    contestant: Contestant
    ways: tuple[Way, ...]


def reached(
    running: ExitStack, folder: Path, scratch: Path, lane: str, delay_ms: float, *, code: Path | None = None
) -> dict[str, There]:
    """One loader, by one lane, far and near; it and its trainers are of a checkout, `code`, as in a Contestant."""
    tcp_port = free_port() if lane == "tcp" else None
    more = () if tcp_port is None else ("--tcp-port", str(tcp_port))
    address, pid = lanes.loader(running, folder, scratch, lane, *more, code=code)
    port = int(address.rpartition(":")[2])
    there = {}
    for how_far, host in HOSTS.items():
        ways = tuple(
            running.enter_context(way(f"127.0.0.1:{each}", delay_ms if how_far == "far" else 0.0, f"{host}:{each}"))
            for each in (port, tcp_port)
            if each is not None
        )
        there[how_far] = There(Contestant("feedline_loader", {"address": f"{host}:{port}"}, (pid,), code), ways)
    return there


@dataclass(frozen=True, slots=True)
class Taken:
    """One turn: the trainer's stretch, and what its way took for it and what it settled on."""

    stretch: Stretch
    way_cpu_s_per_gb: float


def turn(consumer: Consumer, ways: tuple[Way, ...], pace: Pace) -> Taken:
    before = [way.passed() for way in ways]
    stretch = consumer.take(pace)
    passed = [way.passed() - then for way, then in zip(ways, before, strict=True)]
    return Taken(stretch, sum(one.cpu_s for one in passed) / (sum(one.nbytes for one in passed) / 1e9))


def compare(there: Mapping[str, There], options: Mapping[str, Any], pairs: int, pace: Pace) -> dict[str, list[Taken]]:
    """Far and near in turn; options are those of benchmarks/peers/feedline_loader.py."""
    with ExitStack() as running:
        turns = {}
        for how_far, one in there.items():
            consumer = running.enter_context(one.contestant.consumer(options))
            turns[how_far] = partial(turn, consumer, one.ways, pace)
        return rounds(turns, pairs)


def described(far: list[Taken], near: list[Taken]) -> dict[str, Any]:
    """Medians of both, the ratio, and each end's CPU seconds a GB."""
    both = {"far": far, "near": near}
    each = ratio([one.stretch.gb_per_s for one in far], [one.stretch.gb_per_s for one in near])
    return {
        "ratio": asdict(each),
        "gb_per_s": {name: median(one.stretch.gb_per_s for one in taken) for name, taken in both.items()},
        "cpu_s_per_gb": {
            name: {
                "trainer": median(one.stretch.trainer_cpu_s_per_gb for one in taken),
                "loader": median(one.stretch.loader_cpu_s_per_gb for one in taken),
                "way": median(one.way_cpu_s_per_gb for one in taken),
            }
            for name, taken in both.items()
        },
    }


HEADING = """\
               GB/s                                  CPU s/GB: trainer  loader         way
lane batches   near    far  far/near                 near    far    near    far    near    far"""


def as_text(lane: str, batches: str, found: Mapping[str, Any]) -> str:
    rate, cpu = found["gb_per_s"], found["cpu_s_per_gb"]
    spent = "".join(f"{cpu['near'][end]:>8.2f}{cpu['far'][end]:>7.2f}" for end in ("trainer", "loader", "way"))
    return f"{lane:<5}{batches:<8}{rate['near']:>6.2f}{rate['far']:>7.2f}  {Ratio(**found['ratio'])!s:<21}{spent}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--delay-ms", type=float, default=20.0, help="each way (default 20)")
    parser.add_argument("--lanes", nargs="+", choices=LANES, default=[*LANES], help="default: both")
    parser.add_argument(
        "--batches", nargs="+", choices=BATCHES, default=["64 KiB", "1 MiB"], help="default: %(default)s"
    )
    parser.add_argument("--pairs", type=int, default=5, help="turns of each way (default 5)")
    parser.add_argument("--seconds", type=float, default=2.0, help="length of a turn, after 2 s to settle (default 2)")
    parser.add_argument("--prefetch", type=int, help="batches asked ahead (default: learnt)")
    parser.add_argument("--json", type=Path, help="write the table here as well")
    asked = parser.parse_args()
    table: dict[str, dict[str, Any]] = {}
    print(HEADING)
    with tempfile.TemporaryDirectory(prefix="feedline-bench-") as name:
        scratch = Path(name)
        folder = content.write(scratch / "samples", SAMPLES_NBYTES // ROW_NBYTES, ROW_NBYTES)
        for lane in asked.lanes:
            with ExitStack() as running:
                there = reached(running, folder, scratch, lane, asked.delay_ms)
                for batches in asked.batches:
                    pace = Pace(seconds=asked.seconds, settle_s=SETTLE_S)
                    options = {"folder": str(folder), "batch": BATCHES[batches], "prefetch": asked.prefetch}
                    taken = compare(there, options, asked.pairs, pace)
                    found = table.setdefault(lane, {})[batches] = described(taken["far"], taken["near"])
                    print(as_text(lane, batches, found), flush=True)
    if asked.json:
        asked.json.write_text(json.dumps(table, indent=2) + "\n")


if __name__ == "__main__":
    main()
