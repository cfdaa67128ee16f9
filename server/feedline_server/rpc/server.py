"""A gRPC server as ours all are: what it bears of those who connect, and how it begins to listen and to serve."""

import threading

import grpc

from feedline_server.host.threads import vital
from feedline_wire.errors import LoaderUnavailable

MOST_CONNECTIONS = "grpc.max_allowed_incoming_connections"
"""gRPC's option (since 1.66): one more is closed at once, whoever it is."""

KEEPALIVE_MS = 10_000
"""A trainer that vanished without a word is noticed after this and as much again."""

MAX_REQUEST_NBYTES = 1 << 20
"""A whole window (MAX_WINDOW) of keys has 0.6 MB if all names have 255 letters. A request of this size that is full of
the smallest wants costs 24 MB until it is refused (measured)."""

HANDSHAKE_MS = 10_000
"""Who connects and says nothing is let go after this; gRPC's own 120 s are for networks that no trainer trains over."""

SERVER_OPTIONS = [
    ("grpc.so_reuseport", 0),  # a second loader on the port must be an error, not a silent share of the trainers
    ("grpc.max_receive_message_length", MAX_REQUEST_NBYTES),
    ("grpc.server_handshake_timeout_ms", HANDSHAKE_MS),
    ("grpc.max_send_message_length", -1),
    ("grpc.keepalive_time_ms", KEEPALIVE_MS),
    ("grpc.keepalive_timeout_ms", KEEPALIVE_MS),
    ("grpc.http2.ping_timeout_ms", KEEPALIVE_MS),  # 60 s by default, which wins over the line above (grpcio 1.85, seen)
    ("grpc.keepalive_permit_without_calls", 1),
    ("grpc.http2.max_pings_without_data", 0),  # without limit; the default stops asking a trainer that says nothing
    ("grpc.http2.min_recv_ping_interval_without_data_ms", 1_000),
    ("grpc.http2.max_ping_strikes", 0),  # trainers may look often whether we are alive
]


def start_server(server: grpc.Server) -> None:
    """Start it; the thread that takes its calls in is one that the loader cannot do without."""
    before = set(threading.enumerate())
    server.start()
    for thread in set(threading.enumerate()) - before:
        if not thread.name.startswith("feedline"):
            vital(thread)


def listen_at(server: grpc.Server, address: str, credentials: grpc.ServerCredentials | None) -> int:
    """The port; LoaderUnavailable if the address cannot be listened on."""
    try:
        if credentials is None:
            return server.add_insecure_port(address)
        return server.add_secure_port(address, credentials)
    except RuntimeError as error:
        raise LoaderUnavailable(
            f"cannot listen on {address!r}: the address is in use or not of this host; choose another with --listen"
        ) from error
