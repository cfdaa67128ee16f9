"""The line to one address: channels with what the trainer shows there, made anew for every connection.

The reason why TLS or a loader refuses is found out and raised as what it is. Whether it is final, the tracker decides.
"""

import logging
import traceback
from typing import Any

import grpc

from feedline.connection.credentials import Credentials, Secrets
from feedline.connection.target import Address
from feedline_wire import loader_pb2 as pb
from feedline_wire import rpc, trace
from feedline_wire.errors import FeedlineError, InvalidRequest, LoaderUnavailable, ProtocolMismatch, read_failure

CHANNEL_OPTIONS = [
    ("grpc.max_receive_message_length", 64 << 20),  # frames have 2 MiB; a trainer does not allocate without end
    ("grpc.max_send_message_length", -1),
    # A loader whose host or route vanished without a word, or whose process was stopped, is noticed after 15 s at most;
    # its keys are asked of another long before (fleet). Pings are sent only while a call is open.
    ("grpc.keepalive_time_ms", 5_000),
    # gRPC also measures bandwidth by pings. On a thin line their answers come behind the batches that are under way: up
    # to 4 MB in the loader's socket, which at 1 MB/s took more than 5 s (seen), and as much in a proxy's.
    ("grpc.keepalive_timeout_ms", 10_000),
    ("grpc.http2.ping_timeout_ms", 10_000),  # 60 s by default, which wins over the line above (grpcio 1.85, seen)
    ("grpc.keepalive_permit_without_calls", 0),
    ("grpc.http2.max_pings_without_data", 0),  # 0 is without limit; the default stops pinging a stream that waits
    ("grpc.use_local_subchannel_pool", 1),  # channels to one address would share a connection and its backoff
    ("grpc.enable_retries", 0),  # keys are asked for again by the fleet
    ("grpc.enable_http_proxy", 0),  # a proxy of the environment is for the world outside, not for the loader next door
]

log = logging.getLogger("feedline")


def status_call(channel: grpc.Channel) -> Any:  # noqa: ANN401 - the stubs have no type for a call that may be a future
    """`Status`, to be called or begun."""
    return channel.unary_unary(rpc.STATUS, pb.StatusRequest.SerializeToString, pb.StatusReply.FromString)


class Dialer:
    """One address. Used by its connection's thread; `metadata` by any."""

    def __init__(self, address: Address, credentials: Credentials) -> None:
        self._address = address.at
        self._options: list[tuple[str, Any]] = list(CHANNEL_OPTIONS)  # Any: gRPC's options are numbers and texts
        if address.host is not None:
            credentials = credentials.verifying(address.host)
            # What a proxy or an ingress on the way should read as the host.
            port = address.at.rpartition(":")[2]
            self._options.append(("grpc.default_authority", f"{address.host}:{port}"))
        self._credentials = credentials
        self._secrets: Secrets | None = None
        self._answers = False  # on this channel
        self._has_answered = False  # on any
        self.metadata: tuple[tuple[str, str], ...] = ()
        """For every call: the token, and the trainer's trace."""

    def __repr__(self) -> str:
        return f"<Dialer {self._address}{' TLS' if self._credentials.is_tls else ''}>"

    def open(self) -> grpc.Channel:
        """A new channel, with what is in the files now.

        InvalidRequest if that makes no sense, or a token may not go there.
        """
        self._answers = False
        self._credentials.check_address(self._address)
        self._secrets = secrets = self._newest()
        shown = {
            rpc.AUTHORIZATION: None if secrets.token is None else f"{rpc.BEARER} {secrets.token}",
            trace.HEADER: self._credentials.traceparent,
        }
        self.metadata = tuple((name, value) for name, value in shown.items() if value is not None)
        if not self._credentials.is_tls:
            return grpc.insecure_channel(self._address, self._options)
        pair = secrets.pair
        credentials = grpc.ssl_channel_credentials(
            secrets.authorities, None if pair is None else pair.key, None if pair is None else pair.chain
        )
        name = self._credentials.server_name
        named = [("grpc.ssl_target_name_override", name)] if name is not None else []
        return grpc.secure_channel(self._address, credentials, [*self._options, *named])

    def answered(self) -> None:
        """A loader was there and let this trainer in."""
        self._answers = self._has_answered = True

    def meaning(self, reason: FeedlineError) -> FeedlineError:
        """What the loss of a connection comes down to: TLS, a refusal, or a loader that is away."""
        is_silent = type(reason) is LoaderUnavailable and not self._answers
        if is_silent and (self._credentials.is_tls or not self._has_answered):
            from feedline.connection import handshake  # and with it ssl: only where something is wrong

            return handshake.refusal(self._address, self._credentials) or reason
        return reason

    def _newest(self) -> Secrets:
        try:
            return self._credentials.read()
        except InvalidRequest as error:
            if self._secrets is None:
                raise
            log.warning("the old credentials stay in use: %s", error)
            return self._secrets


def failure_of(error: grpc.RpcError) -> FeedlineError | None:
    """The error that the loader sent along, if it did."""
    call: Any = error  # every RpcError that grpc raises is also the call, which the stubs do not say
    metadata = call.trailing_metadata() or ()
    return next((read_failure(value) for name, value in metadata if name == rpc.FAILURE_METADATA), None)


def error_of(error: grpc.RpcError, address: str) -> FeedlineError:
    """What a failed call means: the error that the loader sent along, or what gRPC says."""
    if (failure := failure_of(error)) is not None:
        return failure
    call: Any = error
    if call.code() is grpc.StatusCode.UNIMPLEMENTED:
        return ProtocolMismatch(
            f"what listens at {address} is not a feedline loader (gRPC: {call.details()}); check the port"
        )
    if "connection refused" in str(call.details()).lower():  # the system's words; those of gRPC change
        return LoaderUnavailable(f"refused by {address}, where nothing listens")
    return LoaderUnavailable(f"{address}: {call.code().name}: {call.details()}")


def forget_locals(error: BaseException) -> None:
    """Let go of what the functions held that an error ended; its traceback reads as before.

    gRPC's errors are the calls that they end, which those functions hold: a circle that is there until garbage is
    collected, and in it the lane with all of its memory. Why a loader was lost is remembered even longer.
    """
    seen: BaseException | None = error
    while seen is not None:
        traceback.clear_frames(seen.__traceback__)
        seen = seen.__cause__ or seen.__context__
