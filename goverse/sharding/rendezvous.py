"""Weighted rendezvous hashing: which node each shard would choose for itself.

Every shard ranks all nodes by a score of (shard, node) and takes the best. A node that comes
or goes changes only the shards that choose it, whatever the number of nodes. So a few choices are
remembered, and from the nearest of them only the difference is worked out.

Sources: D. Thaler and C. Ravishankar, "Using Name-Based Mappings to Increase Hit Rates" (1998);
the weighted score ``ln(u) / weight`` from J. Resch, "New Hashing Algorithms for Data Storage"
(SNIA 2015); the mixing step is the finalizer of splitmix64 with the constants of D. Stafford's
variant 13, as in G. Steele and others, "Fast Splittable Pseudorandom Number Generators" (2014).
"""

from __future__ import annotations

import hashlib
from collections import OrderedDict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from math import inf, log

_MASK = 0xFFFF_FFFF_FFFF_FFFF
_GOLDEN = 0x9E37_79B9_7F4A_7C15
_K1 = 0xBF58_476D_1CE4_E5B9
_K2 = 0x94D0_49BB_1331_11EB

Node = tuple[str, float]
"""Name and weight."""

#: Choices that are remembered.
_MAX_REMEMBERED = 4


def mix64(value: int) -> int:
    """Spread 64 bits so that near values have unrelated results."""
    value = ((value ^ (value >> 30)) * _K1) & _MASK
    value = ((value ^ (value >> 27)) * _K2) & _MASK
    return value ^ (value >> 31)


@lru_cache(maxsize=1024)
def _hash_of_node(name: str) -> int:
    return int.from_bytes(hashlib.blake2b(name.encode(), digest_size=8).digest(), "big")


@lru_cache(maxsize=4)
def _hashes_of_shards(num_shards: int) -> tuple[int, ...]:
    return tuple(mix64((shard + 1) * _GOLDEN & _MASK) for shard in range(num_shards))


def _scores(hashes: Iterable[int], node: Node) -> list[float]:
    """The score of each shard for ``node``: of a uniform draw of 53 bits, always the same.

    One multiplication is enough to mix: both sides are hashes already. This is the inner loop.
    """
    name, weight = node
    own = _hash_of_node(name)
    return [
        log(
            ((((shard ^ own) * _K1 & _MASK) ^ (shard >> 7)) * _K2 >> 11 & 0x1F_FFFF_FFFF_FFFF)
            * 2.0**-53
            + 2.0**-54
        )
        / weight
        for shard in hashes
    ]


@dataclass(frozen=True, slots=True)
class _Choices:
    nodes: frozenset[Node]
    names: tuple[str, ...]
    scores: Sequence[float]


class _Memory:
    """The last choices; the same question has the same answer, and a similar one is quick."""

    def __init__(self) -> None:
        self._known: OrderedDict[tuple[int, frozenset[Node]], _Choices] = OrderedDict()

    def forget(self) -> None:
        self._known.clear()

    def choices(self, num_shards: int, nodes: frozenset[Node]) -> _Choices:
        key = (num_shards, nodes)
        found = self._known.get(key)
        if found is None:
            found = self._known[key] = _work_out(num_shards, nodes, self._nearest(*key))
            if len(self._known) > _MAX_REMEMBERED:
                self._known.popitem(last=False)
        self._known.move_to_end(key)
        return found

    def _nearest(self, num_shards: int, nodes: frozenset[Node]) -> _Choices:
        candidates = [
            known
            for (shards, others), known in self._known.items()
            if shards == num_shards and len(others ^ nodes) < len(nodes)
        ]
        nothing = _Choices(frozenset(), ("",) * num_shards, (-inf,) * num_shards)
        return min(candidates, key=lambda known: len(known.nodes ^ nodes), default=nothing)


def _work_out(num_shards: int, nodes: frozenset[Node], known: _Choices) -> _Choices:
    hashes = _hashes_of_shards(num_shards)
    names, scores = list(known.names), list(known.scores)
    gone = {name for name, _ in known.nodes - nodes}
    if gone:
        left = [shard for shard, name in enumerate(names) if name in gone]
        for shard in left:
            names[shard], scores[shard] = "", -inf
        for node in known.nodes & nodes:
            _offer(node, left, [hashes[shard] for shard in left], names, scores)
    for node in nodes - known.nodes:
        _offer(node, range(num_shards), hashes, names, scores)
    return _Choices(nodes, tuple(names), scores)


def _offer(
    node: Node,
    shards: Iterable[int],
    hashes: Iterable[int],
    names: list[str],
    scores: list[float],
) -> None:
    """Let ``shards`` choose ``node`` if it is better. Of equal ones the first name wins, in every
    process."""
    name = node[0]
    for shard, score in zip(shards, _scores(hashes, node), strict=True):
        if score > scores[shard] or (score == scores[shard] and name < names[shard]):
            names[shard], scores[shard] = name, score


_memory = _Memory()
forget = _memory.forget


def choices(num_shards: int, nodes: Sequence[Node]) -> tuple[str, ...]:
    """The node that each shard chooses among ``nodes``, given as (name, weight above 0).

    The order of ``nodes`` does not matter. Raises ValueError without nodes.
    """
    if not nodes:
        raise ValueError("no node to choose")
    return _memory.choices(num_shards, frozenset(nodes)).names
