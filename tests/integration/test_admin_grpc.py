"""The admin service and its client over a real gRPC connection."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import grpc.aio
import pytest

from goverse import admin
from goverse.admin.api import CallResult, ClusterStatus, Location, ObjectInfo, ObjectPage, Shard
from goverse.errors import ApplicationError, DeadlineExceeded, InvalidArgument, Unavailable
from goverse.security.operators import OperatorRule
from goverse_node.admin.service import AdminService


class Node:
    def __init__(self) -> None:
        self.timeout_s = 0.0
        self.result = b"5"
        self.failure: Exception | None = None

    async def get_status(self, *, local_only: bool = False) -> ClusterStatus:
        return ClusterStatus(cluster_id="c", num_shards=8)

    async def get_shard(self, shard: int, *, local_only: bool = False) -> Shard:
        return Shard(shard=shard, pinned=True, pinned_node="n2")

    async def locate_object(self, type: str, id: str) -> Location:
        return Location(type=type, id=id)

    async def list_objects(self, **question: Any) -> ObjectPage:
        found = ObjectInfo(type="T", id="ü", queued=2)
        return ObjectPage(objects=(found,), unreachable=("n3",))

    async def call_object(
        self, type: str, id: str, method: str, args: bytes, timeout_s: float
    ) -> CallResult:
        self.timeout_s = timeout_s
        if self.failure is not None:
            raise self.failure
        return CallResult(result=self.result)


@asynccontextmanager
async def served(node: Node) -> AsyncIterator[str]:
    server = grpc.aio.server()
    service = AdminService(node, OperatorRule())  # type: ignore[arg-type]
    server.add_generic_rpc_handlers((service.handler(),))
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    try:
        yield f"127.0.0.1:{port}"
    finally:
        await server.stop(None)


async def test_questions_and_answers_cross_the_wire() -> None:
    async with served(Node()) as address, admin.connect(address) as client:
        await client.wait_connected(5)
        assert await client.get_status() == ClusterStatus(cluster_id="c", num_shards=8)
        assert (await client.get_shard(7)).pinned_node == "n2"
        assert (await client.locate_object("T", "ü/ö")).id == "ü/ö"
        page = await client.list_objects(type="T")
        assert page.objects[0] == ObjectInfo(type="T", id="ü", queued=2)
        assert page.unreachable == ("n3",)


async def test_the_deadline_of_the_caller_is_the_deadline_of_the_call() -> None:
    node = Node()
    async with served(node) as address, admin.connect(address, timeout_s=7) as client:
        await client.call_object("T", "a", "m")
        assert 5 < node.timeout_s < 7.5
        await client.call_object("T", "a", "m", timeout_s=3)
        assert 1 < node.timeout_s < 3.5


async def test_a_large_result_fits() -> None:
    node = Node()
    node.result = b'"' + b"x" * 10_000_000 + b'"'
    async with served(node) as address, admin.connect(address) as client:
        assert (await client.call_object("T", "a", "m")).result == node.result


async def test_errors_cross_the_wire_whole() -> None:
    node = Node()
    async with served(node) as address, admin.connect(address) as client:
        node.failure = ApplicationError("too_poor", "kein Geld: 0 €", {"missing": 3})
        with pytest.raises(ApplicationError) as caught:
            await client.call_object("T", "a", "m")
        error = caught.value
        assert (error.code, error.message, error.details) == (
            "too_poor",
            "kein Geld: 0 €",
            {"missing": 3},
        )
        node.failure = DeadlineExceeded("late")
        with pytest.raises(DeadlineExceeded, match=r"^late$"):
            await client.call_object("T", "a", "m")


async def test_what_does_not_fit_a_message_is_refused_before_it_is_sent() -> None:
    async with served(Node()) as address, admin.connect(address) as client:
        with pytest.raises(InvalidArgument):
            await client.get_shard(2**40)
    with pytest.raises(InvalidArgument):
        admin.connect("nowhere")


async def test_nobody_there_is_unavailable() -> None:
    async with admin.connect("127.0.0.1:1", timeout_s=2) as client:
        with pytest.raises(Unavailable):
            await client.get_status()
        with pytest.raises(Unavailable):
            await client.wait_connected(0.2)
