"""References: the address of an object, on which its methods can be called.

A reference is a proxy: it exposes the decorated methods of its class and nothing else. Without
the class, by type name alone, it takes keyword arguments and gives plain values. Whoever has a
CallTarget can make references; inside an object's method the running turn is the target.
"""

from __future__ import annotations

import asyncio
import inspect
from collections.abc import Callable, Coroutine, Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any, NamedTuple, Protocol
from weakref import WeakKeyDictionary

import msgspec

from goverse.call import Call, CallTarget, Codec, Verb
from goverse.errors import Executed, Internal, InvalidArgument
from goverse.ids import check_id, check_type
from goverse.objects import encoding
from goverse.objects.context import CURRENT, CallDefaults
from goverse.objects.signature import Signature
from goverse.objects.timing import Schedule, When
from goverse.storage.checks import check_call_id


class MethodInterface(Protocol):
    """What a reference needs to know of a method."""

    @property
    def signature(self) -> Signature: ...

    @property
    def timeout_s(self) -> float | None: ...


class Interface(Protocol):
    """What a reference needs to know of a class."""

    @property
    def name(self) -> str: ...

    @property
    def cls(self) -> type: ...

    @property
    def methods(self) -> Mapping[str, MethodInterface]:
        """By name; all that there are once one was found by `method`."""
        ...

    def method(self, name: str) -> MethodInterface | None: ...

    def explain_missing(self, name: str) -> str:
        """Why there is no method ``name`` to call."""
        ...


def _now() -> float:
    return asyncio.get_running_loop().time()


class Binding(NamedTuple):
    """Who carries the calls of a reference made outside of objects.

    :param now: the time of the loop that they are made in, for deadlines.
    """

    invoker: CallTarget
    defaults: CallDefaults
    now: Callable[[], float] = _now


# The binding of references found in a result while it is decoded: a client's own references
# call through the client, too.
_decoding: ContextVar[Binding | None] = ContextVar("goverse_decoding", default=None)


class Reference:
    """The address of one object. Equal if type and id are.

    ``isinstance(reference, Counter)`` holds, as its typing says; ``type(reference)`` is this, or a
    subclass that has the methods of one object class.
    """

    __slots__ = ("_binding", "_call_id", "_id", "_interface", "_kind", "_timeout_s", "_type")

    def __new__(cls, interface: Interface | str, *args: Any, **kwargs: Any) -> Reference:
        if cls is not Reference or isinstance(interface, str):
            return object.__new__(cls)
        return object.__new__(_known.get(interface) or _know(interface))

    def __init__(
        self,
        interface: Interface | str,
        id: str,
        binding: Binding | None = None,
        timeout_s: float | None = None,
        kind: type | None = None,
        call_id: str = "",
    ) -> None:
        if isinstance(interface, str):
            object.__setattr__(self, "_interface", None)
            object.__setattr__(self, "_type", check_type(interface))
            object.__setattr__(self, "_kind", kind or Reference)
        else:
            object.__setattr__(self, "_interface", interface)
            object.__setattr__(self, "_type", interface.name)
            object.__setattr__(self, "_kind", interface.cls)
        object.__setattr__(self, "_id", check_id(id))
        object.__setattr__(self, "_binding", binding or _decoding.get())
        object.__setattr__(self, "_timeout_s", timeout_s)
        object.__setattr__(self, "_call_id", call_id)

    _interface: Interface | None
    _type: str
    _id: str
    _binding: Binding | None
    _timeout_s: float | None
    _call_id: str
    _kind: type

    @property  # type: ignore[misc]
    def __class__(self) -> type:
        return self._kind

    @property
    def id(self) -> str:
        """The object's id."""
        return self._id

    def __getattr__(self, name: str) -> BoundMethod:
        if name.startswith("_"):
            raise AttributeError(f"{self!r} has no attribute {name!r}: methods are public names")
        method = None
        if self._interface is not None:
            method = self._interface.method(name)
            if method is None:
                raise AttributeError(self._interface.explain_missing(name))
        return BoundMethod(self, name, method)

    def __setattr__(self, name: str, value: Any) -> None:
        raise AttributeError(
            f"{self!r} is the address of an object: its state changes through its methods only"
        )

    def __goverse_address__(self) -> tuple[str, str]:
        return self._type, self._id

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Reference):
            return NotImplemented
        return self._type == other._type and self._id == other._id

    def __hash__(self) -> int:
        return hash((self._type, self._id))

    def __repr__(self) -> str:
        return f"<goverse {self._type}/{self._id}>"

    def __copy__(self) -> Reference:
        return self  # immutable

    def __deepcopy__(self, memo: dict[int, Any]) -> Reference:
        return self

    def __reduce__(self) -> Any:
        raise TypeError(f"{self!r} cannot be pickled; pass its type and id")


