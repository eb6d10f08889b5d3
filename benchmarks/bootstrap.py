"""Three nodes come up in an empty cluster and claim all of its shards, once per round.

The time runs from the moment at which etcd shows the third registration to that at which it shows
the last claim, less `cluster.stability_duration`, for which the leader waits on purpose. etcd's
own counters say how many transactions it took, from the first one on.
"""

from __future__ import annotations

import asyncio
import re
import statistics
import sys
import tempfile
import time
from contextlib import aclosing
from dataclasses import asdict, dataclass
from pathlib import Path

from benchmarks.cluster import NUM_SHARDS, etcd_process, open_shards
from benchmarks.report import Check, Options, Report
from goverse.aio.runtime import Runtime
from goverse.config.settings import ClusterSettings, EtcdSettings
from goverse.coordination import Changes, Coordinator
from goverse.coordination import open as open_coordinator
from goverse.testing.processes import ProcessCluster, http_get, process_cluster

NODES = 3
#: The default. The nodes of one round must be up within it, or the first plan knows only some.
STABILITY_S = 5.0
CLAIMED_S = 60.0
SECONDS_BOUND = 3.0
TRANSACTIONS_BOUND = 299

_RPCS = re.compile(r"^grpc_server_handled_total\{([^}]*)\} (\d+)", re.MULTILINE)


@dataclass(frozen=True)
class Bootstrap:
    """One round.

    :param claimed_s: from the third registration to the last claim, without the stability time.
    :param open_s: the same to the last shard that its node says is open, looked at often.
    :param transactions: all that etcd has handled until the last claim.
    :param rpcs: what else etcd has handled, by method.
    :param registered_within_s: from the first registration to the third.
    :param targets_s, claims_s: from the first target, and the first claim, to the last.
    """

    claimed_s: float
    open_s: float
    transactions: int
    rpcs: dict[str, int]
    registered_within_s: float
    targets_s: float
    claims_s: float


async def run(options: Options, report: Report) -> None:
    rounds: list[Bootstrap] = []
    report.settings = {"nodes": NODES, "shards": NUM_SHARDS, "stability_s": STABILITY_S}
    report.raw["rounds"] = []
    for number in range(options.rounds):
        with tempfile.TemporaryDirectory() as folder:
            seen = await _bootstrap(Path(folder))
        rounds.append(seen)
        report.raw["rounds"].append(asdict(seen))
        print(
            f"round {number + 1}/{options.rounds}: claimed in {seen.claimed_s:.2f} s, open in "
            f"{seen.open_s:.2f} s, {seen.transactions} transactions",
            file=sys.stderr,
            flush=True,
        )
    seconds = statistics.median(seen.claimed_s for seen in rounds)
    transactions = statistics.median(seen.transactions for seen in rounds)
    report.checks += [
        Check(
            "seconds from the third registration to the last claim", seconds, SECONDS_BOUND, True
        ),
        Check("etcd transactions", transactions, TRANSACTIONS_BOUND, True),
    ]
    for name in ("open_s", "targets_s", "claims_s", "registered_within_s"):
        report.figures[name] = round(statistics.median(getattr(s, name) for s in rounds), 3)
    report.figures["rpcs"] = rounds[-1].rpcs


async def _bootstrap(folder: Path) -> Bootstrap:
    async with (
        etcd_process(folder) as etcd,
        process_cluster(
            etcd.endpoint,
            folder,
            modules=("benchmarks.objects",),
            environment={"GOVERSE_CLUSTER__STABILITY_DURATION": f"{STABILITY_S:g}s"},
        ) as cluster,
    ):
        settings = ClusterSettings(etcd=EtcdSettings(endpoints=(etcd.endpoint,)))
        coordinator = await open_coordinator(settings, Runtime())
        try:
            watching = asyncio.create_task(_watch(coordinator, settings.etcd.prefix + "/"))
            try:
                for number in range(NODES):
                    await cluster.start_node(f"node-{number}")
                async with asyncio.timeout(CLAIMED_S):
                    times = await watching
                rpcs = await _rpcs(etcd.endpoint)
                opened = await _all_open(cluster)
            except TimeoutError:
                logs = "\n".join(server.log()[-1000:] for server in cluster.servers.values())
                raise RuntimeError(f"not claimed within {CLAIMED_S:g} s:\n{logs}") from None
            finally:
                watching.cancel()
        finally:
            await coordinator.close()
    start = times["nodes"][NODES - 1] + STABILITY_S
    return Bootstrap(
        claimed_s=round(times["claims"][-1] - start, 4),
        open_s=round(opened - start, 4),
        transactions=rpcs.pop("Txn"),
        rpcs=rpcs,
        registered_within_s=round(times["nodes"][-1] - times["nodes"][0], 4),
        targets_s=round(times["shards"][-1] - times["shards"][0], 4),
        claims_s=round(times["claims"][-1] - times["claims"][0], 4),
    )


async def _watch(coordinator: Coordinator, prefix: str) -> dict[str, list[float]]:
    """When each key below a folder was first seen, until every shard has a claim."""
    times: dict[str, list[float]] = {"nodes": [], "shards": [], "claims": []}
    known: set[str] = set()
    async with aclosing(coordinator.watch(prefix)) as watch:
        async for change in watch:
            now = time.monotonic()
            if not isinstance(change, Changes) and known:
                raise RuntimeError("the watch was listed again: times would be wrong")
            for key, value in change.items.items():
                folder = key[len(prefix) :].partition("/")[0]
                if folder in times and key not in known and value is not None:
                    known.add(key)
                    times[folder].append(now)
                elif key in known and value is None:
                    raise RuntimeError(f"{key} was deleted: nodes came up too far apart")
            if len(times["claims"]) == NUM_SHARDS:
                return times
    raise RuntimeError("the watch has ended")


async def _all_open(cluster: ProcessCluster) -> float:
    """When the nodes said that all shards are open."""
    async with asyncio.timeout(CLAIMED_S):
        while True:
            found = await asyncio.gather(*(open_shards(cluster, name) for name in cluster.servers))
            if sum(found) == NUM_SHARDS:
                return time.monotonic()
            await asyncio.sleep(0.02)


async def _rpcs(endpoint: str) -> dict[str, int]:
    """Requests that etcd has handled so far, by method."""
    _, text = await http_get(endpoint, "/metrics")
    return rpcs(text)


def rpcs(text: str) -> dict[str, int]:
    """The counters of etcd's gRPC server by method; methods never asked for are left out."""
    found = {"Txn": 0}
    for labels, count in _RPCS.findall(text):
        method = re.search(r'grpc_method="(\w+)"', labels)
        if method is not None and int(count):
            found[method[1]] = found.get(method[1], 0) + int(count)
    return found
