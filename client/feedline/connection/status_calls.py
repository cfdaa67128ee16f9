"""`Status` of many loaders at once, on one connection to each, for one who looks and takes no batches.

All are asked side by side without a thread for each: 256 loaders are 256 calls under way. A connection that failed is
made anew for the next question, with what is in the credentials' files then.
"""

import contextlib
import threading
import time
from collections.abc import Iterable
from typing import Any

import grpc

from feedline.connection.channel import Dialer, error_of, status_call
from feedline.connection.credentials import Credentials
from feedline.connection.target import Address
from feedline_wire import loader_pb2 as pb
from feedline_wire.errors import FeedlineError, LoaderStalled, LoaderUnavailable
from feedline_wire.status import LoaderStatus, read_status


class StatusCalls:
    """Asks loaders what they do, again and again. One thread at a time; `close` may come from any."""

    def __init__(self, credentials: Credentials) -> None:
        self._credentials = credentials
        self._lines: dict[Address, tuple[Dialer, grpc.Channel]] = {}
        self._lock = threading.Lock()
        self._is_closed = False

    def __repr__(self) -> str:
        return f"<StatusCalls connections={len(self._lines)}>"

    def ask(
        self, addresses: Iterable[Address], timeout_s: float
    ) -> tuple[dict[str, LoaderStatus], dict[str, FeedlineError]]:
        """What each says, and why others say nothing, by address. Blocks for `timeout_s` at most."""
        addresses = list(dict.fromkeys(addresses))
        for gone in self._lines.keys() - set(addresses):
            self._hang_up(gone)
        answers: dict[str, LoaderStatus] = {}
        failures: dict[str, FeedlineError] = {}
        calls: dict[Address, Any] = {}  # Any: the stubs have no type for a call that is a future
        for address in addresses:
            try:
                calls[address] = self._begin(address, timeout_s)
            except FeedlineError as error:
                failures[address.at] = error
        deadline = time.monotonic() + timeout_s
        is_explained = False
        for address, call in calls.items():
            try:
                # gRPC ends each at its own deadline; this is for a thread that was late in starting some.
                answers[address.at] = read_status(call.result(max(deadline - time.monotonic(), 0.0) + 1.0))
            except grpc.RpcError as error:
                if error.code() is grpc.StatusCode.DEADLINE_EXCEEDED:
                    failures[address.at] = LoaderStalled(f"{address}: no answer within {timeout_s:g} s")
                    continue
                failure = error_of(error, address.at)
                if type(failure) is LoaderUnavailable and not is_explained:
                    # Why TLS does not come about takes a handshake to find out: of the first, and most likely of all.
                    is_explained, failure = True, self._lines[address][0].meaning(failure)
                failures[address.at] = failure
            except (grpc.FutureTimeoutError, grpc.FutureCancelledError):
                call.cancel()
                failures[address.at] = LoaderStalled(f"{address}: no answer within {timeout_s:g} s")
        for address in calls:
            if address.at in failures:
                self._hang_up(address)
        return answers, failures

    def close(self) -> None:
        """End all connections, and what is asked on them. Idempotent."""
        with self._lock:
            self._is_closed = True
        for address in list(self._lines):
            self._hang_up(address)

    def _begin(self, address: Address, timeout_s: float) -> Any:  # noqa: ANN401 - as in ask
        with self._lock:
            if self._is_closed:
                raise LoaderStalled(f"{address}: asking was ended")
            if address not in self._lines:
                dialer = Dialer(address, self._credentials)
                self._lines[address] = dialer, dialer.open()
            dialer, channel = self._lines[address]
        return status_call(channel).future(pb.StatusRequest(), timeout=timeout_s, metadata=dialer.metadata)

    def _hang_up(self, address: Address) -> None:
        with contextlib.suppress(KeyError):
            _, channel = self._lines.pop(address)
            channel.close()
