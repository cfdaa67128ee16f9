"""Requests as they arrive: messages of the contract, or bytes that are none.

What cannot be read is a value like any other and is answered by us; gRPC would log a traceback for each.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import TypeVar

from google.protobuf.message import DecodeError, Message

from feedline_wire import checksum
from feedline_wire import loader_pb2 as pb
from feedline_wire.errors import Damaged, FeedlineError, InvalidRequest

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
    """How gRPC is to read the requests of a Fetch stream, which may be sealed with a checksum."""
    request = _read_wants(wire)
    try:
        if request.HasField("crc") if isinstance(request, pb.FetchRequest) else checksum.looks_sealed(wire):
            checksum.check(wire)
    except Damaged as error:
        return Unreadable(error)
    return request


_read_wants = reader_of(pb.FetchRequest)
