"""Partitions that heal, long and slow lines, broken connections and turned bits, between real loaders and a trainer.

The lines are the tests' own (proxy.py), on either lane; and, as root, a network namespace whose packets are dropped
silently.
"""

import contextlib
import random
import secrets
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from breaking import namespace
from breaking.data import Data
from breaking.lanes import LANES
from breaking.lines import Lines
from breaking.stage import Stage, Trainer
from breaking.verdict import Undisturbed, judged
from ports import free_port

HOST = "127.0.0.2"

GIVEN_UP_S = 18.0
"""Longer than the 15 s after which a connection on which nothing comes is given up."""

SHORTLY_S = 2.0

WITHIN_S = 20.0
"""As for processes (test_processes.py), where a loader can be reached; and as much more as nobody could."""

Report = Callable[..., None]


@contextlib.contextmanager
def behind_lines(stage: Stage, data: Data, lane: str, **options: object) -> Iterator[tuple[Trainer, list[Lines]]]:
    """A trainer, and its lines to two loaders."""
    with contextlib.ExitStack() as opened:
        lines = []
        for _ in range(2):
            ports = free_port("127.0.0.1", HOST), free_port("127.0.0.1", HOST)
            args = ("--workers", "1", "--memory", "64MiB", "--tcp-port", str(ports[1]), *LANES[lane])
            stage.loader(data.folder, *args, address=f"127.0.0.1:{ports[0]}")
            lines.append(opened.enter_context(Lines(HOST, *(ports if lane != "grpc" else ports[:1]))))
        trainer = stage.trainer(",".join(line.address for line in lines), **options)
        trainer.wait_for(50)
        yield trainer, lines


def hold_one(lines: list[Lines], moments: random.Random) -> None:
    """For longer than keepalive waits: the connection is given up, and made again."""
    with moments.choice(lines).held():
        time.sleep(GIVEN_UP_S)


def hold_all_shortly(lines: list[Lines], _moments: random.Random) -> None:
    """TCP delivers later what was held; nothing is given up."""
    with contextlib.ExitStack() as held:
        for line in lines:
            held.enter_context(line.held())
        time.sleep(SHORTLY_S)


def hold_all(lines: list[Lines], _moments: random.Random) -> None:
    """All connections are given up."""
    with contextlib.ExitStack() as held:
        for line in lines:
            held.enter_context(line.held())
        time.sleep(GIVEN_UP_S)


def slow_one(lines: list[Lines], moments: random.Random) -> None:
    """100 kB/s: less than a batch in two seconds."""
    line = moments.choice(lines)
    line.slow(1e5, 0.05)
    time.sleep(SHORTLY_S)
    line.slow(None, 0.0)


def slow_all(lines: list[Lines], _moments: random.Random) -> None:
    """20 ms each way and 5 MB/s."""
    for line in lines:
        line.slow(5e6, 0.02)
    time.sleep(SHORTLY_S)
    for line in lines:
        line.slow(None, 0.0)


def cut_all(lines: list[Lines], _moments: random.Random) -> None:
    """Every connection at once."""
    for line in lines:
        line.cut()


TROUBLES = {
    "hold one": hold_one,
    "hold all": hold_all,
    "hold all shortly": hold_all_shortly,
    "slow one": slow_one,
    "slow all": slow_all,
    "cut all": cut_all,
}


def troubled(stage: Stage, data: Data, moments: random.Random, lane: str, troubles: list[str]) -> Path:
    with behind_lines(stage, data, lane) as (trainer, lines):
        for trouble in troubles:
            trainer.wait_for(moments.randrange(1, 150))
            TROUBLES[trouble](lines, moments)
        trainer.wait_for(1)
        assert trainer.end() == 0, trainer.log_text()
    return trainer.record


@pytest.mark.slow
@pytest.mark.parametrize("lane", ["tcp", "sealed"])
def test_lines_that_are_held_slowed_and_cut_cost_nothing(
    stage: Stage, data: Data, undisturbed: Undisturbed, moments: random.Random, report: Report, lane: str
) -> None:
    troubles = ["hold all shortly", "slow one", "slow all", "cut all"]  # the longer ones: -m soak

    path = troubled(stage, data, moments, lane, moments.sample(troubles, k=len(troubles)))

    seen = judged(path, undisturbed, data.samples, within_s=SHORTLY_S + WITHIN_S)
    report(seen, fault="lines", victim="line", lane=lane, moments=len(troubles))


@pytest.mark.soak
@pytest.mark.timeout(900)
@pytest.mark.parametrize("lane", LANES)
@pytest.mark.parametrize("trouble", TROUBLES)
def test_lines_are_troubled_at_ten_random_moments(
    stage: Stage,
    data: Data,
    undisturbed: Undisturbed,
    moments: random.Random,
    report: Report,
    trouble: str,
    lane: str,
) -> None:
    path = troubled(stage, data, moments, lane, [trouble] * 10)

    seen = judged(path, undisturbed, data.samples, within_s=GIVEN_UP_S + WITHIN_S)
    report(seen, fault=trouble, victim="line", lane=lane, moments=10)


# ---- turned bits ----


BITS = {
    "grpc": ("grpc", "grpc", 1 << 18, {"checksum": True}),
    "sealed": ("sealed", "lane", 1 << 18, {}),
    "TLS beside the sealed lane": ("sealed", "grpc", 1 << 6, {}),
}
"""The trainer's lane, what a bit is turned of, after how many bytes at most, and what the trainer asks for. By gRPC
little comes beside a lane."""


