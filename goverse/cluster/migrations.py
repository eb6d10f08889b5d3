"""Which shards are on their way, for how long, and which of them are stuck. Pure."""

from __future__ import annotations

from collections.abc import Container, Mapping
from dataclasses import dataclass

from goverse.cluster.records import Claim, Target


@dataclass(frozen=True, slots=True)
class StuckShard:
    """A shard that has not arrived where its target is.

    :param owner: who holds on to it; empty if nobody has claimed it.
    :param age_s: how long it has been on its way.
    """

    shard: int
    owner: str
    target: str
    age_s: float


class Migrations:
    """Follows the shards whose claim is not where their target is."""

    def __init__(self, *, stuck_after_s: float) -> None:
        self._stuck_after_s = stuck_after_s
        self._since: dict[int, tuple[float, str, str]] = {}

    def update(
        self,
        targets: Mapping[int, Target],
        claims: Mapping[int, Claim],
        now: float,
        *,
        restarting: Container[str] = (),
    ) -> None:
        """Take a step of the view. A shard that changes owner or target starts anew; one that
        waits for a restarting node is not on its way."""
        still: dict[int, tuple[float, str, str]] = {}
        for shard, target in targets.items():
            claim = claims.get(shard)
            owner = claim.member.name if claim is not None else ""
            if owner == target.node or (not owner and target.node in restarting):
                continue
            known = self._since.get(shard)
            if known is not None and known[1:] == (owner, target.node):
                still[shard] = known
            else:
                still[shard] = (now, owner, target.node)
        self._since = still

    def clear(self) -> None:
        self._since.clear()

    def __len__(self) -> int:
        return len(self._since)

    def next_stuck_at(self, now: float) -> float | None:
        """When the next shard becomes stuck, unless it arrives; None if none is on its way."""
        limits = (since + self._stuck_after_s for since, _, _ in self._since.values())
        return min((limit for limit in limits if limit > now), default=None)

    def stuck(self, now: float) -> tuple[StuckShard, ...]:
        return tuple(
            StuckShard(shard, owner, target, now - since)
            for shard, (since, owner, target) in self._since.items()
            if now - since >= self._stuck_after_s
        )
