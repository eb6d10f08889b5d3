"""Callers of the bank who note what they asked and what they were told."""

from __future__ import annotations

import asyncio
import itertools
import random
import time
from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import httpx

import goverse
from goverse.client import Client
from goverse.errors import ApplicationError, Executed, GoverseError
from tests.robustness.model import (
    FAILED,
    NO,
    OUTCOMES,
    SUCCESS,
    UNKNOWN,
    Attempt,
    History,
    LookUp,
    Op,
)
from tests.support.pacing import ended_within

#: More than anybody can have: such a transfer is refused by its method.
TOO_MUCH = 10**12
PATIENCE_S = 8.0
#: How callers think between two calls; not at all in a rush.
THINK_S = 0.5
_KINDS = {
    "insist": 30,  # repeats its call id until there is an outcome
    "shy": 10,  # asks once; its outcome is looked up afterwards
    "twice": 10,  # the same id through two gates at once
    "again": 10,  # an id that has an outcome
    "plain": 20,
    "read": 15,
    "http": 5,
}


@dataclass
class Caller:
    """:param gate: its name. :param http: where that gate serves HTTP."""

    name: str
    gate: str
    client: Client
    http: str


@dataclass
class Traffic:
    """The load of one run. ``callers`` are of all gates, in turn."""

    callers: list[Caller]
    accounts: tuple[str, ...]
    random: random.Random
    http: httpx.AsyncClient
    history: History = field(default_factory=History)
    rush: bool = False
    in_flight: int = 0
    #: When the last call began that was answered, by account and by gate.
    answered: dict[str, float] = field(default_factory=dict)
    retries: int = 0

    def __post_init__(self) -> None:
        self._stop = asyncio.Event()
        self._tasks: list[asyncio.Task[None]] = []
        self._amounts = itertools.count(1)
        self._finished: deque[Op] = deque(maxlen=500)
        self._asked_once: list[Op] = []

    async def pay_in(self, amount: int = 10_000_000) -> None:
        """Give every account something to send."""
        for number, account in enumerate(self.accounts):
            call_id = f"in-{account}"
            op = Op("deposit", account, amount + number, call_id=call_id)
            caller = self.callers[0]
            while (await self._ask(caller, op, PATIENCE_S)).told not in OUTCOMES:
                self.retries += 1

    def start(self) -> None:
        for caller in self.callers:
            self._tasks.append(asyncio.create_task(self._run(caller), name=caller.name))

    async def stop(self) -> None:
        """No new calls; those that insist go on until they know. Raises what a caller raised."""
        self._stop.set()
        await asyncio.gather(*self._tasks)

    def abandon(self) -> None:
        """What still runs after a failure ends, unheard."""
        for task in self._tasks:
            task.cancel()

    def all_answered_after(self, moment: float) -> bool:
        names = (*self.accounts, *{caller.gate for caller in self.callers})
        return all(self.answered.get(name, 0.0) > moment for name in names)

    def silent_since(self, moment: float) -> list[str]:
        names = (*self.accounts, *sorted({caller.gate for caller in self.callers}))
        return [name for name in names if self.answered.get(name, 0.0) <= moment]

    async def look_up_the_rest(self) -> None:
        """Ask for every call whose caller did not insist."""
        for op in self._asked_once:
            while True:
                found = await self._look_up(self.random.choice(self.callers), op)
                if found is not None and found.told != "pending":
                    break

    # -- one caller

    async def _run(self, caller: Caller) -> None:
        kinds, weights = list(_KINDS), list(_KINDS.values())
        while not self._stop.is_set():
            kind = self.random.choices(kinds, weights)[0]
            await getattr(self, f"_{kind}")(caller)
            if not self.rush:
                await ended_within(self._stop, self.random.uniform(0, 2 * THINK_S))

    def _op(self, *, reliable: bool) -> Op:
        number = next(self._amounts)
        call_id = f"c{number}" if reliable else ""
        source, to = self.random.sample(self.accounts, 2)
        chance = self.random.random()
        if chance < 0.2:
            return Op("deposit", source, number, call_id=call_id)
        amount = number + TOO_MUCH if chance > 0.93 else number
        return Op("transfer", source, amount, to, call_id)

    def _timeout_s(self) -> float:
        chance = self.random.random()
        return self.random.uniform(0.01, 0.6) if chance < 0.15 else PATIENCE_S

    async def _insist(self, caller: Caller) -> None:
        await self._until_known(caller, self._op(reliable=True))

    async def _until_known(self, caller: Caller, op: Op) -> None:
        for number in itertools.count():
            attempt = await self._ask(caller, op, self._timeout_s())
            if attempt.told in OUTCOMES:
                self._finished.append(op)
                return
            self.retries += 1
            if number % 2:
                caller = self.random.choice(self.callers)
            await ended_within(asyncio.Event(), self.random.uniform(0.02, 0.3))

    async def _shy(self, caller: Caller) -> None:
        op = self._op(reliable=True)
        if (await self._ask(caller, op, self._timeout_s())).told == UNKNOWN:
            self._asked_once.append(op)
            await self._look_up(caller, op)

    async def _twice(self, caller: Caller) -> None:
        others = [other for other in self.callers if other.gate != caller.gate]
        op = self._op(reliable=True)
        pair = (caller, self.random.choice(others or self.callers))
        await asyncio.gather(*(self._until_known(each, op) for each in pair))

    async def _again(self, caller: Caller) -> None:
        if self._finished:
            await self._ask(caller, self.random.choice(self._finished), self._timeout_s())

    async def _plain(self, caller: Caller) -> None:
        await self._ask(caller, self._op(reliable=False), self._timeout_s())

    async def _read(self, caller: Caller) -> None:
        account = self.random.choice(self.accounts)
        await self._ask(caller, Op("get_balance", account), self._timeout_s())

    async def _http(self, caller: Caller) -> None:
        await self._ask(caller, self._op(reliable=True), self._timeout_s(), http=True)

    # -- one call

    async def _ask(
        self, caller: Caller, op: Op, timeout_s: float, *, http: bool = False
    ) -> Attempt:
        send = self._over_http if http else self._over_session
        began = time.monotonic()
        self.in_flight += 1
        try:
            told, value, error = await send(caller, op, timeout_s)
        finally:
            self.in_flight -= 1
        attempt = Attempt(op, caller.name, caller.gate, began, time.monotonic(), told, value, error)
        self.history.attempts.append(attempt)
        if told in OUTCOMES:
            for name in (op.account, caller.gate):
                self.answered[name] = max(began, self.answered.get(name, 0.0))
        return attempt

    async def _over_session(self, caller: Caller, op: Op, timeout_s: float) -> tuple[str, Any, str]:
        account = goverse.options(
            caller.client.get("Account", op.account),
            timeout_s=timeout_s,
            call_id=op.call_id or None,
        )
        try:
            return SUCCESS, await getattr(account, op.kind)(**op.arguments), ""
        except ApplicationError as error:
            return FAILED, (error.code, dict(error.details)), ""
        except GoverseError as error:
            return told_by(error.executed.value), None, f"{error.code}: {error}"

    async def _over_http(self, caller: Caller, op: Op, timeout_s: float) -> tuple[str, Any, str]:
        headers = {"Goverse-Timeout": f"{int(timeout_s * 1000)}ms"}
        if op.call_id:
            headers["Goverse-Call-Id"] = op.call_id
        url = f"http://{caller.http}/v1/objects/Account/{op.account}/{op.kind}"
        try:
            answer = await self.http.post(
                url, json=op.arguments, headers=headers, timeout=timeout_s + 2
            )
        except (httpx.ConnectError, httpx.ConnectTimeout) as error:
            return NO, None, repr(error)  # nothing was sent
        except httpx.HTTPError as error:
            return UNKNOWN, None, repr(error)
        if answer.status_code == 200:
            return SUCCESS, answer.json(), ""
        return _problem(answer.json())

    async def _look_up(self, caller: Caller, op: Op) -> LookUp | None:
        """None if nobody answered."""
        asked = time.monotonic()
        try:
            answer = await self.http.get(
                f"http://{caller.http}/v1/calls/{op.call_id}", timeout=PATIENCE_S
            )
        except httpx.HTTPError:
            return None
        found = answer.json()
        if answer.status_code == 200 and found["status"] == SUCCESS:
            look_up = LookUp(op.call_id, asked, SUCCESS, found["result"])
        elif answer.status_code == 200 and found["status"] == FAILED:
            error = found["error"]
            look_up = LookUp(op.call_id, asked, FAILED, (error["code"], error["details"]))
        elif answer.status_code == 200:
            look_up = LookUp(op.call_id, asked, found["status"])
        elif answer.status_code == 404:
            look_up = LookUp(op.call_id, asked, "unknown")
        else:
            return None
        self.history.look_ups.append(look_up)
        return look_up


def told_by(executed: str) -> str:
    return {"no": NO, "unknown": UNKNOWN, "yes": FAILED}[executed]


def _problem(body: Mapping[str, Any]) -> tuple[str, Any, str]:
    executed = body.get("executed", Executed.UNKNOWN.value)
    if executed == Executed.YES.value:
        return FAILED, (body["code"], body.get("details", {})), ""
    return told_by(executed), None, f"{body.get('code')}: {body.get('detail')}"
