"""The root command."""

from __future__ import annotations

import click

from goverse_cli import exits
from goverse_cli.commands.check import check
from goverse_cli.commands.completion import completion
from goverse_cli.commands.db import db
from goverse_cli.commands.dev import dev
from goverse_cli.commands.gate import gate
from goverse_cli.commands.node import node
from goverse_cli.commands.object import object_group
from goverse_cli.commands.reliable_calls import reliable_calls
from goverse_cli.commands.shard import shard
from goverse_cli.commands.status import status
from goverse_cli.commands.type import type_group
from goverse_cli.commands.version import own_version, version_command
from goverse_cli.session import shared_options


@click.group(
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
    epilog=exits.HELP,
)
@click.version_option(own_version(), prog_name="goverse-cli")
@shared_options
def cli() -> None:
    """Operate a Goverse cluster.

    Commands ask a node: the one given by --server or GOVERSE_SERVER, else one registered in the
    etcd given by --etcd-endpoints or GOVERSE_ETCD_ENDPOINTS, else localhost:48000, else one
    registered in etcd at localhost:2379. Options may stand before or after the command.

    \b
    Examples:
      goverse-cli dev app.py
      goverse-cli status
      goverse-cli object call Counter my-counter add amount=5
      goverse-cli shard pin 42 --node n2
      goverse-cli check
    """


for _command in (
    status, check, node, gate, shard, object_group, type_group, reliable_calls, db, dev,
    version_command, completion,
):  # fmt: skip
    cli.add_command(_command)
