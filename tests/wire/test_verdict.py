"""The verdict is a table: what readers waited for and what loaders did, and the cause, the sentence and the remedy."""

from dataclasses import replace

import pytest

from feedline_wire.demand import demand_workers
from feedline_wire.figures import ReaderFigures, ReplicaFigures, trainings
from feedline_wire.verdict import Verdict, decide

READER = ReaderFigures("d/train", 0, 1, 60.0, {}, batches=600, lane="tcp", trainer="a")
REPLICA = ReplicaFigures(
    "a:1", 60.0, 8, 1 << 30, batches=600, nbytes=600_000_000, assembling_s=240.0,
    worker_s={"storage": 5.0, "read": 20.0, "assemble": 15.0, "resize": 200.0}, send_s=1.0,
)  # fmt: skip
ALL_BUSY = replace(REPLICA, assembling_s=475.0, worker_s={"read": 20.0, "assemble": 15.0, "resize": 440.0})


def waiting(seconds: float, rank: int = 0, world: int = 1, /, **parts: float) -> ReaderFigures:
    """A reader that waited so long, for these stages in these parts."""
    waited = {stage: part * seconds for stage, part in parts.items()}
    return replace(READER, waited=waited, rank=rank, world=world, trainer=str(rank))


CPU = {"queue": 0.5, "transform": 0.4, "receive": 0.1}


