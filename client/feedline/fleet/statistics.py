"""What happened in a fleet until now, in numbers for a person, and what its loaders say of themselves.

Snapshots: their values do not change any more.
"""

import contextlib
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass

from feedline.connection.connection import Connection
from feedline.fleet.endpoint import Endpoint, State
from feedline.fleet.tracker import RequestTracker
from feedline_wire.errors import FeedlineError
from feedline_wire.status import LoaderStatus


@dataclass(frozen=True, slots=True)
class ReplicaStatistics:
    """One connection to one loader."""

    address: str
    replica: str
    """The loader's own id, new at every start of it; empty while it is not connected."""
    state: str
    """What it is to this trainer: a `State`, or "silent" if it is connected, owes batches and gives no sign of life."""
    reason: str
    """Why it is not asked, if it is not."""
    lane: str
    """How its batches come: grpc, tcp or shm."""
    outstanding: int
    """Keys it has to answer."""
    asked: int
    answered: int
    """Batches that were of use."""
    duplicates: int
    """Batches that came when another loader had given them."""
    bytes_per_s: float | None
    """As it answers while it has something to answer; None while unknown."""


@dataclass(frozen=True, slots=True)
class Statistics:
    """All of a connection, since it was opened."""

    wanted: int
    answered: int
    nbytes: int
    hedged: int
    """Keys asked of a second loader while the first might still answer: it was late, silent or draining."""
    retried: int
    """Keys asked for again because the loader that was asked is lost or refused."""
    duplicates: int
    """Batches that came twice; the second was dropped."""
    damaged: int
    """Messages that were not what was sent, with `checksum`; what was on its way with them was asked for again."""
    bad_samples: int
    """Samples that cannot be read and were left out or replaced, as their datasets want it, once for each epoch."""
    late_after_s: float
    """When a key is late enough to be asked of a second loader, as learnt."""
    replicas: tuple[ReplicaStatistics, ...]


def observed(tracker: RequestTracker, *, now: float) -> Statistics:
    """The numbers of now; bad samples are counted where batches are handed out, not here."""
    counts = asdict(tracker.counts)
    counts["duplicates"] += sum(endpoint.duplicates for endpoint in tracker.endpoints)
    replicas = tuple(_of_endpoint(tracker, endpoint, now) for endpoint in tracker.endpoints)
    return Statistics(**counts, bad_samples=0, late_after_s=tracker.lateness.late_after_s, replicas=replicas)


def statuses(connections: Sequence[Connection], timeout_s: float) -> dict[str, LoaderStatus]:
    """What each loader does now, by its address, without those that do not answer in time. Blocks so long."""

    def asked(connection: Connection) -> LoaderStatus | None:
        with contextlib.suppress(FeedlineError):
            return connection.status(timeout_s)
        return None

    with ThreadPoolExecutor(max_workers=len(connections) or 1) as threads:
        answers = zip(connections, threads.map(asked, connections), strict=True)
        return {connection.address: answer for connection, answer in answers if answer is not None}


def _of_endpoint(tracker: RequestTracker, endpoint: Endpoint, now: float) -> ReplicaStatistics:
    refusal = tracker.refusal_of(endpoint)
    reason = refusal if refusal is not None else endpoint.reason
    is_silent = endpoint.silent_s(now) > tracker.lateness.silent_after_s
    state = "silent" if is_silent and endpoint.state is State.CONNECTED else endpoint.state.value
    return ReplicaStatistics(
        address=endpoint.address,
        replica=endpoint.description.replica if endpoint.description is not None else "",
        state="refused" if refusal is not None else state,
        reason=str(reason) if reason is not None else "",
        lane=endpoint.connection.lane,
        outstanding=len(endpoint.in_flight),
        asked=endpoint.asked,
        answered=endpoint.answered,
        duplicates=endpoint.duplicates,
        bytes_per_s=endpoint.rate.bytes_per_s(now),
    )
