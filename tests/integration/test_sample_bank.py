"""The sample bank: money is conserved although nodes die, stand still, and lose their store."""

from __future__ import annotations

import asyncio
import random
import sys
from pathlib import Path
from typing import Any

import pytest

import goverse
from goverse.errors import Executed, GoverseError
from goverse.storage import MAX_BATCH_ITEMS
from goverse.storage.values import StoredCall
from goverse.testing import Cluster, run_virtual
from goverse.testing.faults import STORE
from goverse.testing.loop import SimLoop
from tests.support.virtual import elapse

sys.path.append(str(Path(__file__).parents[2] / "samples" / "bank"))

from bank import AUDITOR, Account, Auditor

ACCOUNTS = [f"account-{number}" for number in range(6)]


@pytest.mark.virtual_time
async def test_the_pages_example() -> None:
    async with Cluster(Account, Auditor, nodes=2) as cluster:
        client = await cluster.client()
        alice = client.get(Account, "alice")
        for _ in range(2):
            assert await goverse.options(alice, call_id="pay-1").deposit(100) == 100
            assert await goverse.options(alice, call_id="pay-2").transfer("bob", 30) == 70
        await at_rest(cluster, client)
        assert await client.get(Account, "bob").get_balance() == 30
        with pytest.raises(goverse.ApplicationError) as refused:
            await goverse.options(alice, call_id="pay-3").transfer("bob", 300)
        assert refused.value.code == "no_money" and refused.value.details == {"missing": 230}
        assert await client.get(Auditor, AUDITOR).audit() == {}


async def at_rest(cluster: Cluster, client: Any, timeout_s: float = 120.0) -> None:
    """Return once nothing is pending and nothing is on its way."""
    operator = cluster.store.connect()
    async with asyncio.timeout(timeout_s):
        while True:
            census = await operator.census()
            if not (census.pending_calls or census.outbox_rows):
                break
            await elapse(0.2)
    assert not census.parked_calls and not census.parked_outbox_rows


@pytest.mark.parametrize("seed", range(6))
def test_L01_L03_L36_money_is_conserved_under_faults(seed: int) -> None:
    run_virtual(lambda loop: _faults(loop, seed), seed=seed)


async def _faults(loop: SimLoop, seed: int) -> None:
    chance = random.Random(seed)
    async with Cluster(Account, Auditor, nodes=3, seed=seed, latency_s=(0.0002, 0.002)) as cluster:
        client = await cluster.client()
        traffic = Traffic(client, chance)
        await traffic.pay_in()
        callers = [asyncio.ensure_future(traffic.run()) for _ in range(6)]
        for _ in range(8):
            await elapse(chance.uniform(0.3, 2.0))
            await _one_fault(cluster, chance)
        traffic.ended = True
        await asyncio.gather(*callers)
        await cluster.wait_all_claimed(60)
        await traffic.settle()
        await at_rest(cluster, client)
        await traffic.check(cluster, f"seed {seed}")


async def _one_fault(cluster: Cluster, chance: random.Random) -> None:
    node = chance.choice(["n1", "n2", "n3"])
    fault = chance.choice(["kill", "kill", "pause", "cut store", "lose", "store away", "restart"])
    if fault == "kill":
        cluster.kill(node)
        await elapse(chance.uniform(0.0, 1.0))
        await cluster.start_node(node)
    elif fault == "pause":
        cluster.pause(node)
        await elapse(chance.uniform(1.0, 8.0))
        cluster.resume(node)
    elif fault == "restart":
        await cluster.stop(node)
        await cluster.start_node(node)
    else:
        if fault == "cut store":
            cluster.cut(node, STORE)
        elif fault == "lose":
            cluster.faults.lose(node, STORE, 0.3)
            cluster.faults.lose(STORE, node, 0.3)
        else:
            cluster.faults.close_port(STORE)
        await elapse(chance.uniform(0.5, 4.0))
        cluster.heal()


class Traffic:
    """Callers who transfer, and remember what they were told."""

    def __init__(self, client: Any, chance: random.Random) -> None:
        self.client = client
        self.chance = chance
        self.ended = False
        self.number = 0
        self.told: dict[str, str] = {}
        self.calls: dict[str, tuple[str, str, int]] = {}

    async def pay_in(self) -> None:
        for name in ACCOUNTS:
            account = goverse.options(self.client.get(Account, name), call_id=f"in-{name}")
            assert await account.deposit(1000) == 1000

    async def run(self) -> None:
        while not self.ended:
            self.number += 1
            source, target = self.chance.sample(ACCOUNTS, 2)
            call_id = f"t{self.number}"
            self.calls[call_id] = (source, target, self.chance.randrange(1, 400))
            await self.call(call_id, timeout_s=self.chance.uniform(0.2, 10.0))
            await elapse(self.chance.uniform(0.0, 0.1))

    async def call(self, call_id: str, timeout_s: float) -> None:
        source, target, amount = self.calls[call_id]
        account = goverse.options(
            self.client.get(Account, source), call_id=call_id, timeout_s=timeout_s
        )
        try:
            await account.transfer(target, amount)
            now = "success"
        except goverse.ApplicationError as error:
            assert error.code == "no_money"
            now = "failed"
        except GoverseError as error:
            now = error.executed.value
            assert error.executed is not Executed.YES
        before = self.told.get(call_id)
        assert before not in ("success", "failed") or before == now, call_id
        if not (before == "unknown" and now == "no"):
            self.told[call_id] = now

    async def settle(self) -> None:
        """Everybody repeats what was not answered; some also what was."""
        for call_id in list(self.calls):
            if self.told[call_id] not in ("success", "failed") or self.chance.random() < 0.2:
                await self.call(call_id, timeout_s=30.0)
                assert self.told[call_id] in ("success", "failed"), call_id

    async def check(self, cluster: Cluster, run: str) -> None:
        balances = dict.fromkeys(ACCOUNTS, 1000)
        store = cluster.store.connect()
        rows: dict[str, StoredCall] = {}
        call_ids = list(self.calls)
        for first in range(0, len(call_ids), MAX_BATCH_ITEMS):
            rows |= await store.get_calls(call_ids[first : first + MAX_BATCH_ITEMS])
        for call_id, (source, target, amount) in self.calls.items():
            assert rows[call_id].status.value == self.told[call_id], f"{run}: {call_id}"
            if self.told[call_id] == "success":
                balances[source] -= amount
                balances[target] += amount
        for name, balance in balances.items():
            assert await self.client.get(Account, name).get_balance() == balance, run
        auditor = self.client.get(Auditor, AUDITOR)
        assert await auditor.audit() == {}, run
        assert await auditor.get_paid_in() == sum(balances.values()), run
        assert list(self.told.values()).count("success") > 50, run