@pytest.mark.parametrize(
    ("readers", "replicas", "cause", "sentence"),
    [
        pytest.param(
            [waiting(0.3, **CPU)], [REPLICA, replace(REPLICA, address="b:1")], "trainer",
            "The trainer is the limit: it waited 0.5 % of the last minute for batches, and 2 loaders with 16 workers, "
            "busy 50.0 %, could give more.",
            id="the trainer is the limit",
        ),
        pytest.param(
            [waiting(0.3, **CPU)], [ALL_BUSY], "trainer",
            "The trainer is the limit: it waited 0.5 % of the last minute for batches, and 1 loader with 8 workers, "
            "busy 99.0 %, keep up.",
            id="the trainer is the limit of loaders that others keep busy",
        ),
        pytest.param(
            [waiting(1.2, 0, 4, **CPU), waiting(1.5, 1, 4, **CPU), waiting(24, 2, 4, receive=0.9, queue=0.1),
             waiting(1.1, 3, 4, **CPU)], [REPLICA], "rank",
            "Rank 2 of 4 waited 40.0 % of the last minute, 90.0 % of that for receive, and the other ranks 2.0 %: look "
            "at that rank's host, its line (lane tcp) and the loaders that it reaches.",
            id="one rank",
        ),
        pytest.param(
            [waiting(30, send=0.5, receive=0.38, queue=0.12)],
            [replace(REPLICA, assembling_s=40, send_s=900, best_nbytes_per_s=12e6)], "line",
            "The trainer waited 50.0 % of the last minute; 88.0 % of that for the line: batches stand ready, and "
            "arrive at 10.0 MB/s (12.0 MB/s at best): a faster line, or fewer bytes on it (a late cast, scale or "
            "one_hot), would keep it fed.",
            id="the line",
        ),
        pytest.param(
            [replace(waiting(30, send=0.5, receive=0.38, queue=0.12), lane="shm")],
            [replace(REPLICA, assembling_s=40, send_s=900)], "line",
            "The trainer waited 50.0 % of the last minute; 88.0 % of that for handing batches over in memory: they "
            "stand ready: a larger batch_size, which is handed over as quickly, would keep it fed.",
            id="memory that both share has no line",
        ),
        pytest.param(
            [replace(waiting(0.9, **CPU), elapsed_s=1.0)], [ALL_BUSY], "unknown",
            "It is too early to say: a trainer has read for 1.0 s; ask again.",
            id="the first second",
        ),
        pytest.param(
            [waiting(30, send=0.1, receive=0.5, queue=0.4)],
            [replace(REPLICA, assembling_s=40, arena_nbytes=4 << 20, short_of_memory_s=55.0)], "memory",
            "The trainer waited 50.0 % of the last minute; 100.0 % of that for memory: keys wait for room in the 4.2 "
            "MB of 1 loader with 8 workers: memory = '32MiB' at each loader would keep it fed.",
            id="memory",
        ),
        pytest.param(
            [waiting(30, send=0.5, receive=0.4, queue=0.1)],
            [replace(REPLICA, assembling_s=40, arena_nbytes=4 << 20, short_of_memory_s=55.0, send_s=200.0)], "line",
            "The trainer waited 50.0 % of the last minute; 90.0 % of that for the line: batches stand ready, and "
            "arrive at 10.0 MB/s (10.0 MB/s at best): a faster line, or fewer bytes on it (a late cast, scale or "
            "one_hot), would keep it fed.",
            id="memory that is full of what the line does not take",
        ),
        pytest.param(
            [replace(waiting(22.8, **CPU), batches=1200)], [ALL_BUSY, replace(ALL_BUSY, address="b:1")], "workers",
            "The trainer waited 38.0 % of the last minute; 90.0 % of that for `resize` on 2 loaders with 16 workers, "
            "all busy: 10 more workers or 2 more replicas would keep it fed.",
            id="workers",
        ),
        pytest.param(
            [replace(waiting(20.0, 0, 2, **CPU), batches=300), replace(waiting(22.8, 1, 2, **CPU), batches=300)],
            [ALL_BUSY], "workers",
            "Rank 1, the slowest of 2, waited 38.0 % of the last minute; 90.0 % of that for `resize` on 1 loader with "
            "8 workers, all busy: 5 more workers or 1 more replica would keep it fed.",
            id="workers, for all ranks",
        ),
        pytest.param(
            [waiting(30, read=0.8, queue=0.2)],
            [replace(ALL_BUSY, worker_s={"read": 400.0, "assemble": 15.0, "storage": 60.0})], "workers",
            "The trainer waited 50.0 % of the last minute; 100.0 % of that for reading on 1 loader with 8 workers, all "
            "busy: 8 more workers or 1 more replica, or data that is read faster (`feedline convert`), would keep it "
            "fed.",
            id="reading: cold chunks, decoding",
        ),
        pytest.param(
            [waiting(30, read=0.8, queue=0.2)],
            [replace(ALL_BUSY, worker_s={"read": 400.0, "assemble": 75.0}, own_read_s=390.0)], "workers",
            "The trainer waited 50.0 % of the last minute; 100.0 % of that for reading on 1 loader with 8 workers, all "
            "busy: 8 more workers or 1 more replica, or quicker Python of yours where it reads (`__getitem__`), would "
            "keep it fed.",
            id="reading: code of the operator's own",
        ),
        pytest.param(
            [waiting(30, storage=0.8, queue=0.2)],
            [replace(ALL_BUSY, worker_s={"read": 20.0, "assemble": 80.0, "storage": 300.0})], "storage",
            "The trainer waited 50.0 % of the last minute; 100.0 % of that for storage: the workers of 1 loader with 8 "
            "workers wait for it 75.0 % of their time: faster storage, or more memory for the page cache, would keep "
            "it fed.",
            id="storage",
        ),
        pytest.param(
            [waiting(18, queue=0.3, transform=0.7)],
            [REPLICA, replace(REPLICA, address="b:1", batches=60, assembling_s=240.0)], "replica",
            "The trainer waited 30.0 % of the last minute; 100.0 % of that for the replica b:1: a batch takes it "
            "4,000 ms, the others 400 ms: a look at its host, or a fleet without it, would keep it fed.",
            id="one replica",
        ),
        pytest.param(
            # Seen of scripts/verdicts 52, after six seconds: seven batches are enough where they took so long.
            [replace(waiting(1.9, transform=0.9, queue=0.1), elapsed_s=6.0, batches=150)],
            [replace(REPLICA, address=f"{name}:1", seconds=6.0, workers=2, batches=batches, assembling_s=seconds)
             for name, batches, seconds in (("a", 77, 10.2), ("b", 76, 10.2), ("c", 7, 7.4))], "replica",
            "The trainer waited 31.7 % of the last 6 s; 100.0 % of that for the replica c:1: a batch takes it "
            "1,057 ms, the others 133 ms: a look at its host, or a fleet without it, would keep it fed.",
            id="one replica after a few batches",
        ),
        pytest.param(
            [replace(waiting(2.6, transform=0.9, queue=0.1), elapsed_s=6.0, batches=150)],
            [replace(REPLICA, address=f"{name}:1", seconds=6.0, workers=2, batches=batches, assembling_s=seconds,
                     worker_s={"resize": seconds}, send_s=0.0)
             for name, batches, seconds in (("a", 77, 11.5), ("b", 76, 11.4), ("c", 7, 2.9))], "workers",
            "The trainer waited 43.3 % of the last 6 s; 100.0 % of that for `resize` on 3 loaders with 6 workers, all "
            "busy: 2 more workers or 1 more replica would keep it fed.",
            id="a replica that has just come",
        ),
        pytest.param(
            [waiting(6, transform=0.7, receive=0.3)], [replace(REPLICA, assembling_s=30.0)], "window",
            "The trainer waited 10.0 % of the last minute; 70.0 % of that for batches that were asked for too late "
            "(the workers of 1 loader with 8 workers are busy 6.2 %): reading further ahead (prefetch, prefetch_bytes) "
            "would keep it fed.",
            id="a short window",
        ),
        pytest.param(
            [waiting(30, deferred=0.7, receive=0.3)], [REPLICA], "late transforms",
            "The trainer waited 50.0 % of the last minute; 70.0 % of that for late transforms, which it does itself: "
            "letting the loaders do them (late = false) would keep it fed.",
            id="late transforms",
        ),
        pytest.param(
            [waiting(30, device=1.0)], [REPLICA], "device",
            "The trainer waited 50.0 % of the last minute; 100.0 % of that for copying to its device: copying ahead of "
            "the step would keep it fed.",
            id="the device",
        ),
        pytest.param(
            [waiting(30, loader=1.0)], [], "loader",
            "The trainer waited 50.0 % of the last minute; 100.0 % of that for a loader that answers: loaders that are "
            "there (`feedline inspect` says what each does) would keep it fed.",
            id="no loader",
        ),
        pytest.param(
            [waiting(30, loader=1.0)], [ReplicaFigures("a:1", 0.0, 8, 1 << 30, times_nothing="0.2.0")], "loader",
            "The trainer waited 50.0 % of the last minute; 100.0 % of that for the loader at a:1, whose feedline 0.2.0 "
            "does not time stages: what an updated loader will name would keep it fed.",
            id="a loader of 0.2.0",
        ),
        pytest.param(
            [], [REPLICA], "unknown", "No trainer has said how it fares: none reads here, or they have just begun.",
            id="no trainer",
        ),
        pytest.param(
            [], [REPLICA, ReplicaFigures("b:1", 0.0, 8, 1 << 30, times_nothing="0.2.0")], "unknown",
            "The loader at b:1 (feedline 0.2.0) does not say how its trainers fare: ask in the trainer (feed.why()), "
            "or update the loader.",
            id="a loader of 0.2.0 that is asked from outside",
        ),
    ],
)  # fmt: skip
def test_the_verdict(readers: list[ReaderFigures], replicas: list[ReplicaFigures], cause: str, sentence: str) -> None:
    found = decide(readers, replicas)

    assert str(found) == sentence
    assert found.cause == cause


