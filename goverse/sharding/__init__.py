"""Which shard an id is on, and which node should own it. Pure: no asyncio, no I/O."""

from goverse.sharding.placement import NODE_SHARD, node_of, shard_of, slot_of
from goverse.sharding.planner import plan
from goverse.sharding.values import (
    BALANCED,
    Change,
    Cordon,
    Hold,
    Plan,
    PlanInput,
    PlanNode,
    Reason,
    Strategy,
)

__all__ = [
    "BALANCED",
    "NODE_SHARD",
    "Change",
    "Cordon",
    "Hold",
    "Plan",
    "PlanInput",
    "PlanNode",
    "Reason",
    "Strategy",
    "node_of",
    "plan",
    "shard_of",
    "slot_of",
]
