"""Why there is no batch or no loader: whether one may still come, and what a reader is told that waited in vain."""

from collections.abc import Iterable, Sequence

from feedline.connection import forks
from feedline.fleet.endpoint import Endpoint, State
from feedline.fleet.requests import PendingBatch
from feedline_wire.errors import (
    FeedlineError,
    LoaderBusy,
    LoaderStalled,
    LoaderStarting,
    LoaderUnavailable,
    NotAllowed,
    NotTrusted,
)


class NotLetIn(LoaderUnavailable):
    """A refusal that may pass: one of the loaders let this trainer in before, so secrets may be under way."""


def passing(reason: FeedlineError) -> FeedlineError:
    """What a loss means to a trainer that was let in before, by this loader or another of the fleet.

    Secrets are replaced on both sides within a minute and in any order, and a loader that is added may have the new
    ones already: no training should end of that.
    """
    if isinstance(reason, NotAllowed | NotTrusted):
        return NotLetIn(f"{reason} (a loader let this trainer in before, so this is tried again)")
    return reason


def hopeless(endpoints: Iterable[Endpoint], pending: PendingBatch) -> FeedlineError | None:
    """Why no loader will ever answer; None while one may: connected, with room or without, or being connected to."""
    others = [endpoint for endpoint in endpoints if endpoint.state is not State.SAME_LOADER]
    refusals = [endpoint.refusal(pending.key, pending.nbytes) for endpoint in others]
    return refusals[0] if refusals and None not in refusals else None


def refused(endpoints: Sequence[Endpoint]) -> FeedlineError | None:
    """What the first says, where all refuse to be connected to; None while one does not."""
    all_refuse = all(endpoint.state is State.REFUSED for endpoint in endpoints)
    return endpoints[0].reason if endpoints and all_refuse else None


def asked_of(endpoints: Iterable[Endpoint], pending: PendingBatch) -> list[Endpoint]:
    """At which loaders a batch is in flight, the first that was asked first."""
    asked = [endpoint for endpoint in endpoints if pending.ticket in endpoint.in_flight]
    return sorted(asked, key=lambda endpoint: endpoint.in_flight[pending.ticket].at)


def overdue(
    endpoints: Sequence[Endpoint],
    pending: PendingBatch,
    timeout_s: float,
    unresolved: Iterable[FeedlineError],
    *,
    now: float,
) -> FeedlineError:
    """What to tell a reader whose batch did not come in time."""
    late = f"no batch {pending.key} within {timeout_s:g} s"
    if asked := asked_of(endpoints, pending):
        first, *others = asked
        beside = f" and {listed(others)}" if others else ""
        return LoaderStalled(
            f"{late} from {first.address}{beside}: it is connected, was last heard {now - first.heard_at:.1f} s ago, "
            f"and has {len(first.in_flight)} batches to answer. See what it is doing with `feedline inspect "
            f"{first.address}`; give it more workers, or this trainer a larger timeout_s"
        )
    if pending.refusal is not None:
        return type(pending.refusal)(f"{late}: {pending.refusal}")
    refusals = [(endpoint, endpoint.refusal(pending.key, pending.nbytes)) for endpoint in endpoints]
    if able := [endpoint for endpoint, refusal in refusals if endpoint.is_connected and refusal is None]:
        return LoaderStalled(
            f"{late}: {listed(able)} connected, but draining or with a full window. Wait for the loader to be "
            f"replaced, add one, or give this trainer a larger timeout_s"
        )
    for _, refusal in refusals:
        if refusal is not None:
            return type(refusal)(f"{late}: {refusal}")
    return unreachable(endpoints, f"{late}:", unresolved)


def unreachable(endpoints: Sequence[Endpoint], when: str, unresolved: Iterable[FeedlineError]) -> LoaderUnavailable:
    """None of them is connected: why, and what to do. One that is up and full is another matter than silence."""
    reasons = [type(endpoint.reason) for endpoint in endpoints]
    kind = next((kind for kind in (LoaderBusy, LoaderStarting) if kind in reasons), LoaderUnavailable)
    forked = " This process was forked from one with a connection, where gRPC often hangs: use spawn."
    return kind(
        f"{when} no loader answers. Last words: {last_words(endpoints, unresolved) or 'there is no address yet'}. "
        f"Is it running (`feedline serve`), is this its address, is the port open?{forked if forks.is_forked() else ''}"
    )


def last_words(endpoints: Iterable[Endpoint], unresolved: Iterable[FeedlineError]) -> str:
    """Where the loaders are, and of those that are not connected, or have no address yet, why."""
    return "; ".join([*(endpoint.last_words for endpoint in endpoints), *map(str, unresolved)])


def listed(endpoints: Iterable[Endpoint]) -> str:
    """Where they are."""
    return ", ".join(endpoint.address for endpoint in endpoints)
