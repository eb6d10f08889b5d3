"""A store in memory, for tests and simulations; it is gone with its process.

`MemoryStore` is the database; `MemoryStore.connect` gives one process's client of it.
"""

from __future__ import annotations

from goverse.aio.runtime import Runtime
from goverse.storage.memory.channel import Channel, DirectChannel
from goverse.storage.memory.client import MemoryClient
from goverse.storage.memory.tables import MemoryTables

__all__ = ["Channel", "DirectChannel", "MemoryClient", "MemoryStore", "MemoryTables"]


class MemoryStore:
    """The database of a cluster in one process.

    :param runtime: its clock stamps rows.
    """

    def __init__(self, runtime: Runtime) -> None:
        self.tables = MemoryTables(runtime)

    def connect(
        self, channel: Channel | None = None, *, operation_timeout_s: float = 10.0
    ) -> MemoryClient:
        """A client for one process, which reaches the tables through ``channel``."""
        return MemoryClient(
            self.tables, channel or DirectChannel(), operation_timeout_s=operation_timeout_s
        )
