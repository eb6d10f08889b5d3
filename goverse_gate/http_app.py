"""Plain JSON over HTTP as a bare ASGI application.

No routing framework: one request in flight costs the gate some tens of microseconds, and a
framework would double them. The body is forwarded as it came; it is the node that decodes it.
"""

from __future__ import annotations

import asyncio
import logging
import math
from collections.abc import Awaitable, Callable, Mapping, MutableMapping
from dataclasses import dataclass, field
from typing import Any, Protocol

from goverse.call import Call, CallTarget, Codec
from goverse.config.settings import LimitSettings
from goverse.errors import (
    DeadlineExceeded,
    Executed,
    GoverseError,
    Internal,
    InvalidArgument,
    Overloaded,
    TooLarge,
)
from goverse_gate.http_calls import (
    Head,
    Headers,
    HttpProblem,
    check_origin,
    check_reader,
    origin_allowed,
    parse_head,
    parse_target,
    problem,
)

log = logging.getLogger(__name__)

Message = MutableMapping[str, Any]
Scope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
Application = Callable[[Scope, Receive, Send], Awaitable[None]]


#: In a scope whose body is all here already: reading it needs no timer.
BODY_ARRIVED = "goverse.body_arrived"


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
    """How long a client may leave an answer unread."""
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


@dataclass(slots=True)
class Request:
    """One request as a `Front` sees it; its origin has been checked."""

    app: HttpApp
    scope: Scope
    head: Head
    cors: Headers
    receive: Receive
    send: Send
    chunks: list[bytes] = field(default_factory=list)

    @property
    def method(self) -> str:
        method: str = self.scope["method"]
        return method

    @property
    def raw_path(self) -> bytes:
        raw_path: bytes = self.scope["raw_path"]
        return raw_path

    async def body(self) -> bytes:
        """The whole body. It counts as held until the request is over."""
        now = asyncio.get_running_loop().time()
        await self.app.read(self.scope, self.head, now, self.receive, self.chunks)
        return b"".join(self.chunks)

    async def answer(self, status: int, body: bytes) -> None:
        """Send one whole response of JSON."""
        headers = [(b"content-type", b"application/json"), (b"content-length", b"%d" % len(body))]
        await answer(self.send, status, headers + self.cors, body)


class Front(Protocol):
    """Serves the paths that begin alike."""

    async def serve(self, request: Request) -> None:
        """Answer ``request``. Raises errors of `goverse.errors` before it has begun to."""
        ...

    def refusal(self, error: GoverseError) -> tuple[int, Headers, bytes]:
        """Status, headers and body that tell a client of ``error``."""
        ...


