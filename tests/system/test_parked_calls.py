"""A reliable call that ends every process that runs it: it is stopped, and the others go on."""

from __future__ import annotations

from pathlib import Path

import httpx
import pytest

from goverse.coordination.supervised import EtcdProcess
from goverse.testing.processes import ProcessCluster, http_get, process_cluster
from tests.support.eventually import eventually
from tests.system.conftest import LEASE_TTL_S

pytestmark = pytest.mark.system

DIED = 86
MAX_ATTEMPTS = 2


async def post(cluster: ProcessCluster, call_id: str, method: str, **arguments: int) -> None:
    """A call that nobody waits for: whoever sends it gives up before it can be run."""
    url = f"http://{cluster.servers['g1'].http_address}/v1/objects/Poisoned/p/{method}"
    headers = {"Goverse-Call-Id": call_id, "Goverse-Timeout": "2s"}
    async with httpx.AsyncClient(timeout=10.0) as client:
        response = await client.post(url, json=arguments, headers=headers)
    assert response.status_code in (503, 504), response.text
    assert response.json()["executed"] in ("unknown", "no"), response.text


async def look_up(cluster: ProcessCluster, call_id: str) -> dict[str, object]:
    url = f"http://{cluster.servers['g1'].http_address}/v1/calls/{call_id}"
    async with httpx.AsyncClient(timeout=10.0) as client:
        found: dict[str, object] = (await client.get(url)).json()
        return found


async def test_L20_a_call_that_ends_its_process_is_parked_and_seen_by_operators(
    etcd: EtcdProcess, tmp_path: Path
) -> None:
    url = f"sqlite:///{tmp_path}/store.db"
    async with process_cluster(
        etcd.endpoint,
        tmp_path,
        modules=("tests.support.poison",),
        environment={
            "GOVERSE_CLUSTER__LEASE_TTL": f"{LEASE_TTL_S:g}s",
            "GOVERSE_CLUSTER__STABILITY_DURATION": "200ms",
            "GOVERSE_CLUSTER__INITIAL_NUM_SHARDS": "256",
            "GOVERSE_LIMITS__MAX_CALL_ATTEMPTS": str(MAX_ATTEMPTS),
        },
    ) as cluster:
        await cluster.admin("db", "migrate", "--url", url)
        await cluster.start_node("n1", GOVERSE_STORAGE__URL=url)
        await cluster.start_gate("g1")
        await cluster.wait_ready()
        await post(cluster, "poison", "die")
        assert await cluster.servers["n1"].process.wait() == DIED

        # Nodes are down: the store still says what waits.
        stats = await cluster.admin("reliable-calls", "stats", "--url", url)
        assert [(one["type"], one["pending"], one["parked"]) for one in stats["types"]] == [
            ("Poisoned", 1, 0)
        ]
        assert stats["longest"][0]["id"] == "p"

        for attempt in range(1, MAX_ATTEMPTS + 1):
            node = await cluster.start_node("n1", GOVERSE_STORAGE__URL=url)
            assert await node.process.wait() == DIED, node.log()[-2000:]
            row = await cluster.admin("reliable-calls", "get", "poison", "--url", url)
            assert (row["status"], row["attempts"]) == ("pending", attempt)

        node = await cluster.start_node("n1", GOVERSE_STORAGE__URL=url)
        await cluster.wait_ready("n1")

        async def parked() -> bool:
            return (await look_up(cluster, "poison")).get("status") == "parked"

        await eventually(parked, timeout_s=20.0)
        assert f"{MAX_ATTEMPTS} attempts" in str((await look_up(cluster, "poison"))["reason"])
        _, metrics = await http_get(node.ops_address, "/metrics")
        assert 'goverse_reliable_parked_calls_total{type="Poisoned"} 1.0' in metrics
        stats = await cluster.admin("reliable-calls", "stats", "--url", url)
        assert [(one["pending"], one["parked"]) for one in stats["types"]] == [(0, 1)]

        # The object serves; nothing of the parked call is in its state.
        assert await cluster.admin("object", "call", "Poisoned", "p", "add", "amount=5") == 5
