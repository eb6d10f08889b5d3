"""What a catalog shows of itself: frozen values for the admin API, the CLI and tests."""

from __future__ import annotations

from dataclasses import dataclass

from goverse.ids import Epoch
from goverse.objects.activation import DEACTIVATING, Activation
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
    busy: int
    held: int


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
        busy=shard.busy,
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
    return f"draining: {shard.busy} turns have not ended{held}"
