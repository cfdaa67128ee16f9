"""Whether a target's loaders are there, as far as is known: what the first describes, or why there will be none.

Values and decisions, asked by the fleet.
"""

from collections.abc import Collection, Sequence

from feedline.connection.description import Description
from feedline.fleet.endpoint import Endpoint
from feedline.fleet.failures import refused, unreachable
from feedline_wire.errors import FeedlineError, LoaderStarting, LoaderUnavailable

ATTEMPT_S = 5.0
"""For the first answer of all addresses, where no second attempt is made. One that is refused takes milliseconds."""

STARTING_S = 1800.0
"""A loader that was asked for is waited for so long at most: a node that is bought for it and an image that is fetched
take minutes."""

JUST_COME_S = 5.0
"""A loader that has come is tried within two seconds, whatever the pause between attempts has grown to."""


def first_description(
    endpoints: Sequence[Endpoint], unresolved: Collection[FeedlineError], *, is_named: bool
) -> Description | None:
    """What the first that is connected serves; raises what all refuse with. `is_named`: all names have addresses."""
    for endpoint in endpoints:
        if endpoint.description is not None:
            return endpoint.description
    if is_named and (refusal := refused(endpoints)) is not None:
        raise refusal
    for error in unresolved:
        if not isinstance(error, LoaderUnavailable):  # the target is none
            raise error
    return None


def first_attempt(
    endpoints: Sequence[Endpoint], unresolved: Collection[FeedlineError], *, is_named: bool, is_asked: bool
) -> Description | None:
    """The same; LoaderUnavailable when every address was tried in vain. `is_asked`: all names were asked for."""
    description = first_description(endpoints, unresolved, is_named=is_named)
    if description is None and is_asked and all(endpoint.reason is not None for endpoint in endpoints):
        raise unreachable(endpoints, "at the first attempt", unresolved)
    return description


def has_settled(endpoints: Sequence[Endpoint]) -> bool:
    """Every loader has answered, or was tried."""
    return all(endpoint.description or endpoint.reason for endpoint in endpoints)


class Deadline:
    """How long loaders are waited for: `timeout_s`, and as long again for as often as one that was asked for starts.

    Once more where it started at the time before and does no longer: it may just have come. An autoscaler's word that
    there is one comes before the loader itself, by up to a pause between two attempts, and a trainer that had waited
    for minutes gave up in between.
    """

    def __init__(self, timeout_s: float, now: float) -> None:
        self.wait_s = timeout_s or ATTEMPT_S
        """From now on."""
        self.waited_s = timeout_s
        """In all, when it was last asked about."""
        self._timeout_s = timeout_s
        self._began = now
        self._was_put_off = self._was_starting = False

    def is_put_off(self, endpoints: Sequence[Endpoint], now: float) -> bool:
        """What there was to wait has passed: whether it goes on, for `wait_s`."""
        waited_s = now - self._began
        if self._was_put_off:
            self.waited_s = round(waited_s)
        is_now = self._timeout_s > 0 and waited_s < STARTING_S and _is_starting(endpoints)
        self._was_starting, was_before = is_now, self._was_starting
        self.wait_s = self._timeout_s if is_now else max(self._timeout_s, JUST_COME_S)
        self._was_put_off = is_now or was_before
        return self._was_put_off


def _is_starting(endpoints: Sequence[Endpoint]) -> bool:
    """A loader was asked for, and the last that was heard is that there is none yet."""
    return any(isinstance(endpoint.reason, LoaderStarting) for endpoint in endpoints)
