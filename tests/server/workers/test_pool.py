"""The pool, with real worker processes that are killed, that hang, that raise."""

import errno
import gc
import os
import queue
import signal
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import numpy as np
import psutil
import pytest
from processes import children

from feedline_server.batches.assembly import layout_of
from feedline_server.batches.dataset import open_dataset
from feedline_server.batches.fingerprint import fingerprint
from feedline_server.batches.records import Records
from feedline_server.host import child_process
from feedline_server.memory.arena import Arena, Slot
from feedline_server.memory.shared_cache import new_memory
from feedline_server.settings.settings import load_settings
from feedline_server.workers import pool
from feedline_server.workers import process as processes
from feedline_server.workers.messages import (
    Done,
    Failed,
    KilledWorkers,
    OfferDatasets,
    OfferedDataset,
    Outcome,
    SlotTooSmall,
    StartWork,
    Task,
)
from feedline_server.workers.openings import Offer
from feedline_server.workers.pool import Pool
from feedline_wire.errors import DataError, LoaderBroken, LoaderUnavailable
from feedline_wire.key import Key
from feedline_wire.status import LoaderCounters
from feedline_wire.tensors import views

KILLS_EVERY_WORKER, KILLS_ONE_WORKER, NEVER_ENDS_ONCE, RAISES = 1001, 1002, 1003, 1004
OUTGROWS, OUTGROWS_AND_KILLS_ONE_WORKER, NEVER_ENDS = 1005, 1006, 1007
FORKS, ANSWERS_ANOTHER, WRITES_NONSENSE, STOPS_HALF_WAY = 1008, 1009, 1010, 1011
SAMPLES = 1000
SLOT = 1 << 16


class Bench:
    """A pool over x[i] = i, with an inbox of answers."""

    weight = 1.0  # of every task

    def __init__(self, folder: Path, workers: int, batch_timeout_s: float) -> None:
        np.save(folder / "x.npy", np.arange(SAMPLES))
        [(self.name, config)] = load_settings(folder, {}).datasets.items()
        self.dataset = open_dataset(self.name, config)
        self.arena = Arena(256 * SLOT)
        self.fingerprint = fingerprint(self.dataset, config)
        self.decoded_fd = new_memory(1 << 20)
        self.records = Records({self.name: self.dataset})
        self.answers: queue.Queue[tuple[Task, Outcome]] = queue.Queue()
        self.serving: list[bool] = []
        self.pool = Pool(
            size=workers,
            work=StartWork(),
            offer=Offer(
                OfferDatasets((OfferedDataset(self.name, config, self.fingerprint, self.records.places[self.name]),)),
                os.dup(self.records.fd),
            ),
            decoded_fd=self.decoded_fd,
            arena_fd=self.arena.fd,
            batch_timeout_s=batch_timeout_s,
        )

    def start(self) -> None:
        self.pool.start(lambda answers: [self.answers.put(answer) for answer in answers], self.serving.append)

    def submit(self, number: int, *, seed: int = 0, nbytes: int = SLOT) -> None:
        slot = self.arena.allocate(nbytes)
        assert slot is not None
        self.pool.submit([self.task(number, slot, seed)])

    def task(self, number: int, slot: Slot, seed: int = 0) -> Task:
        key = Key(self.name, self.fingerprint, "train", "sequential", seed, 0, number * 10 % SAMPLES, 10)
        return Task(number, key, slot.start, slot.nbytes, self.weight, slot.memory)

    def collect(self, count: int) -> dict[int, tuple[Task, Outcome]]:
        found = [self.answers.get(timeout=60) for _ in range(count)]
        return {task.number: (task, outcome) for task, outcome in found}

    def rows(self, task: Task, outcome: Outcome, fd: int | None = None) -> list[int]:
        assert isinstance(outcome, Done)
        with os.fdopen(os.dup(self.arena.fd if fd is None else fd), "rb") as memory:
            layout = outcome.layout or layout_of(self.dataset, task.key.rows)
            body = np.frombuffer(os.pread(memory.fileno(), layout.nbytes, task.start), dtype=np.uint8)
        rows: list[int] = views(body, layout)["x"].tolist()
        return rows


