"""What an HTTP request says and how an outcome is told: pure functions over bytes.

A request is ``POST /v1/objects/{type}/{id}/{method}`` with the arguments as its body. Failures
are problems of RFC 9457 with ``code``, ``executed`` and ``details`` of `goverse.errors`; what
only HTTP knows (a wrong method, a head that is too large) has the codes of `HttpProblem`.
"""

from __future__ import annotations

import http
import re
from collections.abc import Iterable
from dataclasses import dataclass
from urllib.parse import unquote_to_bytes

import msgspec

from goverse.errors import (
    GoverseError,
    InvalidArgument,
    NotFound,
    Overloaded,
    PermissionDenied,
    RateLimited,
    Unavailable,
)
from goverse.objects.timing import When
from goverse_gate import http_delays

Headers = list[tuple[bytes, bytes]]

#: Status, headers and body.
Answer = tuple[int, Headers, bytes]

_TIMEOUT = re.compile(rb"(\d{1,9}(?:\.\d{1,9})?)(ms|s|m)\Z")
_UNITS_S = {b"ms": 0.001, b"s": 1.0, b"m": 60.0}
_BROKEN_ESCAPE = re.compile(rb"%(?![0-9A-Fa-f]{2})")
_DIGITS = re.compile(rb"\d{1,18}\Z")
_JSON = b"application/json"
_MEANT = frozenset(
    [
        b"content-length",
        b"content-type",
        b"origin",
        b"goverse-timeout",
        b"goverse-call-id",
        *http_delays.HEADERS,
        b"goverse-client-id",
        b"goverse-client-token",
        b"last-event-id",
        b"traceparent",
    ]
)


class HttpProblem(GoverseError):
    """Refused by HTTP's own rules, before anything reached an object."""

    def __init__(self, status: int, code: str, message: str, headers: Headers | None = None):
        super().__init__(message)
        self.http_status = status  # type: ignore[misc]
        self.code = code  # type: ignore[misc]
        self.headers = headers or []


@dataclass(frozen=True, slots=True)
class Target:
    """The object and method that a path names, or the call that it asks about.

    :param cancels: that call, rather than to ask about it.
    """

    type: str
    id: str
    method: str
    asked: str = ""
    cancels: bool = False


@dataclass(slots=True)
class Head:
    """The headers that mean something here; an empty one was not sent."""

    origin: bytes = b""
    content_type: bytes = b""
    content_length: int = -1
    timeout_s: float = 0.0
    call_id: str = ""
    when: When | None = None
    client_id: str = ""
    client_token: str = ""
    last_event_id: str = ""
    trace: str = ""


def parse_target(method: str, raw_path: bytes) -> Target:
    """What ``method raw_path`` asks for. Raises the problem to answer otherwise.

    The path is split before it is unquoted: ``shard%235%2Fx`` is one id.
    """
    parts = raw_path.split(b"/")
    if parts[:3] == [b"", b"v1", b"objects"]:
        if len(parts) == 6:
            if method != "POST":
                raise not_allowed(method, b"POST")
            return Target(
                unquote_part(parts[3], "type"),
                unquote_part(parts[4], "id"),
                unquote_part(parts[5], "method"),
            )
        raise NotFound(
            "expected /v1/objects/{type}/{id}/{method}; a slash within an id is written %2F"
        )
    if parts[:3] == [b"", b"v1", b"calls"] and len(parts) == 4:
        if method not in ("GET", "DELETE"):
            raise not_allowed(method, b"GET, DELETE")
        asked = unquote_part(parts[3], "call_id")
        return Target("", "", "", asked, cancels=method == "DELETE")
    raise NotFound("no such path; objects are called by POST /v1/objects/{type}/{id}/{method}")


def unquote_part(part: bytes, field: str) -> str:
    """One part of a path as text. Raises InvalidArgument naming ``field``."""
    if b"%" in part:
        if _BROKEN_ESCAPE.search(part):
            raise InvalidArgument(
                f"{field} in the path has a broken percent escape", details={"field": field}
            )
        part = unquote_to_bytes(part)
    try:
        return part.decode()
    except UnicodeDecodeError:
        raise InvalidArgument(
            f"{field} in the path is not UTF-8", details={"field": field}
        ) from None


def not_allowed(method: str, allowed: bytes) -> HttpProblem:
    """The problem to answer to ``method`` where only ``allowed`` is served."""
    return HttpProblem(
        405,
        "method_not_allowed",
        f"{method[:32]} is not allowed here, {allowed.decode()} is",
        [(b"allow", allowed)],
    )


