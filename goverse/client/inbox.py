"""What is pushed to this program: a bounded queue, and handlers that get one message at a time."""

from __future__ import annotations

import inspect
import logging
from collections import deque
from collections.abc import Awaitable, Callable, Iterator
from dataclasses import dataclass
from typing import Any, TypeVar

from goverse.aio.limits import Limit
from goverse.aio.tasks import Tasks
from goverse.call import Call, Codec, Reply
from goverse.config.settings import LimitSettings
from goverse.objects.messages import decoder_of, message_name
from goverse.transport.pushes import Delivery, Outcome, Tally, deliveries_of, reply_of

log = logging.getLogger(__name__)

T = TypeVar("T")
Handler = Callable[[T], Awaitable[None] | None]


@dataclass(frozen=True)
class InboxSnapshot:
    """Messages by what became of them.

    :param waiting: for their handlers. :param handled: by every handler, without an exception.
    :param dropped: the queue was full. :param unhandled: nobody handles their type.
    :param undecodable: they do not fit the class of their type.
    :param failed: a handler raised an exception.
    :param lost_before: the gate says that they were dropped on their way here.
    """

    waiting: int
    handled: int
    dropped: int
    unhandled: int
    undecodable: int
    failed: int
    lost_before: int


class _Kind:
    """One type of messages and who handles it."""

    def __init__(self, kind: type) -> None:
        self.kind = kind
        self.decode: Callable[[Codec, bytes], Any] = decoder_of(kind)
        self.handlers: list[Handler[Any]] = []


class Inbox:
    """The `CallTarget` of what a gate pushes.

    A message is confirmed to the gate when it is in the queue. Handlers run in the order of
    registration, one message after the other, so that one that waits delays those behind it.
    """

    def __init__(self, limits: LimitSettings) -> None:
        self._max_messages = limits.max_push_messages
        self._kinds: dict[str, _Kind] = {}
        self._waiting: deque[Delivery] = deque()
        self._tasks = Tasks("client messages")
        self._running = False
        self._closed = False
        self._handled = self._dropped = self._unhandled = 0
        self._undecodable = self._failed = self._lost_before = 0

    def on(self, kind: type[T], handler: Handler[T]) -> None:
        """Have ``handler(message)`` called for every message of a class. Raises TypeError."""
        name = message_name(kind)
        if not callable(handler):
            raise TypeError(f"the handler of {name} cannot be called")
        known = self._kinds.setdefault(name, _Kind(kind))
        if known.kind is not kind:
            raise TypeError(
                f"messages named {name} are handled as {known.kind.__module__}."
                f"{known.kind.__qualname__} already"
            )
        known.handlers.append(handler)

    async def invoke(self, call: Call) -> Reply:
        deliveries = deliveries_of(call)
        self._lost_before += max(0, deliveries.lost)
        tally: Tally = {}
        for delivery in deliveries.items:
            outcome = self._put(delivery).value
            tally[outcome] = tally.get(outcome, 0) + 1
        return reply_of(tally)

    def _put(self, delivery: Delivery) -> Outcome:
        if delivery.type not in self._kinds:
            self._unhandled += 1
            return Outcome.NO_HANDLER
        if len(self._waiting) >= self._max_messages or self._closed:
            self._dropped += 1
            return Outcome.BUFFER_FULL
        self._waiting.append(delivery)
        if not self._running:
            self._running = True
            self._tasks.spawn("handle", self._handle_all())
        return Outcome.DELIVERED

    async def _handle_all(self) -> None:
        try:
            while self._waiting:
                await self._handle(self._waiting.popleft())
        finally:
            self._running = False

    async def _handle(self, delivery: Delivery) -> None:
        kind = self._kinds[delivery.type]
        try:
            message = kind.decode(delivery.codec, delivery.data)
        except ValueError as error:
            self._undecodable += 1
            log.error("a pushed %s does not fit its class: %s", delivery.type, error)
            return
        failed = False
        for handler in tuple(kind.handlers):
            try:
                result = handler(message)
                if inspect.isawaitable(result):
                    await result
            except Exception:
                failed = True
                log.exception("a handler of pushed %s failed", delivery.type)
        self._failed += failed
        self._handled += not failed

    async def close(self) -> None:
        """Take no more, and end the handler that runs."""
        self._closed = True
        self._dropped += len(self._waiting)
        self._waiting.clear()
        await self._tasks.close()

    def limits(self) -> Iterator[Limit]:
        yield Limit("client.inbox", len(self._waiting), self._max_messages)

    def snapshot(self) -> InboxSnapshot:
        return InboxSnapshot(
            waiting=len(self._waiting),
            handled=self._handled,
            dropped=self._dropped,
            unhandled=self._unhandled,
            undecodable=self._undecodable,
            failed=self._failed,
            lost_before=self._lost_before,
        )
