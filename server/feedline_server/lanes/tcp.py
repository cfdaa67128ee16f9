"""The tcp lane: batches go from their slots straight into a TCP connection of the trainer's own.

gRPC copies every byte four times on its way between two Python programs; here the kernel's two copies are all. What is
wanted, failures of the stream, draining and the end still go over the Fetch stream. It is offered only where gRPC
itself speaks without TLS, so no trainer gets less protection than was asked for.
"""

import contextlib
import socket
from typing import Final

from feedline_server.lanes.lane import NO_PROGRESS_S, Lane, LaneListener
from feedline_server.settings.settings import Settings
from feedline_wire.errors import LoaderUnavailable
from feedline_wire.lane import ACCEPTED, GREETING, TCP, TICKET_NBYTES
from feedline_wire.reach import host_of


class TcpListener(LaneListener):
    """Listens on a port of the address that gRPC listens on."""

    name = TCP

    @classmethod
    def is_wanted(cls, settings: Settings) -> bool:
        """See LaneListener."""
        return settings.tcp_lane

    def start(self, settings: Settings) -> None:
        """See LaneListener. Port 0 takes any free one."""
        host, port = host_of(settings.listen), settings.tcp_port
        try:
            family, kind, _, _, address = socket.getaddrinfo(
                host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
            )[0]
            listener = socket.socket(family, kind)
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            if family == socket.AF_INET6:
                with contextlib.suppress(OSError):
                    listener.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
            listener.bind(address)
            self._listen(listener, str(listener.getsockname()[1]))
        except OSError as error:
            raise LoaderUnavailable(
                f"cannot listen on {host!r} port {port} for the tcp lane: {error}; choose another port with tcp_port, "
                f"or tcp_lane = false"
            ) from error

    def _greet(self, connection: socket.socket) -> bool:
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        greeting = connection.recv(len(GREETING) + TICKET_NBYTES, socket.MSG_WAITALL)
        offer = self._offer_of(greeting[len(GREETING) :]) if greeting.startswith(GREETING) else None
        if offer is None:
            return False
        connection.settimeout(NO_PROGRESS_S)
        return offer.claim(Lane(connection), lambda: connection.sendall(ACCEPTED))


LISTENER: Final = TcpListener
