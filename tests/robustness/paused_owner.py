"""An owner that stands still while it commits: ``python -m tests.robustness.paused_owner``.

Each round holds back what one node sends to PostgreSQL until its commits are there, stops the node
past its lease, waits until others own its counters and have committed to them, and lets both go on.
The late commits must change nothing.
"""

from __future__ import annotations

import argparse
import asyncio
import random
import shutil
import signal
import sys
import tempfile
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import goverse.client
from goverse.aio.children import free_port
from goverse.client import Client
from goverse.coordination.supervised import EtcdOptions, EtcdProcess
from goverse.errors import Executed, GoverseError
from goverse.sharding import slot_of
from goverse.storage.supervised import PostgresOptions
from goverse.testing.processes import ProcessCluster, Server, process_cluster
from tests.robustness.faults import LEASE_TTL_S, NODES
from tests.robustness.report import keep
from tests.robustness.world import Counters, read_counters
from tests.support.balance import balanced
from tests.support.durable_counter import DurableCounter, Told
from tests.support.eventually import eventually
from tests.support.holding_proxy import HoldingProxy
from tests.support.postgres import PASSWORD, PostgresServer, installation, open_folder

COUNTERS = tuple(f"counter-{number}" for number in range(24))
CALL_S = 30.0
ROUND_S = 40.0


@dataclass
class World:
    cluster: ProcessCluster
    postgres: PostgresServer
    proxies: dict[str, HoldingProxy]
    client: Client
    told: dict[str, Told] = field(default_factory=lambda: {name: Told() for name in COUNTERS})
    counters: Counters = field(default_factory=Counters)

    async def add(self, name: str, *, timeout_s: float = CALL_S) -> None:
        """One addition, noted. Raises what it was refused with."""
        told = self.told[name]
        counter = goverse.options(self.client.get(DurableCounter, name), timeout_s=timeout_s)
        try:
            value, told.pid = await counter.add()
        except GoverseError as error:
            told.errors.append(f"{error.code}: {error}")
            told.unknown += error.executed is Executed.UNKNOWN
            told.not_executed += error.executed is Executed.NO
            raise
        told.values.append(value)

    async def fenced(self, node: str) -> int:
        await read_counters(self.cluster.servers[node], self.counters)
        living = self.counters.living.get(node, {})
        key = 'goverse_refused_commits_total{reason="fenced"}'
        return int(living.get(key, 0))

    def on(self, pid: int) -> list[str]:
        return [name for name, told in self.told.items() if told.pid == pid]

    def fences(self, session: Any, names: list[str]) -> dict[int, tuple[int, int]]:
        """The epochs under which the slots of counters were opened."""
        slots = [slot_of(name) for name in names]
        found = session.execute(
            "SELECT slot, generation, revision FROM goverse_fences WHERE slot = ANY(%s)", (slots,)
        )
        return {slot: (generation, revision) for slot, generation, revision in found.fetchall()}

    def stored(self, session: Any, names: list[str]) -> list[Any]:
        found = session.execute(
            "SELECT object_id, version, state FROM goverse_objects WHERE object_id = ANY(%s)"
            " ORDER BY object_id",
            (names,),
        )
        return [tuple(row) for row in found.fetchall()]


@dataclass
class Outcome:
    """:param unknown: additions of which nobody knew. :param fenced: commits refused by a fence."""

    seed: int
    rounds: int = 0
    late: int = 0
    unknown: int = 0
    fenced: int = 0
    acknowledged: int = 0

    def __str__(self) -> str:
        return (
            f"paused owner: {self.rounds} rounds, {self.late} counters with a commit on its way, "
            f"{self.fenced} commits fenced, {self.unknown} additions unknown, {self.acknowledged} "
            f"acknowledged and all there; seed {self.seed}"
        )


async def paused_owner(rounds: int, seed: int, folder: Path) -> Outcome:
    """Raises AssertionError if a promise was broken, or a round showed nothing."""
    chance, outcome = random.Random(seed), Outcome(seed)
    async with open_world(folder) as world:
        await asyncio.gather(*(world.add(name) for name in COUNTERS))
        for _ in range(rounds):
            async with asyncio.timeout(ROUND_S):
                await _round(world, chance, outcome)
            outcome.rounds += 1
        for name, told in world.told.items():
            final, _ = await world.client.get(DurableCounter, name).get()
            told.check(final)
            assert final == len(told.values), f"{name}: an unknown addition took effect late"
    outcome.unknown = sum(told.unknown for told in world.told.values())
    outcome.acknowledged = sum(len(told.values) for told in world.told.values())
    return outcome


