"""``object call|create|delete|list|locate``."""

from __future__ import annotations

import json

import click

from goverse.admin.api import MAX_OBJECTS, Location, ObjectInfo
from goverse_cli.exits import CliError, Exit
from goverse_cli.output import emit, fields, note, rows
from goverse_cli.session import Options, run_async, shared_options, warn


@click.group("object")
def object_group() -> None:
    """Objects: call, create and delete them, list the active ones, see where they live.

    \b
    Examples:
      goverse-cli object call Counter my-counter add amount=5
      goverse-cli object locate Counter my-counter
    """


@object_group.command("call")
@click.argument("type")
@click.argument("id")
@click.argument("method")
@click.argument("arguments", nargs=-1, metavar="[JSON | NAME=VALUE ...]")
@shared_options
@run_async
async def object_call(
    options: Options, type: str, id: str, method: str, arguments: tuple[str, ...]
) -> None:
    """Call a method of an object and print what it returns.

    Arguments are one JSON object, or pairs NAME=VALUE; a VALUE that is not JSON is a string.
    Needs a node on this machine or the operators' token.

    \b
    Examples:
      goverse-cli object call Counter my-counter add '{"amount": 5}'
      goverse-cli object call Counter my-counter add amount=5
      goverse-cli object call Counter my-counter add -o json
    """
    args = encode_arguments(arguments)
    async with options.admin() as admin:
        answer = await admin.call_object(type, id, method, args, timeout_s=options.timeout_s)
    value = json.loads(answer.result)
    emit(options.output, value, lambda: _value(value))


def encode_arguments(arguments: tuple[str, ...]) -> bytes:
    """The JSON object that ``arguments`` of a command line stand for; empty for none."""
    if not arguments:
        return b""
    if len(arguments) == 1 and arguments[0].lstrip().startswith("{"):
        try:
            json.loads(arguments[0])
        except ValueError as error:
            raise CliError(f"the arguments are not JSON: {error}", Exit.USAGE) from error
        # As it was typed: what JSON in Python cannot carry is the node's to judge.
        return arguments[0].encode()
    values: dict[str, object] = {}
    for pair in arguments:
        name, equals, text = pair.partition("=")
        if not (equals and name.isidentifier()):
            raise CliError(
                f"{pair!r} is neither NAME=VALUE nor a JSON object",
                Exit.USAGE,
                "write amount=5, or one object: '{\"amount\": 5}'",
            )
        if name in values:
            raise CliError(f"argument {name} is given twice", Exit.USAGE)
        try:
            values[name] = json.loads(text)
        except ValueError:
            values[name] = text
    return json.dumps(values, ensure_ascii=False).encode()


def _value(value: object) -> str:
    return value if isinstance(value, str) else json.dumps(value, indent=2, ensure_ascii=False)


@object_group.command("create")
@click.argument("type")
@click.argument("id")
@shared_options
@run_async
async def object_create(options: Options, type: str, id: str) -> None:
    """Make an object active before it is first called; refused if it is active already.

    Needs a node on this machine or the operators' token.

    \b
    Examples:
      goverse-cli object create Counter my-counter
      goverse-cli object create Counter my-counter -o json | jq -r .owner
    """
    async with options.admin() as admin:
        _show_place(options, await admin.create_object(type, id, timeout_s=options.timeout_s))


@object_group.command("delete")
@click.argument("type")
@click.argument("id")
@shared_options
@run_async
async def object_delete(options: Options, type: str, id: str) -> None:
    """End an object and what it holds. Succeeds if there is none.

    Needs a node on this machine or the operators' token. A later call begins anew.

    \b
    Examples:
      goverse-cli object delete Counter my-counter
    """
    async with options.admin() as admin:
        _show_place(options, await admin.delete_object(type, id, timeout_s=options.timeout_s))


@object_group.command("list")
@click.option("--node", default="", help="Objects on this node.")
@click.option("--type", "type_name", default="", help="Objects of this type.")
@click.option("--prefix", default="", help="Objects whose id begins so.")
@click.option(
    "--limit", type=click.IntRange(1, 1_000_000), default=100, help="At most so many [100]."
)
@shared_options
@run_async
async def object_list(options: Options, node: str, type_name: str, prefix: str, limit: int) -> None:
    """List active objects, of one node or of all, with their queues.

    \b
    Examples:
      goverse-cli object list
      goverse-cli object list --type Counter --node n2 --limit 1000
      goverse-cli object list -o json | jq 'map(select(.queued > 100))'
    """
    found: list[ObjectInfo] = []
    unreachable: dict[str, None] = {}
    token = ""
    async with options.admin() as admin:
        while len(found) < limit:
            page = await admin.list_objects(
                node=node,
                type=type_name,
                id_prefix=prefix,
                page_size=min(limit - len(found), MAX_OBJECTS),
                page_token=token,
            )
            found.extend(page.objects)
            unreachable.update(dict.fromkeys(page.unreachable))
            token = page.next_page_token
            if not token:
                break
    emit(
        options.output,
        found,
        lambda: rows(
            ("type", "id", "node", "shard", "state", "queued", "running", "idle"),
            (
                (o.type, o.id, o.node, o.shard, o.state, o.queued, o.running, f"{o.idle_s:.1f}s")
                for o in found
            ),
        ),
    )
    if token:
        note(f"There are more; this shows the first {len(found)} (--limit).")
    for name in unreachable:
        warn(f"node {name} did not answer: its objects are missing here")


@object_group.command("locate")
@click.argument("type")
@click.argument("id")
@shared_options
@run_async
async def object_locate(options: Options, type: str, id: str) -> None:
    """Show the slot and shard of an object, and the node that owns it. Does not activate it.

    \b
    Examples:
      goverse-cli object locate Counter my-counter
      goverse-cli object locate Counter my-counter -o json | jq -r .owner
    """
    async with options.admin() as admin:
        _show_place(options, await admin.locate_object(type, id))


def _show_place(options: Options, found: Location) -> None:
    emit(
        options.output,
        found,
        lambda: fields(
            (
                ("object", f"{found.type}/{found.id}"),
                ("slot", found.slot if found.slot >= 0 else "none: lives on a named node"),
                ("shard", found.shard if found.shard >= 0 else None),
                ("owner", found.owner),
                ("address", found.owner_address),
                ("epoch", found.epoch),
            )
        ),
    )
