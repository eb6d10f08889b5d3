"""Random histories of reliable and plain calls while nodes die, stand still and lose their store:
each call id has one outcome and one effect, and the calls of an object take effect in its order."""

from __future__ import annotations

import asyncio
import random
from typing import Any

import pytest

import goverse
from goverse.errors import Executed, GoverseError
from goverse.ids import ObjectId
from goverse.storage.values import CallStatus
from goverse.testing import Cluster, run_virtual
from goverse.testing.faults import STORE
from goverse.testing.loop import SimLoop
from tests.support.virtual import elapse

NAMES = [f"log-{number}" for number in range(5)]


class Log(goverse.Object, durability="acknowledged"):
    """Remembers what took effect on it, in order."""

    marks: list[str] = []
    plain: int = 0

    @goverse.method
    async def append(self, mark: str, wait_s: float = 0.0) -> int:
        self.marks.append(mark)
        if wait_s:
            await elapse(wait_s)
        return len(self.marks)

    @goverse.method
    async def relay(self, mark: str, to: list[str]) -> int:
        self.marks.append(mark)
        for number, name in enumerate(to):
            goverse.issue(goverse.get(Log, name).append(f"{mark}>{self.id}>{number}"))
        return len(self.marks)

    @goverse.method
    async def fail(self, mark: str) -> None:
        self.marks.append(mark)
        raise goverse.ApplicationError("no", mark)

    @goverse.method
    async def count(self) -> int:
        self.plain += 1
        return self.plain

    @goverse.method(read_only=True)
    async def get(self) -> list[str]:
        return self.marks

    @goverse.method(read_only=True)
    async def get_plain(self) -> int:
        return self.plain


@pytest.mark.parametrize("seed", range(8))
def test_L01_L03_L07_one_outcome_one_effect_one_order(seed: int) -> None:
    run_virtual(lambda loop: History(seed).run(loop), seed=seed)


