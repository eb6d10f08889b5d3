"""``gate list``."""

from __future__ import annotations

import click

from goverse_cli.commands.members import gate_table
from goverse_cli.output import emit, note
from goverse_cli.session import Options, run_async, shared_options


@click.group()
def gate() -> None:
    """Gates, which clients connect to.

    \b
    Examples:
      goverse-cli gate list
    """


@gate.command("list")
@shared_options
@run_async
async def gate_list(options: Options) -> None:
    """List the registered gates.

    \b
    Examples:
      goverse-cli gate list
      goverse-cli gate list -o yaml
    """
    async with options.admin() as admin:
        members = (await admin.list_gates()).members
    emit(options.output, members, lambda: gate_table(members))
    if not members:
        note("No gate is registered.")
