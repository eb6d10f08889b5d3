"""Making an event loop hang."""

from __future__ import annotations

import time


def block_loop(seconds: float) -> None:
    """What a method does that computes or does blocking I/O for too long."""
    time.sleep(seconds)
