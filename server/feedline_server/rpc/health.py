"""What the standard health service says of a loader: whether it should get work, and whether it is alive.

Two questions with two names, as orchestrators ask them. A loader that drains, or that has no worker now, is not ready
and is alive: a restart would cut off what it still sends.
"""

import threading
from collections.abc import Sequence
from typing import Final

import grpc
from grpc_health.v1 import health, health_pb2, health_pb2_grpc

from feedline_server.host.threads import Threads
from feedline_server.rpc.server import MOST_CONNECTIONS, SERVER_OPTIONS, listen_at, start_server
from feedline_wire import rpc

READY: Final = ("", rpc.SERVICE)
"""Names of the loader itself: SERVING while it takes work. `grpc.health.v1` means the whole server by the empty one."""

LIVE: Final = "live"
"""SERVING from the start to the end of the process: for liveness probes."""

THREADS: Final = 2
"""For health checks on an address of their own: each takes microseconds."""

CONNECTIONS: Final = 16
"""There: a few probes, and each of them once more while it starts anew."""


class Health:
    """The health service of one program, on any number of servers; `ready` are the names of its work. Thread-safe."""

    def __init__(self, ready: Sequence[str] = READY) -> None:
        self._ready = ready
        self._servicer = health.HealthServicer()
        self._lock = threading.Lock()  # `drain` and the pool's word may come at once; NOT_SERVING has to stay
        self._is_draining = False
        self._set(serves=False)
        self._servicer.set(LIVE, health_pb2.HealthCheckResponse.SERVING)

    def add_to(self, server: grpc.Server) -> None:
        """Answer health checks on this server, which has not started."""
        health_pb2_grpc.add_HealthServicer_to_server(self._servicer, server)

    def listen_at(self, address: str) -> grpc.Server:
        """A server that answers health checks alone, without TLS; LoaderUnavailable if it cannot listen there."""
        server = grpc.server(
            Threads(THREADS, thread_name_prefix="feedline-health"),
            options=[*SERVER_OPTIONS, (MOST_CONNECTIONS, CONNECTIONS)],
            maximum_concurrent_rpcs=CONNECTIONS,
        )
        self.add_to(server)
        listen_at(server, address, None)
        start_server(server)
        return server

    def set_serving(self, serves: bool) -> None:
        """Whether it takes work now. After `drain` it never does."""
        with self._lock:
            self._set(serves=serves and not self._is_draining)

    def drain(self) -> None:
        """It takes no more work, and lives on until it has sent what it began. Idempotent."""
        with self._lock:
            self._is_draining = True
            self._set(serves=False)

    def _set(self, *, serves: bool) -> None:
        found = health_pb2.HealthCheckResponse.SERVING if serves else health_pb2.HealthCheckResponse.NOT_SERVING
        for name in self._ready:
            self._servicer.set(name, found)
