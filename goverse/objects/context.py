"""Which turn the running code belongs to, and what it may know about its call."""

from __future__ import annotations

import asyncio
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Protocol

from goverse.call import Call, ChainEntry, Reply
from goverse.ids import Epoch, ObjectId
from goverse.transport.pushes import Push


@dataclass(frozen=True)
class Context:
    """The call that the running code serves. Nested calls inherit principal, client and trace."""

    object_id: ObjectId
    """The object whose code is running."""

    method: str
    """The method; empty in a background task."""

    epoch: Epoch
    """Fencing token of the object's shard, to pass on to outside systems that can check it."""

    principal: str
    """Who began the chain of calls, as proven to the gate; empty for the system itself."""

    client_id: str
    """The client session that began the chain; empty if none did."""

    deadline: float
    """When the turn ends at the latest, in seconds of the running loop's ``time()``."""

    chain: tuple[ChainEntry, ...]
    """The suspended turns that wait for this one, outermost first."""

    trace: str
    """W3C traceparent."""

    @property
    def remaining_s(self) -> float:
        """Seconds until the deadline; not below 0."""
        return max(0.0, self.deadline - asyncio.get_running_loop().time())


@dataclass(frozen=True)
class CallDefaults:
    """Timeouts of callers who state none."""

    call_timeout_s: float = 30.0
    create_timeout_s: float = 10.0
    delete_timeout_s: float = 10.0


class Frame(Protocol):
    """What runs application code: a turn, or a background task of an activation.

    It is the CallTarget of that code's own calls, adding chain, principal and deadline.
    """

    @property
    def defaults(self) -> CallDefaults: ...

    def context(self) -> Context: ...

    async def invoke(self, call: Call) -> Reply: ...

    def push(self, push: Push) -> None:
        """Let a message leave when the running code has succeeded."""
        ...


#: The frame of the running code; None outside objects.
CURRENT: ContextVar[Frame | None] = ContextVar("goverse_frame", default=None)


def context() -> Context:
    """The context of the running method. Raises RuntimeError outside of one."""
    frame = CURRENT.get()
    if frame is None:
        raise RuntimeError("goverse.context() is known inside an object's method only")
    return frame.context()
