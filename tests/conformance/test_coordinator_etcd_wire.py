"""What is sent to etcd, and how often: against servers that misbehave on purpose."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from itertools import pairwise
from typing import Any

import grpc
import grpc.aio
import pytest
from aetcd import rpc
from aetcd.rpc import rpc_pb2_grpc

from goverse.aio.runtime import Runtime
from goverse.config.settings import EtcdSettings
from goverse.coordination import CoordinatorUnavailable, Put, TransactionTooLarge
from goverse.coordination.etcd import EtcdCoordinator

Refusal = tuple[grpc.StatusCode, str]


class Misbehaving(rpc_pb2_grpc.KVServicer):
    """Answers reads; refuses writes as told, and then takes them."""

    def __init__(self) -> None:
        self.transactions = 0
        self.reads = 0
        self.read_at: list[float] = []
        self.refusals: list[Refusal] = []
        self.read_refusals: list[Refusal] = []

    async def Range(self, request: Any, context: Any) -> Any:
        self.reads += 1
        self.read_at.append(asyncio.get_running_loop().time())
        if self.read_refusals:
            await context.abort(*self.read_refusals.pop(0))
        return rpc.RangeResponse(header=rpc.ResponseHeader(cluster_id=1, revision=5, raft_term=2))

    async def Txn(self, request: Any, context: Any) -> Any:
        self.transactions += 1
        if self.refusals:
            await context.abort(*self.refusals.pop(0))
        header = rpc.ResponseHeader(cluster_id=1, revision=6, raft_term=2)
        return rpc.TxnResponse(header=header, succeeded=True)


@pytest.fixture
async def served() -> AsyncIterator[tuple[Misbehaving, EtcdCoordinator]]:
    misbehaving = Misbehaving()
    server = grpc.aio.server()
    rpc_pb2_grpc.add_KVServicer_to_server(misbehaving, server)
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    client = EtcdCoordinator(EtcdSettings(endpoints=(f"127.0.0.1:{port}",)), Runtime())
    await client.get("/t/a")
    misbehaving.reads = 0
    yield misbehaving, client
    await client.close()
    await server.stop(None)


UNKNOWN: list[Refusal] = [
    (grpc.StatusCode.UNAVAILABLE, "etcdserver: request timed out"),
    (grpc.StatusCode.UNAVAILABLE, "etcdserver: request timed out, possibly due to connection lost"),
    (grpc.StatusCode.UNAVAILABLE, "etcdserver: leader changed"),
    (grpc.StatusCode.UNAVAILABLE, "etcdserver: server stopped"),
    (grpc.StatusCode.UNAVAILABLE, "Socket closed"),
    (grpc.StatusCode.UNKNOWN, "raft proposal dropped"),
    (grpc.StatusCode.DEADLINE_EXCEEDED, "context deadline exceeded"),
    (grpc.StatusCode.CANCELLED, "context canceled"),
    (grpc.StatusCode.INTERNAL, "stream terminated"),
]


@pytest.mark.parametrize("refusal", UNKNOWN, ids=lambda refusal: refusal[1])
async def test_a_write_of_unknown_fate_is_sent_once(
    served: tuple[Misbehaving, EtcdCoordinator], refusal: Refusal
) -> None:
    server, client = served
    server.refusals = [refusal]
    with pytest.raises(CoordinatorUnavailable, match=r"unknown"):
        await client.transact([], [Put("/t/a", b"")])
    assert server.transactions == 1
    assert (await client.transact([], [Put("/t/a", b"")])).succeeded


@pytest.mark.parametrize(
    "refusal",
    [
        (grpc.StatusCode.UNAVAILABLE, "etcdserver: no leader"),
        (grpc.StatusCode.UNAVAILABLE, "etcdserver: rpc not supported for learner"),
        (grpc.StatusCode.RESOURCE_EXHAUSTED, "etcdserver: too many requests"),
    ],
    ids=lambda refusal: refusal[1],
)
async def test_a_write_that_was_not_taken_is_sent_again(
    served: tuple[Misbehaving, EtcdCoordinator], refusal: Refusal
) -> None:
    server, client = served
    server.refusals = [refusal]
    assert (await client.transact([], [Put("/t/a", b"")])).succeeded
    assert server.transactions == 2


@pytest.mark.parametrize(
    ("refusal", "error"),
    [
        ((grpc.StatusCode.PERMISSION_DENIED, "etcdserver: permission denied"), "permission denied"),
        (
            (grpc.StatusCode.RESOURCE_EXHAUSTED, "etcdserver: mvcc: database space exceeded"),
            "space exceeded",
        ),
    ],
)
async def test_a_refused_request_is_reported_at_once(
    served: tuple[Misbehaving, EtcdCoordinator], refusal: Refusal, error: str
) -> None:
    server, client = served
    server.refusals, server.read_refusals = [refusal], [refusal]
    with pytest.raises(CoordinatorUnavailable, match=error):
        await client.transact([], [Put("/t/a", b"")])
    with pytest.raises(CoordinatorUnavailable, match=error):
        await client.get("/t/a")
    assert (server.transactions, server.reads) == (1, 1)


async def test_the_servers_own_limit_is_reported_as_what_it_is(
    served: tuple[Misbehaving, EtcdCoordinator],
) -> None:
    server, client = served
    server.refusals = [
        (grpc.StatusCode.INVALID_ARGUMENT, "etcdserver: too many operations in txn request")
    ]
    with pytest.raises(TransactionTooLarge):
        await client.transact([], [Put("/t/a", b"")])


@pytest.mark.parametrize("refusal", UNKNOWN, ids=lambda refusal: refusal[1])
async def test_a_read_is_repeated(
    served: tuple[Misbehaving, EtcdCoordinator], refusal: Refusal
) -> None:
    server, client = served
    server.read_refusals = [refusal, refusal]
    assert await client.get("/t/a") is None
    assert server.reads >= 3


async def test_L22_a_member_that_cannot_serve_is_asked_again_within_a_second(
    served: tuple[Misbehaving, EtcdCoordinator],
) -> None:
    server, client = served
    refusal = (grpc.StatusCode.UNAVAILABLE, "etcdserver: no leader")
    server.read_refusals = [refusal] * 15
    server.read_at.clear()
    assert await client.get("/t/a") is None
    gaps = [later - earlier for earlier, later in pairwise(server.read_at)]
    assert len(gaps) >= 15
    assert max(gaps) < 1.5, "the pauses grow"
    assert sum(gaps) > 1.5, "it is a hot loop"