def parse_head(headers: Iterable[tuple[bytes, bytes]]) -> Head:
    """Pick the headers that mean something; their names are in lower case already."""
    head = Head()
    seen_timeout = False
    delays: dict[bytes, bytes] = {}
    for name, value in headers:
        if name not in _MEANT:
            continue
        if name == b"content-length":
            if not _DIGITS.match(value):
                raise InvalidArgument("Content-Length is not a number")
            head.content_length = int(value)
        elif name == b"content-type":
            head.content_type = value
        elif name == b"origin":
            # A second one must not hide the first from the check.
            head.origin = head.origin + b", " + value if head.origin else value or b"null"
        elif name == b"goverse-timeout":
            if seen_timeout:
                raise InvalidArgument("Goverse-Timeout is given twice")
            seen_timeout = True
            head.timeout_s = parse_timeout(value)
        elif name == b"goverse-call-id":
            if head.call_id:
                raise InvalidArgument("Goverse-Call-Id is given twice")
            head.call_id = parse_call_id(value)
        elif name in http_delays.HEADERS:
            if name in delays:
                raise InvalidArgument(f"{name.decode()} is given twice")
            delays[name] = value
        elif name == b"goverse-client-id":
            head.client_id = value.decode("latin-1") or "empty"
        elif name == b"goverse-client-token":
            head.client_token = value.decode("latin-1") or "empty"
        elif name == b"last-event-id":
            head.last_event_id = value.decode("latin-1")
        elif name == b"traceparent":
            head.trace = value.decode("latin-1")
    if delays:
        head.when = http_delays.when_of(delays)
    return head


def parse_call_id(value: bytes) -> str:
    """A Goverse-Call-Id: UTF-8, not empty. Which ids there can be is checked behind."""
    try:
        text = value.strip().decode()
    except UnicodeDecodeError:
        text = ""
    if not text:
        raise InvalidArgument(
            "Goverse-Call-Id must be UTF-8 and not empty", details={"field": "Goverse-Call-Id"}
        )
    return text


def parse_timeout(value: bytes) -> float:
    """Seconds of a Goverse-Timeout such as ``5s``, ``200ms`` or ``1.5s``."""
    match = _TIMEOUT.match(value.strip())
    seconds = float(match[1]) * _UNITS_S[match[2]] if match else 0.0
    if seconds <= 0:
        raise InvalidArgument(
            f"Goverse-Timeout {value[:32].decode('latin-1')!r} must be a positive number "
            "with a unit, such as 5s or 200ms",
            details={"field": "Goverse-Timeout"},
        )
    return seconds


def check_origin(head: Head, allowed: frozenset[bytes]) -> None:
    """Raise `PermissionDenied` unless a web page of this origin may make this request.

    Any page can make a browser send a form; only JSON from an allowed origin is asked for
    beforehand by the browser (preflight). Programs send no Origin and are not affected.
    """
    if not head.origin:
        return
    check_reader(head, allowed)
    if head.content_type.split(b";", 1)[0].strip().lower() != _JSON:
        raise PermissionDenied("a request with an Origin needs Content-Type: application/json")


def check_reader(head: Head, allowed: frozenset[bytes]) -> None:
    """Raise `PermissionDenied` unless a web page of this origin may read (GET) here."""
    if head.origin and not origin_allowed(head.origin, allowed):
        raise PermissionDenied(
            f"origin {head.origin[:128].decode('latin-1')!r} may not call "
            "(gate.allowed_origins says which may)"
        )


def origin_allowed(origin: bytes, allowed: frozenset[bytes]) -> bool:
    return origin in allowed or b"*" in allowed


def problem(error: GoverseError) -> Answer:
    """Status, headers and body that tell a client of ``error``."""
    status = error.http_status
    body = {
        "type": "about:blank",
        "title": http.HTTPStatus(status).phrase,
        "status": status,
        "detail": error.message,
        "code": error.code,
        "executed": error.executed.value,
        "details": error.details,
    }
    try:
        data = msgspec.json.encode(body)
    except (TypeError, ValueError, RecursionError):
        # What an application put in has no JSON form; the rest of the answer matters more.
        body["details"] = {}
        body["detail"] = error.message.encode("utf-8", "replace").decode()
        data = msgspec.json.encode(body)
    headers: Headers = [
        (b"content-type", b"application/problem+json"),
        (b"content-length", b"%d" % len(data)),
    ]
    if isinstance(error, HttpProblem):
        headers += error.headers
    if isinstance(error, Overloaded | RateLimited | Unavailable):
        headers.append((b"retry-after", b"1"))
    return status, headers, data
