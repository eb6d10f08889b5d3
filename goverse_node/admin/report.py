"""From what the coordinator says to what operators see. Pure: a state in, models out.

The CLI uses it too, on a state that it listed itself, when no node answers.
"""

from __future__ import annotations

import dataclasses
from collections import Counter
from collections.abc import Iterator

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
from goverse.cluster.records import Layout, MemberRecord, MemberState
from goverse.cluster.state import ClusterState
from goverse.errors import InvalidArgument, NotFound, Unavailable
from goverse.ids import check_id, check_type
from goverse.sharding import Cordon
from goverse.sharding.placement import NODE_SHARD, node_of, shard_of, slot_of

STATES = ("owned", "migrating", "unclaimed", "unassigned")

_MAX_WARNED_SHARDS = 10
_MAX_WARNED_NODES = 10


def cluster_status(state: ClusterState, *, source: str, current: bool) -> ClusterStatus:
    """
    :param source: who answers: a node's name, or etcd.
    :param current: whether the coordinator was heard of lately.
    """
    layout = layout_of(state)
    by_state = _by_state(state, layout.num_shards)
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
            total=layout.num_shards,
            claimed=len(state.owners),
            pinned=len(state.pins),
            owned=len(by_state["owned"]),
            migrating=len(by_state["migrating"]),
            unclaimed=len(by_state["unclaimed"]),
            unassigned=len(by_state["unassigned"]),
        ),
        warnings=tuple(_warnings(state, by_state, current)),
    )


def node_list(state: ClusterState) -> MemberList:
    return MemberList(members=_nodes(state))


def gate_list(state: ClusterState) -> MemberList:
    return MemberList(members=_gates(state))


def one_node(state: ClusterState, name: str) -> Member:
    """The node, or what is known of one that is away: nothing but its name."""
    return next((node for node in _nodes(state) if node.name == name), Member(name=name))


def takers(state: ClusterState, *, apart_from: str) -> tuple[str, ...]:
    """Other nodes that are given shards."""
    return tuple(
        name
        for name, record in state.nodes.items()
        if name != apart_from
        and record.state is MemberState.ACTIVE
        and state.cordons.get(name) is None
        and record.weight > 0
    )


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


def _by_state(state: ClusterState, num_shards: int) -> dict[str, list[int]]:
    """The numbers of all shards. The event loop waits for this: no object per shard is made."""
    found: dict[str, list[int]] = {condition: [] for condition in STATES}
    for number in range(num_shards):
        found[_condition(state, number)].append(number)
    return found


def _condition(state: ClusterState, number: int) -> str:
    """One of `STATES`."""
    owner, target = state.owners.get(number), state.targets.get(number)
    if owner is None:
        return "unassigned" if target is None else "unclaimed"
    return "owned" if target is not None and owner.member.name == target.node else "migrating"


def _shard(state: ClusterState, number: int) -> Shard:
    owner, target = state.owners.get(number), state.targets.get(number)
    pin = state.pins.get(number, "")
    return Shard(
        shard=number,
        state=_condition(state, number),
        target=target.node if target is not None else "",
        owner=owner.member.name if owner is not None else "",
        owner_address=owner.address if owner is not None else "",
        epoch=str(owner.epoch) if owner is not None else "",
        pinned=bool(pin),
        pinned_node=pin,
        failed_over=bool(pin) and pin not in state.nodes,
    )


def _nodes(state: ClusterState) -> tuple[Member, ...]:
    claimed = Counter(owner.member.name for owner in state.owners.values())
    targeted = Counter(target.node for target in state.targets.values())
    leader, weights = _leader(state), state.weights()
    return tuple(
        dataclasses.replace(
            _member(record),
            weight=weights[name],
            state=_state_of(record, state.cordons.get(name), claimed[name] + targeted[name]),
            leader=name == leader,
            claimed=claimed[name],
            targeted=targeted[name],
        )
        for name, record in sorted(state.nodes.items())
    )


def _state_of(record: MemberRecord, cordon: Cordon | None, shards: int) -> str:
    if record.state is not MemberState.ACTIVE or cordon is None:
        return record.state.value
    return "drained" if cordon is Cordon.DRAINING and not shards else cordon.value


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


def _warnings(
    state: ClusterState, by_state: dict[str, list[int]], current: bool
) -> Iterator[Warning]:
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
    if state.cordons:
        told = ", ".join(
            f"{name} {cordon.value}" + ("" if name in state.nodes else " (away)")
            for name, cordon in sorted(state.cordons.items())[:_MAX_WARNED_NODES]
        )
        more = len(state.cordons) - _MAX_WARNED_NODES
        yield Warning(
            code="node_cordoned",
            message=f"{told}{f' and {more} more' if more > 0 else ''}: given no shards until "
            "goverse-cli node uncordon",
        )
    yield from _about(
        sorted(number for number, node in state.pins.items() if node not in state.nodes),
        "pin_failed_over",
        "pinned to a node that is away: elsewhere until it returns",
    )
    yield from _about(
        sorted([*by_state["unclaimed"], *by_state["unassigned"]]),
        "shards_without_owner",
        "without owner: calls to their objects wait (for seconds after a change that is normal)",
    )
    yield from _about(
        by_state["migrating"],
        "shards_migrating",
        "owned elsewhere than they should be: a long turn may keep the owner from letting go",
    )


def _about(shards: list[int], code: str, what: str) -> Iterator[Warning]:
    if shards:
        yield Warning(
            code=code,
            message=f"{len(shards)} shard{'s' if len(shards) > 1 else ''} {what}",
            shards=tuple(shards[:_MAX_WARNED_SHARDS]),
        )
