"""The Store interface. The conformance suite in `goverse.testing` defines its meaning.

What to do after each error:

=====================  ==========================================================================
`StorageUnavailable`   Nothing was written. Try again later, with backoff, or tell the caller.
`OutcomeUnknown`       It may be written now, later, or never. Raise the fence of the slots with
                       the next opening before anything of them is read, run or answered; then
                       read versions and call rows to learn what happened.
`HigherEpoch`          Somebody owns the slots under a higher epoch: this claim is over, or the
                       coordinator lost its history. Never raise again under this epoch.
`StoreRefused`         An operator must act: wrong cluster, schema or settings. Do not start.
ValueError             A fault of the caller's. Nothing was sent.
verdict FENCED         As `HigherEpoch`, or this process itself raised the fence since: whatever
                       was born under the stated fence is over.
verdict VERSION,       The activation is not what is stored: drop it and load again.
NOT_PENDING
verdict REFUSED        The item itself cannot be stored. Fail its turn; the object's next commit
                       is not affected.
=====================  ==========================================================================
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

from goverse.errors import Outranked
from goverse.ids import Epoch, ObjectId
from goverse.storage.listing import (
    START,
    CallPosition,
    FinishedCount,
    LedgerSize,
    ListedCall,
)
from goverse.storage.values import (
    Acceptance,
    AcceptResult,
    CallStatus,
    CallStep,
    CommitResult,
    DelayedPage,
    DueStep,
    ObjectCommit,
    OutboxChange,
    OutboxRow,
    StepResult,
    StoredCall,
    StoredObject,
)

MAX_PAGE = 10_000
MAX_BATCH_ITEMS = 1024
MAX_BATCH_BYTES = 256 * 1024 * 1024


class StorageUnavailable(Exception):
    """The store cannot be reached, or cannot work now. Nothing was written."""


class OutcomeUnknown(Exception):
    """The answer to a write did not come. It may be carried out now, later, or never."""


class StoreRefused(Exception):
    """This store must not be used as it is. The message says what an operator can do."""


class HigherEpoch(Outranked):
    """A fence stands at an epoch that is not below the one it was to be raised to.

    :param epoch: the highest of those found, at ``slot``.
    :param incarnation: who raised it there.
    """

    def __init__(self, slot: int, epoch: Epoch, incarnation: str) -> None:
        super().__init__(
            f"the fence of slot {slot} stands at {epoch}, raised by {incarnation}", epoch
        )
        self.slot = slot
        self.incarnation = incarnation


@dataclass(frozen=True, slots=True)
class SchemaStatus:
    """``version`` is what the store has (0: nothing), ``known`` what this program needs."""

    version: int
    known: int
    pending: tuple[str, ...]  # names of the migrations that are to be applied

    @property
    def current(self) -> bool:
        return self.version == self.known


@dataclass(frozen=True, slots=True)
class Census:
    """Live rows, counted when asked."""

    pending_calls: int
    delayed_calls: int
    parked_calls: int
    outbox_rows: int
    parked_outbox_rows: int


@dataclass(frozen=True, slots=True)
class LiveCalls:
    """Unfinished calls of the objects of one type, counted when asked.

    :param oldest_pending_s: seconds since the oldest pending one was accepted, or was due, if that
        was later; 0: there is none.
    :param overdue_s: seconds since the first delayed one should have become pending; 0: none is
        late.
    """

    type: str
    pending: int
    delayed: int
    parked: int
    oldest_pending_s: float
    overdue_s: float


@dataclass(frozen=True, slots=True)
class QueuedCalls:
    """Pending calls of one object. ``oldest_s``: seconds since the oldest was accepted, or was
    due, if that was later."""

    object: ObjectId
    pending: int
    oldest_s: float


@dataclass(frozen=True, slots=True)
class FinishedCalls:
    """Finished calls of the objects of one type that were not cleaned up."""

    type: str
    success: int
    failed: int
    skipped: int


@dataclass(frozen=True, slots=True)
class StoreSnapshot:
    """State of one process's store client. ``place`` never holds a password."""

    backend: str
    place: str
    connections: int
    in_flight: int
    last_error: str
    commits: int  # batches
    objects: int  # in those batches
    accepts: int  # calls in all batches of them
    fenced: int  # items refused by a fence
    unknown: int  # writes whose answer did not come
    ended_sessions: int  # of former owners, by raising


