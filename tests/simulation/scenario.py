"""From a seed to a plan of faults: which cluster, and what happens to it when. Pure."""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass, field

LEASE_TTL_S = 3.0
NUM_SHARDS = 16
IDLE_TIMEOUT_S = 5.0
#: How long is waited for a commit that can be held back.
HELD_WITHIN_S = 1.0
COORDINATOR = "coordinator"
STORE = "store"


@dataclass(frozen=True, order=True)
class Step:
    """At ``at`` seconds after the start, do ``action`` with ``args``."""

    at: float
    action: str
    args: tuple[str | float, ...] = ()

    def __str__(self) -> str:
        words = [f"{arg:.3f}" if isinstance(arg, float) else str(arg) for arg in self.args]
        return f"{self.at:7.3f} {self.action} {' '.join(words)}".rstrip()


@dataclass(frozen=True)
class Scenario:
    """A cluster, its clients, and the steps, in order of time."""

    seed: int
    nodes: tuple[str, ...]
    gates: tuple[str, ...]
    restarting: tuple[str, ...]
    """Nodes whose orderly stop announces that they will be back."""
    clients: int
    duration_s: float
    strategy: str = "rendezvous"
    """How its leaders place shards."""
    steps: tuple[Step, ...] = field(default=())

    def __str__(self) -> str:
        head = (
            f"seed {self.seed}: nodes {' '.join(self.nodes)} "
            f"(restarting: {' '.join(self.restarting) or 'none'}), "
            f"gates {' '.join(self.gates)}, {self.clients} clients, {self.duration_s:.1f} s, "
            f"by {self.strategy}"
        )
        return "\n".join([head, *(f"  {step}" for step in self.steps)])


