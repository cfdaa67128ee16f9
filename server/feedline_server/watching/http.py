"""What a loader shows over HTTP, at an address of its own: who may see it as who may call it, and with the same TLS.

A thread for each of a few connections; one that is slow, or says nothing, has a deadline and delays nobody, least of
all a batch: an answer is made of values before the first byte of it is sent. Who asks for events leaves its thread.
"""

import base64
import contextlib
import ipaddress
import socket
import socketserver
import ssl
import threading
import urllib.parse
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import structlog

from feedline_server.access.reload import HotReloaded
from feedline_server.access.tokens import Authorization, Tokens
from feedline_server.watching import events
from feedline_server.watching.events import Events
from feedline_wire import rpc
from feedline_wire.errors import LoaderUnavailable, NotAllowed
from feedline_wire.reach import host_of

MOST_CONNECTIONS = 32
"""Open at once: some Prometheus and pages. One more is closed at once."""

DEADLINE_S = 10.0
"""For a client's next byte: whoever scrapes or looks answers in milliseconds."""

log = structlog.get_logger()


@dataclass(frozen=True, slots=True)
class Reply:
    """A whole answer."""

    body: bytes
    content_type: str
    status: HTTPStatus = HTTPStatus.OK


Route = Callable[["frozenset[str] | None", Mapping[str, str]], Reply]
"""(datasets that the caller may have, the query) → what is answered."""


class HttpServer:
    """Serves `routes` by their paths, and `events` at /events, from `start` to `close`, which closes `events` too."""

    def __init__(
        self,
        routes: Mapping[str, Route],
        *,
        tokens: HotReloaded[Tokens] | None,
        tls: HotReloaded[ssl.SSLContext] | None,
        events: Events | None = None,
    ) -> None:
        self.routes = routes
        self.events = events
        self.tokens = tokens
        self.tls = tls
        self._server: _Server | None = None

    def start(self, address: str) -> int:
        """Listen; the port. LoaderUnavailable if the address cannot be listened on."""
        host, port = host_of(address), int(address.rpartition(":")[2])
        try:
            self._server = _Server((host, port), self)
        except OSError as error:
            raise LoaderUnavailable(
                f"cannot listen on {address!r} for metrics: {error.strerror or error}; choose another address with "
                f"--metrics-listen"
            ) from error
        threading.Thread(target=self._server.serve_forever, name="feedline-metrics", daemon=True).start()
        return int(self._server.server_address[1])

    def close(self) -> None:
        """Listen no more. Idempotent."""
        server, self._server = self._server, None
        if server is not None:
            server.shutdown()
            server.server_close()
        if self.events is not None:
            self.events.close()


def hot_reloaded_context(
    certificate: Path | None, key: Path | None, client_ca: Path | None
) -> HotReloaded[ssl.SSLContext] | None:
    """The same TLS as gRPC's, hot reloaded as well; None without certificate."""
    if certificate is None or key is None:
        return None

    def read() -> ssl.SSLContext:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(certificate, key)
        if client_ca is not None:
            context.load_verify_locations(client_ca)
            context.verify_mode = ssl.CERT_REQUIRED
        return context

    return HotReloaded("certificates for metrics", [one for one in (certificate, key, client_ca) if one], read)


def is_own_host(host: str) -> bool:
    """A name under which a page of another site cannot have reached this address (DNS rebinding): no public one."""
    name = host.rpartition(":")[0] if host.rpartition(":")[2].isdigit() else host
    name = name.strip("[]").lower()
    with contextlib.suppress(ValueError):
        ipaddress.ip_address(name)
        return True
    return bool(name) and ("." not in name or name in {socket.gethostname().lower(), socket.getfqdn().lower()})


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    allow_reuse_address = True
    request_queue_size = MOST_CONNECTIONS

    def __init__(self, address: tuple[str, int], shown: HttpServer) -> None:
        self.shown = shown
        self._places = threading.BoundedSemaphore(MOST_CONNECTIONS)
        self.address_family = socket.AF_INET6 if ":" in address[0] else socket.AF_INET
        super().__init__(address, _Handler)

    def server_bind(self) -> None:
        socketserver.TCPServer.server_bind(self)  # without the base's look-up of the host's full name

    def process_request(self, request: Any, client_address: Any) -> None:  # noqa: ANN401 - as its base has it
        if not self._places.acquire(blocking=False):
            self.shutdown_request(request)
            return
        try:
            super().process_request(request, client_address)
        except RuntimeError:  # no thread to be had
            self._places.release()
            self.shutdown_request(request)

    def process_request_thread(self, request: Any, client_address: Any) -> None:  # noqa: ANN401 - as its base has it
        try:
            super().process_request_thread(request, client_address)
        finally:
            self._places.release()

    def handle_error(self, request: Any, client_address: Any) -> None:  # noqa: ANN401 - as its base has it
        log.debug("a connection for metrics ended", peer=str(client_address), exc_info=True)


