"""The names of the loader's methods on the wire, and how a call that fails says why.

`Fetch` replies are raw bytes on both sides (frames.py writes and reads them), so no generated stub is used.
"""

from feedline_wire.errors import (
    DataError,
    FeedlineError,
    InvalidRequest,
    LoaderBusy,
    LoaderUnavailable,
    NotAllowed,
    ProtocolMismatch,
)

SERVICE = "feedline.v1.Loader"
DESCRIBE = f"/{SERVICE}/Describe"
FETCH = f"/{SERVICE}/Fetch"
STATUS = f"/{SERVICE}/Status"

FAILURE_METADATA = "feedline-failure-bin"
"""Trailing metadata of a call that failed: a serialised `Failure`, so that the error arrives as itself."""

AUTHORIZATION = "authorization"
BEARER = "Bearer"
"""A token travels as the metadata `authorization: Bearer TOKEN`, as in RFC 6750: any gRPC client can send it."""

_STATUS: dict[type, str] = {
    InvalidRequest: "INVALID_ARGUMENT",
    NotAllowed: "UNAUTHENTICATED",
    DataError: "FAILED_PRECONDITION",
    ProtocolMismatch: "FAILED_PRECONDITION",
    LoaderBusy: "RESOURCE_EXHAUSTED",
    LoaderUnavailable: "UNAVAILABLE",
}


def status_of(error: FeedlineError) -> str:
    """The name of the gRPC status that a call fails with, for clients that do not read the Failure."""
    return next((_STATUS[kind] for kind in type(error).__mro__ if kind in _STATUS), "INTERNAL")
