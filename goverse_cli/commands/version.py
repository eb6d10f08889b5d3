"""``version``."""

from __future__ import annotations

from importlib.metadata import PackageNotFoundError, version

import click

from goverse.admin.api import ClusterStatus
from goverse_cli.commands.status import ask_status
from goverse_cli.output import emit, fields
from goverse_cli.session import Options, run_async, shared_options, warn


def own_version() -> str:
    try:
        return version("goverse")
    except PackageNotFoundError:  # Run from a clone that was not installed.
        return "unknown"


@click.command("version")
@click.option("--client", "client_only", is_flag=True, help="Only of this program; asks nobody.")
@shared_options
@run_async
async def version_command(options: Options, client_only: bool) -> None:
    """Show the version of this program and of every process of the cluster.

    \b
    Examples:
      goverse-cli version
      goverse-cli version --client
      goverse-cli version -o json | jq .nodes
    """
    own = own_version()
    if client_only:
        emit(options.output, {"client": own}, lambda: fields((("client", own),)))
        return
    found = await ask_status(options)
    versions = _by_version(found)
    answer = {
        "client": own,
        "nodes": {node.name: node.version for node in found.nodes},
        "gates": {gate.name: gate.version for gate in found.gates},
    }
    emit(
        options.output,
        answer,
        lambda: fields(
            (
                ("client", own),
                *((f"{kind} {name}", told) for told, of in versions.items() for kind, name in of),
            )
        ),
    )
    if len(versions) > 1:
        warn("the processes of this cluster have different versions; see: goverse-cli check")


def _by_version(found: ClusterStatus) -> dict[str, list[tuple[str, str]]]:
    versions: dict[str, list[tuple[str, str]]] = {}
    for member in (*found.nodes, *found.gates):
        versions.setdefault(member.version or "unknown", []).append((member.kind, member.name))
    return versions
