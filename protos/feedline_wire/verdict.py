"""What holds a trainer back: one verdict from what its readers waited for and what loaders did meanwhile.

A pure function of figures of about the last minute, so trainer, `feedline why`, page and log say the same. The order in
which causes are looked for is that of `decide`; each has its number, its sentence and one remedy.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import median

from feedline_wire.demand import demand_workers
from feedline_wire.figures import MOSTLY, OF_LINE, OF_WORKERS, RECENT_S, ReaderFigures, ReplicaFigures
from feedline_wire.text import counted, share, size

SOONEST_S = 2.0
"""Seconds of reading before anything is said: the first batches are those of a start."""

UNFELT = 0.01
"""Of the time waited: less is noise, and nothing to win."""

RANK_FACTOR = 3.0
"""A rank that waits so many times as long as the others in the middle has a cause of its own."""

REPLICA_FACTOR = 2.0
"""The same for a replica's time a batch. Two replicas of one kind differ by less, noise included."""

BUSY = 0.85
"""Of the workers' time on batches: the rest is what messages and an uneven load leave, so more is as good as all."""

FEW = 3
"""Batches of a replica before its time a batch is believed."""

START_S = 1.0
"""Of a worker's first batch, imports and first reads: a replica that has just come is none that is slow."""


@dataclass(frozen=True, slots=True)
class Verdict:
    """Why a trainer waits. Its text is the sentence."""

    cause: str
    """trainer, rank, line, memory, workers, storage, replica, late transforms, device, loader, window or unknown."""
    waiting_share: float
    """Of the time of the slowest rank."""
    sentence: str
    stage: str = ""
    """The stage, or the transform, that takes most."""
    more_workers: int = 0
    """Where the cause is workers: how many more would do."""

    def __str__(self) -> str:
        return self.sentence


def decide(readers: Sequence[ReaderFigures], replicas: Sequence[ReplicaFigures]) -> Verdict:
    """The verdict on one training: its ranks, and the loaders that they read from."""
    if not readers:
        return Verdict("unknown", 0.0, _of_nobody(replicas))
    slowest = max(readers, key=lambda one: one.share)
    if slowest.elapsed_s < SOONEST_S:
        return Verdict(
            "unknown", 0.0, f"It is too early to say: a trainer has read for {slowest.elapsed_s:.1f} s; ask again."
        )
    if slowest.share < UNFELT:
        return Verdict(
            "trainer",
            slowest.share,
            f"The trainer is the limit: it waited {share(slowest.share)} of {_time(slowest.elapsed_s)} for batches, "
            f"and {_fleet(replicas)}, busy {share(_busy(replicas))}, "
            f"{'could give more' if _busy(replicas) < BUSY else 'keep up'}.",
        )
    others = [one.share for one in readers if one is not slowest]
    if others and slowest.share >= RANK_FACTOR * median(others):
        return Verdict(
            "rank",
            slowest.share,
            f"Rank {slowest.rank} of {slowest.world} waited {share(slowest.share)} of {_time(slowest.elapsed_s)}, "
            f"{_most(slowest)}, and the other ranks {share(median(others))}: look at that rank's host, its line"
            f"{f' (lane {slowest.lane})' if slowest.lane else ''} and the loaders that it reaches.",
        )
    reason = _of_trainer(slowest, replicas) or _of_loaders(slowest, readers, replicas)
    who = f"Rank {slowest.rank}, the slowest of {len(readers)}," if len(readers) > 1 else "The trainer"
    return Verdict(
        reason.cause,
        slowest.share,
        f"{who} waited {share(slowest.share)} of {_time(slowest.elapsed_s)}; {share(slowest.part(reason.stages))} of "
        f"that for {reason.what}: {reason.remedy} would keep it fed.",
        reason.stage,
        reason.more_workers,
    )


