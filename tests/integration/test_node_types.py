"""A gate asks nodes for their types: once per digest, newest first, and never the same twice."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from typing import Any

import httpx
import pytest

import goverse
import goverse.client
from goverse.call import Call, Codec, Verb
from goverse.errors import LinkBroken
from goverse.objects import Registry
from goverse_gate.app import Gate
from tests.robustness.http_world import World
from tests.support.eventually import eventually


class Old(goverse.Object, name="Thing"):
    """Old."""

    @goverse.method
    async def old(self) -> None: ...


class New(goverse.Object, name="Thing"):
    """New."""

    @goverse.method
    async def new(self) -> None: ...


@pytest.fixture
async def world() -> AsyncIterator[World]:
    world = World()
    yield world
    assert world.hub.connections() == 0


async def get(gate: Gate, method: str = "GET", **kwargs: Any) -> httpx.Response:
    async with httpx.AsyncClient() as http:
        return await http.request(method, f"http://{gate.http_address}/openapi.json", **kwargs)


async def linked(gate: Gate, *names: str) -> None:
    await eventually(
        lambda: sorted(hello.member.name for hello in gate.pool.hellos()) == sorted(names)
    )


def digest(*classes: type[goverse.Object]) -> str:
    registry = Registry()
    for cls in classes:
        registry.add(cls)
    return registry.types_digest()


class Counted:
    """Counts what nodes are asked through a gate's pool, and can make them silent."""

    def __init__(self, gate: Gate, monkeypatch: pytest.MonkeyPatch) -> None:
        self.asked: list[str] = []
        self.silent: dict[str, None] = {}
        real = gate.pool.target

        def target(member: Any, address: str) -> Any:
            counted, inner = self, real(member, address)

            class Target:
                async def invoke(self, call: Call) -> Any:
                    if call.verb is Verb.DESCRIBE:
                        counted.asked.append(member.name)
                        if member.name in counted.silent:
                            raise LinkBroken("silent", sent=True)
                    return await inner.invoke(call)

            return Target()

        monkeypatch.setattr(gate.pool, "target", target)


async def test_without_a_node_it_answers_503_and_says_why(world: World) -> None:
    async with world.gate() as gate:
        answer = await get(gate)
        assert answer.status_code == 503
        assert answer.headers["content-type"] == "application/problem+json"
        assert answer.json()["code"] == "unavailable"
        assert "no node is linked" in answer.json()["detail"]


async def test_many_who_ask_at_once_cost_one_question(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with world.node("n1", Old), world.node("n2", Old), world.gate() as gate:
        await linked(gate, "n1", "n2")
        counted = Counted(gate, monkeypatch)
        answers = await asyncio.gather(*(get(gate) for _ in range(20)))
        assert {answer.status_code for answer in answers} == {200}
        assert len({answer.content for answer in answers}) == 1
        assert len(counted.asked) == 1
        await get(gate)
        assert len(counted.asked) == 1
        assert gate.snapshot().node_types.digests == (digest(Old),)
        assert gate.snapshot().node_types.fetching == 0


async def test_a_rolling_upgrade_shows_both_and_then_the_new_one(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with AsyncExitStack() as old, world.gate() as gate:
        await old.enter_async_context(world.node("n1", Old))
        await linked(gate, "n1")
        counted = Counted(gate, monkeypatch)
        assert list((await get(gate)).json()["paths"]) == ["/v1/objects/Thing/{id}/old"]
        async with world.node("n2", New):
            await linked(gate, "n1", "n2")
            both = (await get(gate)).json()
            assert list(both["paths"]) == [
                "/v1/objects/Thing/{id}/new",
                "/v1/objects/Thing/{id}/old",
            ]
            assert both["tags"] == [{"name": "Thing", "description": "New."}]
            assert both["info"]["x-goverse-types"]["digests"] == [digest(New), digest(Old)]
            await old.aclose()
            await linked(gate, "n2")
            now = (await get(gate)).json()
            assert list(now["paths"]) == ["/v1/objects/Thing/{id}/new"]
        assert counted.asked == ["n1", "n2"]


async def test_a_node_that_does_not_answer_is_passed_over(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with world.node("n1", Old), world.node("n2", Old), world.gate() as gate:
        await linked(gate, "n1", "n2")
        counted = Counted(gate, monkeypatch)
        counted.silent = {"n2": None}
        assert (await get(gate)).status_code == 200
        assert counted.asked[-1] == "n1"


async def test_what_cannot_be_had_is_named_and_asked_for_again(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with world.node("n1", Old), world.node("n2", New), world.gate() as gate:
        await linked(gate, "n1", "n2")
        counted = Counted(gate, monkeypatch)
        counted.silent = {"n2": None}
        found = (await get(gate)).json()["info"]["x-goverse-types"]
        assert found == {"digests": [digest(Old)], "missing": [digest(New)]}
        counted.silent = {"n1": None, "n2": None}
        counted.silent.pop("n2")
        found = (await get(gate)).json()["info"]["x-goverse-types"]
        assert found == {"digests": [digest(New), digest(Old)], "missing": []}


async def test_nobody_who_answers_is_a_503(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    async with world.node("n1", Old), world.gate() as gate:
        await linked(gate, "n1")
        Counted(gate, monkeypatch).silent = {"n1": None}
        answer = await get(gate)
        assert (answer.status_code, answer.json()["code"]) == (503, "unavailable")
        assert gate.snapshot().node_types.fetching == 0


async def test_it_can_only_be_read(world: World) -> None:
    async with world.node("n1", Old), world.gate() as gate:
        await linked(gate, "n1")
        for method in ("POST", "PUT", "DELETE"):
            answer = await get(gate, method)
            assert answer.status_code == 405
            assert answer.headers["allow"] == "GET, HEAD"
        head = await get(gate, "HEAD")
        assert (head.status_code, head.content) == (200, b"")


async def test_a_member_may_ask_and_a_client_may_not(world: World) -> None:
    async with world.node("n1", Old) as node, world.gate() as gate:
        await linked(gate, "n1")
        call = Call("", "", "", b"", 1e9, codec=Codec.JSON, verb=Verb.DESCRIBE)
        reply = await node.catalog.invoke(call)
        assert digest(Old).encode() in reply.payload
        async with goverse.client.connect(
            "g1:49000", network=world.hub.network("client")
        ) as client:
            with pytest.raises(goverse.PermissionDenied):
                await client._session.invoke(  # type: ignore[attr-defined]
                    Call("Thing", "a", "", b"", 1e9, verb=Verb.DESCRIBE)
                )
