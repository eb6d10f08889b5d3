"""``dev``."""

from __future__ import annotations

import asyncio
from pathlib import Path

import click

from goverse_cli.exits import CliError, Exit

_PORT = click.IntRange(1, 65_535)


@click.command()
@click.argument("module")
@click.option(
    "--nodes",
    type=click.IntRange(1, 64),
    default=None,
    help="So many node processes, a gate process and the bundled etcd.",
)
@click.option("--http-port", type=_PORT, help="Gate, HTTP (8080, else the next free one).")
@click.option("--gate-port", type=_PORT, help="Gate, gRPC (49000, else the next free one).")
@click.option("--node-port", type=_PORT, help="First node (48000, else the next free one).")
@click.option("--etcd-port", type=_PORT, help="etcd (2379, else the next free one).")
@click.option(
    "--data-dir",
    type=click.Path(file_okay=False, path_type=Path),
    help="Keeps durable objects (.goverse beside the application).",
)
def dev(
    module: str,
    nodes: int | None,
    http_port: int | None,
    gate_port: int | None,
    node_port: int | None,
    etcd_port: int | None,
    data_dir: Path | None,
) -> None:
    """Serve a module on this machine, and restart it when its code changes.

    MODULE is a file (app.py) or a dotted name. Without --nodes a node and a gate share one
    process and an in-memory coordinator. With --nodes they are processes of their own on a real
    etcd, as in production, and are restarted one after the other. Ctrl-C stops everything; once
    more stops it at once.

    If a class asks for durability and no storage.url is configured, its objects are kept in the
    data directory, in SQLite or, with --nodes, in the bundled PostgreSQL, and are there again at
    the next start. Remove the folder to begin afresh.

    \b
    Examples:
      goverse-cli dev app.py
      goverse-cli dev app.py --nodes 3
      goverse-cli dev app.py --http-port 9000
      goverse-cli dev app.py --data-dir /var/tmp/app
    """
    # Imported here: only this command needs it, and the others start faster without.
    from goverse_cli.dev.examples import source_of
    from goverse_cli.dev.plan import AskedPorts, make_plan
    from goverse_cli.dev.ports import Ports, PortTaken
    from goverse_cli.dev.run import run
    from goverse_cli.dev.state import StateFault

    async def session() -> None:
        began = asyncio.get_running_loop().time()
        source = source_of(module)
        if source is None or not source.is_file():
            raise CliError(f"{module}: no such file or module", Exit.USAGE, "try: dev app.py")
        ports = Ports()
        asked = AskedPorts(http=http_port, gate=gate_port, node=node_port, etcd=etcd_port)
        try:
            plan = make_plan(module, nodes=nodes or 0, ports=ports, asked=asked, state=data_dir)
            await run(plan, source, ports.moved, began=began)
        except (PortTaken, FileNotFoundError, StateFault) as error:
            raise CliError(str(error), Exit.ERROR) from error

    asyncio.run(session())