class History:
    def __init__(self, seed: int) -> None:
        self.seed = seed
        self.chance = random.Random(f"history {seed}")
        self.ended = False
        self.made: dict[str, tuple[str, str, dict[str, Any]]] = {}
        self.told: dict[str, set[str]] = {}
        self.plain_yes = dict.fromkeys(NAMES, 0)
        self.plain_unknown = dict.fromkeys(NAMES, 0)

    async def run(self, loop: SimLoop) -> None:
        latency = (0.0002, 0.002)
        async with Cluster(Log, nodes=3, gates=2, seed=self.seed, latency_s=latency) as cluster:
            self.clients = [await cluster.client(f"g{n}", name=f"c{n}") for n in (1, 2)]
            callers = [asyncio.ensure_future(self.caller(number)) for number in range(8)]
            for _ in range(8):
                await elapse(self.chance.uniform(0.2, 1.5))
                await self.fault(cluster)
            self.ended = True
            await asyncio.gather(*callers)
            cluster.heal()
            await cluster.wait_all_claimed(60)
            for call_id in list(self.made):
                if not self.told[call_id] & {"success", "failed"}:
                    await self.call(call_id, 60.0)
            await self.check(cluster)

    async def caller(self, number: int) -> None:
        mine = 0
        while not self.ended:
            client, name = self.chance.choice(self.clients), self.chance.choice(NAMES)
            kind = self.chance.choice(["append", "append", "relay", "fail", "plain", "repeat"])
            if kind == "plain":
                await self.plain(client, name)
            elif kind == "repeat" and self.made:
                await self.call(self.chance.choice(list(self.made)), self.chance.uniform(0.1, 5))
            else:
                mine += 1
                call_id = f"{number}-{mine}"
                arguments: dict[str, Any] = {"mark": call_id}
                if kind == "relay":
                    arguments["to"] = self.chance.choices(NAMES, k=3)
                elif kind == "append":
                    arguments["wait_s"] = self.chance.choice([0.0, 0.0, 0.1, 1.0])
                method = "append" if kind == "repeat" else kind
                self.made[call_id] = (name, method, arguments)
                self.told[call_id] = set()
                await self.call(call_id, self.chance.uniform(0.1, 8.0))
            await elapse(self.chance.uniform(0.0, 0.05))

    async def call(self, call_id: str, timeout_s: float) -> None:
        name, method, arguments = self.made[call_id]
        ref = self.chance.choice(self.clients).get("Log", name)
        try:
            ref = goverse.options(ref, call_id=call_id, timeout_s=timeout_s)
            await getattr(ref, method)(**arguments)
            told = "success"
        except goverse.ApplicationError as error:
            assert (error.code, error.message) == ("no", call_id)
            told = "failed"
        except GoverseError as error:
            assert error.executed is not Executed.YES, error
            told = error.executed.value
        self.told[call_id].add(told)

    async def plain(self, client: Any, name: str) -> None:
        try:
            await goverse.options(client.get(Log, name), timeout_s=5.0).count()
            self.plain_yes[name] += 1
        except GoverseError as error:
            self.plain_unknown[name] += error.executed is not Executed.NO

    async def fault(self, cluster: Cluster) -> None:
        node, gate = self.chance.choice(["n1", "n2", "n3"]), self.chance.choice(["g1", "g2"])
        kind = self.chance.choice(
            ["kill", "pause", "cut store", "lose", "cut link", "stop", "kill gate", "move"]
        )
        if kind == "kill":
            cluster.kill(node)
            await cluster.start_node(node)
        elif kind == "kill gate":
            cluster.kill(gate)
            await cluster.start_gate(gate)
        elif kind == "pause":
            cluster.pause(node)
            await elapse(self.chance.uniform(0.5, 6.0))
            cluster.resume(node)
        elif kind == "stop":
            await cluster.stop(node)
            await cluster.start_node(node)
        elif kind == "move":
            for shard in range(cluster.settings.cluster.initial_num_shards):
                await cluster.pin(shard, self.chance.choice(["n1", "n2", "n3", None]))
        else:
            if kind == "cut store":
                cluster.cut(node, STORE)
            elif kind == "lose":
                cluster.faults.lose(node, STORE, 0.4)
                cluster.faults.lose(STORE, node, 0.4)
            else:
                cluster.cut(node, gate)
            await elapse(self.chance.uniform(0.5, 5.0))
            cluster.heal()

    async def check(self, cluster: Cluster) -> None:
        tables, seed = cluster.store.tables, f"seed {self.seed}"

        def quiet() -> bool:
            census = tables.census()
            return not (census.pending_calls or census.outbox_rows)

        await cluster.wait_until(quiet, 120)
        rows = tables._calls
        for call_id, told in self.told.items():
            status = rows[call_id].status.value
            assert status in ("success", "failed")
            assert told <= {status, "no", "unknown"} and status in told, f"{seed}: {call_id}"
        logs: dict[str, list[str]] = {}
        for name in NAMES:
            mine = [row for row in rows.values() if row.call.object == ObjectId("Log", name)]
            mine.sort(key=lambda row: row.seq)
            order = [_mark(row) for row in mine if row.status is CallStatus.SUCCESS]
            async with asyncio.timeout(60):
                log = await self.clients[0].get(Log, name).get()
                plain = await self.clients[0].get(Log, name).get_plain()
            assert log == order, f"{seed}: {name}"
            yes, unknown = self.plain_yes[name], self.plain_unknown[name]
            assert yes <= plain <= yes + unknown, f"{seed}: {name}"
            logs[name] = log
        for log in logs.values():
            _check_lanes(log, logs, seed)
        children = [row for row in rows.values() if row.call.call_id.startswith("~")]
        relays = [
            row
            for row in rows.values()
            if row.call.method == "relay" and row.status is CallStatus.SUCCESS
        ]
        assert len(children) == 3 * len(relays) > 20, seed
        assert sum("unknown" in told for told in self.told.values()) > 3, seed
        assert len(self.told) > 100, seed


def _mark(row: Any) -> str:
    import msgspec

    return str(msgspec.msgpack.decode(row.call.arguments.data)["mark"])


def _check_lanes(log: list[str], logs: dict[str, list[str]], where: str) -> None:
    """What one object issued to another has arrived in the order in which it was issued."""
    last: dict[str, tuple[int, int]] = {}
    for mark in log:
        if ">" in mark:
            parent, sender, number = mark.split(">")
            place = (logs[sender].index(parent), int(number))
            assert last.get(sender, (-1, 0)) < place, f"{where}: {mark}"
            last[sender] = place
