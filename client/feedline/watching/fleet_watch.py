"""What a target's loaders do, looked at again and again: for what decides how many there should be.

A name that has no address, or addresses at which nothing answers, are part of the answer and no error: loaders come and
go, and one who looks after them must not go with them.
"""

import socket
import time
from collections.abc import Mapping
from dataclasses import dataclass

from feedline.connection.credentials import Credentials
from feedline.connection.status_calls import StatusCalls
from feedline.connection.target import Address, Target, entries
from feedline.fleet.resolve import look_up
from feedline.watching.scaling import Look, look
from feedline_wire.errors import FeedlineError
from feedline_wire.status import LoaderStatus

_NO_ADDRESS = frozenset({socket.EAI_NONAME, getattr(socket, "EAI_NODATA", socket.EAI_NONAME)})
"""The name service answered: it has none. Any other error is its own."""

ANSWER_S = 2.0
"""A loader answers in milliseconds, behind the batches of a thin line in a second. One that does not is not counted."""


@dataclass(frozen=True, slots=True)
class Seen:
    """One look at a fleet."""

    look: Look
    statuses: Mapping[str, LoaderStatus]
    """By address."""
    problems: Mapping[str, str]
    """By address, or name, why it says nothing."""
    took_s: float
    """To resolve the target and to ask all."""


class FleetWatch:
    """Looks at the loaders of a target. One thread at a time; `close` may come from any."""

    def __init__(self, target: Target, credentials: Credentials) -> None:
        """`credentials` are completed already. InvalidRequest if the target is none."""
        self._entries = entries(target)
        self._calls = StatusCalls(credentials)

    def __repr__(self) -> str:
        return f"<FleetWatch {self}>"

    def __str__(self) -> str:
        return ",".join(map(str, self._entries))

    def see(self, *, knocking: int = 0, may_be_empty: bool = False, timeout_s: float = ANSWER_S) -> Seen:
        """Look now. Blocks while names are resolved, and for `timeout_s` at most.

        `knocking` is how many trainers ask for a loader. With `may_be_empty` a name without an address is a fleet
        without loaders, else something that may be wrong with the name.
        """
        began = time.monotonic()
        addresses: list[Address] = []
        problems: dict[str, str] = {}
        is_resolved = True
        for entry in self._entries:
            try:
                addresses += look_up(entry)
            except FeedlineError as error:
                problems[str(entry)] = str(error)
                is_resolved = is_resolved and may_be_empty and _has_no_address(error)
        statuses, failures = self._calls.ask(addresses, timeout_s)
        problems |= {address: str(error) for address, error in failures.items()}
        now = time.monotonic()
        found = look(statuses, now, knocking=knocking, unanswered=len(failures), is_known=is_resolved or bool(statuses))
        return Seen(found, statuses, problems, now - began)

    def close(self) -> None:
        """End all connections. Idempotent."""
        self._calls.close()


def _has_no_address(error: FeedlineError) -> bool:
    return isinstance(cause := error.__cause__, socket.gaierror) and cause.errno in _NO_ADDRESS
