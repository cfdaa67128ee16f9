"""The shm lane for trainers on the loader's host: same batches, same guarantees, nothing shared with anybody else."""

import contextlib
import fcntl
import gc
import itertools
import operator
import os
import socket
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import psutil
import pytest

import feedline
from feedline.connection import forks as process
from feedline.connection.lanes import shm as shm_lane
from feedline.fleet import fleet
from feedline_wire import PROTOCOL, frames, rpc
from feedline_wire import loader_pb2 as pb
from feedline_wire.lane import ACCEPTED, PROOF_NBYTES, SHM, SHM_GREETING, TCP, TICKET_NBYTES

StartLoader = Callable[..., Any]

ROWS = 400
WHOLE = Counter(range(ROWS))


def lane_addresses(address: str) -> dict[str, str]:
    with grpc.insecure_channel(address) as channel:
        ask = channel.unary_unary(rpc.DESCRIBE, pb.DescribeRequest.SerializeToString, pb.Description.FromString)
        description = ask(pb.DescribeRequest(protocol=PROTOCOL), timeout=10)
        return {lane.name: lane.address for lane in description.lanes}


def lanes(loader: feedline.Loader) -> list[str]:
    return [one.lane for one in loader.stats.replicas]


def is_right(batch: feedline.Batch) -> bool:
    return bool(np.all(batch["x"] == batch.ids[:, None]))


def read_until_it_stands(loader: feedline.Loader, lane: str) -> None:
    """Whole epochs: the first batches may come by gRPC while the lane is being made."""
    until = time.monotonic() + 60
    for epoch in itertools.count(100):
        if lanes(loader) == [lane]:
            return
        assert time.monotonic() < until, lanes(loader)
        assert all(is_right(batch) for batch in loader.epoch(epoch, batch_size=8))


def wait_for(holds: Callable[[], bool], what: str) -> None:
    until = time.monotonic() + 60
    while not holds():
        assert time.monotonic() < until, f"after a minute still not: {what}"
        time.sleep(0.02)  # nobody tells


def mapped(pid: int) -> set[str]:
    """Memories for batches, a trainer's own, that a process has; each by its inode."""
    lines = Path(f"/proc/{pid}/maps").read_text().splitlines()
    return {line.split()[4] for line in lines if "memfd:feedline-received" in line}


@pytest.fixture(scope="module")
def four_hundred(
    tmp_path_factory: pytest.TempPathFactory, numbered_columns: Callable[..., dict[str, np.ndarray]]
) -> Path:
    """Rows of 16 KiB: batches of four and more lie in the trainer's memory, smaller ones come through the socket."""
    folder = tmp_path_factory.mktemp("shm") / "rows"
    numbered_columns(folder, ROWS, (4096,))
    return folder


@pytest.fixture(scope="module")
def shared(four_hundred: Path, start_shared_loader: StartLoader) -> Any:
    return start_shared_loader(four_hundred, "--workers", "2")


def test_batches_are_the_same_bytes_as_by_grpc_whether_they_lie_in_memory_or_follow(
    shared: Any, four_hundred: Path, start_loader: StartLoader
) -> None:
    by_grpc = start_loader(four_hundred, "--no-shm-lane", "--no-tcp-lane")
    with feedline.connect(shared.address) as one, feedline.connect(by_grpc.address) as other:
        for rows in (1, 7, 150):
            pairs = zip(one.epoch(0, batch_size=rows), other.epoch(0, batch_size=rows), strict=True)
            for ours, theirs in pairs:
                assert (ours.ids.tobytes(), ours["x"].tobytes()) == (theirs.ids.tobytes(), theirs["x"].tobytes())
        assert (lanes(one), lanes(other)) == (["shm"], ["grpc"])
        assert "lane=shm" in repr(one)