def test_nothing_that_a_trainer_or_a_loader_says_breaks_it() -> None:
    lie = replace(READER, elapsed_s=0.0, waited={"transform": 1e18, "nonsense": 1.0}, batches=0)
    odd = replace(REPLICA, seconds=0.0, workers=0, batches=0, arena_nbytes=0, worker_s={})

    for readers in ([lie], [lie, READER], [replace(lie, elapsed_s=1e-9)]):
        for replicas in ([], [odd], [odd, REPLICA]):
            assert isinstance(decide(readers, replicas), Verdict)


def test_more_workers_are_as_many_as_the_trainer_would_use_if_it_never_waited() -> None:
    verdict = decide([waiting(30, **CPU)], [ALL_BUSY])

    assert (verdict.stage, verdict.more_workers) == ("resize", 8)
    assert demand_workers([waiting(30, **CPU)], [ALL_BUSY]) == pytest.approx(475 / 60 / 0.5)
    assert demand_workers([waiting(0, **CPU)], [REPLICA]) == pytest.approx(4.0)
    assert demand_workers([], []) == 0


def test_ranks_of_one_view_are_a_training_and_a_trainer_alone_is_one_by_itself() -> None:
    first, second = waiting(1, 0, 2, **CPU), waiting(2, 1, 2, **CPU)
    told_by_another_loader = replace(first, batches=599)
    alone, also_alone = replace(READER, trainer="x"), replace(READER, trainer="y")
    validation = replace(first, name="d/validation")

    groups = trainings([first, told_by_another_loader, second, alone, also_alone, validation])

    assert groups == [[first, second], [alone], [also_alone], [validation]]
