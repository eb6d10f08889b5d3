"""Opening a scene: etcd, PostgreSQL, nodes of this version or the one before, gates and callers."""

from __future__ import annotations

import asyncio
import os
import random
import sys
import time
from collections.abc import AsyncIterator, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path

import goverse.client
from goverse import coordination
from goverse.aio.runtime import Runtime
from goverse.config.settings import ClusterSettings, EtcdSettings
from goverse.coordination.supervised import EtcdProcess
from goverse.storage.supervised import PostgresOptions
from goverse.testing.processes import ProcessCluster, process_cluster
from tests.migration.older import Older
from tests.migration.report import TrialReport
from tests.migration.scene import DRAIN_TIMEOUT_S, LEASE_TTL_S, NODES, NUM_SHARDS, Scene
from tests.support.etcd import etcd_options
from tests.support.postgres import PASSWORD, PostgresServer, installation, open_folder
from tests.support.tally import FOLDER
from tests.support.tallying import PAUSE_S, Tallying


@dataclass(frozen=True)
class Setup:
    """What a scene begins with.

    :param nodes: those that are there, with their capacities. :param older: the nodes and the gate
        ``g1`` are of that version; ``g2`` never is. :param stored: whether there is a database.
    :param volatile, durable: how many objects have a steady caller, with pauses of ``pause_s``.
    :param one_processor: each node may use one only, so that a little is much of what it has.
    """

    nodes: Mapping[str, str] = field(default_factory=lambda: dict.fromkeys(NODES, "1"))
    older: Older | None = None
    stored: bool = True
    volatile: int = 36
    durable: int = 12
    pause_s: tuple[float, float] = PAUSE_S
    one_processor: bool = False
    environment: Mapping[str, str] = field(default_factory=dict)


@asynccontextmanager
async def open_scene(folder: Path, report: TrialReport, setup: Setup) -> AsyncIterator[Scene]:
    """Nodes, gates, etcd, PostgreSQL and callers; all is owned and answers."""
    async with AsyncExitStack() as stack:
        etcd = EtcdProcess(etcd_options("3.4", folder / "etcd"))
        stack.push_async_callback(etcd.kill)
        await etcd.start()
        environment = {
            "GOVERSE_CLUSTER__LEASE_TTL": f"{LEASE_TTL_S:g}s",
            "GOVERSE_CLUSTER__STABILITY_DURATION": "200ms",
            "GOVERSE_CLUSTER__INITIAL_NUM_SHARDS": str(NUM_SHARDS),
            "GOVERSE_NODE__DRAIN_TIMEOUT": f"{DRAIN_TIMEOUT_S:g}s",
            "LOG_FORMAT": "json",
            FOLDER: str(folder),
            **setup.environment,
        }
        postgres = None
        if setup.stored:
            place = stack.enter_context(open_folder())
            options = PostgresOptions(place / "data", installation("15"), PASSWORD)
            postgres = PostgresServer(options)
            stack.push_async_callback(postgres.kill)
            await postgres.start()
            await _migrate(postgres, setup.older)
            environment["GOVERSE_STORAGE__URL"] = postgres.url
            environment["GOVERSE_STORAGE__PASSWORD"] = PASSWORD
        modules = ("tests.support.tally", *["tests.support.kept_tally"] * setup.stored)
        cluster = await stack.enter_async_context(
            process_cluster(etcd.endpoint, folder, modules=modules, environment=environment)
        )
        gates = await _start(cluster, setup)
        settings = ClusterSettings(etcd=EtcdSettings(endpoints=(etcd.endpoint,)))
        coordinator = await coordination.open(settings, Runtime())
        stack.push_async_callback(coordinator.close)
        clients = [
            await stack.enter_async_context(goverse.client.connect(cluster.servers[gate].address))
            for gate in gates
        ]
        load = Tallying(
            clients, volatile=setup.volatile, durable=setup.durable, pause_s=setup.pause_s
        )
        chance = random.Random(report.seed)
        scene = Scene(cluster, etcd, postgres, coordinator, load, chance, report, setup.older)
        await scene.settled()
        await stack.enter_async_context(load)
        await scene.answering(time.monotonic())
        scene.began = time.monotonic()
        yield scene


async def _start(cluster: ProcessCluster, setup: Setup) -> tuple[str, ...]:
    """Start what ``setup`` names; the gates."""
    older = setup.older
    environment = older.environment if older is not None else {}
    if older is not None:
        cluster.node_module = older.node_module
    for name, capacity in setup.nodes.items():
        # The version before knows no capacity, and ends at a setting that it does not know.
        own = {} if older is not None else {"GOVERSE_NODE__CAPACITY": capacity}
        server = await cluster.start_node(name, **environment, **own)
        if setup.one_processor:
            processors = sorted(os.sched_getaffinity(0))
            chosen = processors[len(cluster.servers) % len(processors)]
            os.sched_setaffinity(server.process.pid, {chosen})
    cluster.node_module = "goverse_node"
    await cluster.start_gate("g2")
    if older is not None:
        await cluster.start_gate("g1", **environment)
    await cluster.wait_ready()
    return ("g2",) if older is None else ("g2", "g1")


async def _migrate(postgres: PostgresServer, older: Older | None) -> None:
    """Make the schema, as that version has it. Raises RuntimeError."""
    if older is None or not older.environment:
        await postgres.migrate()
        return
    command = [sys.executable, "-m", "goverse_cli", "db", "migrate", "--url", postgres.url]
    process = await asyncio.create_subprocess_exec(
        *command,
        env={
            **{key: value for key, value in os.environ.items() if not key.startswith("GOVERSE_")},
            **older.environment,
            "GOVERSE_POSTGRES_PASSWORD": PASSWORD,
        },
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
    )
    out, _ = await process.communicate()
    if process.returncode:
        raise RuntimeError(f"{' '.join(command)}: {out.decode(errors='replace')}")
