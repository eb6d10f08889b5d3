"""Durable objects in the simulation: every sum is what was answered, or may have been done.

I12: what a caller was told of a durable object is in the store, whatever happened to nodes,
links, coordinator and store; nothing is there twice, and nothing that was certainly not done.
"""

from __future__ import annotations

import asyncio
import random

import goverse
from goverse.client import Client
from goverse.errors import Executed, GoverseError
from tests.simulation.history import History
from tests.support.virtual import elapse

IDS = 6
CALL_S = 4.0


class Saved(goverse.Object, durability="acknowledged"):
    """A sum that must not be lost."""

    total: int = 0
    notes: dict[str, int] = {}

    @goverse.method
    async def add(self, amount: int) -> int:
        self.total += amount
        return self.total

    @goverse.method
    async def add_slowly(self, amount: int) -> int:
        self.total += amount
        self.notes["last"] = amount
        await elapse(0.01)
        return self.total

    @goverse.method
    async def fail(self, amount: int) -> None:
        self.total += amount
        raise goverse.ApplicationError("declined")

    @goverse.method(read_only=True)
    async def get(self) -> int:
        return self.total


class Often(goverse.Object, durability="interval", commit_interval_s=0.5):
    """Committed now and then, and when it ends in order."""

    total: int = 0

    async def on_deactivate(self) -> None:
        self.total += 0

    @goverse.method
    async def add(self, amount: int) -> int:
        self.total += amount
        return self.total


class Saver:
    """One client's calls of durable objects, one at a time."""

    def __init__(self, client: Client, history: History, source: random.Random) -> None:
        self._client = client
        self._history = history
        self._random = source
        self._sure = dict.fromkeys((f"s{number}" for number in range(IDS)), 0)
        self._perhaps = dict.fromkeys(self._sure, 0)
        self._newest = dict.fromkeys(self._sure, 0)
        self._stopping = False

    def stop(self) -> None:
        self._stopping = True

    async def run(self) -> None:
        """Add until stopped; nobody else adds to these objects."""
        while not self._stopping:
            await self._one_call()
            await elapse(self._random.choice((0.0, 0.02, 0.2)))

    async def _one_call(self) -> None:
        id = self._random.choice(list(self._sure))
        amount = self._random.randint(1, 9)
        kind = self._random.choice(("add", "add", "add", "add_slowly", "fail", "often"))
        saved = goverse.options(self._client.get(Saved, id), timeout_s=CALL_S)
        try:
            if kind == "often":
                await goverse.options(self._client.get(Often, id), timeout_s=CALL_S).add(amount)
                return
            if kind == "fail":
                await saved.fail(amount)
            answer = await (saved.add if kind == "add" else saved.add_slowly)(amount)
        except goverse.ApplicationError:
            return
        except GoverseError as error:
            self._history.record(f"saved {id} {error.code} {error.executed.value}")
            if error.executed is not Executed.NO and kind.startswith("add"):
                self._perhaps[id] += amount
            return
        self._sure[id] += amount
        if answer < self._newest[id]:
            self._history.violate("I12", f"{id} went back from {self._newest[id]} to {answer}")
        self._newest[id] = answer

    async def check(self, until: float) -> None:
        """After the faults: what is there is what was told."""
        for id, sure in self._sure.items():
            total = await self._total(id, until)
            most = sure + self._perhaps[id]
            if total is None:
                self._history.violate("I5", f"Saved/{id} does not answer")
            elif not sure <= total <= most:
                self._history.violate("I12", f"Saved/{id} has {total}, not {sure} to {most}")

    async def _total(self, id: str, until: float) -> int | None:
        loop = asyncio.get_running_loop()
        while (left_s := until - loop.time()) > 0:
            try:
                return await goverse.options(self._client.get(Saved, id), timeout_s=left_s).get()
            except GoverseError:
                await elapse(0.1)
        return None
