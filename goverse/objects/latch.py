"""Who holds a shard, and who wants it alone: one count, one state, at most one writer.

Admitted turns and hooks hold it together, and ask nothing for that: they are counted. Whoever
opens, closes or hands it over is the writer. Waiting for the count is here; who the holders are,
and what becomes of those that stay, in `goverse.objects.holders`. Drawn in DESIGN.md.
"""

from __future__ import annotations

import asyncio
import enum
from dataclasses import dataclass
from typing import Protocol


class ShardState(enum.Enum):
    OPENING = "opening"
    OPEN = "open"
    DRAINING = "draining"
    LEAVING = "leaving"
    CLOSED = "closed"


OPEN = ShardState.OPEN


class Purpose(enum.Enum):
    """What a writer is about to do."""

    OPEN = "open"
    CLOSE = "close"
    HAND_OVER = "hand_over"


class Acquired(enum.Enum):
    """How the wait of a writer has ended."""

    ACQUIRED = "acquired"
    FORCED = "forced"
    """Holders were removed."""
    CALLED_OFF = "called_off"
    LOST = "lost"
    """It was closed meanwhile: there is nothing to hold any more."""
    CANCELLED = "cancelled"


@dataclass(frozen=True)
class Holds:
    """How long a shard may be held.

    :param max_hold_s: seconds for which a turn may hold a shard that a writer waits for.
    :param warn_after_s: seconds after which a holder that a writer waits for is named.
    """

    max_hold_s: float = 30.0
    warn_after_s: float = 1.0


class LatchObserver(Protocol):
    """Told what happens to latches; counts it."""

    def acquired(self, purpose: str, outcome: str, seconds: float) -> None:
        """A writer waits no more, after ``seconds``; ``outcome`` is an `Acquired`."""
        ...

    def removed(self, how: str) -> None:
        """A holder was ``cancelled``, or ``cut_loose``."""
        ...


@dataclass(slots=True, eq=False)
class Writer:
    """Who wants a shard alone. Times are the running loop's.

    :param since: when it began to wait, this time.
    :param wanted_at: when the shard was first wanted, also by attempts that were called off.
    :param deadline: when it gives up, or, if ``sealed``, removes whoever is left.
    :param sealed: whether only calls are admitted that a turn which runs here waits for.
    """

    purpose: Purpose
    since: float
    wanted_at: float
    deadline: float
    sealed: bool = False


class Latch:
    """Born held by the writer who opens it."""

    __slots__ = ("_quiet", "holders", "state", "writer")

    def __init__(self, now: float) -> None:
        self.state = ShardState.OPENING
        #: Turns that run or wait in mailboxes here, hooks included.
        self.holders = 0
        self.writer: Writer | None = Writer(Purpose.OPEN, now, now, now)
        self._quiet: asyncio.Future[None] | None = None

    def ended(self) -> None:
        """A holder has ended or left its mailbox."""
        self.holders -= 1
        if not self.holders and self._quiet is not None:
            self.wake()

    def wake(self) -> None:
        """Let `wait_quiet` look again."""
        if self._quiet is not None and not self._quiet.done():
            self._quiet.set_result(None)

    async def wait_quiet(self, deadline: float) -> bool:
        """Wait until nobody holds it, or it is closed; False at ``deadline``."""
        loop = asyncio.get_running_loop()
        while self.holders and self.state is not ShardState.CLOSED:
            self._quiet = loop.create_future()
            try:
                async with asyncio.timeout_at(deadline):
                    await self._quiet
            except TimeoutError:
                return not self.holders
            finally:
                self._quiet = None
        return True
