"""The planner: a value in, a bounded list of target changes out. Pure.

For every shard it answers two questions: where should it be, and may it be moved there now?

* Wish: the pinned node if it accepts shards, otherwise the choice of rendezvous hashing among
  the nodes that accept shards.
* Leave: an orphan (its target's key is gone) and a shard on a node that accepts none any more
  go at once, unless that node announced a restart; a pin is an operator's word and goes at once
  too; a first target and a move for balance wait until the nodes have been the same for a while,
  and at most `max_moves` shards are moving for balance at one time.
"""

from __future__ import annotations

import enum
from collections.abc import Container, Mapping
from dataclasses import dataclass, field

from goverse.sharding.rendezvous import choices


class Reason(enum.Enum):
    """Why a target changes, most urgent first."""

    FAILOVER = "failover"
    DRAIN = "drain"
    PIN = "pin"
    FIRST = "first"
    BALANCE = "balance"


class Hold(enum.Enum):
    """Why a shard is not where it should be, and is left there."""

    NO_NODE = "no_node"
    RESTARTING = "restarting"
    NOT_STABLE = "not_stable"
    MOVES_LIMIT = "moves_limit"
    CHANGES_LIMIT = "changes_limit"
    PINNED = "pinned"
    """It is where its pin wants it, away from its own choice."""
    PIN_UNAVAILABLE = "pin_unavailable"
    """Its pin names a node that takes no shards; it is where it would be without the pin."""


@dataclass(frozen=True, slots=True)
class PlanNode:
    """A node whose key stands. ``accepts`` is False while it drains or leaves."""

    name: str
    weight: float = 1.0
    accepts: bool = True


@dataclass(frozen=True, slots=True)
class PlanInput:
    """Everything a plan depends on.

    :param targets: target node by shard, None where there is none; as long as there are shards.
    :param claims: name of the node that holds the claim, by shard.
    :param pins: pinned shards.
    :param restarting: names with a standing announcement of a restart; asked for membership only.
    :param stable: whether the nodes have been the same for long enough.
    :param stalled: moving shards whose owner does not let go; they take no place in `max_moves`.
    :param max_moves: shards that may be moving for balance at one time.
    :param max_changes: longest list of changes.
    """

    nodes: tuple[PlanNode, ...]
    targets: tuple[str | None, ...]
    claims: tuple[str | None, ...]
    pins: Mapping[int, str] = field(default_factory=dict)
    restarting: Container[str] = ()
    stable: bool = True
    stalled: Container[int] = ()
    max_moves: int = 256
    max_changes: int = 8_128

    @property
    def num_shards(self) -> int:
        return len(self.targets)


@dataclass(frozen=True, slots=True)
class Change:
    shard: int
    node: str
    previous: str | None
    reason: Reason


@dataclass(frozen=True, slots=True)
class Plan:
    """``held`` counts what does not move, by reason, and ``reasons`` has the shards with theirs
    (unless it is the same for all); ``lost_pins`` names the shards whose pinned node takes none."""

    changes: tuple[Change, ...]
    held: Mapping[Hold, int]
    lost_pins: tuple[int, ...]
    reasons: Mapping[int, Hold] = field(default_factory=dict, compare=False)


def plan(state: PlanInput) -> Plan:
    """Decide which targets change now. The same input gives the same plan."""
    if len(state.claims) != state.num_shards:
        raise ValueError(f"{len(state.claims)} claims for {state.num_shards} shards")
    return _Planner(state).run()


class _Planner:
    def __init__(self, state: PlanInput) -> None:
        self._state = state
        self._live = {node.name: node.accepts and node.weight > 0 for node in state.nodes}
        accepting = sorted(
            (node.name, node.weight) for node in state.nodes if self._live[node.name]
        )
        self._choices = choices(state.num_shards, tuple(accepting)) if accepting else ()
        self._held: dict[Hold, int] = {}
        self._reasons: dict[int, Hold] = {}
        self._urgent: list[Change] = []
        self._patient: list[Change] = []
        self._lost_pins: list[int] = []

    def run(self) -> Plan:
        if not self._choices:
            return Plan((), {Hold.NO_NODE: self._state.num_shards}, ())
        moving = 0
        # The common case, a shard that is where it chose to be, is decided right here.
        for shard, target in enumerate(self._state.targets):
            claim = self._state.claims[shard]
            if claim is not None and claim != target and shard not in self._state.stalled:
                moving += 1
            if target != self._choices[shard] or shard in self._state.pins:
                self._decide(shard, target)
        room = max(0, self._state.max_moves - moving)
        for change in self._patient[room:]:
            self._hold(Hold.MOVES_LIMIT, change.shard)
        changes = [*self._urgent, *self._patient[:room]]
        changes.sort(key=lambda change: _URGENCY[change.reason])
        for change in changes[self._state.max_changes :]:
            self._hold(Hold.CHANGES_LIMIT, change.shard)
        changes = changes[: self._state.max_changes]
        return Plan(tuple(changes), self._held, tuple(self._lost_pins), self._reasons)

    def _decide(self, shard: int, target: str | None) -> None:
        """Move the shard, or count why it stays."""
        wish = self._wish(shard, target)
        if target == wish:
            return
        if target is None:
            if self._state.stable:
                self._urgent.append(Change(shard, wish, None, Reason.FIRST))
            else:
                self._hold(Hold.NOT_STABLE, shard)
        elif not self._live.get(target, False):
            if target in self._state.restarting:
                self._hold(Hold.RESTARTING, shard)
            else:
                reason = Reason.DRAIN if target in self._live else Reason.FAILOVER
                self._urgent.append(Change(shard, wish, target, reason))
        elif wish == self._state.pins.get(shard):
            self._urgent.append(Change(shard, wish, target, Reason.PIN))
        elif self._state.stable:
            self._patient.append(Change(shard, wish, target, Reason.BALANCE))
        else:
            self._hold(Hold.NOT_STABLE, shard)

    def _wish(self, shard: int, target: str | None) -> str:
        choice = self._choices[shard]
        pin = self._state.pins.get(shard)
        if pin is None:
            return choice
        if self._live.get(pin, False):
            if pin != choice:
                self._hold(Hold.PINNED, shard)
            return pin
        if target != pin or pin not in self._state.restarting:
            self._hold(Hold.PIN_UNAVAILABLE, shard)
            self._lost_pins.append(shard)
        return choice

    def _hold(self, why: Hold, shard: int) -> None:
        self._held[why] = self._held.get(why, 0) + 1
        self._reasons[shard] = why  # the last one is what stands in the way now


_URGENCY = {reason: place for place, reason in enumerate(Reason)}
