"""The bank on three nodes and two gates, with etcd and a database, each in a network of its own."""

from __future__ import annotations

import asyncio
import re
import signal
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path

from goverse.coordination.supervised import EtcdOptions, EtcdProcess
from goverse.process import EXIT_CANNOT_START
from goverse.testing.processes import ProcessCluster, Server, http_get, process_cluster
from tests.robustness.faults import (
    CUT,
    ETCD,
    GATES,
    KILL,
    LEASE_TTL_S,
    NODES,
    PAUSE,
    POSTGRES,
    RESTART_PG,
    Fault,
)
from tests.robustness.ledger import under_way
from tests.support.databases import DatabaseServer, database
from tests.support.etcd import etcd_binary
from tests.support.namespaces import Namespaces, open_namespaces
from tests.support.pacing import last
from tests.support.postgres import PASSWORD, open_folder

BANK = Path(__file__).parents[2] / "samples" / "bank" / "bank.py"
_COUNTER = re.compile(r"^(goverse_\w+_total)(?:\{(.*)\})? ([0-9.e+]+)$", re.MULTILINE)
READY_S = 40.0


@dataclass
class Counters:
    """Sums over all lives of all processes, of counters that each of them begins at 0."""

    ended: dict[str, float] = field(default_factory=dict)
    living: dict[str, dict[str, float]] = field(default_factory=dict)

    def seen(self, process: str, text: str) -> None:
        self.living[process] = {
            f"{name}{{{labels}}}": float(value) for name, labels, value in _COUNTER.findall(text)
        }

    def died(self, process: str) -> None:
        for name, value in self.living.pop(process, {}).items():
            self.ended[name] = self.ended.get(name, 0.0) + value

    def total(self, name: str, **labels: str) -> int:
        wanted = [f'{label}="{value}"' for label, value in labels.items()]
        return int(
            sum(
                value
                for counters in (self.ended, *self.living.values())
                for key, value in counters.items()
                if key.startswith(name + "{") and all(each in key for each in wanted)
            )
        )


async def read_counters(server: Server, counters: Counters) -> None:
    """What a process has counted; of one that does not answer, what it had counted before."""
    with suppress(OSError, TimeoutError):
        _, text = await http_get(server.ops_address, "/metrics", timeout_s=1.0)
        counters.seen(server.name, text)


