"""What a node tells of its shards, and the leader of all of them: gauges, read at a scrape."""

from __future__ import annotations

from collections.abc import Mapping

from goverse.cluster.leadership import Leadership
from goverse.cluster.ownership import Ownership
from goverse.cluster.stuck import Step
from goverse.observability.families import Labels
from goverse.observability.metrics import Metrics

#: Of a gauge that is not shown: another member leads.
_NOTHING: dict[Labels, float] = {}


def watch_ownership(metrics: Metrics, ownership: Ownership) -> None:
    """Shards of this node."""

    def shards() -> dict[Labels, float]:
        found = ownership.snapshot()
        return {
            ("targeted",): found.targeted,
            ("claimed",): found.claimed,
            ("opening",): found.opening,
            ("open",): found.open,
            ("waiting",): found.waiting,
            ("closing",): found.closing,
            ("releasing",): found.releasing,
        }

    metrics.shards.watch(shards)
    metrics.unserved_seconds.watch(lambda: ownership.oldest_unserved_s)


def watch_leadership(metrics: Metrics, leadership: Leadership) -> None:
    """Shards of the cluster. Who does not lead shows nothing: what it knew is old."""

    def cluster_shards() -> Mapping[Labels, float]:
        standing = leadership.standing()
        if standing is None:
            return _NOTHING
        counts = dict.fromkeys(("owned", "migrating", "unclaimed", "unassigned"), 0)
        for owner, target in zip(standing.owners, standing.targets, strict=True):
            if owner is None:
                counts["unassigned" if target is None else "unclaimed"] += 1
            else:
                counts["owned" if owner == target else "migrating"] += 1
        counts["pinned"] = standing.pinned
        counts["moving"] = leadership.snapshot().moving
        return {(state,): count for state, count in counts.items()}

    def imbalance() -> Mapping[Labels, float]:
        standing = leadership.standing()
        if standing is None:
            return _NOTHING
        found: dict[Labels, float] = {("count",): standing.by_count}
        if standing.by_load is not None:
            found[("load",)] = standing.by_load
        return found

    def held() -> Mapping[Labels, float]:
        found = leadership.snapshot()
        return {(h.value,): n for h, n in found.held.items()} if found.leading else _NOTHING

    def stuck() -> Mapping[Labels, float]:
        found = leadership.snapshot()
        if not found.leading:
            return _NOTHING
        counts: dict[Labels, float] = {(step.value,): 0 for step in Step}
        for shard in found.stuck:
            counts[shard.step.value,] += 1
        return counts

    def age() -> Mapping[Labels, float]:
        found = leadership.snapshot()
        oldest = max((shard.age_s for shard in found.stuck), default=0.0)
        return {(): oldest} if found.leading else _NOTHING

    def shunned() -> Mapping[Labels, float]:
        found = leadership.snapshot()
        return {(): len(found.shunned)} if found.leading else _NOTHING

    def lost_pins() -> Mapping[Labels, float]:
        found = leadership.snapshot()
        return {(): len(found.lost_pins)} if found.leading else _NOTHING

    metrics.cluster_shards.watch(cluster_shards)
    metrics.imbalance.watch(imbalance)
    metrics.held_shards.watch(held)
    metrics.stuck_shards.watch(stuck)
    metrics.stuck_shard_age_seconds.watch(age)
    metrics.shunned_nodes.watch(shunned)
    metrics.pins_unserved.watch(lost_pins)