Start = Callable[..., Bench]


def workers() -> list[psutil.Process]:
    """Pool workers of this process; other tests' loaders may be its children too."""
    ends = ("feedline_server.workers.worker", "faulty_worker.py")
    return children(lambda words: any(word.endswith(ends) for word in words))


@pytest.fixture
def start(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Start]:
    """A started pool; `faulty` workers misbehave for some seeds."""
    benches: list[Bench] = []

    def start(*, workers: int = 2, faulty: bool = False, batch_timeout_s: float = 60) -> Bench:
        if faulty:
            monkeypatch.setattr(processes, "WORKER", (str(Path(__file__).with_name("faulty_worker.py")),))
            monkeypatch.setenv("FAULTY_WORKER_MARKER", str(tmp_path / "marker"))
        bench = Bench(tmp_path, workers, batch_timeout_s)
        benches.append(bench)
        bench.start()
        return bench

    yield start
    for bench in benches:
        bench.pool.close()
        bench.pool.close()
        bench.records.close()
        os.close(bench.decoded_fd)
        bench.arena.close()
    assert workers() == []


def expected(number: int) -> list[int]:
    return list(range(number * 10, number * 10 + 10))


def test_every_task_is_answered_once_with_its_own_rows(start: Start) -> None:
    bench = start()
    for number in range(100):
        bench.submit(number)

    answers = bench.collect(100)

    assert bench.answers.empty()
    assert [bench.rows(*answers[number]) for number in range(100)] == [expected(number) for number in range(100)]


def test_a_batch_is_done_although_its_worker_died(start: Start) -> None:
    bench = start(faulty=True)
    for number in range(20):
        bench.submit(number, seed=KILLS_ONE_WORKER if number == 7 else 0)

    answers = bench.collect(20)

    assert [bench.rows(*answers[number]) for number in range(20)] == [expected(number) for number in range(20)]
    assert bench.pool.count(LoaderCounters()).workers_restarted == 1


def test_workers_killed_from_outside_in_the_middle_of_work_lose_nothing(start: Start) -> None:
    bench = start()
    for number in range(50):
        bench.submit(number)
    for worker in workers():
        worker.send_signal(signal.SIGKILL)
    for number in range(50, 100):
        bench.submit(number)

    answers = bench.collect(100)

    assert bench.answers.empty()
    assert [bench.rows(*answers[number]) for number in range(100)] == [expected(number) for number in range(100)]


def test_a_batch_that_kills_every_worker_is_given_up_and_the_others_are_done(start: Start) -> None:
    bench = start(faulty=True)
    for number in range(12):
        bench.submit(number, seed=KILLS_EVERY_WORKER if number == 5 else 0)

    answers = bench.collect(12)

    assert answers[5][1] == KilledWorkers(5, 3, "signal SIGKILL: killed, for instance for want of memory")
    for number in {*range(12)} - {5}:
        assert bench.rows(*answers[number]) == expected(number)


def test_of_small_batches_that_a_worker_has_together_only_the_one_it_was_at_is_blamed_for_its_death(
    start: Start,
) -> None:
    """They are told and answered several in a message, so the first unanswered one need not be the one it died of."""
    bench = start(workers=1, faulty=True)
    bench.weight = 1 / 16
    for number in range(24):
        bench.submit(number, seed=KILLS_EVERY_WORKER if number in {5, 11} else 0)

    answers = bench.collect(24)

    assert {number for number in answers if isinstance(answers[number][1], KilledWorkers)} == {5, 11}
    assert all(bench.rows(*answers[number]) == expected(number) for number in {*range(24)} - {5, 11})
    assert bench.pool.count(LoaderCounters()).workers_restarted == 6


