"""Clients that call the simulated application and write down what they are told."""

from __future__ import annotations

import asyncio
import random
from typing import Any

import goverse
from goverse.client import Client
from goverse.errors import GoverseError
from goverse.ids import Epoch
from tests.simulation.history import CallRecord, History

OBJECTS = 12


class Workload:
    """One client: a chain of calls with thinking time in between, until it is told to stop.

    :param name: also its process; begins with ``client``.
    """

    def __init__(self, name: str, client: Client, history: History, source: random.Random) -> None:
        self._name = name
        self._client = client
        self._history = history
        self._random = source
        self._number = 0
        self._stopping = False

    def stop(self) -> None:
        self._stopping = True

    async def run(self) -> None:
        """Call until stopped; several calls may overlap."""
        running: list[asyncio.Task[None]] = []
        while not self._stopping:
            running = [task for task in running if not task.done()]
            if len(running) < 6:
                running.append(asyncio.create_task(self._one_call(), name="call"))
            await asyncio.sleep(self._random.choice((0.01, 0.05, 0.1, 0.4)))
        for task in running:
            await task

    async def probe(self, id: str, until: float) -> str:
        """Write on the object ``id`` until that works or the time is over; how it ended."""
        loop = asyncio.get_running_loop()
        outcome = "no time left"
        while (left_s := until - loop.time()) > 0:
            call = await self._call("Register", id, "write", {}, left_s, None)
            if call.outcome == "ok":
                return "ok"
            outcome = f"{call.outcome} ({call.detail})"
            await asyncio.sleep(0.1)
        return outcome

    async def _one_call(self) -> None:
        choose = self._random
        id = f"o{choose.randrange(OBJECTS)}"
        if choose.random() < 0.05:
            id = f"shard#{choose.randrange(65_536)}/x"
        work_s = choose.choice((0.0, 0.0, 0.0, 0.01, 0.2, 1.0))
        timeout_s = choose.choice((0.3, 2.0, 8.0, 15.0))
        cancel_s: float | None = None
        kind = choose.choices(
            ("write", "read", "fail", "relay", "friendly", "crowd", "cancelled"),
            (30, 20, 5, 15, 5, 5, 8),
        )[0]
        path = [f"o{choose.randrange(OBJECTS)}" for _ in range(choose.randint(1, 3))]
        type, method, args = "Register", kind, {"work_s": work_s}
        if kind == "relay":
            args = {"work_s": work_s / 4, "path": path}
        elif kind == "friendly":
            type, method, args = "Friendly", "relay", {"work_s": work_s / 4, "path": [*path, id]}
        elif kind == "crowd":
            type, method = "Crowd", "write"
        elif kind == "cancelled":
            method, args = "write", {"work_s": 12.0}
            timeout_s, cancel_s = 15.0, choose.uniform(0.0, 1.0)
        await self._call(type, id, method, args, timeout_s, cancel_s)

    async def _call(
        self,
        type: str,
        id: str,
        method: str,
        args: dict[str, Any],
        timeout_s: float,
        cancel_s: float | None,
    ) -> CallRecord:
        self._number += 1
        token = f"{self._name}-{self._number}"
        now = asyncio.get_running_loop().time()
        call = self._history.begin_call(
            CallRecord(
                token=token,
                object=f"{type}/{id}",
                caller=self._name,
                read_only=method == "read",
                sent=now,
                deadline=now + timeout_s,
                cancel_at=None if cancel_s is None else now + cancel_s,
            )
        )
        try:
            async with asyncio.timeout(cancel_s):
                target = goverse.options(self._client.get(type, id), timeout_s=timeout_s)
                answer = await getattr(target, method)(token=token, **args)
        except GoverseError as error:
            self._history.end_call(call, error.code, error.executed.value, str(error))
        except TimeoutError:
            self._history.end_call(call, "cancelled")
        else:
            call.activation, call.epoch, call.count = answer[0], Epoch(*answer[1:3]), answer[3]
            self._history.end_call(call, "ok", "yes")
        return call
