"""A running hash over everything that a simulated run shows to its processes."""

from __future__ import annotations

import hashlib
from collections import deque


class Trace:
    """Turns a run into one number: two runs with the same number did the same things.

    :param keep: how many of the last lines are kept for a failure report.
    """

    def __init__(self, *, keep: int = 200) -> None:
        self._hash = hashlib.blake2b(digest_size=16)
        self._lines: deque[str] = deque(maxlen=keep)
        self._count = 0

    def record(self, line: str) -> None:
        self._count += 1
        self._hash.update(line.encode())
        self._hash.update(b"\n")
        self._lines.append(line)

    def __len__(self) -> int:
        return self._count

    @property
    def digest(self) -> str:
        """The hash so far, as hexadecimal digits."""
        return self._hash.hexdigest()

    def tail(self) -> tuple[str, ...]:
        """The last lines, oldest first."""
        return tuple(self._lines)
