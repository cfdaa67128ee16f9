"""How many workers trainers want, in worker-seconds a second: whether they wait or are fed."""

from collections.abc import Iterable, Sequence

from feedline_wire.figures import MOSTLY, OF_LINE, OF_WORKERS, ReaderFigures, ReplicaFigures, trainings

SURE_S = 10.0
"""Seconds of reading before a trainer is believed to want more than it takes: a start comes once."""

MOST_SHARE = 0.99
"""A trainer that does nothing but wait would take any number of workers."""

OWN = ("deferred", "device")
"""Stages that are the trainer's own."""


def demand_workers(
    readers: Iterable[ReaderFigures], replicas: Sequence[ReplicaFigures], *, sure_s: float = SURE_S
) -> float:
    """Worker-seconds a second that the trainers of a fleet, of which these are all loaders, would use if none waited.

    Batches a second that each would take, by what a batch of its view costs. It is as steady as these two are: loaders
    that were just added change neither. A trainer that reads for less than `sure_s` wants what it takes.
    """
    latest: dict[object, ReaderFigures] = {}
    for one in readers:
        name = one.trainer or (one.name, one.rank, one.world)
        known = latest.get(name)
        if known is None or (one.is_reading, one.batches) > (known.is_reading, known.batches):
            latest[name] = one
    return _demand(list(latest.values()), replicas, sure_s, is_part=False)


def demand_here(readers: Sequence[ReaderFigures], replica: ReplicaFigures) -> float:
    """What of that falls to one loader, from what it alone knows: the parts of all loaders add up to the whole."""
    told = [one for one in readers if one.loaders]
    if readers and not told:  # trainers of an older release
        return replica.busy * replica.workers
    return _demand(told, [replica], SURE_S, is_part=True)


def _demand(
    readers: Sequence[ReaderFigures], replicas: Sequence[ReplicaFigures], sure_s: float, *, is_part: bool
) -> float:
    able = [one for one in replicas if one.batches]
    if not (readers and able):
        return float(sum(one.workers_busy for one in replicas))  # at their first batches
    overall = sum(one.assembling_s for one in able) / sum(one.batches for one in able)
    wanted = 0.0
    for group in trainings(one for one in readers if one.is_reading):
        # Ranks wait for each other at every step: the one that waits most for batches waits least for the others.
        rate = max(_rate(one, sure_s) for one in group)
        cost_s = _cost_s(group[0].name, able)
        parts = sum(1 / one.loaders if is_part else 1 for one in group)
        wanted += rate * parts * (overall if cost_s is None else cost_s)
    return wanted


def _rate(reader: ReaderFigures, sure_s: float) -> float:
    """Batches a second that it would take: what it took, it took in the time in which it did not wait for workers."""
    if reader.elapsed_s <= 0:
        return 0.0
    spared = min(_for_workers(reader), MOST_SHARE) if reader.elapsed_s >= sure_s else 0.0
    return reader.batches / (reader.elapsed_s * (1 - spared))


def _cost_s(name: str, replicas: Iterable[ReplicaFigures]) -> float | None:
    """What a batch of a view costs; None if none was sent."""
    known = [one.work[name] for one in replicas if name in one.work]
    batches = sum(count for count, _ in known)
    return sum(seconds for _, seconds in known) / batches if batches else None


def for_loaders(reader: ReaderFigures) -> float:
    """The share of its time that it waits for loaders and the line: not for what it does with batches itself."""
    return reader.share * (1 - reader.part(OWN))


def _for_workers(reader: ReaderFigures) -> float:
    """The share of its time that more workers would spare it: not what it does itself, nor the line if that is most."""
    is_line = reader.part(OF_LINE) >= MOSTLY
    return reader.share * reader.part(OF_WORKERS) if is_line else for_loaders(reader)