def test_a_batch_that_is_held_never_changes_and_who_holds_all_of_an_epoch_has_it_whole(
    shared: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """There is room for a quarter of the epoch: the rest comes through the socket, and nothing waits."""
    monkeypatch.setattr(fleet, "KEPT_NBYTES", 2 << 20)
    with feedline.connect(shared.address) as loader:
        held = list(loader.epoch(0, batch_size=8, prefetch_bytes=1 << 20))
        views = [batch["x"][1:, ::7] for batch in held]
        ids = [batch.ids.copy() for batch in held]
        del held
        for _ in loader.epoch(1, batch_size=8, prefetch_bytes=1 << 20):
            pass
        assert lanes(loader) == ["shm"]

    assert all(np.all(view == these[1:, None]) for view, these in zip(views, ids, strict=True))
    assert Counter(int(i) for these in ids for i in these) == WHOLE


def test_places_are_used_again_when_their_batches_are_gone(shared: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    memories: list[shm_lane.Memory] = []
    make = shm_lane.Memory

    def noted(nbytes: int) -> shm_lane.Memory:
        memories.append(make(nbytes))
        return memories[-1]

    monkeypatch.setattr(shm_lane, "Memory", noted)
    with feedline.connect(shared.address) as loader:
        for epoch in range(3):
            assert all(is_right(batch) for batch in loader.epoch(epoch, batch_size=8, prefetch=4))
        gc.collect()
        [memory] = memories
        wait_for(lambda: not memory._held, "all places are free")  # the test looks at what nobody else has to know
        used = np.frombuffer(memory._memory, np.uint8)[4096:].reshape(-1, 4096).any(axis=1).sum() * 4096

    assert used < 4 << 20  # of 20 MB that came


def test_every_sample_comes_once_although_workers_and_the_loader_die_under_the_lane(
    four_hundred: Path, start_loader: StartLoader
) -> None:
    loader = start_loader(four_hundred)
    ids = []
    with feedline.connect(loader.address) as connected:
        for batch in connected.epoch(0, batch_size=8, prefetch=4):
            assert is_right(batch)
            ids += batch.ids.tolist()
            if batch.index == 10:
                for worker in loader.workers():
                    worker.kill()
            if batch.index == 25:
                loader.kill()
                start_loader(four_hundred, "--listen", loader.address)
        read_until_it_stands(connected, "shm")

    assert Counter(ids) == WHOLE


def test_memory_of_a_loader_that_is_gone_is_let_go_although_nobody_collects_garbage(
    four_hundred: Path, start_loader: StartLoader
) -> None:
    """gRPC's errors are the calls that their own tracebacks hold, and beside them the last batch: seven such memories
    were found in a trainer of three loaders, each as large as the window."""
    loader = start_loader(four_hundred)
    address = loader.address
    gc.collect()
    others = mapped(os.getpid())  # of tests before it in this process
    gc.disable()  # as trainers do, so that it does not stop a step
    try:
        with feedline.connect(address) as connected:
            for epoch in range(3):
                batches = connected.epoch(epoch, batch_size=8, prefetch=4)
                assert Counter(int(i) for batch in batches for i in batch.ids) == WHOLE
                read_until_it_stands(connected, "shm")
                wait_for(
                    lambda: len(mapped(os.getpid()) - others) == 1, "only the memory of the loader that lives is here"
                )
                loader.kill()
                loader = start_loader(four_hundred, "--listen", address)
    finally:
        gc.enable()


def test_memory_of_an_epoch_that_was_left_is_let_go_although_nobody_collects_garbage(shared: Any) -> None:
    """The batches of its window were kept to be cancelled, and the one that was cut by its own error."""
    gc.collect()
    others = mapped(os.getpid())
    gc.disable()
    try:
        for seed in range(8):
            with feedline.connect(shared.address) as connected:
                epoch = connected.epoch(0, batch_size=20, seed=seed, prefetch=16)
                assert all(is_right(next(epoch)) for _ in range(4))
            del epoch
            wait_for(lambda: mapped(os.getpid()) <= others, "nothing of it is left")
    finally:
        gc.enable()


def test_a_loader_that_drains_gives_what_it_began_and_the_rest_comes_from_another(
    four_hundred: Path, start_loader: StartLoader
) -> None:
    first, second = start_loader(four_hundred), start_loader(four_hundred)
    ids = []
    with feedline.connect(f"{first.address},{second.address}") as connected:
        for batch in connected.epoch(0, batch_size=8):
            ids += batch.ids.tolist()
            if batch.index == 10:
                first.drain()
    assert Counter(ids) == WHOLE


def test_where_the_loader_is_not_on_this_host_batches_come_by_tcp(shared: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shm_lane.ShmLane, "is_reachable", lambda address: False)
    with feedline.connect(shared.address) as loader:
        assert Counter(int(i) for batch in loader.epoch(0, batch_size=8) for i in batch.ids) == WHOLE
        read_until_it_stands(loader, "tcp")


def test_another_process_at_the_name_is_found_out_and_gets_nothing(
    shared: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It may have taken the name of a loader that is gone: it does not know what the stream gave the trainer."""
    name = f"feedline-test-{os.getpid()}"
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as imposter:
        imposter.bind("\0" + name)
        imposter.listen()
        heard: list[bytes] = []

        def answer() -> None:
            with contextlib.suppress(OSError):
                while True:
                    connection, _ = imposter.accept()
                    with connection:
                        if said := connection.recv(100):
                            heard.append(said)
                            connection.sendall(ACCEPTED + bytes(PROOF_NBYTES))
                            connection.recv(1)

        thread = threading.Thread(target=answer, daemon=True)
        thread.start()
        connected = shm_lane._connected
        monkeypatch.setattr(shm_lane, "_connected", lambda _: connected(name))
        with feedline.connect(shared.address) as loader:
            assert Counter(int(i) for batch in loader.epoch(0, batch_size=8) for i in batch.ids) == WHOLE
            assert lanes(loader) == ["grpc"]
        imposter.shutdown(socket.SHUT_RDWR)
        thread.join(10)

    assert len(heard) == 1  # asked once, and not again


def test_a_loader_that_may_not_share_memory_offers_none(four_hundred: Path, start_loader: StartLoader) -> None:
    loader = start_loader(four_hundred, "--no-shm-lane")

    assert list(lane_addresses(loader.address)) == [TCP]


def test_nothing_is_left_when_loader_and_trainer_are_killed(four_hundred: Path, start_loader: StartLoader) -> None:
    loader = start_loader(four_hundred)
    name = lane_addresses(loader.address)[SHM]
    assert f"@{name}" in Path("/proc/net/unix").read_text()

    loader.kill()

    assert f"@{name}" not in Path("/proc/net/unix").read_text()


# ---- a connection without a client ----


class Stranger:
    """A stream that asked for the lane, and greetings of any kind."""

    def __init__(self, address: str) -> None:
        self.name = lane_addresses(address)[SHM]
        self._say = threading.Event()
        self._channel = grpc.insecure_channel(address)
        fetch = self._channel.stream_stream(rpc.FETCH, pb.FetchRequest.SerializeToString, None)
        self._call: Any = fetch(self._requests())
        self.ticket = frames.decode(next(self._call)).lane_ticket

    def _requests(self) -> Iterator[pb.FetchRequest]:
        yield pb.FetchRequest(protocol=PROTOCOL, lane=SHM)
        self._say.wait(60)

    def greet(self, said: bytes, fds: list[int]) -> bytes:
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as connection:
            connection.settimeout(20)
            connection.connect("\0" + self.name)
            socket.send_fds(connection, [said], fds)
            connection.shutdown(socket.SHUT_WR)
            try:
                return connection.recv(len(ACCEPTED) + PROOF_NBYTES, socket.MSG_WAITALL)
            except ConnectionResetError:
                return b""

    def close(self) -> None:
        self._say.set()
        self._call.cancel()
        self._channel.close()


@pytest.fixture
def stranger(shared: Any) -> Iterator[Stranger]:
    stranger = Stranger(shared.address)
    yield stranger
    stranger.close()


SEALS = fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_SEAL


def a_memory(nbytes: int = 1 << 20, seals: int = SEALS) -> int:
    fd = os.memfd_create("test", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
    os.ftruncate(fd, nbytes)
    fcntl.fcntl(fd, fcntl.F_ADD_SEALS, seals)
    return fd


def test_who_shows_the_ticket_is_shown_the_proof_and_only_once(stranger: Stranger) -> None:
    greeting = SHM_GREETING + stranger.ticket[:TICKET_NBYTES]
    with contextlib.closing(os.fdopen(a_memory(), "rb")) as memory:
        first = stranger.greet(greeting, [memory.fileno()])
        second = stranger.greet(greeting, [memory.fileno()])

    assert first == ACCEPTED + stranger.ticket[TICKET_NBYTES:]
    assert second == b""


REFUSED = {
    "one that can be cut short": fcntl.F_SEAL_SEAL,
    "one that can be sealed": fcntl.F_SEAL_SHRINK,
    "one that is sealed against writing": SEALS | fcntl.F_SEAL_WRITE,
}


@pytest.mark.parametrize("what", ["no ticket", "no memory", "a file", "a pipe", "nothing in it", "two", *REFUSED])
def test_who_has_no_ticket_or_brings_no_memory_is_sent_away_without_a_word(
    stranger: Stranger, what: str, tmp_path: Path
) -> None:
    with contextlib.ExitStack() as opened:

        def owned(fd: int) -> int:
            opened.callback(os.close, fd)
            return fd

        (tmp_path / "file").write_bytes(bytes(1 << 20))
        read, write = os.pipe()
        memory = owned(a_memory(seals=REFUSED.get(what, SEALS)))
        fds = {
            "no memory": [],
            "a file": [owned(os.open(tmp_path / "file", os.O_RDWR))],
            "a pipe": [owned(write)],
            "nothing in it": [owned(a_memory(0))],
            "two": [memory, owned(read)],
        }.get(what, [memory])
        ticket = bytes(TICKET_NBYTES) if what == "no ticket" else stranger.ticket[:TICKET_NBYTES]

        assert stranger.greet(SHM_GREETING + ticket, fds) == b""


class Vandal(threading.Thread):
    """Trains again and again, each time with memory that it writes all over while workers assemble there."""

    def __init__(self, address: str) -> None:
        super().__init__(daemon=True)
        self.batches = 0
        self.memories: list[shm_lane.Memory] = []
        self.is_over = threading.Event()
        self.is_at_it = threading.Event()
        self._address = address

    def run(self) -> None:
        scribbler = threading.Thread(target=self._scribble)
        scribbler.start()
        for seed in itertools.count(1000):
            with contextlib.suppress(feedline.FeedlineError), feedline.connect(self._address) as loader:
                for _ in loader.epoch(0, batch_size=8, seed=seed):
                    self.batches += 1
                    if self.batches >= 20:
                        self.is_at_it.set()
                    if self.is_over.is_set():
                        break
            if self.is_over.is_set():
                break
        scribbler.join()

    def _scribble(self) -> None:
        """Returns all places, then none, then all: what the loader hears of each number changes all the time."""
        while not self.is_over.is_set():
            for memory in self.memories[-1:]:
                for value in (1, 0, 255):
                    np.frombuffer(memory._memory, np.uint8)[: 4 << 20] = value


def test_a_trainer_that_writes_all_over_its_memory_harms_nobody_else(
    four_hundred: Path, start_loader: StartLoader, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Workers assemble there, and its first page says which places are free: none of it is believed."""
    loader = start_loader(four_hundred, "--workers", "2")
    workers = [worker.pid for worker in loader.workers()]
    vandal = Vandal(loader.address)
    made: list[shm_lane.Memory] = []
    make = shm_lane.Memory

    def noted(nbytes: int) -> shm_lane.Memory:
        made.append(make(nbytes))
        if len(made) > 1:  # the first is the honest one's
            vandal.memories.append(made[-1])
        return made[-1]

    monkeypatch.setattr(shm_lane, "Memory", noted)
    with feedline.connect(loader.address) as honest:
        assert all(is_right(batch) for batch in honest.epoch(0, batch_size=8, seed=2))
        read_until_it_stands(honest, "shm")
        assert len(made) == 1
        vandal.start()
        try:
            assert vandal.is_at_it.wait(60)
            for epoch in range(1, 9):
                ids = []
                for batch in honest.epoch(epoch, batch_size=8, seed=2):
                    assert is_right(batch)
                    ids += batch.ids.tolist()
                assert Counter(ids) == WHOLE
            assert lanes(honest) == ["shm"]
        finally:
            vandal.is_over.set()
            vandal.join(60)

    assert not vandal.is_alive()
    assert vandal.memories
    assert [worker.pid for worker in loader.workers()] == workers
    with feedline.connect(loader.address) as watcher:
        wait_for(lambda: watcher.status().counters["arena_lent"] == 0, "nothing of the arena is lent")


def test_trainers_with_one_seed_on_one_host_have_their_epochs_whole_and_the_same(shared: Any) -> None:
    """What is assembled in one trainer's memory is nobody else's: a key that another wants too lies in the arena."""
    with feedline.connect(shared.address) as one, feedline.connect(shared.address) as other:
        for epoch in range(2):
            ids: list[int] = []
            pairs = zip(one.epoch(epoch, batch_size=8, seed=77), other.epoch(epoch, batch_size=8, seed=77), strict=True)
            for ours, theirs in pairs:
                assert is_right(ours)
                assert (ours.ids.tobytes(), ours["x"].tobytes()) == (theirs.ids.tobytes(), theirs["x"].tobytes())
                ids += ours.ids.tolist()
            assert Counter(ids) == WHOLE
        assert (lanes(one), lanes(other)) == (["shm"], ["shm"])
        assert one.status().counters["shared"] > 0


def test_memory_of_trainers_that_come_and_go_is_let_go_of_by_the_loader_and_its_workers(
    four_hundred: Path, start_loader: StartLoader
) -> None:
    loader = start_loader(four_hundred, "--workers", "2")
    processes = [psutil.Process(loader.process.pid), *loader.workers()]

    def memories() -> list[int]:
        return [len(mapped(one.pid)) for one in processes]

    def descriptors() -> list[int]:
        return [one.num_fds() for one in processes]

    def train(seed: int) -> None:
        # A seed of its own: keys that were given before are assembled in the arena, and then no worker maps anything.
        with feedline.connect(loader.address) as connected:
            for epoch in itertools.count():  # until a worker was at work there
                assert all(is_right(batch) for batch in connected.epoch(epoch, batch_size=8, seed=seed))
                if sum(memories()[1:]) > 0:
                    break

    train(0)
    wait_for(lambda: memories() == [0, 0, 0], "the first trainer's memory is let go of")
    before = descriptors()
    for seed in range(1, 21):
        train(seed)

    wait_for(lambda: memories() == [0, 0, 0], "all memory is let go of")
    wait_for(lambda: all(map(operator.le, descriptors(), before)), f"no more descriptors than {before}")


def test_a_trainer_that_is_killed_leaves_no_memory_with_the_loader(
    four_hundred: Path, start_loader: StartLoader
) -> None:
    loader = start_loader(four_hundred, "--workers", "1")
    processes = [loader.process.pid, *(worker.pid for worker in loader.workers())]

    def memories() -> list[int]:
        return [len(mapped(pid)) for pid in processes]

    code = (
        "import feedline, sys\n"
        f"loader = feedline.connect({loader.address!r})\n"
        "batches = loader.epoch(0, batch_size=8, prefetch=2)\n"
        "held = [next(batches)]\n"
        "while loader.stats.replicas[0].lane != 'shm':\n"
        "    held.append(next(batches))\n"
        "print(loader.stats.replicas[0].lane, flush=True)\n"
        "for _ in sys.stdin:\n"
        "    held.append(next(batches))\n"
        "    print(len(held), flush=True)\n"
    )
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
    with subprocess.Popen([sys.executable, "-c", code], **pipes, bufsize=0) as trainer:
        assert trainer.stdin is not None
        assert trainer.stdout is not None
        assert trainer.stdout.readline() == b"shm\n"
        # The front has its first page, and the worker all of it from the first batch on that finds room there: the
        # trainer takes as much as it turns out to need, and until then batches come through the socket.
        while (now := memories()) != [1, 1]:
            assert now == [1, 0]
            trainer.stdin.write(b"one more\n")
            assert trainer.stdout.readline(), "the epoch is over, and no batch lay in its memory"
        trainer.kill()

    wait_for(lambda: memories() == [0, 0], "the killed trainer's memory is let go of")
    with feedline.connect(loader.address) as connected:
        assert Counter(int(i) for batch in connected.epoch(0, batch_size=50) for i in batch.ids) == WHOLE


def test_after_a_fork_nothing_that_the_child_may_hold_is_written_to_again(monkeypatch: pytest.MonkeyPatch) -> None:
    memory = shm_lane.Memory(1 << 20)
    memory.close()
    before, fleeting = memory.body(1, 4096, 4096), memory.body(2, 8192, 4096)
    del fleeting
    monkeypatch.setattr(process, "_forks", process.forks() + 1)
    after = memory.body(3, 16384, 4096)

    del before, after

    assert memory._returned[:4].tolist() == [0, 0, 1, 1]
