"""Clients that are not ours, in the simulation: arguments in google.protobuf.Any, and descriptions.

What they ask for is answered by the same path as everything else; here it is checked that the
answer says what was asked, whatever the faults, and that what is wrong is refused and not run.
"""

from __future__ import annotations

import asyncio
import enum
import random
from dataclasses import dataclass, field
from typing import Any

import msgspec
from google.protobuf import any_pb2, duration_pb2, empty_pb2, struct_pb2, wrappers_pb2
from google.protobuf.message import Message

import goverse
from goverse.call import Call, Codec, Reply
from goverse.client import Client
from goverse.errors import GoverseError, InvalidArgument
from tests.simulation.history import History
from tests.support.virtual import elapse


class Mood(enum.Enum):
    GOOD = "good"
    BAD = "bad"


@dataclass
class Parcel:
    weight: float
    labels: list[str] = field(default_factory=list)


class Speaker(goverse.Object):
    """Understands protobuf messages and plain arguments alike."""

    last: wrappers_pb2.Int64Value | None = None
    mood: Mood = Mood.GOOD
    parcels: dict[str, Parcel] = {}

    @goverse.method
    async def double(self, value: wrappers_pb2.Int64Value) -> wrappers_pb2.Int64Value:
        self.last = value
        return wrappers_pb2.Int64Value(value=2 * value.value)

    @goverse.method
    async def describe(
        self,
        name: str,
        times: int = 1,
        mood: Mood = Mood.GOOD,
        wait: duration_pb2.Duration | None = None,
    ) -> list[str]:
        """Say a name several times."""
        self.mood = mood
        return [f"{name} {mood.value}"] * times

    @goverse.method
    async def send(self, parcel: Parcel) -> dict[str, float]:
        self.parcels["last"] = parcel
        return dict.fromkeys(parcel.labels, parcel.weight)


def packed(message: Message) -> bytes:
    whole = any_pb2.Any()
    whole.Pack(message)
    return whole.SerializeToString()


def struct(**arguments: Any) -> bytes:
    found = struct_pb2.Struct()
    found.update(arguments)
    return packed(found)


#: Method and arguments that must be refused before the method begins.
WRONG: tuple[tuple[str, bytes], ...] = (
    ("double", b"\xff\xff"),
    ("double", packed(empty_pb2.Empty())),
    ("describe", struct(name=1)),
    ("describe", struct(name="x", times=1.5)),
    ("describe", struct(name="x", colour="red")),
    ("describe", struct(name="x", mood="odd")),
    ("describe", packed(wrappers_pb2.Int64Value(value=1))),
    ("send", struct(parcel={"weight": "heavy"})),
)


class ForeignClient:
    """Asks through one client's session."""

    def __init__(self, client: Client, history: History, source: random.Random) -> None:
        self._session = client._session
        self._history = history
        self._random = source

    async def one_call(self, id: str) -> None:
        kind = self._random.choice(("double", "describe", "send", "wrong"))
        if kind == "double":
            value = self._random.randrange(-1000, 1000)
            reply = await self._ask(id, kind, packed(wrappers_pb2.Int64Value(value=value)))
            answer = wrappers_pb2.Int64Value()
            self._check(reply, answer, lambda: answer.value == 2 * value)
        elif kind == "describe":
            reply = await self._ask(id, kind, struct(name="x", times=3.0, mood="bad"))
            found = struct_pb2.Value()
            self._check(reply, found, lambda: list(found.list_value) == ["x bad"] * 3)
        elif kind == "send":
            parcel = {"weight": 1.5, "labels": ["a", "b"]}
            reply = await self._ask(id, kind, struct(parcel=parcel))
            found = struct_pb2.Value()
            self._check(reply, found, lambda: dict(found.struct_value) == {"a": 1.5, "b": 1.5})
        else:
            method, payload = self._random.choice(WRONG)
            reply = await self._ask(id, method, payload)
            if reply is not None:
                self._history.violate("I1", f"{method} took {payload!r}")

    async def _ask(self, id: str, method: str, payload: bytes) -> Reply | None:
        deadline = asyncio.get_running_loop().time() + 3.0
        call = Call("Speaker", id, method, payload, deadline, codec=Codec.ANY)
        try:
            return await self._session.invoke(call)
        except InvalidArgument as refused:
            if (method, payload) not in WRONG or refused.executed.value != "no":
                self._history.violate("I1", f"{method} refused {payload!r}: {refused}")
        except GoverseError as error:
            self._history.record(f"foreign {method} {error.code}")
        return None

    def _check(self, reply: Reply | None, into: Message, right: Any) -> None:
        if reply is None:
            return
        whole = any_pb2.Any.FromString(reply.payload)
        if not whole.Unpack(into) or not right():
            self._history.violate("I1", f"a foreign client was answered {whole}")


async def check_descriptions(gate: Any, history: History, until: float) -> None:
    """What a gate tells of its nodes' types is JSON, and knows every class above; it may take
    until ``until`` for a link to stand."""
    while True:
        try:
            known = await gate.node_types.current()
            break
        except GoverseError as error:
            if asyncio.get_running_loop().time() >= until:
                history.violate("I5", f"{gate.name} knows no types at rest: {error}")
                return
        await elapse(0.1)
    for description in known.descriptions:
        msgspec.json.encode(description)
        if "Speaker" not in description.types:
            history.violate("I5", f"{gate.name} was not told of Speaker")
