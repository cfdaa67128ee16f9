"""What a stream is sent: batches out of their slots or their files, as frames over gRPC or straight into a lane.

A slot is read only while the sender is at work. While it waits for the network, from `unpin` to `pin`, the scheduler
may drop the batch and give the slot to another stream; the batch comes again from its start.
"""

import contextlib
import math
from collections.abc import Iterable, Iterator, Sequence

import structlog

from feedline_server.lanes.compressor import Compressor, Trials
from feedline_server.lanes.from_files import sending
from feedline_server.lanes.lane import Lane, Message, Offer
from feedline_server.lanes.line import TimedLine
from feedline_server.scheduling.scheduler import Scheduler
from feedline_server.scheduling.stream import Batch, Delivery, FileBatch, Refusal, Stream, stages_of
from feedline_wire import frames
from feedline_wire.errors import HEADER_KEPT, FeedlineError, cut, to_failure
from feedline_wire.frames import Piece
from feedline_wire.key import to_text
from feedline_wire.tensors import Layout, write_header

LANE_NBYTES = 8 << 20
"""Batches of 1 MiB that are ready go several at a time, for 7 % less of the front's CPU than one by one."""

COMPRESSED_NBYTES = 1 << 20
"""The same of those that are compressed: while the line carries some, the next are at work."""

REFUSALS_LOGGED_EVERY_S = 10.0
"""Of one stream. A trainer ends with the first; one that goes on, or a hostile one, does not fill a disk."""
NOTHING = memoryview(b"")

log = structlog.get_logger()


