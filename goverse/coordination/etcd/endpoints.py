"""Which member of etcd is used, and the next one when it is lost."""

from __future__ import annotations

import asyncio
import logging

from goverse.aio.backoff import Backoff
from goverse.aio.runtime import Runtime
from goverse.aio.tasks import Tasks
from goverse.config.settings import EtcdSettings
from goverse.coordination.api import CoordinatorUnavailable
from goverse.coordination.etcd.connection import Connection
from goverse.coordination.etcd.failures import RequestFailed

log = logging.getLogger(__name__)


class Endpoints:
    """Holds one connection, shared by all that use etcd from the event loop.

    A member stays in use until it is lost; then every other one is tried, and all of them for
    ever, at most a second apart. The order is shuffled once, so that the processes of a cluster
    spread over the members.
    """

    def __init__(self, settings: EtcdSettings, runtime: Runtime, tasks: Tasks) -> None:
        if not settings.endpoints:
            raise ValueError("cluster.etcd.endpoints is empty")
        self._settings = settings
        self._runtime = runtime
        self._tasks = tasks
        self._order = list(settings.endpoints)
        runtime.random.shuffle(self._order)
        self._next = 0
        self._current: Connection | None = None
        self._connector: asyncio.Task[None] | None = None
        self._closed = False
        self.last_error = ""

    @property
    def address(self) -> str:
        """The member in use; empty while there is none."""
        current = self._current
        return current.address if current is not None and current.usable else ""

    async def connection(self) -> Connection:
        """A usable connection; waits for one for ever, so bound it.

        Raises `CoordinatorUnavailable` when this is closed.
        """
        while True:
            if self._closed:
                raise CoordinatorUnavailable("this client is closed")
            current = self._current
            if current is not None and current.usable:
                return current
            if self._connector is None or self._connector.done():
                self._connector = self._tasks.spawn("connect", self._connect())
            # Many wait for the one task that connects; giving up waiting does not stop it.
            await asyncio.wait([self._connector])
            if not self._connector.cancelled():
                self._connector.result()

    async def _connect(self) -> None:
        if self._current is not None:
            before, self._current = self._current, None
            before.retire(before.why)
            self.last_error = f"{before.address}: {before.why}"
            log.warning("leaving etcd member %s", self.last_error)
            self._tasks.spawn(f"drain {before.address}", before.drain())
        backoff = Backoff(self._runtime.random)
        reported = False
        while True:
            for _ in self._order:
                address = self._order[self._next]
                self._next = (self._next + 1) % len(self._order)
                self._current = await self._try(address)
                if self._current is not None:
                    log.info("using etcd member %s", address)
                    return
            if not reported:
                log.error("no etcd member can be reached; the last said: %s", self.last_error)
                reported = True
            await asyncio.sleep(backoff.next_s())

    async def _try(self, address: str) -> Connection | None:
        try:
            connection = Connection(address, self._settings, self._tasks)
        except OSError as error:
            self.last_error = f"{address}: {error}"
            return None
        try:
            await connection.hello()
            return connection
        except RequestFailed as error:
            self.last_error = f"{address}: {error.text}"
            await connection.close()
            return None
        except BaseException:
            await connection.close()
            raise

    async def close(self) -> None:
        """Whoever waits for a connection learns that the client is closed."""
        self._closed = True
        if self._connector is not None:
            self._connector.cancel()
            await asyncio.wait([self._connector])
        if self._current is not None:
            await self._current.close()
            self._current = None
