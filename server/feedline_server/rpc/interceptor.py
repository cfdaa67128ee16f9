"""Access to the loader's calls: its TLS, which calls are let in, and how one is refused.

A call without leave is refused unless its method is in OPEN, which goes for methods that are added later too.
"""

import threading
import urllib.parse
from collections.abc import Callable, Iterator
from typing import Any, NoReturn

import grpc
import structlog

from feedline_server.access.reload import HotReloaded
from feedline_server.access.tls import Tls
from feedline_server.access.tokens import Authorization, Tokens, authenticate
from feedline_wire import reach, rpc
from feedline_wire.errors import HEADER_KEPT, FeedlineError, NotAllowed, cut, to_failure

OPEN = frozenset({"/grpc.health.v1.Health/Check"})
"""Orchestrators ask it and have no token. Not Watch: each one would hold one of the calls a loader answers at once."""

log = structlog.get_logger()


def server_credentials(tls: HotReloaded[Tls]) -> grpc.ServerCredentials:
    """For gRPC, which asks at every new connection whether the certificates have changed."""
    lock = threading.Lock()
    given = tls.now()

    def changed() -> Any:  # noqa: ANN401 - the stubs do not know that None is "no"
        nonlocal given
        with lock:
            now = tls.now()
            if now is given:
                return None
            given = now
            return _configuration(now)

    return grpc.dynamic_ssl_server_credentials(
        _configuration(given), changed, require_client_authentication=given.client_ca is not None
    )


def _configuration(tls: Tls) -> grpc.ServerCertificateConfiguration:
    return grpc.ssl_server_certificate_configuration([(tls.pair.key, tls.pair.chain)], tls.client_ca)


class AccessInterceptor(grpc.ServerInterceptor):  # type: ignore[type-arg]  # generic in the stubs alone
    """Lets calls in that have leave, and names their callers."""

    def __init__(self, tokens: HotReloaded[Tokens] | None) -> None:
        self._tokens = tokens
        self.has_tokens = tokens is not None
        """Not every call is let in."""

    def __repr__(self) -> str:
        return f"<AccessInterceptor {'open' if self._tokens is None else self._tokens}>"

    def authorize(self, context: grpc.ServicerContext) -> Authorization:
        """The leave of this call's caller; NotAllowed if it has none."""
        return Authorization(self._tokens, _authorization(context.invocation_metadata()), _peer_name(context))

    def intercept_service(
        self,
        continuation: "Callable[[grpc.HandlerCallDetails], grpc.RpcMethodHandler[Any, Any] | None]",
        handler_call_details: grpc.HandlerCallDetails,
    ) -> "grpc.RpcMethodHandler[Any, Any] | None":
        """See grpc.ServerInterceptor. Any: each method has its own messages."""
        if self._tokens is None or handler_call_details.method in OPEN:
            return continuation(handler_call_details)
        try:
            authenticate(self._tokens.now(), _authorization(handler_call_details.invocation_metadata))
        except NotAllowed as error:
            return _refusing(handler_call_details.method, error)
        return continuation(handler_call_details)


def _authorization(metadata: Any) -> tuple[str, ...]:  # noqa: ANN401 - the stubs differ between versions
    return tuple(value for name, value in metadata or () if name == rpc.AUTHORIZATION)


def _peer_name(context: grpc.ServicerContext) -> str:
    """The name in the caller's certificate, where one was required; else its host."""
    names: Any = context.auth_context().get("x509_common_name")  # Any: the stubs say bytes, it is a list of them
    if names:
        return str(names[0].decode(errors="replace"))
    return reach.host_of(urllib.parse.unquote(context.peer()))  # gRPC writes ipv6:%5B::1%5D:50123


def _refusing(method: str, error: NotAllowed) -> "grpc.RpcMethodHandler[Any, Any]":
    def answer(_requests: Iterator[Any], context: grpc.ServicerContext) -> NoReturn:
        log.warning("refused", peer=context.peer(), method=method, reason=str(error))
        refuse(context, error)

    # As a stream, whatever the method is: it is answered before any message has come, so a caller without leave cannot
    # hold a thread by sending none.
    return grpc.stream_stream_rpc_method_handler(answer)


def refuse(context: grpc.ServicerContext, error: FeedlineError) -> NoReturn:
    """End the call so that the error arrives as itself: code and text for any client, the Failure beside them."""
    context.set_trailing_metadata(((rpc.FAILURE_METADATA, to_failure(error, HEADER_KEPT).SerializeToString()),))
    context.abort(grpc.StatusCode[rpc.status_of(error)], cut(str(error), HEADER_KEPT))
    raise AssertionError("unreachable: abort raises")
