"""The store of a session with several processes: none, the configured one, or its own."""

from __future__ import annotations

import contextlib
import os
import random
from pathlib import Path

from goverse import coordination
from goverse.aio.backoff import Backoff
from goverse.aio.runtime import Runtime
from goverse.aio.tasks import Tasks
from goverse.config.faults import ConfigError
from goverse.config.load import load
from goverse.config.settings import Settings, StorageSettings
from goverse.coordination.api import CoordinatorUnavailable
from goverse.storage.api import OutcomeUnknown, StorageUnavailable, StoreRefused
from goverse_cli.dev.etcd import DevelopmentEtcd
from goverse_cli.dev.plan import HOST, Plan
from goverse_cli.dev.postgres import DevelopmentPostgres
from goverse_cli.dev.probe import durable_classes
from goverse_cli.dev.processes import Console
from goverse_cli.dev.state import StateFault, StateFolder, going_on


class Backing:
    """Made with its session; starts PostgreSQL when a class needs it for the first time.

    ``own`` is what nodes are told of it; None while there is none of the session's own.
    """

    def __init__(self, plan: Plan, etcd: DevelopmentEtcd, console: Console) -> None:
        self._plan = plan
        self._etcd = etcd
        self._console = console
        self._folder: StateFolder | None = None
        self._postgres: DevelopmentPostgres | None = None
        self._done = False
        self.own: StorageSettings | None = None

    async def prepare(self, tasks: Tasks) -> None:
        """Return once nodes may start with the code as it is. Raises `StateFault`."""
        settings = _settings(self._plan)
        if self._done or settings is None:
            return
        try:
            if settings.storage.url:
                await self._go_on(settings, settings.storage, migrate=False)
            elif await durable_classes(self._plan.module):
                await self._start(tasks)
                assert self._postgres is not None
                own = self._postgres.settings
                await self._go_on(settings, own, migrate=True)
                self.own = own
        except StateFault:
            raise
        except (StoreRefused, StorageUnavailable, OutcomeUnknown, CoordinatorUnavailable) as error:
            raise StateFault(str(error)) from None

    async def _start(self, tasks: Tasks) -> None:
        if self._postgres is not None:
            return
        if self._folder is None:
            self._folder = StateFolder(Path(self._plan.state))
        postgres = DevelopmentPostgres(
            self._folder,
            self._plan.postgres_port,
            self._console,
            Backoff(random.Random()),
            asked=self._plan.state_asked,
        )
        # Known before it runs, so that a stop meanwhile stops it too.
        self._postgres = postgres
        try:
            await postgres.start()
        except StateFault:
            self._postgres = None
            await postgres.kill()
            raise
        tasks.spawn("postgres", postgres.run())
        self._console.say(f"durable objects are kept in {postgres.place}")

    async def _go_on(self, settings: Settings, store: StorageSettings, *, migrate: bool) -> None:
        await self._etcd.wait_ready()
        async with contextlib.AsyncExitStack() as stack:
            coordinator = await coordination.open(settings.cluster, Runtime())
            stack.push_async_callback(coordinator.close)
            going = going_on(store, settings.cluster, coordinator, migrate=migrate)
            await stack.enter_async_context(going)
        self._done = True

    async def stop(self) -> None:
        if self._postgres is not None:
            await self._postgres.stop()
        self._close()

    async def kill(self) -> None:
        if self._postgres is not None:
            await self._postgres.kill()
        self._close()

    def _close(self) -> None:
        folder, self._folder = self._folder, None
        if folder is not None:
            folder.close()


def _settings(plan: Plan) -> Settings | None:
    """As a node reads them; None if they have faults, which the nodes will tell."""
    path = os.environ.get("GOVERSE_CONFIG")
    flags = {"cluster.etcd.endpoints": f"{HOST}:{plan.etcd_port}", "objects.modules": plan.module}
    try:
        return load(Path(path) if path else None, os.environ, flags).settings
    except (ConfigError, OSError):
        return None
