"""The child of development mode that is node and gate at once, on a coordinator in its memory.

Run as ``python -m goverse_cli.dev.serve PLAN``, where PLAN is a `goverse_cli.dev.plan.Plan` as
JSON.
"""

from __future__ import annotations

import dataclasses
import logging
import os
import sys
import traceback
from collections.abc import AsyncGenerator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path

from goverse import process
from goverse.cluster.surroundings import Surroundings
from goverse.config.faults import ConfigError
from goverse.config.load import Loaded, load
from goverse.config.settings import Settings
from goverse.objects import ModuleLoadError, Registry, load_entry_points, load_modules
from goverse.observability.metrics import Metrics
from goverse_cli.dev.plan import HOST, Plan, plan_from_json
from goverse_cli.dev.state import StateFolder, going_on
from goverse_gate.app import run_gate
from goverse_node.app import run_node

log = logging.getLogger(__name__)


def main() -> int:
    plan = plan_from_json(sys.argv[1])
    try:
        loaded = _load(plan)
    except ConfigError as error:
        print(f"goverse-cli dev: {error}", file=sys.stderr)
        return process.EXIT_CONFIG
    registry = Registry()
    try:
        load_entry_points(registry)
        load_modules(loaded.settings.objects.modules, registry)
    except ModuleLoadError as error:
        traceback.print_exception(error.__cause__ or error)
        print(f"goverse-cli dev: {error}", file=sys.stderr)
        return process.EXIT_MODULE

    @asynccontextmanager
    async def both(settings: Settings, surroundings: Surroundings) -> AsyncGenerator[None, None]:
        # Gauges are read from the parts of one member, so each has metrics of its own.
        for_gate = dataclasses.replace(surroundings, metrics=Metrics())
        async with _with_store(plan, settings, surroundings, registry) as for_node:
            async with run_node(settings, for_node, registry), run_gate(settings, for_gate):
                yield

    configuration = process.Configuration(loaded, None, lambda: _load(plan))
    return process.run(configuration, "dev", both)


@asynccontextmanager
async def _with_store(
    plan: Plan, settings: Settings, surroundings: Surroundings, registry: Registry
) -> AsyncGenerator[Surroundings, None]:
    """The configured store, or the session's own if a class needs one."""
    async with AsyncExitStack() as stack:
        storage, own = settings.storage, False
        if not storage.url and registry.durable():
            folder = StateFolder(Path(plan.state))
            stack.callback(folder.close)
            storage, own = folder.sqlite, True
            log.info("durable objects are kept in %s", folder.path)
        if storage.url:
            store = await stack.enter_async_context(
                going_on(storage, settings.cluster, surroundings.coordinator, migrate=own)
            )
            surroundings = dataclasses.replace(surroundings, store=store)
        yield surroundings


def _load(plan: Plan) -> Loaded:
    (node,) = plan.nodes
    flags = {
        "cluster.coordinator": "memory://",
        "objects.modules": plan.module,
        "node.id": node.name,
        "node.listen": f"{HOST}:{node.port}",
        "node.ops_listen": f"{HOST}:{node.ops_port}",
        "gate.id": "gate",
        "gate.listen": f"{HOST}:{plan.gate_port}",
        "gate.http_listen": f"{HOST}:{plan.http_port}",
        "gate.ops_listen": f"{HOST}:{plan.gate_ops_port}",
    }
    return load(None, os.environ, flags)


if __name__ == "__main__":
    sys.exit(main())
