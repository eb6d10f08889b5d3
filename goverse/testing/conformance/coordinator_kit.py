"""What the parts of the coordinator's conformance suite share."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import AsyncExitStack, aclosing
from typing import Protocol

import pytest

from goverse.aio.clock import Clock, SystemClock
from goverse.coordination.api import Changes, Coordinator, KeyValue, Put, Snapshot, Watch

#: Seconds; etcd grants nothing shorter.
TTL_S = 2.0

_prefixes = itertools.count(1)


class Cut(Protocol):
    """The path between one client and the coordinator."""

    def cut(self) -> None:
        """From now on nothing arrives, and nobody is told."""
        ...

    def heal(self) -> None: ...


class CoordinatorBackend:
    """What the suite needs to know of an implementation."""

    clock: Clock = SystemClock()

    async def connect(self) -> Coordinator:
        """A client as another process would have it. The suite closes it."""
        raise NotImplementedError

    async def connect_cuttable(self, operation_timeout_s: float) -> tuple[Coordinator, Cut]:
        """A client whose path to the coordinator can be cut."""
        pytest.skip("this backend's clients cannot be cut")

    async def compact(self, revision: int) -> None:
        """Make the coordinator forget the changes up to ``revision``."""
        pytest.skip("this backend cannot compact")

    async def lose_history(self) -> None:
        """Restart the coordinator at the same address without anything it knew."""
        pytest.skip("this backend cannot lose its history")

    async def end_lease(self, lease: int) -> None:
        """End a lease behind its holder's back."""
        pytest.skip("this backend cannot end a lease of another client")


class Clients:
    """Connects, and closes at the end."""

    def __init__(self, backend: CoordinatorBackend, stack: AsyncExitStack) -> None:
        self._backend = backend
        self._stack = stack

    async def connect(self) -> Coordinator:
        client = await self._backend.connect()
        self._stack.push_async_callback(client.close)
        return client

    async def connect_cuttable(self, operation_timeout_s: float = 30.0) -> tuple[Coordinator, Cut]:
        client, cut = await self._backend.connect_cuttable(operation_timeout_s)
        self._stack.push_async_callback(client.close)
        self._stack.callback(cut.heal)
        return client, cut

    async def watch(self, client: Coordinator, prefix: str) -> Watch:
        watch = client.watch(prefix)
        await self._stack.enter_async_context(aclosing(watch))
        return watch


class View:
    """What a consumer of a watch knows; checks that revisions only grow between snapshots."""

    def __init__(self, watch: Watch) -> None:
        self._watch = watch
        self.revision = -1
        self.items: dict[str, KeyValue] = {}
        self.snapshots = 0
        self.changes: list[Changes] = []

    async def advance(self) -> Snapshot | Changes:
        async with asyncio.timeout(15):
            item = await anext(self._watch)
        if isinstance(item, Snapshot):
            self.snapshots += 1
            self.items = dict(item.items)
        else:
            assert self.snapshots, "changes came before the first snapshot"
            assert item.revision > self.revision, "revisions came out of order"
            assert item.items, "empty changes"
            self.changes.append(item)
            apply(self.items, item.items)
        self.revision = item.revision
        return item

    async def reach(self, done: Callable[[], bool]) -> None:
        while not done():
            await self.advance()


def apply(items: dict[str, KeyValue], changed: Mapping[str, KeyValue | None]) -> None:
    for key, value in changed.items():
        if value is None:
            items.pop(key, None)
        else:
            items[key] = value


async def put(client: Coordinator, key: str, value: bytes = b"", lease: int = 0) -> int:
    result = await client.transact([], [Put(key, value, lease)])
    assert result.succeeded
    return result.revision


class CoordinatorFixtures:
    @pytest.fixture
    async def backend(self) -> AsyncIterator[CoordinatorBackend]:
        raise NotImplementedError("provide the fixture `backend`")
        yield

    @pytest.fixture
    async def clients(self, backend: CoordinatorBackend) -> AsyncIterator[Clients]:
        async with AsyncExitStack() as stack:
            yield Clients(backend, stack)

    @pytest.fixture
    async def client(self, clients: Clients) -> Coordinator:
        return await clients.connect()

    @pytest.fixture
    def prefix(self) -> str:
        """Keys of this test alone: one server may serve many tests."""
        return f"/conformance/{next(_prefixes)}/"