class Administration(Protocol):
    """What operators do to a store; safe to repeat, whatever was interrupted."""

    async def schema_status(self) -> SchemaStatus: ...

    async def migrate(self) -> tuple[str, ...]:
        """Apply what is missing, each migration in a transaction of its own; returns their names.

        Two at once are one after the other. Raises `StoreRefused` for a schema that is newer
        than this program, or whose migrations are other ones than this program's.
        """
        ...

    async def cluster_id(self) -> str:
        """Whose store this is; empty: nobody's yet."""
        ...

    async def adopt(self, cluster_id: str) -> None:
        """Make it the store of ``cluster_id``, whoever had it, and shut the former cluster out:
        every fence of before fails from now on, and keeps its epoch as the one to exceed."""
        ...

    async def highest_epoch(self) -> Epoch:
        """The highest that any fence stands at."""
        ...

    async def census(self) -> Census: ...

    async def live_calls(self) -> Sequence[LiveCalls]:
        """By type, in the order of names. Reads live rows alone."""
        ...

    async def longest_queues(self, limit: int) -> Sequence[QueuedCalls]:
        """The objects with the most pending calls, longest first, ties in the order of objects.
        Reads live rows alone. ValueError for a limit that is not 1 to `MAX_PAGE`."""
        ...

    async def finished_calls(self) -> Sequence[FinishedCalls]:
        """By type, in the order of names. Reads the whole ledger."""
        ...

    async def now(self) -> float:
        """The moment that the store would stamp a row with."""
        ...

    async def list_calls(
        self, status: CallStatus, *, after: CallPosition = START, limit: int = 1000
    ) -> Sequence[ListedCall]:
        """Calls of one status behind ``after``, in the order of their positions: finished ones as
        they finished, live ones by slot. Reads no other row, whatever the ledger holds.

        The next page is behind the last one's position; one that is not full is the last.
        ValueError for a limit that is not 1 to `MAX_PAGE`."""
        ...

    async def list_outbox(
        self, *, parked: bool, after: CallPosition = START, limit: int = 1000
    ) -> Sequence[ListedCall]:
        """Deliveries that are parked, or that are not, as `list_calls` has calls."""
        ...

    async def count_finished(
        self,
        status: CallStatus,
        before: float,
        *,
        after: CallPosition = START,
        limit: int = MAX_PAGE,
    ) -> FinishedCount:
        """What `delete_finished` would make of the first ``limit`` calls of a finished status that
        stand behind ``after`` and finished before ``before``. ValueError for a status that is not a
        finished one."""
        ...

    async def delete_finished(self, call_ids: Sequence[str], before: float) -> Sequence[str]:
        """Delete those calls that finished before ``before`` and have no row in the outbox; returns
        their ids, in no order. What is not finished, or not there, stays as it is.

        All or none; at most `MAX_BATCH_ITEMS`, each once. A call id that was deleted is as unknown
        as one that never was, and may be run again. Raises as `commit`."""
        ...

    async def ledger_size(self) -> LedgerSize: ...


