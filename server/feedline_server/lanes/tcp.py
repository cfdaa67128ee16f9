"""The tcp lane: batches go from their slots straight into a TCP connection of the trainer's own.

gRPC copies every byte four times on its way between two Python programs; here the kernel's two copies are all. What is
wanted, failures of the stream, draining and the end still go over the Fetch stream. It is offered only where gRPC
itself speaks without TLS, so no trainer gets less protection than was asked for; with TLS there is the sealed lane.
"""

import contextlib
import socket
from typing import ClassVar, Final

from feedline_server.lanes.lane import NO_PROGRESS_S, Lane, LaneListener, Offer
from feedline_server.settings.settings import Settings
from feedline_wire.errors import LoaderUnavailable
from feedline_wire.lane import ACCEPTED, GREETING, TCP, TICKET_NBYTES, heard
from feedline_wire.reach import host_of


class TcpListener(LaneListener):
    """Listens on a port of the address that gRPC listens on."""

    name = TCP
    _greeting: ClassVar[bytes] = GREETING

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
                f"cannot listen on {host!r} port {port} for the {self.name} lane: {error}; choose another port with "
                f"tcp_port, or tcp_lane = false"
            ) from error

    def _greet(self, connection: socket.socket) -> bool:
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        greeting = heard(connection, len(self._greeting) + TICKET_NBYTES)
        offer = self._offer_of(greeting[len(self._greeting) :]) if greeting.startswith(self._greeting) else None
        if offer is None:
            return False
        connection.settimeout(NO_PROGRESS_S)
        return self._claim(offer, connection)

    def _claim(self, offer: Offer, connection: socket.socket) -> bool:
        return offer.claim(Lane(connection), lambda: connection.sendall(ACCEPTED))


LISTENER: Final = TcpListener
