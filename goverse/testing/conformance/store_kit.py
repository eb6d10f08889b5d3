"""What the parts of the store's conformance suite share."""

from __future__ import annotations

import hashlib
import itertools
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from typing import Any, Protocol

import pytest

from goverse.ids import Epoch, ObjectId
from goverse.storage.api import Store
from goverse.storage.values import (
    Acceptance,
    Act,
    CommitResult,
    Fence,
    ObjectCommit,
    Outcome,
    Payload,
    ReliableCall,
    State,
    StoredCall,
    StoredObject,
    Timing,
    Verdict,
)

_numbers = itertools.count(1)


class WriteGate(Protocol):
    """The path of one client's writes to the store."""

    def lose_answers(self) -> None:
        """From now on writes are carried out, and their answers are lost."""
        ...

    def hold(self) -> None:
        """From now on writes are held back before the store; the client hears nothing."""
        ...

    async def release(self) -> None:
        """Deliver what was held back, late, and wait until the store has dealt with it."""
        ...

    def heal(self) -> None: ...


class StoreBackend:
    """What the suite needs to know of an implementation."""

    async def connect(self) -> Store:
        """A client as another process would have it, of a store whose schema is there. The suite
        closes it."""
        raise NotImplementedError

    async def connect_new(self) -> Store:
        """A client of another store, empty and without a schema."""
        raise NotImplementedError

    async def connect_gated(self) -> tuple[Store, WriteGate]:
        """A client whose writes can be held up, with an operation timeout of about a second."""
        pytest.skip("this backend's clients cannot be held up")


@dataclass
class Owner:
    """Whoever has opened one slot: states its fence, counts versions like an activation."""

    store: Store
    slot: int
    epoch: Epoch
    incarnation: str
    opening: int = 0
    name: str = field(default_factory=lambda: f"t{next(_numbers)}")

    @property
    def fence(self) -> Fence:
        return Fence(self.slot, self.epoch, self.opening)

    async def open(self) -> Owner:
        """Raise the fence, with the next opening."""
        self.opening += 1
        await self.store.raise_fence([self.slot], self.epoch, self.incarnation, self.opening)
        return self

    def object(self, id: str = "o") -> ObjectId:
        return ObjectId("Thing", f"{self.name}-{id}")

    def commit_of(
        self,
        data: bytes | Act = Act.KEEP,
        *,
        version: int = 0,
        id: str = "o",
        outcomes: tuple[Outcome, ...] = (),
        outbox: tuple[ReliableCall, ...] = (),
    ) -> ObjectCommit:
        state = State(data) if isinstance(data, bytes) else data
        return ObjectCommit(self.fence, self.object(id), version, state, outcomes, outbox)

    async def commit(self, data: bytes | Act = Act.KEEP, **more: Any) -> CommitResult:
        [result] = await self.store.commit([self.commit_of(data, **more)])
        return result

    def call(
        self,
        id: str,
        *,
        object: str = "o",
        arguments: bytes = b"args",
        timing: Timing | None = None,
    ) -> ReliableCall:
        return ReliableCall(
            call_id=f"{self.name}/{id}",
            object=self.object(object),
            method="add",
            arguments=Payload(arguments),
            digest=hashlib.sha256(b"add" + arguments).digest(),
            principal="somebody",
            context=b"\x00trace",
            expires_at=2_000_000_000.25,
            timing=timing,
        )

    async def accept(self, *ids: str, object: str = "o") -> list[int]:
        """Accept calls of one object; returns their ``seq``."""
        calls = [Acceptance(self.fence, self.call(id, object=object)) for id in ids]
        results = await self.store.accept(calls)
        assert [result.verdict for result in results] == [Verdict.DONE] * len(ids), results
        return [result.seq for result in results]

    async def stored(self, id: str = "o") -> StoredObject | None:
        return (await self.store.load([self.object(id)])).get(self.object(id))

    async def state(self, id: str = "o") -> bytes | None:
        stored = await self.stored(id)
        return stored.state.data if stored and stored.state else None

    async def row(self, id: str) -> StoredCall:
        call_id = f"{self.name}/{id}"
        return (await self.store.get_calls([call_id]))[call_id]

    def id(self, id: str) -> str:
        return f"{self.name}/{id}"


class Owners:
    """Makes clients and owners, and closes the clients at the end."""

    def __init__(self, backend: StoreBackend, stack: AsyncExitStack) -> None:
        self.backend = backend
        self._stack = stack

    async def store(self) -> Store:
        store = await self.backend.connect()
        self._stack.push_async_callback(store.close)
        return store

    async def new_store(self) -> Store:
        store = await self.backend.connect_new()
        self._stack.push_async_callback(store.close)
        return store

    async def gated(self) -> tuple[Store, WriteGate]:
        store, gate = await self.backend.connect_gated()
        self._stack.push_async_callback(store.close)
        self._stack.callback(gate.heal)
        return store, gate

    async def owner(self, store: Store | None = None) -> Owner:
        """The owner of a slot that no test had before, with its fence raised."""
        store = store or await self.store()
        return await Owner(store, next(_numbers), fresh_epoch(), "first").open()

    async def successor(self, of: Owner, store: Store | None = None) -> Owner:
        """Who owns the slot next, under a higher epoch, in another process; not open yet."""
        store = store or await self.store()
        return Owner(store, of.slot, fresh_epoch(), "second", name=of.name)


def fresh_epoch() -> Epoch:
    return Epoch(1, next(_numbers))


class StoreTests:
    """The fixtures that each part of the suite uses."""

    @pytest.fixture
    async def owners(self, backend: StoreBackend) -> AsyncIterator[Owners]:
        async with AsyncExitStack() as stack:
            yield Owners(backend, stack)
