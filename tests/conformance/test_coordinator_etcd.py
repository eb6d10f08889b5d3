"""The coordinator on real etcd, 3.4 and 3.5, does what every coordinator does."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from goverse.aio.runtime import Runtime
from goverse.config.settings import EtcdSettings
from goverse.coordination import Coordinator
from goverse.coordination.etcd import EtcdCoordinator
from goverse.testing.conformance.coordinator import (
    CoordinatorBackend,
    CoordinatorConformance,
    Cut,
)
from tests.support.etcd import VERSIONS, Etcd, etcd_options
from tests.support.proxy import Proxy


class EtcdBackend(CoordinatorBackend):
    def __init__(self, etcd: Etcd) -> None:
        self._etcd = etcd
        self._settings = EtcdSettings(endpoints=(etcd.endpoint,))
        self._proxies: list[Proxy] = []

    async def connect(self) -> Coordinator:
        return EtcdCoordinator(self._settings, Runtime())

    async def connect_cuttable(self, operation_timeout_s: float) -> tuple[Coordinator, Cut]:
        proxy = Proxy(self._etcd.endpoint).start()
        self._proxies.append(proxy)
        settings = replace(
            self._settings,
            endpoints=(proxy.endpoint,),
            operation_timeout_s=operation_timeout_s,
        )
        return EtcdCoordinator(settings, Runtime()), proxy

    async def compact(self, revision: int) -> None:
        await self._etcd.compact(revision)

    async def lose_history(self) -> None:
        await self._etcd.lose_history()

    async def end_lease(self, lease: int) -> None:
        await self._etcd.end_lease(lease)

    def close(self) -> None:
        for proxy in self._proxies:
            proxy.close()


@pytest.fixture(scope="module", params=VERSIONS)
def etcd(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Etcd]:
    directory: Path = tmp_path_factory.mktemp("etcd")
    server = Etcd(etcd_options(request.param, directory / "etcd"))
    asyncio.run(server.start())
    yield server
    asyncio.run(server.kill())


class TestEtcd(CoordinatorConformance):
    @pytest.fixture
    async def backend(self, etcd: Etcd) -> Iterator[CoordinatorBackend]:
        backend = EtcdBackend(etcd)
        yield backend
        backend.close()
