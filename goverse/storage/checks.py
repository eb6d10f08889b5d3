"""What every implementation refuses before anything is sent, in the same words."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager

from goverse.ids import Epoch, ObjectId, check_id, check_type
from goverse.storage.api import MAX_BATCH_BYTES, MAX_BATCH_ITEMS, MAX_PAGE
from goverse.storage.listing import CallPosition
from goverse.storage.values import (
    Acceptance,
    CallStatus,
    CallStep,
    DueStep,
    Fence,
    ObjectCommit,
    OutboxChange,
    ReliableCall,
    State,
)

MAX_CALL_ID_BYTES = 1024
MAX_TEXT_BYTES = 4096
MAX_DIGEST_BYTES = 64
MAX_SLOT = 2**31 - 1
MAX_NUMBER = 2**63 - 1
MAX_SECONDS = 9e12

_FORBIDDEN = re.compile("[\x00-\x1f\x7f-\x9f\ud800-\udfff]")
# PostgreSQL's text cannot hold NUL, and UTF-8 no lone surrogates.
_UNSTORABLE = re.compile("[\x00\ud800-\udfff]")


def check_call_id(call_id: str) -> str:
    """Return ``call_id`` if it can name a call: 1 to 1024 bytes, no controls. Raises ValueError."""
    if not call_id:
        raise ValueError("call id is empty")
    if _FORBIDDEN.search(call_id):
        raise ValueError(f"call id {call_id[:64]!r} has a control character or a lone surrogate")
    if len(call_id.encode()) > MAX_CALL_ID_BYTES:
        raise ValueError(f"call id {call_id[:64]!r}... is longer than {MAX_CALL_ID_BYTES} bytes")
    return call_id


def check_text(name: str, text: str) -> None:
    if _UNSTORABLE.search(text):
        raise ValueError(f"{name} {text[:64]!r} has a NUL or a lone surrogate")
    if len(text) > MAX_TEXT_BYTES or len(text.encode()) > MAX_TEXT_BYTES:
        raise ValueError(f"{name} is longer than {MAX_TEXT_BYTES} bytes")


def check_call_ids(call_ids: Sequence[str]) -> None:
    _check_size(len(call_ids), "call ids")
    for call_id in call_ids:
        check_call_id(call_id)


def check_objects(objects: Sequence[ObjectId]) -> None:
    _check_size(len(objects), "objects")
    for object in objects:
        _check_object(object)


def check_page(slots: Sequence[int], limit: int) -> None:
    check_slots(slots)
    check_limit(limit)


def check_limit(limit: int) -> None:
    if not 1 <= limit <= MAX_PAGE:
        raise ValueError(f"limit is {limit}; a page has 1 to {MAX_PAGE} rows")


def check_listing(after: CallPosition, limit: int) -> None:
    check_limit(limit)
    if not (0 <= after.number <= MAX_NUMBER and 0 <= after.seq <= MAX_NUMBER):
        raise ValueError(f"{after} is no position in a list")
    check_text("after", after.call_id)


def check_finished(status: CallStatus, before: float, after: CallPosition, limit: int) -> None:
    check_listing(after, limit)
    if not status.finished:
        raise ValueError(f"a call that is {status.value} is not finished")
    _check_moment("before", before)


def check_deletion(call_ids: Sequence[str], before: float) -> None:
    check_call_ids(call_ids)
    _check_distinct(call_ids, "call id")
    _check_moment("before", before)


def _check_moment(name: str, moment: float) -> None:
    if not 0 <= moment < MAX_SECONDS:
        raise ValueError(f"{name} is {moment}; it is seconds since 1970")


def check_raise(slots: Sequence[int], epoch: Epoch, incarnation: str, opening: int) -> None:
    check_slots(slots)
    _check_epoch(epoch)
    if not incarnation:
        raise ValueError("incarnation is empty")
    check_text("incarnation", incarnation)
    if not 1 <= opening <= MAX_NUMBER:
        raise ValueError(f"opening is {opening}; the first is 1")


def check_slots(slots: Sequence[int]) -> None:
    # The extremes alone: a shard may have thousands of slots.
    for slot in (min(slots), max(slots)) if slots else ():
        if not 0 <= slot <= MAX_SLOT:
            raise ValueError(f"slot {slot} is not between 0 and {MAX_SLOT}")


def _check_epoch(epoch: Epoch) -> None:
    if not (0 <= epoch.generation <= MAX_NUMBER and 0 <= epoch.revision <= MAX_NUMBER):
        raise ValueError(f"{epoch} is no epoch")


def check_commits(batch: Sequence[ObjectCommit]) -> None:
    """Raises ValueError naming the object and the field."""
    _check_size(len(batch), "objects")
    _check_distinct((commit.object for commit in batch), "object")
    _check_distinct((o.call_id for commit in batch for o in commit.outcomes), "call id")
    size = 0
    for commit in batch:
        _check_object(commit.object)
        _check_fence(commit.fence)
        if not 0 <= commit.version < MAX_NUMBER:
            raise ValueError(f"{commit.object}: version is {commit.version}")
        if isinstance(commit.state, State):
            size += len(commit.state.data)
            if not -MAX_SLOT <= commit.state.schema <= MAX_SLOT:
                raise ValueError(f"{commit.object}: schema is {commit.state.schema}")
        for outcome in commit.outcomes:
            check_call_id(outcome.call_id)
            check_text("reason", outcome.reason)
            if not outcome.status.finished:
                raise ValueError(f"{commit.object}: an outcome cannot be {outcome.status.value}")
            _check_time(f"call {outcome.call_id}: again_at", outcome.again_at)
            size += len(outcome.result.data) if outcome.result else 0
        size += sum(_check_call(call) for call in commit.outbox)
    _check_bytes(size)


def check_acceptances(calls: Sequence[Acceptance]) -> None:
    _check_size(len(calls), "calls")
    size = 0
    for acceptance in calls:
        _check_fence(acceptance.fence)
        size += _check_call(acceptance.call)
        check_text("skip", acceptance.skip)
        if not acceptance.call.digest and not acceptance.skip:
            raise ValueError(f"call {acceptance.call.call_id}: digest is empty")
    _check_bytes(size)


def check_steps(steps: Sequence[CallStep] | Sequence[OutboxChange]) -> None:
    _check_size(len(steps), "steps")
    _check_distinct((step.call_id for step in steps), "call id")
    for step in steps:
        _check_fence(step.fence)
        check_call_id(step.call_id)
        check_text("reason", step.reason)
        if step.step.value == "park" and not step.reason:
            raise ValueError(f"call {step.call_id}: parking needs a reason")


def check_due(steps: Sequence[DueStep]) -> None:
    _check_size(len(steps), "steps")
    _check_distinct((step.call_id for step in steps), "call id")
    for step in steps:
        _check_fence(step.fence)
        check_call_id(step.call_id)
        _check_time(f"call {step.call_id}: was_at", step.was_at)
        _check_time(f"call {step.call_id}: run_at", step.run_at)


def check_window(
    slots: Sequence[int], within_s: float, after: tuple[float, str], limit: int
) -> None:
    check_page(slots, limit)
    _check_time("within_s", within_s)
    _check_time("after", after[0])
    check_text("after", after[1])


def _check_fence(fence: Fence) -> None:
    if not (0 <= fence.slot <= MAX_SLOT and 1 <= fence.opening <= MAX_NUMBER):
        raise ValueError(f"{fence} is no fence")
    _check_epoch(fence.epoch)


def _check_object(object: ObjectId) -> None:
    check_type(object.type)
    check_id(object.id)


def _check_call(call: ReliableCall) -> int:
    check_call_id(call.call_id)
    _check_object(call.object)
    check_text("method", call.method)
    check_text("principal", call.principal)
    if call.parent:
        check_call_id(call.parent)
    if len(call.digest) > MAX_DIGEST_BYTES:
        raise ValueError(f"call {call.call_id}: digest is longer than {MAX_DIGEST_BYTES} bytes")
    _check_time(f"call {call.call_id}: expires_at", call.expires_at)
    if call.timing is not None:
        _check_time(f"call {call.call_id}: run_at", call.timing.run_at)
        _check_time(f"call {call.call_id}: every_s", call.timing.every_s)
    return len(call.arguments.data) + len(call.context)


def _check_time(name: str, seconds: float | None) -> None:
    if seconds is not None and not 0 <= seconds < MAX_SECONDS:
        raise ValueError(f"{name} is {seconds}")


def _check_size(size: int, what: str) -> None:
    if size > MAX_BATCH_ITEMS:
        raise ValueError(f"{size} {what} in one batch; it takes {MAX_BATCH_ITEMS}")


def _check_bytes(size: int) -> None:
    if size > MAX_BATCH_BYTES:
        raise ValueError(f"a batch of {size} bytes; it takes {MAX_BATCH_BYTES}")


def _check_distinct(names: Iterable[object], what: str) -> None:
    seen: dict[object, None] = {}
    for name in names:
        if name in seen:
            raise ValueError(f"{what} {name} stands twice in one batch")
        seen[name] = None


class InFlight:
    """Objects whose batch is under way. Two at once would be two orders of the same turns."""

    def __init__(self) -> None:
        self._objects: dict[ObjectId, None] = {}

    def __len__(self) -> int:
        return len(self._objects)

    @contextmanager
    def holding(self, objects: Iterable[ObjectId]) -> Iterator[None]:
        mine = dict.fromkeys(objects)
        for object in mine:
            if object in self._objects:
                raise ValueError(f"{object} has a batch under way already")
        self._objects.update(mine)
        try:
            yield
        finally:
            for object in mine:
                del self._objects[object]
