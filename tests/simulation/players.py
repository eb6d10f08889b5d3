"""Clients that call durable objects, several calls of one object at a time: plain ones, and such
with a call id, which are repeated through whoever is there until somebody is told the outcome."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Sequence
from typing import Any

import msgspec

import goverse
from goverse.call import look_up
from goverse.client import Client
from goverse.errors import Executed, GoverseError, NotFound
from tests.simulation.history import History
from tests.simulation.kept import Cell, Often, Tally
from tests.simulation.played import DECLINED, Attempt, Game, Played
from tests.support.virtual import elapse

CLASSES: dict[str, type[Cell] | type[Tally] | type[Often]] = {
    "Cell": Cell,
    "Tally": Tally,
    "Often": Often,
}
CELLS = ("c0", "c1")
TALLIES = ("t0", "t1", "t2")
#: Kinds of calls and how often they are made.
KINDS = {
    "Cell": {"write": 3, "swap": 3, "read": 2},
    "Tally": {"add": 4, "pass_on": 3, "decline": 1, "get": 2},
    "Often": {"add": 1},
}
#: What no fault is an excuse for.
WRONG = ("internal", "conflict", "failed_precondition", "invalid_argument", "object_failed")
LATE_S = 0.5


class Player:
    """One of several that share their clients.

    :param clients: of all players; the first call goes through ``client``.
    """

    def __init__(
        self,
        name: str,
        client: Client,
        clients: Sequence[Client],
        game: Game,
        history: History,
        source: random.Random,
    ) -> None:
        self._name = name
        self._client = client
        self._clients = clients
        self._game = game
        self._history = history
        self._random = source
        self._number = 0
        self._stopping = False
        self._known = dict.fromkeys(CELLS, 0)

    def stop(self) -> None:
        self._stopping = True

    async def run(self) -> None:
        """Call until stopped."""
        while not self._stopping:
            type = self._random.choice(("Cell", "Tally", "Tally", "Cell", "Tally", "Often"))
            id = self._random.choice({"Cell": CELLS, "Tally": TALLIES, "Often": ("f0",)}[type])
            calls = [self._draw(type, id) for _ in range(self._random.choice((1, 1, 2, 3)))]
            await asyncio.gather(*(self._play(call) for call in calls))
            await elapse(self._random.choice((0.02, 0.1, 0.4, 0.8)))

    def _draw(self, type: str, id: str) -> Played:
        kinds = KINDS[type]
        method = self._random.choices(list(kinds), list(kinds.values()))[0]
        self._number += 1
        number = self._game.next_moment()
        arguments: dict[str, Any] = {}
        if type == "Cell" and method != "read":
            arguments["value"] = number
        if method == "swap":
            arguments["expected"] = self._known[id]
        if method in ("add", "pass_on", "decline"):
            arguments["amount"] = self._random.randint(1, 99)
        if method in ("pass_on", "decline"):
            arguments["to"] = self._random.choice([other for other in TALLIES if other != id])
        if method == "pass_on":
            arguments["wait_s"] = self._random.choice((0.0, 0.0, 0.02, 0.3))
        reads = method in ("read", "get")
        reliable = self._random.random() < (0.1 if reads else 0.5)
        token = f"{self._name}-{self._number}"
        call = Played(token, type, id, method, arguments, reliable)
        self._game.calls[token] = call
        return call

    async def _play(self, call: Played) -> None:
        choose = self._random
        if not call.reliable:
            await self._attempt(call, self._client)
            return
        through = [self._client]
        if choose.random() < 0.3:
            through.append(choose.choice(self._clients))
        await asyncio.gather(*(self._attempt(call, client) for client in through))
        while not call.sure and not self._stopping and choose.random() < 0.8:
            await elapse(choose.choice((0.0, 0.1, 0.5)))
            await self._attempt(call, choose.choice(self._clients))
        if choose.random() < 0.2:
            await self._attempt(call, choose.choice(self._clients))
        if call.sure and choose.random() < 0.2:
            await self._look_up(call, choose.choice(self._clients))
            await self._misuse(call, choose.choice(self._clients))

    async def _look_up(self, call: Played, client: Client) -> None:
        """Who asks for its outcome is told that which its callers were told."""
        deadline = asyncio.get_running_loop().time() + 2.0
        try:
            reply = await client._session.invoke(look_up(call.token, deadline))
        except NotFound:
            self._history.violate("I12", f"{call.token} was told its outcome, and is not found")
        except GoverseError:
            pass
        else:
            found = msgspec.msgpack.decode(reply.payload)
            told = call.sure[0]
            right = {"ok": ("success", told.result), DECLINED: ("failed", None)}[told.told]
            if (found["status"], found.get("result")) != right:
                self._history.violate("I12", f"{call.token} was told {told}, and is {found}")

    async def _misuse(self, call: Played, client: Client) -> None:
        """Its id names no other call."""
        arguments = {"token": call.token, **call.arguments, "another": True}
        target = goverse.options(client.get(CLASSES[call.type], call.id), timeout_s=2.0)
        try:
            method = getattr(goverse.options(target, call_id=call.token), call.method)
            answer = await method(**arguments)
        except GoverseError as error:
            self._history.record(f"misused {call.token} {error.code}")
        else:
            self._history.violate("I12", f"{call.token} answered {answer} to another call")

    async def _attempt(self, call: Played, client: Client) -> None:
        attempt = Attempt(self._game.next_moment())
        call.attempts.append(attempt)
        timeout_s = self._random.choice((0.4, 2.0, 4.0))
        loop = asyncio.get_running_loop()
        deadline = loop.time() + timeout_s
        target = goverse.options(client.get(CLASSES[call.type], call.id), timeout_s=timeout_s)
        if call.reliable:
            target = goverse.options(target, call_id=call.token)
        try:
            method = getattr(target, call.method)
            attempt.result = await method(token=call.token, **call.arguments)
            attempt.told = "ok"
        except GoverseError as error:
            attempt.told = self._told(call, error)
        attempt.ended = self._game.next_moment()
        if loop.time() > deadline + LATE_S:
            self._history.violate("I3", f"{call.token} ended {loop.time() - deadline:.3f} s late")
        self._history.record(f"played {call.token} {attempt.told} {attempt.result}")
        if attempt.told == "ok" and call.type == "Cell" and attempt.result is not False:
            self._known[call.id] = call.arguments.get("value", attempt.result)

    def _told(self, call: Played, error: GoverseError) -> str:
        if isinstance(error, goverse.ApplicationError):
            if (error.code, error.message) != ("declined", call.token):
                self._history.violate("I12", f"{call.token} was told {error}, of another call")
            return DECLINED
        if error.code in WRONG:
            self._history.violate("I12", f"{call.token} was told {error.code}: {error}")
        if error.executed is Executed.NO:
            return "no"
        # A reliable call that was rolled back runs again.
        undone = error.details.get("rolled_back") is True and not call.reliable
        return "rolled back" if undone else "unknown"

    async def read_all(self, until: float) -> dict[str, int]:
        """After the faults: what every object answers, by `Played.object`."""
        found: dict[str, int] = {}
        places = [("Cell", id, "read") for id in CELLS]
        places += [("Tally", id, "get") for id in TALLIES]
        for type, id, method in [*places, ("Often", "f0", "get")]:
            call = Played(f"last {type}/{id}", type, id, method, {}, reliable=False)
            while not call.sure and asyncio.get_running_loop().time() < until:
                await self._attempt(call, self._client)
            if not call.sure:
                self._history.violate("I5", f"{call.object} does not answer at rest")
                continue
            self._game.calls[call.token] = call
            found[call.object] = call.sure[0].result
        return found
