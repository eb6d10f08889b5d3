"""Choosing a backend by URL scheme: the only place in the runtime that names one."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from importlib.metadata import entry_points

from goverse.aio.runtime import Runtime
from goverse.config.settings import StorageSettings
from goverse.storage.api import Store

#: Others add a backend under this group: the name is the scheme, the value an `Opener`.
GROUP = "goverse.stores"

Opener = Callable[[StorageSettings, Runtime], Awaitable[Store]]


async def open(settings: StorageSettings, runtime: Runtime) -> Store:
    """A client of the store that ``settings`` name; connects when it is first used.

    ``memory://`` makes a new, empty store: who wants to share one calls `MemoryStore.connect`.
    Raises ValueError for a scheme that nobody brings, or that two do.
    """
    scheme, separator, _ = settings.url.partition("://")
    if separator and scheme in ("postgresql", "postgres"):
        from goverse.storage.postgres import PostgresStore

        return PostgresStore(settings, runtime)
    if separator and scheme == "cockroachdb":
        from goverse.storage.postgres import COCKROACH, PostgresStore

        return PostgresStore(settings, runtime, COCKROACH)
    if separator and scheme in ("mysql", "mariadb"):
        try:
            from goverse.storage.mysql import MysqlStore
        except ModuleNotFoundError as error:
            if error.name != "asyncmy":
                raise
            raise ValueError(
                f"storage.url begins with {scheme}://, which needs asyncmy: "
                "pip install goverse[mysql]"
            ) from None
        return MysqlStore(settings, runtime)
    if separator and scheme == "sqlite":
        from goverse.storage.sqlite import SqliteStore

        return SqliteStore(settings, runtime)
    if separator and scheme == "memory":
        from goverse.storage.memory import MemoryStore

        return MemoryStore(runtime).connect(operation_timeout_s=settings.operation_timeout_s)
    found = tuple(entry_points(group=GROUP, name=scheme)) if separator else ()
    if len(found) > 1:
        values = ", ".join(sorted(point.value for point in found))
        raise ValueError(f"storage.url: {scheme}:// is brought by several packages: {values}")
    if not found:
        raise ValueError(
            f"storage.url begins with {scheme[:32]!r}; it must begin with postgresql://, "
            "cockroachdb://, mysql://, sqlite:///, memory://, or the scheme of an installed "
            f"package (entry points {GROUP})"
        )
    opener: Opener = found[0].load()
    return await opener(settings, runtime)