class Store(Administration, Protocol):
    """Where objects, reliable calls and fences are kept; one client per process.

    Every operation ends within `storage.operation_timeout` (raising: per group) with an answer
    or an error; cancelling the wait for a write is like `OutcomeUnknown`. A batch states each
    object or call id once, has at most `MAX_BATCH_ITEMS` items of `MAX_BATCH_BYTES` in all, and an
    object has at most one commit and one accept in flight: ValueError otherwise. A batch must be
    written within the timeout: above some 16 MiB more in one gains nothing.
    """

    async def check(self) -> None:
        """Refuse what a node must not work with: an unknown schema, settings under which a
        commit is not durable. Raises `StoreRefused`, `StorageUnavailable`."""
        ...

    async def claim_cluster(self, cluster_id: str) -> None:
        """Make a store that is nobody's ours. Raises `StoreRefused` for another cluster's.

        Safe to repeat after any other error."""
        ...

    async def node_slot(self, node: str) -> int:
        """The number, above all slots, that fences what lives on ``node``; for ever the same.

        Made by the first who asks; safe to repeat after any error."""
        ...

    async def raise_fence(
        self, slots: Sequence[int], epoch: Epoch, incarnation: str, opening: int
    ) -> None:
        """Shut out whoever wrote to ``slots`` before, and wait for what they have under way.

        Done in groups, each its own transaction: after an error some groups are raised and some
        are not, and the way on is the next opening (`HigherEpoch`: none). A fence is raised by a
        higher epoch, or by a higher opening of the same epoch and incarnation. A session that
        holds a fence for longer than 0.5 s is ended. Raises `HigherEpoch`, `OutcomeUnknown`,
        `StorageUnavailable`.
        """
        ...

    async def load(self, objects: Sequence[ObjectId]) -> Mapping[ObjectId, StoredObject]:
        """Those that have a row. Raises `StorageUnavailable`."""
        ...

    async def commit(self, batch: Sequence[ObjectCommit]) -> Sequence[CommitResult]:
        """Write each object all or none; the results are in the order of ``batch``.

        Raises `OutcomeUnknown` or `StorageUnavailable` for the whole batch.
        """
        ...

    async def accept(self, calls: Sequence[Acceptance]) -> Sequence[AcceptResult]:
        """Record calls, those of one object in the order given. Raises as `commit`."""
        ...

    async def change_calls(self, steps: Sequence[CallStep]) -> Sequence[StepResult]:
        """Take steps that no turn takes. Raises as `commit`."""
        ...

    async def make_due(self, steps: Sequence[DueStep]) -> Sequence[StepResult]:
        """Give delayed calls whose time has come, by the store's clock, their places: in the order
        of ``steps``. Raises as `commit`."""
        ...

    async def change_outbox(self, changes: Sequence[OutboxChange]) -> Sequence[StepResult]:
        """Acknowledge or park deliveries. Raises as `commit`."""
        ...

    async def deliveries(self, call_ids: Sequence[str]) -> Mapping[str, ListedCall]:
        """Those that have a row in the outbox, parked or not. Raises `StorageUnavailable`."""
        ...

    async def get_calls(self, call_ids: Sequence[str]) -> Mapping[str, StoredCall]:
        """Those that have a row, whoever owns their objects. Raises `StorageUnavailable`."""
        ...

    async def pending_calls(
        self, slots: Sequence[int], *, after: int = 0, limit: int = 1000
    ) -> Sequence[StoredCall]:
        """Pending calls of these slots with a ``seq`` above ``after``, lowest first."""
        ...

    async def parked_calls(
        self, slots: Sequence[int], *, after: str = "", limit: int = 1000
    ) -> Sequence[StoredCall]:
        """Parked calls of these slots with a call id above ``after``, in the order of ids."""
        ...

    async def delayed_calls(
        self,
        slots: Sequence[int],
        *,
        within_s: float,
        after: tuple[float, str] = (0.0, ""),
        limit: int = 1000,
    ) -> DelayedPage:
        """Delayed calls of these slots that are due in ``within_s`` seconds from now or before, in
        the order of ``run_at`` and call id.

        Reads what is due until then of all slots, and nothing else.

        :param after: ``run_at`` and call id of the last one that is known.
        """
        ...

    async def outbox(
        self, slots: Sequence[int], *, after: int = 0, limit: int = 1000, parked: bool = False
    ) -> Sequence[OutboxRow]:
        """Rows whose senders are of these slots, with a ``position`` above ``after``."""
        ...

    def snapshot(self) -> StoreSnapshot: ...

    async def close(self) -> None:
        """Wait shortly for what is under way, and end the connections."""
        ...
