"""I13: a delayed call runs once, not before its time, and not at all if it was cancelled; of a
repeated one each tick is run once. With the objects, and the client that makes such calls."""

from __future__ import annotations

import asyncio
import random
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field

import msgspec

import goverse
from goverse.client import Client
from goverse.errors import GoverseError
from goverse.storage.values import CallStatus, StoredCall
from tests.simulation.history import History
from tests.support.virtual import elapse

GLASSES = ("h0", "h1", "h2")
PERIOD_S = 0.7
#: So far behind may a repeated call be when nothing has been wrong for a while.
BEHIND_S = 5.0
WRONG = ("internal", "conflict", "failed_precondition", "invalid_argument", "object_failed")


class Hourglass(goverse.Object, durability="acknowledged"):
    marks: list[str] = []
    ticks: int = 0

    @goverse.method
    async def mark(self, token: str, wait_s: float = 0.0) -> None:
        self.marks.append(token)
        if wait_s:
            await elapse(wait_s)

    @goverse.method
    async def pass_on(self, token: str, to: str, delay_s: float) -> str:
        """Mark here, and have the other one do the same later."""
        self.marks.append(token)
        return goverse.issue(goverse.get(Hourglass, to).mark(token=f">{token}"), delay_s=delay_s)

    @goverse.method
    async def tick(self, token: str) -> None:
        self.ticks += 1

    @goverse.method(read_only=True)
    async def read(self) -> tuple[list[str], int]:
        return self.marks, self.ticks


@dataclass
class Kept:
    """What a client was told.

    :param asked: the ids of objects by token, of single calls.
    :param accepted: tokens, which are call ids, that were accepted for certain.
    :param cancelled: what a cancellation answered, by token; the last one.
    :param first: when the first tick of a repeated call is due.
    :param ended_at: when all of those were cancelled.
    """

    asked: dict[str, str] = field(default_factory=dict)
    accepted: dict[str, None] = field(default_factory=dict)
    cancelled: dict[str, str] = field(default_factory=dict)
    first: dict[str, float] = field(default_factory=dict)
    ended_at: float = 0.0


class Timekeeper:
    """Makes calls for later, through whoever is there, and cancels some.

    :param now: seconds since 1970.
    """

    def __init__(
        self,
        clients: Sequence[Client],
        history: History,
        source: random.Random,
        now: Callable[[], float],
    ) -> None:
        self.kept = Kept()
        self._clients = clients
        self._history = history
        self._random = source
        self._now = now
        self._stopping = False

    def stop(self) -> None:
        self._stopping = True

    async def run(self) -> None:
        choose = self._random
        for id in GLASSES:
            self.kept.first[f"every-{id}"] = round(self._now() + choose.uniform(0.0, 2.0), 6)
        await asyncio.gather(*(self._schedule(f"every-{id}", id, every=True) for id in GLASSES))
        number = 0
        while not self._stopping:
            number += 1
            token, id = f"later-{number}", choose.choice(GLASSES)
            self.kept.asked[token] = id
            await self._schedule(token, id)
            if choose.random() < 0.3:
                await elapse(choose.choice((0.0, 0.3, 1.0)))
                await self._cancel(token, id)
            await elapse(choose.choice((0.05, 0.2, 0.6)))

    def _glass(self, id: str, token: str, timeout_s: float) -> Hourglass:
        client = self._random.choice(self._clients)
        return goverse.options(client.get(Hourglass, id), call_id=token, timeout_s=timeout_s)

    async def _schedule(self, token: str, id: str, *, every: bool = False) -> None:
        """Repeated until it is accepted, or often enough not to be."""
        choose = self._random
        delay_s = choose.choice((0.0, 0.01, 0.3, 2.0, 6.0))
        wait_s = choose.choice((0.0, 0.0, 0.05, 0.4))
        to = choose.choice([other for other in GLASSES if other != id])
        passes_on = not every and choose.random() < 0.3
        while not self._stopping:
            client = choose.choice(self._clients)
            glass = self._glass(id, token, choose.choice((0.4, 2.0)))
            try:
                if every:
                    call = glass.tick(token=token)
                    await client.schedule(
                        call, run_at=self.kept.first[token], every_s=PERIOD_S, catch_up="each"
                    )
                elif passes_on:
                    call_on = glass.pass_on(token=token, to=to, delay_s=delay_s)
                    await client.schedule(call_on, delay_s=delay_s)
                else:
                    marking = glass.mark(token=token, wait_s=wait_s)
                    await client.schedule(marking, delay_s=delay_s)
            except GoverseError as error:
                self._told(token, error)
                if not every and choose.random() < 0.2:
                    return
                await elapse(choose.choice((0.1, 0.5)))
            else:
                self.kept.accepted[token] = None
                return

    async def _cancel(self, token: str, id: str, until: float = 0.0) -> None:
        loop = asyncio.get_running_loop()
        while True:
            client = self._random.choice(self._clients)
            try:
                status = await client.cancel(client.get(Hourglass, id), token, timeout_s=2.0)
            except GoverseError as error:
                self._told(token, error)
            else:
                self.kept.cancelled[token] = status
                return
            if loop.time() >= until and (until or self._stopping or self._random.random() < 0.5):
                return
            await elapse(0.2)

    def _told(self, token: str, error: GoverseError) -> None:
        if error.code in WRONG:
            self._history.violate("I13", f"{token} was told {error.code}: {error}")
        self._history.record(f"delayed {token} {error.code}")

    async def end(self, until: float) -> None:
        """After the faults: end what is repeated."""
        self.kept.ended_at = self._now()
        for id in GLASSES:
            await self._cancel(f"every-{id}", id, until)

    async def read(self, until: float) -> dict[str, tuple[list[str], int]]:
        """Marks and ticks of every object."""
        found = {}
        for id in GLASSES:
            while asyncio.get_running_loop().time() < until:
                try:
                    client = self._clients[0]
                    found[id] = await goverse.options(
                        client.get(Hourglass, id), timeout_s=2.0
                    ).read()
                    break
                except GoverseError:
                    await elapse(0.2)
            else:
                self._history.violate("I6", f"{id} cannot be read")
                found[id] = ([], 0)
        return found


