"""Following a `MemoryStore` over a channel that may be cut."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable
from typing import Any, Protocol

from goverse.aio.backoff import Backoff
from goverse.coordination.api import CoordinatorUnavailable
from goverse.coordination.feed import Feed
from goverse.coordination.memory.history import Compacted
from goverse.coordination.memory.store import MemoryStore

log = logging.getLogger(__name__)

POLL_S = 1.0  # how often an idle watch asks whether the store is there
ATTEMPT_S = 2.0


class Attempt(Protocol):
    """Ask the store once, within so many seconds. Raises `CoordinatorUnavailable`."""

    def __call__(self, operation: Callable[[], Any], limit_s: float, /) -> Awaitable[Any]: ...


class WatchPump:
    """Fills a feed: a listing, then what comes after; a listing again if some is forgotten.

    The store's wake-up is only a hint. What counts is fetched from the last known revision on,
    so an answer that is lost on its way is simply asked for again.
    """

    def __init__(self, store: MemoryStore, attempt: Attempt, backoff: Backoff) -> None:
        self._store = store
        self._attempt = attempt
        self._backoff = backoff
        self._wanted = asyncio.Event()
        self._history: int | None = None  # of the store, as of the last listing
        self._revision = 0
        self._listed = False

    async def run(self, feed: Feed) -> None:
        unsubscribe = self._store.subscribe(feed.prefix, self._wanted.set)
        try:
            while True:
                self._wanted.clear()
                try:
                    await (self._follow(feed) if self._listed else self._list(feed))
                    self._backoff.reset()
                except Compacted as error:
                    log.warning("watch %s lists again: %s", feed.prefix, error)
                    self._listed = False
                    self._wanted.set()
                except CoordinatorUnavailable:
                    await asyncio.sleep(self._backoff.next_s())
                    self._wanted.set()
                await self._wait_wanted()
        finally:
            unsubscribe()

    async def _list(self, feed: Feed) -> None:
        store = self._store
        history, listed = await self._attempt(
            lambda: (store.history, store.list(feed.prefix)), ATTEMPT_S
        )
        if self._history not in (None, history):
            log.error(
                "the coordinator lost its history: %s is replaced by what is there at revision "
                "%d, after revision %d was seen",
                feed.prefix,
                listed.revision,
                self._revision,
            )
        self._history, self._revision, self._listed = history, listed.revision, True
        feed.heard()
        await feed.put(listed)

    async def _follow(self, feed: Feed) -> None:
        batch = await self._attempt(
            lambda: self._store.changes(feed.prefix, self._revision, self._history), ATTEMPT_S
        )
        feed.heard()
        for changes in batch.changes:
            await feed.put(changes)
        self._revision = batch.upto
        if batch.more:
            self._wanted.set()

    async def _wait_wanted(self) -> None:
        try:
            async with asyncio.timeout(POLL_S):
                await self._wanted.wait()
        except TimeoutError:
            pass
