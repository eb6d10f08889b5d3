"""Clients that call the simulated application and write down what they are told."""

from __future__ import annotations

import asyncio
import random
from dataclasses import dataclass
from typing import Any

import goverse
from goverse.client import Client
from goverse.errors import GoverseError
from goverse.ids import Epoch
from tests.simulation.foreign import ForeignClient
from tests.simulation.history import CallRecord, Heard, History
from tests.simulation.lively import Lively, detail
from tests.simulation.objects import Crowd, Friendly, Register, Wrote
from tests.support.virtual import elapse

OBJECTS = 12


#: Kinds of calls and how often they are made.
KINDS = {
    "write": 30,
    "tick": 25,
    "read": 20,
    "fail": 5,
    "trip": 3,
    "relay": 14,
    "friendly": 5,
    "crowd": 5,
    "cancelled": 8,
    "slow": 2,
    "burst": 1,
    "flood": 4,
    "lively": 16,
    "existence": 3,
    "foreign": 6,
    "wrong": 2,
}
CLASSES: dict[str, type[goverse.Object]] = {
    "Register": Register,
    "Friendly": Friendly,
    "Crowd": Crowd,
    "Lively": Lively,
}
#: Type, id, method and arguments that nobody can carry out.
WRONG: tuple[tuple[str, str, str, dict[str, Any]], ...] = (
    ("Nothing", "o1", "write", {}),
    ("Recorded", "o1", "turn", {}),
    ("Register", "shard#99999/x", "write", {}),
    ("Register", "node#/x", "write", {}),
    ("Register", "node#nowhere/x", "write", {}),
    ("Register", "o1", "nothing", {}),
    ("Register", "o1", "write", {"work_s": "long"}),
    ("Recorded", "o1", "write", {"unknown": 1}),
)


@dataclass
class Wish:
    """What a client is about to ask for."""

    type: str
    id: str
    method: str
    args: dict[str, Any]
    timeout_s: float = 5.0
    cancel_s: float | None = None

    @property
    def counts(self) -> bool:
        """Whether the answer is activation, epoch and count."""
        return self.method in ("write", "tick", "read", "relay", "keep", "introduce")


