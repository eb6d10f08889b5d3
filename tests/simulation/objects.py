"""The application that the simulation calls: objects that tell the recorder what they do."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager

import goverse
from goverse.errors import GoverseError
from goverse.ids import Epoch
from tests.simulation.history import CallRecord, current_history
from tests.support.virtual import elapse


@goverse.message
class Wrote:
    """What a writing turn pushes to the client that its chain began with."""

    token: str
    client: str
    activation: int
    count: int


class Recorded(goverse.Object):
    """What the classes below share: a life that has a number, and counts its writes.

    Both are declared state, so that they go along when the shard moves: it is the same life then,
    and nobody else may have lived it meanwhile or go on from an earlier moment of it.
    """

    count: int = 0
    number: int = 0

    @contextmanager
    def turn(self, token: str, *, exclusive: bool = True) -> Iterator[list[int]]:
        """Record a turn; yields the answer, to be completed with the count."""
        history = current_history()
        number = self.number = self.number or history.new_activation()
        context = goverse.context()
        name = str(context.object_id)
        epoch = context.epoch
        turn = history.begin_turn(token, name, number, epoch, exclusive=exclusive)
        how = "failed"
        try:
            yield [number, *epoch]
            how = "ok"
        except asyncio.CancelledError:
            how = "cancelled"
            raise
        finally:
            history.end_turn(turn, how)

    def tell(self, token: str, answer: list[int], count: int) -> None:
        client = goverse.context().client_id
        if client:
            goverse.push(client, Wrote(token, client, answer[0], count))

    async def work(self, work_s: float) -> None:
        if work_s > 0:
            await elapse(work_s)


class Register(Recorded):
    """One call at a time, no way back into a turn."""

    @goverse.method
    async def write(self, token: str, work_s: float = 0.0) -> list[int]:
        with self.turn(token) as answer:
            self.count += 1
            mine = self.count
            self.tell(token, answer, mine)
            await self.work(work_s)
            if self.count != mine:
                current_history().violate("I1", f"{token}: the state changed under the turn")
            return [*answer, mine]

    @goverse.method(read_only=True)
    async def read(self, token: str, work_s: float = 0.0) -> list[int]:
        with self.turn(token, exclusive=False) as answer:
            await self.work(work_s)
            return [*answer, self.count]

    @goverse.method
    async def fail(self, token: str, work_s: float = 0.0) -> list[int]:
        """What it does to the state must not be seen by anybody, nor what it pushes."""
        with self.turn(token) as answer:
            self.count += 1000
            self.tell(token, answer, self.count)
            await self.work(work_s)
            raise ValueError("on purpose")

    @goverse.method
    async def tick(self, token: str) -> list[int]:
        """`write` that never waits: such a turn runs in place."""
        with self.turn(token) as answer:
            self.count += 1
            return [*answer, self.count]

    @goverse.method
    async def trip(self, token: str) -> list[int]:
        """`fail` that never waits."""
        with self.turn(token):
            self.count += 1000
            raise ValueError("on purpose")

    @goverse.method
    async def relay(self, token: str, path: list[str], work_s: float = 0.0) -> list[int]:
        """Write here, and from within the turn on the next object of ``path``."""
        with self.turn(token) as answer:
            self.count += 1
            mine = self.count
            await self.work(work_s)
            if path:
                await call_next(self.__class__, token, path, work_s)
            return [*answer, mine]


class Friendly(Recorded, reentrancy="allow"):
    """Lets a call back in that one of its own turns caused."""

    @goverse.method
    async def relay(self, token: str, path: list[str], work_s: float = 0.0) -> list[int]:
        with self.turn(token, exclusive=False) as answer:
            self.count += 1
            mine = self.count
            await self.work(work_s)
            if path:
                await call_next(Friendly, token, path, work_s)
            return [*answer, mine]


class Crowd(Recorded, concurrent=True):
    """Many turns at once."""

    @goverse.method
    async def write(self, token: str, work_s: float = 0.0) -> list[int]:
        with self.turn(token, exclusive=False) as answer:
            self.count += 1
            mine = self.count
            await self.work(work_s)
            return [*answer, mine]


async def call_next(
    cls: type[Register] | type[Friendly], token: str, path: list[str], work_s: float
) -> None:
    """Call the next object of ``path`` and record what this caller, an object, is told."""
    history = current_history()
    loop = asyncio.get_running_loop()
    inner = f"{token}.{len(path)}"
    call = history.begin_call(
        CallRecord(
            token=inner,
            object=f"{cls.__name__}/{path[0]}",
            caller=history.process(),
            read_only=False,
            sent=loop.time(),
            deadline=goverse.context().deadline,
            # Part of an outer turn of the same object, it is undone if that one fails.
            counts=cls is Register,
        )
    )
    try:
        answer = await goverse.get(cls, path[0]).relay(inner, path=path[1:], work_s=work_s)
    except asyncio.CancelledError:
        history.end_call(call, "cancelled")
        raise
    except GoverseError as error:
        history.end_call(call, error.code, error.executed.value)
        raise
    call.activation, call.epoch, call.count = answer[0], Epoch(*answer[1:3]), answer[3]
    history.end_call(call, "ok", "yes")
