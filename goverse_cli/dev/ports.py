"""Free ports: the usual ones where possible, so that printed lines stay the same every day."""

from __future__ import annotations

import errno
import socket

_TRIES = 200


class PortTaken(Exception):
    """A port that was asked for by name is in use."""


class Ports:
    """Hands out each port once.

    A port can still be taken by somebody else before it is bound: then the process that wanted
    it fails, says so, and is started again.
    """

    def __init__(self) -> None:
        self._given: dict[int, None] = {}
        self.moved: dict[int, int] = {}
        """Usual ports that were in use, and what was taken instead."""

    def pick(self, usual: int, asked: int | None = None) -> int:
        """``asked`` if it is given, otherwise the first free port from ``usual`` upwards.

        Raises PortTaken if ``asked`` is in use, or nothing near ``usual`` is free.
        """
        if asked is not None:
            if asked in self._given or not is_free(asked):
                raise PortTaken(f"port {asked} is in use; name another one or leave it out")
            self._given[asked] = None
            return asked
        for port in range(usual, min(usual + _TRIES, 65_536)):
            if port not in self._given and is_free(port):
                self._given[port] = None
                if port != usual and usual not in self._given:
                    self.moved[usual] = port
                return port
        raise PortTaken(f"no free port from {usual} to {usual + _TRIES - 1}")


def is_free(port: int) -> bool:
    """Whether nobody listens on ``port`` under either name that localhost may have.

    Somebody on ``[::1]`` alone would get the calls that are meant for us on 127.0.0.1.
    """
    return _can_bind(socket.AF_INET, "127.0.0.1", port) and _can_bind(socket.AF_INET6, "::1", port)


def _can_bind(family: socket.AddressFamily, host: str, port: int) -> bool:
    try:
        with socket.socket(family, socket.SOCK_STREAM) as probe:
            # Connections of a run that just ended linger; only a listener is in the way.
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind((host, port))
            probe.listen(1)
    except OSError as error:
        # A machine without IPv6 has nobody listening there.
        return error.errno in (errno.EAFNOSUPPORT, errno.EADDRNOTAVAIL)
    return True
