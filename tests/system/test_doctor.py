"""The doctor and its neighbours, and OpenAPI, against real processes and a real etcd."""

from __future__ import annotations

import asyncio
import json
import sys
from typing import Any

import pytest

from goverse.testing.processes import ProcessCluster, http_get
from tests.support.eventually import eventually

pytestmark = pytest.mark.system

WITHIN_S = 30.0


async def cli(cluster: ProcessCluster, *arguments: str) -> tuple[int, Any]:
    """Exit status and parsed answer."""
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "goverse_cli", "--etcd-endpoints", cluster.etcd, "-o", "json"),
        *arguments,
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    out, _ = await process.communicate()
    return process.returncode or 0, json.loads(out) if out else None


async def check(cluster: ProcessCluster) -> tuple[int, list[tuple[str, str]]]:
    """Exit status, and what is not ok."""
    status, findings = await cli(cluster, "check", "--timeout", "3s")
    return status, [(f["level"], f["message"]) for f in findings if f["level"] != "ok"]


async def test_the_doctor_sees_a_cluster_come_break_and_heal(cluster: ProcessCluster) -> None:
    status, found = await check(cluster)
    assert status == 9
    assert found[0][0] == "fail"
    assert "no cluster is laid out" in found[0][1]

    for name in ("n1", "n2"):
        await cluster.start_node(name)
    gate = await cluster.start_gate("g1")
    await cluster.wait_ready()

    async def healthy() -> bool:
        return await check(cluster) == (0, [])

    await eventually(healthy, WITHIN_S)

    await cluster.kill("n2")  # its registration stands until its lease ends
    status, found = await check(cluster)
    assert status == 9
    assert any("n2 is registered and does not answer" in message for _, message in found)
    await eventually(healthy, WITHIN_S)

    assert await cli(cluster, "version") == (
        0,
        {"client": "0.1.0", "nodes": {"n1": "0.1.0"}, "gates": {"g1": "0.1.0"}},
    )
    _, types = await cli(cluster, "type", "list")
    names = [found["name"] for found in types]
    assert names
    code, text = await http_get(gate.http_address, "/openapi.json")
    assert code == 200
    assert sorted({tag["name"] for tag in json.loads(text)["tags"]}) == sorted(names)

    status, place = await cli(cluster, "object", "create", names[0], "made")
    assert (status, place["owner"]) == (0, "n1")
    assert (await cli(cluster, "object", "create", names[0], "made"))[0] == 6
    _, listed = await cli(cluster, "object", "list", "--prefix", "made")
    assert [found["id"] for found in listed] == ["made"]
    assert (await cli(cluster, "object", "delete", names[0], "made"))[0] == 0
    assert await cli(cluster, "object", "list", "--prefix", "made") == (0, [])
