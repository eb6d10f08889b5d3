"""Pins over the operations listener."""

from __future__ import annotations

import json
from typing import Any

import pytest

from goverse.admin.api import Shard
from goverse.errors import InvalidArgument, PermissionDenied
from goverse.observability.ops_http import Request, Response
from goverse.security.operators import OperatorRule
from goverse_node.admin.http import PinRoutes


class Pins:
    def __init__(self) -> None:
        self.done: list[tuple[int, str | None]] = []

    async def pin_shard(self, shard: int, *, node: str) -> Shard:
        self.done.append((shard, node))
        return Shard(shard=shard, pinned=True, pinned_node=node)

    async def unpin_shard(self, shard: int) -> Shard:
        self.done.append((shard, None))
        return Shard(shard=shard)


async def ask(
    pins: Pins,
    method: str,
    number: str = "42",
    *,
    body: bytes = b"",
    peer: str = "127.0.0.1:9",
    **more: Any,
) -> Response:
    path = f"/admin/v1/shards/{number}/pin"
    for route in PinRoutes(pins, OperatorRule("0123456789abcdef")).routes():  # type: ignore[arg-type]
        params = route.match(path)
        if params is not None and route.method == method:
            request = Request(
                method, path, more.get("query", {}), more.get("headers", {}), body, peer, params
            )
            return await route.handler(request)
    raise AssertionError(f"no route for {method} {path}")


async def test_a_shard_is_pinned_and_unpinned() -> None:
    pins = Pins()
    answer = await ask(pins, "POST", body=b'{"node": "n2"}')
    assert json.loads(answer.body)["pinned_node"] == "n2"
    await ask(pins, "POST", query={"node": "n3"})
    await ask(pins, "DELETE")
    assert pins.done == [(42, "n2"), (42, "n3"), (42, None)]


@pytest.mark.parametrize("method", ["POST", "DELETE"])
async def test_L31_over_http_too_a_pin_needs_an_operator(method: str) -> None:
    pins = Pins()
    for headers in ({}, {"authorization": "Bearer wrong"}, {"x-forwarded-for": "127.0.0.1"}):
        with pytest.raises(PermissionDenied):
            await ask(pins, method, peer="10.0.0.7:5", headers=headers)
    assert pins.done == []
    shown = {"authorization": "Bearer 0123456789abcdef"}
    await ask(pins, method, peer="10.0.0.7:5", headers=shown)
    assert len(pins.done) == 1


@pytest.mark.parametrize("number", ["x", "-1", "1e3", "٣", "123456", ""])
async def test_a_shard_is_a_number(number: str) -> None:
    with pytest.raises(InvalidArgument):
        await ask(Pins(), "DELETE", number)


@pytest.mark.parametrize("body", [b"n2", b"[]", b"{}", b'{"node": 2}', b'{"node": "a", "x": 1}'])
async def test_a_body_that_names_no_node_is_refused(body: bytes) -> None:
    with pytest.raises(InvalidArgument):
        await ask(Pins(), "POST", body=body)
