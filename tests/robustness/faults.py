"""Which faults come when: a pure function of a seed."""

from __future__ import annotations

import math
import random
from collections.abc import Sequence
from dataclasses import dataclass

from tests.support.namespaces import HERE

NODES = ("n1", "n2", "n3")
GATES = ("g1", "g2")
POSTGRES, ETCD = "pg", "etcd"
KILL, PAUSE, CUT, RESTART_PG, RESTART_ETCD = "kill", "pause", "cut", "restart pg", "restart etcd"
KINDS = (KILL, PAUSE, CUT, RESTART_PG, RESTART_ETCD)

LEASE_TTL_S = 3.0


@dataclass(frozen=True)
class Minima:
    """A run with less than this was too mild."""

    kills: int
    pauses: int
    cuts: int
    restarts: int  # of each service
    unknown: int = 1
    fenced: int = 1

    def of(self, kind: str) -> int:
        return {KILL: self.kills, PAUSE: self.pauses, CUT: self.cuts}.get(kind, self.restarts)


@dataclass(frozen=True)
class Fault:
    """:param lasts_s: until it is undone: restarted, continued, healed.
    :param after_s: how long after the beginning of its step.
    :param peer: of a cut, which loses what ``target`` sends to it, and unless ``one_way`` the rest.
    :param hard: a service is killed rather than stopped.
    """

    kind: str
    target: str
    lasts_s: float
    after_s: float = 0.0
    peer: str = ""
    one_way: bool = False
    hard: bool = True

    def __str__(self) -> str:
        where = self.target + (f" {'>' if self.one_way else '-'} {self.peer}" if self.peer else "")
        name = self.kind if self.target in (POSTGRES, ETCD) else f"{self.kind} {where}"
        how = "" if self.hard else " (asked to stop)"
        return f"{name}{how} for {self.lasts_s:.1f} s" + (
            f", {self.after_s:.1f} s later" if self.after_s else ""
        )


@dataclass(frozen=True)
class Step:
    """:param gap_s: from the recovery before it. :param faults: one, or two that overlap."""

    gap_s: float
    faults: tuple[Fault, ...]

    def __str__(self) -> str:
        return " + ".join(map(str, self.faults))


def plan(seed: int, minima: Minima) -> list[Step]:
    """Steps with as many faults of each kind as ``minima`` asks for, a third of them in pairs, and
    three pairs at least.

    One pair in three, and two at least, is a late commit: an owner whose commits do not reach the
    database is stopped past its lease, so that they arrive when another owns the shard.
    """
    chance = random.Random(seed)
    faults = [_fault(kind, chance) for kind in KINDS for _ in range(minima.of(kind))]
    chance.shuffle(faults)
    pairs = max(3, math.ceil(len(faults) / 6))
    late = max(2, pairs // 3)
    steps = [_late_commit(faults, chance) for _ in range(late)]
    for _ in range(pairs - late):
        # One that lasts, so that another can begin meanwhile.
        first = next(fault for fault in reversed(faults) if fault.lasts_s > 0.5)
        faults.remove(first)
        second = next(f for f in reversed(faults) if not _same_victim(first, f))
        faults.remove(second)
        steps.append((first, _begun(second, chance.uniform(0.1, min(2.0, first.lasts_s)))))
    steps += [(fault,) for fault in faults]
    chance.shuffle(steps)
    return [Step(chance.uniform(1.0, 3.0), step) for step in steps]


def _same_victim(first: Fault, second: Fault) -> bool:
    """A process that is not there cannot be stopped, and a link is healed once."""
    return first.target == second.target and (first.kind == CUT) == (second.kind == CUT)


def _begun(fault: Fault, after_s: float) -> Fault:
    return Fault(
        fault.kind, fault.target, fault.lasts_s, after_s, fault.peer, fault.one_way, fault.hard
    )


def _late_commit(faults: list[Fault], chance: random.Random) -> tuple[Fault, ...]:
    """Takes a pause and a cut out of ``faults`` and puts these in their place.

    The link heals just before the owner goes on. Its system has kept what it sent, and sends it
    again at growing distances, of which one is then due within the time that the owner waits.
    """
    for kind in (PAUSE, CUT):
        faults.remove(next(fault for fault in faults if fault.kind == kind))
    node = chance.choice(NODES)
    cut = Fault(CUT, node, chance.uniform(5.2, 6.0), peer=POSTGRES, one_way=True)
    before = chance.uniform(0.05, 0.3)
    return cut, Fault(PAUSE, node, cut.lasts_s - before + 0.05, before)


def _fault(kind: str, chance: random.Random) -> Fault:
    if kind == KILL:
        target = chance.choice((*NODES, *NODES, *GATES))
        # Half of them are back before their lease has ended.
        lasts_s = chance.choice((chance.uniform(0.0, 1.5), chance.uniform(3.0, 6.0)))
        return Fault(kind, target, lasts_s)
    if kind == PAUSE:
        target = chance.choice((*NODES, *NODES, *NODES, *GATES))
        return Fault(kind, target, chance.uniform(LEASE_TTL_S + 0.5, LEASE_TTL_S + 4.0))
    if kind == CUT:
        target, peer = chance.choice(_links())
        lasts_s = chance.choice((chance.uniform(0.5, 2.5), chance.uniform(3.5, 7.0)))
        return Fault(kind, target, lasts_s, peer=peer, one_way=chance.random() < 0.4)
    lasts_s = chance.choice((chance.uniform(0.0, 2.0), chance.uniform(3.0, 6.0)))
    target = POSTGRES if kind == RESTART_PG else ETCD
    return Fault(kind, target, lasts_s, hard=chance.random() < 0.7)


def _links() -> Sequence[tuple[str, str]]:
    """What can be cut, each kind as likely as the others."""
    first, second, third = NODES
    return (
        *((first, second), (second, third), (third, first)),
        *((node, POSTGRES) for node in NODES),
        *((node, ETCD) for node in NODES),
        *((gate, node) for gate, node in zip((*GATES, GATES[0]), NODES, strict=True)),
        *((HERE, gate) for gate in (*GATES, GATES[0])),
    )
