"""What a catalog shows of itself: frozen values for the admin API, the CLI and tests."""

from __future__ import annotations

import heapq
from collections.abc import Iterable
from dataclasses import dataclass

from goverse.ids import Epoch
from goverse.objects.activation import DEACTIVATING, Activation
from goverse.objects.holders import Holder, holders_of, oldest_of
from goverse.objects.shard import Shard, ShardState


@dataclass(frozen=True)
class ObjectSnapshot:
    """One activation, for people and tests."""

    type: str
    id: str
    shard: int
    epoch: Epoch
    state: str
    running: int
    waiting: int
    idle_s: float
    age_s: float


@dataclass(frozen=True)
class ShardSnapshot:
    """One shard that is not closed here."""

    number: int
    epoch: Epoch
    state: str
    objects: int
    holders: int
    held: int


@dataclass(frozen=True)
class LatchSnapshot:
    """One shard that is held, or that a writer waits for or has.

    :param state: of the shard; ``cut_loose``: it does not hold the shard any more, and its object
        is dead, but it still runs.
    :param purpose: of the writer; empty: there is none.
    :param waits_s: for how long the writer has waited, or has had it, this time.
    :param wanted_s: the same, since the first attempt that was called off.
    :param sealed: whether the writer is not called off any more.
    :param held: calls that are held back.
    :param object: of the oldest holder that has begun, ``type/id``; empty: none has.
    :param age_s: for how long that has run.
    """

    shard: int
    epoch: Epoch
    state: str
    purpose: str
    waits_s: float
    wanted_s: float
    sealed: bool
    holders: int
    held: int
    object: str
    method: str
    call_id: str
    age_s: float


@dataclass(frozen=True)
class CatalogSnapshot:
    """The whole catalog."""

    shards: tuple[ShardSnapshot, ...]
    objects: int
    held: int
    stopped: bool


def snapshot_of(activation: Activation, now: float) -> ObjectSnapshot:
    return ObjectSnapshot(
        type=activation.object_id.type,
        id=activation.object_id.id,
        shard=activation.shard.number,
        epoch=activation.epoch,
        state=activation.state.name.lower(),
        running=len(activation.turns),
        waiting=activation.mailbox.waiting,
        idle_s=0.0 if activation.turns else now - activation.last_used,
        age_s=now - activation.created,
    )


def snapshot_of_shard(shard: Shard) -> ShardSnapshot:
    return ShardSnapshot(
        number=shard.number,
        epoch=shard.epoch,
        state=shard.state.value,
        objects=len(shard.activations),
        holders=shard.holders,
        held=shard.held,
    )


def stage_of(shard: Shard) -> str:
    """How far ``shard`` has come on its way to be opened or closed, in words; empty: it is open."""
    held = f", {shard.held} calls wait" if shard.held else ""
    if shard.state is ShardState.OPENING:
        return f"opening: its fence is raised, and what is pending is read{held}"
    if shard.state is ShardState.LEAVING:
        return f"sending: the state of its objects goes to its next node{held}"
    if shard.state is not ShardState.DRAINING:
        return ""
    ending = sum(one.state is DEACTIVATING for one in shard.activations.values())
    if ending:
        return f"flushing: {ending} objects end and are written{held}"
    return f"draining: {shard.holders} turns have not ended{held}"


def snapshots_of_latches(
    shards: Iterable[Shard], loose: Iterable[Holder], now: float, most: int
) -> tuple[LatchSnapshot, ...]:
    """Those that matter most."""
    found = [_of_latch(shard, now) for shard in shards if shard.holders or shard.writer is not None]
    for holder in loose:
        found.append(_of_holder(holder.activation.shard, "cut_loose", holder, now))
    return tuple(heapq.nsmallest(most, found, key=_urgency))


def _urgency(latch: LatchSnapshot) -> tuple[bool, float, float, int]:
    return not latch.purpose, -latch.wanted_s, -latch.age_s, latch.shard


def _of_latch(shard: Shard, now: float) -> LatchSnapshot:
    oldest = oldest_of(holders_of(shard.activations.values()))
    return _of_holder(shard, shard.state.value, oldest, now)


def _of_holder(shard: Shard, state: str, oldest: Holder | None, now: float) -> LatchSnapshot:
    writer, call = shard.writer, oldest.turn.call if oldest is not None else None
    return LatchSnapshot(
        shard=shard.number,
        epoch=shard.epoch,
        state=state,
        purpose=writer.purpose.value if writer is not None else "",
        waits_s=now - writer.since if writer is not None else 0.0,
        wanted_s=now - writer.wanted_at if writer is not None else 0.0,
        sealed=writer is not None and writer.sealed,
        holders=shard.holders,
        held=shard.held,
        object=f"{call.type}/{call.id}" if call is not None else "",
        method=oldest.method if oldest is not None else "",
        call_id=call.call_id if call is not None else "",
        age_s=now - oldest.since if oldest is not None else 0.0,
    )
