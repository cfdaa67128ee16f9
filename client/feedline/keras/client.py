"""One sequence's client: connected when it is made, closed once, a new one in every copy.

It refuses what Keras cannot use when it connects, not in the middle of an epoch. A copy (pickle, deepcopy) takes along
what the client was made with and where it is, and connects at its first use. A process made by fork takes along nothing
that works, since connections and threads stay behind: using the client there is an error.
"""

import os
import threading
from collections.abc import Iterable
from dataclasses import dataclass, fields

from feedline.connection.credentials import CredentialArguments
from feedline.keras.passes import Passes
from feedline.reading.feed import Feed
from feedline.reading.loader import Loader, Target, connect
from feedline.reading.options import FeedArguments, order_in_place
from feedline.reading.plan import Cursor, Plan
from feedline_wire.errors import Closed, DatasetChanged, InvalidRequest
from feedline_wire.lane import Compression
from feedline_wire.structure import Structure
from feedline_wire.tensors import VARIES, Column

PROBE_BATCHES = 2
"""What Keras takes to build a model: one batch, and one more where it reads ahead itself (JAX on an accelerator). On
TensorFlow it asks for 0 and 1 in dataset order instead, before any pass."""


@dataclass(frozen=True, slots=True)
class Connection:
    """What lives between connecting and closing."""

    loader: Loader
    training: Feed
    canonical: Feed
    passes: Passes

    def close(self) -> None:
        """Close all of it; threads that wait get Closed. Idempotent."""
        self.passes.close()
        self.loader.close()


@dataclass(eq=False)
class Client:
    """A connection that can be copied and is not shared by processes. Thread-safe."""

    target: Target
    arguments: FeedArguments
    credentials: CredentialArguments
    connect_timeout_s: float
    connections: int
    checksum: bool
    compression: Compression
    wanted: str | bytes | None
    """The fingerprint that the user has chosen."""
    backend: str
    """Of Keras 3; "tf_keras" is Keras 2."""
    processes: int = 1
    """That train one model in step."""
    steps: int = 0
    """Batches of a pass; known from the first connection on, never asked for again."""
    fingerprint: bytes = b""
    """Of what was read on the first connection, which later ones go on with."""
    dataset: str = ""
    """And its name."""
    next_number: int = 0
    """The plan number of the first training pass after connecting."""
    rest: Cursor | None = None
    """Where the training passes begin, if they are what is left of one epoch."""
    is_closed: bool = False

    def __post_init__(self) -> None:
        self.connection: Connection | None = None
        """What is, or was, connected; None before the first use."""
        self._connecting = threading.Lock()
        self._owner = os.getpid()

    def __getstate__(self) -> dict[str, object]:
        state = {field.name: getattr(self, field.name) for field in fields(self)}
        if self.connection is not None:
            state["next_number"] = self.connection.passes.resumes_with()
        return state

    def __setstate__(self, state: dict[str, object]) -> None:
        self.__dict__.update(state)
        self.__post_init__()

    @property
    def name(self) -> str:
        """`dataset/view`, for people."""
        dataset = self.arguments.get("dataset") if self.connection is None else self.connection.canonical.dataset.name
        return f"{dataset or '?'}/{self.arguments.get('view')}"

    def connected(self) -> Connection:
        """The connection, made if this is the first use. Raises Closed if it was closed, or is another process'."""
        connection = self.connection
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
            if self.connection is not None:
                return self.connection
            loader = self._loader()
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
                probe_batches=PROBE_BATCHES if self.backend in {"jax", "torch"} else 0,
                rest=self.rest,
            )
            self.connection = connection = Connection(loader, training, canonical, passes)
        if self.is_closed:  # while it was connecting
            connection.close()
        return connection

    def _loader(self) -> Loader:
        """A connection to the version that was read first, also if there is a newer one by now."""
        try:
            return connect(
                self.target,
                timeout_s=self.connect_timeout_s,
                connections=self.connections,
                checksum=self.checksum,
                compression=self.compression,
                fingerprint=self.fingerprint or self.wanted,
                **self.credentials,
            )
        except DatasetChanged as error:
            if not self.fingerprint:
                raise
            raise DatasetChanged(
                f"this RemoteSequence is a copy of one that read {self.dataset!r} with the "
                f"fingerprint {self.fingerprint.hex()}, which is not served now ({error}). Make a new sequence"
            ) from error

    def _recognise(self, feed: Feed) -> None:
        """Note what is served, and check that Keras can use it."""
        dataset, plan = feed.dataset, feed.plan
        check_parts(dataset.structure, plan.remainder)
        check_shapes(dataset.columns, self.backend)
        check_processes(plan, self.processes)
        if not len(feed):
            raise InvalidRequest(
                f"rank {plan.rank} of {plan.world} gets no batch at all: the view {feed.options.view!r} has "
                f"{plan.samples} samples; use fewer ranks or smaller batches, or remainder='pad'"
            )
        self.fingerprint, self.dataset = dataset.fingerprint, dataset.name
        self.steps = len(feed) if self.rest is None else plan.steps_from(self.rest.offset)

    def set_next_number(self, number: int) -> None:
        """The next training pass has plan `number`."""
        self.next_number = number
        if self.connection is not None:
            self.connection.passes.set_next_number(number)

    def close(self) -> None:
        """Close the connection. Idempotent. In a forked process it leaves the parent's connection alone."""
        self.is_closed = True
        if self.connection is not None and self._owner == os.getpid():
            self.connection.close()


