"""Random histories in which operators cancel and retry calls while nodes die, stand still and lose
their store: what is skipped has no effect, all else has one, and each act is in the audit log."""

from __future__ import annotations

import asyncio
import logging
from dataclasses import replace
from typing import Any

import pytest

import goverse
from goverse.errors import Executed, GoverseError
from goverse.ids import ObjectId
from goverse.security.operators import OperatorRule
from goverse.storage.values import CallStatus
from goverse.testing import Cluster, run_virtual
from goverse.testing.cluster import TEST_SETTINGS
from goverse.testing.loop import ProcessKilled, SimLoop
from goverse_node.admin.audit_trail import Act, operator_acts
from tests.integration.test_reliable_histories import NAMES, History, Log, _mark
from tests.support.virtual import elapse


@pytest.mark.parametrize("seed", range(4))
def test_L20_cancelled_retried_and_parked_calls_take_effect_once_or_never(
    seed: int, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "goverse.audit")
    history = Operated(seed)
    run_virtual(lambda loop: history.run_operated(loop), seed=seed)
    acts = [record for record in caplog.records if record.name == "goverse.audit"]
    by_action: dict[str, list[str]] = {}
    for record in acts:
        assert record.by and record.outcome, record  # type: ignore[attr-defined]
        calls = record.call_ids  # type: ignore[attr-defined]
        by_action.setdefault(record.action, []).extend(calls)  # type: ignore[attr-defined]
    # A deletion and an expiry would skip too; there are none here. A node that dies can leave the
    # wish in the log alone.
    assert history.skipped <= set(by_action["cancel_call"]), f"seed {seed}"
    lost = history.skipped - set(by_action["call_cancelled"])
    assert len(lost) < len(history.skipped) / 2, f"seed {seed}: {lost}"
    assert history.unparked <= set(by_action.get("call_retried", ())), f"seed {seed}"
    history_counts.append((len(history.skipped), len(history.unparked)))


history_counts: list[tuple[int, int]] = []


def test_histories_have_met_what_they_are_about() -> None:
    """After them: too mild a history shows nothing."""
    if history_counts:
        assert sum(skipped for skipped, _ in history_counts) > 5
        assert sum(unparked for _, unparked in history_counts) > 0, history_counts


