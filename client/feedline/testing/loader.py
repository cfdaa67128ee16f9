"""The loader in memory: a gRPC server in this process whose faults are scripted by the test.

It fails only as its test commands. When `stop` returns, none of its threads is left.
"""

import secrets
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from random import Random
from typing import Literal

import grpc

from feedline.testing.memory import Kind, Values, fingerprint_of, in_memory
from feedline.testing.service import Service
from feedline.testing.state import State
from feedline_wire import PROTOCOL, rpc, versions
from feedline_wire import loader_pb2 as pb
from feedline_wire.elementwise import Deferred
from feedline_wire.errors import FeedlineError, LoaderUnavailable
from feedline_wire.frames import FRAME_BYTES
from feedline_wire.key import Key
from feedline_wire.structure import Structure
from feedline_wire.versions import FEATURES, Peer

SPARE_THREADS = 16
"""Threads beyond one a stream: for Describe and Status, and to refuse a stream too many."""

GRACE_S = 0.5
"""Calls end by themselves on `stop`; only one that has not sent its first message has to be cancelled after this.
Cancelling at once makes gRPC write a line about every connection into the user's test output."""

STOP_S = 10.0
"""Stopping takes milliseconds; a test that waits longer should fail and say so."""


@contextmanager
def serve(
    columns: Mapping[str, Values],
    *,
    views: Mapping[str, range | slice | Sequence[int]] | None = None,
    structure: Structure | None = None,
    kind: Kind = "samples",
    deferred: Sequence[Deferred] = (),
    categories: Mapping[str, Sequence[str]] | None = None,
    bad: Collection[int] | None = None,
    on_bad_sample: Literal["skip", "substitute"] = "skip",
    name: str = "fake",
    address: str = "127.0.0.1:0",
    fingerprint: bytes | None = None,
    protocol: int = PROTOCOL,
    oldest_protocol: int | None = None,
    features: Collection[str] = FEATURES,
    shuffle_answers: bool = False,
    frame_bytes: int = FRAME_BYTES,
    max_batch_bytes: int = 256 << 20,
    max_window: int = 1024,
    max_trainers: int = 64,
) -> Iterator["FakeLoader"]:
    """Serve arrays from memory while the context lasts: `feedline.connect(loader.address)` connects to it.

    `columns` are arrays of one length, sample i being row i of each. `views` name samples by id (default: all of them,
    as `train`); `structure` says how columns make up a batch (default: a tuple of all, or the only one). Port 0 takes
    any free one.

    Under `kind="batches"` each column is a list of ready batches, served as they are, and `views` name those; under
    "stream" they come one after the other whatever is asked, over and over, and under "endless" no epoch ends.
    `deferred` is what trainers do to columns, such as `("x", Scale(divide_by=255))`; `categories` are what numbers in a
    column stand for. Samples with an id in `bad` are left out or replaced, and named with their batch.

    `fingerprint` pretends to be another dataset, `protocol`, `oldest_protocol` (the same if not given) and `features`
    another release. `shuffle_answers` answers what is wanted in
    any order, as a real loader with several workers does; a small `frame_bytes` makes even small batches arrive in
    several frames. A key or a stream beyond the limits is refused, as by a real loader.

    Do not fork a process that serves, as a DataLoader with forked workers would: gRPC starts the server's threads again
    in the child, where they may end it (SIGSEGV, seen with grpcio 1.85). Serve from another process there.
    """
    dataset = in_memory(
        name,
        columns,
        views,
        structure,
        kind=kind,
        deferred=deferred,
        categories=categories or {},
        bad=bad,
        on_bad_sample=on_bad_sample,
    )
    loader = FakeLoader(
        State(
            dataset=dataset,
            fingerprint=fingerprint_of(dataset) if fingerprint is None else fingerprint,
            speaks=_speaking(protocol, oldest_protocol, features),
            limits=pb.Limits(max_batch_bytes=max_batch_bytes, max_window=max_window),
            max_trainers=max_trainers,
            frame_bytes=frame_bytes,
            random=Random(0) if shuffle_answers else None,  # noqa: S311 the same answers in every run of a test
        ),
        address,
    )
    loader.start()
    try:
        yield loader
    finally:
        loader.stop()


