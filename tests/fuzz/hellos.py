"""A peer that greets in every way but the right one, and both sides of the greeting."""

from __future__ import annotations

import asyncio
from typing import Any

from hypothesis import strategies as st

from goverse.errors import GoverseError
from goverse.transport.carrier import CarrierClosed
from goverse.transport.hello import Role
from goverse.transport.link import open_link
from goverse.transport.loopback import LoopbackHub
from goverse.transport.wire import HelloFrame, encode
from tests.fuzz.property import fuzzed
from tests.support.accepting import accept_links
from tests.support.links import SERVER, Target, config, hello
from tests.support.virtual import virtual

texts = st.one_of(
    st.sampled_from(["", "node", "gate", "client", "n1", "1", "skip-unknown-frames"]),
    st.text(max_size=20),
)
numbers = st.one_of(st.sampled_from([0, 1, 2]), st.integers(-(2**63), 2**64 - 1))
frames = st.builds(
    HelloFrame, numbers, st.lists(texts, max_size=3).map(tuple), texts, texts, texts, texts, texts
)


async def _greet_a_server(message: bytes) -> None:
    """It is taken or refused; the server goes on, and of a broken greeting nothing is left."""
    hub = LoopbackHub()
    accept = accept_links(
        hello(Role.NODE, "server"), lambda theirs, link: Target(), config("server")
    )
    listener = await hub.network("server").listen(SERVER, accept)
    carrier = await hub.network("raw").connect(SERVER, timeout_s=5)
    await carrier.send(message)
    try:
        await asyncio.wait_for(carrier.receive(), 10)
    except (CarrierClosed, TimeoutError):
        pass
    carrier.abort("enough")
    good = await hub.network("good").connect(SERVER, timeout_s=5)
    link = await open_link(
        good, hello(Role.NODE, "good"), lambda theirs, link: Target(), config("good")
    )
    await link.close(1)
    await listener.close()
    assert hub.connections() == 0


async def _be_greeted(message: bytes) -> None:
    """The one that dialled gets a link or an error."""
    hub = LoopbackHub()

    async def answer(carrier: Any) -> None:
        await carrier.receive()
        await carrier.send(message)
        try:
            while True:
                await carrier.receive()
        except CarrierClosed:
            pass

    listener = await hub.network("server").listen(SERVER, answer)
    carrier = await hub.network("a").connect(SERVER, timeout_s=5)
    try:
        link = await open_link(
            carrier, hello(Role.NODE, "a"), lambda theirs, link: Target(), config("a")
        )
    except (GoverseError, CarrierClosed):
        carrier.abort("refused")
    else:
        link.abort("enough")
        await link.wait_closed()
        assert link.snapshot().at_rest
    await listener.close()
    assert hub.connections() == 0


@fuzzed(frames, st.booleans())
def strange_hellos(frame: HelloFrame, as_server: bool) -> None:
    message = encode([frame])
    virtual(_be_greeted if as_server else _greet_a_server)(message)


@fuzzed(st.binary(max_size=100), st.booleans())
def random_hellos(message: bytes, as_server: bool) -> None:
    virtual(_be_greeted if as_server else _greet_a_server)(message)
