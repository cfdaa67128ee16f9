"""What a large fleet costs those who look at it, from parts that are measured here: up to 256 loaders, 1,000 trainers.

    python -m benchmarks.fleet_cost          some minutes

A server of gRPC answers `Status` as a loader with so many trainers does, at as many addresses of this host as there are
loaders; `feedline autoscale`'s own code asks it. CPU seconds are counted, not the clock, so a busy machine is none the
worse; each number is the least of three.
"""

import resource
import sys
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import grpc

from feedline.connection.credentials import Credentials
from feedline.connection.status_calls import StatusCalls
from feedline.connection.target import Address
from feedline.watching.scaling import look
from feedline_wire import loader_pb2 as pb
from feedline_wire import rpc
from feedline_wire.status import LoaderCounters, StreamCounters, to_messages

SIZES = ((4, 4), (16, 64), (64, 256), (256, 256), (256, 1000))
"""Loaders and trainers."""

RUNS = 3


def reply(trainers: int) -> pb.StatusReply:
    """What a loader with so many trainers answers."""
    counters = to_messages(LoaderCounters(workers=8, batches=10**6, bytes=10**12, assembling_s=1e5))
    return pb.StatusReply(
        replica="r",
        version="0.3.0",
        counters=counters,
        recent_s=60.0,
        recent=counters,
        work=[pb.Work(dataset="digits", view="train", batches=6000, assembling_s=400.0)],
        trainers=[
            pb.Trainer(
                peer=f"ipv4:10.0.{n // 250}.{n % 250}:50000",
                counters=to_messages(StreamCounters(batches=10**5, bytes=10**11)),
                readers=[
                    pb.Reader(
                        dataset="digits", view="train", rank=n, world=trainers, elapsed_us=60_000_000, batches=600,
                        rows=19200, waited_us=[0, 100, 0, 0, 5000, 0, 0, 100, 100, 100], lane="tcp", trainer=f"{n:08x}",
                        total_batches=10**5, total_rows=10**7, total_waited_us=[10**6] * 10, loaders=256,
                    )
                ],
            )
            for n in range(trainers)
        ],
    )  # fmt: skip


def cpu_s() -> float:
    """Of this process, all threads."""
    used = resource.getrusage(resource.RUSAGE_SELF)
    return used.ru_utime + used.ru_stime


def least(act: Callable[[], object]) -> float:
    """CPU seconds that it takes."""
    found = []
    for _ in range(RUNS):
        before = cpu_s()
        act()
        found.append(cpu_s() - before)
    return min(found)


def measure(loaders: int, trainers: int) -> str:
    """One line: how large answers are, and the CPU of one look at all of them."""
    answer = reply(trainers)
    wire = answer.SerializeToString()
    server = grpc.server(ThreadPoolExecutor(8))
    handler = grpc.unary_unary_rpc_method_handler(lambda _request, _context: wire)
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(rpc.SERVICE, {"Status": handler}),))
    port = server.add_insecure_port("0.0.0.0:0")
    server.start()
    addresses = [Address(f"127.0.{1 + n // 250}.{1 + n % 250}:{port}") for n in range(loaders)]
    calls = StatusCalls(Credentials())
    calls.ask(addresses, 60.0)  # connected

    def one_look() -> None:
        statuses, failures = calls.ask(addresses, 300.0)
        assert not failures, next(iter(failures.values()))
        # Each is a loader of its own, which the same bytes do not say.
        each = {at: replace(status, replica=at) for at, status in statuses.items()}
        found = look(each, time.monotonic())
        assert found.replicas == loaders
        assert round(found.demand) == round(trainers * 10 * 400 / 6000)

    try:
        took = least(one_look)
        writing = least(lambda: [answer.SerializeToString() for _ in range(100)]) / 100
    finally:
        calls.close()
        server.stop(None).wait()
    return (
        f"{loaders:7} {trainers:8} {len(wire) / 1e3:8.0f} kB {len(wire) * loaders / 1e6:8.1f} MB "
        f"{took:10.3f} s {1000 * writing:10.2f} ms"
    )


def main() -> int:
    """Measure and print; 0."""
    print("loaders trainers    a Status  of a look  CPU of a look  writing a Status")
    for loaders, trainers in SIZES:
        print(measure(loaders, trainers), flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
