"""Two ways of placing shards that the planner does not use, to compare with."""

from __future__ import annotations

from collections.abc import Sequence


def jump(num_shards: int, nodes: Sequence[str]) -> list[str]:
    """Jump consistent hash, of J. Lamping and E. Veach, "A Fast, Minimal Memory, Consistent Hash
    Algorithm" (2014). It knows nodes by number: by their place in ``nodes``."""
    return [nodes[_bucket(_key(shard), len(nodes))] for shard in range(num_shards)]


def jump_by_name(num_shards: int, nodes: Sequence[str]) -> list[str]:
    """`jump` with the nodes numbered in the order of their names: nobody need remember it."""
    return jump(num_shards, sorted(nodes))


def _bucket(key: int, buckets: int) -> int:
    found, following = -1, 0
    while following < buckets:
        found = following
        key = (key * 2862933555777941757 + 1) & 0xFFFF_FFFF_FFFF_FFFF
        following = int((found + 1) * ((1 << 31) / ((key >> 33) + 1)))
    return found


def _key(shard: int) -> int:
    """Neighbours must have nothing in common: the finalizer of splitmix64."""
    value = (shard + 1) * 0x9E37_79B9_7F4A_7C15 & 0xFFFF_FFFF_FFFF_FFFF
    value = ((value ^ (value >> 30)) * 0xBF58_476D_1CE4_E5B9) & 0xFFFF_FFFF_FFFF_FFFF
    value = ((value ^ (value >> 27)) * 0x94D0_49BB_1331_11EB) & 0xFFFF_FFFF_FFFF_FFFF
    return value ^ (value >> 31)


def round_robin(num_shards: int, nodes: Sequence[str]) -> list[str]:
    """Shard n on node n modulo their number, by name."""
    ordered = sorted(nodes)
    return [ordered[shard % len(ordered)] for shard in range(num_shards)]