class BoundMethod(msgspec.Struct, eq=False, gc=False):
    """One method of one reference, ready to be called."""

    _reference: Reference
    _name: str
    _method: MethodInterface | None

    def __call__(self, *args: Any, **kwargs: Any) -> Coroutine[Any, Any, Any]:
        """Encode the arguments now; the coroutine makes the call when awaited."""
        reference, name, method = self._reference, self._name, self._method
        if method is not None:
            payload = method.signature.encode_arguments(args, kwargs)
        else:
            payload = _encode_named(reference, name, args, kwargs)
        return _call(reference, name, payload, method)

    def __repr__(self) -> str:
        return f"<goverse {self._reference._type}/{self._reference._id}.{self._name}>"


class _Method:
    """A method as an attribute of references: a name that is found at once. Otherwise Python looks
    in vain, makes an AttributeError, and only then asks `Reference.__getattr__`."""

    __slots__ = ("_method", "_name")

    def __init__(self, name: str, method: MethodInterface) -> None:
        self._name = name
        self._method = method

    def __get__(self, reference: Reference, owner: type) -> BoundMethod:
        return BoundMethod(reference, self._name, self._method)


#: The subclass of `Reference` for each object class.
_known: WeakKeyDictionary[Interface, type[Reference]] = WeakKeyDictionary()


def _know(interface: Interface) -> type[Reference]:
    names = {name: interface.method(name) for name in tuple(interface.methods)}
    methods = {name: _Method(name, found) for name, found in names.items() if found is not None}
    kind = _known[interface] = type("Reference", (Reference,), {"__slots__": (), **methods})
    return kind


def reference(
    interface: Interface | str, id: str, invoker: CallTarget, defaults: CallDefaults
) -> Reference:
    """A reference whose calls go to ``invoker``: for clients. Raises ValueError for a bad id."""
    return Reference(interface, id, Binding(invoker, defaults))


def with_options(target: Reference, *, timeout_s: float | None, call_id: str | None) -> Reference:
    """The same address with other options for its calls. Raises ValueError, TypeError."""
    if not isinstance(target, Reference):
        raise TypeError(f"options apply to a reference made by get(), not to {target!r:.60}")
    if call_id is not None:
        check_call_id(call_id)
        if call_id.startswith("~"):
            raise ValueError(f"call id {call_id[:64]!r}: ids that begin with ~ are the system's")
    if timeout_s is not None and not timeout_s > 0:
        raise ValueError(f"timeout_s must be above 0, not {timeout_s}")
    return Reference(
        target._interface or target._type,
        target._id,
        target._binding,
        kind=target._kind,
        timeout_s=timeout_s if timeout_s is not None else target._timeout_s,
        call_id=call_id if call_id is not None else target._call_id,
    )


async def change_existence(target: Reference, verb: Verb, timeout_s: float | None) -> None:
    """Create or delete the object explicitly."""
    if not isinstance(target, Reference):
        raise TypeError(f"expected a reference made by get(), not {target!r:.60}")
    invoker, defaults, now = _target(target, f"to {verb.name.lower()} it")
    if timeout_s is None:
        timeout_s = target._timeout_s or (
            defaults.create_timeout_s if verb is Verb.CREATE else defaults.delete_timeout_s
        )
    await invoker.invoke(Call(target._type, target._id, "", b"", now() + timeout_s, verb=verb))


