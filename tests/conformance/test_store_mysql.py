"""The store on real MariaDB 10.11 does what every store does."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator

import pytest

from goverse.aio.runtime import Runtime
from goverse.storage.api import Store
from goverse.storage.mysql import MysqlStore
from goverse.testing.conformance.store import StoreBackend, StoreConformance, WriteGate
from tests.support.mariadb import MariadbServer, serving
from tests.support.mysql_proxy import MysqlProxy


class MysqlBackend(StoreBackend):
    def __init__(self, server: MariadbServer) -> None:
        self._server = server
        self._proxies: list[MysqlProxy] = []

    async def connect(self) -> Store:
        return MysqlStore(self._server.settings(), Runtime())

    async def connect_new(self) -> Store:
        return MysqlStore(await self._server.new_database(), Runtime())

    async def connect_gated(self) -> tuple[Store, WriteGate]:
        proxy = await MysqlProxy(self._server.options.port).start()
        self._proxies.append(proxy)
        settings = self._server.settings(port=proxy.port, operation_timeout_s=0.3)
        return MysqlStore(settings, Runtime()), proxy

    async def close(self) -> None:
        for proxy in self._proxies:
            await proxy.close()


@pytest.fixture(scope="module")
def server() -> Iterator[MariadbServer]:
    with serving() as server:
        asyncio.run(server.migrate())
        yield server


class TestMysql(StoreConformance):
    @pytest.fixture
    async def backend(self, server: MariadbServer) -> AsyncIterator[StoreBackend]:
        backend = MysqlBackend(server)
        yield backend
        await backend.close()
