"""From what the coordinator says to what operators see. Pure: a state in, models out.

The CLI uses it too, on a state that it listed itself, when no node answers.
"""

from __future__ import annotations

import dataclasses
from collections import Counter
from collections.abc import Callable, Iterator

from goverse.admin.api import (
    DEFAULT_SHARDS,
    MAX_SHARDS,
    ClusterStatus,
    Location,
    Member,
    MemberList,
    Shard,
    ShardCounts,
    ShardPage,
    Warning,
)
from goverse.cluster.records import Layout, MemberRecord
from goverse.cluster.state import ClusterState
from goverse.errors import InvalidArgument, NotFound, Unavailable
from goverse.ids import check_id, check_type
from goverse.sharding.placement import NODE_SHARD, node_of, shard_of, slot_of

STATES = ("owned", "migrating", "unclaimed", "unassigned")

_MAX_WARNED_SHARDS = 10


def cluster_status(state: ClusterState, *, source: str, current: bool) -> ClusterStatus:
    """
    :param source: who answers: a node's name, or etcd.
    :param current: whether the coordinator was heard of lately.
    """
    layout = layout_of(state)
    shards = [_shard(state, number) for number in range(layout.num_shards)]
    states = Counter(shard.state for shard in shards)
    return ClusterStatus(
        cluster_id=layout.cluster_id,
        generation=layout.generation,
        num_shards=layout.num_shards,
        revision=state.revision,
        current=current,
        leader=_leader(state),
        source=source,
        nodes=_nodes(state),
        gates=_gates(state),
        shards=ShardCounts(
            total=len(shards),
            claimed=len(state.owners),
            pinned=len(state.pins),
            owned=states["owned"],
            migrating=states["migrating"],
            unclaimed=states["unclaimed"],
            unassigned=states["unassigned"],
        ),
        warnings=tuple(_warnings(state, shards, current)),
    )


def node_list(state: ClusterState) -> MemberList:
    return MemberList(members=_nodes(state))


def gate_list(state: ClusterState) -> MemberList:
    return MemberList(members=_gates(state))


def one_shard(state: ClusterState, number: int) -> Shard:
    check_shard(state, number)
    return _shard(state, number)


def shard_page(
    state: ClusterState,
    *,
    node: str = "",
    shard_state: str = "",
    page_size: int = 0,
    page_token: str = "",
) -> ShardPage:
    """Shards by number, those that concern ``node`` and are in ``shard_state`` only."""
    if shard_state not in ("", "pinned", *STATES):
        raise InvalidArgument(f"state {shard_state!r} must be one of: {', '.join(STATES)}, pinned")
    if page_token and not (page_token.isascii() and page_token.isdigit()):
        raise InvalidArgument("page_token does not come from this service")
    size = bounded_page(page_size, DEFAULT_SHARDS, MAX_SHARDS)
    found: list[Shard] = []
    for number in range(int(page_token or 0), layout_of(state).num_shards):
        shard = _shard(state, number)
        if node and node not in (shard.owner, shard.target, shard.pinned_node):
            continue
        if shard_state and not _in_state(shard, shard_state):
            continue
        if len(found) == size:
            return ShardPage(shards=tuple(found), next_page_token=str(number))
        found.append(shard)
    return ShardPage(shards=tuple(found))


def _in_state(shard: Shard, wanted: str) -> bool:
    return shard.pinned if wanted == "pinned" else shard.state == wanted


def location(state: ClusterState, type: str, id: str) -> Location:
    """Where an object lives. Raises InvalidArgument for what cannot be an object."""
    num_shards = layout_of(state).num_shards
    try:
        check_type(type)
        shard = shard_of(check_id(id), num_shards)
        if shard == NODE_SHARD:
            record = state.nodes.get(node_of(id))
            if record is None:
                return Location(type=type, id=id)
            return Location(
                type=type,
                id=id,
                owner=record.member.name,
                owner_address=record.address,
                epoch=str(record.epoch),
            )
        slot = slot_of(id)
    except ValueError as error:
        raise InvalidArgument(str(error)) from None
    found = _shard(state, shard)
    return Location(
        type=type,
        id=id,
        slot=slot,
        shard=shard,
        owner=found.owner,
        owner_address=found.owner_address,
        epoch=found.epoch,
    )


