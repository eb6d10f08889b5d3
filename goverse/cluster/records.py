"""What the coordinator's values say, and their JSON.

Members of different versions read each other's values: unknown fields are ignored, and fields
that are added have defaults. A value that cannot be read raises `BadValue`, which names the key
and the fault; who reads many of them logs it and goes on as if the key were absent.
"""

from __future__ import annotations

import enum
from dataclasses import dataclass
from math import isfinite
from typing import Any, TypeVar

import msgspec

from goverse.coordination.api import KeyValue
from goverse.ids import NUM_SLOTS, Epoch, MemberId, check_member_name
from goverse.sharding import Cordon

T = TypeVar("T")


class BadValue(ValueError):
    """A key's value, or its name, is not what belongs there."""


class Kind(enum.Enum):
    NODE = "node"
    GATE = "gate"


class MemberState(enum.Enum):
    """Only an active node is given shards."""

    ACTIVE = "active"
    DRAINING = "draining"
    """An operator empties it."""
    LEAVING = "leaving"
    """It is about to end."""


class Layout(msgspec.Struct, frozen=True):
    """The one truth about the cluster's shape.

    :param generation: counts histories of the coordinator; the high part of every epoch.
    :param next: number of shards that the cluster is on its way to; None at rest.
    """

    cluster_id: str
    generation: int
    num_shards: int
    next: int | None = None


class MemberValue(msgspec.Struct, frozen=True):
    incarnation: str
    address: str
    ops_address: str = ""
    weight: float = 1.0
    version: str = ""
    state: MemberState = MemberState.ACTIVE
    generation: int = 1
    capacity: float | None = None
    """Members of earlier versions do not say it. ``weight`` says what they all understand."""


class TargetValue(msgspec.Struct, frozen=True):
    node: str


class ClaimValue(msgspec.Struct, frozen=True):
    node: str
    incarnation: str
    generation: int


class LeaderValue(msgspec.Struct, frozen=True):
    node: str
    incarnation: str


class PinValue(msgspec.Struct, frozen=True):
    node: str


class RestartValue(msgspec.Struct, frozen=True):
    incarnation: str


class CordonValue(msgspec.Struct, frozen=True):
    """An operator's word about a node of that name, whichever process bears it."""

    cordon: Cordon


@dataclass(frozen=True, slots=True)
class MemberRecord:
    """One registered member. ``create_revision`` is the epoch of objects named after the node."""

    member: MemberId
    kind: Kind
    address: str
    ops_address: str
    weight: float
    version: str
    state: MemberState
    generation: int
    lease: int
    create_revision: int
    capacity: float | None = None

    @property
    def epoch(self) -> Epoch:
        return Epoch(self.generation, self.create_revision)


@dataclass(frozen=True, slots=True)
class Target:
    node: str
    mod_revision: int


@dataclass(frozen=True, slots=True)
class Claim:
    member: MemberId
    generation: int
    create_revision: int
    lease: int

    @property
    def epoch(self) -> Epoch:
        return Epoch(self.generation, self.create_revision)


@dataclass(frozen=True, slots=True)
class Leader:
    member: MemberId
    lease: int


@dataclass(frozen=True, slots=True)
class Owner:
    """Who may run the objects of a shard: the holder of its claim."""

    member: MemberId
    address: str
    epoch: Epoch


_decoders: dict[type[Any], msgspec.json.Decoder[Any]] = {
    kind: msgspec.json.Decoder(kind)
    for kind in (
        Layout,
        MemberValue,
        TargetValue,
        ClaimValue,
        LeaderValue,
        PinValue,
        RestartValue,
        CordonValue,
    )
}
_encoder = msgspec.json.Encoder()


def encode(value: msgspec.Struct) -> bytes:
    return _encoder.encode(value)


def decode(item: KeyValue, kind: type[T]) -> T:
    """The value of ``item``. Raises BadValue."""
    try:
        return _decoders[kind].decode(item.value)  # type: ignore[no-any-return]
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise BadValue(f"{item.key}: {error}; the value is {item.value[:80]!r}") from None


def decode_layout(item: KeyValue) -> Layout:
    layout = decode(item, Layout)
    if layout.num_shards not in _SHARD_COUNTS:
        raise BadValue(
            f"{item.key}: num_shards is {layout.num_shards}, "
            f"it must be a power of two up to {NUM_SLOTS}"
        )
    if layout.generation < 1:
        raise BadValue(f"{item.key}: generation is {layout.generation}, it must be 1 or more")
    return layout


def decode_member(item: KeyValue, kind: Kind, name: str) -> MemberRecord:
    value = decode(item, MemberValue)
    if not (isfinite(value.weight) and value.weight >= 0):
        raise BadValue(f"{item.key}: weight is {value.weight}, it must be 0 or more")
    if value.capacity is not None and not (isfinite(value.capacity) and value.capacity >= 0):
        raise BadValue(f"{item.key}: capacity is {value.capacity}, it must be 0 or more")
    try:
        check_member_name(name)
    except ValueError as error:
        raise BadValue(f"{item.key}: {error}") from None
    return MemberRecord(
        MemberId(name, value.incarnation),
        kind,
        value.address,
        value.ops_address,
        value.weight,
        value.version,
        value.state,
        value.generation,
        item.lease,
        item.create_revision,
        value.capacity,
    )


def shard_number(item_key: str, name: str) -> int:
    """The shard in a key's name. Raises BadValue: ``07`` would be a second name of 7."""
    if name.isascii() and name.isdigit() and len(name) <= 5 and (name == "0" or name[0] != "0"):
        shard = int(name)
        if shard < NUM_SLOTS:
            return shard
    raise BadValue(f"{item_key}: {name[:32]!r} is not the number of a shard")


def is_shard_count(number: int) -> bool:
    return number in _SHARD_COUNTS


_SHARD_COUNTS = tuple(2**power for power in range(17))
