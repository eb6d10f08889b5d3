"""Plain JSON over HTTP as a bare ASGI application.

No routing framework: one request in flight costs the gate some tens of microseconds, and a
framework would double them. The body is forwarded as it came; it is the node that decodes it.
"""

from __future__ import annotations

import asyncio
import logging
import math
import random
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import msgspec

from goverse.aio.limits import Limit
from goverse.call import Call, CallTarget, Codec, Verb, look_up
from goverse.config.settings import LimitSettings
from goverse.errors import (
    Executed,
    GoverseError,
    Internal,
    InvalidArgument,
    NotFound,
    Overloaded,
    TooLarge,
)
from goverse.ids import new_token
from goverse.objects.timing import Schedule, When
from goverse_gate import http_delays
from goverse_gate.asgi import Receive, Scope, Send, answer
from goverse_gate.http_calls import (
    Answer,
    Head,
    Headers,
    Target,
    check_origin,
    check_reader,
    origin_allowed,
    parse_head,
    parse_target,
    problem,
)
from goverse_gate.http_front import Bodies, Doors, Front, Request, WebSocketFront

log = logging.getLogger(__name__)

#: Most requests are calls, and need not look for a front.
_CALLS = b"/v1/objects/"


@dataclass(frozen=True, kw_only=True)
class HttpLimits:
    """What one HTTP listener takes."""

    max_body_bytes: int = 64 * 1024 * 1024
    max_held_bytes: int = 256 * 1024 * 1024
    """Bodies of all requests in flight together."""
    max_requests: int = 65_536
    """Requests in flight, bodies still arriving included."""
    max_connections: int = 10_000
    max_pipelined: int = 32
    """Requests of one connection that arrived before the one in flight is answered."""
    max_head_bytes: int = 32 * 1024
    head_timeout_s: float = 10.0
    body_timeout_s: float = 30.0
    write_timeout_s: float = 30.0
    """How long a client may read nothing of an answer, or answer no ping of a WebSocket."""
    heartbeat_s: float = 15.0
    """How often a WebSocket is pinged."""
    keep_alive_timeout_s: float = 75.0

    @classmethod
    def of(cls, limits: LimitSettings) -> HttpLimits:
        return cls(
            max_body_bytes=limits.max_payload_bytes,
            max_held_bytes=limits.max_inflight_bytes,
            max_requests=limits.max_inflight_calls,
            max_connections=limits.max_sessions,
            body_timeout_s=limits.connection_timeout_s,
        )


@dataclass(frozen=True)
class HttpSnapshot:
    requests: int
    held_bytes: int