class _Handler(BaseHTTPRequestHandler):
    server: _Server  # pyright: ignore[reportIncompatibleVariableOverride] - the one that makes it
    server_version, sys_version = "feedline", ""
    protocol_version = "HTTP/1.1"

    def setup(self) -> None:
        self.request.settimeout(DEADLINE_S)
        if self.server.shown.tls is not None:  # here, on the connection's own thread
            self.request = self.server.shown.tls.now().wrap_socket(self.request, server_side=True)
        super().setup()

    def do_GET(self) -> None:
        self.close_connection = True
        path, _, query = self.path.partition("?")
        said = dict(urllib.parse.parse_qsl(query, keep_blank_values=True))
        authorization = self._authorized(path)
        if isinstance(authorization, Reply):
            self._answer(authorization)
        elif path == EVENTS and self.server.shown.events is not None:
            self._subscribe(
                self.server.shown.events, authorization, self.headers.get("Last-Event-ID") or said.get("last", "")
            )
        elif (route := self.server.shown.routes.get(path)) is not None:
            self._answer(route(authorization.caller.datasets, said))
        else:
            there = [*self.server.shown.routes, *([EVENTS] if self.server.shown.events is not None else [])]
            self._answer(_said(HTTPStatus.NOT_FOUND, f"there is: {', '.join(sorted(there))}"))

    def _authorized(self, path: str) -> Authorization | Reply:
        is_open = self.server.shown.tls is None and self.server.shown.tokens is None
        if is_open and not is_own_host(self.headers.get("Host", "")):
            return _said(
                HTTPStatus.MISDIRECTED_REQUEST,
                "this name may be another site's: ask by the loader's IP address or its host's name; with TLS or "
                "tokens any name does",
            )
        try:
            return Authorization(self.server.shown.tokens, self._token(), self.client_address[0])
        except NotAllowed as error:
            log.warning("refused", peer=self.client_address[0], path=path[:64], reason=str(error))
            return _said(HTTPStatus.UNAUTHORIZED, str(error))

    def _answer(self, reply: Reply) -> None:
        self._head(reply.status, reply.content_type, len(reply.body))
        self.wfile.write(reply.body)

    def _head(self, status: HTTPStatus, content_type: str, nbytes: int | None) -> None:
        self.send_response(status)
        self.send_header("Content-Type", content_type)
        if nbytes is not None:
            self.send_header("Content-Length", str(nbytes))
        for name, value in HEADERS.items():
            self.send_header(name, value)
        if status is HTTPStatus.UNAUTHORIZED:
            self.send_header("WWW-Authenticate", 'Basic realm="feedline: the password is the token"')
        self.end_headers()

    def _subscribe(self, pages: Events, authorization: Authorization, last: str) -> None:
        if not pages.take_place():
            self._answer(
                _said(
                    HTTPStatus.SERVICE_UNAVAILABLE,
                    f"{events.MOST_PAGES} pages are open, which is all there may be; close one",
                )
            )
            return
        try:
            self._head(HTTPStatus.OK, events.CONTENT_TYPE, None)
        except OSError:
            pages.leave_place()
            raise
        connection: socket.socket = self.request
        if not isinstance(connection, ssl.SSLSocket):
            # The one that the base closes when this thread ends is left empty; TLS' own has been so from the start.
            connection = socket.socket(connection.family, connection.type, fileno=connection.detach())
        pages.add(connection, authorization, last)

    def _token(self) -> list[str]:
        """What was sent as authorization; a browser sends a token as the password of its form."""
        sent = self.headers.get_all("Authorization") or []
        scheme, _, value = sent[0].partition(" ") if len(sent) == 1 else ("", "", "")
        if scheme.lower() != "basic":
            return sent
        with contextlib.suppress(ValueError):
            return [f"{rpc.BEARER} {base64.b64decode(value).decode().partition(':')[2]}"]
        return sent

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - as its base has it
        """Nothing: a scrape each few seconds is no news."""


EVENTS = "/events"

HEADERS = {
    # The page's own files and nothing else, whatever gets into it.
    "Content-Security-Policy": "default-src 'none'; script-src 'self'; style-src 'self' 'unsafe-inline'; "
    "connect-src 'self'; img-src data:; form-action 'none'; base-uri 'none'; frame-ancestors 'none'",
    "Cache-Control": "no-store",
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    "Referrer-Policy": "no-referrer",
    "Connection": "close",
}


def _said(status: HTTPStatus, text: str) -> Reply:
    return Reply(f"{text}\n".encode(), "text/plain; charset=utf-8", status)
