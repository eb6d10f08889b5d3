"""From the cluster view to what operators see. Pure: a view in, a model of `goverse.admin` out.

The CLI uses it too, on a view of its own, when no node answers.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from typing import Any, Protocol

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
from goverse.errors import InvalidArgument, NotFound, Unavailable
from goverse.ids import Epoch, MemberId, check_id, check_type
from goverse.sharding.placement import NODE_SHARD, slot_of

STATES = ("owned", "migrating", "unclaimed", "unassigned")

_MAX_WARNED_SHARDS = 10


class MemberRecord(Protocol):
    """What a member registered."""

    @property
    def member(self) -> MemberId: ...
    @property
    def address(self) -> str: ...
    @property
    def ops_address(self) -> str: ...
    @property
    def weight(self) -> float: ...
    @property
    def version(self) -> str: ...
    @property
    def state(self) -> Any: ...


class Owner(Protocol):
    @property
    def member(self) -> MemberId: ...
    @property
    def address(self) -> str: ...
    @property
    def epoch(self) -> Epoch: ...


class Layout(Protocol):
    @property
    def cluster_id(self) -> str: ...
    @property
    def generation(self) -> int: ...


class View(Protocol):
    """The part of the cluster view that reports are made of."""

    @property
    def revision(self) -> int: ...
    @property
    def current(self) -> bool: ...
    @property
    def layout(self) -> Layout | None: ...
    @property
    def num_shards(self) -> int: ...
    @property
    def leader(self) -> str: ...
    @property
    def nodes(self) -> Mapping[str, MemberRecord]: ...
    @property
    def gates(self) -> Mapping[str, MemberRecord]: ...
    def target(self, shard: int) -> str:
        """Name of the node that should own ``shard``; empty: none yet."""
        ...

    def pin(self, shard: int) -> str:
        """Name of the node that ``shard`` is pinned to; empty: not pinned."""
        ...

    def owner(self, shard: int) -> Owner | None: ...
    def owner_of_id(self, id: str) -> Owner | None: ...
    def shard_of(self, id: str) -> int: ...


def cluster_status(view: View, *, source: str) -> ClusterStatus:
    shards = [_shard(view, number) for number in range(_num_shards(view))]
    states = Counter(shard.state for shard in shards)
    layout = view.layout
    return ClusterStatus(
        cluster_id=layout.cluster_id if layout is not None else "",
        generation=layout.generation if layout is not None else 0,
        num_shards=len(shards),
        revision=view.revision,
        current=view.current,
        leader=view.leader,
        source=source,
        nodes=_members(view, "node", shards),
        gates=_members(view, "gate", shards),
        shards=ShardCounts(
            total=len(shards),
            claimed=sum(1 for shard in shards if shard.owner),
            pinned=sum(1 for shard in shards if shard.pinned),
            owned=states["owned"],
            migrating=states["migrating"],
            unclaimed=states["unclaimed"],
            unassigned=states["unassigned"],
        ),
        warnings=tuple(_warnings(view, shards)),
    )


def member_list(view: View, kind: str) -> MemberList:
    shards = [_shard(view, number) for number in range(_num_shards(view))]
    return MemberList(members=_members(view, kind, shards))


def one_shard(view: View, number: int) -> Shard:
    check_shard(view, number)
    return _shard(view, number)


def shard_page(
    view: View, *, node: str = "", state: str = "", page_size: int = 0, page_token: str = ""
) -> ShardPage:
    """Shards by number, those that concern ``node`` and are in ``state`` only."""
    if state not in ("", "pinned", *STATES):
        raise InvalidArgument(f"state {state!r} must be one of: {', '.join(STATES)}, pinned")
    if page_token and not (page_token.isascii() and page_token.isdigit()):
        raise InvalidArgument("page_token does not come from this service")
    size = bounded_page(page_size, DEFAULT_SHARDS, MAX_SHARDS)
    found: list[Shard] = []
    for number in range(int(page_token or 0), _num_shards(view)):
        shard = _shard(view, number)
        if node and node not in (shard.owner, shard.target, shard.pinned_node):
            continue
        if state and not (shard.pinned if state == "pinned" else shard.state == state):
            continue
        if len(found) == size:
            return ShardPage(shards=tuple(found), next_page_token=str(number))
        found.append(shard)
    return ShardPage(shards=tuple(found))


def location(view: View, type: str, id: str) -> Location:
    shard, slot = placement(view, type, id)
    owner = view.owner_of_id(id)
    if owner is None:
        return Location(type=type, id=id, slot=slot, shard=shard)
    return Location(
        type=type,
        id=id,
        slot=slot,
        shard=shard,
        owner=owner.member.name,
        owner_address=owner.address,
        epoch=str(owner.epoch),
    )


def placement(view: View, type: str, id: str) -> tuple[int, int]:
    """Shard and slot of an object; raises InvalidArgument for what cannot be an object."""
    _num_shards(view)
    try:
        check_type(type)
        shard = view.shard_of(check_id(id))
        return shard, NODE_SHARD if shard == NODE_SHARD else slot_of(id)
    except ValueError as error:
        raise InvalidArgument(str(error)) from None


def check_shard(view: View, number: int) -> None:
    if not 0 <= number < _num_shards(view):
        raise NotFound(f"shard {number} does not exist; there are 0 to {view.num_shards - 1}")


def bounded_page(asked: int, default: int, most: int) -> int:
    if asked < 0:
        raise InvalidArgument("page_size must not be negative")
    return min(asked or default, most)


def _num_shards(view: View) -> int:
    if view.layout is None:
        raise Unavailable("this node has not seen the cluster's layout yet; try again")
    return view.num_shards


def _shard(view: View, number: int) -> Shard:
    owner, target, pin = view.owner(number), view.target(number), view.pin(number)
    name = owner.member.name if owner is not None else ""
    if owner is None:
        state = "unclaimed" if target else "unassigned"
    else:
        state = "owned" if name == target else "migrating"
    return Shard(
        shard=number,
        state=state,
        target=target,
        owner=name,
        owner_address=owner.address if owner is not None else "",
        epoch=str(owner.epoch) if owner is not None else "",
        pinned=bool(pin),
        pinned_node=pin,
        failed_over=bool(pin) and pin not in view.nodes,
    )


def _members(view: View, kind: str, shards: list[Shard]) -> tuple[Member, ...]:
    claimed = Counter(shard.owner for shard in shards)
    targeted = Counter(shard.target for shard in shards)
    records = view.nodes if kind == "node" else view.gates
    return tuple(
        Member(
            name=name,
            incarnation=record.member.incarnation,
            kind=kind,
            address=record.address,
            ops_address=record.ops_address,
            weight=record.weight,
            version=record.version,
            state=str(getattr(record.state, "value", record.state)),
            leader=kind == "node" and name == view.leader,
            claimed=claimed[name] if kind == "node" else 0,
            targeted=targeted[name] if kind == "node" else 0,
        )
        for name, record in sorted(records.items())
    )


def _warnings(view: View, shards: list[Shard]) -> Iterator[Warning]:
    if not view.current:
        yield Warning(
            code="stale_view",
            message="the coordinator has been silent: this may be old; check that etcd is up",
        )
    if not view.nodes:
        yield Warning(code="no_nodes", message="no node is registered; start one")
    elif not view.leader:
        yield Warning(
            code="no_leader", message="no node leads: targets do not change until one does"
        )
    yield from _about(
        shards,
        "pin_failed_over",
        lambda shard: shard.failed_over,
        "are pinned to a node that is away and live elsewhere until it returns",
    )
    yield from _about(
        shards,
        "shards_without_owner",
        lambda shard: not shard.owner,
        "have no owner: calls to their objects wait (normal for seconds after a change)",
    )
    yield from _about(
        shards,
        "shards_migrating",
        lambda shard: shard.state == "migrating",
        "are owned elsewhere than they should be: a long turn may keep their owner from letting go",
    )


def _about(
    shards: list[Shard], code: str, concerns: Callable[[Shard], bool], what: str
) -> Iterator[Warning]:
    found = [shard.shard for shard in shards if concerns(shard)]
    if found:
        yield Warning(
            code=code,
            message=f"{len(found)} shards {what}" if len(found) > 1 else f"1 shard: {what}",
            shards=tuple(found[:_MAX_WARNED_SHARDS]),
        )