def test_code_that_forks_and_returns_twice_is_answered_once_and_changes_no_other_batch(start: Start) -> None:
    """Its second return answered as well: four batches of another trainer were not theirs, then the pool was dead."""
    bench = start(workers=1, faulty=True)
    for number in range(40):
        bench.submit(number, seed=FORKS if number % 4 == 1 else 0)

    answers = bench.collect(40)

    assert [bench.rows(*answers[number]) for number in range(40)] == [expected(number) for number in range(40)]
    assert bench.answers.empty()
    assert bench.pool.count(LoaderCounters()).workers_restarted == 0


def test_an_answer_that_was_not_asked_for_is_ignored_and_logged(
    start: Start, capfd: pytest.CaptureFixture[str]
) -> None:
    bench = start(workers=1, faulty=True)
    for number in range(1, 6):
        bench.submit(number, seed=ANSWERS_ANOTHER if number == 3 else 0)

    answers = bench.collect(5)

    assert [bench.rows(*answers[number]) for number in range(1, 6)] == [expected(number) for number in range(1, 6)]
    assert bench.answers.empty()
    assert capfd.readouterr().out.count("a worker answered what it was not asked") == 2


@pytest.mark.parametrize("seed", [WRITES_NONSENSE, STOPS_HALF_WAY])
def test_a_worker_that_breaks_the_protocol_is_ended_and_its_batches_are_done_by_another(
    start: Start, seed: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Bytes that are no message ended the pool's thread; half a message held it up for ever."""
    monkeypatch.setattr(child_process, "REST_S", 1)
    bench = start(workers=2, faulty=True)
    for number in range(20):
        bench.submit(number, seed=seed if number == 7 else 0)

    answers = bench.collect(20)

    assert [bench.rows(*answers[number]) for number in range(20)] == [expected(number) for number in range(20)]
    assert bench.answers.empty()
    assert bench.pool.count(LoaderCounters()).workers_restarted == 1


def test_a_worker_that_never_answers_is_ended_and_its_batch_done_by_another(start: Start) -> None:
    bench = start(faulty=True, batch_timeout_s=1.0)
    bench.submit(3, seed=NEVER_ENDS_ONCE)

    answers = bench.collect(1)

    assert bench.rows(*answers[3]) == expected(3)


def test_a_batch_that_never_ends_is_given_up_as_one_that_took_too_long(start: Start) -> None:
    """A worker that is ended here must not look as if the machine were short of memory."""
    bench = start(faulty=True, batch_timeout_s=0.5)
    bench.submit(3, seed=NEVER_ENDS)

    [(_, outcome)] = bench.collect(1).values()

    assert isinstance(outcome, KilledWorkers)
    assert outcome.deaths == 3
    assert "longer than batch_timeout_s = 0.5" in outcome.cause


def test_a_stopped_worker_is_ended_and_its_batches_done_by_another(start: Start) -> None:
    bench = start(workers=1, batch_timeout_s=1.0)
    [worker] = workers()
    worker.send_signal(signal.SIGSTOP)
    bench.submit(1)
    bench.submit(2)

    answers = bench.collect(2)

    assert bench.rows(*answers[1]) == expected(1)
    assert bench.rows(*answers[2]) == expected(2)


def test_a_fault_in_the_worker_itself_is_an_error_with_its_traceback_and_no_death(start: Start) -> None:
    bench = start(faulty=True)
    bench.submit(1, seed=RAISES)

    [(_, outcome)] = bench.collect(1).values()

    assert isinstance(outcome, Failed)
    assert isinstance(outcome.error, LoaderBroken)
    assert "a fault of the worker's own" in outcome.error.traceback
    assert bench.pool.count(LoaderCounters()).workers_restarted == 0


@pytest.mark.parametrize("seed", [OUTGROWS, OUTGROWS_AND_KILLS_ONE_WORKER])
def test_a_batch_that_outgrows_its_slot_says_what_it_takes_and_is_done_in_a_larger_one_although_a_worker_dies(
    start: Start, seed: int
) -> None:
    bench = start(workers=1, faulty=True)
    bench.submit(1, seed=seed)
    bench.submit(2)
    answers = bench.collect(2)
    assert answers[1][1] == SlotTooSmall(1, SLOT + 1)
    assert bench.rows(*answers[2]) == expected(2)

    bench.submit(1, seed=seed, nbytes=SLOT + 1)

    [again] = bench.collect(1).values()
    assert bench.rows(*again) == expected(1)
    assert bench.pool.count(LoaderCounters()).workers_restarted == (seed == OUTGROWS_AND_KILLS_ONE_WORKER)


def test_a_worker_that_cannot_be_started_for_want_of_descriptors_is_started_later(
    start: Start, monkeypatch: pytest.MonkeyPatch
) -> None:
    """EMFILE ended the pool's thread, while health said SERVING: no batch for anybody any more."""
    bench = start(workers=1)
    tries = 0

    def short() -> child_process.ChildProcess:
        nonlocal tries
        tries += 1
        if tries < 4:
            raise OSError(errno.EMFILE, "Too many open files")
        return processes.start_worker()

    monkeypatch.setattr(pool, "start_worker", short)
    before = descriptors()
    [worker] = workers()
    worker.send_signal(signal.SIGKILL)
    for number in range(20):
        bench.submit(number)

    answers = bench.collect(20)

    assert [bench.rows(*answers[number]) for number in range(20)] == [expected(number) for number in range(20)]
    assert tries == 4
    assert bench.serving == [False, True]
    assert descriptors() == before


def test_a_child_that_cannot_be_started_leaves_no_descriptor(monkeypatch: pytest.MonkeyPatch) -> None:
    before = descriptors()
    for fails in ("memfd_create", "pidfd_open"):
        with monkeypatch.context() as patch:
            patch.setattr(os, fails, lambda *_: (_ for _ in ()).throw(OSError(errno.EMFILE, "Too many open files")))
            with pytest.raises(OSError, match="Too many"):
                processes.start_worker()

    assert descriptors() == before
    assert workers() == []


def test_a_pool_that_cannot_open_its_data_says_why_at_the_start(start: Start, tmp_path: Path) -> None:
    bench = Bench(tmp_path, 2, 60)
    (tmp_path / "x.npy").unlink()

    with pytest.raises(DataError, match=r"x\.npy"):
        bench.start()

    bench.records.close()
    os.close(bench.decoded_fd)
    bench.arena.close()


def test_a_closed_pool_leaves_no_process_even_when_its_workers_hang(start: Start) -> None:
    bench = start(faulty=True)
    bench.submit(1, seed=NEVER_ENDS_ONCE)
    children = workers()

    bench.pool.close()

    assert [child for child in children if child.is_running()] == []


def test_workers_killed_again_while_their_replacements_still_open_the_data_lose_nothing(start: Start) -> None:
    """Found by killing all workers three times in a row: waiting batches were failed because no worker was ready."""
    bench = start()
    for number in range(30):
        bench.submit(number)
    for _ in range(2):
        for worker in workers():
            worker.send_signal(signal.SIGKILL)
        until = time.monotonic() + 30
        while len(workers()) < 2:
            assert time.monotonic() < until
            time.sleep(0.005)  # replaced, but not yet ready: that takes some hundred milliseconds

    answers = bench.collect(30)

    assert [bench.rows(*answers[number]) for number in range(30)] == [expected(number) for number in range(30)]


def test_a_worker_that_finds_other_data_at_the_same_path_serves_none_of_it(start: Start, tmp_path: Path) -> None:
    """A replaced worker opens the files anew: without this it served new samples under the old fingerprint."""
    bench = start(workers=1)
    np.save(tmp_path / "new.npy", np.arange(SAMPLES) * 2)
    (tmp_path / "new.npy").replace(tmp_path / "x.npy")
    [worker] = workers()
    worker.send_signal(signal.SIGKILL)
    bench.submit(1)

    [(_, outcome)] = bench.collect(1).values()

    assert isinstance(outcome, Failed)
    assert isinstance(outcome.error, DataError)
    assert "changed while" in str(outcome.error)


# ---- memory of trainers ----


NAME = "feedline-of-a-trainer"


@pytest.fixture
def lent() -> Iterator[int]:
    """Memory as a trainer passes it."""
    fd = os.memfd_create(NAME, os.MFD_CLOEXEC)
    os.ftruncate(fd, 64 * SLOT)
    yield fd
    os.close(fd)


def place(number: int, memory: int = 7) -> Slot:
    return Slot(number * SLOT, SLOT, memory)


def mappings_of_each() -> list[int]:
    return [Path(f"/proc/{worker.pid}/maps").read_text().count(NAME) for worker in workers()]


def mappings() -> int:
    return sum(mappings_of_each())


def descriptors_of_it() -> int:
    return sum(NAME in str(one.readlink()) for one in Path("/proc/self/fd").iterdir() if one.is_symlink())


def descriptors() -> int:
    gc.collect()  # datasets of earlier tests hold some
    return sum(1 for _ in Path("/proc/self/fd").iterdir())


def until(holds: Callable[[], bool], what: str) -> None:
    deadline = time.monotonic() + 60
    while not holds():
        assert time.monotonic() < deadline, f"after a minute still not: {what}"
        time.sleep(0.02)  # nobody tells


def test_batches_are_assembled_in_a_trainers_memory_by_every_worker_and_by_those_who_replace_them(
    start: Start, lent: int
) -> None:
    bench = start()
    bench.pool.map_memory(7, lent)
    bench.pool.submit([bench.task(number, place(number)) for number in range(30)])
    for worker in workers():
        worker.send_signal(signal.SIGKILL)
    until(lambda: bench.pool.count(LoaderCounters()).workers_restarted == 2, "both were replaced")
    bench.pool.submit([bench.task(number, place(number)) for number in range(30, 60)])

    answers = bench.collect(60)

    found = [bench.rows(*answers[number], lent) for number in range(60)]
    assert found == [expected(number) for number in range(60)]
    assert not np.frombuffer(os.pread(bench.arena.fd, bench.arena.nbytes, 0), np.uint8).any()


def test_memory_that_is_withdrawn_is_kept_by_nobody_and_what_names_it_is_answered_with_an_error(
    start: Start, lent: int
) -> None:
    bench = start()
    before = descriptors()
    bench.pool.map_memory(7, lent)
    bench.pool.submit([bench.task(number, place(number)) for number in range(20)])
    bench.collect(20)
    assert mappings() > 0

    bench.pool.unmap_memory(7)
    bench.pool.submit([bench.task(99, place(1))])
    bench.submit(1)

    answers = bench.collect(2)
    [failed] = [outcome for task, outcome in answers.values() if task.memory == 7]
    assert isinstance(failed, Failed)
    assert isinstance(failed.error, LoaderUnavailable)
    assert failed.error.elsewhere
    until(lambda: mappings() == 0, "no worker has it mapped")
    until(lambda: descriptors() == before, "the front has no descriptor of it")


def test_what_the_answer_to_a_refused_task_has_submitted_is_done_although_nothing_else_happens(start: Start) -> None:
    """Found with a disk that failed: answers of what cannot be opened made room for keys that nobody looked at."""
    bench = start()
    slot = bench.arena.allocate(SLOT)
    assert slot is not None
    more = [bench.task(1, slot)]

    def answer(answers: Sequence[tuple[Task, Outcome]]) -> None:
        for one in answers:
            bench.answers.put(one)
        bench.pool.submit([more.pop()] if more else [])

    bench.pool._answer = answer
    bench.pool.submit([bench.task(0, place(0))])  # in memory that nobody lent

    answers = bench.collect(2)
    assert isinstance(answers[0][1], Failed)
    assert bench.rows(*answers[1]) == expected(1)


def test_a_pool_that_closes_lets_go_of_memory_that_is_still_lent(start: Start, lent: int) -> None:
    bench = start()
    before = descriptors()
    bench.pool.map_memory(7, lent)
    bench.pool.submit([bench.task(1, place(1))])
    bench.collect(1)
    bench.pool.map_memory(8, lent)  # of which it may hear no more

    bench.pool.close()
    bench.pool.map_memory(9, lent)

    assert descriptors() < before
    assert descriptors_of_it() == 1


def test_each_trainers_batches_are_in_its_own_memory_which_every_worker_maps_once(start: Start, lent: int) -> None:
    bench = start()
    other = os.memfd_create(NAME, os.MFD_CLOEXEC)
    os.ftruncate(other, 64 * SLOT)
    try:
        bench.pool.map_memory(7, lent)
        bench.pool.map_memory(8, other)
        places = [place(number // 4 * 2 + number % 2, 7 + number // 2 % 2) for number in range(60)]
        bench.pool.submit([bench.task(number, each) for number, each in enumerate(places)])  # each has some of both

        answers = bench.collect(60)

        fds = {7: lent, 8: other}
        found = [bench.rows(*answers[number], fds[answers[number][0].memory]) for number in range(60)]
        assert found == [expected(number) for number in range(60)]
        assert mappings_of_each() == [2, 2]
    finally:
        os.close(other)


def test_memory_that_is_withdrawn_under_its_batches_ends_no_worker_and_touches_no_other_batch(
    start: Start, lent: int
) -> None:
    """A trainer that is killed leaves batches with the workers, and others before them."""
    bench = start()
    for round_ in range(10):
        first = 100 * round_
        bench.pool.map_memory(round_ + 1, lent)
        bench.pool.submit([bench.task(first + number, place(number, round_ + 1)) for number in range(8)])
        bench.submit(first + 99)
        bench.pool.unmap_memory(round_ + 1)
        bench.pool.unmap_memory(round_ + 1)

        answers = bench.collect(9)

        assert bench.rows(*answers.pop(first + 99)) == expected((first + 99) % 100)
        for number, (task, outcome) in answers.items():
            if isinstance(outcome, Done):
                assert bench.rows(task, outcome, lent) == expected(number % 100)
            else:
                assert isinstance(outcome, Failed)
                assert isinstance(outcome.error, LoaderUnavailable)
    until(lambda: mappings() == 0, "no worker has it mapped")
    assert bench.pool.count(LoaderCounters()).workers_restarted == 0


class HoldsUp(queue.Queue[tuple[Task, Outcome]]):
    """Answers that nobody takes for a while: the pool's thread stays in `put`."""

    def __init__(self) -> None:
        super().__init__()
        self.is_held_up = threading.Event()
        self.may_go_on = threading.Event()

    def put(self, item: tuple[Task, Outcome], block: bool = True, timeout: float | None = None) -> None:
        self.is_held_up.set()
        assert self.may_go_on.wait(60)
        super().put(item)


def test_memory_that_a_pool_was_lent_and_has_not_heard_of_is_let_go_of_when_it_closes(start: Start, lent: int) -> None:
    bench = start()
    bench.answers = answers = HoldsUp()
    bench.pool.map_memory(7, lent)
    bench.pool.submit([bench.task(0, place(0))])
    assert answers.is_held_up.wait(60)
    bench.pool.map_memory(8, lent)
    closer = threading.Thread(target=bench.pool.close)
    closer.start()
    until(lambda: bench.pool._closing, "it is about to close")  # nobody else has to know
    assert descriptors_of_it() == 3  # the test's own and two of the pool's

    answers.may_go_on.set()
    closer.join(60)

    assert descriptors_of_it() == 1
    assert set(bench.collect(1)) == {0}
