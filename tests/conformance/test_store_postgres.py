"""The store on real PostgreSQL, 15 and 18, does what every store does, also at SERIALIZABLE."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator

import pytest

from goverse.aio.runtime import Runtime
from goverse.storage.api import Store
from goverse.storage.postgres import PostgresStore
from goverse.storage.postgres.dialect import POSTGRES, Dialect
from goverse.testing.conformance.store import StoreBackend, StoreConformance, WriteGate
from tests.support.holding_proxy import HoldingProxy
from tests.support.postgres import VERSIONS, PostgresServer, serving
from tests.support.serializable import SERIALIZABLE


class PostgresBackend(StoreBackend):
    def __init__(self, server: PostgresServer, dialect: Dialect) -> None:
        self._server = server
        self._dialect = dialect
        self._proxies: list[HoldingProxy] = []

    async def connect(self) -> Store:
        return PostgresStore(self._server.settings(), Runtime(), self._dialect)

    async def connect_new(self) -> Store:
        return PostgresStore(await self._server.new_database(), Runtime(), self._dialect)

    async def connect_gated(self) -> tuple[Store, WriteGate]:
        proxy = await HoldingProxy(self._server.options.port).start()
        self._proxies.append(proxy)
        settings = self._server.settings(port=proxy.port, operation_timeout_s=0.3)
        return PostgresStore(settings, Runtime(), self._dialect), proxy

    async def close(self) -> None:
        for proxy in self._proxies:
            await proxy.close()


@pytest.fixture(scope="module", params=VERSIONS)
def server(request: pytest.FixtureRequest) -> Iterator[PostgresServer]:
    with serving(request.param) as server:
        asyncio.run(server.migrate())
        yield server


class TestPostgres(StoreConformance):
    dialect = POSTGRES

    @pytest.fixture
    async def backend(self, server: PostgresServer) -> AsyncIterator[StoreBackend]:
        backend = PostgresBackend(server, self.dialect)
        yield backend
        await backend.close()


# The words and the isolation are the same on both; the older one is for `make test-stores`.
@pytest.mark.parametrize(
    "server", ["18", pytest.param("15", marks=pytest.mark.stores)], indirect=True
)
class TestSerializable(TestPostgres):
    dialect = SERIALIZABLE
