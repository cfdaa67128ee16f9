"""The tcp lane: batches over a plain TCP connection of their own."""

import socket
from typing import Final

from feedline.connection.lanes.lane import CONNECT_S, NOT_TAKEN, Lane
from feedline_wire.lane import ACCEPTED, GREETING, TCP, heard


class TcpLane(Lane):
    """The lane to a port of the loader's host."""

    name = TCP

    @classmethod
    def is_reachable(cls, address: str) -> bool:
        """It is a port."""
        return address.isascii() and address.isdigit() and 0 < int(address) < 1 << 16

    def _connect(self) -> socket.socket:
        return socket.create_connection((self._host, int(self._address)), CONNECT_S)

    def _greet(self, connection: socket.socket) -> None:
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        connection.sendall(GREETING + self._ticket)
        if heard(connection, len(ACCEPTED)) != ACCEPTED:
            raise ConnectionRefusedError(NOT_TAKEN)


LANE: Final = TcpLane
