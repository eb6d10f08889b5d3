"""The planner: a value in, a bounded list of target changes out. Pure.

For every shard it answers two questions: where should it be, and may it be moved there now?

* Wish: the pinned node if it accepts shards, otherwise what the strategy chooses among the nodes
  that accept shards. If that one has not claimed what it was given: whoever has the shard, or
  another.
* Leave: an orphan (its target's key is gone) and a shard on a node that accepts none any more
  go at once, unless that node announced a restart; what its target does not claim goes at once,
  and so does a pin, an operator's word; a first target and a move for balance wait until the nodes
  have been the same for a while. A move for balance waits also until every shard has a target, and
  until the shard has cooled down; and only so many may be under way, and begin, at one time.

An operator's cordon is a wish, and a shard without a node is an outage. So as long as some node
takes shards, a cordoned one is given none and keeps what it has, and a draining one is emptied.
Once none does, what has no node, or has one that leaves, goes to those that are cordoned; and only
where there is none of these either, to those that drain. Everything else stays where it is.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from goverse.sharding.levelling import Site, level
from goverse.sharding.rendezvous import choices
from goverse.sharding.values import (
    Change,
    Cordon,
    Hold,
    Plan,
    PlanInput,
    PlanNode,
    Reason,
    Strategy,
)


def plan(state: PlanInput) -> Plan:
    """Decide which targets change now. The same input gives the same plan."""
    if len(state.claims) != state.num_shards:
        raise ValueError(f"{len(state.claims)} claims for {state.num_shards} shards")
    if state.loads and len(state.loads) != state.num_shards:
        raise ValueError(f"{len(state.loads)} loads for {state.num_shards} shards")
    return _Planner(state).run()


class _Planner:
    def __init__(self, state: PlanInput) -> None:
        self._state = state
        self._nodes = {node.name: node for node in state.nodes}
        accepting = _of(state, None)
        #: No node takes shards: those that have a node that serves them stay.
        self._resort = not accepting
        if self._resort:
            accepting = _of(state, Cordon.CORDONED) or _of(state, Cordon.DRAINING)
        self._accepting = accepting
        self._room = {node.name: node.max_new for node in accepting}
        self._live = {name: name in self._room for name in self._nodes}
        self._held: dict[Hold, int] = {}
        self._choices: Sequence[str] = ()
        self._order: Mapping[int, None] = {}
        if not accepting:
            pass
        elif state.strategy is Strategy.RENDEZVOUS or self._resort:
            self._choices = self._rendezvous(accepting)
        elif state.strategy is Strategy.LOAD and not state.loads:
            # By number it would undo what was done by load, whenever another node begins to lead;
            # and whoever has few shards may be the one with the hot ones.
            self._held[Hold.LOADS_UNKNOWN] = state.num_shards
            others = self._rendezvous(accepting)
            self._choices = [
                target if target is not None and self._live.get(target, False) else other
                for target, other in zip(state.targets, others, strict=True)
            ]
        else:
            self._level(accepting)
        self._reasons: dict[int, Hold] = {}
        self._urgent: list[Change] = []
        self._patient: list[Change] = []
        self._waiting: list[Change] = []
        self._lost_pins: list[int] = []

    def _rendezvous(self, accepting: list[PlanNode]) -> Sequence[str]:
        weights = {node.weight for node in accepting}
        # Equal ones all count as 1: what they are all called must not matter.
        equal = 1.0 if len(weights) == 1 else None
        pairs = tuple((node.name, equal or node.weight) for node in accepting)
        return choices(self._state.num_shards, pairs)

    def _level(self, accepting: list[PlanNode]) -> None:
        state, live = self._state, self._live
        homeless = [
            shard
            for shard, target in enumerate(state.targets)
            if target is None
            or (
                not live.get(target, False)
                and (not self._stays(target) or self._unclaimed(shard, target))
            )
        ]
        by_load = state.strategy is Strategy.LOAD
        placed = level(
            [
                Site(
                    node.name,
                    node.weight,
                    node.full or node.max_new == 0,
                    node.own if by_load else 0.0,
                )
                for node in accepting
            ],
            state.targets,
            state.loads if by_load else (1.0,) * state.num_shards,
            {shard: node for shard, node in state.pins.items() if live.get(node, False)},
            homeless,
            state.threshold,
        )
        self._choices, self._order = placed.nodes, placed.moved

    def run(self) -> Plan:
        state = self._state
        if not self._choices:
            return Plan((), {Hold.NO_NODE: state.num_shards}, ())
        moving, all_assigned = 0, True
        # The common case, a shard that is where it chose to be, is decided right here.
        for shard, target in enumerate(state.targets):
            claim = state.claims[shard]
            if claim != target and shard not in state.stalled:
                # Released and not claimed yet is under way, too.
                moving += claim is not None or target in self._live
            if target not in self._live:
                all_assigned = False
            if (
                target != self._choices[shard]
                or self._resort
                or shard in state.pins
                or shard in state.avoided
            ):
                self._decide(shard, target)
        changes = [*self._urgent, *self._begin(moving, all_assigned)]
        changes.sort(key=lambda change: _URGENCY[change.reason])
        self._hold_all(Hold.CHANGES_LIMIT, changes[state.max_changes :])
        changes = changes[: state.max_changes]
        return Plan(
            tuple(changes),
            self._held,
            tuple(self._lost_pins),
            self._reasons,
            tuple(self._waiting),
        )

    def _begin(self, moving: int, all_assigned: bool) -> list[Change]:
        """The moves for balance that begin now."""
        state = self._state
        if not all_assigned:
            self._hold_all(Hold.NOT_ALL_ASSIGNED, self._patient)
            return []
        if self._order:
            order = {shard: place for place, shard in enumerate(self._order)}
            self._patient.sort(key=lambda change: order.get(change.shard, len(order)))
        room = max(0, state.max_moves - moving)
        allowed = min(room, max(0, state.max_new_moves))
        why = Hold.RATE_LIMIT if allowed < room else Hold.BATCH_LIMIT
        self._hold_all(why, self._patient[allowed:])
        return self._patient[:allowed]

    def _stays(self, target: str) -> bool:
        """Whether a shard there is left alone, although nothing new is given to that node."""
        node = self._nodes.get(target)
        if node is None or not node.accepts:
            return target in self._state.restarting
        return node.keeps or (target in self._state.restarting and node.cordon is None)

    def _unclaimed(self, shard: int, target: str | None) -> bool:
        """Whether its target could serve it, and does not claim it."""
        state = self._state
        if target not in state.avoided.get(shard, ()) or state.claims[shard] == target:
            return False
        node = self._nodes.get(target) if target is not None else None
        return node is not None and node.accepts

    def _decide(self, shard: int, target: str | None) -> None:
        """Move the shard, or count why it stays."""
        state = self._state
        node = self._nodes.get(target) if target is not None else None
        unclaimed = self._unclaimed(shard, target)
        settled = node is not None and node.accepts and (self._resort or node.keeps)
        if node is not None and settled and not unclaimed:
            pin = state.pins.get(shard, node.name)
            if pin != node.name and not self._resort and self._live.get(pin, False):
                self._urgent.append(Change(shard, pin, target, Reason.PIN))
            else:
                self._hold(Hold.CORDONED if node.keeps else Hold.NO_NODE, shard)
            return
        wish = self._wish(shard, target)
        if target == wish:
            return
        if state.claims[shard] != wish and wish in self._room:
            self._room[wish] -= 1
        if target is None:
            self._move(Change(shard, wish, None, Reason.FIRST), state.stable)
        elif unclaimed:
            self._urgent.append(Change(shard, wish, target, Reason.UNCLAIMED))
        elif not self._live.get(target, False):
            if self._stays(target):
                self._hold(Hold.RESTARTING, shard)
            else:
                reason = Reason.DRAIN if target in self._live else Reason.FAILOVER
                self._urgent.append(Change(shard, wish, target, reason))
        elif wish == state.pins.get(shard):
            self._urgent.append(Change(shard, wish, target, Reason.PIN))
        else:
            self._move(Change(shard, wish, target, Reason.BALANCE), state.stable)

    def _move(self, change: Change, stable: bool) -> None:
        if not stable:
            self._hold_all(Hold.NOT_STABLE, (change,))
        elif change.reason is Reason.FIRST:
            self._urgent.append(change)
        elif change.shard in self._state.cooling:
            self._hold_all(Hold.COOLDOWN, (change,))
        else:
            self._patient.append(change)

    def _wish(self, shard: int, target: str | None) -> str:
        wanted = self._wanted(shard, target)
        if self._may_have(shard, wanted, target):
            return wanted
        self._hold(Hold.NOT_CLAIMING, shard)
        if self._state.pins.get(shard) == wanted:
            self._lost_pins.append(shard)
        # Who has it, where it is to be already, or what it would choose next.
        for node in (self._state.claims[shard], target):
            if node and self._live.get(node, False) and self._may_have(shard, node, target):
                return node
        avoided = self._state.avoided.get(shard, ())
        others = [n for n in self._accepting if n.name not in avoided and self._room[n.name] > 0]
        return self._rendezvous(others)[shard] if others else wanted

    def _may_have(self, shard: int, node: str, target: str | None) -> bool:
        """Whether ``node`` has ``shard``, or may be given it."""
        if self._state.claims[shard] == node:
            return True
        if node in self._state.avoided.get(shard, ()):
            return False
        return node == target or self._room.get(node, 1) > 0

    def _wanted(self, shard: int, target: str | None) -> str:
        choice = self._choices[shard]
        pin = self._state.pins.get(shard)
        if pin is None:
            return choice
        if self._live.get(pin, False):
            if pin != choice or self._state.strategy is not Strategy.RENDEZVOUS:
                self._hold(Hold.PINNED, shard)
            return pin
        if target != pin or pin not in self._state.restarting:
            self._hold(Hold.PIN_UNAVAILABLE, shard)
            self._lost_pins.append(shard)
        return choice

    def _hold(self, why: Hold, shard: int) -> None:
        self._held[why] = self._held.get(why, 0) + 1
        self._reasons[shard] = why  # the last one is what stands in the way now

    def _hold_all(self, why: Hold, changes: Sequence[Change]) -> None:
        for change in changes:
            self._hold(why, change.shard)
        self._waiting.extend(changes)


def _of(state: PlanInput, cordon: Cordon | None) -> list[PlanNode]:
    """The nodes with that cordon that can have shards, by name."""
    found = (n for n in state.nodes if n.accepts and n.weight > 0 and n.cordon is cordon)
    return sorted(found, key=lambda node: node.name)


_URGENCY = {reason: place for place, reason in enumerate(Reason)}