class _Planner:
    """Draws faults one after the other, keeping an account of who is there."""

    def __init__(self, seed: int) -> None:
        self.random = random.Random(f"scenario:{seed}")
        self.nodes = [f"n{number}" for number in range(1, self.random.randint(2, 4) + 1)]
        self.gates = [f"g{number}" for number in range(1, self.random.choice((1, 1, 2)) + 1)]
        self.up = list(self.nodes)
        self.steps: list[Step] = []
        self.next_node = len(self.nodes) + 1

    def add(self, at: float, action: str, *args: str | float) -> None:
        self.steps.append(Step(at, action, args))

    def node(self) -> str:
        return self.random.choice(self.up)

    def member(self) -> str:
        return self.random.choice(self.up + self.gates)

    def pair(self) -> tuple[str, str]:
        a = self.node()
        return a, self.random.choice([name for name in self.up + self.gates if name != a])

    # -- the faults; each returns nothing and adds its steps ------------------------------------

    def join(self, at: float) -> None:
        name = f"n{self.next_node}"
        self.next_node += 1
        self.up.append(name)
        self.add(at, "start_node", name)

    def leave(self, at: float) -> None:
        if len(self.up) < 2:
            return self.join(at)
        name = self.node()
        self.up.remove(name)
        self.add(at, "stop", name)
        if self.random.random() < 0.6:
            self.add(at + self.random.uniform(0.5, 4.0), "start_node", name)
            self.up.append(name)
        return None

    def kill(self, at: float) -> None:
        name = self.node()
        self.add(at, "kill", name)
        self.add(at + self.random.uniform(0.05, 5.0), "start_node", name)

    def kill_gate(self, at: float) -> None:
        name = self.random.choice(self.gates)
        self.add(at, "kill", name)
        self.add(at + self.random.uniform(0.05, 4.0), "start_gate", name)

    def pause(self, at: float) -> None:
        """Below the lease's TTL, about as long, or far past it."""
        low, high = self.random.choice(((0.1, 2.0), (2.0, 3.5), (3.2, 9.0)))
        name = self.node()
        self.add(at, "pause", name)
        self.add(at + self.random.uniform(low, high), "resume", name)

    def pause_gate(self, at: float) -> None:
        name = self.random.choice(self.gates)
        self.add(at, "pause", name)
        self.add(at + self.random.uniform(0.1, 6.0), "resume", name)

    def cut_client(self, at: float) -> None:
        client, gate = f"client{self.random.randint(1, 4)}", self.random.choice(self.gates)
        self.add(at, self.random.choice(("cut", "cut_one_way")), client, gate)
        self.add(at + self.random.uniform(0.2, 6.0), "mend", client, gate)

    def pause_unseen(self, at: float) -> None:
        """A node sleeps past its lease while the gates do not hear of what follows."""
        name = self.node()
        length = self.random.uniform(3.0, 6.0)
        for gate in self.gates:
            self.add(at, "cut", gate, COORDINATOR)
            self.add(at + length + self.random.uniform(0.5, 3.0), "mend", gate, COORDINATOR)
        self.add(at + self.random.uniform(0.0, 0.3), "pause", name)
        self.add(at + length, "resume", name)

    def cut_pair(self, at: float) -> None:
        a, b = self.pair()
        self.add(at, self.random.choice(("cut", "cut", "cut_one_way")), a, b)
        self.add(at + self.random.uniform(0.2, 8.0), "mend", a, b)

    def slow_pair(self, at: float) -> None:
        a, b = self.pair()
        self.add(at, "slow", a, b, self.random.uniform(0.02, 1.0))
        self.add(at + self.random.uniform(1.0, 8.0), "mend", a, b)

    def isolate(self, at: float) -> None:
        """One node reaches nobody, the coordinator included."""
        name = self.node()
        end = at + self.random.uniform(0.5, 8.0)
        for other in [*self.up, *self.gates, COORDINATOR]:
            if other != name:
                self.add(at, "cut", name, other)
                self.add(end, "mend", name, other)

    def cut_coordinator(self, at: float) -> None:
        name = self.member()
        action = self.random.choice(("cut", "cut", "cut_one_way"))
        args = (name, COORDINATOR) if self.random.random() < 0.5 else (COORDINATOR, name)
        self.add(at, action, *args)
        self.add(at + self.random.uniform(0.2, 8.0), "mend", *args)

    def slow_coordinator(self, at: float) -> None:
        name = self.member()
        self.add(at, "slow", name, COORDINATOR, self.random.uniform(0.05, 1.5))
        self.add(at + self.random.uniform(1.0, 8.0), "mend", name, COORDINATOR)

    def lose_answers(self, at: float) -> None:
        name = self.node()
        share = self.random.uniform(0.2, 0.9)
        self.add(at, "lose", COORDINATOR, name, share)
        self.add(at + self.random.uniform(0.5, 5.0), "mend", name, COORDINATOR)

    def outage(self, at: float) -> None:
        """The coordinator is gone for everybody, for less or more than the lease's TTL."""
        end = at + self.random.choice(
            (self.random.uniform(0.2, 2.0), self.random.uniform(2.0, 7.0))
        )
        self.add(at, "outage")
        self.add(end, "end_outage")

    def pin(self, at: float) -> None:
        shard = float(self.random.randrange(NUM_SHARDS))
        self.add(at, "pin", shard, self.node())
        if self.random.random() < 0.5:
            self.add(at + self.random.uniform(1.0, 6.0), "unpin", shard)

    def compact(self, at: float) -> None:
        self.add(at, "compact")

    def forget_unseen(self, at: float) -> None:
        """What a member misses while it is cut off is forgotten before it is back."""
        name = self.member()
        end = at + self.random.uniform(0.5, 4.0)
        self.add(at, "cut", name, COORDINATOR)
        self.add(end - 0.1, "compact")
        self.add(end, "mend", name, COORDINATOR)

    def move_in_trouble(self, at: float) -> None:
        """Shards go to and fro while a node's answers are lost, or overtake each other."""
        name = self.node()
        end = at + self.random.uniform(4.0, 9.0)
        if self.random.random() < 0.5:
            self.add(at, "lose", COORDINATOR, name, self.random.uniform(0.4, 0.6))
        else:
            self.add(at, "jitter", COORDINATOR, name, self.random.uniform(0.05, 0.5))
        self.add(end, "mend", name, COORDINATOR)
        for shard in self.random.sample(range(NUM_SHARDS), 8):
            when = at
            while (when := when + self.random.uniform(0.0, 1.0)) < end:
                self.add(when, "pin", float(shard), self.random.choice((name, self.node())))
            self.add(end, "unpin", float(shard))

    def move_at_once(self, at: float) -> None:
        """A node sees its claims before they are answered, and is to let go of them again."""
        name = self.node()
        others = [other for other in self.up if other != name]
        if not others:
            return self.join(at)
        end = at + self.random.uniform(4.0, 8.0)
        share = self.random.uniform(0.15, 0.4)
        self.add(at, "jitter", COORDINATOR, name, self.random.uniform(1.0, 2.0), share)
        self.add(end, "mend", name, COORDINATOR)
        for shard in self.random.sample(range(NUM_SHARDS), 4):
            when, there = at, name
            while (when := when + self.random.uniform(0.2, 0.8)) < end:
                self.add(when, "pin", float(shard), there)
                there = self.random.choice(others) if there == name else name
            self.add(end, "unpin", float(shard))
        return None

    def depose(self, at: float) -> None:
        """Whoever leads is cut off from the coordinator, just when there is something to plan."""
        first, second = (float(shard) for shard in self.random.sample(range(NUM_SHARDS), 2))
        length_s = self.random.uniform(2.0, 6.0)
        self.add(at, "depose", first, second, length_s)
        for shard in (first, second):
            self.add(at + length_s + 0.1, "unpin", shard)


