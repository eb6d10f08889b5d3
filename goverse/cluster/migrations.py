"""Which shards are on their way, for how long, and which of them are stuck. Pure."""

from __future__ import annotations

from collections.abc import Container, Iterable, Mapping
from dataclasses import dataclass

from goverse.cluster.records import Claim, Target
from goverse.cluster.stuck import Step, StuckShard


@dataclass(frozen=True, slots=True)
class _Journey:
    """
    :param began: when its owner was first another than its target.
    :param since: how long ``owner`` and ``target`` have been what they are.
    """

    began: float
    since: float
    owner: str
    target: str
    step: Step


class Migrations:
    """Follows the shards whose claim is not where their target is.

    :param stuck_after_s: how long that may be so.
    """

    def __init__(self, *, stuck_after_s: float) -> None:
        self._stuck_after_s = stuck_after_s
        self._journeys: dict[int, _Journey] = {}
        #: Of nodes that are to claim something: their newest claim, and when it was first seen.
        self._newest: dict[str, tuple[int, float]] = {}
        self._blind_at = float("-inf")

    def update(
        self,
        targets: Mapping[int, Target],
        claims: Mapping[int, Claim],
        now: float,
        *,
        takers: Container[str],
        restarting: Container[str] = (),
        blind: bool = False,
        shards: Iterable[int] | None = None,
    ) -> list[float]:
        """Take a step of the view; returns how long the shards took that have arrived.

        One that waits for a restarting node is not on its way.

        :param takers: nodes that take shards.
        :param blind: the view may be an old one: nobody is blamed for what it does not show.
        :param shards: what alone has changed; None: perhaps everything. Most shards arrive sooner
            than it pays to look at all of them.
        """
        if blind:
            self._blind_at = now
        took: list[float] = []
        before = self._journeys
        if shards is None:
            self._journeys = {}
        for shard in targets if shards is None else shards:
            target, claim = targets.get(shard), claims.get(shard)
            owner = claim.member.name if claim is not None else ""
            known = before.get(shard)
            if target is None or _at_rest(owner, target, restarting):
                if known is not None and owner and known.owner != owner:
                    took.append(now - known.began)
                self._journeys.pop(shard, None)
                continue
            if target.node not in takers:
                step = Step.NO_TAKER
            else:
                step = Step.HANDING_OVER if owner else Step.CLAIMING
            where = (owner, target.node, step)
            if known is None:
                self._journeys[shard] = _Journey(now, now, *where)
            elif (known.owner, known.target, known.step) == where:
                self._journeys[shard] = known
            else:
                self._journeys[shard] = _Journey(known.began, now, *where)
        if shards is None:
            self._note_claims(claims, now)
        return took

    def _note_claims(self, claims: Mapping[int, Claim], now: float) -> None:
        waited_for = {j.target for j in self._journeys.values() if j.step is Step.CLAIMING}
        if not waited_for:
            self._newest = {}
            return
        newest = newest_claims(claims)
        before, self._newest = self._newest, {}
        for node in waited_for:
            revision = newest.get(node, 0)
            known = before.get(node)
            if known is not None and known[0] == revision:
                self._newest[node] = known
            else:
                # What it had claimed before anybody waited for it says nothing.
                self._newest[node] = (revision, now if known is not None else float("-inf"))

    def clear(self) -> None:
        self._journeys.clear()
        self._newest.clear()

    def __len__(self) -> int:
        return len(self._journeys)

    def _idle_since(self, journey: _Journey) -> float:
        """Since when nothing has been seen that would bring this shard nearer to its end: a node
        that claims others has a queue."""
        since = max(journey.since, self._blind_at)
        if journey.step is Step.CLAIMING:
            since = max(since, self._newest.get(journey.target, (0, since))[1])
        return since

    def next_stuck_at(self, now: float) -> float | None:
        """When the next shard becomes stuck or stalled, unless it arrives; None if none does."""
        starts = {j.began for j in self._journeys.values()}
        starts.update(self._idle_since(j) for j in self._journeys.values())
        return min((at for s in starts if (at := s + self._stuck_after_s) > now), default=None)

    def stuck(self, now: float) -> tuple[StuckShard, ...]:
        limit_s = self._stuck_after_s
        return tuple(
            StuckShard(
                shard,
                journey.owner,
                journey.target,
                now - journey.began,
                journey.step,
                now - journey.since,
                stalled=now - self._idle_since(journey) >= limit_s,
            )
            for shard, journey in self._journeys.items()
            if now - journey.began >= limit_s
        )


def _at_rest(owner: str, target: Target, restarting: Container[str]) -> bool:
    return owner == target.node or (not owner and target.node in restarting)


def newest_claims(claims: Mapping[int, Claim]) -> dict[str, int]:
    """The revision of the newest claim of each node that has any."""
    newest: dict[str, int] = {}
    for claim in claims.values():
        name = claim.member.name
        if claim.create_revision > newest.get(name, 0):
            newest[name] = claim.create_revision
    return newest