def check_shard(state: ClusterState, number: int) -> None:
    most = layout_of(state).num_shards - 1
    if not 0 <= number <= most:
        raise NotFound(f"shard {number} does not exist; there are 0 to {most}")


def bounded_page(asked: int, default: int, most: int) -> int:
    if asked < 0:
        raise InvalidArgument("page_size must not be negative")
    return min(asked or default, most)


def layout_of(state: ClusterState) -> Layout:
    if state.layout is None:
        raise Unavailable("no cluster is laid out yet: a node does that when it first starts")
    return state.layout


def _leader(state: ClusterState) -> str:
    return state.leader.member.name if state.leader is not None else ""


def _shard(state: ClusterState, number: int) -> Shard:
    owner, target = state.owners.get(number), state.targets.get(number)
    pin = state.pins.get(number, "")
    name = owner.member.name if owner is not None else ""
    targeted = target.node if target is not None else ""
    if owner is None:
        condition = "unclaimed" if targeted else "unassigned"
    else:
        condition = "owned" if name == targeted else "migrating"
    return Shard(
        shard=number,
        state=condition,
        target=targeted,
        owner=name,
        owner_address=owner.address if owner is not None else "",
        epoch=str(owner.epoch) if owner is not None else "",
        pinned=bool(pin),
        pinned_node=pin,
        failed_over=bool(pin) and pin not in state.nodes,
    )


def _nodes(state: ClusterState) -> tuple[Member, ...]:
    claimed = Counter(owner.member.name for owner in state.owners.values())
    targeted = Counter(target.node for target in state.targets.values())
    leader = _leader(state)
    return tuple(
        dataclasses.replace(
            _member(record),
            leader=name == leader,
            claimed=claimed[name],
            targeted=targeted[name],
        )
        for name, record in sorted(state.nodes.items())
    )


def _gates(state: ClusterState) -> tuple[Member, ...]:
    return tuple(_member(record) for _, record in sorted(state.gates.items()))


def _member(record: MemberRecord) -> Member:
    return Member(
        name=record.member.name,
        incarnation=record.member.incarnation,
        kind=record.kind.value,
        address=record.address,
        ops_address=record.ops_address,
        weight=record.weight,
        version=record.version,
        state=record.state.value,
    )


def _warnings(state: ClusterState, shards: list[Shard], current: bool) -> Iterator[Warning]:
    if not current:
        yield Warning(
            code="stale_view",
            message="the coordinator has been silent: this may be old; check that etcd is up",
        )
    if not state.nodes:
        yield Warning(code="no_nodes", message="no node is registered; start one")
    elif state.leader is None:
        yield Warning(
            code="no_leader", message="no node leads: targets do not change until one does"
        )
    yield from _about(
        shards,
        "pin_failed_over",
        lambda shard: shard.failed_over,
        "pinned to a node that is away: elsewhere until it returns",
    )
    yield from _about(
        shards,
        "shards_without_owner",
        lambda shard: not shard.owner,
        "without owner: calls to their objects wait (for seconds after a change that is normal)",
    )
    yield from _about(
        shards,
        "shards_migrating",
        lambda shard: shard.state == "migrating",
        "owned elsewhere than they should be: a long turn may keep the owner from letting go",
    )


def _about(
    shards: list[Shard], code: str, concerns: Callable[[Shard], bool], what: str
) -> Iterator[Warning]:
    found = [shard.shard for shard in shards if concerns(shard)]
    if found:
        yield Warning(
            code=code,
            message=f"{len(found)} shard{'s' if len(found) > 1 else ''} {what}",
            shards=tuple(found[:_MAX_WARNED_SHARDS]),
        )
