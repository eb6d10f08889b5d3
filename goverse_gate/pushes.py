"""What nodes push, handed to the clients it is for. The target of a node's calls to this gate."""

from __future__ import annotations

import asyncio

from goverse.call import Call, Reply
from goverse.transport.pushes import Outcome, Tally, pushes_of, reply_of
from goverse_gate.buffer import Message
from goverse_gate.clients import Clients

#: Clients of one message that are served in one go, before others get their turn.
SLICE = 512

_WAITING = "waiting"


class PushTarget:
    """A `CallTarget` for members only; its replies say what became of each message so far.

    A node has one call under way here at a time, so that its messages keep their order.
    """

    def __init__(self, clients: Clients) -> None:
        self._clients = clients

    async def invoke(self, call: Call) -> Reply:
        tally: Tally = {}
        put = self._clients.put
        for push in pushes_of(call):
            message = Message(push.type, push.json, push.any)
            ids = push.clients if push.clients is not None else self._clients.ids()
            for start in range(0, len(ids), SLICE):
                for id in ids[start : start + SLICE]:
                    outcome: Outcome | None = put(id, message)
                    name = outcome.value if outcome is not None else _WAITING
                    tally[name] = tally.get(name, 0) + 1
                if start + SLICE < len(ids):
                    await asyncio.sleep(0)
        return reply_of(tally)
