"""Places at which the history looks over the shoulder of production code."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any

import msgspec

from goverse.call import Call, Codec, Reply
from goverse.cluster.records import LeaderValue, decode
from goverse.coordination.api import Compare, Delete, Put, TxnResult
from goverse.coordination.memory import MemoryStore
from goverse.objects import Catalog
from goverse.testing.channel import FaultyChannel
from goverse.testing.loop import current_process
from goverse.transport.link import Link
from goverse.transport.wire import Frame
from tests.simulation.history import current_history


@contextmanager
def watched() -> Iterator[None]:
    """All of them."""
    with ExitStack() as stack:
        for watching in (_watched_replies, _watched_targets, _watched_links):
            stack.enter_context(watching())
        yield


@contextmanager
def _watched_replies() -> Iterator[None]:
    """Have the history look at every reply at the moment at which it leaves its activation.

    What peers accept is checked too, but peers have defences of their own, which would hide that
    a node sends what it must not send.
    """
    invoke = Catalog.invoke

    async def watched(self: Catalog, call: Call) -> Reply:
        reply = await invoke(self, call)
        # No await in between: this is the very step in which the activation let it go.
        # Deliveries between objects have another payload; they are looked at in `exactly`.
        if call.payload and not call.call_id and call.codec is Codec.MSGPACK:
            token = msgspec.msgpack.decode(call.payload).get("token", "")
            current_history().reply_left(token, str(call.object_id))
        return reply

    Catalog.invoke = watched  # type: ignore[method-assign]
    try:
        yield
    finally:
        Catalog.invoke = invoke  # type: ignore[method-assign]


@contextmanager
def _watched_targets() -> Iterator[None]:
    """I9: the coordinator takes targets only from who leads at that moment, and nobody takes the
    leader's key away from one whose lease stands."""
    request, transact = FaultyChannel.request, MemoryStore.transact
    asking = ""

    async def named(self: FaultyChannel, operation: Callable[[], Any]) -> Any:
        process = current_process.get()

        def operate() -> Any:
            nonlocal asking
            asking = process
            try:
                return operation()
            finally:
                asking = ""

        return await request(self, operate)

    def looked_at(
        self: MemoryStore, compares: Sequence[Compare], operations: Sequence[Put | Delete]
    ) -> TxnResult:
        before = _leader(self, operations)
        result = transact(self, compares, operations)
        if result.succeeded and asking and before is not None:
            name, lease = before
            for operation in operations:
                folder = operation.key.split("/")[2]
                if not isinstance(operation, Put):
                    continue
                if folder == "shards" and asking.partition("#")[0] != name:
                    text = f"{asking} wrote {operation.key} while {name or 'nobody'} led"
                    current_history().violate("I9", text)
                if folder == "leader" and lease:
                    current_history().violate("I9", f"{asking} leads although {name} does")
        return result

    FaultyChannel.request = named  # type: ignore[method-assign,assignment]
    MemoryStore.transact = looked_at  # type: ignore[method-assign]
    try:
        yield
    finally:
        FaultyChannel.request = request  # type: ignore[method-assign]
        MemoryStore.transact = transact  # type: ignore[method-assign]


def _leader(store: MemoryStore, operations: Sequence[Put | Delete]) -> tuple[str, int] | None:
    """Name and lease of who leads, if these operations are the business of a leader."""
    for operation in operations:
        root, folder = operation.key.split("/")[1:3]
        if folder in ("shards", "leader"):
            item = store.get(f"/{root}/leader")
            return ("", 0) if item is None else (decode(item, LeaderValue).node, item.lease)
    return None


@contextmanager
def _watched_links() -> Iterator[None]:
    """I10: nothing that arrives on a link is taken once that link has ended."""
    take = Link._take

    def looked_at(self: Link, frames: list[Frame]) -> None:
        state = self.snapshot().state
        if state.startswith("closed"):
            kinds = ", ".join(type(frame).__name__ for frame in frames)
            current_history().violate("I10", f"{self.name}, {state}, takes {kinds}")
        take(self, frames)

    Link._take = looked_at  # type: ignore[method-assign]
    try:
        yield
    finally:
        Link._take = take  # type: ignore[method-assign]


@contextmanager
def crashes(violations: list[str]) -> Iterator[None]:
    """Collect what the cluster logs about exceptions that nobody expected; methods may raise."""

    class Collector(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            if record.exc_info and record.name != "goverse.objects.outcome":
                violations.append(f"I8: {record.getMessage()}: {record.exc_info[1]!r}")

    loggers = [logging.getLogger(name) for name in ("goverse", "goverse_node", "goverse_gate")]
    before = [(logger, logger.level, logger.propagate) for logger in loggers]
    collector = Collector(logging.ERROR)
    for logger in loggers:
        logger.addHandler(collector)
        logger.setLevel(logging.ERROR)
        logger.propagate = False
    try:
        yield
    finally:
        for logger, level, propagate in before:
            logger.removeHandler(collector)
            logger.setLevel(level)
            logger.propagate = propagate
