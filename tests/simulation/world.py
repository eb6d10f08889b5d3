"""A cluster with its clients, the steps of a scenario, and the checks made on the way."""

from __future__ import annotations

import asyncio
import random
import re
from collections.abc import Awaitable, Callable

from goverse.client import Client
from goverse.cluster.records import ClaimValue, LeaderValue, decode
from goverse.errors import GoverseError
from goverse.ids import Epoch
from goverse.sharding.placement import NODE_SHARD, node_of, shard_of
from goverse.testing.cluster import Cluster
from goverse.testing.faults import COORDINATOR, STORE
from goverse.testing.loop import ProcessKilled, SimLoop, current_process
from goverse.testing.member import Kind, Member
from tests.simulation import exactly, hourglass
from tests.simulation.foreign import check_descriptions
from tests.simulation.history import CallRecord, History
from tests.simulation.hourglass import Timekeeper
from tests.simulation.operator import Operator
from tests.simulation.played import Game
from tests.simulation.players import CELLS, TALLIES, Player
from tests.simulation.scenario import (
    HELD_WITHIN_S,
    IDLE_TIMEOUT_S,
    LEASE_TTL_S,
    NUM_SHARDS,
    Scenario,
    Step,
)
from tests.simulation.workload import Workload
from tests.support.virtual import elapse

RECOVERY_S = LEASE_TTL_S + 2.0
CANCEL_S = 1.0
REST_S = 5.0
#: Backoff, a turn's deadline, backoff again.
LEDGER_S = 40.0
IDLE_SLACK_S = 2.0
#: Shards have owners again: what was due meanwhile is made up for.
CATCH_UP_S = 2.0
#: An orderly stop: shutdown timeout, draining, links.
STOP_S = 15.0


