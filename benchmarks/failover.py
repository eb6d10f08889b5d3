"""What dies, and how long its objects are away: nodes, the leader, etcd.

Four nodes and a gate serve steady callers; etcd has three members. What is killed (kill -9) is
started again before the next. Times run from the kill: to the first answer of an object that lived
there, and to the last object's first answer.
"""

from __future__ import annotations

import asyncio
import statistics
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import asdict, dataclass
from pathlib import Path

from benchmarks import steady
from benchmarks.cluster import NUM_SHARDS, balanced
from benchmarks.report import Check, Options, Report
from benchmarks.steady import Steady
from goverse.testing.processes import ProcessCluster, process_cluster
from tests.support.etcd import EtcdCluster

NODES = ("node-1", "node-2", "node-3", "node-4")
LEASE_TTL_S = 3.0
EXTRA_S = 2.0
RECOVERED_S = 60.0
#: How long callers are watched after a fault that takes no object away.
WATCHED_S = 5.0


@dataclass(frozen=True)
class Failure:
    """What callers saw of one fault.

    :param first_s, last_s: from the kill to the first, and the last, object that was back.
    :param away: objects that lived there. :param failed: calls of those that failed.
    :param failed_elsewhere: calls of others that failed. :param longest_s: of all calls.
    """

    name: str
    first_s: float
    last_s: float
    away: int
    failed: int
    failed_elsewhere: int
    longest_s: float


@dataclass(frozen=True)
class Scene:
    cluster: ProcessCluster
    etcd: EtcdCluster
    seen: Steady

    async def back(self) -> None:
        """Start every node that is not there, and wait until all is balanced."""
        for name in NODES:
            if name not in self.cluster.servers:
                await self.cluster.start_node(name)
        await balanced(self.cluster, NODES)

    async def leader(self) -> str:
        status = await self.cluster.admin("status")
        return str(status["leader"]).partition("@")[0]

    async def kill(
        self, name: str, *nodes: str, meanwhile: Callable[[], Awaitable[None]] | None = None
    ) -> Failure:
        """Kill these nodes, do something else, and call each object that lived there until it
        answers."""
        answers = await asyncio.gather(*map(self.seen.call, range(steady.OBJECTS)))
        pids = [self.cluster.servers[node].process.pid for node in nodes]
        away = [number for number, made in enumerate(answers) if made.pid in pids]
        killed_at = time.monotonic()
        await asyncio.gather(*map(self.cluster.kill, nodes))
        coming = [asyncio.create_task(self.seen.call_until_answered(number)) for number in away]
        try:
            async with asyncio.timeout(RECOVERED_S):
                if meanwhile is not None:
                    await meanwhile()
                back = [made.ended - killed_at for made in await asyncio.gather(*coming)]
        except TimeoutError:
            waiting = sum(not task.done() for task in coming)
            raise RuntimeError(f"{name}: {waiting} objects are still away") from None
        finally:
            for task in coming:
                task.cancel()
        ended = time.monotonic()
        calls = self.seen.between(killed_at, ended)
        failed = steady.failed(self.seen.between(killed_at, ended, away))
        return Failure(
            name,
            round(min(back, default=0.0), 3),
            round(max(back, default=0.0), 3),
            len(away),
            failed,
            steady.failed(calls) - failed,
            round(steady.longest_s(calls), 3),
        )

    async def restart_etcd(self) -> None:
        await self.etcd.stop()
        await self.etcd.start()

    async def kill_etcd_leader(self) -> None:
        for member in self.etcd.members:
            if await member.is_leader():
                await member.kill()
                await asyncio.sleep(WATCHED_S)
                await member.start()
                return
        raise RuntimeError("no member of etcd leads")


async def _node(scene: Scene, name: str) -> Failure:
    leader = await scene.leader()
    return await scene.kill(name, next(node for node in NODES if node != leader))


async def _leader(scene: Scene, name: str) -> Failure:
    return await scene.kill(name, await scene.leader())


async def _two(scene: Scene, name: str) -> Failure:
    return await scene.kill(name, *NODES[:2])


async def _node_and_etcd(scene: Scene, name: str) -> Failure:
    return await scene.kill(name, NODES[-1], meanwhile=scene.restart_etcd)


async def _etcd_leader(scene: Scene, name: str) -> Failure:
    return await scene.kill(name, meanwhile=scene.kill_etcd_leader)


#: What happens, and how many lease TTLs its objects may be away, beside `EXTRA_S`.
FAULTS: dict[str, tuple[Callable[[Scene, str], Awaitable[Failure]], int]] = {
    "a node": (_node, 1),
    "the leader": (_leader, 1),
    "two nodes": (_two, 1),
    "a node, etcd restarted": (_node_and_etcd, 2),
    "etcd's leader": (_etcd_leader, 0),
}


async def run(options: Options, report: Report) -> None:
    report.settings = {
        "nodes": len(NODES),
        "etcd_members": 3,
        "shards": NUM_SHARDS,
        "lease_ttl_s": LEASE_TTL_S,
        "callers": steady.CALLERS,
        "objects": steady.OBJECTS,
    }
    failures: list[Failure] = []
    report.raw["failures"] = []
    async with _scene() as scene:
        for _ in range(options.rounds):
            for name, (act, _) in FAULTS.items():
                await scene.back()
                failure = await act(scene, name)
                failures.append(failure)
                report.raw["failures"].append(asdict(failure))
                report.raw["errors"] = [*scene.seen.errors]
                print(failure, file=sys.stderr, flush=True)
    _judge(report, failures)


@asynccontextmanager
async def _scene() -> AsyncIterator[Scene]:
    async with AsyncExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        etcd = EtcdCluster("3.4", folder / "etcd")
        stack.push_async_callback(etcd.stop)
        await etcd.start()
        cluster = await stack.enter_async_context(
            process_cluster(
                ",".join(etcd.endpoints),
                folder,
                modules=("benchmarks.objects",),
                environment={
                    "GOVERSE_CLUSTER__LEASE_TTL": f"{LEASE_TTL_S:g}s",
                    "GOVERSE_CLUSTER__STABILITY_DURATION": "1s",
                },
            )
        )
        seen = await stack.enter_async_context(steady.serving(cluster, NODES))
        yield Scene(cluster, etcd, seen)


def _judge(report: Report, failures: list[Failure]) -> None:
    """The worst round counts: an operator meets one failure, not a median."""
    for name, (_, leases) in FAULTS.items():
        found = [failure for failure in failures if failure.name == name]
        if leases:
            bound = leases * LEASE_TTL_S + EXTRA_S
            worst = max(failure.last_s for failure in found)
            report.checks.append(Check(f"until all is back, {name}, s", worst, bound, True))
            assert all(failure.away for failure in found), f"{name} took nothing away"
        report.figures[name] = {
            what: round(statistics.median(getattr(failure, what) for failure in found), 3)
            for what in ("first_s", "last_s", "away", "failed", "longest_s")
        }
    elsewhere = sum(failure.failed_elsewhere for failure in failures)
    report.checks.append(Check("failed calls of objects that stayed", elsewhere, 0, True))