def check(
    kept: Kept, rows: Iterable[StoredCall], read: dict[str, tuple[list[str], int]]
) -> Iterator[str]:
    """Every violation.

    :param rows: those of hourglasses, when nothing was pending or delayed.
    :param read: marks and ticks of each.
    """
    by_token = {_token(row): row for row in rows}
    marks = {id: Counter(found) for id, (found, _) in read.items()}
    for token in kept.accepted:
        if token not in by_token:
            yield f"I13: {token} was accepted, and the ledger has no row"
    for token, row in by_token.items():
        id, timing = row.call.object.id, row.call.timing
        ran = marks.get(id, Counter()).pop(token, 0)
        if not row.status.finished:
            yield f"I13: {token} is {row.status.value} at rest: {row.reason}"
        if row.call.method == "tick":
            yield from _check_ticks(token, row, kept, read[id][1])
            continue
        if ran != (row.status is CallStatus.SUCCESS):
            yield f"I13: {token} is {row.status.value}, and has marked {id} {ran} times"
        if kept.cancelled.get(token, row.status.value) != row.status.value:
            yield f"I13: {token} is {row.status.value}, not {kept.cancelled[token]}"
        if ran and timing is not None and (row.finished_at or 0.0) < timing.run_at:
            yield f"I13: {token} ended at {row.finished_at}, and was due at {timing.run_at}"
        child = f">{token}"
        if row.call.method == "pass_on" and row.status is CallStatus.SUCCESS:
            if child not in by_token:
                yield f"I13: what {token} passed on is not in the ledger"
        elif child in by_token:
            yield f"I13: {token} has passed on {child}, and had no effect"
    for id, left in marks.items():
        for token in left:
            yield f"I13: {id} was marked by {token}, of which the ledger has nothing"


def _check_ticks(token: str, row: StoredCall, kept: Kept, ticks: int) -> Iterator[str]:
    """There were as many as the time was set on; a last one has not set it."""
    timing = row.call.timing
    assert timing is not None
    passed = round((timing.run_at - kept.first[token]) / PERIOD_S) + (
        row.status is CallStatus.SUCCESS
    )
    if timing.run_at < kept.ended_at - BEHIND_S:
        yield f"I13: {token} is {row.status.value}, and had stopped at {timing.run_at}"
    if ticks != passed:
        yield f"I13: {token} has ticked {ticks} times in {passed} periods"


def _token(row: StoredCall) -> str:
    if not row.call.method:
        return row.call.call_id  # cancelled blind
    token: str = msgspec.msgpack.decode(row.call.arguments.data)["token"]
    return token
