"""Reserves free ports of a node, on which the members of a gang find one another."""

from __future__ import annotations

import socket
from dataclasses import dataclass


@dataclass(frozen=True)
class Ports:
    """The numbers of reserved TCP ports, as a worker reports them."""

    numbers: tuple[int, ...] = ()


class ReservedPorts:
    """Free TCP ports of this node, which no other process gets until they are released."""

    def __init__(self) -> None:
        self._sockets: list[socket.socket] = []

    def renew(self, count: int) -> Ports:
        """Reserve ports in place of earlier ones.

        Returns:
            The ports; none if this node has no port or no file descriptor left.
        """
        self.release()
        try:
            for _ in range(count):
                reserved = socket.socket()
                self._sockets.append(reserved)
                reserved.bind(("", 0))
        except OSError:
            self.release()
        return Ports(tuple(reserved.getsockname()[1] for reserved in self._sockets))

    def release(self) -> None:
        """Leave the ports to the ranks that are about to start."""
        while self._sockets:
            self._sockets.pop().close()
