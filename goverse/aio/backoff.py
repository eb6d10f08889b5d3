"""Exponential backoff with full jitter."""

from __future__ import annotations

import random


class Backoff:
    """Delays between attempts: uniform between 0 and a cap that doubles up to ``max_s``.

    Full jitter spreads a crowd that failed together; see M. Brooker, "Exponential Backoff and
    Jitter" (2015). The first delay is never below ``min_s / 2``, so that a peer that refuses at
    once is not asked in a hot loop.
    """

    def __init__(self, source: random.Random, *, min_s: float = 0.1, max_s: float = 1.0) -> None:
        if not 0 < min_s <= max_s:
            raise ValueError("0 < min_s <= max_s")
        self._random = source
        self._min_s = min_s
        self._max_s = max_s
        self._cap_s = min_s

    def next_s(self) -> float:
        """The delay before the next attempt, in seconds."""
        delay_s = max(self._min_s / 2, self._random.uniform(0, self._cap_s))
        self._cap_s = min(self._cap_s * 2, self._max_s)
        return delay_s

    def reset(self) -> None:
        """Call after a success."""
        self._cap_s = self._min_s
