"""``goverse-node``: host objects."""

from __future__ import annotations

import sys
import traceback
from collections.abc import AsyncGenerator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import click

from goverse import process
from goverse.cluster.registration import package_version
from goverse.cluster.surroundings import Surroundings
from goverse.config.addresses import member_name
from goverse.config.settings import Settings
from goverse.objects import ModuleLoadError, Registry, load_entry_points, load_modules
from goverse_node.app import Node, run_node
from goverse_node.durability import with_store

_FLAGS = {
    "id": "node.id",
    "listen": "node.listen",
    "advertise": "node.advertise",
    "ops_listen": "node.ops_listen",
    "etcd_endpoints": "cluster.etcd.endpoints",
    "module": "objects.modules",
    "shutdown_mode": "node.shutdown_mode",
    "shutdown_timeout": "node.shutdown_timeout",
    "log_level": "log.level",
    "insecure": "node.insecure",
}


def _options(command: Callable[..., None]) -> Callable[..., None]:
    for option in reversed(
        (
            click.option(
                "--config",
                type=click.Path(exists=True, dir_okay=False, path_type=Path),
                envvar="GOVERSE_CONFIG",
                help="Configuration file (YAML).",
            ),
            click.option("--id", help="Name of this node."),
            click.option("--listen", help="host:port for links and the admin service."),
            click.option("--advertise", help="host:port that others reach it by."),
            click.option("--ops-listen", help="host:port for health and metrics, or off."),
            click.option("--etcd-endpoints", help="host:port of etcd, comma-separated."),
            click.option(
                "--module",
                multiple=True,
                help="Module (package.module) or file (app.py) to host; repeatable.",
            ),
            click.option(
                "--shutdown-mode",
                type=click.Choice(["permanent", "restart"]),
                help="What becomes of its shards when it stops: others take them first, or they "
                "wait for it to come back. [env: GOVERSE_SHUTDOWN_MODE]",
            ),
            click.option("--shutdown-timeout", help="How long that may take, with a unit: 20s."),
            click.option("--log-level", help="debug, info, warning or error."),
            click.option(
                "--insecure", is_flag=True, help="Allow listening beyond loopback without TLS."
            ),
        )
    ):
        command = option(command)
    return command


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_version() or "unknown", prog_name="goverse-node")
def main() -> None:
    """Host the objects of a Goverse cluster.

    \b
    Exit status:
      0    stopped in order
      1    could not start (an address is in use, ...)
      2    the configuration has faults
      3    a module could not be loaded
      130  ended at once by a second signal
    """


@main.command()
@_options
def serve(**flags: Any) -> None:
    """Run a node until SIGTERM or Ctrl-C; a second one ends it at once.

    \b
    Examples:
      goverse-node serve --module counter.py
      goverse-node serve --module counter.py --id n1 --shutdown-mode restart
      goverse-node serve --config cluster.yaml --id n1 --listen 10.0.0.5:48000 --insecure
    """
    configuration = _configuration(flags)
    settings = configuration.loaded.settings
    registry = Registry()
    try:
        load_entry_points(registry)
        load_modules(settings.objects.modules, registry)
    except ModuleLoadError as error:
        traceback.print_exception(error.__cause__ or error)
        click.echo(f"goverse-node: {error}", err=True)
        sys.exit(process.EXIT_MODULE)

    @asynccontextmanager
    async def app(settings: Settings, surroundings: Surroundings) -> AsyncGenerator[Node, None]:
        async with with_store(settings.storage, surroundings) as stored:
            async with run_node(settings, stored, registry) as node:
                yield node

    name = member_name(settings.node.id, settings.node.listen)
    sys.exit(process.run(configuration, name, app))


@main.command("check-config")
@_options
def check_config(**flags: Any) -> None:
    """Read the configuration as serve would, print it with the origin of each value, and exit.

    \b
    Examples:
      goverse-node check-config --config cluster.yaml
      GOVERSE_CLUSTER__LEASE_TTL=3s goverse-node check-config
    """
    process.describe(_configuration(flags))


def _configuration(flags: dict[str, Any]) -> process.Configuration:
    return process.configuration("node", flags["config"], flags, _FLAGS)


if __name__ == "__main__":
    main()
