"""How often this process may send calls again."""

from __future__ import annotations

_BURST_S = 10.0


class RetryBudget:
    """A token bucket whose tokens are reserved in order of asking.

    :param rate_per_s: tokens that come in each second; ten seconds' worth can be saved up.
    """

    def __init__(self, rate_per_s: float) -> None:
        if rate_per_s <= 0:
            raise ValueError("rate_per_s must be above 0")
        self._interval_s = 1 / rate_per_s
        self._burst_s = _BURST_S
        # The time up to which every token is given away; never further back than the burst.
        self._spent_until = float("-inf")

    def reserve(self, now: float, *, until: float) -> float | None:
        """When the next token is there (``now`` or later); None if not before ``until``."""
        start = max(self._spent_until, now - self._burst_s)
        ready_at = start + self._interval_s
        if ready_at > until:
            return None
        self._spent_until = ready_at
        return max(now, ready_at)
