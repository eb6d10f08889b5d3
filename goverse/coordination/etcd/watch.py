"""One watch on etcd: list, follow, notice silence, list again."""

from __future__ import annotations

import asyncio
import logging
from typing import Any

import grpc.aio
from aetcd import rpc

from goverse.aio.backoff import Backoff
from goverse.aio.runtime import Runtime
from goverse.aio.tasks import Tasks
from goverse.coordination.api import Changes, CoordinatorUnavailable, KeyValue
from goverse.coordination.etcd import codec
from goverse.coordination.etcd.connection import Connection
from goverse.coordination.etcd.endpoints import Endpoints
from goverse.coordination.etcd.failures import REVISION_COMPACTED, Fate, RequestFailed, explain
from goverse.coordination.etcd.lineage import Lineage
from goverse.coordination.feed import Feed

log = logging.getLogger(__name__)

HEARTBEAT_S = 1.0
MAX_SILENT_HEARTBEATS = 2
LIST_S = 10.0
WRITE_S = 3.0


class _Compacted(Exception):
    """What comes next is forgotten."""


class WatchPump:
    """Fills a feed, for ever.

    Each stream begins with a linearizable read on its own connection: the listing, or, after a
    cut, a check that the history is still the one that was seen. Without it, an etcd that was
    restarted empty would accept the old start revision and be silent until it is reached.

    A progress request goes out every second and something must come back: a member that was cut
    off sends no FIN. The answer's revision is not used, as etcd before 3.4.25 and 3.5.8 may send
    it ahead of the events (its issue 15220).
    """

    def __init__(
        self, endpoints: Endpoints, lineage: Lineage, tasks: Tasks, runtime: Runtime
    ) -> None:
        self._endpoints = endpoints
        self._lineage = lineage
        self._tasks = tasks
        self._backoff = Backoff(runtime.random)
        self._revision = 0  # everything up to here is in the feed
        self._history = -1  # number of the history that it belongs to
        self._must_list = True
        self._heard = False
        self._complaint = ""  # said last; the same is not said again

    async def run(self, feed: Feed) -> None:
        while True:
            try:
                connection = await self._endpoints.connection()
            except CoordinatorUnavailable:
                return  # the client is closed
            try:
                await self._position(connection, feed)
                await self._follow(connection, feed)
            except _Compacted as error:
                log.warning("watch %s lists again: %s", feed.prefix, error)
                self._must_list = True
            except RequestFailed as error:
                if error.text != self._complaint:
                    log.warning("watch %s on %s: %s", feed.prefix, connection.address, error.text)
                self._complaint = error.text
                self._endpoints.last_error = f"{connection.address}: {error.text}"
            await asyncio.sleep(self._backoff.next_s())

    async def _position(self, connection: Connection, feed: Feed) -> None:
        """List when that is needed; otherwise make sure that it is not."""
        if not self._must_list:
            witness = self._lineage.witness
            now = await self._read(
                connection, rpc.RangeRequest(key=feed.prefix.encode(), count_only=True)
            )
            if witness is not None:
                await self._hear(witness, now.header, connection)
            if self._history == self._lineage.number:
                return
        prefix = feed.prefix
        request = rpc.RangeRequest(key=prefix.encode(), range_end=codec.prefix_end(prefix))
        listed = codec.snapshot(await self._read(connection, request))
        self._history, self._revision = self._lineage.number, listed.revision
        self._must_list = False
        feed.heard()
        newest = max(listed.items.values(), key=lambda item: item.mod_revision, default=None)
        if newest is not None:
            self._lineage.remember(newest)
        await feed.put(listed)

    async def _hear(self, witness: KeyValue, now: Any, connection: Connection) -> None:
        """
        :param now: header of an answer to what was asked when the witness was known.
        """
        if now.revision < witness.mod_revision:  # what was listed then may have been older still
            self._lineage.confront(witness, None, now)
            return
        request = rpc.RangeRequest(key=witness.key.encode(), revision=witness.mod_revision)
        try:
            answer = await connection.ask(connection.kv.Range, request, LIST_S)
        except RequestFailed as error:
            if error.text.startswith(REVISION_COMPACTED):
                return  # no longer known, which proves nothing
            raise
        found = codec.key_value(answer.kvs[0]) if answer.kvs else None
        self._lineage.confront(witness, found, answer.header)

    async def _read(self, connection: Connection, request: Any) -> Any:
        mark = self._lineage.mark()
        answer = await connection.ask(connection.kv.Range, request, LIST_S)
        self._lineage.check(answer.header, mark)
        return answer

    async def _follow(self, connection: Connection, feed: Feed) -> None:
        stream = connection.open_watch()
        # gRPC's streams allow one writer and one reader, and die when a read is cancelled: this
        # task writes, a task of its own reads, and only the end of the stream cancels it.
        reader = self._tasks.spawn(f"read {feed.prefix}", self._receive(stream, feed))
        try:
            await self._ask(stream, self._create_request(feed.prefix))
            silent = 0
            while True:
                await asyncio.wait(
                    [reader, connection.lost],
                    timeout=HEARTBEAT_S,
                    return_when=asyncio.FIRST_COMPLETED,
                )
                if reader.done():
                    raise _outcome(reader)
                if connection.lost.done():
                    raise RequestFailed(connection.lost.result(), Fate.UNKNOWN)
                if self._history != self._lineage.number:
                    raise RequestFailed("the history was lost", Fate.UNKNOWN)
                # Counted in rounds of the loop, not in seconds: after the loop hung, what has
                # arrived meanwhile is read before the next round.
                silent = 0 if self._heard or feed.full else silent + 1
                if silent == MAX_SILENT_HEARTBEATS:
                    connection.lose("it is silent")
                    continue
                request = rpc.WatchRequest(progress_request=rpc.WatchProgressRequest())
                await self._ask(stream, request)
        finally:
            stream.cancel()
            reader.cancel()
            await asyncio.wait([reader])

    async def _ask(self, stream: Any, request: Any) -> None:
        self._heard = False  # first: the answer can be here before the write returns
        await _write(stream, request)

    def _create_request(self, prefix: str) -> Any:
        return rpc.WatchRequest(
            create_request=rpc.WatchCreateRequest(
                key=prefix.encode(),
                range_end=codec.prefix_end(prefix),
                start_revision=self._revision + 1,
                fragment=True,
            )
        )

    def _remember(self, changes: Changes) -> None:
        for item in changes.items.values():
            if item is not None:
                self._lineage.remember(item)
                return  # all of one revision are as good

    async def _receive(self, stream: Any, feed: Feed) -> Exception:
        """Read until the stream ends. Returns why, as raising would be logged as a crash."""
        assembler = codec.Assembler()
        try:
            while True:
                response = await stream.read()
                if response is grpc.aio.EOF:  # type: ignore[attr-defined]
                    return RequestFailed("the stream ended", Fate.UNKNOWN)
                if response.compact_revision:
                    return _Compacted(
                        f"revision {self._revision + 1} is forgotten, "
                        f"{response.compact_revision} is the first that is not"
                    )
                if response.canceled:
                    return RequestFailed(f"watch refused: {response.cancel_reason}", Fate.REFUSED)
                self._heard = True
                feed.heard()
                self._backoff.reset()
                self._complaint = ""
                for changes in assembler.add(response):
                    if changes.revision > self._revision:
                        await feed.put(changes)
                        self._revision = changes.revision
                        self._remember(changes)
        except grpc.aio.AioRpcError as error:
            return explain(error.code(), error.details())


def _outcome(reader: asyncio.Task[Exception]) -> Exception:
    if reader.cancelled():  # its channel was closed
        return RequestFailed("the connection was closed", Fate.UNKNOWN)
    return reader.result()


async def _write(stream: Any, message: Any) -> None:
    """Errors are left to the reader, which learns why the stream ended."""
    try:
        async with asyncio.timeout(WRITE_S):
            await stream.write(message)
    except TimeoutError:
        raise RequestFailed("a write to the watch is stuck", Fate.UNKNOWN) from None
    except (grpc.aio.AioRpcError, asyncio.InvalidStateError):
        pass
    except asyncio.CancelledError:
        # gRPC says this too of a stream whose channel was closed; only a request to this very
        # task may pass.
        task = asyncio.current_task()
        if task is None or task.cancelling():
            raise
