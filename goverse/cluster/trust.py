"""Nodes that do not claim what they are given: who gets no more shards, and for how long. Pure.

::

                  max_unclaimed shards unclaimed               pause over
    (trusted) ────────────────────────────────────> SHUNNED ───────────────> ON PROBATION
        ^                                              ^                        │  │
        │                                              └──one shard unclaimed───┘  │
        └───────────────── it claims anything, or registers anew <─────────────────┘

A shunned node keeps what it has. One on probation is given one shard at a time. Each pause is twice
as long as the one before, up to sixteen times the first.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from goverse.cluster.migrations import newest_claims
from goverse.cluster.records import Claim, MemberRecord, Target
from goverse.cluster.stuck import Step, StuckShard
from goverse.ids import MemberId

#: What a trusted node may be given.
NO_LIMIT = 1 << 30

_MAX_DOUBLINGS = 4


@dataclass(slots=True)
class _Record:
    """
    :param newest: its newest claim when it was first in default.
    :param unclaimed: shards that it did not claim, and until when they are kept from it.
    """

    member: MemberId
    newest: int
    unclaimed: dict[int, float] = field(default_factory=dict)
    shunned_until: float = 0.0
    times: int = 0


class Trust:
    """
    :param max_unclaimed: so many shards a node may leave unclaimed before it is given none.
    :param pause_s: the first pause; also how long a single shard is kept from it.
    """

    def __init__(self, *, max_unclaimed: int, pause_s: float) -> None:
        self._max_unclaimed = max_unclaimed
        self._pause_s = pause_s
        self._records: dict[str, _Record] = {}

    def update(
        self,
        stuck: Iterable[StuckShard],
        nodes: Mapping[str, MemberRecord],
        claims: Mapping[int, Claim],
        now: float,
    ) -> list[str]:
        """Take a step of the view; returns the nodes that are shunned from now on."""
        unclaimed = [s for s in stuck if s.stalled and s.step is Step.CLAIMING]
        if not unclaimed and not self._records:
            return []
        newest = newest_claims(claims)
        for name, record in list(self._records.items()):
            there = nodes.get(name)
            again = newest.get(name, 0) > record.newest
            if there is None or there.member != record.member or again:
                del self._records[name]
                continue
            record.unclaimed = {s: until for s, until in record.unclaimed.items() if until > now}
            if not record.unclaimed and not record.times:
                del self._records[name]
        shunned = []
        for shard in unclaimed:
            there = nodes.get(shard.target)
            if there is None:
                continue
            found = self._records.get(shard.target)
            if found is None:
                found = _Record(there.member, newest.get(shard.target, 0))
                self._records[shard.target] = found
            found.unclaimed[shard.shard] = now + self._pause_s
            most = 1 if found.times else self._max_unclaimed
            if found.shunned_until <= now and len(found.unclaimed) >= most:
                doublings = min(found.times, _MAX_DOUBLINGS)
                found.shunned_until = now + self._pause_s * 2**doublings
                found.times += 1
                shunned.append(shard.target)
        return shunned

    def clear(self) -> None:
        self._records.clear()

    def avoided(
        self, targets: Mapping[int, Target], claims: Mapping[int, Claim], now: float
    ) -> dict[int, frozenset[str]]:
        """By shard, the nodes that are not to have it: they had their time, or are shunned."""
        found: dict[int, frozenset[str]] = {}
        for name, record in self._records.items():
            for shard, until in record.unclaimed.items():
                if until > now:
                    found[shard] = found.get(shard, frozenset()) | {name}
            if record.shunned_until > now:
                for shard in _unclaimed_of(name, targets, claims):
                    found[shard] = found.get(shard, frozenset()) | {name}
        return found

    def max_new(
        self, node: str, targets: Mapping[int, Target], claims: Mapping[int, Claim], now: float
    ) -> int:
        """How many shards ``node`` may be given that it does not have."""
        record = self._records.get(node)
        if record is None:
            return NO_LIMIT
        if record.shunned_until > now:
            return 0
        if not record.times:
            return NO_LIMIT
        return max(0, 1 - len(_unclaimed_of(node, targets, claims)))

    def next_at(self, now: float) -> float | None:
        """When some node may be given more than now, if nothing else happens."""
        times = [record.shunned_until for record in self._records.values()]
        for record in self._records.values():
            times += record.unclaimed.values()
        return min((time for time in times if time > now), default=None)

    def shunned(self, now: float) -> tuple[str, ...]:
        return tuple(name for name, r in self._records.items() if r.shunned_until > now)


def _unclaimed_of(
    node: str, targets: Mapping[int, Target], claims: Mapping[int, Claim]
) -> list[int]:
    """Shards that are to be at ``node`` and are not."""
    return [
        shard
        for shard, target in targets.items()
        if target.node == node
        and ((claim := claims.get(shard)) is None or claim.member.name != node)
    ]
