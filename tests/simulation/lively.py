"""Objects that do more than count: rich values, hooks, timers, background tasks, ends."""

from __future__ import annotations

import asyncio
import enum
from dataclasses import dataclass
from datetime import UTC, datetime

import msgspec

import goverse
from goverse.ids import Epoch
from tests.simulation.history import CallRecord, current_history
from tests.simulation.objects import Recorded, Register
from tests.support.virtual import elapse


class Colour(enum.Enum):
    RED = "red"
    BLUE = "blue"


@dataclass
class Place:
    x: float
    y: float


class Detail(msgspec.Struct):
    when: datetime
    where: Place
    colours: list[Colour] = []
    note: str | None = None


def detail(note: str) -> Detail:
    """A value of many types."""
    return Detail(datetime(2024, 2, 29, tzinfo=UTC), Place(1.5, -2.0), [Colour.BLUE], note)


class Lively(Recorded, idle_timeout_s=1.0):
    """Has hooks, keeps what it is given, and goes when it is idle."""

    details: dict[str, Detail] = {}
    blobs: list[bytes] = []
    ticks: int = 0

    async def on_activate(self) -> None:
        with self.turn("on_activate"):
            await elapse(0.005)

    async def on_deactivate(self) -> None:
        with self.turn("on_deactivate"):
            await elapse(0.005)

    @goverse.method
    async def keep(self, token: str, given: Detail, work_s: float = 0.0) -> list[int]:
        with self.turn(token) as answer:
            self.count += 1
            mine = self.count
            self.details[token] = given
            await self.work(work_s)
            return [*answer, mine]

    @goverse.method(read_only=True)
    async def kept(self, token: str) -> dict[str, Detail]:
        with self.turn(token, exclusive=False):
            return self.details

    @goverse.method
    async def blob(self, token: str, data: bytes) -> bytes:
        """Gives back what it is given: large values in both directions."""
        with self.turn(token):
            self.blobs = [data]
            return data[::-1]

    @goverse.method
    async def spoil(self, token: str) -> list[int]:
        """Promises numbers, and returns what cannot be sent."""
        with self.turn(token):
            self.count += 1000
            return [object()]  # type: ignore[list-item]

    @goverse.method
    async def decline(self, token: str) -> None:
        with self.turn(token):
            self.count += 1000
            raise goverse.ApplicationError("declined", "not today", {"token": token})

    @goverse.method
    async def introduce(self, token: str, friend: Register) -> list[int]:
        """Calls an object whose address it was given."""
        history = current_history()
        with self.turn(token) as answer:
            self.count += 1
            mine = self.count
            call = history.begin_call(
                CallRecord(
                    token=f"{token}.friend",
                    object=f"Register/{friend.id}",
                    caller=history.process(),
                    read_only=False,
                    sent=asyncio.get_running_loop().time(),
                    deadline=goverse.context().deadline,
                )
            )
            try:
                got = await goverse.options(friend, timeout_s=2.0).write(call.token)
            except asyncio.CancelledError:
                history.end_call(call, "cancelled")
                raise
            except goverse.GoverseError as error:
                history.end_call(call, error.code, error.executed.value)
            else:
                call.activation, call.epoch, call.count = got[0], Epoch(*got[1:3]), got[3]
                history.end_call(call, "ok", "yes")
            return [*answer, mine]

    @goverse.method
    async def busy_later(self, token: str, delay_s: float) -> None:
        """Starts a timer and a background task, which end with the activation."""
        with self.turn(token):

            async def tick() -> None:
                with self.turn(f"{token}.tick"):
                    self.ticks += 1
                    if self.ticks > 3:
                        timer.cancel()

            timer = self.start_timer(delay_s, tick, interval_s=delay_s)
            self.spawn(self._call_itself(), name="call itself")

    @goverse.method
    async def touch(self) -> int:
        """Called by this object's own background task."""
        return self.ticks

    async def _call_itself(self) -> None:
        await elapse(0.02)
        try:
            await goverse.options(goverse.get(Lively, self.id), timeout_s=1.0).touch()
        except goverse.GoverseError:
            pass  # the shard may have gone meanwhile
