"""What `check` finds in the keys of etcd alone. Pure."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from goverse.cluster.records import MemberState
from goverse.cluster.state import ClusterState
from goverse_cli.doctor import FAIL, MAX_NAMED, OK, WARN, Finding, names


def check_state(state: ClusterState) -> Iterator[Finding]:
    """Everything that etcd alone can tell."""
    yield from _layout(state)
    yield from _members(state)
    yield from _leader(state)
    yield from _claims(state)
    yield from _targets(state)
    yield from _pins(state)


def _layout(state: ClusterState) -> Iterator[Finding]:
    layout = state.layout
    if layout is None:
        yield Finding(
            check="layout",
            level=FAIL,
            message="no cluster is laid out under this prefix",
            hint="start a node, which does that, or give the cluster's --etcd-prefix",
        )
        return
    text = (
        f"cluster {layout.cluster_id}, generation {layout.generation}, {layout.num_shards} shards"
    )
    if layout.next is not None:
        yield Finding(
            check="layout",
            level=WARN,
            message=f"{text}, on its way to {layout.next}",
            hint="wait until the change is over",
        )
    else:
        yield Finding(check="layout", level=OK, message=text)
    old = [m.member.name for m in state.members() if m.generation != layout.generation]
    if old:
        yield Finding(
            check="layout",
            level=FAIL,
            message=f"registered under another generation than {layout.generation}: {names(old)}",
            hint="restart them: their epochs cannot be compared with the others'",
        )


def _members(state: ClusterState) -> Iterator[Finding]:
    if not state.nodes:
        yield Finding(
            check="members",
            level=FAIL,
            message="no node is registered",
            hint="start one: goverse-node serve, or goverse-cli dev app.py",
        )
    else:
        level, hint = (OK, "") if state.gates else (WARN, "start one: goverse-gate serve")
        yield Finding(
            check="members",
            level=level,
            message=f"registered: nodes {len(state.nodes)}, gates {len(state.gates)}",
            hint=hint,
        )
    versions: dict[str, list[str]] = {}
    for record in state.members():
        versions.setdefault(record.version or "unknown", []).append(record.member.name)
    if len(versions) > 1:
        told = "; ".join(f"{name}: {names(of)}" for name, of in sorted(versions.items()))
        yield Finding(
            check="versions",
            level=WARN,
            message=f"the processes have different versions: {told}",
            hint="normal during a rolling upgrade; finish it",
        )
    elif versions:
        yield Finding(
            check="versions", level=OK, message=f"all processes have {next(iter(versions))}"
        )
    leaving = [r.member.name for r in state.nodes.values() if r.state is not MemberState.ACTIVE]
    if leaving:
        yield Finding(
            check="members",
            level=WARN,
            message=f"not active, given no shards: {names(leaving)}",
            hint="see: goverse-cli node list",
        )
    if state.cordons:
        yield Finding(
            check="members",
            level=WARN,
            message=f"given no shards, as an operator said: {names(sorted(state.cordons))}",
            hint="when they are to have shards again: goverse-cli node uncordon NAME",
        )


def _leader(state: ClusterState) -> Iterator[Finding]:
    leader = state.leader
    if leader is None:
        if state.nodes:
            yield Finding(
                check="leader",
                level=FAIL,
                message="no node leads: shards are not moved",
                hint="if it stays so for longer than the lease, look at the nodes' logs",
            )
        return
    record = state.nodes.get(leader.member.name)
    if record is None or record.member != leader.member or record.lease != leader.lease:
        yield Finding(
            check="leader",
            level=FAIL,
            message=f"the leader's key names {leader.member}, which is not registered so",
            hint="it goes with its lease; if it stays, look at that node's log",
        )
    else:
        yield Finding(check="leader", level=OK, message=f"{leader.member.name} leads")


def _claims(state: ClusterState) -> Iterator[Finding]:
    if state.layout is None:
        return
    orphaned, wrong_lease = [], []
    for shard, claim in sorted(state.claims.items()):
        record = state.nodes.get(claim.member.name)
        if record is None or record.member != claim.member:
            orphaned.append(shard)
        elif record.lease != claim.lease:
            wrong_lease.append(shard)
    if orphaned:
        yield Finding(
            check="claims",
            level=FAIL,
            message=f"claimed by nodes that are not registered: {_shards(orphaned)}",
            hint="they go with their owner's lease; if they stay, that process still renews it: "
            "look for it, or restart it",
        )
    if wrong_lease:
        yield Finding(
            check="leases",
            level=FAIL,
            message=f"bound to another lease than their owner's registration: "
            f"{_shards(wrong_lease)}",
            hint="restart the owner",
        )
    total = state.layout.num_shards
    missing = [shard for shard in range(total) if shard not in state.owners]
    if missing:
        yield Finding(
            check="claims",
            level=WARN,
            message=f"without owner: {_shards(missing)}; calls to their objects wait",
            hint="normal for seconds after a change; if it stays: goverse-cli status",
        )
    elif not orphaned and not wrong_lease:
        yield Finding(check="claims", level=OK, message=f"all {total} shards have an owner")
    beyond = [shard for shard in state.claims if shard >= total]
    if beyond:
        yield Finding(
            check="claims",
            level=FAIL,
            message=f"claims beyond the layout's {total} shards: {_shards(sorted(beyond))}",
            hint="a process follows another layout: restart the owners",
        )


def _targets(state: ClusterState) -> Iterator[Finding]:
    dead = sorted(
        shard
        for shard, target in state.targets.items()
        if target.node not in state.nodes and target.node not in state.restarts
    )
    if dead:
        yield Finding(
            check="targets",
            level=WARN if state.leader is not None else FAIL,
            message=f"targeted at nodes that are not registered: {_shards(dead)}",
            hint="the leader plans them anew once the nodes are stable; if it stays: "
            "goverse-cli status",
        )
    else:
        yield Finding(check="targets", level=OK, message="all targets are registered nodes")
    moving = sorted(
        shard
        for shard, owner in state.owners.items()
        if shard in state.targets and state.targets[shard].node != owner.member.name
    )
    if moving:
        yield Finding(
            check="targets",
            level=WARN,
            message=f"owned elsewhere than they should be: {_shards(moving)}",
            hint="normal while shards move; a long turn keeps its owner from letting go",
        )
    if state.restarts:
        yield Finding(
            check="targets",
            level=OK,
            message=f"kept for nodes that restart: {names(sorted(state.restarts))}",
        )


def _pins(state: ClusterState) -> Iterator[Finding]:
    away = sorted(shard for shard, node in state.pins.items() if node not in state.nodes)
    if away:
        yield Finding(
            check="pins",
            level=WARN,
            message=f"pinned to nodes that are away: {_shards(away)}",
            hint="bring the node back, or: goverse-cli shard unpin N",
        )


def _shards(numbers: Sequence[int]) -> str:
    named = ", ".join(map(str, numbers[:MAX_NAMED]))
    more = len(numbers) - MAX_NAMED
    return f"shard {named}" + (f" and {more} more" if more > 0 else "")
