"""Two processes and the link between them, on loopback carriers and in virtual time."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field, replace
from typing import Any

from goverse.aio.runtime import Runtime
from goverse.call import Call, CallTarget, Codec, Reply, Verb
from goverse.config.settings import LimitSettings
from goverse.ids import MemberId
from goverse.transport.carrier import Carrier, Sink
from goverse.transport.hello import Hello, Role, our_hello
from goverse.transport.link import Link, LinkConfig, open_link
from goverse.transport.loopback import LoopbackHub
from goverse.transport.wire import CallFrame, Frame, HelloFrame, decode, encode
from tests.support.accepting import accept_links
from tests.support.eventually import eventually

SERVER = "10.0.0.1:48000"
MAX_MESSAGE = 64 * 1024 * 1024

small = replace(LimitSettings(), max_inflight_calls=4, max_inflight_bytes=10_000)


def config(name: str, limits: LimitSettings | None = None, **more: Any) -> LinkConfig:
    runtime = Runtime(random=random.Random(name))
    return LinkConfig(limits or LimitSettings(), runtime, name, **more)


def hello(role: Role, name: str, incarnation: str = "1") -> Hello:
    return our_hello(role, MemberId("" if role is Role.CLIENT else name, incarnation))


def call(payload: bytes = b"", *, timeout_s: float = 30, **fields: Any) -> Call:
    deadline = asyncio.get_running_loop().time() + timeout_s
    return Call("Counter", "a", "add", payload, deadline, **fields)


class Target:
    """Answers with what ``behave`` makes of a call; keeps what it was asked."""

    def __init__(self, behave: Callable[[Call], Awaitable[Reply]] | None = None) -> None:
        self._behave = behave
        self.calls: list[Call] = []
        self.cancelled = 0

    async def invoke(self, call: Call) -> Reply:
        self.calls.append(call)
        try:
            if self._behave is None:
                return Reply(call.payload, call.codec)
            return await self._behave(call)
        except asyncio.CancelledError:
            self.cancelled += 1
            raise


class Plain(Target):
    """A target that takes no forwarded calls, in no test: each call gets a task."""

    forward = None


class Held(Target):
    """Keeps every call until it is released."""

    def __init__(self) -> None:
        super().__init__(self._hold)
        self.free = asyncio.Event()

    async def _hold(self, call: Call) -> Reply:
        await self.free.wait()
        return Reply(call.payload, call.codec)


@dataclass
class Pair:
    """``near`` dialled ``far``; each end's target serves the other's calls."""

    hub: LoopbackHub
    near: Link
    far: Link
    near_target: Any
    far_target: Any
    networks: list[Any] = field(default_factory=list)

    def at_rest(self) -> bool:
        return self.near.snapshot().at_rest and self.far.snapshot().at_rest

    async def rest(self) -> None:
        await eventually(self.at_rest)


async def pair(
    far_target: CallTarget | None = None,
    *,
    near_target: CallTarget | None = None,
    near_limits: LimitSettings | None = None,
    far_limits: LimitSettings | None = None,
    near_role: Role = Role.NODE,
    far_role: Role = Role.NODE,
    far_options: dict[str, Any] | None = None,
    near_options: dict[str, Any] | None = None,
) -> Pair:
    hub = LoopbackHub()
    near_target, far_target = near_target or Target(), far_target or Target()
    near_net, far_net = hub.network("near"), hub.network("far")
    arrived: asyncio.Future[Link] = asyncio.get_running_loop().create_future()
    accept = accept_links(
        hello(far_role, "far"),
        lambda theirs, link: far_target,
        config("far", far_limits, **(far_options or {})),
        on_link=arrived.set_result,
    )
    await far_net.listen(SERVER, accept)
    near = await open_link(
        await near_net.connect(SERVER, timeout_s=5),
        hello(near_role, "near"),
        lambda theirs, link: near_target,
        config("near", near_limits, **(near_options or {})),
    )
    return Pair(hub, near, await arrived, near_target, far_target, [near_net, far_net])


class Valve:
    """A carrier that can be told to take no more messages. Shut, it takes one and is blocked."""

    def __init__(self, carrier: Carrier) -> None:
        self._carrier = carrier
        self._sink: Sink | None = None
        self._is_shut = False
        self._held: list[bytes] = []
        self.sent: list[bytes] = []

    @property
    def peer(self) -> str:
        return self._carrier.peer

    @property
    def blocked(self) -> bool:
        return bool(self._held) or self._carrier.blocked

    def shut(self) -> None:
        self._is_shut = True

    def open(self) -> None:
        self._is_shut = False
        held, self._held = self._held, []
        for message in held:
            self._carrier.write(message)
        if held and self._sink is not None:
            self._sink.on_writable()

    def write(self, message: bytes) -> None:
        self.sent.append(message)
        if self._is_shut:
            self._held.append(message)
        else:
            self._carrier.write(message)

    def attach(self, sink: Sink) -> None:
        self._sink = sink
        self._carrier.attach(sink)

    async def send(self, message: bytes) -> None:
        self.sent.append(message)
        await self._carrier.send(message)

    async def receive(self) -> bytes:
        return await self._carrier.receive()

    def abort(self, reason: str) -> None:
        self._carrier.abort(reason)


def call_frame(number: int, payload: bytes = b"", remaining_ms: int = 30_000) -> CallFrame:
    return CallFrame(number, remaining_ms, "T", "i", "m", payload, Codec.MSGPACK, Verb.CALL)


class RawPeer:
    """The other side of a link, played by hand: says exactly what a test tells it.

    ``valve`` is what the link under test sends through.
    """

    valve: Valve

    def __init__(self, carrier: Carrier) -> None:
        self.carrier = carrier
        self._frames: list[Frame] = []

    async def greet(self, role: Role = Role.NODE, **fields: Any) -> None:
        frame = HelloFrame(
            fields.get("protocol", 1), fields.get("features", ()), role.value, "raw", "1"
        )
        await self.send(frame)

    async def send(self, *frames: Frame) -> None:
        await self.carrier.send(encode(frames))

    async def send_bytes(self, message: bytes) -> None:
        await self.carrier.send(message)

    async def next(self) -> Frame:
        """The next frame that arrives."""
        while not self._frames:
            self._frames = decode(await self.carrier.receive(), max_bytes=MAX_MESSAGE)
        return self._frames.pop(0)

    async def next_of(self, kind: type[Any]) -> Any:
        """The next frame of a kind; others before it are skipped."""
        while True:
            frame = await self.next()
            if isinstance(frame, kind):
                return frame


async def raw_pair(
    target: CallTarget | None = None,
    *,
    limits: LimitSettings | None = None,
    role: Role = Role.NODE,
    **fields: Any,
) -> tuple[Link, RawPeer, LoopbackHub]:
    """A link whose other side is a `RawPeer` that has said hello."""
    hub = LoopbackHub()
    arrived: asyncio.Future[Link] = asyncio.get_running_loop().create_future()
    accept = accept_links(
        hello(Role.NODE, "server"),
        lambda theirs, link: target or Target(),
        config("server", limits),
        on_link=arrived.set_result,
    )
    valves: list[Valve] = []

    async def accept_through_valve(carrier: Carrier) -> None:
        valves.append(Valve(carrier))
        await accept(valves[0])

    await hub.network("server").listen(SERVER, accept_through_valve)
    peer = RawPeer(await hub.network("raw").connect(SERVER, timeout_s=5))
    await peer.greet(role, **fields)
    await peer.next_of(HelloFrame)
    link = await arrived
    peer.valve = valves[0]
    return link, peer, hub
