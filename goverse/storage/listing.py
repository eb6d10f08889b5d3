"""What operators list, count and clean up: frozen values, the same for every backend."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

from goverse.ids import ObjectId
from goverse.storage.values import CallStatus


class CallPosition(NamedTuple):
    """A place in a list, between two rows or at one.

    :param number: the slot of a live call or a delivery; microseconds since 1970 at which a
        finished call finished.
    :param seq: of a pending call, position of a delivery; else 0.
    :param call_id: of any other call; else empty.
    """

    number: int
    seq: int = 0
    call_id: str = ""


#: Before every row.
START = CallPosition(0)


def finished_from(moment: float) -> CallPosition:
    """Before every call that finished at ``moment``, seconds since 1970, or later."""
    return CallPosition(round(moment * 1_000_000))


@dataclass(frozen=True, slots=True)
class ListedCall:
    """A row of the ledger or the outbox without what is the application's affair.

    :param slot: of the object; in the outbox of the sender.
    :param seq: place in the object's order, 0: none; in the outbox the position.
    :param status: in the outbox PARKED, or PENDING: to be delivered.
    :param reason: why it was parked or skipped.
    :param run_at: when it is or was due; None: at once.
    :param sender: None: a row of the ledger.
    """

    call_id: str
    object: ObjectId
    method: str
    slot: int
    seq: int
    status: CallStatus
    attempts: int
    reason: str
    principal: str
    parent: str
    argument_bytes: int
    result_bytes: int
    created_at: float
    expires_at: float | None
    finished_at: float | None
    run_at: float | None
    sender: ObjectId | None = None

    @property
    def position(self) -> CallPosition:
        if self.sender is not None or self.status is CallStatus.PENDING:
            return CallPosition(self.slot, self.seq)
        if self.finished_at is not None:
            return CallPosition(round(self.finished_at * 1_000_000), 0, self.call_id)
        return CallPosition(self.slot, 0, self.call_id)


@dataclass(frozen=True, slots=True)
class FinishedCount:
    """Finished calls, counted when asked.

    :param calls: that would be deleted.
    :param spared: others, whose row still stands in the outbox: it may be delivered once more.
    :param oldest: when the first and the last of ``calls`` finished; None: there are none.
    :param last: behind which there may be more; None: nothing is.
    """

    calls: int
    spared: int
    oldest: float | None
    newest: float | None
    last: CallPosition | None


@dataclass(frozen=True, slots=True)
class LedgerSize:
    """Bytes on disk; None: not known. ``index_bytes`` None: ``table_bytes`` is everything that
    the store holds, in one file."""

    table_bytes: int | None
    index_bytes: int | None
