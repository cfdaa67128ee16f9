"""The loader in memory: a gRPC server in this process whose faults are scripted by the test.

The law: it does nothing wrong that it was not told to, and when `stop` returns, none of its threads is left.
"""

import secrets
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from random import Random
from typing import Literal

import grpc

from feedline.testing.books import Books
from feedline.testing.memory import Kind, Values, fingerprint_of, in_memory
from feedline.testing.service import Service
from feedline_wire import PROTOCOL, rpc
from feedline_wire import loader_pb2 as pb
from feedline_wire.elementwise import Late
from feedline_wire.errors import FeedlineError, LoaderUnavailable
from feedline_wire.frames import FRAME_BYTES
from feedline_wire.key import Key
from feedline_wire.structure import Structure

SPARE_THREADS = 16
"""Threads beyond one a stream: for Describe and Status, and to refuse a stream too many."""

GRACE_S = 0.5
"""Calls end by themselves when told to stop; only one that has not said its first word has to be cancelled after this.
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
    late: Sequence[Late] = (),
    bad: Collection[int] | None = None,
    on_bad_sample: Literal["skip", "substitute"] = "skip",
    name: str = "fake",
    address: str = "127.0.0.1:0",
    fingerprint: bytes | None = None,
    protocol: int = PROTOCOL,
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
    "stream" they come one after the other whatever is asked, over and over, and under "endless" no epoch ends. `late`
    is what trainers do to columns, such as `("x", Scale(divide_by=255))`. Samples with an id in `bad` are left out or
    replaced, and named with their batch.

    `fingerprint` and `protocol` pretend to be another dataset or version. `shuffle_answers` answers what is wanted in
    any order, as a real loader with several workers does; a small `frame_bytes` makes even small batches arrive in
    several frames. A key or a stream beyond the limits is refused, as by a real loader.
    """
    dataset = in_memory(name, columns, views, structure, kind=kind, late=late, bad=bad, on_bad_sample=on_bad_sample)
    loader = FakeLoader(
        Books(
            dataset=dataset,
            fingerprint=fingerprint_of(dataset) if fingerprint is None else fingerprint,
            protocol=protocol,
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

    def __init__(self, books: Books, address: str) -> None:
        self.address = address
        """Where it listens; the port stays the same over stop and start."""
        self._books = books
        self._service = Service(books)
        self._changed = books.changed
        self._server: grpc.Server | None = None
        self._threads: ThreadPoolExecutor | None = None

    def __repr__(self) -> str:
        books = self._books
        with self._changed:
            states = {"stopped": not books.listening, "draining": books.draining, "stalled": books.is_stalled}
            return (
                f"<FakeLoader {books.dataset.name} at {self.address} streams={len(books.streams)} "
                f"requests={len(books.requests)} answered={books.answered}"
                f"{''.join(f' {state}' for state, holds in states.items() if holds)}>"
            )

    # ---- what it has seen ----

    @property
    def requests(self) -> list[Key]:
        """Every key wanted since it was made, in order of arrival; a copy."""
        with self._changed:
            return list(self._books.requests)

    @property
    def answered(self) -> int:
        """Keys answered, with a batch or a failure, since it was made."""
        with self._changed:
            return self._books.answered

    @property
    def streams(self) -> int:
        """Fetch streams open now."""
        with self._changed:
            return len(self._books.streams)

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
            self._books.answers_left = after
            self._changed.notify_all()

    def resume(self) -> None:
        """Answer again, beginning with what was wanted meanwhile."""
        with self._changed:
            self._books.answers_left = None
            self._changed.notify_all()

    def fail(self, decide: Callable[[Key], FeedlineError | None] | None) -> None:
        """From now on answer the keys for which `decide` gives an error with that error; None ends it.

        `loader.fail(lambda key: BadSample("sample 7 is no image", samples=[7]) if key.offset == 0 else None)`.
        It is called once an answer, from any of the loader's threads.
        """
        with self._changed:
            self._books.failing = decide

    def damage(self, *, frames: int = 1) -> None:
        """Turn one bit in the middle of each of the next frames, as a broken network does that no checksum watches."""
        with self._changed:
            self._books.frames_to_damage = frames

    def drop_streams(self) -> None:
        """End every Fetch stream as a broken connection does; what is unanswered is lost. New streams are served."""
        with self._changed:
            for stream in self._books.streams:
                stream.is_dropped = True
            self._changed.notify_all()

    def drain(self, *, finish: bool = True) -> None:
        """Shut down politely: say draining, answer what is wanted already, end the streams, refuse new ones.

        Without `finish` what is wanted stays unanswered, as where a real loader has not begun with it. While it is
        stalled, what is to be answered waits for `resume`.
        """
        with self._changed:
            self._books.draining = True
            if not finish:
                for stream in self._books.streams:
                    stream.waiting.clear()
            self._changed.notify_all()

    def change(self, *, fingerprint: bytes | None = None, protocol: int | None = None) -> None:
        """Serve another dataset, or be of another version, from the next request on."""
        with self._changed:
            self._books.fingerprint = self._books.fingerprint if fingerprint is None else fingerprint
            self._books.protocol = self._books.protocol if protocol is None else protocol

    def start(self) -> None:
        """Listen again after `stop`, on the same port: a new replica, neither draining nor stalled.

        LoaderUnavailable if the address cannot be listened on. Does nothing while it runs.
        """
        if self._server is not None:
            return
        threads = ThreadPoolExecutor(self._books.max_trainers + SPARE_THREADS, thread_name_prefix="feedline-fake")
        server = grpc.server(
            threads,
            options=[
                ("grpc.so_reuseport", 0),  # two loaders on a port must be an error, not a lottery
                ("grpc.max_send_message_length", -1),
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
            books = self._books
            books.replica, books.listening, books.draining, books.answers_left = secrets.token_hex(4), True, False, None
        server.start()
        self._server, self._threads = server, threads

    def stop(self) -> None:
        """Go away as a killed loader does, and return when nothing of it is left. Twice is fine."""
        server, threads = self._server, self._threads
        if server is None or threads is None:
            return
        self._server = self._threads = None
        with self._changed:
            self._books.listening = False
            for stream in self._books.streams:
                stream.is_dropped = True
            self._changed.notify_all()
        if not server.stop(GRACE_S).wait(STOP_S):
            raise TimeoutError(f"the loader in memory did not stop within {STOP_S} s: {self!r}")
        threads.shutdown(wait=True)
        self._service.join(STOP_S)