_KINDS: dict[str, tuple[Callable[[_Planner, float], None], int]] = {
    "join": (_Planner.join, 2),
    "leave": (_Planner.leave, 3),
    "kill": (_Planner.kill, 4),
    "kill_gate": (_Planner.kill_gate, 1),
    "pause": (_Planner.pause, 4),
    "pause_gate": (_Planner.pause_gate, 1),
    "cut_client": (_Planner.cut_client, 2),
    "pause_unseen": (_Planner.pause_unseen, 3),
    "cut_pair": (_Planner.cut_pair, 3),
    "slow_pair": (_Planner.slow_pair, 3),
    "isolate": (_Planner.isolate, 2),
    "cut_coordinator": (_Planner.cut_coordinator, 3),
    "slow_coordinator": (_Planner.slow_coordinator, 2),
    "lose_answers": (_Planner.lose_answers, 2),
    "outage": (_Planner.outage, 1),
    "pin": (_Planner.pin, 2),
    "compact": (_Planner.compact, 1),
    "forget_unseen": (_Planner.forget_unseen, 2),
    "move_in_trouble": (_Planner.move_in_trouble, 4),
    "depose": (_Planner.depose, 3),
}

#: What shows something only where it comes again and again.
_THEMES = (
    _Planner.move_in_trouble,
    _Planner.pause,
    _Planner.leave,
    _Planner.depose,
    _Planner.move_at_once,
    _Planner.pause_unseen,
    _Planner.forget_unseen,
    _Planner.lose_answers,
    _Planner.cut_pair,
)


def generate(seed: int) -> Scenario:
    """The scenario of ``seed``; the same in every process."""
    planner = _Planner(seed)
    nodes, gates = tuple(planner.nodes), tuple(planner.gates)
    makers = [maker for maker, _ in _KINDS.values()]
    weights = [weight for _, weight in _KINDS.values()]
    # Every third seed repeats one kind: some faults show only where the same happens again.
    theme = _THEMES[seed // 3 % len(_THEMES)] if seed % 3 == 0 else None
    at = planner.random.uniform(0.3, 1.0)
    for _ in range(planner.random.randint(2, 6)):
        maker = planner.random.choices(makers, weights)[0]
        if theme is not None and planner.random.random() < 0.8:
            maker = theme
        maker(planner, at)
        at += planner.random.choice(
            (planner.random.uniform(0.0, 0.5), planner.random.uniform(0.5, 4.0))
        )
    _trouble_the_store(planner, random.Random(f"store:{seed}"), at)
    steps = tuple(sorted(planner.steps, key=lambda step: step.at))
    duration_s = max(step.at for step in steps) + planner.random.uniform(0.0, 1.0)
    clients = planner.random.randint(2, 4)
    restarting = tuple(name for name in nodes if planner.random.random() < 0.4)
    # With chance of its own, too. Two runs in four are as they were before there was a choice.
    strategies = ("rendezvous", "rendezvous", "count", "load")
    strategy = random.Random(f"strategy:{seed}").choice(strategies)
    return Scenario(seed, nodes, gates, restarting, clients, duration_s, strategy, steps)


def _trouble_the_store(planner: _Planner, source: random.Random, end: float) -> None:
    """Answers of the store get lost or come late, for one node or for all, in two runs of three.
    With chance of its own, so that what else happens is not changed by it."""
    for _ in range(source.choice((0, 1, 2))):
        at, length_s = source.uniform(0.3, end), source.uniform(0.3, 4.0)
        name = source.choice(planner.up)
        kind = source.choice(("lose", "lose", "cut", "slow", "close", "late", "late"))
        if kind == "late":
            _hold_back(planner, source, at)
            continue
        if kind == "close":
            planner.add(at, "close_port", STORE)
            planner.add(at + length_s, "open_port", STORE)
            continue
        if kind == "lose":
            way = source.choice(((STORE, name), (name, STORE)))
            planner.add(at, "lose", *way, source.uniform(0.2, 0.9))
        elif kind == "cut":
            planner.add(at, "cut", name, STORE)
        else:
            planner.add(at, "slow", name, STORE, source.uniform(0.1, 1.5))
        planner.add(at + length_s, "mend", name, STORE)


def _hold_back(planner: _Planner, source: random.Random, at: float) -> None:
    """What the owner of a durable object sends to the store as its last comes when others have
    its shards already."""
    length_s = LEASE_TTL_S + source.uniform(0.5, 2.0)
    planner.add(at, "hold_back", source.choice(("kill", "pause")), length_s)
    # Faults last that long; a shard that is not pinned stays as it is.
    planner.add(at + 2 * HELD_WITHIN_S + length_s + 1.0, "unpin", 0.0)