class Workload:
    """One client: a chain of calls with thinking time in between, until it is told to stop.

    :param name: also its process; begins with ``client``.
    """

    def __init__(self, name: str, client: Client, history: History, source: random.Random) -> None:
        self._name = name
        self._client = client
        self._history = history
        self._random = source
        self._foreign = ForeignClient(client, history, source)
        self._number = 0
        self._stopping = False
        client.on(Wrote, self._heard)

    def _heard(self, message: Wrote) -> None:
        self._history.got(Heard(message.token, message.client, message.activation, message.count))

    def stop(self) -> None:
        self._stopping = True

    async def run(self) -> None:
        """Call until stopped; several calls may overlap."""
        running: list[asyncio.Task[None]] = []
        while not self._stopping:
            running = [task for task in running if not task.done()]
            if len(running) < 6:
                running.append(asyncio.create_task(self._one_call(), name="call"))
            await elapse(self._random.choice((0.01, 0.05, 0.1, 0.4)))
        for task in running:
            await task

    async def probe(self, id: str, until: float) -> str:
        """Write on the object ``id`` until that works or the time is over; how it ended."""
        loop = asyncio.get_running_loop()
        outcome = "no time left"
        while (left_s := until - loop.time()) > 0:
            call = await self._call(Wish("Register", id, "write", {}, timeout_s=left_s))
            if call.outcome == "ok":
                return "ok"
            outcome = f"{call.outcome} ({call.detail})"
            await elapse(0.1)
        return outcome

    async def _one_call(self) -> None:
        """A call of a random kind to a random object."""
        choose = self._random
        id = f"o{choose.randrange(OBJECTS)}"
        if choose.random() < 0.05:
            id = choose.choice((f"shard#{choose.randrange(65_536)}/x", "node#n1/x", "node#n2/x"))
        work_s = choose.choice((0.0, 0.0, 0.0, 0.01, 0.2, 1.0))
        wish = Wish("Register", id, "write", {"work_s": work_s})
        wish.timeout_s = choose.choice((0.3, 2.0, 8.0, 15.0))
        path = [f"o{choose.randrange(OBJECTS)}" for _ in range(choose.randint(1, 3))]
        kind = choose.choices(list(KINDS), list(KINDS.values()))[0]
        if kind in ("read", "fail"):
            wish.method = kind
        elif kind in ("tick", "trip"):
            wish.method, wish.args = kind, {}
        elif kind == "relay":
            wish.method, wish.args = "relay", {"work_s": work_s / 4, "path": path}
        elif kind == "friendly":
            wish.type, wish.method = "Friendly", "relay"
            wish.args = {"work_s": work_s / 4, "path": [*path, id]}
        elif kind == "crowd":
            wish.type = "Crowd"
        elif kind == "cancelled":
            wish.args = {"work_s": 12.0}
            wish.timeout_s, wish.cancel_s = 15.0, choose.uniform(0.0, 1.0)
        elif kind == "slow":
            wish.args, wish.timeout_s = {"work_s": choose.choice((4.0, 9.0))}, 12.0
        elif kind == "burst":
            await asyncio.gather(*(self._call(wish) for _ in range(8)))
            return
        elif kind == "flood":
            data = choose.randbytes(60_000)
            wish.type, wish.method, wish.args = "Lively", "blob", {"data": data}
            await asyncio.gather(*(self._call(wish) for _ in range(3)))
            return
        elif kind == "lively":
            self._lively(wish)
        elif kind == "foreign":
            await self._foreign.one_call(id)
            return
        elif kind == "existence":
            await self._change_existence(id)
            return
        elif kind == "wrong":
            wish.type, wish.id, wish.method, wish.args = choose.choice(WRONG)
        await self._call(wish)

    def _lively(self, wish: Wish) -> None:
        """One of the richer methods."""
        choose = self._random
        wish.type = "Lively"
        wish.method = choose.choice(
            ("keep", "keep", "kept", "blob", "spoil", "decline", "introduce", "busy_later")
        )
        wish.args = {}
        if wish.method == "keep":
            wish.args = {"given": detail(wish.id), "work_s": choose.choice((0.0, 0.3))}
        elif wish.method == "blob":
            wish.args = {"data": choose.randbytes(choose.choice((10, 5_000, 30_000, 70_000)))}
        elif wish.method == "introduce":
            wish.args = {"friend": self._client.get(Register, f"o{choose.randrange(OBJECTS)}")}
        elif wish.method == "busy_later":
            wish.args = {"delay_s": choose.uniform(0.05, 0.5)}

    async def _change_existence(self, id: str) -> None:
        """Create or delete an object; nobody else counts on it to be there."""
        choose = self._random
        try:
            if choose.random() < 0.5:
                await self._client.create("Lively", id, timeout_s=1.0)
            else:
                await self._client.delete(choose.choice((Lively, Register)), id, timeout_s=3.0)
        except GoverseError as error:
            self._history.record(f"existence {self._name} {error.code}")

    async def _call(self, wish: Wish) -> CallRecord:
        self._number += 1
        token = f"{self._name}-{self._number}"
        now = asyncio.get_running_loop().time()
        call = self._history.begin_call(
            CallRecord(
                token=token,
                object=f"{wish.type}/{wish.id}",
                caller=self._name,
                read_only=wish.method in ("read", "kept"),
                sent=now,
                deadline=now + wish.timeout_s,
            )
        )
        try:
            async with asyncio.timeout(wish.cancel_s):
                target = self._client.get(CLASSES.get(wish.type, wish.type), wish.id)
                target = goverse.options(target, timeout_s=wish.timeout_s)
                answer = await getattr(target, wish.method)(token=token, **wish.args)
        except GoverseError as error:
            self._history.end_call(call, error.code, error.executed.value, str(error))
        except TimeoutError:
            self._history.end_call(call, "cancelled")
        except (TypeError, ValueError, AttributeError) as error:
            # Refused before it was sent: what it asked for does not exist.
            self._history.end_call(call, "refused", "no", str(error))
        else:
            self._check_answer(wish, answer)
            if wish.counts:
                call.activation, call.epoch, call.count = answer[0], Epoch(*answer[1:3]), answer[3]
            call.counts = wish.counts
            self._history.end_call(call, "ok", "yes")
        return call

    def _check_answer(self, wish: Wish, answer: Any) -> None:
        if wish.method == "blob" and answer != wish.args["data"][::-1]:
            self._history.violate("I1", f"{wish} came back changed")
        if wish.method == "kept" and any(value != detail(wish.id) for value in answer.values()):
            self._history.violate("I1", f"{wish} holds what nobody gave it: {answer}")
