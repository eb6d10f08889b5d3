"""The proxy of these tests does what its description says."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import pytest

from tests.support.proxy import Proxy


@pytest.fixture
async def proxy() -> AsyncIterator[Proxy]:
    async def echo(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while data := await reader.read(100):
            writer.write(data)
        writer.close()

    server = await asyncio.start_server(echo, "127.0.0.1", 0)
    host, port = server.sockets[0].getsockname()
    proxy = Proxy(f"{host}:{port}").start()
    yield proxy
    proxy.close()
    server.close()


async def test_a_cut_ends_what_carried_nothing_meanwhile(proxy: Proxy) -> None:
    """A cut that lasted less than it took to carry a byte once had not taken place."""
    before, to_before = await asyncio.open_connection("127.0.0.1", proxy.port)
    to_before.write(b"a")
    assert await before.readexactly(1) == b"a"
    proxy.cut()
    proxy.heal()
    to_before.write(b"b")
    after, to_after = await asyncio.open_connection("127.0.0.1", proxy.port)
    for _ in range(10):
        to_after.write(b"c")
        assert await after.readexactly(1) == b"c"
    silent = asyncio.ensure_future(before.read(1))
    await asyncio.wait([silent], timeout=0)
    assert not silent.done()
    silent.cancel()
    to_before.close()
    to_after.close()