def _of_nobody(replicas: Sequence[ReplicaFigures]) -> str:
    old = next((one for one in replicas if one.times_nothing), None)
    if old is None:
        return "No trainer has said how it fares: none reads here, or they have just begun."
    return (
        f"The loader at {old.address} (feedline {old.times_nothing}) does not say how its trainers fare: ask in the "
        "trainer (feed.why()), or update the loader."
    )


@dataclass(frozen=True, slots=True)
class _Reason:
    cause: str
    what: str
    """Was waited for."""
    remedy: str
    stages: tuple[str, ...] = OF_WORKERS
    """Waited for because of it."""
    stage: str = ""
    more_workers: int = 0


def _of_trainer(slowest: ReaderFigures, replicas: Sequence[ReplicaFigures]) -> _Reason | None:
    """The cause is the trainer itself, or that no loader answers; None if it is neither."""
    if slowest.part(("deferred",)) > MOSTLY:
        remedy = "letting the loaders do them (late = false)"
        return _Reason("late transforms", "late transforms, which it does itself", remedy, ("deferred",))
    if slowest.part(("device",)) > MOSTLY:
        return _Reason("device", "copying to its device", "copying ahead of the step", ("device",))
    if slowest.part(("loader",)) <= MOSTLY:
        return None
    old = next((one for one in replicas if one.times_nothing), None)
    if old is not None:
        what = f"the loader at {old.address}, whose feedline {old.times_nothing} does not time stages"
        return _Reason("loader", what, "what an updated loader will name", ("loader",))
    remedy = "loaders that are there (`feedline inspect` says what each does)"
    return _Reason("loader", "a loader that answers", remedy, ("loader",))


def _of_loaders(
    slowest: ReaderFigures, readers: Sequence[ReaderFigures], replicas: Sequence[ReplicaFigures]
) -> _Reason:
    """The cause is at the loaders, or on the way from them."""
    working = [one for one in replicas if one.seconds]
    is_short = max((one.short_of_memory_s / one.seconds for one in working), default=0.0) > MOSTLY
    busy = _busy(replicas)
    is_standing = _standing(working) > MOSTLY  # what fills the memory is ready: more of it would fill as well
    if slowest.part(OF_LINE) > MOSTLY and busy < BUSY and (is_standing or not is_short):
        if slowest.lane == "shm":
            what = "handing batches over in memory: they stand ready"
            return _Reason("line", what, "a larger batch_size, which is handed over as quickly,", OF_LINE)
        rate = sum(one.nbytes / one.seconds for one in working)
        best = max(rate, sum(one.best_nbytes_per_s for one in replicas))
        return _Reason(
            "line",
            "the line: batches stand ready"
            + (f", and arrive at {size(rate)}/s ({size(best)}/s at best)" if best else ""),
            "a faster line, or fewer bytes on it (a late cast, scale or one_hot),",
            OF_LINE,
        )
    if is_short:
        arena = size(sum(one.arena_nbytes for one in replicas))
        return _Reason(
            "memory",
            f"memory: keys wait for room in the {arena} of {_fleet(replicas)}",
            f"memory = {_memory(replicas)!r} at each loader",
            (*OF_WORKERS, *OF_LINE),
        )
    # Before the workers: those of a slow replica are busy as well.
    if (slow := _slow_replica(replicas)) is not None:
        replica, usual_s = slow
        return _Reason(
            "replica",
            f"the replica {replica.address}: a batch takes it {_ms(_batch_s(replica))}, the others {_ms(usual_s)}",
            "a look at its host, or a fleet without it,",
        )
    demand, workers = demand_workers(readers, working, sure_s=0.0), sum(one.workers for one in replicas)
    if workers and (demand >= workers or busy >= BUSY):
        return _of_workers(replicas, max(math.ceil(demand) - workers, 1))
    return _Reason(
        "window",
        f"batches that were asked for too late (the workers of {_fleet(replicas)} are busy {share(busy)})",
        "reading further ahead (prefetch, prefetch_bytes)",
    )


