"""Requests as they arrive: messages of the contract, or bytes that are none; and what a trainer wants, taken in.

What cannot be read is a value like any other and is answered by us; gRPC would log a traceback for each.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import TypeVar

import structlog
from google.protobuf.message import DecodeError, Message

from feedline_server.scheduling.scheduler import MAX_WINDOW, Scheduler
from feedline_server.scheduling.stream import Stream
from feedline_wire import checksum
from feedline_wire import loader_pb2 as pb
from feedline_wire.errors import Damaged, FeedlineError, InvalidRequest
from feedline_wire.key import from_message

log = structlog.get_logger()

Request = TypeVar("Request", bound=Message)


@dataclass(frozen=True, slots=True)
class Unreadable:
    """What came in place of a request."""

    error: FeedlineError


FetchRequests = Iterator[pb.FetchRequest | Unreadable]


def reader_of(kind: type[Request]) -> Callable[[bytes], Request | Unreadable]:
    """How gRPC is to read requests of one kind."""

    def read(wire: bytes) -> Request | Unreadable:
        try:
            return kind.FromString(wire)
        except DecodeError:
            return Unreadable(InvalidRequest(f"{len(wire)} bytes came that are no {kind.DESCRIPTOR.name}"))

    return read


def read_wants(wire: bytes) -> pb.FetchRequest | Unreadable:
    """How gRPC is to read the requests of a Fetch stream, which may have a checksum."""
    request = _read_wants(wire)
    try:
        if request.HasField("crc") if isinstance(request, pb.FetchRequest) else checksum.seems_there(wire):
            checksum.check(wire)
    except Damaged as error:
        return Unreadable(error)
    return request


_read_wants = reader_of(pb.FetchRequest)


def take_in(request: pb.FetchRequest, stream: Stream, scheduler: Scheduler) -> None:
    """Put what a trainer wants, or wants no longer, into its stream's window.

    Raises InvalidRequest for what no trainer asks for, Damaged where the checksum is missing that its stream announced.
    """
    if stream.is_checksummed and not request.HasField("crc"):
        raise Damaged("a request came without the checksum that its stream announced; connect again")
    if len(request.wants) > MAX_WINDOW:
        raise InvalidRequest(
            f"{len(request.wants)} keys wanted in one message; a stream may have {MAX_WINDOW} unanswered"
        )
    if request.cancelled:
        scheduler.cancel(stream, request.cancelled)
    if request.HasField("reader") and scheduler.note_reader(stream, request.reader):
        log.info("a trainer reads", **stream.log_fields, world=request.reader.world)
    scheduler.want(stream, [(want.ticket, from_message(want.key)) for want in request.wants])
