"""The Coordinator interface. The conformance suite in `goverse.testing` defines its meaning."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, Protocol

#: etcd's default `--max-txn-ops`; it limits compares and operations of a transaction, each.
MAX_TXN_OPERATIONS = 128


class CoordinatorUnavailable(Exception):
    """No answer within the operation's deadline. Whether a write happened is unknown."""


class TransactionTooLarge(ValueError):
    """More than `MAX_TXN_OPERATIONS` compares or operations. Nothing was written."""


@dataclass(frozen=True, slots=True)
class KeyValue:
    key: str
    value: bytes
    create_revision: int
    mod_revision: int
    lease: int  # 0: none


@dataclass(frozen=True, slots=True)
class Compare:
    """One condition of a transaction. A key that does not exist has 0 in every field."""

    key: str
    field: Literal["create_revision", "mod_revision", "lease"]
    op: Literal["==", "!=", ">", "<"]
    value: int

    @staticmethod
    def absent(key: str) -> Compare:
        return Compare(key, "create_revision", "==", 0)

    @staticmethod
    def created_at(key: str, revision: int) -> Compare:
        return Compare(key, "create_revision", "==", revision)

    @staticmethod
    def modified_at(key: str, revision: int) -> Compare:
        return Compare(key, "mod_revision", "==", revision)

    @staticmethod
    def has_lease(key: str, lease: int) -> Compare:
        return Compare(key, "lease", "==", lease)


@dataclass(frozen=True, slots=True)
class Put:
    key: str
    value: bytes
    lease: int = 0


@dataclass(frozen=True, slots=True)
class Delete:
    key: str


@dataclass(frozen=True, slots=True)
class TxnResult:
    """``revision`` is the store's after the transaction: the writes' own when it succeeded."""

    succeeded: bool
    revision: int


@dataclass(frozen=True, slots=True)
class Snapshot:
    """Everything under a prefix, as one linearizable read saw it."""

    revision: int
    items: Mapping[str, KeyValue]


@dataclass(frozen=True, slots=True)
class Changes:
    """All that one revision did under a prefix, never split. A deleted key maps to None."""

    revision: int
    items: Mapping[str, KeyValue | None]


@dataclass(frozen=True, slots=True)
class WatchSnapshot:
    prefix: str
    revision: int  # delivered to the consumer's buffer up to here
    contact: float
    relistings: int  # snapshots after the first: compactions, lost histories
    buffered: int = 0  # delivered, and not yet consumed


class Watch(Protocol):
    """An iterator over a `Snapshot` and the `Changes` after it.

    It buffers up to a limit and then stops reading; a consumer may cancel a waiting ``anext``
    and go on with the next one.
    """

    def __aiter__(self) -> AsyncIterator[Snapshot | Changes]: ...

    async def __anext__(self) -> Snapshot | Changes: ...

    async def aclose(self) -> None: ...

    @property
    def contact(self) -> float:
        """`Clock.now()` when the coordinator was last heard on this watch; it is heard every
        second or two while it is there. 0 before the first time."""
        ...

    def snapshot(self) -> WatchSnapshot: ...


@dataclass(frozen=True, slots=True)
class LeaseSnapshot:
    id: int
    ttl_s: float
    deadline: float


@dataclass(frozen=True, slots=True)
class CoordinatorSnapshot:
    """State of one client. ``endpoint`` is empty while there is no connection."""

    backend: str
    endpoint: str
    last_error: str
    watches: tuple[WatchSnapshot, ...]
    leases: tuple[LeaseSnapshot, ...]


class Lease(Protocol):
    """A time-to-live that this process keeps alive until it is closed or lost.

    Measured on the process's own clock: an answer to a keep-alive extends the lease from the
    moment at which *its request* was sent, by the TTL that the answer states.
    """

    @property
    def id(self) -> int: ...

    @property
    def ttl_s(self) -> float: ...

    @property
    def deadline(self) -> float:
        """Until when the lease certainly holds (`Clock.now()` seconds); 0 once it is known lost."""
        ...

    def tick(self) -> None:
        """Called by the event loop while it is alive; without ticks renewing stops after
        ``loop_stall_limit_s``, so that a process whose loop hangs for ever loses its lease."""
        ...

    def on_lost(self, callback: Callable[[], None]) -> None:
        """Call ``callback`` once, in the event loop, when the coordinator says the lease is over
        (a keep-alive answered TTL 0). Silence is not reported: watch ``deadline``."""
        ...

    async def revoke(self) -> None:
        """Stop renewing and end the lease now; its keys go. Best effort: silence ends it too."""
        ...

    async def abandon(self) -> None:
        """Stop renewing, send nothing: it ends by itself. For a lease already considered lost."""
        ...


class Coordinator(Protocol):
    """Every operation is linearizable and ends within ``etcd_operation_timeout`` with an answer
    or `CoordinatorUnavailable`. Keys are text; a prefix ends with a slash."""

    async def get(self, key: str) -> KeyValue | None: ...

    async def list(self, prefix: str) -> Snapshot: ...

    async def transact(
        self, compares: Sequence[Compare], operations: Sequence[Put | Delete]
    ) -> TxnResult:
        """Do all ``operations`` if all ``compares`` hold, otherwise nothing.

        A put under a lease that is over fails the transaction like a compare that does not hold.
        Raises `TransactionTooLarge`, or ValueError for two operations on one key, before anything
        is sent; `CoordinatorUnavailable` when the outcome is unknown. Never sent twice by the
        implementation, unless the coordinator is known not to have taken it.
        """
        ...

    def watch(self, prefix: str) -> Watch:
        """A `Snapshot` first, then every later revision's `Changes` in order, none missing.

        After a cut the implementation resumes from the next revision; if that is compacted, or a
        new listing is below a revision already seen (lost history), it yields a `Snapshot` again,
        which replaces everything. It retries for ever with backoff: silence means that the
        coordinator is away. Close the iterator with ``aclose()``.
        """
        ...

    async def grant(self, ttl_s: float) -> Lease:
        """Ask for a lease and keep it alive from now on."""
        ...

    def snapshot(self) -> CoordinatorSnapshot: ...

    async def close(self) -> None:
        """End watches and connections; leases are abandoned."""
        ...
