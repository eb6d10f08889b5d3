"""``goverse-gate``: let clients in."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click

from goverse import process
from goverse.cluster.registration import package_version
from goverse.config.addresses import member_name
from goverse_gate.app import run_gate

_FLAGS = {
    "id": "gate.id",
    "listen": "gate.listen",
    "advertise": "gate.advertise",
    "http_listen": "gate.http_listen",
    "ops_listen": "gate.ops_listen",
    "allowed_origins": "gate.allowed_origins",
    "etcd_endpoints": "cluster.etcd.endpoints",
    "log_level": "log.level",
    "insecure": "gate.insecure",
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
            click.option("--id", help="Name of this gate."),
            click.option("--listen", help="host:port for client sessions."),
            click.option("--advertise", help="host:port that others reach it by."),
            click.option("--http-listen", help="host:port for HTTP, or off."),
            click.option("--ops-listen", help="host:port for health and metrics, or off."),
            click.option(
                "--allowed-origins", help="Origins of web pages that may call, comma-separated."
            ),
            click.option("--etcd-endpoints", help="host:port of etcd, comma-separated."),
            click.option("--log-level", help="debug, info, warning or error."),
            click.option(
                "--insecure", is_flag=True, help="Allow listening beyond loopback without TLS."
            ),
        )
    ):
        command = option(command)
    return command


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_version() or "unknown", prog_name="goverse-gate")
def main() -> None:
    """Let clients into a Goverse cluster.

    \b
    Exit status:
      0    stopped in order
      1    could not start (an address is in use, ...)
      2    the configuration has faults
      130  ended at once by a second signal
    """


@main.command()
@_options
def serve(**flags: Any) -> None:
    """Run a gate until SIGTERM or Ctrl-C; a second one ends it at once.

    \b
    Examples:
      goverse-gate serve
      goverse-gate serve --config cluster.yaml --id g1 --http-listen 0.0.0.0:8080 --insecure
    """
    configuration = _configuration(flags)
    settings = configuration.loaded.settings
    name = member_name(settings.gate.id, settings.gate.listen)
    sys.exit(process.run(configuration, name, run_gate))


@main.command("check-config")
@_options
def check_config(**flags: Any) -> None:
    """Read the configuration as serve would, print it with the origin of each value, and exit.

    \b
    Examples:
      goverse-gate check-config --config cluster.yaml
      GOVERSE_GATE__LISTEN=127.0.0.1:49010 goverse-gate check-config
    """
    process.describe(_configuration(flags))


def _configuration(flags: dict[str, Any]) -> process.Configuration:
    return process.configuration("gate", flags["config"], flags, _FLAGS)


if __name__ == "__main__":
    main()
