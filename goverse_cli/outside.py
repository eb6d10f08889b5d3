"""What the commands really reach for: nodes over gRPC, and etcd."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Sequence

from goverse import coordination
from goverse.admin.api import ClusterStatus
from goverse.admin.client import AdminClient
from goverse.aio.runtime import Runtime
from goverse.cluster.keys import Keys
from goverse.cluster.state import ClusterState
from goverse.config.faults import ConfigError
from goverse.config.load import load
from goverse.coordination.api import Coordinator, CoordinatorUnavailable
from goverse.errors import Unavailable
from goverse_cli.exits import CliError, Exit
from goverse_cli.session import Outside
from goverse_node.admin import report


def real_outside() -> Outside:
    return Outside(connect=connect, directory=open_directory)


async def connect(address: str, token: str, probe_s: float) -> AdminClient:
    """A client of the node at ``address``, which has answered. Raises Unavailable."""
    host, _, port = address.rpartition(":")
    try:
        async with asyncio.timeout(probe_s):
            # A refused connection shows at once here; gRPC would go on trying.
            _, writer = await asyncio.open_connection(host.strip("[]"), int(port))
            writer.close()
    except (OSError, TimeoutError) as error:
        raise Unavailable(f"no node at {address}: {str(error) or 'no answer'}") from error
    client = AdminClient(address, token=token)
    try:
        await client.wait_connected(probe_s)
    except BaseException:
        await client.close()
        raise
    return client


async def open_directory(endpoints: Sequence[str], prefix: str, timeout_s: float) -> EtcdDirectory:
    """etcd as the environment configures it, TLS and password included."""
    flags = {"cluster.etcd.operation_timeout": f"{round(timeout_s * 1000)}ms"}
    if endpoints:
        flags["cluster.etcd.endpoints"] = ",".join(endpoints)
    if prefix:
        flags["cluster.etcd.prefix"] = prefix
    try:
        cluster = load(None, os.environ, flags).settings.cluster
    except ConfigError as error:
        raise CliError(f"the environment: {error}", Exit.USAGE) from error
    coordinator = await coordination.open(cluster, Runtime())
    return EtcdDirectory(coordinator, cluster.etcd.prefix, timeout_s)


class EtcdDirectory:
    """Reads the cluster's keys once, when it is first asked.

    :param timeout_s: longest wait for etcd.
    """

    def __init__(self, coordinator: Coordinator, prefix: str, timeout_s: float) -> None:
        self._coordinator = coordinator
        self._keys = Keys(prefix)
        self._timeout_s = timeout_s

    async def node_addresses(self) -> Sequence[str]:
        state = await self.read_state()
        return [record.address for _, record in sorted(state.nodes.items())]

    async def get_status(self) -> ClusterStatus:
        return report.cluster_status(await self.read_state(), source="etcd", current=True)

    async def read_state(self) -> ClusterState:
        try:
            async with asyncio.timeout(self._timeout_s):
                listed = await self._coordinator.list(self._keys.prefix)
        except (CoordinatorUnavailable, TimeoutError) as error:
            told = str(error) or f"nothing within {self._timeout_s:g} s"
            raise Unavailable(f"etcd does not answer: {told}") from error
        state, _ = ClusterState(self._keys).replaced_by(listed)
        return state

    async def close(self) -> None:
        await self._coordinator.close()