class Sender:
    """Sends what the scheduler has for one stream. One thread."""

    def __init__(self, scheduler: Scheduler, stream: Stream, offer: Offer | None, trials: Trials | None) -> None:
        """With `trials`, batches may be compressed."""
        self._scheduler = scheduler
        self._stream = stream
        self._offer = offer
        self._unlogged = 0
        self._silent_until = -math.inf
        self._by_grpc = TimedLine()
        self._compressor = Compressor(trials, self._by_grpc) if trials is not None else None
        self._last_lane: Lane | None = None

    def __repr__(self) -> str:
        return f"<Sender {self._stream!r}>"

    def frames(self) -> Iterator[bytes]:
        """What goes over the stream, until it is to end. What has a lane goes there meanwhile."""
        is_announced = False
        while True:
            at_once = frames.FRAME_BYTES if self._lane is None else LANE_NBYTES
            if self._stream.is_compressed:
                at_once = COMPRESSED_NBYTES
            deliveries = self._scheduler.next_deliveries(self._stream, at_once)
            lane = self._lane  # the trainer may have come meanwhile
            if self._scheduler.is_draining and not is_announced:
                is_announced = True
                yield frames.encode((), draining=True, checksum=self._stream.is_checksummed)
            if not deliveries:
                return
            if lane is not self._last_lane:
                self._last_lane = lane
                self._use(lane)
            if lane is None:
                wires = self._framed(deliveries)
                yield from wires if self._compressor is None else self._by_grpc.timed(wires)
            elif not self._by_lane(lane, deliveries):
                return
            if self._compressor is not None:
                self._look(self._compressor, deliveries)

    @property
    def _lane(self) -> Lane | None:
        return None if self._offer is None else self._offer.lane

    def _by_lane(self, lane: Lane, deliveries: Sequence[Delivery]) -> bool:
        """Send these over the lane; False if it broke, and with it the stream."""
        in_slots = [delivery for delivery in deliveries if isinstance(delivery, Batch)]
        of_files = [delivery for delivery in deliveries if isinstance(delivery, FileBatch)]
        again: list[FileBatch] = []
        is_sent = False
        try:
            messages = self._messages(deliveries, again)
            with sending({batch.source for batch in of_files}) if of_files else contextlib.nullcontext():
                lane.send(
                    messages,
                    unpin=lambda: self._scheduler.unpin(self._stream),
                    pin=lambda: self._scheduler.pin(self._stream, in_slots),
                )
            is_sent = True
        except (OSError, FeedlineError) as error:
            log.info("a lane ended", **self._stream.log_fields, reason=str(error))
        finally:
            batches: list[Batch | FileBatch] = list(in_slots)
            if of_files:
                batches += [batch for batch in of_files if batch not in again]
            self._scheduler.release(self._stream, batches, sent=is_sent, again=again if is_sent else ())
        return is_sent

    def _use(self, lane: Lane | None) -> None:
        """The stream goes by this lane now. In a trainer's own memory there is nothing to compress."""
        if self._compressor is not None and lane is not None:
            if lane.memory is None:
                self._compressor.use(lane.line)
            else:
                self._compressor = None
                self._stream.is_compressed = False

    def _look(self, compressor: Compressor, deliveries: Iterable[Delivery]) -> None:
        """These are with the line: should the next be compressed?"""
        for delivery in deliveries:
            if not isinstance(delivery, Refusal):
                compressor.sent(delivery.want.key, delivery.nbytes)
        if self._stream.is_compressed != compressor.is_on:
            self._stream.is_compressed = compressor.is_on
            log.info(
                "batches are compressed" if compressor.is_on else "batches go as they are", **self._stream.log_fields
            )

    def _body(self, batch: Batch) -> tuple[memoryview, bytes]:
        """What stands for the body of a batch in the arena; how much of it for each chunk, where it is compressed."""
        body = self._scheduler.body(batch)
        found = None if self._compressor is None else self._compressor.compressed(batch.want.key, batch.layout, body)
        if found is None:
            return body, b""
        before, to_before = self._stream.compressed
        self._stream.compressed = (before + len(body), to_before + len(found.body))
        return found.body, found.lengths

    def _messages(self, deliveries: Iterable[Delivery], again: list[FileBatch]) -> list[Message]:
        """What goes over the lane now; what cannot be sent from files after all is added to `again`."""
        messages: list[Message] = []
        for delivery in deliveries:
            match delivery:
                case Batch(layout=layout, slot=slot):
                    if delivery.is_in_arena:
                        body, lengths = self._body(delivery)
                        messages.append(Message(self._head(delivery, layout, lengths), len(body), body))
                    else:
                        messages.append(Message(self._head(delivery, layout), layout.nbytes, NOTHING, slot))
                case FileBatch(want=want, source=source):
                    if (found := source.batch(want.key)) is None:
                        again.append(delivery)
                    else:
                        layout, iovec = found
                        messages.append(Message(self._head(delivery, layout), layout.nbytes, iovec))
                case Refusal(ticket=ticket, error=error):
                    self._log_refusal(delivery)
                    piece = frames.failure_piece(ticket, to_failure(error))
                    messages.append(Message(frames.encode_head(piece), 0, NOTHING))
        return messages

    def _framed(self, deliveries: Sequence[Delivery]) -> Iterator[bytes]:
        """One delivery in as many frames as it takes, or several in one; slots are released before the last is sent."""
        batches = [delivery for delivery in deliveries if isinstance(delivery, Batch)]
        pieces = [piece for delivery in deliveries for piece in self._pieces(delivery)]
        wire = b""
        is_sent = False
        try:
            for group in [pieces] if len(deliveries) > 1 else [[piece] for piece in pieces]:
                if wire:
                    self._scheduler.unpin(self._stream)
                    yield wire
                    if not self._scheduler.pin(self._stream, batches):
                        return
                wire = frames.encode(tuple(group), checksum=self._stream.is_checksummed)
            is_sent = True
        finally:
            del pieces
            self._scheduler.release(self._stream, batches, sent=is_sent)
        self._scheduler.unpin(self._stream)
        yield wire

    def _pieces(self, delivery: Delivery) -> Iterable[Piece]:
        match delivery:
            case Batch(layout=layout):
                body, lengths = self._body(delivery)
                spent = stages_of(delivery, self._scheduler.now())
                return frames.cut(delivery.ticket, write_header(layout), body, stages=spent, compressed=lengths)
            case Refusal(ticket=ticket, error=error):
                self._log_refusal(delivery)
                return (frames.failure_piece(ticket, to_failure(error)),)
            case FileBatch():
                raise AssertionError("a batch is sent from files only over a lane")

    def _log_refusal(self, refusal: Refusal) -> None:
        """Write a key of this loader's that is answered with an error into the log, not too often."""
        if refusal.key is None:
            return
        self._unlogged += 1
        if (now := self._scheduler.now()) < self._silent_until:
            return
        self._silent_until, count, self._unlogged = now + REFUSALS_LOGGED_EVERY_S, self._unlogged, 0
        log.warning(
            "a batch is answered with an error",
            **self._stream.log_fields | {"dataset": refusal.key.dataset, "view": refusal.key.view},
            key=to_text(refusal.key),
            error=f"{type(refusal.error).__name__}: {cut(str(refusal.error), HEADER_KEPT)}",
            since_the_last_line=count,
        )

    def _head(self, batch: Batch | FileBatch, layout: Layout, lengths: bytes = b"") -> bytes:
        """What goes before a body."""
        spent = stages_of(batch, self._scheduler.now())
        piece = Piece(batch.want.ticket, 0, b"", header=write_header(layout), stages=spent, compressed=lengths)
        return frames.encode_head(piece)
