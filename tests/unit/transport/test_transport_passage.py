"""A gRPC client's passage, on transports that a test plays: how it ends."""

from __future__ import annotations

import asyncio

import pytest

from goverse.transport.grpc_server import plain_address
from goverse.transport.passage import FLUSH_S, Passage, Peers
from tests.support.played import Played
from tests.support.virtual import virtual

HERE = ("127.0.0.1", 5)
KEY, PEER = "127.0.0.1:5", "10.0.0.7:80"


class Passing:
    """A passage, and its two connections."""

    def __init__(self) -> None:
        self.outer, self.inner = Played(), Played(HERE)
        self.peers: Peers = {}
        self.gone: list[Passage] = []
        self.passage = Passage(self.outer, b"first", PEER, self.peers, self.gone.append)  # type: ignore[arg-type]

    def connect(self) -> None:
        self.inner.protocol = self.passage._inner
        self.inner.protocol.connection_made(self.inner)


@virtual
async def test_nothing_is_read_until_there_is_somebody_to_pass_it_on_to() -> None:
    passing = Passing()
    assert passing.outer.paused
    passing.connect()
    assert passing.peers == {KEY: PEER}
    assert passing.inner.written == b"first"
    assert not passing.outer.paused
    passing.outer.protocol.data_received(b"more")
    passing.inner.protocol.data_received(b"answer")
    assert (passing.inner.written, passing.outer.written) == (b"firstmore", b"answer")
    passing.passage.abort()
    assert passing.peers == {}


@pytest.mark.parametrize("ends", ["inner", "outer"])
def test_when_one_side_ends_the_other_takes_what_is_left_for_it(ends: str) -> None:
    @virtual
    async def body() -> None:
        passing = Passing()
        passing.connect()
        ending, other = passing.inner, passing.outer
        if ends == "outer":
            ending, other = other, ending
        other.takes_its_time = True
        ending.protocol.connection_lost(None)
        assert passing.peers == {}
        assert other.closed == "close"  # what is written is still sent
        assert passing.gone == []
        began = asyncio.get_running_loop().time()
        while not passing.gone:
            await asyncio.wait([asyncio.ensure_future(asyncio.Event().wait())], timeout=0.5)
        assert other.closed == "abort"  # it did not take it, and is not waited for any longer
        assert asyncio.get_running_loop().time() - began == pytest.approx(FLUSH_S, abs=0.5)
        assert passing.gone == [passing.passage]

    body()


@virtual
async def test_a_client_that_left_meanwhile_is_not_entered() -> None:
    passing = Passing()
    passing.outer.protocol.connection_lost(None)
    passing.connect()
    assert passing.peers == {}
    assert passing.inner.closed == "abort"
    assert passing.inner.written == b""
    await asyncio.wait([asyncio.ensure_future(asyncio.Event().wait())], timeout=FLUSH_S + 1)
    assert passing.gone == [passing.passage]


@virtual
async def test_back_pressure_goes_through() -> None:
    passing = Passing()
    passing.connect()
    for writing, reading in ((passing.inner, passing.outer), (passing.outer, passing.inner)):
        writing.protocol.pause_writing()
        assert reading.paused
        writing.protocol.resume_writing()
        assert not reading.paused
    passing.passage.abort()


@pytest.mark.parametrize(
    ("peer", "address"),
    [
        ("ipv4:127.0.0.1:80", "127.0.0.1:80"),
        ("ipv6:%5B::1%5D:80", "[::1]:80"),
        ("unix:x", "unix:x"),
    ],
)
def test_gRPC_spells_addresses_in_its_own_way(peer: str, address: str) -> None:
    assert plain_address(peer) == address
