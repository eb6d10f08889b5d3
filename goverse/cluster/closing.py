"""Which shards of a node may close at this moment, so that a few close quickly and not all slowly.

::

    ask ──> waiting ──place is free──> closing ──closed──> releasing ──done──> place is free
                                          │ takes long: its turns run on
                                          └──> gives its place up, and closes all the same

Calls of a shard wait from when it begins to close until its next owner has it. A node that leaves
has thousands to give up, and one event loop, one coordinator and one taker for all of them: closed
all at once, each waits for all the others. A shard that waits for a turn to end costs the others
nothing, so it keeps its place for a short time only.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator

from goverse.aio.limits import Limit

#: Shards that are closing or releasing at one time: two transactions' worth of releases.
MAX_CLOSING = 124
#: How long a shard may be closing before the next one begins beside it.
PLACE_S = 0.25


class ClosingWindow:
    """Lets shards begin to close, in the order of asking.

    :param begin: called when it is the turn of a shard.
    """

    def __init__(
        self,
        begin: Callable[[int], None],
        *,
        max_closing: int = MAX_CLOSING,
        place_s: float = PLACE_S,
    ) -> None:
        self._begin = begin
        self._max_closing = max_closing
        self._place_s = place_s
        self._waiting: dict[int, None] = {}
        #: Those that hold a place; without a timer once they are releasing.
        self._places: dict[int, asyncio.TimerHandle | None] = {}

    def ask(self, shard: int) -> None:
        """Begin to close ``shard`` now, or when its turn comes. Asking again changes nothing."""
        if shard not in self._places:
            self._waiting[shard] = None
            self._fill()

    def releasing(self, shard: int) -> None:
        """It is closed, and its claim is being given up: it keeps its place until that is done.

        The coordinator may be away. What is not closed yet goes on serving meanwhile.
        """
        if shard in self._places:
            self._stop_timer(shard)
            self._places[shard] = None

    def left(self, shard: int) -> None:
        """It needs no place any more."""
        self._waiting.pop(shard, None)
        if shard in self._places:
            self._stop_timer(shard)
            del self._places[shard]
            self._fill()

    def called_off(self, shard: int) -> None:
        """It is not to close as things are. One that has begun is not stopped."""
        self._waiting.pop(shard, None)

    def open_wide(self) -> None:
        """From now on nothing waits: the node ends, and what is not closed in time is cut off."""
        self._max_closing = 1 << 30
        self._fill()

    def clear(self) -> None:
        for shard in self._places:
            self._stop_timer(shard)
        self._places.clear()
        self._waiting.clear()

    @property
    def closing(self) -> int:
        """How many hold a place."""
        return len(self._places)

    @property
    def waiting(self) -> int:
        return len(self._waiting)

    def limits(self, shards: int) -> Iterator[Limit]:
        yield Limit("ownership.closes_due", len(self._waiting), shards)

    def ahead_of(self, shard: int) -> int | None:
        """How many wait before ``shard``; None if it does not wait."""
        if shard not in self._waiting:
            return None
        return list(self._waiting).index(shard)

    def _fill(self) -> None:
        loop = asyncio.get_running_loop()
        while self._waiting and len(self._places) < self._max_closing:
            shard = next(iter(self._waiting))
            del self._waiting[shard]
            self._places[shard] = loop.call_later(self._place_s, self.left, shard)
            self._begin(shard)

    def _stop_timer(self, shard: int) -> None:
        timer = self._places[shard]
        if timer is not None:
            timer.cancel()
