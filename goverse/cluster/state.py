"""What the coordinator says about the cluster at one revision. Synchronous, no I/O.

`apply` takes one revision whole: nobody sees a member without its claims, or half of a batch.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import TypeVar

from goverse.cluster.keys import Keys
from goverse.cluster.records import (
    BadValue,
    Claim,
    ClaimValue,
    CordonValue,
    Kind,
    Layout,
    Leader,
    LeaderValue,
    MemberRecord,
    Owner,
    PinValue,
    RestartValue,
    Target,
    TargetValue,
    decode,
    decode_layout,
    decode_member,
    shard_number,
)
from goverse.coordination.api import Changes, KeyValue, Snapshot
from goverse.ids import Epoch, MemberId
from goverse.sharding import Cordon

log = logging.getLogger(__name__)
T = TypeVar("T")
U = TypeVar("U")


@dataclass(frozen=True, slots=True)
class ViewChange:
    """What one step of the view changed.

    :param shards: shards whose target, claim or pin changed.
    :param owners: shards whose owner changed.
    :param nodes: whether a node came, went, or changed its weight or state.
    :param cordons: whether an operator cordoned a node, drains one, or took that back.
    :param gone: members whose key went.
    :param replaced: the whole state was listed anew.
    :param lost_history: and at a lower revision than was seen before.
    """

    revision: int
    shards: tuple[int, ...] = ()
    owners: tuple[int, ...] = ()
    nodes: bool = False
    layout: bool = False
    leader: bool = False
    restarts: bool = False
    cordons: bool = False
    gone: tuple[MemberId, ...] = ()
    replaced: bool = False
    lost_history: bool = False


@dataclass
class _Touched:
    """Collected while one revision is applied."""

    shards: dict[int, None] = field(default_factory=dict)
    claims: dict[int, Claim | None] = field(default_factory=dict)
    """As they were before."""
    members: dict[tuple[Kind, str], MemberRecord | None] = field(default_factory=dict)
    layout: bool = False
    leader: bool = False
    restarts: bool = False
    cordons: bool = False


class ClusterState:
    """Tables by name and by shard. Read freely, changed only by `apply`."""

    def __init__(self, keys: Keys) -> None:
        self._keys = keys
        self.revision = 0
        self.layout: Layout | None = None
        self.layout_revision = 0
        self.nodes: dict[str, MemberRecord] = {}
        self.gates: dict[str, MemberRecord] = {}
        self.leader: Leader | None = None
        self.targets: dict[int, Target] = {}
        self.claims: dict[int, Claim] = {}
        self.owners: dict[int, Owner] = {}
        self.pins: dict[int, str] = {}
        self.restarts: dict[str, str] = {}
        #: By the name of a node, which may be away.
        self.cordons: dict[str, Cordon] = {}
        #: Shards whose last claim was seen to go while its owner's key stood, and its epoch: it was
        #: given up in an orderly way. Of any other nothing is known.
        self.released: dict[int, Epoch] = {}
        self._touched = _Touched()

    def apply(self, changes: Changes) -> ViewChange:
        """Take one revision."""
        touched = self._touched = _Touched()
        self._take(changes.items)
        self.revision = changes.revision
        nodes = any(
            kind is Kind.NODE and self.nodes.get(name) != old
            for (kind, name), old in touched.members.items()
        )
        # A node's claims are owned through its record: when it changes, so do they.
        claims = dict.fromkeys([*touched.claims, *(self.claims if nodes else ())])
        self._note_releases(touched.claims)
        return ViewChange(
            changes.revision,
            shards=tuple(touched.shards),
            owners=self._settle_owners(tuple(claims)),
            nodes=nodes,
            layout=touched.layout,
            leader=touched.leader,
            restarts=touched.restarts,
            cordons=touched.cordons,
            gone=self._gone([old for old in touched.members.values() if old is not None]),
        )

    def replaced_by(self, snapshot: Snapshot) -> tuple[ClusterState, ViewChange]:
        """A new state made of ``snapshot``, and how it differs from this one."""
        fresh = ClusterState(self._keys)
        fresh._take(snapshot.items)
        fresh.revision = snapshot.revision
        fresh._settle_owners(tuple(fresh.claims))
        shards = dict.fromkeys([*self.targets, *self.claims, *self.pins])
        shards |= dict.fromkeys([*fresh.targets, *fresh.claims, *fresh.pins])
        change = ViewChange(
            snapshot.revision,
            shards=tuple(shards),
            owners=tuple(s for s in shards if self.owners.get(s) != fresh.owners.get(s)),
            nodes=self.nodes != fresh.nodes,
            layout=self.layout != fresh.layout or self.layout_revision != fresh.layout_revision,
            leader=self.leader != fresh.leader,
            restarts=self.restarts != fresh.restarts,
            cordons=self.cordons != fresh.cordons,
            gone=fresh._gone(self.members()),
            replaced=True,
            lost_history=snapshot.revision < self.revision,
        )
        return fresh, change

    def members(self) -> tuple[MemberRecord, ...]:
        return (*self.nodes.values(), *self.gates.values())

    def weights(self) -> dict[str, float]:
        """Every node's share of the shards, relative to the others.

        Nodes of an earlier version say a weight and no capacity, and the two do not compare: as
        long as one of them is there, the weights count, which all of them say.
        """
        capacities = {name: node.capacity for name, node in self.nodes.items()}
        return {
            name: node.weight if None in capacities.values() else capacities[name] or 0.0
            for name, node in self.nodes.items()
        }

    def _gone(self, before: Iterable[MemberRecord]) -> tuple[MemberId, ...]:
        """Members of ``before`` whose very key is not there any more."""
        found = []
        for old in before:
            table = self.nodes if old.kind is Kind.NODE else self.gates
            new = table.get(old.member.name)
            if new is None or new.create_revision != old.create_revision:
                found.append(old.member)
        return tuple(found)

    def _take(self, items: Mapping[str, KeyValue | None]) -> None:
        for key, item in items.items():
            folder, name = self._keys.parse(key)
            try:
                self._take_one(folder, name, item)
            except BadValue as error:
                log.error("ignored a value in the coordinator that cannot be right: %s", error)
                self._take_one(folder, name, None)

    def _take_one(self, folder: str, name: str, item: KeyValue | None) -> None:
        """Take one key; None: it is absent. Raises BadValue, and then nothing has changed."""
        if folder == "claims":
            self._take_claim(name, item)
        elif folder == "shards":
            self._take_target(name, item)
        elif folder == "nodes":
            self._take_member(self.nodes, Kind.NODE, name, item)
        elif folder == "gates":
            self._take_member(self.gates, Kind.GATE, name, item)
        elif folder == "pins":
            self._take_pin(name, item)
        elif folder == "restarts":
            restart = None if item is None else decode(item, RestartValue).incarnation
            _set(self.restarts, name, restart)
            self._touched.restarts = True
        elif folder == "cordons":
            _set(self.cordons, name, None if item is None else decode(item, CordonValue).cordon)
            self._touched.cordons = True
        elif folder == "leader" and not name:
            self._take_leader(item)
        elif folder == "layout" and not name:
            self.layout = decode_layout(item) if item is not None else None
            self.layout_revision = item.mod_revision if item is not None else 0
            self._touched.layout = True
        # Anything else belongs to versions or features that this class need not know.

    def _take_claim(self, name: str, item: KeyValue | None) -> None:
        shard = _shard(name, item)
        if shard is None:
            return
        claim = None
        if item is not None:
            value = decode(item, ClaimValue)
            member = MemberId(value.node, value.incarnation)
            claim = Claim(member, value.generation, item.create_revision, item.lease)
        self._touched.claims.setdefault(shard, self.claims.get(shard))
        _set(self.claims, shard, claim)
        self._touched.shards[shard] = None

    def _take_target(self, name: str, item: KeyValue | None) -> None:
        shard = _shard(name, item)
        if shard is None:
            return
        target = None
        if item is not None:
            target = Target(decode(item, TargetValue).node, item.mod_revision)
        _set(self.targets, shard, target)
        self._touched.shards[shard] = None

    def _take_pin(self, name: str, item: KeyValue | None) -> None:
        shard = _shard(name, item)
        if shard is None:
            return
        _set(self.pins, shard, None if item is None else decode(item, PinValue).node)
        self._touched.shards[shard] = None

    def _take_member(
        self, table: dict[str, MemberRecord], kind: Kind, name: str, item: KeyValue | None
    ) -> None:
        record = None if item is None else decode_member(item, kind, name)
        self._touched.members.setdefault((kind, name), table.get(name))
        _set(table, name, record)

    def _take_leader(self, item: KeyValue | None) -> None:
        leader = None
        if item is not None:
            value = decode(item, LeaderValue)
            leader = Leader(MemberId(value.node, value.incarnation), item.lease)
        self.leader = leader
        self._touched.leader = True

    def _note_releases(self, before: Mapping[int, Claim | None]) -> None:
        for shard, old in before.items():
            if old is None or shard in self.claims:
                continue
            record = self.nodes.get(old.member.name)
            if record is not None and record.member == old.member:
                self.released[shard] = old.epoch
            else:
                self.released.pop(shard, None)

    def _settle_owners(self, shards: tuple[int, ...]) -> tuple[int, ...]:
        """Work out who owns ``shards``; returns those whose owner changed."""
        changed = []
        for shard in shards:
            claim = self.claims.get(shard)
            record = self.nodes.get(claim.member.name) if claim is not None else None
            owner = None
            if claim is not None and record is not None and record.member == claim.member:
                owner = Owner(record.member, record.address, claim.epoch)
            if owner != self.owners.get(shard):
                _set(self.owners, shard, owner)
                changed.append(shard)
        return tuple(changed)


def _shard(name: str, item: KeyValue | None) -> int | None:
    """The shard that a key names; None for the deletion of a key that never named one."""
    try:
        return shard_number(item.key if item is not None else name, name)
    except BadValue:
        if item is None:
            return None
        raise


def _set(table: dict[T, U], key: T, value: U | None) -> None:
    if value is None:
        table.pop(key, None)
    else:
        table[key] = value
