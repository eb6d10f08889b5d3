"""Which shard an id is on, and which node should own it. Pure: no asyncio, no I/O."""

from goverse.sharding.placement import NODE_SHARD, node_of, shard_of, slot_of

__all__ = ["NODE_SHARD", "node_of", "shard_of", "slot_of"]
