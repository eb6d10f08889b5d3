"""Choosing a backend by URL scheme: the only place in the runtime that names one."""

from __future__ import annotations

from goverse.aio.runtime import Runtime
from goverse.config.settings import ClusterSettings
from goverse.coordination.api import Coordinator


async def open(settings: ClusterSettings, runtime: Runtime) -> Coordinator:
    """A client of the coordinator that ``settings`` name; connects when it is first used.

    ``memory://`` makes a new, empty store: who wants to share one calls
    `MemoryStore.connect`. Raises ValueError for another scheme.
    """
    scheme, separator, _ = settings.coordinator.partition("://")
    if separator and scheme == "etcd":
        from goverse.coordination.etcd import EtcdCoordinator

        return EtcdCoordinator(
            settings.etcd, runtime, loop_stall_limit_s=settings.loop_stall_limit_s
        )
    if separator and scheme == "memory":
        from goverse.coordination.memory import MemoryStore

        return MemoryStore(runtime).connect(runtime)
    raise ValueError(
        f"cluster.coordinator is {settings.coordinator!r}; it must begin with etcd:// or memory://"
    )
