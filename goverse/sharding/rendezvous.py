"""Weighted rendezvous hashing: which node each shard would choose for itself.

Every shard ranks all nodes by a score of (shard, node) and takes the best. A node that comes
or goes changes only the shards that choose it, whatever the number of nodes.

Sources: D. Thaler and C. Ravishankar, "Using Name-Based Mappings to Increase Hit Rates" (1998);
the weighted score ``ln(u) / weight`` from J. Resch, "New Hashing Algorithms for Data Storage"
(SNIA 2015); the mixing step is the finalizer of splitmix64 with the constants of D. Stafford's
variant 13, as in G. Steele and others, "Fast Splittable Pseudorandom Number Generators" (2014).
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from functools import lru_cache
from math import log

_MASK = 0xFFFF_FFFF_FFFF_FFFF
_GOLDEN = 0x9E37_79B9_7F4A_7C15
_K1 = 0xBF58_476D_1CE4_E5B9
_K2 = 0x94D0_49BB_1331_11EB


def mix64(value: int) -> int:
    """Spread 64 bits so that near values have unrelated results."""
    value = ((value ^ (value >> 30)) * _K1) & _MASK
    value = ((value ^ (value >> 27)) * _K2) & _MASK
    return value ^ (value >> 31)


def _hash_of_node(name: str) -> int:
    return int.from_bytes(hashlib.blake2b(name.encode(), digest_size=8).digest(), "big")


@lru_cache(maxsize=4)
def _hashes_of_shards(num_shards: int) -> tuple[int, ...]:
    return tuple(mix64((shard + 1) * _GOLDEN & _MASK) for shard in range(num_shards))


def _draws(num_shards: int, node: str) -> list[int]:
    """One uniform draw of 53 bits for every shard, always the same for this node.

    One multiplication is enough to mix: both sides are hashes already. This is the inner loop.
    """
    own = _hash_of_node(node)
    return [
        (((shard ^ own) * _K1 & _MASK) ^ (shard >> 7)) * _K2 >> 11 & 0x1F_FFFF_FFFF_FFFF
        for shard in _hashes_of_shards(num_shards)
    ]


@lru_cache(maxsize=8)
def choices(num_shards: int, nodes: tuple[tuple[str, float], ...]) -> tuple[str, ...]:
    """The node that each shard chooses among ``nodes``, given as (name, weight above 0).

    The order of ``nodes`` does not matter. Raises ValueError without nodes.
    """
    if not nodes:
        raise ValueError("no node to choose")
    ranked = sorted(nodes)
    names = [name for name, _ in ranked]
    weights = [weight for _, weight in ranked]
    if len(ranked) == 1:
        return (names[0],) * num_shards
    columns: list[Sequence[float]] = [_draws(num_shards, name) for name in names]
    if min(weights) != max(weights):
        # Without different weights the logarithm changes no order and is left out.
        columns = [
            [log((draw + 0.5) * 2.0**-53) / weight for draw in column]
            for column, weight in zip(columns, weights, strict=True)
        ]
    best = [max(scores) for scores in zip(*columns, strict=True)]
    chosen: list[str] = [""] * num_shards
    # Backwards, so that of equal scores the first name wins, in every process.
    for name, column in zip(reversed(names), reversed(columns), strict=True):
        for shard, score in enumerate(column):
            if score == best[shard]:
                chosen[shard] = name
    return tuple(chosen)