async def _round(world: World, chance: random.Random, outcome: Outcome) -> None:
    node, names = await _an_owner(world, chance)
    server, proxy = world.cluster.servers[node], world.proxies[node]
    fenced = await world.fenced(node)
    with world.postgres.connect() as session:
        fences = world.fences(session, names)
        proxy.hold()
        late = [asyncio.create_task(world.add(name)) for name in names]
        await eventually(lambda: proxy.holds)
        server.signal(signal.SIGSTOP)
        continued = False
        try:
            # Everybody who waited for the late commits is told, as their node is gone.
            told = await asyncio.gather(*late, return_exceptions=True)
            unknown = {n: e for n, e in zip(names, told, strict=True) if e is not None}
            assert all(_is_unknown(error) for error in unknown.values()), told
            assert unknown, "nothing was under way when the owner stopped"
            await asyncio.gather(*(world.add(name) for name in names))
            assert not world.on(server.process.pid)
            # What had just moved for balance was answered, by its new owner.
            raised = world.fences(session, list(unknown))
            stands = [slot for slot, fence in raised.items() if fence <= fences[slot]]
            assert not stands, f"{node} was stopped, and the fences of {stands} were not raised"
            before = world.stored(session, names)
            # Some late commits arrive while their sender stands still, others when it runs.
            if chance.random() < 0.5:
                server.signal(signal.SIGCONT)
                continued = True
            proxy.deliver()
        finally:
            if not continued:
                server.signal(signal.SIGCONT)
        await eventually(lambda: _has_fenced(world, node, fenced), timeout_s=20)
        await world.cluster.wait_ready(node)
        assert world.stored(session, names) == before, f"{node} has written after its lease"
    outcome.late += len(unknown)
    outcome.fenced += await world.fenced(node) - fenced


def _is_unknown(error: object) -> bool:
    return isinstance(error, GoverseError) and error.executed is Executed.UNKNOWN


async def _has_fenced(world: World, node: str, before: int) -> bool:
    return await world.fenced(node) > before


async def _an_owner(world: World, chance: random.Random) -> tuple[str, list[str]]:
    """A node that has counters, and these."""

    await balanced(world.cluster, *NODES)  # nothing moves while the round lasts
    await asyncio.gather(*(world.add(name) for name in COUNTERS))
    owned = {n: world.on(world.cluster.servers[n].process.pid) for n in NODES}
    node = chance.choice([name for name in NODES if owned[name]])
    return node, owned[node]


@asynccontextmanager
async def open_world(folder: Path) -> AsyncIterator[World]:
    """Three nodes, each with a way of its own to PostgreSQL, and a gate; all ready."""
    async with AsyncExitStack() as stack:
        place = stack.enter_context(open_folder())
        etcd = EtcdProcess(EtcdOptions(folder / "etcd"))
        options = PostgresOptions(place / "data", installation("15"), PASSWORD, free_port())
        postgres = PostgresServer(options)
        stack.push_async_callback(etcd.stop)
        stack.push_async_callback(postgres.kill)
        await asyncio.gather(etcd.start(), postgres.start())
        await postgres.migrate()
        environment = {
            "GOVERSE_CLUSTER__LEASE_TTL": f"{LEASE_TTL_S:g}s",
            "GOVERSE_CLUSTER__STABILITY_DURATION": "200ms",
            "GOVERSE_CLUSTER__INITIAL_NUM_SHARDS": "256",
            "GOVERSE_STORAGE__PASSWORD": PASSWORD,
        }
        cluster = await stack.enter_async_context(
            process_cluster(
                etcd.endpoint,
                folder,
                modules=("tests.support.durable_counter",),
                environment=environment,
            )
        )
        proxies: dict[str, HoldingProxy] = {}
        for name in NODES:
            proxies[name] = proxy = await HoldingProxy(postgres.options.port).start()
            stack.push_async_callback(proxy.close)
            url = postgres.settings(port=proxy.port).url
            await cluster.start_node(name, GOVERSE_STORAGE__URL=url)
        gate: Server = await cluster.start_gate("g1")
        await cluster.wait_ready()
        client = await stack.enter_async_context(goverse.client.connect(gate.address))
        yield World(cluster, postgres, proxies, client)


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.robustness.paused_owner")
    parser.add_argument("--rounds", type=int, default=100)
    parser.add_argument("--seed", type=int, default=None, help="default: a new one")
    parser.add_argument("--reports", type=Path, default=Path("reports"))
    given = parser.parse_args()
    seed = random.SystemRandom().randrange(2**32) if given.seed is None else given.seed
    print(f"paused owner: {given.rounds} rounds, seed {seed}", flush=True)
    folder = Path(tempfile.mkdtemp(prefix="goverse-robustness."))
    try:
        outcome = asyncio.run(paused_owner(given.rounds, seed, folder))
    except (AssertionError, TimeoutError):
        print(f"paused owner: seed {seed} FAILED; the logs of all processes are in {folder}")
        raise
    shutil.rmtree(folder)
    keep(given.reports, f"paused-owner-{seed}.txt", str(outcome))
    return 0


if __name__ == "__main__":
    sys.exit(main())