class HttpApp:
    """The ASGI application.

    :param doors: where the calls go.
    :param limits: sizes and times.
    :param allowed_origins: web pages that may call; ``*`` is all of them.
    :param fronts: what else is served here, by the raw path, or by its beginning up to a slash.
    :param websockets: the same for WebSockets, by the raw path.
    :param source: makes the ids of delayed calls that come without one.
    """

    def __init__(
        self,
        doors: Doors,
        limits: HttpLimits,
        allowed_origins: tuple[str, ...] = (),
        fronts: Mapping[bytes, Front] | None = None,
        websockets: Mapping[bytes, WebSocketFront] | None = None,
        source: random.Random | None = None,
    ) -> None:
        self._doors = doors
        self._random = source or random.SystemRandom()
        self._fronts = fronts or {}
        self._websockets = websockets or {}
        self._limits = limits
        self._origins = frozenset(origin.encode() for origin in allowed_origins)
        self._requests = 0
        self._bodies = Bodies(limits)
        self._now = asyncio.get_running_loop().time

    def snapshot(self) -> HttpSnapshot:
        return HttpSnapshot(requests=self._requests, held_bytes=self._bodies.held_bytes)

    def limits(self) -> Iterator[Limit]:
        yield Limit("http.requests", self._requests, self._limits.max_requests)
        yield Limit("http.held_bytes", self._bodies.held_bytes, self._limits.max_held_bytes)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._websocket(scope, receive, send)
            return
        cors: Headers = []
        front = self._front_of(scope["raw_path"])
        self._requests += 1
        try:
            if self._requests > self._limits.max_requests:
                raise Overloaded("the gate has as many requests in flight as it takes")
            head = parse_head(scope["headers"])
            if head.origin and origin_allowed(head.origin, self._origins):
                cors = [(b"access-control-allow-origin", head.origin), (b"vary", b"origin")]
            if scope["method"] == "OPTIONS" and head.origin:
                await self._preflight(head, cors, send)
                return
            if front is not None:
                await self._serve(front, Request(self._bodies, scope, head, cors, receive, send))
                return
            status, headers, result = await self._call(scope, head, receive)
        except GoverseError as error:
            await self._refuse(error, cors, send, front)
            return
        except Exception:
            await self._refuse(_failed(), cors, send, front)
            return
        finally:
            self._requests -= 1
        await answer(send, status, headers + cors if cors else headers, result)

    async def respond(self, path: bytes, headers: Headers, body: bytes) -> Answer:
        """Carry out ``POST path``, whose body is all here, as `__call__` does for plain calls.

        Without ASGI's messages, which cost more than everything that is decided here. The headers
        of a success are those of a web page's origin alone.
        """
        cors: Headers = []
        self._requests += 1
        self._bodies.hold(body)
        try:
            if self._requests > self._limits.max_requests:
                raise Overloaded("the gate has as many requests in flight as it takes")
            head = parse_head(headers)
            if head.origin and origin_allowed(head.origin, self._origins):
                cors = [(b"access-control-allow-origin", head.origin), (b"vary", b"origin")]
            call = self._call_of(parse_target("POST", path), head, self._now())
            self._bodies.check(len(body))
            if head.when is None:
                call.payload = body
                return 200, cors, await _invoke(call, self._doors.of(head))
            status, answered, told = await self._schedule(call, head.when, body, head)
            return status, answered + cors, told
        except GoverseError as error:
            return _refusal(error, cors, None)
        except Exception:
            return _refusal(_failed(), cors, None)
        finally:
            self._requests -= 1
            self._bodies.release([body])

    def _front_of(self, raw_path: bytes) -> Front | None:
        if not raw_path.startswith(_CALLS):
            for path, front in self._fronts.items():
                if raw_path == path or (path.endswith(b"/") and raw_path.startswith(path)):
                    return front
        return None

    async def _websocket(self, scope: Scope, receive: Receive, send: Send) -> None:
        self._requests += 1
        try:
            if self._requests > self._limits.max_requests:
                raise Overloaded("the gate has as many requests in flight as it takes")
            front = self._websockets.get(scope["raw_path"])
            if front is None:
                raise NotFound("there is no WebSocket at this path")
            head = parse_head(scope["headers"])
            # Browsers ask nobody before they open one, so this look is the only one there is.
            check_reader(head, self._origins)
            await front.serve_websocket(Request(self._bodies, scope, head, [], receive, send))
        except GoverseError as error:
            status, headers, body = problem(error)
            kind = "websocket.http.response"
            await send({"type": f"{kind}.start", "status": status, "headers": headers})
            await send({"type": f"{kind}.body", "body": body})
        finally:
            self._requests -= 1

    async def _serve(self, front: Front, request: Request) -> None:
        check = check_reader if request.method == "GET" else check_origin
        check(request.head, self._origins)
        try:
            await front.serve(request)
        finally:
            self._bodies.release(request.chunks)

    async def _call(self, scope: Scope, head: Head, receive: Receive) -> Answer:
        now = self._now()
        target = parse_target(scope["method"], scope["raw_path"])
        if scope["query_string"]:
            raise InvalidArgument("arguments go into the body, not into a query string")
        call = self._call_of(target, head, now)
        door = self._doors.of(head)
        chunks: list[bytes] = []
        try:
            await self._bodies.read(scope, head, now, receive, chunks)
            body = chunks[0] if len(chunks) == 1 else b"".join(chunks)
            if target.cancels:
                result = await http_delays.cancel(door, target.asked, call.deadline)
            elif head.when is not None and not target.asked:
                return await self._schedule(call, head.when, body, head)
            else:
                call.payload = body
                result = await _invoke(call, door)
        finally:
            self._bodies.release(chunks)
        headers = [(b"content-type", b"application/json"), (b"content-length", b"%d" % len(result))]
        return 200, headers, result

    async def _schedule(self, call: Call, when: When, body: bytes, head: Head) -> Answer:
        """Have ``call`` accepted, to be run later, under its own id or a new one."""
        call.verb = Verb.SCHEDULE
        call.call_id = call.call_id or new_token(self._random)
        call.payload = msgspec.msgpack.encode(Schedule(body, when))
        await self._doors.of(head).invoke(call)
        return 202, *http_delays.accepted(call.call_id)

    def _call_of(self, target: Target, head: Head, now: float) -> Call:
        """The call that a head asks for, still without its arguments."""
        check_origin(head, self._origins)
        deadline = now + head.timeout_s if head.timeout_s else math.inf
        if target.asked:
            return look_up(target.asked, deadline, Codec.JSON)
        return Call(
            type=target.type,
            id=target.id,
            method=target.method,
            payload=b"",
            deadline=deadline,
            codec=Codec.JSON,
            call_id=head.call_id,
            trace=head.trace,
        )

    async def _preflight(self, head: Head, cors: Headers, send: Send) -> None:
        """Answer a browser that asks what a page may send."""
        if not cors:
            check_origin(head, self._origins)
        allowed: Headers = [
            (b"access-control-allow-methods", b"GET, POST, DELETE"),
            (
                b"access-control-allow-headers",
                b"content-type, goverse-timeout, goverse-call-id, goverse-run-at, goverse-delay, "
                b"goverse-every, goverse-catch-up, goverse-client-id, "
                b"goverse-client-token, last-event-id, traceparent",
            ),
            (b"access-control-max-age", b"600"),
        ]
        await answer(send, 204, cors + allowed, b"")

    async def _refuse(
        self, error: GoverseError, cors: Headers, send: Send, front: Front | None
    ) -> None:
        await answer(send, *_refusal(error, cors, front))


def _failed() -> Internal:
    """Called while the exception is handled, which goes to the log."""
    log.exception("an HTTP request failed inside the gate")
    return Internal("the gate failed; its log says why", executed=Executed.UNKNOWN)


def _refusal(error: GoverseError, cors: Headers, front: Front | None) -> Answer:
    status, headers, body = front.refusal(error) if front is not None else problem(error)
    if isinstance(error, TooLarge):
        # The rest of the body is on its way, and nobody is going to read it.
        headers.append((b"connection", b"close"))
    return status, headers + cors, body


async def _invoke(call: Call, door: CallTarget) -> bytes:
    reply = await door.invoke(call)
    if reply.codec is not Codec.JSON:
        log.error("%s was answered in codec %r, not in JSON", call, reply.codec)
        raise Internal("the answer is not JSON", executed=Executed.YES)
    return reply.payload or b"null"
