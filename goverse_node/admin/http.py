"""Pins over HTTP, for the operations listener: ``POST`` and ``DELETE /admin/v1/shards/{n}/pin``."""

from __future__ import annotations

import dataclasses
import json
from contextlib import AbstractContextManager

from goverse.admin.api import Admin, Shard
from goverse.errors import InvalidArgument
from goverse.observability.ops_http import Request, Response, Route
from goverse.security.operators import OperatorRule
from goverse_node.admin import audit_trail

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
        with self._acting(request, "pin_shard", "pinning a shard") as trail:
            shard = _shard_number(request)
            pinned = await self._admin.pin_shard(shard, node=_node(request))
            trail.done()
        return _answer(pinned)

    async def unpin(self, request: Request) -> Response:
        with self._acting(request, "unpin_shard", "unpinning a shard") as trail:
            unpinned = await self._admin.unpin_shard(_shard_number(request))
            trail.done()
        return _answer(unpinned)

    def _acting(
        self, request: Request, action: str, words: str
    ) -> AbstractContextManager[audit_trail.Trail]:
        asked = (
            request.params["n"],
            *request.query.values(),
            request.body.decode("utf-8", "replace"),
        )
        target = " ".join(part[:64] for part in asked if part)
        return audit_trail.operator_acts(
            self._rule,
            request.peer,
            request.headers.get("authorization", ""),
            audit_trail.Act(action, words, f"shard {target}"),
        )


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