class HttpApp:
    """The ASGI application.

    :param door: where the calls go.
    :param limits: sizes and times.
    :param allowed_origins: web pages that may call; ``*`` is all of them.
    :param fronts: what else is served here, by the beginning of the raw path.
    """

    def __init__(
        self,
        door: CallTarget,
        limits: HttpLimits,
        allowed_origins: tuple[str, ...] = (),
        fronts: Mapping[bytes, Front] | None = None,
    ) -> None:
        self._door = door
        self._fronts = fronts or {}
        self._limits = limits
        self._origins = frozenset(origin.encode() for origin in allowed_origins)
        self._requests = 0
        self._held_bytes = 0

    def snapshot(self) -> HttpSnapshot:
        return HttpSnapshot(requests=self._requests, held_bytes=self._held_bytes)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            raise RuntimeError(f"{scope['type']} is not served here")
        cors: Headers = []
        front: Front | None = None
        self._requests += 1
        try:
            if self._requests > self._limits.max_requests:
                raise Overloaded("the gate has as many requests in flight as it takes")
            front = self._front_of(scope["raw_path"])
            head = parse_head(scope["headers"])
            if head.origin and origin_allowed(head.origin, self._origins):
                cors = [(b"access-control-allow-origin", head.origin), (b"vary", b"origin")]
            if scope["method"] == "OPTIONS" and head.origin:
                await self._preflight(head, cors, send)
                return
            if front is not None:
                await self._serve(front, Request(self, scope, head, cors, receive, send))
                return
            result = await self._call(scope, head, receive)
        except GoverseError as error:
            await self._refuse(error, cors, send, front)
            return
        except Exception:
            log.exception("an HTTP request failed inside the gate")
            fault = Internal("the gate failed; its log says why", executed=Executed.UNKNOWN)
            await self._refuse(fault, cors, send, front)
            return
        finally:
            self._requests -= 1
        headers = [(b"content-type", b"application/json"), (b"content-length", b"%d" % len(result))]
        await answer(send, 200, headers + cors if cors else headers, result)

    def _front_of(self, raw_path: bytes) -> Front | None:
        if not raw_path.startswith(b"/v1/"):
            for prefix, front in self._fronts.items():
                if raw_path.startswith(prefix):
                    return front
        return None

    async def _serve(self, front: Front, request: Request) -> None:
        check = check_reader if request.method == "GET" else check_origin
        check(request.head, self._origins)
        try:
            await front.serve(request)
        finally:
            self._release(request.chunks)

    async def _call(self, scope: Scope, head: Head, receive: Receive) -> bytes:
        now = asyncio.get_running_loop().time()
        target = parse_target(scope["method"], scope["raw_path"])
        if scope["query_string"]:
            raise InvalidArgument("arguments go into the body, not into a query string")
        check_origin(head, self._origins)
        call = Call(
            type=target.type,
            id=target.id,
            method=target.method,
            payload=b"",
            deadline=now + head.timeout_s if head.timeout_s else math.inf,
            codec=Codec.JSON,
            call_id=head.call_id.decode("latin-1"),
            trace=head.trace,
        )
        chunks: list[bytes] = []
        try:
            await self.read(scope, head, now, receive, chunks)
            call.payload = chunks[0] if len(chunks) == 1 else b"".join(chunks)
            reply = await self._door.invoke(call)
        finally:
            self._release(chunks)
        if reply.codec is not Codec.JSON:
            log.error("%s was answered in codec %r, not in JSON", call, reply.codec)
            raise Internal("the answer is not JSON", executed=Executed.YES)
        return reply.payload or b"null"

    async def read(
        self, scope: Scope, head: Head, started: float, receive: Receive, chunks: list[bytes]
    ) -> None:
        """Append the body to ``chunks``, within its size and time; it counts as held."""
        if head.content_length > self._limits.max_body_bytes:
            raise self._too_large()
        if BODY_ARRIVED in scope:
            await self._read_chunks(receive, chunks)
        else:
            await self._read_in_time(head, started, receive, chunks)

    def _release(self, chunks: list[bytes]) -> None:
        for chunk in chunks:
            self._held_bytes -= len(chunk)

    async def _read_in_time(
        self, head: Head, started: float, receive: Receive, chunks: list[bytes]
    ) -> None:
        body_deadline = started + self._limits.body_timeout_s
        own_deadline = started + head.timeout_s if head.timeout_s else math.inf
        try:
            async with asyncio.timeout_at(min(body_deadline, own_deadline)):
                await self._read_chunks(receive, chunks)
        except TimeoutError:
            if own_deadline <= body_deadline:
                raise DeadlineExceeded("the deadline passed before the body was there") from None
            raise HttpProblem(
                408,
                "request_timeout",
                f"the body did not arrive within {self._limits.body_timeout_s:g} s",
                [(b"connection", b"close")],
            ) from None

    async def _read_chunks(self, receive: Receive, chunks: list[bytes]) -> None:
        """Append the body to ``chunks``, within its size."""
        size = 0
        while True:
            message = await receive()
            if message["type"] != "http.request":
                # Nobody is there to read an answer; the server has no body for us.
                raise InvalidArgument("the client went away before its body was complete")
            chunk = message.get("body", b"")
            if chunk:
                chunks.append(chunk)
                size += len(chunk)
                self._held_bytes += len(chunk)
                if size > self._limits.max_body_bytes:
                    raise self._too_large()
                if self._held_bytes > self._limits.max_held_bytes:
                    raise Overloaded("the gate holds as many request bodies as it can")
            if not message.get("more_body", False):
                return

    def _too_large(self) -> TooLarge:
        return TooLarge(
            f"the body is above the limit of {self._limits.max_body_bytes} bytes "
            "(limits.max_payload_bytes)"
        )

    async def _preflight(self, head: Head, cors: Headers, send: Send) -> None:
        """Answer a browser that asks what a page may send."""
        if not cors:
            check_origin(head, self._origins)
        allowed: Headers = [
            (b"access-control-allow-methods", b"GET, POST"),
            (
                b"access-control-allow-headers",
                b"content-type, goverse-timeout, goverse-call-id, traceparent",
            ),
            (b"access-control-max-age", b"600"),
        ]
        await answer(send, 204, cors + allowed, b"")

    async def _refuse(
        self, error: GoverseError, cors: Headers, send: Send, front: Front | None
    ) -> None:
        status, headers, body = front.refusal(error) if front is not None else problem(error)
        if isinstance(error, TooLarge):
            # The rest of the body is on its way, and nobody is going to read it.
            headers.append((b"connection", b"close"))
        await answer(send, status, headers + cors, body)


async def answer(send: Send, status: int, headers: Headers, body: bytes) -> None:
    """Send one whole response."""
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": body})
