"""How long a plan takes, and how many shards it moves, beside jump hashing and round-robin.

100 nodes and 8,192 shards. After each change of the cluster the plan is carried out, and planned
again until nothing changes: what has moved is counted. The least is what must move whatever the
method: the shards of a node that went, and the share of a node that came. A plan from nothing is
one with no earlier plan to remember. A plan waits for nothing, so its bounds are of processor time;
the time on the clock, which has other work of the machine in it, is told beside it.
"""

from __future__ import annotations

import random
import statistics
import sys
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from benchmarks.methods import jump, jump_by_name, round_robin
from benchmarks.report import Check, Options, Report
from goverse.sharding import Plan, PlanInput, PlanNode, Strategy, plan, rendezvous

NODES = 100
SHARDS = 8_192
CHANGE_BOUND_S = 0.050
NOTHING_BOUND_S = 1.0
MOVEMENT_BOUND = 1.2

_ALL = SHARDS


@dataclass(frozen=True)
class Step:
    """One change of the cluster.

    :param nodes: name and weight of those that are there afterwards.
    """

    name: str
    nodes: tuple[tuple[str, float], ...]


def names(number: int) -> tuple[str, ...]:
    """Of one round: what the names are like must not matter."""
    rnd = random.Random(number)
    return tuple(f"node-{rnd.randrange(16**6):06x}" for _ in range(NODES + 1))


