"""The latches of all nodes in one list: what waits for a shard first, then what is held longest."""

from __future__ import annotations

import asyncio
import heapq
from collections.abc import Awaitable, Callable, Iterable, Mapping

from goverse.admin.api import DEFAULT_LOCKS, MAX_LOCKS, Lock, LockList
from goverse.errors import GoverseError, InvalidArgument
from goverse.objects.snapshots import LatchSnapshot

#: Asks one node.
Asked = Callable[[], Awaitable[LockList]]

#: Nodes that are asked at a time.
_AT_ONCE = 16


def lock_of(latch: LatchSnapshot, node: str) -> Lock:
    """``latch`` of ``node``, as operators are told."""
    return Lock(
        shard=latch.shard,
        node=node,
        epoch=str(latch.epoch),
        state=latch.state,
        purpose=latch.purpose,
        waits_s=round(latch.waits_s, 3),
        wanted_s=round(latch.wanted_s, 3),
        sealed=latch.sealed,
        holders=latch.holders,
        held=latch.held,
        object=latch.object,
        method=latch.method,
        call_id=latch.call_id,
        age_s=round(latch.age_s, 3),
    )


def bounded(limit: int) -> int:
    """How many are shown. Raises InvalidArgument."""
    if limit < 0:
        raise InvalidArgument("limit must not be negative")
    return min(limit or DEFAULT_LOCKS, MAX_LOCKS)


async def gathered(asked: Mapping[str, Asked], limit: int) -> LockList:
    """The answers of nodes, by name, in one list of at most ``limit``."""
    room = asyncio.Semaphore(_AT_ONCE)

    async def answer(ask: Asked) -> LockList | None:
        async with room:
            try:
                return await ask()
            except (GoverseError, TimeoutError):
                return None

    async with asyncio.TaskGroup() as group:
        tasks = {name: group.create_task(answer(ask)) for name, ask in asked.items()}
    answers = {name: task.result() for name, task in tasks.items()}
    locks = [lock for found in answers.values() if found is not None for lock in found.locks]
    return LockList(
        locks=most_urgent(locks, limit),
        unreachable=tuple(sorted(name for name, found in answers.items() if found is None)),
    )


def most_urgent(locks: Iterable[Lock], limit: int) -> tuple[Lock, ...]:
    return tuple(heapq.nsmallest(limit, locks, key=_urgency))


def _urgency(lock: Lock) -> tuple[bool, float, float, int]:
    return not lock.purpose, -lock.wanted_s, -lock.age_s, lock.shard