class Operated(History):
    """With an operator beside the callers. Calls are parked soon: one attempt is enough."""

    def __init__(self, seed: int) -> None:
        super().__init__(seed)
        self.skipped: set[str] = set()
        self.unparked: set[str] = set()

    async def run_operated(self, loop: SimLoop) -> None:
        limits = replace(TEST_SETTINGS.limits, max_call_attempts=1)
        settings = replace(TEST_SETTINGS, limits=limits)
        latency = (0.0002, 0.002)
        async with Cluster(
            Log, nodes=3, gates=2, seed=self.seed, latency_s=latency, settings=settings
        ) as cluster:
            self.clients = [await cluster.client(f"g{n}", name=f"c{n}") for n in (1, 2)]
            callers = [asyncio.ensure_future(self.caller(number)) for number in range(8)]
            operator = asyncio.ensure_future(self.operator(loop, cluster))
            for number in range(10):
                await elapse(self.chance.uniform(0.2, 1.5))
                if number % 5 == 2:
                    await self.poison(cluster)
                else:
                    await self.fault(cluster)
            self.ended = True
            await asyncio.gather(*callers, operator)
            cluster.heal()
            await cluster.wait_all_claimed(60)
            await self.settle(loop, cluster)
            await self.judge(cluster)

    async def operator(self, loop: SimLoop, cluster: Cluster) -> None:
        tables = cluster.store.tables
        while not self.ended:
            parked = [id for id, row in tables._calls.items() if row.status is CallStatus.PARKED]
            live = [id for id, row in tables._calls.items() if not row.status.finished]
            if parked and self.chance.random() < 0.5:
                await self.act(loop, cluster, "retry_call", self.chance.choice(parked))
            elif live and self.chance.random() < 0.5:
                await self.act(loop, cluster, "cancel_call", self.chance.choice(live))
            elif self.made and self.chance.random() < 0.3:
                await self.act(loop, cluster, "cancel_call", self.chance.choice(list(self.made)))
            await elapse(self.chance.uniform(0.0, 0.3))

    async def act(self, loop: SimLoop, cluster: Cluster, what: str, call_id: str) -> Any:
        """Ask some node; what it answers, or None."""
        members = [m for m in cluster.members if m.name in ("n1", "n2", "n3") and m.alive]
        member = self.chance.choice([m for m in members if not m.paused] or members)
        if member.paused or getattr(member, "node", None) is None:
            return None
        more: dict[str, Any] = {"timeout_s": self.chance.uniform(0.2, 6.0)}
        if what == "cancel_call":
            row = cluster.store.tables._calls.get(call_id)
            name = row.call.object.id if row is not None else self.made[call_id][0]
            more |= {"type": "Log", "id": name, "reason": "a test"}
        try:
            async with asyncio.timeout(10):
                answer = await loop.run_in(member.process, self.asked(member, what, call_id, more))
        except (GoverseError, ProcessKilled, TimeoutError):
            return None
        stands = cluster.store.tables._calls[call_id]
        if answer.status != "pending":
            assert answer.status == stands.status.value, f"seed {self.seed}: {call_id}"
        if what == "retry_call" and answer.changed:
            self.unparked.add(call_id)
        return answer

    async def asked(self, member: Any, what: str, call_id: str, more: dict[str, Any]) -> Any:
        act = Act(what, what, call_ids=(call_id,))
        with operator_acts(OperatorRule(), "127.0.0.1:5", "", act):
            return await getattr(member.node.admin, what)(call_id, **more)

    async def poison(self, cluster: Cluster) -> None:
        """A long call whose owners die, until it, or one before it, is parked."""
        name, call_id = self.chance.choice(NAMES), f"long-{len(self.made)}"
        self.made[call_id] = (name, "append", {"mark": call_id, "wait_s": 6.0})
        self.told[call_id] = set()
        await self.call(call_id, 0.5)
        for _ in range(3):
            try:
                await cluster.wait_until(lambda: cluster.owner_of(name), 30)
            except TimeoutError:
                return
            await elapse(0.5)
            owner = cluster.owner_of(name)
            if not owner:
                continue
            cluster.kill(owner)
            await cluster.start_node(owner)
            await elapse(4.0)

    async def settle(self, loop: SimLoop, cluster: Cluster) -> None:
        """Retry what is parked until nothing is, and ask for every call until it has an end."""
        tables = cluster.store.tables

        def parked() -> list[str]:
            return [id for id, row in tables._calls.items() if row.status is CallStatus.PARKED]

        async with asyncio.timeout(300):
            while found := parked():
                for call_id in found:
                    await self.act(loop, cluster, "retry_call", call_id)
                await elapse(0.1)
            for call_id in list(self.made):
                if not self.told[call_id] & {"success", "failed"}:
                    await self.call(call_id, 60.0)

    async def judge(self, cluster: Cluster) -> None:
        tables, seed = cluster.store.tables, f"seed {self.seed}"

        def quiet() -> bool:
            census = tables.census()
            return not (census.pending_calls or census.outbox_rows or census.parked_calls)

        await cluster.wait_until(quiet, 120)
        rows = tables._calls
        self.skipped = {id for id, row in rows.items() if row.status is CallStatus.SKIPPED}
        for call_id, told in self.told.items():
            status = rows[call_id].status.value
            assert told <= {status, "no", "unknown"}, f"{seed}: {call_id} is {status}, told {told}"
            assert status == "skipped" or status in told, f"{seed}: {call_id}"
        for name in NAMES:
            mine = [row for row in rows.values() if row.call.object == ObjectId("Log", name)]
            mine.sort(key=lambda row: row.seq)
            order = [_mark(row) for row in mine if row.status is CallStatus.SUCCESS]
            async with asyncio.timeout(60):
                log = await self.clients[0].get(Log, name).get()
            assert log == order, f"{seed}: {name}"
        children = [row for row in rows.values() if row.call.call_id.startswith("~")]
        relays = [
            row
            for row in rows.values()
            if row.call.method == "relay" and row.status is CallStatus.SUCCESS
        ]
        assert len(children) == 3 * len(relays), seed
        assert len(self.told) > 50, seed

    async def call(self, call_id: str, timeout_s: float) -> None:
        """As before; that it will never run is an outcome, and ends the asking."""
        name, method, arguments = self.made[call_id]
        ref = self.chance.choice(self.clients).get("Log", name)
        try:
            ref = goverse.options(ref, call_id=call_id, timeout_s=timeout_s)
            await getattr(ref, method)(**arguments)
            told = "success"
        except goverse.ApplicationError:
            told = "failed"
        except GoverseError as error:
            assert error.executed is not Executed.YES, error
            skipped = error.details.get("status") == "skipped"
            told = "skipped" if skipped else error.executed.value
        self.told[call_id].add(told)
