"""The HTTP endpoints of existing clients: ``/api/v1/objects/...``.

==================================================  ==================  ========================
``POST /api/v1/objects/call/{type}/{id}/{method}``  ``{"request": A}``  ``{"response": A}``
``POST /api/v1/objects/create/{type}/{id}``                             ``{"id": "..."}``
``POST /api/v1/objects/delete/{type}/{id}``                             ``{"success": true}``
==================================================  ==================  ========================

A is the base64 of a serialized google.protobuf.Any; without it there are no arguments. Failures
are ``{"error": "...", "code": "..."}`` with the status that the code has everywhere, and say in
the header ``Goverse-Executed`` whether the call was executed. Headers mean what they mean on our
own paths.
"""

from __future__ import annotations

import asyncio
import logging
import math
from collections.abc import Callable
from typing import TypeVar

import msgspec

from goverse.call import Call, CallTarget, Codec, Verb
from goverse.errors import Executed, GoverseError, Internal, InvalidArgument, NotFound
from goverse_gate.http_calls import Headers, not_allowed, problem, unquote_part
from goverse_gate.http_front import Doors, Request

log = logging.getLogger(__name__)

_Body = TypeVar("_Body")

_SHAPES = {b"call": 3, b"create": 2, b"delete": 2}
_FIELDS = ("type", "id", "method")


class _CallBody(msgspec.Struct, forbid_unknown_fields=True):
    request: bytes | None = None


class _NoBody(msgspec.Struct, forbid_unknown_fields=True):
    pass


_decode_call = msgspec.json.Decoder(_CallBody).decode
_decode_nothing = msgspec.json.Decoder(_NoBody).decode


class CompatibleCalls:
    """Serves those paths.

    :param doors: where the calls go.
    """

    prefix = b"/api/v1/objects/"

    def __init__(self, doors: Doors) -> None:
        self._doors = doors

    async def serve(self, request: Request) -> None:
        """Answer ``request``. Raises errors of `goverse.errors`."""
        action, names = _target(request.method, request.raw_path[len(self.prefix) :])
        if request.scope["query_string"]:
            raise InvalidArgument("arguments go into the body, not into a query string")
        head = request.head
        door = self._doors.of(head)
        now = asyncio.get_running_loop().time()
        call = Call(
            type=names[0],
            id=names[1],
            method=names[2] if action == b"call" else "",
            payload=b"",
            deadline=now + head.timeout_s if head.timeout_s else math.inf,
            call_id=head.call_id,
            trace=head.trace,
        )
        body = await request.body()
        if action == b"call":
            answer = await self._call(door, call, body)
        else:
            _parsed(_decode_nothing, body)
            call.verb = Verb.CREATE if action == b"create" else Verb.DELETE
            await door.invoke(call)
            answer = {"id": call.id} if action == b"create" else {"success": True}
        await request.answer(200, msgspec.json.encode(answer))

    async def _call(self, door: CallTarget, call: Call, body: bytes) -> dict[str, object]:
        call.payload = _parsed(_decode_call, body).request or b""
        call.codec = Codec.ANY
        reply = await door.invoke(call)
        if reply.codec is not Codec.ANY:
            log.error("%s was answered in codec %r, not in an Any", call, reply.codec)
            raise Internal("the answer is not a google.protobuf.Any", executed=Executed.YES)
        return {"response": reply.payload}

    def refusal(self, error: GoverseError) -> tuple[int, Headers, bytes]:
        """Status, headers and body that tell a client of ``error``."""
        return compatible_problem(error)


def compatible_problem(error: GoverseError) -> tuple[int, Headers, bytes]:
    """Status, headers and body that tell an existing client of ``error``."""
    status, headers, _ = problem(error)
    text = error.message.encode("utf-8", "replace").decode()
    body = msgspec.json.encode({"error": text, "code": error.code})
    kept = [header for header in headers if not header[0].startswith(b"content-")]
    executed = (b"goverse-executed", error.executed.value.encode())
    return status, [*_json(body), executed, *kept], body


def _json(body: bytes) -> Headers:
    return [(b"content-type", b"application/json"), (b"content-length", b"%d" % len(body))]


def _target(method: str, path: bytes) -> tuple[bytes, list[str]]:
    """The action and the names in a path, which is split before it is unquoted."""
    action, *parts = path.split(b"/")
    if _SHAPES.get(action) != len(parts):
        raise NotFound(
            "expected /api/v1/objects/call/{type}/{id}/{method}, .../create/{type}/{id} or "
            ".../delete/{type}/{id}; a slash within an id is written %2F"
        )
    if method != "POST":
        raise not_allowed(method, b"POST")
    return action, [unquote_part(part, field) for part, field in zip(parts, _FIELDS, strict=False)]


def _parsed(decode: Callable[[bytes], _Body], body: bytes) -> _Body:
    try:
        return decode(body or b"{}")
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise InvalidArgument(f"the body is not what is expected here: {error}") from None
