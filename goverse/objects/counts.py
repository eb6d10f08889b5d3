"""How many objects the shards of a node have, as gauges want it. Pure."""

from __future__ import annotations

from collections.abc import Mapping

from goverse.observability.families import Labels

QUANTILES = (0.0, 0.5, 0.9, 0.99, 1.0)


def quantiles(objects: Mapping[int, int]) -> dict[Labels, float]:
    """Of the objects of each shard, by nearest rank; nothing without shards."""
    ordered = sorted(objects.values())
    if not ordered:
        return {}
    last = len(ordered) - 1
    return {(f"{q:g}",): ordered[round(q * last)] for q in QUANTILES}


def by_shard(objects: Mapping[int, int]) -> dict[Labels, float]:
    """Of those that have any."""
    return {(str(shard),): count for shard, count in objects.items() if count}