def _of_workers(replicas: Sequence[ReplicaFigures], more: int) -> _Reason:
    """All workers are busy: with what, and what would do."""
    spent: dict[str, float] = {}
    for one in replicas:
        for stage, seconds in one.worker_s.items():
            spent[stage] = spent.get(stage, 0.0) + seconds
    stage = max(spent, key=lambda name: spent[name], default="assemble")
    fleet = _fleet(replicas)
    if stage == "storage":
        part = share(spent[stage] / sum(spent.values()))
        return _Reason(
            "storage",
            f"storage: the workers of {fleet} wait for it {part} of their time",
            "faster storage, or more memory for the page cache,",
            stage=stage,
            more_workers=more,
        )
    per_replica = max(sum(one.workers for one in replicas) / len(replicas), 1)
    remedy = f"{counted(more, 'more worker')} or {counted(math.ceil(more / per_replica), 'more replica')}"
    if stage == "read" and sum(one.own_read_s for one in replicas) > MOSTLY * spent[stage]:
        remedy += ", or quicker Python of yours where it reads (`__getitem__`),"
    elif stage == "read":
        remedy += ", or data that is read faster (`feedline convert`),"
    what = {"read": "reading", "assemble": "assembling"}.get(stage, f"`{stage}`")
    return _Reason("workers", f"{what} on {fleet}, all busy", remedy, stage=stage, more_workers=more)


# ---- figures ----


def _busy(replicas: Sequence[ReplicaFigures]) -> float:
    """Of all workers' time."""
    workers = sum(one.workers for one in replicas)
    return sum(one.busy * one.workers for one in replicas) / workers if workers else 0.0


def _standing(replicas: Sequence[ReplicaFigures]) -> float:
    """The part of the arenas in which batches stand ready, on average (Little's law)."""
    arena = sum(one.arena_nbytes for one in replicas)
    ready = sum(one.send_s / one.seconds * one.nbytes / one.batches for one in replicas if one.seconds and one.batches)
    return ready / arena if arena else 0.0


def _batch_s(replica: ReplicaFigures) -> float:
    return replica.assembling_s / replica.batches if replica.batches else 0.0


def _slow_replica(replicas: Sequence[ReplicaFigures]) -> tuple[ReplicaFigures, float] | None:
    """The replica that takes much longer for a batch than the others, and what those take."""
    able = [one for one in replicas if one.batches >= FEW]
    if len(able) < 2:
        return None
    slow = max(able, key=_batch_s)
    usual_s = median(_batch_s(one) for one in able if one is not slow)
    least_s = (slow.assembling_s - START_S * slow.workers) / slow.batches
    return (slow, usual_s) if least_s >= REPLICA_FACTOR * usual_s > 0 else None


def _memory(replicas: Sequence[ReplicaFigures]) -> str:
    """What is enough: two batches for each worker and as many for the line, at least twice what there is."""
    needed = 0.0
    for one in replicas:
        nbytes = one.nbytes / one.batches if one.batches else 0.0
        needed = max(needed, 4 * one.workers * nbytes, 2.0 * one.arena_nbytes)
    return f"{1 << max(math.ceil(math.log2(max(needed, 1) / 2**20)), 1)}MiB"


# ---- words ----


def _time(seconds: float) -> str:
    return "the last minute" if seconds >= 0.9 * RECENT_S else f"the last {seconds:.0f} s"


def _most(reader: ReaderFigures) -> str:
    stage = max(reader.waited, key=lambda name: reader.waited[name])
    return f"{share(reader.part((stage,)))} of that for {stage}"


def _fleet(replicas: Sequence[ReplicaFigures]) -> str:
    return f"{counted(len(replicas), 'loader')} with {counted(sum(one.workers for one in replicas), 'worker')}"


def _ms(seconds: float) -> str:
    return f"{seconds * 1000:,.0f} ms" if seconds >= 0.01 else f"{seconds * 1000:.2g} ms"
