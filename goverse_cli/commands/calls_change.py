"""``reliable-calls retry|cancel``: done by the owner of the call's object, asked through a node."""

from __future__ import annotations

import click

from goverse.admin.api import CallChange
from goverse.storage.values import CallStatus
from goverse_cli.exits import CliError, Exit
from goverse_cli.output import emit, fields, note
from goverse_cli.session import Options, run_async, shared_options


@click.command("retry")
@click.argument("call_id")
@shared_options
@run_async
async def retry(options: Options, call_id: str) -> None:
    """Run the parked call CALL_ID again, or deliver a parked delivery again.

    A call goes to the end of its object's order, with all its attempts; one that holds up its
    object (on_parked="block") runs again in its place. A delivery keeps its place among those that
    are read again, so that later ones may have overtaken it. The owner of the object does it, so a
    node must be up. Ids are those of `list`. Recorded in the audit log of the nodes.

    \b
    Examples:
      goverse-cli reliable-calls list --status parked
      goverse-cli reliable-calls retry order-4711
      goverse-cli reliable-calls list --outbox -o json | jq -r '.calls[].call_id' \\
        | xargs -n 1 goverse-cli reliable-calls retry
    """
    async with options.admin() as admin:
        found = await admin.retry_call(call_id, timeout_s=options.timeout_s)
    _show(options, found)
    if found.status in (CallStatus.SUCCESS.value, CallStatus.FAILED.value, "skipped"):
        raise CliError(
            f"call {call_id} is {found.status}, and what is finished never changes", Exit.REFUSED
        )
    if not found.changed:
        note("Nothing was to be done: it is not parked.")


@click.command("cancel")
@click.argument("call_id")
@click.option("--reason", default="", help="Whoever repeats the call is told.")
@click.option("--type", "type_name", default="", help="Type of its object, if it is not known.")
@click.option("--id", "object_id", default="", help="Id of its object, if it is not known.")
@shared_options
@run_async
async def cancel(
    options: Options, call_id: str, reason: str, type_name: str, object_id: str
) -> None:
    """Keep the call CALL_ID from running: it is recorded as skipped.

    A call that is pending, delayed or parked is skipped. One whose turn has begun is not stopped:
    this waits for its end (--timeout), and the turn wins if it leaves an outcome. An id that is not
    known is recorded as skipped if its object is named (--type, --id), so that it can never run.
    The exit status is 6 if the call was finished otherwise. The owner of the object does it, so a
    node must be up. Recorded in the audit log of the nodes.

    \b
    Examples:
      goverse-cli reliable-calls cancel order-4711 --reason "typed wrongly"
      goverse-cli reliable-calls cancel order-4712 --type Account --id alice
    """
    if bool(type_name) != bool(object_id):
        raise CliError("--type and --id go together", Exit.USAGE)
    async with options.admin() as admin:
        found = await admin.cancel_call(
            call_id, type=type_name, id=object_id, reason=reason, timeout_s=options.timeout_s
        )
    _show(options, found)
    if found.status != CallStatus.SKIPPED.value:
        raise CliError(f"call {call_id} was not cancelled: it is {found.status}", Exit.REFUSED)


def _show(options: Options, found: CallChange) -> None:
    pairs = (
        ("call", found.call_id),
        ("object", f"{found.type}/{found.id}"),
        ("method", found.method),
        ("status", found.status),
        ("changed", found.changed),
        ("message", found.message),
    )
    emit(options.output, found, lambda: fields(pairs))