# ---- what Keras can take, measured on TensorFlow, JAX and torch ----


def check_parts(structure: Structure, remainder: str) -> None:
    """A batch is `(x,)`, `(x, y)` or `(x, y, sample_weight)`, and padding needs a weight to be marked by."""
    parts = len(structure) if isinstance(structure, tuple) else 1
    if not 1 <= parts <= 3:
        raise InvalidRequest(
            f"a batch of this dataset has {parts} parts, Keras takes (x,), (x, y) or (x, y, sample_weight); declare "
            f"the dataset with nested parts, for example ((x1, x2), y)"
        )
    if remainder == "pad" and parts == 1:
        raise InvalidRequest(
            "remainder='pad' marks padding by a sample weight of 0, which Keras takes only beside (x, y), and this "
            "dataset has no y; use remainder='short', 'drop' or 'wrap'"
        )


def check_shapes(columns: Iterable[Column], backend: str) -> None:
    """Keras on TensorFlow takes the shapes of the first two batches for those of all; only the rows may differ."""
    varying = [str(column) for column in columns if VARIES in column.shape]
    if varying and backend == "tensorflow":
        raise InvalidRequest(
            f"the shape of {', '.join(varying)} varies from batch to batch (where ? is), and Keras on TensorFlow "
            f"expects of all batches what the first two happen to have, so training could fail in the middle of an "
            f"epoch; make them one length on the loader, with the transforms truncate and pad, or train with "
            f"KERAS_BACKEND=jax or torch"
        )


def check_processes(plan: Plan, processes: int) -> None:
    """Processes that train in step get equally many batches, each as large as the others'."""
    left = plan.samples % plan.stride
    if processes > 1 and plan.world > 1 and plan.remainder == "short" and left:
        raise InvalidRequest(
            f"the last batch of an epoch is {left} samples for {plan.world} ranks, so theirs differ in size, or some "
            f"have one step less, and {processes} processes that train in step would wait for each other for ever; "
            f"write RemoteSequence(…, rank={plan.rank}, world={plan.world}, remainder='drop'), which leaves {left} "
            f"out, or 'pad' (sample weight 0) or 'wrap'"
        )


def check_shards(shards: int, world: int, steps: int) -> None:
    """The data is divided by Keras or by feedline, not by both; and each process gets as many batches as the others."""
    if shards > 1 and world > 1:
        raise InvalidRequest(
            f"Keras divides this sequence among {shards} processes and world={world} divides it again, so most samples "
            f"would never be seen; leave rank and world out, or set auto_shard_dataset=False in Keras' distribution"
        )
    if steps % shards:
        raise InvalidRequest(
            f"Keras divides {steps} batches among {shards} processes, so some would have one step less, and the others "
            f"wait for them for ever; let feedline divide the samples: set auto_shard_dataset=False in Keras' "
            f"distribution, and RemoteSequence(…, rank=jax.process_index(), world={shards}, remainder='drop')"
        )
