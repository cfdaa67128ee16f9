"""Many trainers at once, some of which never read: the others are fed, memory stays within its budget (promise G5)."""

import contextlib
import itertools
import queue
import re
import signal
import socket
import subprocess
import sys
import textwrap
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import pytest

import feedline
from feedline_wire import PROTOCOL, frames, rpc
from feedline_wire import loader_pb2 as pb
from feedline_wire.lane import ACCEPTED, GREETING, TCP

StartLoader = Callable[..., Any]

ROWS = 4096
ROW_NBYTES = 4096


class RawTrainer:
    """A Fetch stream without a client: it reads when the test says so, or never."""

    _seeds = itertools.count(1000)

    def __init__(self, address: str, *, lane: str = "") -> None:
        self.channel = grpc.insecure_channel(
            address,
            [
                ("grpc.use_local_subchannel_pool", 1),
                ("grpc.max_receive_message_length", 64 << 20),
                # On a busy machine the probe finds a long line, and the connection takes 16 MB that nobody reads.
                ("grpc.http2.bdp_probe", 0),
            ],
        )
        describe = self.channel.unary_unary(
            rpc.DESCRIBE, pb.DescribeRequest.SerializeToString, pb.Description.FromString
        )
        description = describe(pb.DescribeRequest(protocol=PROTOCOL), timeout=30)
        [self.dataset] = description.datasets
        self._requests: queue.SimpleQueue[pb.FetchRequest | None] = queue.SimpleQueue()
        fetch = self.channel.stream_stream(rpc.FETCH, pb.FetchRequest.SerializeToString, None)
        self.call: Any = fetch(iter(self._requests.get, None), timeout=120)
        self._requests.put(pb.FetchRequest(protocol=PROTOCOL, lane=lane))
        self.lane: socket.socket | None = None
        if lane:
            lanes = {lane.name: lane.address for lane in description.lanes}
            ticket = pb.Frame.FromString(next(self.call)).lane_ticket
            self.lane = socket.create_connection((address.rpartition(":")[0], int(lanes[TCP])))
            self.lane.sendall(GREETING + ticket)
            assert self.lane.recv(1) == ACCEPTED

    def want(self, ticket: int, rows: int, offset: int = 0) -> None:
        key = pb.Key(
            dataset=self.dataset.name,
            fingerprint=self.dataset.fingerprint,
            view="train",
            order="sequential",
            seed=next(self._seeds),  # of keys that are equal there would be one batch for all
            offset=offset,
            rows=rows,
        )
        self._requests.put(pb.FetchRequest(wants=[pb.Want(ticket=ticket, key=key)]))

    def read(self) -> frames.Frame:
        return frames.decode(next(self.call))

    def close(self) -> None:
        self._requests.put(None)
        self.call.cancel()
        if self.lane is not None:
            self.lane.close()
        self.channel.close()


ConnectRaw = Callable[..., RawTrainer]


def wait_for(holds: Callable[[], bool], what: str, seconds: float = 60) -> None:
    until = time.monotonic() + seconds
    while not holds():
        assert time.monotonic() < until, f"after {seconds} s still not: {what}"
        time.sleep(0.02)  # the loader tells nobody what becomes of a stream


