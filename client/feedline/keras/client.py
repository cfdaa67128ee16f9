"""One sequence's client: connected when it is made, closed once, a new one in every copy.

A copy (pickle, deepcopy) takes along what the client was made with and where it is, and connects by itself when it is
used first. A process made by fork takes along nothing that works: connections and threads stay behind, so using the
client there is an error and not a guess.
"""

import os
import threading
from collections.abc import Sequence
from dataclasses import dataclass, replace

from feedline.connection.credentials import CredentialArguments
from feedline.connection.description import DatasetInfo
from feedline.keras.passes import Passes
from feedline.keras.statistics import Statistics
from feedline.reading.feed import Feed
from feedline.reading.loader import Loader, connect
from feedline.reading.options import FeedArguments, order_in_place
from feedline.reading.state import Place
from feedline_wire.errors import Closed, DatasetChanged, InvalidRequest


@dataclass(frozen=True, slots=True)
class Connection:
    """What lives between connecting and closing."""

    loader: Loader
    training: Feed
    canonical: Feed
    passes: Passes

    @property
    def dataset(self) -> DatasetInfo:
        """What is read."""
        return self.canonical.options.dataset

    @property
    def replicas(self) -> int:
        """Loaders that are connected now."""
        return self.loader.replicas

    @property
    def statistics(self) -> Statistics:
        """What happened on it until now."""
        return replace(self.passes.statistics, bad_samples=self.loader.losses.count)

    def close(self) -> None:
        """Close all of it; whoever waits gets Closed."""
        self.passes.close()
        self.training.close()
        self.canonical.close()
        self.loader.close()


class Client:
    """A connection that can be copied and is not shared by processes. Any thread."""

    def __init__(
        self,
        target: str | Sequence[str],
        arguments: FeedArguments,
        credentials: CredentialArguments,
        *,
        connect_timeout_s: float,
        connections: int,
        checksum: bool,
        probe_batches: int,
    ) -> None:
        self.target = target
        self.credentials = credentials
        self.probe_batches = probe_batches
        self.arguments = arguments
        self.connect_timeout_s = connect_timeout_s
        self.connections = connections
        self.checksum = checksum
        self.steps = 0
        """Batches of a pass; known from the first connection on, never asked for again."""
        self.fingerprint = b""
        self.next_number = 0
        """The plan number of the first training pass after connecting."""
        self.rest: Place | None = None
        """Where the training passes begin, if they are what is left of one epoch."""
        self.is_closed = False
        self._start()

    def __getstate__(self) -> dict[str, object]:
        connection = self._connection
        state = {name: value for name, value in self.__dict__.items() if not name.startswith("_")}
        if connection is not None:
            state["next_number"] = connection.passes.resumes_with()
        return state

    def __setstate__(self, state: dict[str, object]) -> None:
        self.__dict__.update(state)
        self._start()

    def _start(self) -> None:
        self._connecting = threading.Lock()
        self._connection: Connection | None = None
        self._owner = os.getpid()

    @property
    def name(self) -> str:
        """`dataset/view`, for people."""
        dataset = self.arguments.get("dataset") if self._connection is None else self._connection.dataset.name
        return f"{dataset or '?'}/{self.arguments.get('view')}"

    @property
    def connection(self) -> Connection | None:
        """What is, or was, connected; None before the first use."""
        return self._connection

    def connected(self) -> Connection:
        """The connection, made if this is the first use. Closed if it was closed, or belongs to another process."""
        connection = self._connection
        # Before anything else: in a forked process every lock may be held by a thread that is not there.
        if connection is not None and self._owner != os.getpid():
            raise Closed(
                f"this RemoteSequence was connected by process {self._owner}, from which process {os.getpid()} was "
                f"forked, and a connection does not survive a fork; make it in the new process, or use 'spawn'"
            )
        if self.is_closed:
            raise Closed("this RemoteSequence was closed; make a new one")
        return connection if connection is not None else self._connect()

    def _connect(self) -> Connection:
        with self._connecting:
            if self._connection is not None:
                return self._connection
            loader = connect(
                self.target,
                timeout_s=self.connect_timeout_s,
                connections=self.connections,
                checksum=self.checksum,
                **self.credentials,
            )
            try:
                training = canonical = loader.feed(**self.arguments)
                in_place = order_in_place(training.dataset)
                if training.options.order != in_place:
                    in_order = self.arguments.copy()
                    in_order["order"] = in_place
                    canonical = loader.feed(**in_order)
                self._recognise(canonical)
            except BaseException:
                loader.close()
                raise
            self._owner = os.getpid()
            passes = Passes(
                training,
                canonical,
                next_number=self.next_number,
                probe_batches=self.probe_batches,
                rest=self.rest,
            )
            self._connection = connection = Connection(loader, training, canonical, passes)
        if self.is_closed:  # while it was connecting
            connection.close()
        return connection

    def _recognise(self, feed: Feed) -> None:
        """Note what is served, or check that a copy finds what the original found."""
        dataset, plan = feed.options.dataset, feed.plan
        if self.fingerprint and dataset.fingerprint != self.fingerprint:
            raise DatasetChanged(
                f"this RemoteSequence is a copy of one that read {dataset.name!r} with the fingerprint "
                f"{self.fingerprint.hex()}; now {dataset.fingerprint.hex()} is served. Make a new sequence"
            )
        if not len(feed):
            raise InvalidRequest(
                f"rank {plan.rank} of {plan.world} gets no batch at all: the view {feed.options.view!r} has "
                f"{plan.samples} samples; use fewer ranks or smaller batches, or remainder='pad'"
            )
        self.fingerprint = dataset.fingerprint
        self.steps = len(feed) if self.rest is None else plan.steps_from(self.rest.offset)

    def begin_at(self, place: Place) -> None:
        """Training passes are what is left of an epoch from a place on. Said to a copy, before it connects."""
        self.rest, self.next_number = place, place.epoch
        self.connected()

    def set_next_number(self, number: int) -> None:
        """The next training pass has plan `number`."""
        self.next_number = number
        if self._connection is not None:
            self._connection.passes.set_next_number(number)

    def close(self) -> None:
        """Close the connection. Safe to call twice; in a forked process it leaves the parent's connection alone."""
        self.is_closed = True
        if self._connection is not None and self._owner == os.getpid():
            self._connection.close()
