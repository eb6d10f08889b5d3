"""Processes that stop, or that operators empty: real signals, the command line, a real etcd."""

from __future__ import annotations

import asyncio
import signal
import time
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

import goverse
import goverse.admin
import goverse.client
from goverse.coordination.supervised import EtcdProcess
from goverse.testing.processes import ProcessCluster, Server, http_get, process_cluster
from tests.support.balance import balanced
from tests.support.eventually import eventually

pytestmark = pytest.mark.system

WITHIN_S = 30.0


@pytest.fixture
async def small(etcd: EtcdProcess, tmp_path: Path) -> AsyncIterator[ProcessCluster]:
    """No processes yet; objects that count, and such that hang. 64 shards."""
    async with process_cluster(
        etcd.endpoint,
        tmp_path,
        modules=("tests.support.hanging", "samples/counter/counter.py"),
        environment={
            "GOVERSE_CLUSTER__LEASE_TTL": "3s",
            "GOVERSE_CLUSTER__STABILITY_DURATION": "200ms",
            "GOVERSE_CLUSTER__RESTART_GRACE": "20s",
            "GOVERSE_NUM_SHARDS": "64",
        },
    ) as running:
        yield running


async def node(cluster: ProcessCluster, name: str) -> dict[str, Any]:
    found = {node["name"]: node for node in await cluster.admin("node", "list")}
    return found.get(name, {})


async def shards(cluster: ProcessCluster) -> dict[int, tuple[str, str]]:
    """Target and owner of each, as n1 sees them."""
    async with goverse.admin.connect(cluster.servers["n1"].address) as admin:
        page = await admin.list_shards()
        return {shard.shard: (shard.target, shard.owner) for shard in page.shards}


@asynccontextmanager
async def steady(
    cluster: ProcessCluster, *gates: str
) -> AsyncIterator[tuple[goverse.client.Client, Counter[str]]]:
    """Callers of 16 counters, by our client, that go on whatever happens; outcomes of the calls."""
    seen: Counter[str] = Counter()
    over = asyncio.Event()

    async def caller(client: goverse.client.Client, name: str) -> None:
        ref, last = client.get("Counter", name), 0
        while not over.is_set():
            try:
                found = await ref.add(amount=1)
            except goverse.GoverseError as error:
                seen[f"{error.code}: {error.message}"] += 1
                continue
            assert found == last + 1, f"{name}: {found} after {last}"
            last = found
            seen["ok"] += 1

    addresses = [cluster.servers[gate].address for gate in gates]
    async with goverse.client.connect(*addresses, wait_s=10.0) as client:
        tasks = [asyncio.ensure_future(caller(client, f"c{n}")) for n in range(16)]
        try:
            await eventually(lambda: seen["ok"] > 100, WITHIN_S)
            yield client, seen
            wanted = seen["ok"] + 100
            await eventually(lambda: seen["ok"] > wanted or len(seen) > 1, WITHIN_S)
        finally:
            over.set()
            await asyncio.gather(*tasks)


async def test_L13_L14_nodes_and_gates_are_rolled_and_drained_and_no_call_fails_or_is_lost(
    small: ProcessCluster,
) -> None:
    for name in ("n1", "n2", "n3"):
        await small.start_node(name)
    for name in ("g1", "g2"):
        await small.start_gate(name)
    await small.wait_ready()
    await balanced(small, "n1", "n2", "n3")
    async with steady(small, "g1", "g2") as (client, seen):
        # An operator empties a node, which goes on running; then has it leave.
        drained = await small.admin("node", "drain", "n2", "--timeout", "30s")
        assert (drained["state"], drained["claimed"]) == ("drained", 0)
        assert small.servers["n2"].alive
        ended = small.servers.pop("n2")
        left = await small.admin("node", "decommission", "n2", "--yes", "--timeout", "30s")
        assert left["state"] == "left"
        assert await asyncio.wait_for(ended.process.wait(), 10) == 0
        assert "decommission_node node=n2" in ended.log()  # in its audit log
        assert await node(small, "n2") == {}
        # It comes back all the same, and is given nothing until it is wanted.
        await small.start_node("n2")
        await small.wait_ready("n2")
        assert (await node(small, "n2"))["state"] == "drained"
        await balanced(small, "n1", "n3")
        await small.admin("node", "uncordon", "n2")
        await balanced(small, "n1", "n2", "n3")

        # The gate that is in use drains by a signal; calls go on through the other.
        in_use = client.snapshot().session.gate
        gate = next(name for name in ("g1", "g2") if small.servers[name].address == in_use)
        assert await small.stop(gate) == 0
        assert client.snapshot().session.gate not in ("", in_use)
    assert list(seen) == ["ok"], seen


async def test_a_node_in_restart_mode_comes_back_to_its_shards(small: ProcessCluster) -> None:
    for name in ("n1", "n2"):
        await small.start_node(name, GOVERSE_SHUTDOWN_MODE="restart")
    await small.wait_ready()
    await balanced(small, "n1", "n2")
    before = await shards(small)
    assert await small.stop("n2") == 0
    away = await shards(small)
    assert {n: target for n, (target, _) in away.items()} == {
        n: target for n, (target, _) in before.items()
    }
    assert {owner for _, owner in away.values()} == {"n1", ""}
    await small.start_node("n2", GOVERSE_SHUTDOWN_MODE="restart")
    await balanced(small, "n1", "n2")
    assert await shards(small) == before


@pytest.mark.parametrize("method", ["wait", "block"])
async def test_a_second_signal_ends_a_node_at_once_also_one_whose_loop_hangs(
    small: ProcessCluster, tmp_path: Path, method: str
) -> None:
    server = await small.start_node("n1")
    await small.start_gate("g1")
    await small.wait_ready()
    begun = tmp_path / "begun"
    async with goverse.client.connect(small.servers["g1"].address, wait_s=10.0) as client:
        call = asyncio.ensure_future(getattr(client.get("Hanging", "h"), method)(begun=str(begun)))
        await eventually(begun.exists, WITHIN_S)
        server.signal(signal.SIGTERM)
        if method == "wait":
            await eventually(lambda: "stopping; a second signal" in server.log(), WITHIN_S)
        await _still_there(server)
        server.signal(signal.SIGTERM)
        sent = time.monotonic()
        assert await asyncio.wait_for(server.process.wait(), 10) == 130
        assert time.monotonic() - sent < 1.0
        call.cancel()
        await asyncio.gather(call, return_exceptions=True)


async def _still_there(server: Server) -> None:
    """For as long as a process that ends by itself would have taken."""
    with pytest.raises(TimeoutError):
        await asyncio.wait_for(asyncio.shield(server.process.wait()), 0.5)


async def test_L23_a_gate_that_stops_is_not_ready_before_it_is_gone(small: ProcessCluster) -> None:
    await small.start_node("n1")
    gate = await small.start_gate("g1", GOVERSE_GATE__SHUTDOWN_NOTICE="2s")
    await small.wait_ready()
    host, _, port = gate.http_address.rpartition(":")
    _, writer = await asyncio.open_connection(host, int(port))  # a pool's idle connection
    gate.signal(signal.SIGTERM)

    async def unready() -> bool:
        status, body = await http_get(gate.ops_address, "/ready")
        return status == 503 and "stopping" in body

    await eventually(unready, 2.0)
    assert (await http_get(gate.http_address, "/openapi.json"))[0] == 200, "it serves all the same"
    assert await asyncio.wait_for(gate.process.wait(), 10) == 0
    writer.close()