class Run:
    """One scenario being played."""

    def __init__(self, loop: SimLoop, cluster: Cluster, scenario: Scenario) -> None:
        self.loop = loop
        self.cluster = cluster
        self.scenario = scenario
        self.history = History(
            now=loop.time,
            process=current_process.get,
            claimed=self._claimed,
            record=loop.record,
            on_cancelled=self._watch_cancelled,
        )
        self._random = random.Random(f"run:{scenario.seed}")
        self._workloads: list[Workload] = []
        self._game = Game()
        self._players: list[Player] = []
        self._timekeeper: Timekeeper | None = None
        self._clients: list[Client] = []
        self._background: list[asyncio.Task[None]] = []
        self._disturbances = 0

    def stats(self) -> dict[str, float]:
        answered = sum(call.outcome == "ok" for call in self.history.calls.values())
        return {
            "calls": len(self.history.calls),
            "answered": answered,
            "turns": len(self.history.turns),
            "heard": len(self.history.heard),
            "steps": len(self.scenario.steps),
            "played": self._game.attempts(),
            "delayed": len(self._timekeeper.kept.accepted) if self._timekeeper else 0,
            "overlapping": self._game.overlapping(),
            "virtual_s": round(self.loop.elapsed_s, 1),
            "loop_steps": self.loop.steps,
        }

    async def play(self) -> None:
        async with self.cluster:
            await self._start_all()
            self.cluster.coordinator.subscribe(self.cluster.keys.prefix, self._check_owners)
            clients = [
                asyncio.create_task(self._client(f"client{number}"), name=f"client {number}")
                for number in range(1, self.scenario.clients + 1)
            ]
            operator = self._operator()
            operating = asyncio.create_task(operator.run(), name="operator")
            await self._run_steps()
            await self._heal()
            operator.stop()
            await operating
            await self._check_recovery()
            for workload in self._workloads:
                workload.stop()
            for player in self._players:
                player.stop()
            assert self._timekeeper is not None
            self._timekeeper.stop()
            for client in clients:
                await client
            await self._check_ledger()
            await self._check_rest()
        self._check_nothing_left()

    async def _start_all(self) -> None:
        await asyncio.gather(
            *(self._start_node(name) for name in self.scenario.nodes),
            *(self.cluster.start_gate(name) for name in self.scenario.gates),
        )
        await self.cluster.wait_all_claimed()

    async def _start_node(self, name: str) -> None:
        mode = "restart" if name in self.scenario.restarting else "permanent"
        await self.cluster.start_node(name, shutdown_mode=mode)

    def _operator(self) -> Operator:
        def delayed() -> list[tuple[str, str]]:
            return [*self._timekeeper.kept.asked.items()] if self._timekeeper is not None else []

        source = random.Random(f"{self.scenario.seed}:operator")
        return Operator(self.loop, self.cluster, self.history, source, delayed)

    # -- clients --------------------------------------------------------------------------------

    async def _client(self, name: str) -> None:
        gate = self._random.choice(self.scenario.gates)
        source = random.Random(f"{self.scenario.seed}:{name}")
        await self.loop.run_in(name, self._call_away(name, gate, source))

    async def _call_away(self, name: str, gate: str, source: random.Random) -> None:
        client = await self.cluster.client(gate, name=name)
        self._clients.append(client)
        workload = Workload(name, client, self.history, source)
        self._workloads.append(workload)
        chance = random.Random(f"{self.scenario.seed}:{name}:player")
        player = Player(f"{name}p", client, self._clients, self._game, self.history, chance)
        self._players.append(player)
        if self._timekeeper is not None:
            await asyncio.gather(workload.run(), player.run())
            return
        chance = random.Random(f"{self.scenario.seed}:timekeeper")
        now = self.cluster.store.tables._wall
        self._timekeeper = Timekeeper(self._clients, self.history, chance, now)
        await asyncio.gather(workload.run(), player.run(), self._timekeeper.run())

    # -- steps ----------------------------------------------------------------------------------

    async def _run_steps(self) -> None:
        started = self.loop.time()
        for step in self.scenario.steps:
            await elapse(max(0.0, started + step.at - self.loop.time()))
            self.loop.record(f"step {step.action} {step.args}")
            self._disturbances += 1
            self._do(step)
        await elapse(max(0.0, started + self.scenario.duration_s - self.loop.time()))

    def _do(self, step: Step) -> None:
        """Carry out one step; one that makes no sense any more is left out."""
        cluster, faults = self.cluster, self.cluster.faults
        match step.action, step.args:
            case "start_node" | "start_gate", (str(name),):
                if not self._alive(name):
                    start = self._start_node if step.action == "start_node" else cluster.start_gate
                    self._in_background(self._start(start, name), f"start {name}")
            case "stop", (str(name),):
                if self._alive(name) and not cluster.member(name).paused:
                    self._in_background(cluster.stop(name), f"stop {name}")
            case "kill", (str(name),):
                self._kill(name)
            case "pause", (str(name),):
                if self._alive(name):
                    cluster.pause(name)
            case "resume", (str(name),):
                cluster.resume(name)
            case "outage", ():
                faults.close_port(COORDINATOR)
            case "end_outage", ():
                faults.open_port(COORDINATOR)
            case "compact", ():
                cluster.coordinator.compact(cluster.coordinator.revision)
            case "depose", (float(first), float(second), float(length_s)):
                self._in_background(self._depose(int(first), int(second), length_s), "depose")
            case "hold_back", (str(how), float(length_s)):
                self._in_background(self._hold_back(how, length_s), "hold back")
            case "pin", (float(shard), str(name)):
                self._in_background(self._pin(int(shard), name), "pin")
            case "unpin", (float(shard),):
                self._in_background(self._pin(int(shard), None), "unpin")
            case action, args:
                getattr(faults, action)(*args)

    async def _depose(self, first: int, second: int, length_s: float) -> None:
        """Cut off whoever leads while it plans: what it wrote may arrive after its time."""
        await self._pin_elsewhere(first)
        await elapse(self._random.uniform(0.005, 0.03))
        await self._pin_elsewhere(second)  # seen during the pause that follows a plan
        await elapse(self._random.uniform(0.005, 0.02))
        leader = self.cluster.coordinator.get(self.cluster.keys.leader)
        if leader is None:
            return
        name = decode(leader, LeaderValue).node
        self.cluster.cut(name, COORDINATOR)
        await elapse(length_s)
        self.cluster.faults.mend(name, COORDINATOR)

    async def _hold_back(self, how: str, length_s: float) -> None:
        """Have a commit of an owner arrive when it has long been forgotten, and let others load
        what that may have changed."""
        name = self.cluster.owner_of(self._random.choice((*CELLS, *TALLIES)))
        if not self._alive(name) or self.cluster.member(name).paused:
            return
        try:
            # One that is on its way already would not be slow any more.
            await self.cluster.wait_until(lambda: not self._commits(name), HELD_WITHIN_S)
            self.cluster.slow(name, STORE, length_s)
            await self.cluster.wait_until(lambda: self._commits(name), HELD_WITHIN_S)
        except TimeoutError:
            pass  # it had nothing to send
        if how == "kill":
            self._kill(name)
        elif self._alive(name):
            self.cluster.pause(name)
        self.cluster.faults.mend(name, STORE)
        await elapse(length_s + self._random.uniform(0.002, 0.03))
        shards = self._random.sample(range(NUM_SHARDS), NUM_SHARDS // 2)
        for shard in shards:
            await self._pin_elsewhere(shard)
        if how == "pause":
            self.cluster.resume(name)
        await self._start(self._start_node, name)
        await elapse(0.5)
        for shard in shards:
            await self._pin(shard, None)

    def _commits(self, name: str) -> bool:
        """Whether a commit of ``name`` is under way."""
        node = self.cluster.member(name).node
        durability = node.snapshot().durability if node is not None else None
        return durability is not None and durability.commits.in_flight > 0

    def _kill(self, name: str) -> None:
        if self._alive(name):
            self.history.forget_process(self.cluster.member(name).process)
            self.cluster.kill(name)

    async def _pin_elsewhere(self, shard: int) -> None:
        owner = self.cluster.owners().get(shard)
        others = [m.name for m in self.cluster.members if m.node is not None and m.name != owner]
        if others:
            await self._pin(shard, self._random.choice(others))

    def _alive(self, name: str) -> bool:
        return any(member.name == name and member.alive for member in self.cluster.members)

    async def _start(self, start: Callable[[str], Awaitable[object]], name: str) -> None:
        if not self._alive(name):
            try:
                await start(name)
            except ProcessKilled:
                pass

    async def _pin(self, shard: int, node: str | None) -> None:
        try:
            await self.cluster.pin(shard, node)
        except GoverseError:
            pass  # nobody promised that the node is there

    def _in_background(self, coro: object, name: str) -> None:
        self._background.append(asyncio.create_task(coro, name=name))  # type: ignore[arg-type]

    # -- after the faults -------------------------------------------------------------------------

    async def _heal(self) -> None:
        """End every fault, bring back who is missing, and let orderly stops finish."""
        self._disturbances += 1
        self.loop.record("healing")
        self.cluster.heal()
        for member in self.cluster.members:
            if member.alive and member.paused:
                self.cluster.resume(member.name)
        for gate in self.scenario.gates:
            if not self._alive(gate):
                self._in_background(self._start(self.cluster.start_gate, gate), f"start {gate}")
        if not self._node_alive():
            self._in_background(self._start(self._start_node, "n1"), "start n1")

    def _node_alive(self) -> bool:
        return any(m.alive for m in self.cluster.members if m.kind is Kind.NODE)

    async def _check_recovery(self) -> None:
        healed = self.loop.time()
        stopping = [task for task in self._background if task.get_name().startswith("stop")]
        try:
            async with asyncio.timeout(RECOVERY_S + STOP_S * bool(stopping)):
                for task in stopping:
                    await task
                    healed = self.loop.time()
                if not self._node_alive():  # those that were alive were all stopping
                    await self._start(self._start_node, "n1")
                    healed = self.loop.time()
                await self.cluster.wait_all_claimed(healed + RECOVERY_S - self.loop.time())
        except TimeoutError:
            owners = self.cluster.owners()
            self.history.violate("I5", f"claimed {len(owners)} of {NUM_SHARDS}: {owners}")
            return
        probes = [
            asyncio.create_task(workload.probe(f"shard#{shard}/probe", healed + RECOVERY_S))
            for shard in range(NUM_SHARDS)
            for workload in [self._workloads[shard % len(self._workloads)]]
        ]
        for shard, probe in enumerate(probes):
            outcome = await probe
            if outcome != "ok":
                self.history.violate(
                    "I5", f"shard {shard} answers {outcome} {RECOVERY_S} s after the faults"
                )
        for task in self._background:
            await task
        for member in self.cluster.members:
            if member.alive and member.gate is not None:
                await check_descriptions(member.gate, self.history, self.loop.time() + RECOVERY_S)

    async def _check_ledger(self) -> None:
        """Nothing is pending any more, and the histories of durable objects have an order."""
        tables = self.cluster.store.tables
        timekeeper = self._timekeeper
        assert timekeeper is not None
        await elapse(CATCH_UP_S)
        await self.loop.run_in("reader", timekeeper.end(self.loop.time() + RECOVERY_S))

        def pending() -> list[str]:
            census = tables.census()
            found = [f"{census.pending_calls} calls are pending"] * bool(census.pending_calls)
            found += [f"{census.delayed_calls} are delayed"] * bool(census.delayed_calls)
            return found + [f"{census.outbox_rows} rows wait"] * bool(census.outbox_rows)

        try:
            await self.cluster.wait_until(lambda: not pending(), LEDGER_S)
        except TimeoutError:
            self.history.violate("I6", f"{LEDGER_S} s after the faults {'; '.join(pending())}")
            return
        settled, calls = self._game.next_moment(), list(tables._calls.values())
        rows = [row for row in calls if row.call.object.type != "Hourglass"]
        delayed = [row for row in calls if row.call.object.type == "Hourglass"]
        await elapse(IDLE_TIMEOUT_S + IDLE_SLACK_S)  # then they are loaded from the store again
        last = await self.loop.run_in(
            "reader", self._players[0].read_all(self.loop.time() + RECOVERY_S)
        )
        for violation in exactly.check(self._game, rows, settled, last):
            self.history.violations.append(violation)
        read = await self.loop.run_in("reader", timekeeper.read(self.loop.time() + RECOVERY_S))
        self.history.violations += hourglass.check(timekeeper.kept, delayed, read)

    async def _check_rest(self) -> None:
        """Everything that waited or ran for a call is gone."""
        try:
            await self.cluster.wait_until(lambda: not self._busy(), REST_S)
        except TimeoutError:
            self.history.violate("I6", f"at rest there still is: {'; '.join(self._busy())}")
        for call in self.history.calls.values():
            if call.outcome == "waiting" and self._process_lives(call.caller):
                self.history.violate("I6", f"{call.token} from {call.caller} still waits")

    def _busy(self) -> list[str]:
        """Who still has something to do; empty at rest."""
        found = [f"turn {turn.token} on {turn.node}" for turn in self.history.running()]
        for member in self.cluster.members:
            if member.alive:
                found.extend(f"{member.name}: {what}" for what in self._todo(member))
        for client in self._clients:
            waiting = client.snapshot().session.waiting
            found.extend([f"a client has {waiting} calls"] * bool(waiting))
        return found

    def _todo(self, member: Member) -> list[str]:
        return busy(member, self.loop.tasks_of(member.process))

    def _check_nothing_left(self) -> None:
        for member in self.cluster.members:
            tasks = self.loop.tasks_of(member.process)
            if tasks and not self.loop.is_killed(member.process):
                self.history.violate("I6", f"{member.process} has stopped and left {tasks}")
        for error in self.loop.errors:
            self.history.violate("I8", error)

    def _process_lives(self, process: str) -> bool:
        return not self.loop.is_killed(process)

    # -- the truth --------------------------------------------------------------------------------

    def _claimed(self, process: str, object: str, epoch: Epoch) -> bool:
        """Whether the coordinator holds ``process``'s claim of the object under ``epoch``."""
        name = process.partition("#")[0]
        id = object.partition("/")[2]
        shard = shard_of(id, NUM_SHARDS)
        if shard == NODE_SHARD:
            key = f"{self.cluster.keys.prefix}nodes/{name}"
            item = self.cluster.coordinator.get(key)
            return node_of(id) == name and item is not None and item.create_revision == epoch[1]
        item = self.cluster.coordinator.get(self.cluster.keys.claim(shard))
        if item is None or item.create_revision != epoch.revision:
            return False
        return decode(item, ClaimValue).node == name

    def _check_owners(self) -> None:
        """I4, at every change in the coordinator: who believes to own, owns."""
        claims = self.cluster.claims()
        for member in self.cluster.members:
            node = member.node
            if not member.alive or node is None or not node.member.valid():
                continue
            for shard in node.catalog.snapshot().shards:
                if shard.number == NODE_SHARD:
                    continue
                claim = claims.get(shard.number)
                if claim is None or claim.create_revision != shard.epoch.revision:
                    self.history.violate(
                        "I4",
                        f"at {self.loop.elapsed_s:.3f} {member.process} believes to own shard "
                        f"{shard.number} under {shard.epoch}; the claim is {claim}",
                    )

    def _watch_cancelled(self, call: CallRecord) -> None:
        """I7: with no fault in between, the turn of a cancelled call is over soon."""
        if self._quiet():
            before = self._disturbances
            self.loop.call_later(CANCEL_S, self._check_cancelled, call, before)

    def _check_cancelled(self, call: CallRecord, disturbances: int) -> None:
        if not self._quiet() or self._disturbances != disturbances:
            return
        for turn in self.history.by_token.get(call.token, ()):
            if turn.ended is None:
                self.history.violate(
                    "I7", f"{call.token} was cancelled {CANCEL_S} s ago; {turn.node} still runs it"
                )

    def _quiet(self) -> bool:
        paused = any(member.alive and member.paused for member in self.cluster.members)
        return self.cluster.faults.snapshot().clean and not paused


#: Tasks of a process that has nothing to do.
_STANDING = re.compile(
    r"[^:]*:run_in|cluster view:watch|leadership:(planner|loads)|membership:lease|ownership:claims"
    r"|durability:commit lane \d+|reliable calls:(read delayed calls|make calls due)"
    r"|node links:dial|memory coordinator:(lease [0-9a-f]+|watch .*)"
    r"|[^:]*->[^:]*:(read|write)|[^:]*:listener:accept"
)


def busy(member: Member, tasks: tuple[str, ...]) -> list[str]:
    """What one member still has to do, by its own account and by its tasks."""
    found = [f"task {task}" for task in tasks if not _STANDING.fullmatch(task)]
    leases = [task for task in tasks if task.startswith("memory coordinator:lease")]
    if len(leases) > 1:
        found.append(f"{len(leases)} leases are kept alive")
    pool = None
    if (node := member.node) is not None:
        state = node.snapshot()
        pool = state.pool
        found += [f"{state.local_calls} local calls"] * bool(state.local_calls)
        found += [f"{state.catalog.held} calls held back"] * bool(state.catalog.held)
        found += [
            f"shard {s.number} has {s.holders} turns" for s in state.catalog.shards if s.holders
        ]
        if (reliability := state.reliability) is not None:
            left = reliability.entries or reliability.outbox or reliability.recovering
            found += [f"{reliability}"] * bool(left)
        if (durability := state.durability) is not None:
            found += [f"{durability}"] * bool(durability.commits.bytes or durability.loading)
        found += ["pushes wait for gates"] * (not state.pushes.at_rest)
        waiting = state.member.view.waiting
        found += [f"{waiting} calls wait for an owner"] * bool(waiting)
    if (gate := member.gate) is not None:
        gate_state = gate.snapshot()
        pool = gate_state.pool
        waiting = gate_state.member.view.waiting
        found += [f"{waiting} calls wait for an owner"] * bool(waiting)
        found += [f"{gate_state.clients.waiting} pushes"] * bool(gate_state.clients.waiting)
        found += [f"{gate_state.ingress.calls} calls of clients"] * bool(gate_state.ingress.calls)
    for peer in pool.peers if pool is not None else ():
        found += [f"{peer.waiting_calls} calls wait for {peer.member}"] * bool(peer.waiting_calls)
        found += [f"link {link}" for link in peer.links if not link.at_rest]
    return found
