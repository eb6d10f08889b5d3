"""Joins the admin service to the parts of a running node."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

import msgspec

from goverse.admin.api import (
    ClusterStatus,
    FieldInfo,
    Held,
    MethodInfo,
    ObjectInfo,
    ShardPlan,
    TypeDescriptions,
    TypeInfo,
    Warning,
)
from goverse.admin.client import AdminClient
from goverse.call import CallTarget
from goverse.cluster.admin import cordon_node, pin_shard, uncordon_node, unpin_shard
from goverse.cluster.member import NodeMember
from goverse.cluster.stuck import Step, StuckShard
from goverse.config.settings import LimitSettings
from goverse.coordination.api import Coordinator
from goverse.errors import Executed, Unavailable
from goverse.objects.catalog import Catalog
from goverse.objects.description import TypesDescription
from goverse.sharding import Cordon
from goverse.storage.api import Store
from goverse_node.admin.locks import lock_of
from goverse_node.admin.operations import NodeAdmin, Parts
from goverse_node.admin.plans import shard_plan

#: Longest wait for this node's own view to show a pin that was written.
_SEEN_S = 5.0
MAX_STUCK = 10
_MAX_BUSY = 5


def node_admin(
    name: str,
    member: NodeMember,
    coordinator: Coordinator,
    catalog: Catalog,
    router: CallTarget,
    limits: LimitSettings,
    store: Store | None,
    decommission: Callable[[], None],
) -> NodeAdmin:
    """The `goverse.admin.Admin` of the node called ``name``.

    :param decommission: has this node begin to leave for good.
    """

    async def set_pin(shard: int, node: str | None) -> None:
        if node is None:
            await unpin_shard(coordinator, member.keys, shard)
        else:
            await pin_shard(coordinator, member.keys, shard, node)
        # Who asks this node next shall see it.
        view = member.view
        if not await view.wait_for(lambda: view.state.pins.get(shard) == node, timeout_s=_SEEN_S):
            raise Unavailable(
                "it was written, but this node has not seen it yet", executed=Executed.YES
            )

    async def set_cordon(node: str, cordon: Cordon | None) -> None:
        if cordon is None:
            await uncordon_node(coordinator, member.keys, node)
        else:
            await cordon_node(coordinator, member.keys, node, cordon)
        view = member.view
        if not await view.wait_for(
            lambda: view.state.cordons.get(node) is cordon, timeout_s=_SEEN_S
        ):
            raise Unavailable(
                "it was written, but this node has not seen it yet", executed=Executed.YES
            )

    parts = Parts(
        set_pin=set_pin,
        objects=lambda: _objects(catalog, name),
        router=router,
        peers=AdminClient,
        leading=lambda: _leading(member),
        types=lambda: node_types(catalog.describe()),
        why=lambda shard: _why(member, catalog, shard),
        plan=lambda asked: _plan(member, asked),
        store=store,
        locks=lambda most: [lock_of(latch, name) for latch in catalog.census.latches(most)],
        set_cordon=set_cordon,
        decommission=decommission,
    )
    return NodeAdmin(name, member.view, parts, default_timeout_s=limits.default_call_timeout_s)


def _objects(catalog: Catalog, node: str) -> Iterator[ObjectInfo]:
    for found in catalog.census.objects():
        yield ObjectInfo(
            type=found.type,
            id=found.id,
            node=node,
            shard=found.shard,
            epoch=str(found.epoch),
            state=found.state,
            queued=found.waiting,
            running=found.running,
            idle_s=round(found.idle_s, 3),
        )


def node_types(described: TypesDescription) -> TypeDescriptions:
    """What a node hosts, as operators are told."""
    encode = msgspec.json.encode
    return TypeDescriptions(
        digest=described.digest,
        types=tuple(
            TypeInfo(
                name=name,
                doc=found.doc,
                durability=found.durability,
                concurrent=found.concurrent,
                reentrancy=found.reentrancy,
                idle_timeout_s=found.idle_timeout_s or 0.0,
                fields=tuple(
                    FieldInfo(name=field, schema=encode(schema))
                    for field, schema in found.fields.items()
                ),
                methods=tuple(
                    MethodInfo(
                        name=method,
                        doc=how.doc,
                        read_only=how.read_only,
                        rollback=how.rollback,
                        timeout_s=how.timeout_s or 0.0,
                        arguments=encode(how.arguments),
                        result=encode(how.result),
                    )
                    for method, how in found.methods.items()
                ),
            )
            for name, found in described.types.items()
        ),
    )


def _why(member: NodeMember, catalog: Catalog, shard: int) -> Iterator[str]:
    """What this node knows, as the leader or as the owner, of a shard that is to be elsewhere."""
    yield from member.leadership.why(shard)
    held = [*member.ownership.why(shard)]
    yield from held
    if held:
        if stage := catalog.census.stage(shard):
            yield stage
        busy = [
            found for found in catalog.census.objects() if found.shard == shard and found.running
        ]
        for found in busy[:_MAX_BUSY]:
            yield f"{found.type}/{found.id} runs {found.running} turns, and {found.waiting} wait"


def _plan(member: NodeMember, asked: bool) -> ShardPlan:
    leadership = member.leadership
    found = leadership.rebalance() if asked else leadership.proposal()
    return shard_plan(found, stable=leadership.stable)


def _leading(member: NodeMember) -> ClusterStatus:
    """What the leader knows beyond the view; nothing on a node that does not lead."""
    plan = member.leadership.snapshot()
    if not plan.leading:
        return ClusterStatus()
    stuck = sorted(plan.stuck, key=lambda shard: -shard.age_s)
    return ClusterStatus(
        held=tuple(Held(reason=hold.value, shards=count) for hold, count in plan.held.items()),
        warnings=(
            *map(_shunned, plan.shunned),
            *map(_stuck, stuck[:MAX_STUCK]),
            *_more(stuck[MAX_STUCK:]),
        ),
    )


def _shunned(node: str) -> Warning:
    return Warning(
        code="node_claims_nothing",
        message=f"{node} has not claimed what it was given, and is given no shards for a while "
        f"(cluster.stuck_pause): see its log and its readiness, and restart it",
    )


def _stuck(stuck: StuckShard) -> Warning:
    number = stuck.shard
    next_step = {
        Step.HANDING_OVER: f"to see which turn keeps it: goverse-cli shard get {number}; it goes "
        f"when that ends, or when {stuck.owner} stops",
        Step.CLAIMING: f"see the log and the readiness of {stuck.target}; others get it meanwhile",
        Step.NO_TAKER: f"start {stuck.target}, or another node that takes it; a pin to it is "
        f"removed with: goverse-cli shard unpin {number}",
    }[stuck.step]
    return Warning(
        code="shard_stuck",
        message=f"shard {number} is stuck ({stuck.step.value}): {stuck}. What to do: {next_step}",
        shards=(number,),
    )


def _more(stuck: Sequence[StuckShard]) -> Iterator[Warning]:
    if stuck:
        culprits = ", ".join(dict.fromkeys(shard.culprit for shard in stuck))
        yield Warning(
            code="shard_stuck",
            message=f"{len(stuck)} more shards are stuck, at {culprits}: goverse-cli shard list",
        )