@dataclass
class World:
    """What faults can happen to."""

    spaces: Namespaces
    cluster: ProcessCluster
    etcd: EtcdProcess
    store: DatabaseServer
    counters: Counters = field(default_factory=Counters)
    #: Starts that ended because something needed was away, and were made again.
    restarts: int = 0

    @property
    def servers(self) -> dict[str, Server]:
        return self.cluster.servers

    # -- faults

    async def begin(self, fault: Fault) -> None:
        if fault.kind == KILL:
            await self.scrape(fault.target)
            await self.cluster.kill(fault.target)
            self.counters.died(fault.target)
        elif fault.kind == PAUSE:
            self.servers[fault.target].signal(signal.SIGSTOP)
        elif fault.kind == CUT:
            for source, target in self._ways(fault):
                self.spaces.cut(source, target)
        else:
            service = self.store if fault.kind == RESTART_PG else self.etcd
            await (service.kill() if fault.hard else service.stop())

    async def undo(self, fault: Fault) -> None:
        if fault.kind == KILL:
            await self.start(fault.target)
        elif fault.kind == PAUSE:
            self.servers[fault.target].signal(signal.SIGCONT)
        elif fault.kind == CUT:
            for source, target in self._ways(fault):
                self.spaces.heal(source, target)
        else:
            await (self.store if fault.kind == RESTART_PG else self.etcd).start()

    def _ways(self, fault: Fault) -> list[tuple[str, str]]:
        if fault.one_way:
            return [(fault.target, fault.peer)]
        return [(fault.target, fault.peer), (fault.peer, fault.target)]

    async def start(self, name: str) -> None:
        if name in NODES:
            await self.cluster.start_node(name)
        else:
            await self.cluster.start_gate(name)

    # -- looking

    async def _supervise(self) -> None:
        """Start again what could not start, as whoever runs it would: a node whose store is away
        ends and says so. Raises AssertionError if a process has ended in another way."""
        for server in list(self.servers.values()):
            if server.alive:
                continue
            log = server.log()
            if server.process.returncode != EXIT_CANNOT_START or "cannot start" not in log[-1000:]:
                raise AssertionError(f"{server.name} ended by itself:\n{log[-4000:]}")
            self.restarts += 1
            await self.start(server.name)

    async def not_ready(self) -> list[str]:
        """Processes that do not say that they are ready."""
        await self._supervise()
        found = await asyncio.gather(*(self._is_ready(s) for s in self.servers.values()))
        return [s.name for s, ready in zip(self.servers.values(), found, strict=True) if not ready]

    async def _is_ready(self, server: Server) -> bool:
        with suppress(OSError, TimeoutError):
            status, _ = await http_get(server.ops_address, "/ready", timeout_s=2.0)
            return status == 200
        return False

    def faults_in_logs(self) -> list[str]:
        """Exceptions that nobody expected, with what is above and below them."""
        found = []
        for path in sorted(self.cluster.folder.glob("*.log")):
            lines = path.read_text(errors="replace").splitlines()
            for number, line in enumerate(lines):
                if line.startswith("Traceback"):
                    text = "\n".join(lines[max(number - 1, 0) : number + 40])
                    found.append(f"{path.name}: {text}")
        return found

    async def scrape(self, *names: str) -> None:
        """Read the counters of processes; what is paused or gone is left as it was."""

        servers = [self.servers[name] for name in names or list(self.servers)]
        await asyncio.gather(*(read_counters(server, self.counters) for server in servers))

    async def keep_scraping(self, every_s: float = 2.0) -> None:
        while True:
            await self.scrape()
            await last(every_s)

    async def wait_at_rest(self, timeout_s: float) -> float:
        """Wait until no call is pending and none is on its way; how long that took, in seconds.
        Raises AssertionError."""
        began = time.monotonic()
        while True:
            left = await asyncio.to_thread(under_way, self.store)
            if not any(left):
                return time.monotonic() - began
            if time.monotonic() - began > timeout_s:
                raise AssertionError(
                    f"after {timeout_s:g} s {left[0]} calls are pending and {left[1]} outbox rows "
                    "are left"
                )
            await last(0.1)


@asynccontextmanager
async def open_world(folder: Path, kind: str = "15") -> AsyncIterator[World]:
    """Everything started and ready; nothing is left behind.

    :param kind: of the database, one of `DATABASES`.
    """
    names = (*NODES, *GATES, POSTGRES, ETCD)
    with open_namespaces(*names) as spaces, open_folder() as place:
        etcd = EtcdProcess(
            EtcdOptions(
                folder / "etcd",
                etcd_binary("3.4"),
                host=spaces.host(ETCD),
                prefix=spaces.place(ETCD).prefix,
            )
        )
        store = database(
            kind,
            place / "data",
            host=spaces.host(POSTGRES),
            prefix=spaces.place(POSTGRES).prefix,
        )
        try:
            await asyncio.gather(etcd.start(), store.start())
            await store.migrate()
            environment = {
                "GOVERSE_CLUSTER__LEASE_TTL": f"{LEASE_TTL_S:g}s",
                "GOVERSE_CLUSTER__STABILITY_DURATION": "200ms",
                "GOVERSE_CLUSTER__INITIAL_NUM_SHARDS": "256",
                "GOVERSE_STORAGE__URL": store.url,
                "GOVERSE_STORAGE__PASSWORD": PASSWORD,
            }
            async with process_cluster(
                etcd.endpoint,
                folder,
                modules=(str(BANK),),
                environment=environment,
                places={name: spaces.place(name) for name in (*NODES, *GATES)},
            ) as cluster:
                world = World(spaces, cluster, etcd, store)
                for name in (*NODES, *GATES):
                    await world.start(name)
                await cluster.wait_ready(timeout_s=READY_S)
                yield world
        finally:
            await etcd.kill()
            await store.kill()
