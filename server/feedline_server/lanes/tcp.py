"""The tcp lane: batches go from their slots straight into a socket of the trainer's own.

gRPC copies every byte four times on its way between two Python programs; here the kernel's two copies are all. What is
wanted, failures of the stream, draining and the end still go over the Fetch stream, and a lane never outlives its
stream. It is offered only where gRPC itself speaks without TLS, so nobody gets less protection than he asked for.
"""

import contextlib
import socket

from feedline_server.lanes.lane import BACKLOG, NO_PROGRESS_S, Lane, LaneListener, Offer
from feedline_wire.errors import LoaderUnavailable
from feedline_wire.lane import ACCEPTED, GREETING, TCP, TICKET_NBYTES


class TcpListener(LaneListener):
    """Listens for trainers with tickets. `start`, and what every kind of lane has."""

    def __init__(self) -> None:
        super().__init__(TCP)
        self.port = 0
        """Where it listens; 0 before `start`."""

    def start(self, host: str, port: int) -> None:
        """Listen; port 0 takes any free one. LoaderUnavailable if that is not possible."""
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
            listener.listen(BACKLOG)
        except OSError as error:
            raise LoaderUnavailable(
                f"cannot listen on {host!r} port {port} for the tcp lane: {error}; choose another port with tcp_port, "
                f"or tcp_lane = false"
            ) from error
        self.port = listener.getsockname()[1]
        self._listen(listener)

    def ticket(self, offer: Offer) -> bytes:
        """What the stream's trainer is told."""
        return offer.ticket

    def _greet(self, connection: socket.socket) -> bool:
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        said = connection.recv(len(GREETING) + TICKET_NBYTES, socket.MSG_WAITALL)
        offer = self._offer_of(said[len(GREETING) :]) if said.startswith(GREETING) else None
        if offer is None:
            return False
        connection.settimeout(NO_PROGRESS_S)
        return offer.claim(Lane(connection), lambda: connection.sendall(ACCEPTED))
