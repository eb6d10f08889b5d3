"""What a node does to reliable calls for operators: cancel, retry, clean up."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Sequence
from typing import TypeVar

import msgspec

from goverse.admin.api import CallChange, CleanupCount, CleanupResult
from goverse.call import Call, CallTarget, Verb
from goverse.errors import (
    Executed,
    FailedPrecondition,
    InvalidArgument,
    NotFound,
    Overloaded,
    Unavailable,
)
from goverse.ids import ObjectId, check_id, check_type
from goverse.observability import audit
from goverse.reliable.cleanup import FINISHED, Deleted, Preview, delete, preview, select
from goverse.reliable.interventions import Wish, decode_changed
from goverse.storage.api import OutcomeUnknown, StorageUnavailable, Store
from goverse.storage.values import CallStatus

DEFAULT_CLEANUP = 10_000
MAX_CLEANUP = 100_000

_MAX_REASON_CHARS = 500

#: Of the time that a cleanup has, the part after which no batch begins.
_BEGIN = 0.7

T = TypeVar("T")


class ReliableCallAdmin:
    """That half of `goverse_node.admin.operations.NodeAdmin`.

    :param store: None: this cluster has none. :param router: takes what changes a call to the
        owner of its object.
    """

    def __init__(self, store: Store | None, router: CallTarget, default_timeout_s: float) -> None:
        self._store = store
        self._router = router
        self._call_timeout_s = default_timeout_s
        self._cleaning = False

    async def cancel_call(
        self, call_id: str, *, type: str = "", id: str = "", reason: str = "", timeout_s: float = 0
    ) -> CallChange:
        if len(reason) > _MAX_REASON_CHARS:
            raise InvalidArgument(f"reason is longer than {_MAX_REASON_CHARS} characters")
        object = _object(type, id)
        if object is None:
            object = await self._object_of(call_id)
        return await self._change(Verb.CANCEL, call_id, object, Wish(reason), timeout_s)

    async def _object_of(self, call_id: str) -> ObjectId:
        store = self._ledger()
        row = (await _asked(store.get_calls([call_id]))).get(call_id)
        if row is not None:
            return row.call.object
        delivery = (await _asked(store.deliveries([call_id]))).get(call_id)
        if delivery is not None:
            return delivery.object
        raise NotFound(
            f"no call is known under the id {call_id[:64]!r}; name its object (type and id) to "
            "record it as skipped, so that it can never run"
        )

    async def retry_call(self, call_id: str, *, timeout_s: float = 0) -> CallChange:
        store = self._ledger()
        row = (await _asked(store.get_calls([call_id]))).get(call_id)
        delivery = (await _asked(store.deliveries([call_id]))).get(call_id)
        parked = row is not None and row.status is CallStatus.PARKED
        if delivery is not None and delivery.sender is not None and not parked:
            wish = Wish(delivery=True)
            return await self._change(Verb.RETRY, call_id, delivery.sender, wish, timeout_s)
        if row is None:
            raise NotFound(
                f"no call is known under the id {call_id[:64]!r}: it may be on its way, or have "
                "been cleaned up"
            )
        return await self._change(Verb.RETRY, call_id, row.call.object, Wish(), timeout_s)

    async def _change(
        self, verb: Verb, call_id: str, object: ObjectId, wish: Wish, timeout_s: float
    ) -> CallChange:
        self._ledger()
        deadline = asyncio.get_running_loop().time() + (timeout_s or self._call_timeout_s)
        reply = await self._router.invoke(
            Call(
                object.type,
                object.id,
                "",
                msgspec.msgpack.encode(wish),
                deadline,
                verb=verb,
                principal=audit.actor(),
                call_id=call_id,
            )
        )
        found = decode_changed(reply.payload)
        return CallChange(
            call_id=call_id,
            type=object.type,
            id=object.id,
            method=found.method,
            status=found.status,
            changed=found.changed,
            message=found.message,
            delivery=wish.delivery,
        )

    async def cleanup_calls(
        self,
        *,
        older_than_s: float,
        statuses: Sequence[str] = (),
        dry_run: bool = False,
        max_calls: int = 0,
        timeout_s: float = 0,
    ) -> CleanupResult:
        """One at a time: several would only be in each other's way."""
        store = self._ledger()
        if not 0 <= max_calls <= MAX_CLEANUP:
            raise InvalidArgument(f"max_calls is {max_calls}; at most {MAX_CLEANUP} at a time")
        if self._cleaning:
            raise Overloaded("this node is cleaning up already; wait for it, or ask another")
        self._cleaning = True
        try:
            selection = await _asked(select(store, _statuses(statuses), older_than_s))
            if dry_run:
                return _counted(await _asked(preview(store, selection)))
            now = asyncio.get_running_loop().time()
            deleted = Deleted()
            complete = await _asked(
                delete(
                    store,
                    selection,
                    deleted,
                    max_calls=max_calls or DEFAULT_CLEANUP,
                    until=now + _BEGIN * (timeout_s or self._call_timeout_s),
                )
            )
            return CleanupResult(
                finished_before=selection.before, deleted=deleted.calls, complete=complete
            )
        finally:
            self._cleaning = False

    def _ledger(self) -> Store:
        if self._store is None:
            raise FailedPrecondition(
                "this cluster has no store, and so no reliable calls; set storage.url on the nodes"
            )
        return self._store


def _object(type: str, id: str) -> ObjectId | None:
    if not type and not id:
        return None
    try:
        return ObjectId(check_type(type), check_id(id))
    except ValueError as error:
        raise InvalidArgument(str(error)) from None


def _statuses(names: Sequence[str]) -> tuple[CallStatus, ...]:
    try:
        return tuple(CallStatus(name) for name in names) or FINISHED
    except ValueError as error:
        raise InvalidArgument(f"statuses: {error}") from None


async def _asked(work: Awaitable[T]) -> T:
    """What the store answers. Raises InvalidArgument, Unavailable."""
    try:
        return await work
    except ValueError as error:
        raise InvalidArgument(str(error)) from None
    except StorageUnavailable as error:
        raise Unavailable(f"the store is away: {error}", executed=Executed.NO) from None
    except OutcomeUnknown as error:
        raise Unavailable(
            f"the store did not answer, ask again: {error}", executed=Executed.UNKNOWN
        ) from None


def _counted(found: Preview) -> CleanupResult:
    return CleanupResult(
        finished_before=found.selection.before,
        calls=found.calls,
        spared=found.spared,
        counts=tuple(
            CleanupCount(
                status=count.status.value,
                older_than_s=count.from_s,
                younger_than_s=count.to_s or 0.0,
                calls=count.calls,
            )
            for count in found.counts
        ),
        oldest=found.oldest or 0.0,
        newest=found.newest or 0.0,
        table_bytes=-1 if found.size.table_bytes is None else found.size.table_bytes,
        index_bytes=-1 if found.size.index_bytes is None else found.size.index_bytes,
        complete=not found.calls,
    )
