"""What trainers call: Describe, Fetch and Status of the loader in memory.

Every answer is made while no lock is held; a stream's wants are read by a thread of its own, because gRPC's iterator of
requests blocks.
"""

import threading
from collections.abc import Iterator, Sequence
from typing import Any, NoReturn

import grpc

from feedline.testing.state import Answer, End, SayDraining, State, Stream, Want
from feedline_wire import frames, rpc, tensors, versions
from feedline_wire import loader_pb2 as pb
from feedline_wire.errors import HEADER_KEPT, FeedlineError, InvalidRequest, LoaderUnavailable, cut, to_failure
from feedline_wire.frames import Piece
from feedline_wire.key import Key, from_message
from feedline_wire.status import LoaderCounters, StreamCounters, to_messages


class Service:
    """The methods of one loader in memory."""

    def __init__(self, state: State) -> None:
        self._state = state
        self._readers: list[threading.Thread] = []

    def handlers(self) -> "dict[str, grpc.RpcMethodHandler[Any, Any]]":  # Any: each method has its own messages
        """The methods by name."""
        return {
            "Describe": grpc.unary_unary_rpc_method_handler(
                self._describe, pb.DescribeRequest.FromString, pb.Description.SerializeToString
            ),
            "Fetch": grpc.stream_stream_rpc_method_handler(self._fetch, pb.FetchRequest.FromString, None),
            "Status": grpc.unary_unary_rpc_method_handler(
                self._status, pb.StatusRequest.FromString, pb.StatusReply.SerializeToString
            ),
        }

    def join(self, timeout_s: float) -> None:
        """Wait for the threads of streams that have ended."""
        with self._state.changed:
            readers, self._readers = self._readers, []
        for reader in readers:
            reader.join(timeout_s)

    def _describe(self, request: pb.DescribeRequest, context: grpc.ServicerContext) -> pb.Description:
        state = self._state
        del request
        self._wait_while_stalled(context)
        return pb.Description(
            **state.speaks.fields(),
            replica=state.replica,
            datasets=[state.dataset.describe(state.fingerprint)],
            limits=state.limits,
        )

    def _status(self, request: pb.StatusRequest, context: grpc.ServicerContext) -> pb.StatusReply:
        del request
        state = self._state
        self._wait_while_stalled(context)
        with state.changed:
            return pb.StatusReply(
                replica=state.replica,
                version=state.speaks.version,
                draining=state.draining,
                counters=to_messages(
                    LoaderCounters(batches=state.answered - state.failures, bytes=state.nbytes, failures=state.failures)
                ),
                trainers=[
                    pb.Trainer(counters=to_messages(StreamCounters(waiting=len(stream.waiting))))
                    for stream in state.streams
                ],
            )

    def _fetch(self, requests: Iterator[pb.FetchRequest], context: grpc.ServicerContext) -> Iterator[bytes]:
        try:
            first = next(requests, None)
            if first is None:
                return
            stream = self._state.open_stream(versions.read(first, "trainer", "the trainer"))
        except FeedlineError as error:
            self._wait_while_stalled(context)
            _abort(context, error)
        except grpc.RpcError:  # the trainer went away before its first word
            return
        try:
            if not context.add_callback(lambda: self._state.end_stream(stream)):
                return  # it ended in between
            self._start_reader(stream, first, requests)
            for wire in self._frames(stream, is_checksummed=first.checksum):
                yield self._state.on_the_way(wire)
            if stream.is_dropped:
                context.abort(grpc.StatusCode.UNAVAILABLE, "the loader in memory broke off, as its test commanded")
        finally:
            self._state.end_stream(stream)

    def _wait_while_stalled(self, context: grpc.ServicerContext) -> None:
        if context.add_callback(self._state.wake):
            self._state.wait_while_stalled(context.is_active)
            if not self._state.listening:
                _abort(context, LoaderUnavailable("this loader was stopped"))

    # ---- what one trainer wants ----

    def _start_reader(self, stream: Stream, first: pb.FetchRequest, requests: Iterator[pb.FetchRequest]) -> None:
        reader = threading.Thread(
            target=self._read, args=(stream, first, requests), name="feedline-fake-wants", daemon=True
        )
        reader.start()
        with self._state.changed:
            self._readers = [*(other for other in self._readers if other.is_alive()), reader]

    def _read(self, stream: Stream, first: pb.FetchRequest, requests: Iterator[pb.FetchRequest]) -> None:
        """Take in what the trainer wants, until it says no more or is gone."""
        self._take_in(first, stream)
        try:
            for request in requests:
                self._take_in(request, stream)
        except grpc.RpcError:
            return  # the stream broke; its callback ends it
        with self._state.changed:
            stream.trainer_wants_no_more = True
            self._state.changed.notify_all()

    def _take_in(self, request: pb.FetchRequest, stream: Stream) -> None:
        with self._state.changed:
            stream.cancel(request.cancelled)
            for message in request.wants:
                key = from_message(message.key)
                self._state.requests.append(key)
                if self._state.draining:
                    continue  # it stays unanswered, and the stream's end tells the trainer to want it elsewhere
                stream.waiting.append(self._want(message.ticket, key, unanswered=len(stream.waiting)))
            self._state.changed.notify_all()

    def _want(self, ticket: int, key: Key, *, unanswered: int) -> Want:
        state = self._state
        try:
            if unanswered >= state.limits.max_window:
                raise InvalidRequest(
                    f"more than {state.limits.max_window} keys wanted and unanswered in one stream; want fewer at once"
                )
            nbytes = state.dataset.check(
                key, fingerprint=state.fingerprint, max_batch_bytes=state.limits.max_batch_bytes
            )
        except FeedlineError as refusal:
            return Want(ticket, key, 0, refusal)
        return Want(ticket, key, nbytes, None)

    # ---- what it is answered ----

    def _frames(self, stream: Stream, *, is_checksummed: bool) -> Iterator[bytes]:
        while True:
            match self._state.next_step(stream):
                case Answer(wants):
                    answers = [self._pieces(want) for want in wants]
                    # Before they are sent: a trainer may leave as soon as it has them, and then nothing below runs.
                    self._count(answers)
                    if len(answers) == 1:
                        yield from (frames.encode((piece,), checksum=is_checksummed) for piece in answers[0])
                    else:
                        together = tuple(piece for pieces in answers for piece in pieces)
                        yield frames.encode(together, checksum=is_checksummed)
                case SayDraining():
                    yield frames.encode((), draining=True, checksum=is_checksummed)
                case End():
                    return

    def _pieces(self, want: Want) -> tuple[Piece, ...]:
        """The answer to one key."""
        failing = self._state.failing
        error = want.refusal or (failing(want.key) if failing else None)
        if error is not None:
            return (frames.failure_piece(want.ticket, to_failure(error)),)
        try:
            layout, body = self._state.dataset.batch(want.key)
        except FeedlineError as bad:
            return (frames.failure_piece(want.ticket, to_failure(bad)),)
        header = tensors.to_header(layout).SerializeToString()
        return tuple(frames.cut(want.ticket, header, body.data, self._state.frame_bytes))

    def _count(self, answers: Sequence[tuple[Piece, ...]]) -> None:
        state = self._state
        with state.changed:
            state.answered += len(answers)
            state.failures += sum(pieces[0].failure is not None for pieces in answers)
            state.nbytes += sum(len(piece.data) for pieces in answers for piece in pieces)
            state.changed.notify_all()


def _abort(context: grpc.ServicerContext, error: FeedlineError) -> NoReturn:
    """End the call so that the error arrives as itself: code and text for any client, the Failure beside them."""
    context.set_trailing_metadata(((rpc.FAILURE_METADATA, to_failure(error, HEADER_KEPT).SerializeToString()),))
    context.abort(grpc.StatusCode[rpc.status_of(error)], cut(str(error), HEADER_KEPT))
    raise AssertionError("unreachable: abort raises")
