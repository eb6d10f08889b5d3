"""The coordinator inside one process: development mode, tests, simulations.

`MemoryStore` is the server, one per cluster; `MemoryStore.connect` makes one process's client,
which reaches the store through a `Channel` that a simulation can delay and cut.
"""

from goverse.coordination.memory.channel import Channel, DirectChannel
from goverse.coordination.memory.client import MemoryCoordinator
from goverse.coordination.memory.store import Compacted, MemoryStore

__all__ = ["Channel", "Compacted", "DirectChannel", "MemoryCoordinator", "MemoryStore"]
