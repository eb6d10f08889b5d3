"""Hooks of an activation: they run as exclusive turns in tasks of the catalog, so that no
caller's cancellation or deadline ends them halfway."""

from __future__ import annotations

import asyncio
import copy
import logging
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING

from goverse.call import Call, ChainEntry
from goverse.errors import Executed, GoverseError, NotOwner, Overloaded, Unavailable
from goverse.objects import encoding, outcome
from goverse.objects.context import CURRENT
from goverse.objects.turn import GRANTED, Turn

if TYPE_CHECKING:
    from goverse.objects.activation import Activation
    from goverse.objects.durable import Durable

log = logging.getLogger(__name__)


def activate(activation: Activation, first: Call, predecessor: asyncio.Event | None) -> None:
    """Run on_activate; ``first`` is the call that caused it. Calls wait in the mailbox.

    :param predecessor: set when the last turn of an earlier, discarded activation is over.
    """
    # With the chain of its cause: if the hook calls back into that chain, it is refused at once.
    hook = _hook(activation, "on_activate", first.chain)
    hook.call.principal, hook.call.client_id = first.principal, first.client_id
    hook.call.trace = first.trace
    activation.hook_task = activation.services.tasks.spawn(
        f"activate {activation}", _activate(activation, hook, predecessor)
    )


def deactivate(activation: Activation) -> None:
    """Run on_deactivate, then end the activation. Nothing runs or waits in it now."""
    hook = _hook(activation, "on_deactivate", ())
    activation.hook_task = activation.services.tasks.spawn(
        f"deactivate {activation}", _deactivate(activation, hook)
    )


async def before_delete(activation: Activation) -> None:
    """on_deactivate within the deleting turn. What it raises does not prevent the deletion."""
    if not activation.object_type.deactivates:
        return
    try:
        await activation.instance.on_deactivate()
    except (asyncio.CancelledError, GeneratorExit):
        raise
    except BaseException as error:
        log.error("%s: on_deactivate failed", activation, exc_info=error)


async def delete(activation: Activation) -> None:
    """The turn that deletes: return once nothing is left of the object."""
    await before_delete(activation)
    if activation.durable is None:
        return
    await activation.durable.delete()
    if activation.services.reliable is not None:
        activation.services.reliable.deleted(activation.shard, activation.object_id)


async def _activate(activation: Activation, hook: Turn, predecessor: asyncio.Event | None) -> None:
    try:
        if predecessor is not None:
            await predecessor.wait()
            hook.deadline += asyncio.get_running_loop().time() - activation.created
        error: BaseException | None = None
        if activation.durable is not None:
            error = await _load(activation.durable, hook)
        if error is None and activation.object_type.activates:
            error = await _run(activation, hook, activation.instance.on_activate)
            if error is None:
                error = _note(activation)
        if error is None:
            activation.activated()
            _push(activation, hook)
        elif not activation.dead:
            _activation_failed(activation, _told(activation, hook, error))
    finally:
        _close(activation, hook)


async def _load(durable: Durable, hook: Turn) -> GoverseError | None:
    """Why the stored state cannot be had; a store that is away is asked again until ``hook``'s
    deadline."""
    loop = asyncio.get_running_loop()
    delay_s = 0.05
    while True:
        try:
            stored = await durable.read()
            break
        except Overloaded as error:
            return error
        except Unavailable as error:
            if loop.time() + delay_s >= hook.deadline:
                return error
        await asyncio.sleep(delay_s)
        delay_s = min(2 * delay_s, 1.0)
    try:
        durable.begin(stored)
    except GoverseError as error:
        return error
    return None


def _note(activation: Activation) -> BaseException | None:
    """A hook may have changed declared state: why that cannot be committed."""
    if activation.durable is None:
        return None
    try:
        activation.durable.note(activation.encode_state())
    except (GoverseError, encoding.EncodingFault) as error:
        return error
    return None


def _told(activation: Activation, hook: Turn, error: BaseException) -> GoverseError:
    """What callers are told of an activation that failed."""
    if isinstance(error, NotOwner) or (isinstance(error, GoverseError) and not hook.number):
        return error  # another node is asked; or the hook was not reached: it was the loading
    expose = activation.services.expose_errors
    return outcome.failure_of(hook, error, rolled_back=True, expose=expose)


def _activation_failed(activation: Activation, failure: GoverseError) -> None:
    restored, luggage = activation.restored, activation.shard.luggage
    if restored is not None and restored.packed is not None and luggage is not None:
        luggage.put(restored.packed, activation.last_used)  # for the next attempt
    for turn in activation.retire(hand_over=False):
        # Its turn never began, so it was not executed, whatever the hook did before it failed.
        # Everybody who waited is told: trying again for each would be as many slow failures.
        refused = copy.copy(failure)
        refused.executed = Executed.NO
        turn.refuse(refused)


async def _deactivate(activation: Activation, hook: Turn) -> None:
    try:
        if activation.object_type.deactivates:
            error = await _run(activation, hook, activation.instance.on_deactivate) or _note(
                activation
            )
            if error is not None and not isinstance(error, NotOwner):
                log.error("%s: on_deactivate failed", activation, exc_info=error)
            if error is None:
                if activation.shard.departing:
                    activation.pack(last=True)  # again: the hook may have changed what is declared
                _push(activation, hook)
        if activation.durable is not None and not activation.dead:
            await activation.durable.flush()
        if not activation.dead:
            activation.retire()
    except GoverseError as error:
        log.warning("%s was not committed to its end: %s", activation, error)
    finally:
        _close(activation, hook)


def _hook(activation: Activation, name: str, chain: tuple[ChainEntry, ...]) -> Turn:
    """An exclusive turn of our own, in a mailbox that is empty."""
    services = activation.services
    deadline = asyncio.get_running_loop().time() + services.defaults.create_timeout_s
    type_name, id = activation.object_id
    hook = Turn(Call(type_name, id, name, b"", deadline, chain=chain), None, None, deadline)
    hook.is_hook = True
    hook.started = services.now()
    hook.activation = activation
    hook.mailbox = activation.mailbox
    entered = activation.mailbox.enter(hook)
    assert entered, f"{activation} is not idle"
    hook.state = GRANTED
    activation.shard.holders += 1
    activation.hook = hook
    return hook


async def _run(
    activation: Activation, hook: Turn, function: Callable[[], Awaitable[None]]
) -> BaseException | None:
    """What the hook raised. Its own task, so the context variable need not be put back."""
    if not activation.services.lease_valid():
        # The lease can end between the decision and this first step of the task.
        return activation.shard.not_owner()
    activation.begin(hook, asyncio.current_task())
    CURRENT.set(hook)
    try:
        async with asyncio.timeout_at(hook.deadline):
            await function()
    except BaseException as error:
        if type(error) is GeneratorExit or outcome.cancelled_by_caller(hook, error):
            raise
        return error
    return None


def _push(activation: Activation, hook: Turn) -> None:
    if not activation.dead and activation.services.lease_valid():
        activation.release_pushes(hook)


def _close(activation: Activation, hook: Turn) -> None:
    activation.forget(hook)
    activation.hook = activation.hook_task = None
    activation.leave(hook)
