"""Real etcd and real processes for system tests."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from goverse.coordination.supervised import EtcdOptions, EtcdProcess
from goverse.testing.processes import ProcessCluster, process_cluster

LEASE_TTL_S = 3.0


@pytest.fixture
async def etcd(tmp_path: Path) -> AsyncIterator[EtcdProcess]:
    server = EtcdProcess(EtcdOptions(tmp_path / "etcd"))
    await server.start()
    try:
        yield server
    finally:
        await server.stop()


@pytest.fixture
async def cluster(etcd: EtcdProcess, tmp_path: Path) -> AsyncIterator[ProcessCluster]:
    """No processes yet. Nodes host the witnesses; leases are 3 s."""
    async with process_cluster(
        etcd.endpoint,
        tmp_path,
        modules=("tests.support.witness",),
        environment={
            "GOVERSE_CLUSTER__LEASE_TTL": f"{LEASE_TTL_S:g}s",
            "GOVERSE_CLUSTER__STABILITY_DURATION": "200ms",
            "GOVERSE_CLUSTER__RESTART_GRACE": "10s",
            "LOG_FORMAT": "json",
        },
    ) as running:
        yield running
