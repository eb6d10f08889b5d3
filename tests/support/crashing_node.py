"""A node that kills itself at a point of its boundaries: the composition of `goverse_node`, with
its store, its links and its coordinator wrapped.

The point comes in the environment, as JSON of `Point`; where it was reached is written to a file
before the process ends, so that a process that ended otherwise is not taken for one that came
there. Only the first of ``count`` uses that ``wanted`` picks is counted.
"""

from __future__ import annotations

import asyncio
import dataclasses
import json
import os
import signal
from collections.abc import AsyncGenerator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from goverse.coordination.api import Delete, Put
from goverse.storage.values import Act, OutboxStep, Step

POINT = "CRASH_POINT"
REACHED = "CRASH_REACHED"
#: Part of the result of every method that a crash of a link waits for.
MARK = "told-by-the-method"
#: Long enough for a statement to reach its server, and too short to read an answer on purpose.
ON_THE_WIRE_S = 0.002


@dataclass(frozen=True)
class Point:
    """The ``count``-th use of ``method`` that ``wanted`` picks.

    :param method: ``store.commit``, ``coordinator.transact``, ``link.write``, ``turn``.
    :param when: before it, sent (and not answered), or after it.
    """

    method: str
    when: str
    wanted: str = "any"
    count: int = 1


def _under(folder: str, kind: type[Put] | type[Delete]) -> Callable[..., bool]:
    def touches(compares: Any, operations: Any) -> bool:
        return any(isinstance(one, kind) and f"/{folder}/" in one.key for one in operations)

    return touches


WANTED: dict[str, Callable[..., bool]] = {
    "any": lambda *arguments: True,
    "outcome": lambda batch: any(commit.outcomes for commit in batch),
    "outbox": lambda batch: any(commit.outbox for commit in batch),
    "delete": lambda batch: any(commit.state is Act.DELETE for commit in batch),
    "child": lambda batch: any(one.call.call_id.startswith("~") for one in batch),
    "attempt": lambda batch: any(step.step is Step.ATTEMPT for step in batch),
    "delivered": lambda batch: any(change.step is OutboxStep.DELIVERED for change in batch),
    "reply": lambda message: MARK.encode() in bytes(message),
    "claim": _under("claims", Put),
    "release": _under("claims", Delete),
    "register": _under("nodes", Put),
}


class Crash:
    """Ends this process where its point is."""

    def __init__(self, point: Point, reached: Path) -> None:
        self._point = point
        self._reached = reached
        self._left = point.count

    def here(self, method: str, arguments: tuple[Any, ...]) -> bool:
        """Whether this use is the one."""
        if method != self._point.method or not WANTED[self._point.wanted](*arguments):
            return False
        self._left -= 1
        return self._left == 0

    @property
    def when(self) -> str:
        return self._point.when

    def die(self) -> None:
        self._reached.write_text(json.dumps(dataclasses.asdict(self._point)))
        os.kill(os.getpid(), signal.SIGKILL)

    async def around(self, name: str, method: Any, arguments: Any, options: Any) -> Any:
        if not self.here(name, arguments):
            return await method(*arguments, **options)
        if self.when == "before":
            self.die()
        answer = asyncio.ensure_future(method(*arguments, **options))
        if self.when == "sent":
            await asyncio.sleep(ON_THE_WIRE_S)
            self.die()
        result = await answer
        self.die()
        return result


class Wrapped:
    """A store or a coordinator whose named methods are crash points."""

    def __init__(self, inner: Any, name: str, methods: tuple[str, ...], crash: Crash) -> None:
        self._inner = inner
        for method in methods:
            setattr(self, method, self._around(crash, f"{name}.{method}", getattr(inner, method)))

    def _around(self, crash: Crash, name: str, method: Any) -> Any:
        async def call(*arguments: Any, **options: Any) -> Any:
            return await crash.around(name, method, arguments, options)

        return call

    def __getattr__(self, name: str) -> Any:
        return getattr(self._inner, name)


class WrappedCarrier:
    """What this process writes on one link."""

    def __init__(self, inner: Any, crash: Crash) -> None:
        self._inner = inner
        self._crash = crash

    def write(self, message: bytes) -> None:
        here = self._crash.here("link.write", (message,))
        if here and self._crash.when == "before":
            self._crash.die()
        self._inner.write(message)
        if here:
            self._crash.die()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._inner, name)


class WrappedNetwork:
    """Links in both directions."""

    def __init__(self, inner: Any, crash: Crash) -> None:
        self._inner = inner
        self._crash = crash

    async def connect(self, address: str, *, timeout_s: float) -> Any:
        return WrappedCarrier(await self._inner.connect(address, timeout_s=timeout_s), self._crash)

    async def listen(self, address: str, accept: Any, **options: Any) -> Any:
        async def accepted(carrier: Any) -> None:
            await accept(WrappedCarrier(carrier, self._crash))

        return await self._inner.listen(address, accepted, **options)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._inner, name)


STORE = (
    "claim_cluster",
    "raise_fence",
    "load",
    "pending_calls",
    "accept",
    "commit",
    "change_calls",
    "change_outbox",
)

_crash: list[Crash] = []


def in_turn() -> None:
    """Called by methods that can be a point themselves."""
    for crash in _crash:
        if crash.here("turn", ()):
            crash.die()


def main() -> None:
    import goverse_node.__main__ as node

    run_node = node.run_node

    @asynccontextmanager
    async def crashing(
        settings: Any, surroundings: Any, registry: Any
    ) -> AsyncGenerator[Any, None]:
        crash = Crash(Point(**json.loads(os.environ[POINT])), Path(os.environ[REACHED]))
        # Objects import this module by its name, which is not the one that it runs under.
        import tests.support.crashing_node as named

        named._crash.append(crash)
        wrapped = dataclasses.replace(
            surroundings,
            store=Wrapped(surroundings.store, "store", STORE, crash),
            coordinator=Wrapped(
                surroundings.coordinator, "coordinator", ("transact", "grant"), crash
            ),
            network=WrappedNetwork(surroundings.network, crash),
        )
        async with run_node(settings, wrapped, registry) as running:
            yield running

    if os.environ.get(POINT):
        node.run_node = crashing
    node.main()


if __name__ == "__main__":
    main()
