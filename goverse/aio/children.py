"""Child processes on this machine: ports for them, and an end together with their parent."""

from __future__ import annotations

import itertools
import os
import random
import socket
import sys
from collections.abc import Sequence
from pathlib import Path

_LAUNCHER = Path(__file__).with_name("_launch.py")

_PORTS = range(20_000, 32_000)
_next_port = itertools.count(random.SystemRandom().randrange(len(_PORTS)))


def free_port() -> int:
    """A port of the loopback interface that nobody uses right now.

    Below the range from which systems choose the ports of outgoing connections: one of those
    would be taken again while a server restarts. None is given twice in a row, as whoever was given
    it may not use it yet. Raises RuntimeError if there is none.
    """
    for _ in _PORTS:
        port = _PORTS[next(_next_port) % len(_PORTS)]
        with socket.socket() as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind(("127.0.0.1", port))
            except OSError:
                continue
            return port
    raise RuntimeError(f"no port is free from {_PORTS.start} to {_PORTS.stop - 1}")


def tied_to_this_process(command: Sequence[str], *, user: str = "") -> list[str]:
    """``command`` (its program by path) made to be killed when this process ends, however it ends.

    The kernel ties it to the *thread* that starts it: start it from the main thread.

    :param user: whom it is to run as; empty: as this process. Needs root.
    """
    return [sys.executable, "-I", "-S", str(_LAUNCHER), str(os.getpid()), user, *command]