def steps(number: int) -> tuple[Step, ...]:
    """What happens one after the other to a cluster of `NODES`."""
    everybody = names(number)
    old, new = everybody[:NODES], everybody[NODES]
    middle = sorted(old)[NODES // 2]
    even = tuple((name, 1.0) for name in old)
    return (
        Step("a node comes", (*even, (new, 1.0))),
        Step("it goes", even),
        Step("one in the middle goes", tuple(n for n in even if n[0] != middle)),
        Step("it comes back", even),
        Step("one is twice as large", tuple((n, 1.0 + (n == middle)) for n, _ in even)),
    )


def least(before: Sequence[str | None], old: dict[str, float], new: dict[str, float]) -> float:
    """Shards that any method must move from ``before``."""
    held = Counter(before)
    share, former = len(before) / sum(new.values()), len(before) / sum(old.values())
    gone = sum(count for name, count in held.items() if name not in new)
    grown = sum(
        weight * share - old.get(name, 0.0) * former
        for name, weight in new.items()
        if weight > old.get(name, 0.0)
    )
    return max(gone, grown)


class Planned:
    """The planner with one strategy, on a cluster that does at once as it is told."""

    def __init__(self, strategy: Strategy, number: int) -> None:
        rnd = random.Random(number)
        none = (None,) * SHARDS
        # One shard in a hundred has ten times the load of the median one, or more.
        loads = tuple(rnd.lognormvariate(0, 1.0) for _ in range(SHARDS))
        self._state = PlanInput(
            (), none, none, strategy=strategy, loads=loads, max_moves=_ALL, max_changes=_ALL
        )
        self.seconds: list[float] = []
        self.clock_s: list[float] = []

    @property
    def targets(self) -> tuple[str | None, ...]:
        return self._state.targets

    def follow(self, nodes: tuple[tuple[str, float], ...]) -> int:
        """The shards that moved. The time of the first plan is noted."""
        self._state = replace(self._state, nodes=tuple(PlanNode(*node) for node in nodes))
        before = self._state.targets
        started, started_cpu = time.perf_counter(), time.thread_time()
        found = plan(self._state)
        self.seconds.append(time.thread_time() - started_cpu)
        self.clock_s.append(time.perf_counter() - started)
        while found.changes:
            self._do(found)
            found = plan(self._state)
        return sum(old != new for old, new in zip(before, self._state.targets, strict=True))

    def _do(self, found: Plan) -> None:
        targets = list(self._state.targets)
        for change in found.changes:
            targets[change.shard] = change.node
        self._state = replace(self._state, targets=tuple(targets), claims=tuple(targets))

    def unevenness(self, nodes: dict[str, float]) -> float:
        """How far the fullest node is above its share of what is levelled, as a part of it."""
        by_load = self._state.strategy is Strategy.LOAD
        loads = self._state.loads if by_load else (1.0,) * SHARDS
        return _unevenness(self._state.targets, loads, nodes)


def _unevenness(
    targets: Sequence[str | None], loads: Sequence[float], nodes: dict[str, float]
) -> float:
    held = dict.fromkeys(nodes, 0.0)
    for target, load in zip(targets, loads, strict=True):
        held[str(target)] += load
    share = sum(loads) / sum(nodes.values())
    return max(held[name] / weight / share for name, weight in nodes.items()) - 1


async def run(options: Options, report: Report) -> None:
    report.settings = {"nodes": NODES, "shards": SHARDS}
    for strategy in Strategy:
        _measure(strategy, options.rounds, report)
    for name, method in (
        ("jump", jump),
        ("jump_by_name", jump_by_name),
        ("round_robin", round_robin),
    ):
        _compare(name, method, options.rounds, report)


def _measure(strategy: Strategy, rounds: int, report: Report) -> None:
    nothing: list[float] = []
    changes: list[float] = []
    clock: list[float] = []
    moved: dict[str, list[float]] = {}
    uneven: list[float] = []
    for number in range(rounds):
        rendezvous.forget()
        subject = Planned(strategy, number)
        old = dict.fromkeys(names(number)[:NODES], 1.0)
        subject.follow(tuple(old.items()))
        nothing += subject.seconds
        subject.seconds.clear()
        subject.clock_s.clear()
        for step in steps(number):
            before, new = subject.targets, dict(step.nodes)
            bound = least(before, old, new)
            moved.setdefault(step.name, []).append(subject.follow(step.nodes) / bound)
            uneven.append(subject.unevenness(new))
            old = new
        changes += subject.seconds
        clock += subject.clock_s
    name = strategy.value
    report.raw[name] = {"from_nothing_s": nothing, "change_s": changes, "moved": moved}
    figures = {step: round(statistics.mean(ratios), 3) for step, ratios in moved.items()}
    report.figures[name] = {
        "from_nothing_ms": round(statistics.median(nothing) * 1e3, 1),
        "one_change_ms": round(statistics.median(changes) * 1e3, 1),
        "one_change_ms_on_the_clock": round(statistics.median(clock) * 1e3, 1),
        "moved_to_least": figures,
        "fullest_above_share": round(statistics.mean(uneven), 3),
    }
    report.checks += [
        Check(f"{name}: seconds of a plan from nothing", max(nothing), NOTHING_BOUND_S, True),
        Check(f"{name}: seconds after one change", max(changes), CHANGE_BOUND_S, True),
        Check(f"{name}: moved to least", max(figures.values()), MOVEMENT_BOUND, True),
    ]
    print(f"{name}: {report.figures[name]}", file=sys.stderr, flush=True)


def _compare(
    name: str,
    method: Callable[[int, Sequence[str]], list[str]],
    rounds: int,
    report: Report,
) -> None:
    moved: dict[str, list[float]] = {}
    uneven: list[float] = []
    for number in range(rounds):
        old = dict.fromkeys(names(number)[:NODES], 1.0)
        targets = method(SHARDS, tuple(old))
        for step in steps(number):
            new = dict(step.nodes)
            if set(new.values()) != {1.0}:
                continue  # neither knows weights
            found = method(SHARDS, tuple(new))
            count = sum(a != b for a, b in zip(targets, found, strict=True))
            moved.setdefault(step.name, []).append(count / least(targets, old, new))
            uneven.append(_unevenness(found, (1.0,) * SHARDS, new))
            targets, old = found, new
    report.raw[name] = {"moved": moved}
    report.figures[name] = {
        "moved_to_least": {step: round(statistics.mean(r), 3) for step, r in moved.items()},
        "fullest_above_share": round(statistics.mean(uneven), 3),
    }
    print(f"{name}: {report.figures[name]}", file=sys.stderr, flush=True)