@pytest.fixture(scope="module")
def rows_of_4k(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """16 MiB: sample i is 4 KiB, its number in every eight bytes."""
    folder = tmp_path_factory.mktemp("rows") / "rows"
    folder.mkdir()
    np.save(folder / "x.npy", np.repeat(np.arange(ROWS), ROW_NBYTES // 8).reshape(ROWS, ROW_NBYTES // 8))
    return folder


@pytest.fixture
def raw_trainers() -> Iterator[ConnectRaw]:
    with contextlib.ExitStack() as open_ones:

        def connect(address: str, **options: str) -> RawTrainer:
            trainer = RawTrainer(address, **options)
            open_ones.callback(trainer.close)
            return trainer

        yield connect


def stalled(watcher: feedline.Loader) -> int:
    """How many trainers have not taken what they were offered for a second."""
    return sum(one.counters["unread_s"] >= 1 for one in watcher.status().trainers)


def beside_budget(streams: int) -> int:
    """Bytes that the loader's own process may have beside its budget, as docs/design.md states it.

    It is itself, and two frames a stream: 296 MB were measured with 60 streams that do not read.
    """
    return (128 << 20) + streams * (4 << 20)


def peak_nbytes(loader: Any) -> int:
    """The most memory that the loader's own process ever had resident, the arena included."""
    [kilobytes] = re.findall(
        r"^VmHWM:\s+(\d+) kB$", Path(f"/proc/{loader.process.pid}/status").read_text(), re.MULTILINE
    )
    return int(kilobytes) << 10


@pytest.mark.alone
def test_thirty_trainers_get_their_epochs_while_twenty_others_never_read(
    rows_of_4k: Path, start_loader: StartLoader, raw_trainers: ConnectRaw
) -> None:
    """The twenty want a hundred times what the loader may have in memory."""
    loader = start_loader(rows_of_4k, "--workers", "2", "--memory", "64MiB", "--no-shm-lane")
    for _ in range(20):
        stalled = raw_trainers(loader.address)
        for ticket in range(80):
            stalled.want(ticket, rows=1024)  # 4 MiB: three frames

    with contextlib.ExitStack() as connected:
        readers = [connected.enter_context(feedline.connect(loader.address)) for _ in range(30)]
        sizes = [(16, 64, 512, 2048)[index % 4] for index in range(30)]  # rows: 64 KiB to 8 MiB
        epochs = [
            iter(reader.epoch(0, batch_size=size, seed=index, prefetch=2))
            for index, (reader, size) in enumerate(zip(readers, sizes, strict=True))
        ]
        ids: list[list[int]] = [[] for _ in epochs]
        for batches in itertools.zip_longest(*epochs):
            for read, batch in zip(ids, batches, strict=True):
                if batch is not None:
                    assert np.array_equal(batch["x"][:, 0], batch.ids)
                    assert np.array_equal(batch["x"][:, -1], batch.ids)
                    read.extend(batch.ids.tolist())
        status = readers[0].status()

    assert all(Counter(read) == Counter(range(ROWS)) for read in ids)
    unread = [one.counters["bytes"] for one in status.trainers if one.counters["unread_s"] >= 1]
    assert len(unread) == 20
    assert max(unread) < 32 << 20  # what their connections took before they were full, of the 320 MiB they want
    assert status.counters["reclaimed"] > 0
    assert peak_nbytes(loader) < (64 << 20) + beside_budget(50)


def test_a_trainer_that_reads_again_gets_every_batch_whole_although_it_was_taken_away(
    rows_of_4k: Path, start_loader: StartLoader, raw_trainers: ConnectRaw
) -> None:
    loader = start_loader(rows_of_4k, "--workers", "1", "--memory", "32MiB")
    sleepy, another = raw_trainers(loader.address), raw_trainers(loader.address)
    with feedline.connect(loader.address) as other:
        sleepy.want(1, rows=4000)  # 16 MB, half of the memory, in eight frames
        first = sleepy.read()
        wait_for(lambda: stalled(other) == 1, "the sleepy one does not read on")
        another.want(1, rows=4000)
        wait_for(lambda: stalled(other) == 2, "the other one reads nothing either")

        assert [batch.rows for batch in other.epoch(0, batch_size=1000)] == [1000, 1000, 1000, 1000, 96]
        reclaimed = other.status().counters["reclaimed"]

    body = bytearray(first.pieces[0].data)
    begun = 1
    while len(body) < 4000 * (ROW_NBYTES + 8):
        [piece] = sleepy.read().pieces
        if piece.header is not None:
            begun += 1
            body.clear()
        assert piece.start == len(body)
        body += piece.data
    ids = np.frombuffer(bytes(body[-8 * 4000 :]), np.int64)
    assert np.array_equal(np.frombuffer(bytes(body[: -8 * 4000]), np.int64).reshape(4000, -1)[:, 5], ids)
    assert (reclaimed, begun) == (1, 2)


def test_a_trainer_that_does_not_read_its_lane_loses_it_when_others_need_the_memory(
    rows_of_4k: Path, start_loader: StartLoader, raw_trainers: ConnectRaw
) -> None:
    """What the kernel has of a batch cannot be taken back, so such a trainer connects and asks again."""
    loader = start_loader(rows_of_4k, "--workers", "1", "--memory", "32MiB", "--no-send-from-files")
    first, second = raw_trainers(loader.address, lane=TCP), raw_trainers(loader.address, lane=TCP)
    with feedline.connect(loader.address) as other:
        first.want(1, rows=4000)  # 16 MB, half of the memory; the kernel holds some of it
        wait_for(lambda: stalled(other) == 1, "the first does not read")
        second.want(1, rows=4000)
        wait_for(lambda: stalled(other) == 2, "the second does not read")

        assert [batch.rows for batch in other.epoch(0, batch_size=1000)] == [1000, 1000, 1000, 1000, 96]

    whole = 4000 * (ROW_NBYTES + 8)
    assert nbytes_read(first, whole) < whole  # it reads again, and its lane ends
    with pytest.raises(StopIteration):
        next(first.call)  # and so does its stream
    assert nbytes_read(second, whole) >= whole  # one had to go, and that was the other


def nbytes_read(trainer: RawTrainer, most: int) -> int:
    """Bytes that come over a trainer's lane, until there are so many or it ends."""
    assert trainer.lane is not None
    found = 0
    while found < most and (data := trainer.lane.recv(1 << 20)):
        found += len(data)
    return found


def test_a_batch_that_exceeds_the_budget_is_refused_with_the_numbers_and_the_stream_lives_on(
    rows_of_4k: Path, start_loader: StartLoader, raw_trainers: ConnectRaw
) -> None:
    loader = start_loader(rows_of_4k, "--workers", "1", "--memory", "8MiB")
    trainer = raw_trainers(loader.address)
    trainer.want(1, rows=2000)
    trainer.want(2, rows=1)

    pieces = [trainer.read().pieces[0], trainer.read().pieces[0]]

    refusal, batch = sorted(pieces, key=lambda piece: piece.ticket)
    assert refusal.failure is not None
    failure = pb.Failure.FromString(refusal.failure)
    assert failure.kind == "InvalidRequest"
    assert "a batch of 2000 rows takes 8208000 bytes; this loader assembles at most 4194304" in failure.message
    assert batch.failure is None


@pytest.mark.alone
def test_batches_from_a_kilobyte_to_half_a_gigabyte_go_out_side_by_side(
    tmp_path: Path, start_loader: StartLoader, raw_trainers: ConnectRaw
) -> None:
    """Two trainers that never read want, and get, a gigabyte: all of the memory."""
    if free_nbytes() < 6 << 30:
        pytest.skip("needs 6 GiB of free memory")
    with (tmp_path / "x.npy").open("wb") as file:  # half a million samples of a kilobyte, sparse
        header = {"descr": "|u1", "fortran_order": False, "shape": (500_000, 1000)}
        np.lib.format.write_array_header_1_0(file, header)
        file.truncate(file.tell() + 500_000_000)
    # Not by the shm lane, where batches take nothing of the loader's memory.
    loader = start_loader(tmp_path, "--workers", "2", "--memory", "1040MB", "--no-shm-lane")
    stalled = [raw_trainers(loader.address) for _ in range(2)]
    for one in stalled:
        one.want(1, rows=500_000)
    with feedline.connect(loader.address) as watcher:
        wait_for(lambda: watcher.status().counters["arena_lent"] > 1_000_000_000, "the stalled ones hold a gigabyte")

        rows = (1, 1000, 60_000, 500_000)  # 1 KB, 1 MB, 60 MB, 508 MB
        with contextlib.ExitStack() as connected:
            readers = [connected.enter_context(feedline.connect(loader.address)) for _ in rows]
            epochs = [
                itertools.islice(reader.epoch(0, batch_size=size, order="sequential", prefetch=2, timeout_s=60), 8)
                for reader, size in zip(readers, rows, strict=True)
            ]
            seen = [0 for _ in rows]
            for batches in itertools.zip_longest(*epochs):
                for index, batch in enumerate(batches):
                    if batch is not None:
                        assert batch.ids[0] == seen[index]
                        seen[index] += batch.rows
                del batches, batch

        assert seen == [8, 8000, 480_000, 500_000]
        assert watcher.status().counters["reclaimed"] >= 2
    assert peak_nbytes(loader) < 1_040_000_000 + beside_budget(7)


def free_nbytes() -> int:
    [kilobytes] = re.findall(r"^MemAvailable:\s+(\d+) kB$", Path("/proc/meminfo").read_text(), re.MULTILINE)
    return int(kilobytes) << 10


# ---- trainers that are gone, or stopped ----


def start_trainers(address: str, processes: int, streams: int) -> list[subprocess.Popen[str]]:
    """Trainers that have read one batch on each of their streams and want more, but do not read on."""
    code = textwrap.dedent(
        f"""
        import feedline, time
        loaders = [feedline.connect({address!r}) for _ in range({streams})]
        epochs = [loader.epoch(0, batch_size=512, prefetch=4) for loader in loaders]
        first = [next(epoch) for epoch in epochs]
        print("reading", flush=True)
        time.sleep(600)
        """
    )
    started = [
        subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True) for _ in range(processes)
    ]
    for process in started:
        assert process.stdout is not None
        assert process.stdout.readline() == "reading\n"
    return started


def kill(trainers: list[subprocess.Popen[str]]) -> None:
    for trainer in trainers:
        trainer.kill()
    for trainer in trainers:
        trainer.communicate()


def threads_and_descriptors(loader: Any) -> tuple[int, int]:
    process = Path(f"/proc/{loader.process.pid}")
    return len(list((process / "task").iterdir())), len(list((process / "fd").iterdir()))


@pytest.mark.alone
def test_trainers_killed_all_at_once_leave_no_stream_no_slot_no_thread_and_no_descriptor(
    rows_of_4k: Path, start_loader: StartLoader
) -> None:
    loader = start_loader(rows_of_4k, "--workers", "2", "--memory", "64MiB")
    with feedline.connect(loader.address) as watcher:

        def nothing_is_held() -> bool:
            status = watcher.status()
            return not status.trainers and not status.counters["arena_lent"]

        after: list[tuple[int, int]] = []

        def is_as_after_the_first() -> bool:
            """gRPC keeps the threads that it once had, and now and then starts one more; 24 streams would show."""
            now = threads_and_descriptors(loader)
            return not after or all(more < first + 12 for more, first in zip(now, after[0], strict=True))

        for _ in range(3):
            trainers = start_trainers(loader.address, processes=3, streams=8)
            assert len(watcher.status().trainers) == 24

            kill(trainers)
            wait_for(nothing_is_held, "all streams and slots are free")
            # Its sockets gRPC closes some time after the streams have ended.
            wait_for(is_as_after_the_first, "24 streams have left no threads and no descriptors")
            after.append(threads_and_descriptors(loader))


@pytest.mark.alone
@pytest.mark.timeout(180)
def test_a_trainer_that_is_stopped_is_noticed_within_the_stated_time_and_all_it_held_is_free(
    rows_of_4k: Path, start_loader: StartLoader
) -> None:
    """Its TCP connection stays open, and its kernel acknowledges what comes: only the answer to a ping is missing."""
    loader = start_loader(rows_of_4k, "--workers", "2", "--memory", "64MiB")
    trainers = start_trainers(loader.address, processes=1, streams=2)
    try:
        with feedline.connect(loader.address) as watcher:
            assert len(watcher.status().trainers) == 2

            trainers[0].send_signal(signal.SIGSTOP)
            began = time.monotonic()
            wait_for(lambda: not watcher.status().trainers, "it is noticed", seconds=60)
            seconds = time.monotonic() - began

            assert seconds < 30  # 20 are stated
            assert watcher.status().counters["arena_lent"] == 0
    finally:
        kill(trainers)
