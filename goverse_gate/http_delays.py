"""Delayed calls over HTTP: the headers that say when, and what is answered.

``Goverse-Run-At`` (RFC 3339, or seconds since 1970) or ``Goverse-Delay`` (``90s``), and
``Goverse-Every`` with ``Goverse-Catch-Up`` for a repeated call. The answer is a 202 with the call
id once the call is accepted; ``GET /v1/calls/{call_id}`` has its outcome when there is one, and
``DELETE`` on the same path cancels it.
"""

from __future__ import annotations

import datetime
import re
from collections.abc import Mapping
from urllib.parse import quote

import msgspec

from goverse.call import Call, CallTarget, Codec, Verb, look_up
from goverse.errors import InvalidArgument
from goverse.objects.timing import When, when
from goverse.storage.values import CatchUp

RUN_AT, DELAY, EVERY, CATCH_UP = (
    b"goverse-run-at",
    b"goverse-delay",
    b"goverse-every",
    b"goverse-catch-up",
)
HEADERS = (RUN_AT, DELAY, EVERY, CATCH_UP)

_NAMES = {
    RUN_AT: "Goverse-Run-At",
    DELAY: "Goverse-Delay",
    EVERY: "Goverse-Every",
    CATCH_UP: "Goverse-Catch-Up",
}
_FIELDS = {
    "run_at": "Goverse-Run-At",
    "delay_s": "Goverse-Delay",
    "every_s": "Goverse-Every",
    "catch_up": "Goverse-Catch-Up",
}
_LENGTH = re.compile(rb"(\d{1,9}(?:\.\d{1,9})?)(ms|s|m|h|d)\Z")
_UNITS_S = {b"ms": 0.001, b"s": 1.0, b"m": 60.0, b"h": 3600.0, b"d": 86_400.0}
_SECONDS = re.compile(r"\d{1,12}(?:\.\d{1,9})?\Z")
_MAX_CHARS = 64


class Owned(msgspec.Struct):
    """What a look-up tells of whose a call is."""

    type: str
    id: str


_decode_owned = msgspec.json.Decoder(Owned).decode


def when_of(headers: Mapping[bytes, bytes]) -> When:
    """:param headers: those of `HEADERS` that were sent, at least one. Raises InvalidArgument."""
    run_at: datetime.datetime | float | None = None
    if RUN_AT in headers:
        run_at = _moment(headers[RUN_AT])
    policy = headers.get(CATCH_UP, CatchUp.ONE.value.encode())
    try:
        said = when(
            run_at=run_at,
            delay_s=_seconds(DELAY, headers),
            every_s=_seconds(EVERY, headers),
            catch_up=policy.strip().decode("latin-1"),
        )
        if said is None:
            raise ValueError("catch_up is about the ticks of a repeated call: give every_s")
    except ValueError as error:
        text = str(error)
        for name, header in _FIELDS.items():
            text = text.replace(name, header)
        raise InvalidArgument(text, details={"field": text.split()[0]}) from None
    return said


def _moment(value: bytes) -> datetime.datetime | float:
    text = value.strip().decode("latin-1")
    if _SECONDS.match(text):
        return float(text)
    try:
        found = datetime.datetime.fromisoformat(text)
    except ValueError:
        found = None
    if found is None or found.tzinfo is None:
        raise InvalidArgument(
            f"Goverse-Run-At {text[:_MAX_CHARS]!r} must be a time with a zone, such as "
            "2031-05-18T03:33:20Z, or seconds since 1970",
            details={"field": _NAMES[RUN_AT]},
        )
    return found


def _seconds(name: bytes, headers: Mapping[bytes, bytes]) -> float | None:
    value = headers.get(name)
    if value is None:
        return None
    match = _LENGTH.match(value.strip())
    if match is None:
        shown = value[:_MAX_CHARS].decode("latin-1")
        raise InvalidArgument(
            f"{_NAMES[name]} {shown!r} must be a number with a unit, such as 90s, 200ms or 2h",
            details={"field": _NAMES[name]},
        )
    return float(match[1]) * _UNITS_S[match[2]]


def accepted(call_id: str) -> tuple[list[tuple[bytes, bytes]], bytes]:
    """Headers and body of the 202 that tells of a call that was accepted."""
    body = msgspec.json.encode({"call_id": call_id, "status": "accepted"})
    place = f"/v1/calls/{quote(call_id, safe='')}".encode()
    headers = [
        (b"content-type", b"application/json"),
        (b"content-length", b"%d" % len(body)),
        (b"location", place),
    ]
    return headers, body


async def cancel(door: CallTarget, call_id: str, deadline: float) -> bytes:
    """Cancel the call, and tell what stands of it then. Raises NotFound, what the door raises."""
    known = await door.invoke(look_up(call_id, deadline, Codec.JSON))
    owned = _decode_owned(known.payload)
    call = Call(owned.type, owned.id, "", b"", deadline, Codec.JSON, Verb.CANCEL, call_id=call_id)
    await door.invoke(call)
    return (await door.invoke(look_up(call_id, deadline, Codec.JSON))).payload