async def schedule(call: Coroutine[Any, Any, Any], when: When, new_id: Callable[[], str]) -> str:
    """Have ``call``, of a reference of a client, accepted to be run later; the id that it has.

    :param new_id: of a call whose reference has none.
    """
    taken = take_unstarted(call)
    target = taken.reference
    invoker, defaults, now = _target(target, "to make a delayed call")
    call_id = target._call_id or new_id()
    arguments = taken.payload or encoding.NO_ARGUMENTS[Codec.MSGPACK]
    await invoker.invoke(
        Call(
            target._type,
            target._id,
            taken.method,
            msgspec.msgpack.encode(Schedule(arguments, when)),
            now() + (target._timeout_s or defaults.call_timeout_s),
            verb=Verb.SCHEDULE,
            call_id=call_id,
        )
    )
    return call_id


async def cancel(target: Reference, call_id: str, timeout_s: float | None) -> str:
    """Have a call of the object of ``target``, a reference of a client, not run any more; the
    status that it has then."""
    if not isinstance(target, Reference):
        raise TypeError(f"expected a reference made by get(), not {target!r:.60}")
    check_call_id(call_id)
    invoker, defaults, now = _target(target, "to cancel a call of it")
    deadline = now() + (timeout_s or target._timeout_s or defaults.call_timeout_s)
    call = Call(target._type, target._id, "", b"", deadline, verb=Verb.CANCEL, call_id=call_id)
    status: str = msgspec.msgpack.decode((await invoker.invoke(call)).payload)[0]
    return status


async def _call(
    target: Reference, name: str, payload: bytes, method: MethodInterface | None
) -> Any:
    binding = target._binding
    invoker, defaults, now = binding or _target(target, "to call it")
    timeout_s = target._timeout_s
    if timeout_s is None:
        timeout_s = method.timeout_s if method is not None else None
        if timeout_s is None:
            timeout_s = defaults.call_timeout_s
    deadline = now() + timeout_s
    call = Call(target._type, target._id, name, payload, deadline, call_id=target._call_id)
    reply = await invoker.invoke(call)
    if method is None:
        return _decode_untyped(target, name, reply.payload)
    signature = method.signature
    if signature.result_has_references and binding is not None:
        with _bound(binding):
            return signature.decode_result(reply.payload)
    return signature.decode_result(reply.payload)


class Unstarted(NamedTuple):
    """A call that was made and not awaited."""

    reference: Reference
    method: str
    payload: bytes


def take_unstarted(call: object) -> Unstarted:
    """What ``call``, the coroutine that a reference's method gives, would do; it is closed.

    Raises TypeError for anything else.
    """
    if not (inspect.iscoroutine(call) and call.cr_code is _call.__code__):
        raise TypeError(
            f"expected a call of a reference's method, such as other.deposit(amount=5), not "
            f"{call!r:.80}"
        )
    if inspect.getcoroutinestate(call) != inspect.CORO_CREATED:
        raise TypeError("that call has been awaited already")
    assert call.cr_frame is not None
    arguments = call.cr_frame.f_locals  # a coroutine that has not begun has its arguments alone
    taken = Unstarted(arguments["target"], arguments["name"], arguments["payload"])
    call.close()
    return taken


def _target(target: Reference, purpose: str) -> Binding:
    if target._binding is not None:
        return target._binding
    frame = CURRENT.get()
    if frame is None:
        raise RuntimeError(
            f"{target!r} is only an address here: {purpose} outside of an object's method, get "
            "it from a client (goverse.client.connect(...), then client.get(...))"
        )
    return Binding(frame, frame.defaults)


@contextmanager
def _bound(binding: Binding) -> Iterator[None]:
    token = _decoding.set(binding)
    try:
        yield
    finally:
        _decoding.reset(token)


def _encode_named(
    target: Reference, name: str, args: tuple[Any, ...], kwargs: dict[str, Any]
) -> bytes:
    if args:
        raise TypeError(
            f"{target._type}.{name}: {target!r} was made by type name, so the order of arguments "
            "is not known here; pass them by keyword"
        )
    if not kwargs:
        return b""
    try:
        return encoding.encode(kwargs)
    except encoding.EncodingFault as fault:
        raise InvalidArgument(
            f"{target._type}.{name}: {fault}", details={"path": fault.path}
        ) from None


def _decode_untyped(target: Reference, name: str, payload: bytes) -> Any:
    try:
        return encoding.decode_plain(payload)
    except encoding.DECODE_ERRORS as error:
        raise Internal(
            f"{target._type}.{name} answered what is not msgpack: {error}", executed=Executed.YES
        ) from None
