"""``GET /openapi.json``: the document of now, made once for each set of types."""

from __future__ import annotations

import msgspec

from goverse.cluster.registration import package_version
from goverse.errors import GoverseError, NotFound
from goverse_gate.http_calls import Headers, not_allowed, problem
from goverse_gate.http_front import Request
from goverse_gate.node_types import Known, NodeTypes
from goverse_gate.openapi import document


class OpenApiPage:
    """Answers with the document; while no node can be asked, with the problem `unavailable`."""

    prefix = b"/openapi.json"

    def __init__(self, types: NodeTypes) -> None:
        self._types = types
        self._made: tuple[tuple[tuple[str, ...], tuple[str, ...]], bytes] | None = None

    async def serve(self, request: Request) -> None:
        """Answer ``request``. Raises errors of `goverse.errors`."""
        if request.raw_path != self.prefix:
            raise NotFound("no such path; the description of all calls is at /openapi.json")
        if request.method not in ("GET", "HEAD"):
            raise not_allowed(request.method, b"GET, HEAD")
        await request.answer(200, await self._document())

    def refusal(self, error: GoverseError) -> tuple[int, Headers, bytes]:
        return problem(error)

    async def _document(self) -> bytes:
        known = await self._types.current()
        key = tuple(described.digest for described in known.descriptions), known.missing
        if self._made is None or self._made[0] != key:
            self._made = key, _render(known)
        return self._made[1]


def _render(known: Known) -> bytes:
    version = package_version() or "unknown"
    return msgspec.json.encode(document(known.descriptions, version=version, missing=known.missing))
