"""What a program holds: a client, and the references that it makes."""

from __future__ import annotations

import asyncio
import datetime
import random
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any, TypeVar, cast, overload

from goverse.aio.runtime import Runtime
from goverse.client.inbox import Handler, InboxSnapshot
from goverse.client.session import Session, SessionSnapshot
from goverse.config.addresses import parse_address
from goverse.config.settings import LimitSettings
from goverse.ids import new_token
from goverse.objects.access import create, delete, interface_of
from goverse.objects.context import CallDefaults
from goverse.objects.definition import Object
from goverse.objects.reference import Binding, Reference, cancel, schedule
from goverse.objects.timing import when
from goverse.transport.carrier import Network
from goverse.transport.tcp_network import TcpNetwork

T = TypeVar("T", bound=Object)
M = TypeVar("M")

DEFAULT_ADDRESS = "localhost:49000"
DEFAULT_PORT = 49000
CLOSE_TIMEOUT_S = 5.0


@dataclass(frozen=True)
class ClientSnapshot:
    session: SessionSnapshot
    inbox: InboxSnapshot


class Client:
    """Makes references to objects. Made by `connect`."""

    def __init__(self, session: Session, limits: LimitSettings, source: random.Random) -> None:
        self._session = session
        self._random = source
        defaults = CallDefaults(
            call_timeout_s=limits.default_call_timeout_s,
            create_timeout_s=limits.default_create_timeout_s,
            delete_timeout_s=limits.default_delete_timeout_s,
        )
        self._binding = Binding(session, defaults, asyncio.get_running_loop().time)

    @property
    def client_id(self) -> str:
        """What the gate calls this client: another one after each reconnect, empty between."""
        return self._session.client_id

    @overload
    def get(self, target: type[T], id: str) -> T: ...
    @overload
    def get(self, target: str, id: str) -> Any: ...
    def get(self, target: type[Object] | str, id: str) -> Any:
        """A reference to the object ``id`` of a class, or of the type with that name.

        By class it is typed as the class; by name it takes keyword arguments and gives plain
        values. `goverse.options` gives its calls another timeout. Raises ValueError for what
        cannot be an id.
        """
        return Reference(interface_of(target), id, self._binding)

    @overload
    async def create(self, target: type[T], id: str, *, timeout_s: float | None = None) -> T: ...
    @overload
    async def create(self, target: str, id: str, *, timeout_s: float | None = None) -> Any: ...
    async def create(
        self, target: type[Object] | str, id: str, *, timeout_s: float | None = None
    ) -> Any:
        """Activate the object now and return a reference to it. Raises `Conflict` if it is
        active already."""
        ref = cast(Object, self.get(target, id))
        await create(ref, timeout_s=timeout_s)
        return ref

    async def delete(
        self, target: type[Object] | str, id: str, *, timeout_s: float | None = None
    ) -> None:
        """End the object and forget its state; succeeds whether or not it is active."""
        await delete(cast(Object, self.get(target, id)), timeout_s=timeout_s)

    async def schedule(
        self,
        call: Coroutine[Any, Any, Any],
        *,
        run_at: datetime.datetime | float | None = None,
        delay_s: float | None = None,
        every_s: float | None = None,
        catch_up: str = "one",
    ) -> str:
        """Have ``call``, not awaited, made later, exactly once or at each tick; its call id.

        ::

            call_id = await client.schedule(client.get(Account, "a").close(), delay_s=3600)

        Returns once it is accepted: then it survives whatever reliable calls do. An id of the
        caller's, by `goverse.options`, makes it safe to repeat after an error. The parameters are
        those of `goverse.issue`. Raises ValueError, TypeError, what a reliable call raises.
        """
        said = when(run_at=run_at, delay_s=delay_s, every_s=every_s, catch_up=catch_up)
        if said is None:
            call.close()
            raise ValueError("give run_at, delay_s or every_s: await a call that is to run at once")
        return await schedule(call, said, lambda: new_token(self._random))

    async def cancel(self, ref: Object, call_id: str, *, timeout_s: float | None = None) -> str:
        """See that a call of the object ``ref`` does not run any more; the status that it has then.

        ``skipped``: it will never run. ``success`` or ``failed``: it had run, or was running; of a
        repeated call that was the last tick. An id that nobody knows is taken: it is skipped, too.
        """
        return await cancel(cast(Reference, ref), call_id, timeout_s)

    def on(self, message: type[M], handler: Handler[M]) -> None:
        """Have ``handler`` called with every message of a class that objects push to this client.

        It may be async; one message is handled after the other, in the order in which one object
        pushed them. At most ``limits.max_push_messages`` wait; more are dropped, and `snapshot`
        counts them. Messages that come before there is a handler for their class are dropped too.
        Raises TypeError for what is no message: a class with ``@goverse.message``, or protobuf.
        """
        self._session.inbox.on(message, handler)

    def on_reconnect(self, handler: Callable[[str], Awaitable[None] | None]) -> None:
        """Have ``handler(client_id)`` called whenever the session was lost and there is another.

        Objects know this client by its old id, and what they push to that one is dropped: tell
        them the new one here, by a call to them, and ask for what was missed.
        """
        self._session.on_reconnect(handler)

    def snapshot(self) -> ClientSnapshot:
        return ClientSnapshot(self._session.snapshot(), self._session.inbox.snapshot())


@asynccontextmanager
async def connect(
    *addresses: str,
    wait_s: float = 0.0,
    limits: LimitSettings | None = None,
    network: Network | None = None,
    runtime: Runtime | None = None,
) -> AsyncIterator[Client]:
    """A client of the cluster behind the gates at ``addresses`` (host:port).

    :param addresses: of any number of gates; one is used at a time, another when it goes.
    :param wait_s: how long to keep trying when no gate answers at first.
    :param limits: default timeouts and the largest payload; as on the gate.
    :param network: how to reach gates; TCP unless told otherwise.
    :param runtime: time and chance, for simulations.

    Raises `Unavailable` if no gate answers, ValueError for what cannot be an address.
    """
    limits = limits or LimitSettings()
    gates = _parsed(addresses)
    own_network = TcpNetwork() if network is None else None
    runtime = runtime or Runtime()
    session = Session(cast(Network, network or own_network), gates, limits, runtime)
    try:
        await session.open(wait_s)
        yield Client(session, limits, runtime.random)
    finally:
        await session.close(CLOSE_TIMEOUT_S)
        if own_network is not None:
            await own_network.close()


def _parsed(addresses: Sequence[str]) -> tuple[str, ...]:
    texts = addresses or (DEFAULT_ADDRESS,)
    parsed = [str(parse_address(text, default_port=DEFAULT_PORT)) for text in texts]
    return tuple(dict.fromkeys(parsed))