def turn_bits(stage: Stage, data: Data, moments: random.Random, where: str, times: int) -> tuple[Path, int, str]:
    """A bit of what a loader sends, again and again; how many were; and the trainer's log."""
    lane, by, most, connect = BITS[where]
    with behind_lines(stage, data, lane, connect=connect) as (trainer, lines):

        def turned() -> int:
            return sum(line.damaged[by] for line in lines)

        for number in range(1, times + 1):
            trainer.wait_for(moments.randrange(20, 80))
            for line in lines:  # only one of them may be spoken to
                line.damage(moments.randrange(most), by)
            until = time.monotonic() + 60
            while turned() < number and time.monotonic() < until:
                trainer.wait_for(1)
        trainer.wait_for(126)  # an epoch, at whose end it says what it noticed
        assert trainer.end() == 0, trainer.log_text()
    return trainer.record, turned(), trainer.log_text()


@pytest.mark.slow
@pytest.mark.parametrize("where", ["grpc", "sealed"])
def test_turned_bits_are_noticed_counted_and_asked_for_again_where_there_are_checksums_or_seals(
    stage: Stage, data: Data, undisturbed: Undisturbed, moments: random.Random, report: Report, where: str
) -> None:
    path, turned, _ = turn_bits(stage, data, moments, where, 3)

    seen = judged(path, undisturbed, data.samples, within_s=WITHIN_S)
    assert turned >= 3
    # One that hits HTTP/2's own bytes, or the answer to a greeting, breaks the connection or ends the lane instead.
    assert 0 < seen.damaged <= turned
    report(seen, fault="turned bits", victim="line", lane=where, moments=turned)


@pytest.mark.slow
def test_bits_turned_in_what_tls_protects_end_the_connection_and_are_not_counted_as_damaged(
    stage: Stage, data: Data, undisturbed: Undisturbed, moments: random.Random, report: Report
) -> None:
    """TLS notices them itself and tells nobody what it was: to the trainer it is a connection that broke."""
    path, turned, log = turn_bits(stage, data, moments, "TLS beside the sealed lane", 3)

    seen = judged(path, undisturbed, data.samples, within_s=WITHIN_S)
    assert turned >= 3
    assert seen.damaged == 0
    assert log.count("lost a loader that had") >= 3, log
    report(seen, fault="turned bits", victim="line", lane="TLS", moments=turned)


@pytest.mark.soak
@pytest.mark.timeout(900)
@pytest.mark.parametrize("where", ["grpc", "sealed"])
def test_a_hundred_turned_bits(
    stage: Stage, data: Data, undisturbed: Undisturbed, moments: random.Random, report: Report, where: str
) -> None:
    path, turned, _ = turn_bits(stage, data, moments, where, 100)

    seen = judged(path, undisturbed, data.samples, within_s=WITHIN_S)
    assert turned >= 100
    assert seen.damaged > 0.8 * turned
    report(seen, fault="turned bits", victim="line", lane=where, moments=turned)


# ---- packets that are dropped ----


def dropped(stage: Stage, data: Data, moments: random.Random, lane: str, seconds: list[float]) -> Path:
    """A trainer in a network of its own, of which every packet is dropped for so long, again and again."""
    with namespace.opened(f"feedline-{secrets.token_hex(3)}") as net:
        for _ in range(2):
            args = ("--workers", "1", "--memory", "64MiB", "--insecure", *LANES[lane])
            stage.loader(data.folder, *args, address=f"{net.outside}:0")
        trainer = stage.trainer(",".join(loader.address for loader in stage.loaders), prefix=net.command)
        trainer.wait_for(50)
        for each_s in seconds:
            trainer.wait_for(moments.randrange(1, 150))
            with net.silent():
                time.sleep(each_s)
        assert trainer.end() == 0, trainer.log_text()
    return trainer.record


@pytest.mark.slow
@pytest.mark.skipif(namespace.why_not() is not None, reason=str(namespace.why_not()))
def test_a_network_that_drops_every_packet_and_heals_costs_the_time_it_was_away(
    stage: Stage, data: Data, undisturbed: Undisturbed, moments: random.Random, report: Report
) -> None:
    path = dropped(stage, data, moments, "tcp", [SHORTLY_S])

    seen = judged(path, undisturbed, data.samples, within_s=2 * SHORTLY_S + WITHIN_S)
    report(seen, fault=f"packets dropped for {SHORTLY_S:g} s", victim="network", lane="tcp", moments=1)


@pytest.mark.soak
@pytest.mark.timeout(900)
@pytest.mark.parametrize("lane", LANES)
@pytest.mark.skipif(namespace.why_not() is not None, reason=str(namespace.why_not()))
def test_packets_are_dropped_at_ten_random_moments(
    stage: Stage, data: Data, undisturbed: Undisturbed, moments: random.Random, report: Report, lane: str
) -> None:
    seconds = [SHORTLY_S, GIVEN_UP_S] * 5

    path = dropped(stage, data, moments, lane, seconds)

    # TCP tries again at growing distances, up to as long again as the network was away.
    seen = judged(path, undisturbed, data.samples, within_s=2 * GIVEN_UP_S + WITHIN_S)
    report(seen, fault="packets dropped for 2 and 13 s", victim="network", lane=lane, moments=10)
