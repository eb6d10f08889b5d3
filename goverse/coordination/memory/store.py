"""A key-value store with etcd's meaning of revisions, leases, watches and compaction."""

from __future__ import annotations

import asyncio
import contextvars
import operator
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from goverse.aio.runtime import Runtime
from goverse.coordination.api import (
    Compare,
    Delete,
    KeyValue,
    Put,
    Snapshot,
    TxnResult,
)
from goverse.coordination.checks import check_prefix, check_transaction
from goverse.coordination.memory.history import Batch, Compacted, History

if TYPE_CHECKING:
    from goverse.coordination.memory.channel import Channel
    from goverse.coordination.memory.client import MemoryCoordinator

__all__ = ["Compacted", "MemoryStore"]

_OPERATORS: dict[str, Callable[[int, int], bool]] = {
    "==": operator.eq,
    "!=": operator.ne,
    ">": operator.gt,
    "<": operator.lt,
}


@dataclass(slots=True)
class _StoredLease:
    ttl_s: float
    expires_at: float  # loop time
    keys: dict[str, None] = field(default_factory=dict)


class MemoryStore:
    """The server. Every method is synchronous and atomic; call them in the event loop.

    Its first revision is the wall clock in microseconds, so that a new store, whose history is
    empty, never hands out epochs below those of the store before it.

    :param start_revision: for tests and simulations that want other first numbers.
    """

    def __init__(self, runtime: Runtime, start_revision: int | None = None) -> None:
        if start_revision is None:
            start_revision = int(runtime.clock.wall() * 1_000_000)
        self._random = runtime.random
        self._history = History(start_revision)
        self._keys: dict[str, KeyValue] = {}
        self._leases: dict[int, _StoredLease] = {}
        self._subscribers: dict[int, tuple[str, Callable[[], None]]] = {}
        self._next_subscriber = 0
        self._timer: asyncio.TimerHandle | None = None
        # The expiry timer belongs to the store, not to the process whose grant armed it: a
        # simulation that tells processes apart by context must not pause it with that process.
        self._context = contextvars.copy_context()

    def connect(
        self,
        runtime: Runtime,
        channel: Channel | None = None,
        *,
        operation_timeout_s: float = 60.0,
    ) -> MemoryCoordinator:
        """A client for one process, which reaches this store through ``channel``."""
        from goverse.coordination.memory.client import MemoryCoordinator

        return MemoryCoordinator(self, runtime, channel, operation_timeout_s=operation_timeout_s)

    # ---- reading

    @property
    def revision(self) -> int:
        return self._history.revision

    def get(self, key: str) -> KeyValue | None:
        self.expire_due()
        return self._keys.get(key)

    def list(self, prefix: str) -> Snapshot:
        check_prefix(prefix)
        self.expire_due()
        found = sorted(key for key in self._keys if key.startswith(prefix))
        return Snapshot(self.revision, {key: self._keys[key] for key in found})

    # ---- writing

    def transact(
        self, compares: Sequence[Compare], operations: Sequence[Put | Delete]
    ) -> TxnResult:
        check_transaction(compares, operations)
        self.expire_due()
        if not all(map(self._holds, compares)):
            return TxnResult(False, self.revision)
        if not all(map(self._lease_lives, operations)):
            return TxnResult(False, self.revision)
        revision = self.revision + 1
        changed: dict[str, KeyValue | None] = {}
        for operation in operations:
            if isinstance(operation, Put):
                changed[operation.key] = self._put(operation, revision)
            elif operation.key in self._keys:
                self._drop(operation.key)
                changed[operation.key] = None
        self._commit(changed)
        return TxnResult(True, self.revision)

    def _holds(self, compare: Compare) -> bool:
        found = self._keys.get(compare.key)
        actual: int = 0 if found is None else getattr(found, compare.field)
        return _OPERATORS[compare.op](actual, compare.value)

    def _lease_lives(self, operation: Put | Delete) -> bool:
        if isinstance(operation, Delete) or not operation.lease:
            return True
        return operation.lease in self._leases

    def _put(self, put: Put, revision: int) -> KeyValue:
        old = self._keys.get(put.key)
        if old is not None and old.lease:
            self._leases[old.lease].keys.pop(put.key, None)
        created = revision if old is None else old.create_revision
        new = self._keys[put.key] = KeyValue(put.key, put.value, created, revision, put.lease)
        if put.lease:
            self._leases[put.lease].keys[put.key] = None
        return new

    def _drop(self, key: str) -> None:
        old = self._keys.pop(key)
        if old.lease in self._leases:
            self._leases[old.lease].keys.pop(key, None)

    def _commit(self, changed: Mapping[str, KeyValue | None]) -> None:
        if not changed:
            return  # a transaction that changes nothing has no revision
        self._history.append(changed)
        for prefix, wake in list(self._subscribers.values()):
            if any(key.startswith(prefix) for key in changed):
                wake()

    # ---- leases

    def grant(self, ttl_s: float) -> int:
        """A new lease that ends ``ttl_s`` seconds from now, unless renewed. Returns its id."""
        if ttl_s <= 0:
            raise ValueError(f"a lease of {ttl_s} s")
        self.expire_due()
        lease = 0
        while lease == 0 or lease in self._leases:
            lease = self._random.getrandbits(62)
        now = asyncio.get_running_loop().time()
        self._leases[lease] = _StoredLease(ttl_s, now + ttl_s)
        self._arm()
        return lease

    def renew(self, lease: int) -> float:
        """Start the lease's time again. Returns its TTL in seconds, 0 if it is over."""
        self.expire_due()
        found = self._leases.get(lease)
        if found is None:
            return 0.0
        found.expires_at = asyncio.get_running_loop().time() + found.ttl_s
        return found.ttl_s

    def revoke(self, lease: int) -> bool:
        """End a lease: its keys go, all in one revision. False if it was over."""
        self.expire_due()
        return self._end(lease)

    def expire_due(self) -> None:
        """End every lease whose time is over. Called by a timer and before every operation."""
        if not self._leases:
            return
        now = asyncio.get_running_loop().time()
        due = [lease for lease, found in self._leases.items() if found.expires_at <= now]
        for lease in due:
            self._end(lease)

    def _end(self, lease: int) -> bool:
        found = self._leases.pop(lease, None)
        if found is None:
            return False
        gone: dict[str, KeyValue | None] = dict.fromkeys(sorted(found.keys))
        for key in gone:
            del self._keys[key]
        self._commit(gone)
        return True

    def _arm(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if self._leases:
            soonest = min(found.expires_at for found in self._leases.values())
            loop = asyncio.get_running_loop()
            self._timer = loop.call_at(soonest, self._fire, context=self._context)

    def _fire(self) -> None:
        # A renewal does not touch the timer: it fires early, finds nothing and is armed again.
        self._timer = None
        self.expire_due()
        self._arm()

    # ---- watching

    def changes(self, prefix: str, after: int, history: int | None) -> Batch:
        """Everything under ``prefix`` that came after revision ``after``, up to a limit.

        Raises `Compacted` when some of it is forgotten, or ``history`` is not this one.
        """
        self.expire_due()
        return self._history.read(prefix, after, history)

    @property
    def history(self) -> int:
        """Changes when this store loses its history."""
        return self._history.number

    def subscribe(self, prefix: str, wake: Callable[[], None]) -> Callable[[], None]:
        """Call ``wake`` at every change under ``prefix`` until the returned function is called.

        Only a hint that `changes` has something new: it says nothing by itself, so a simulation
        need not delay or cut it.
        """
        check_prefix(prefix)
        self._next_subscriber = number = self._next_subscriber + 1
        self._subscribers[number] = prefix, wake

        def unsubscribe() -> None:
            self._subscribers.pop(number, None)

        return unsubscribe

    def compact(self, revision: int) -> None:
        """Forget the changes up to ``revision``; watches that still need them list again."""
        self._history.compact(revision)

    def lose_history(self, start_revision: int) -> None:
        """Go on as a coordinator that was restarted with an empty disk: no keys, no leases."""
        self._history = History(start_revision, number=self._history.number + 1)
        self._keys.clear()
        self._leases.clear()
        self._arm()
        for _, wake in list(self._subscribers.values()):
            wake()
