"""Pins over HTTP, for the operations listener: ``POST`` and ``DELETE /admin/v1/shards/{n}/pin``."""

from __future__ import annotations

import dataclasses
import json

from goverse.admin.api import Admin, Shard
from goverse.errors import InvalidArgument
from goverse.observability.ops_http import Request, Response, Route
from goverse.security.operators import OperatorRule

PATTERN = "/admin/v1/shards/{n}/pin"


class PinRoutes:
    """Both answer the shard as JSON; errors become problems in the listener.

    :param rule: who may pin.
    """

    def __init__(self, admin: Admin, rule: OperatorRule) -> None:
        self._admin = admin
        self._rule = rule

    def routes(self) -> tuple[Route, ...]:
        return (Route("POST", PATTERN, self.pin), Route("DELETE", PATTERN, self.unpin))

    async def pin(self, request: Request) -> Response:
        """Body ``{"node": "n2"}``, or the query ``?node=n2``."""
        self._check(request, "pinning a shard")
        shard = _shard_number(request)
        return _answer(await self._admin.pin_shard(shard, node=_node(request)))

    async def unpin(self, request: Request) -> Response:
        self._check(request, "unpinning a shard")
        return _answer(await self._admin.unpin_shard(_shard_number(request)))

    def _check(self, request: Request, action: str) -> None:
        self._rule.check(request.peer, request.headers.get("authorization", ""), action)


def _answer(shard: Shard) -> Response:
    return Response.json(dataclasses.asdict(shard))


def _shard_number(request: Request) -> int:
    text = request.params["n"]
    if not (text.isascii() and text.isdigit() and len(text) <= 5):
        raise InvalidArgument(f"{text[:32]!r} is not the number of a shard")
    return int(text)


def _node(request: Request) -> str:
    if not request.body:
        return request.query.get("node", "")
    try:
        body = json.loads(request.body)
    except ValueError as error:
        raise InvalidArgument(f"the body is not JSON: {error}") from error
    if not isinstance(body, dict) or set(body) != {"node"} or not isinstance(body["node"], str):
        raise InvalidArgument('the body must be {"node": "<name>"}')
    node: str = body["node"]
    return node
