"""For programs outside the cluster: one batched session to a gate, and references over it.

::

    async with goverse.client.connect("localhost:49000") as client:
        await client.get(Counter, "a").add(5)

`connect_sync` is the same for programs without an event loop.
"""

from goverse.client.client import Client, ClientSnapshot, connect
from goverse.client.inbox import InboxSnapshot
from goverse.client.session import SessionSnapshot
from goverse.client.sync import SyncClient, connect_sync

__all__ = [
    "Client",
    "ClientSnapshot",
    "InboxSnapshot",
    "SessionSnapshot",
    "SyncClient",
    "connect",
    "connect_sync",
]
