"""Arguments of every shape, from HTTP through the ingress into a catalog."""

from __future__ import annotations

import asyncio
import enum
import json
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any
from uuid import UUID

import msgspec
from hypothesis import strategies as st

import goverse
from goverse.aio.runtime import Runtime
from goverse.call import Call, Codec
from goverse.config.settings import LimitSettings, ObjectSettings
from goverse.errors import GoverseError
from goverse.ids import Epoch
from goverse.objects import Catalog, Registry
from goverse.observability.metrics import Metrics
from goverse.sharding import shard_of
from goverse_gate.http_app import HttpApp, HttpLimits
from goverse_gate.http_front import Doors
from goverse_gate.ingress import Ingress
from tests.fuzz.property import fuzzed
from tests.support.virtual import virtual

#: What arguments may be refused with. An `Internal`, or an `ObjectFailed`, is a bug.
REFUSALS = ("invalid_argument", "too_large", "not_found")


class Colour(enum.Enum):
    RED = "red"
    BLUE = "blue"


@dataclass
class Point:
    x: float
    y: float = 0.0


class Deep(msgspec.Struct):
    name: str
    inner: Deep | None = None
    tags: dict[str, list[int]] = {}


class Everything(goverse.Object):
    kept: list[Deep] = []

    @goverse.method
    async def take(
        self,
        number: int,
        colour: Colour = Colour.RED,
        point: Point | None = None,
        deep: Deep | None = None,
        when: datetime | None = None,
        span: timedelta | None = None,
        uid: UUID | None = None,
        data: bytes = b"",
        either: int | str | list[str] | None = None,
        table: dict[str, Point] | None = None,
        pair: tuple[int, str] | None = None,
    ) -> Any:
        if deep is not None:
            self.kept = [deep]
        return number


class Facts:
    node_name = "n1"

    def lease_valid(self) -> bool:
        return True

    def shard_of(self, id: str) -> int:
        return shard_of(id, 1)


async def _send(body: bytes, codec: Codec) -> None:
    registry = Registry()
    registry.add(Everything)
    limits = LimitSettings(max_payload_bytes=100_000)
    nobody: Any = None
    catalog = Catalog(registry, Facts(), nobody, ObjectSettings(), limits, Runtime())
    await catalog.shards.open_shard(0, Epoch(1, 1))
    ingress = Ingress(catalog, limits, Metrics("g1"))
    door = ingress.door(client_id="", max_calls=10)
    if codec is Codec.JSON:
        await _send_http(HttpApp(Doors(door), HttpLimits.of(limits)), body)
    else:
        deadline = asyncio.get_running_loop().time() + 5
        try:
            await door.invoke(Call("Everything", "a", "take", body, deadline, codec))
        except GoverseError as error:
            assert error.code in (*REFUSALS, "failed_precondition"), error
            assert error.executed.value == "no"
    at_rest = [*ingress.limits(), *catalog.limits()]
    assert not [limit for limit in at_rest if limit.used], at_rest
    await catalog.stop(1)


async def _send_http(app: HttpApp, body: bytes) -> None:
    sent: list[Any] = []

    async def receive() -> dict[str, Any]:
        return {"type": "http.request", "body": body}

    async def send(message: Any) -> None:
        sent.append(message)

    path = b"/v1/objects/Everything/a/take"
    scope = {"type": "http", "method": "POST", "raw_path": path, "query_string": b"", "headers": []}
    await app(scope, receive, send)
    status, answer = sent[0]["status"], json.loads(sent[1]["body"])
    assert status == 200 or answer["code"] in REFUSALS, (status, answer)
    assert not [limit for limit in app.limits() if limit.used]


scalars = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(),
    st.floats(),
    st.text(max_size=10),
    st.sampled_from(["red", 2, "2024-02-29T00:00:00Z", "P1D", "AAAA", 2**64, -(2**63) - 1]),
)
values = st.recursive(
    scalars,
    lambda inner: st.one_of(
        st.lists(inner, max_size=3),
        st.dictionaries(
            st.sampled_from(["x", "y", "name", "inner", "tags", "", "\0"]), inner, max_size=3
        ),
    ),
    max_leaves=10,
)
names = st.sampled_from(
    ["number", "colour", "point", "deep", "when", "span", "uid", "data", "either", "table", "pair"]
)
arguments = st.dictionaries(st.one_of(names, st.text(max_size=5)), values, max_size=6)
codecs = st.sampled_from([Codec.JSON, Codec.MSGPACK])


def encoded(value: Any, codec: Codec) -> bytes:
    if codec is Codec.JSON:
        return json.dumps(value).encode()  # NaN and Infinity, too, which JSON has not
    try:
        return msgspec.msgpack.encode(value)
    except (OverflowError, ValueError):
        return b"\xc1"  # never used in msgpack


@fuzzed(st.binary(max_size=200), codecs)
def random_bodies(body: bytes, codec: Codec) -> None:
    virtual(_send)(body, codec)


@fuzzed(arguments, st.one_of(st.integers(), values), codecs, st.integers(-3, 0))
def nearly_right(given_: dict[str, Any], number: Any, codec: Codec, cut: int) -> None:
    body = encoded({"number": number, **given_}, codec)
    virtual(_send)(body[: len(body) + cut], codec)


@fuzzed(st.sampled_from([100, 500, 1_000, 20_000]), st.sampled_from(["[", '{"inner":']), codecs)
def deep(depth: int, opening: str, codec: Codec) -> None:
    """Nesting beyond what any parser can hold."""
    if codec is Codec.JSON:
        body = b'{"number": 1, "deep": ' + opening.encode() * depth
    else:
        nest = b"\x91" if opening == "[" else b"\x81\xa5inner"
        body = b"\x82\xa6number\x01\xa4deep" + nest * depth + b"\xc0"
    virtual(_send)(body, codec)
