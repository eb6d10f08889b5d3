"""``goverse.get`` and what applies to the references that it makes."""

from __future__ import annotations

from typing import Any, TypeVar, cast, overload

from goverse.call import Verb
from goverse.objects.definition import Object
from goverse.objects.reference import Interface, Reference, change_existence, with_options

T = TypeVar("T", bound=Object)
R = TypeVar("R")


def interface_of(target: type[Object] | str) -> Interface | str:
    """What a reference needs to know of ``target``. Raises TypeError."""
    if isinstance(target, str):
        return target
    if not (isinstance(target, type) and issubclass(target, Object) and target is not Object):
        raise TypeError(f"expected an object class or its type name, not {target!r:.60}")
    return target.__goverse__.complete()


@overload
def get(target: type[T], id: str) -> T: ...
@overload
def get(target: str, id: str) -> Any: ...
def get(target: type[Object] | str, id: str) -> Any:
    """A reference to the object ``id`` of a class, or of the type with that name.

    By class it is typed as the class; by name it takes keyword arguments and gives plain values.
    Raises ValueError for what cannot be an id. Making a reference does not make the object.
    """
    return Reference(interface_of(target), id)


def options(ref: R, *, timeout_s: float | None = None, call_id: str | None = None) -> R:
    """The same reference with other options.

    :param timeout_s: seconds for each call.
    :param call_id: makes the call reliable: however often it is repeated under this id, it takes
        effect once, and gives the same outcome. An id is for one call alone, and the caller's to
        keep for as long as it may want to repeat it. Raises ValueError.
    """
    return cast(R, with_options(cast(Reference, ref), timeout_s=timeout_s, call_id=call_id))


async def create(ref: Object, *, timeout_s: float | None = None) -> None:
    """Activate the object now. Raises Conflict if it is active already."""
    await change_existence(cast(Reference, ref), Verb.CREATE, timeout_s)


async def delete(ref: Object, *, timeout_s: float | None = None) -> None:
    """End the object and forget its state, after the turns before it; also if it is not active."""
    await change_existence(cast(Reference, ref), Verb.DELETE, timeout_s)
