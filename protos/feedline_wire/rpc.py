"""The names of the loader's methods on the wire.

`Fetch` replies are raw bytes on both sides (frames.py writes and reads them), so no generated stub is used.
"""

SERVICE = "feedline.v1.Loader"
DESCRIBE = f"/{SERVICE}/Describe"
FETCH = f"/{SERVICE}/Fetch"
STATUS = f"/{SERVICE}/Status"

FAILURE_METADATA = "feedline-failure-bin"
"""Trailing metadata of a call that failed: a serialised `Failure`, so that the error arrives as itself."""

AUTHORIZATION = "authorization"
BEARER = "Bearer"
"""A token travels as the metadata `authorization: Bearer TOKEN`, as in RFC 6750: any gRPC client can send it."""
