"""A machine whose figures are the same in every run."""

from __future__ import annotations

import asyncio

from goverse.observability.quota import Machine, Quota, Usage


class SteadyMachine(Machine):
    """One processor, half of it busy at all times, and plenty of memory.

    :param busy: part of the processor that is in use.
    """

    def __init__(self, busy: float = 0.5) -> None:
        self._busy = busy

    def quota(self) -> Quota:
        return Quota(1.0, 1 << 30)

    def usage(self) -> Usage:
        return Usage(asyncio.get_running_loop().time() * self._busy, 1 << 26)