class FakeLoader:
    """A loader in memory, made by `serve`. Every method may be called from any thread."""

    def __init__(self, state: State, address: str) -> None:
        self.address = address
        """Where it listens; the port stays the same over stop and start."""
        self._state = state
        self._service = Service(state)
        self._changed = state.changed
        self._server: grpc.Server | None = None
        self._threads: ThreadPoolExecutor | None = None

    def __repr__(self) -> str:
        state = self._state
        with self._changed:
            states = {"stopped": not state.listening, "draining": state.draining, "stalled": state.is_stalled}
            return (
                f"<FakeLoader {state.dataset.name} at {self.address} streams={len(state.streams)} "
                f"requests={len(state.requests)} answered={state.answered}"
                f"{''.join(f' {state}' for state, holds in states.items() if holds)}>"
            )

    # ---- what it has seen ----

    @property
    def requests(self) -> list[Key]:
        """Every key wanted since it was made, in order of arrival; a copy."""
        with self._changed:
            return list(self._state.requests)

    @property
    def answered(self) -> int:
        """Keys answered, with a batch or a failure, since it was made."""
        with self._changed:
            return self._state.answered

    @property
    def streams(self) -> int:
        """Fetch streams open now."""
        with self._changed:
            return len(self._state.streams)

    def wait_until(self, holds: Callable[["FakeLoader"], bool], timeout_s: float = 10.0) -> None:
        """Wait until something has been seen: `loader.wait_until(lambda loader: len(loader.requests) >= 8)`.

        TimeoutError, saying what was seen, if it does not come to hold within `timeout_s`.
        """
        with self._changed:
            if not self._changed.wait_for(lambda: holds(self), timeout_s):
                raise TimeoutError(f"what was waited for did not come to hold within {timeout_s} s: {self!r}")

    # ---- what a test commands ----

    def stall(self, *, after: int = 0) -> None:
        """Answer `after` more keys and then nothing, Describe and Status neither, without a word, until `resume`."""
        with self._changed:
            self._state.answers_left = after
            self._changed.notify_all()

    def resume(self) -> None:
        """Answer again, beginning with what was wanted meanwhile."""
        with self._changed:
            self._state.answers_left = None
            self._changed.notify_all()

    def fail(self, decide: Callable[[Key], FeedlineError | None] | None) -> None:
        """From now on answer the keys for which `decide` gives an error with that error; None ends it.

        `loader.fail(lambda key: BadSample("sample 7 is no image", samples=[7]) if key.offset == 0 else None)`.
        It is called once an answer, from any of the loader's threads.
        """
        with self._changed:
            self._state.failing = decide

    def damage(self, *, frames: int = 1) -> None:
        """Turn one bit in the middle of each of the next frames, as a broken network does that no checksum watches."""
        with self._changed:
            self._state.frames_to_damage = frames

    def drop_streams(self) -> None:
        """End every Fetch stream as a broken connection does; what is unanswered is lost. New streams are served."""
        with self._changed:
            for stream in self._state.streams:
                stream.is_dropped = True
            self._changed.notify_all()

    def drain(self, *, finish: bool = True) -> None:
        """Shut down politely: say draining, answer what is wanted already, end the streams, refuse new ones.

        Without `finish` what is wanted stays unanswered, as where a real loader has not begun with it. While it is
        stalled, what is to be answered waits for `resume`.
        """
        with self._changed:
            self._state.draining = True
            if not finish:
                for stream in self._state.streams:
                    stream.waiting.clear()
            self._changed.notify_all()

    def change(self, *, fingerprint: bytes | None = None, protocol: int | None = None) -> None:
        """Serve another dataset, or be of another version, from the next request on."""
        with self._changed:
            if fingerprint is not None:
                self._state.fingerprint = fingerprint
            if protocol is not None:
                self._state.speaks = _speaking(protocol, None, self._state.speaks.features)

    def start(self) -> None:
        """Listen again after `stop`, on the same port: a new replica, neither draining nor stalled.

        LoaderUnavailable if the address cannot be listened on. Does nothing while it runs.
        """
        if self._server is not None:
            return
        threads = ThreadPoolExecutor(self._state.max_trainers + SPARE_THREADS, thread_name_prefix="feedline-fake")
        server = grpc.server(
            threads,
            options=[
                ("grpc.so_reuseport", 0),  # two loaders on a port must be an error, not a lottery
                ("grpc.max_send_message_length", -1),
                ("grpc.http2.min_recv_ping_interval_without_data_ms", 1_000),
                ("grpc.http2.max_ping_strikes", 0),  # as the real one: trainers may look often whether it is alive
            ],
        )
        server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(rpc.SERVICE, self._service.handlers()),))
        try:
            port = server.add_insecure_port(self.address)
        except RuntimeError as error:
            threads.shutdown()
            raise LoaderUnavailable(f"cannot listen on {self.address}: in use, or not of this host") from error
        self.address = f"{self.address.rpartition(':')[0]}:{port}"
        with self._changed:
            state = self._state
            state.replica, state.listening, state.draining, state.answers_left = secrets.token_hex(4), True, False, None
        server.start()
        self._server, self._threads = server, threads

    def stop(self) -> None:
        """Go away as a killed loader does. Blocks until nothing of it is left. Idempotent."""
        server, threads = self._server, self._threads
        if server is None or threads is None:
            return
        self._server = self._threads = None
        with self._changed:
            self._state.listening = False
            for stream in self._state.streams:
                stream.is_dropped = True
            self._changed.notify_all()
        if not server.stop(GRACE_S).wait(STOP_S):
            raise TimeoutError(f"the loader in memory did not stop within {STOP_S} s: {self!r}")
        threads.shutdown(wait=True)
        self._service.join(STOP_S)


def _speaking(newest: int, oldest: int | None, features: Collection[str]) -> Peer:
    """A loader of some release."""
    version = versions.here("loader").version
    return Peer(
        "loader", "this loader in memory", version, newest if oldest is None else oldest, newest, frozenset(features)
    )
