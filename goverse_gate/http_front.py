"""What the HTTP application and what it serves beside plain calls have in common: reading bodies
within limits, and the shape of a `Front`."""

from __future__ import annotations

import asyncio
import math
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Protocol

from goverse.call import CallTarget
from goverse.errors import (
    DeadlineExceeded,
    GoverseError,
    InvalidArgument,
    Overloaded,
    PermissionDenied,
    TooLarge,
)
from goverse_gate.asgi import Receive, Scope, Send, answer
from goverse_gate.http_calls import Answer, Head, Headers, HttpProblem

if TYPE_CHECKING:
    from goverse_gate.http_app import HttpLimits

#: In a scope whose body is all here already: reading it needs no timer.
BODY_ARRIVED = "goverse.body_arrived"


class Bodies:
    """Reads request bodies, and counts those of requests that are not over."""

    def __init__(self, limits: HttpLimits) -> None:
        self._limits = limits
        self.held_bytes = 0

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

    def hold(self, body: bytes) -> None:
        """``body`` counts as held from now on, also if it `check`s as too much."""
        self.held_bytes += len(body)

    def check(self, size: int) -> None:
        """Raise TooLarge for a body of ``size`` bytes, Overloaded if all together are too much."""
        if size > self._limits.max_body_bytes:
            raise self._too_large()
        if self.held_bytes > self._limits.max_held_bytes:
            raise Overloaded("the gate holds as many request bodies as it can")

    def release(self, chunks: list[bytes]) -> None:
        """They are needed no longer."""
        for chunk in chunks:
            self.held_bytes -= len(chunk)

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
                self.hold(chunk)
                self.check(size)
            if not message.get("more_body", False):
                return

    def _too_large(self) -> TooLarge:
        return TooLarge(
            f"the body is above the limit of {self._limits.max_body_bytes} bytes "
            "(limits.max_payload_bytes)"
        )


class Doors:
    """Which door a request goes through.

    :param door: of requests that name no client.
    :param caller: gives the door of a client, by the token and the id in a request.
    """

    def __init__(
        self, door: CallTarget, caller: Callable[[str, str], CallTarget] | None = None
    ) -> None:
        self._door = door
        self._caller = caller

    def of(self, head: Head) -> CallTarget:
        """Raises PermissionDenied for a client that this request may not speak for."""
        if not head.client_token and not head.client_id:
            return self._door
        if self._caller is None:
            raise PermissionDenied("there are no event streams here, and so no client ids for HTTP")
        return self._caller(head.client_token, head.client_id)


@dataclass(slots=True)
class Request:
    """One request as a `Front` sees it; its origin has been checked."""

    bodies: Bodies
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
        await self.bodies.read(self.scope, self.head, now, self.receive, self.chunks)
        return b"".join(self.chunks)

    async def answer(self, status: int, body: bytes) -> None:
        """Send one whole response of JSON."""
        headers = [(b"content-type", b"application/json"), (b"content-length", b"%d" % len(body))]
        await answer(self.send, status, headers + self.cors, body)


class WebSocketFront(Protocol):
    """Serves WebSockets at one path."""

    async def serve_websocket(self, request: Request) -> None:
        """From its opening to its end. Raises errors of `goverse.errors` before it is accepted."""
        ...


class Front(Protocol):
    """Serves one path, or those that begin alike."""

    async def serve(self, request: Request) -> None:
        """Answer ``request``. Raises errors of `goverse.errors` before it has begun to."""
        ...

    def refusal(self, error: GoverseError) -> Answer:
        """What tells a client of ``error``."""
        ...
