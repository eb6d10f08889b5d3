"""Messages to clients: what can be one, and ``goverse.push``.

A message must have a JSON form, since web pages get it as JSON whatever else is connected. A
protobuf message travels in its own encoding too.
"""

from __future__ import annotations

import re
import types
from collections.abc import Callable, Iterable
from typing import Any, Protocol, TypeVar, dataclass_transform, overload

import msgspec

from goverse.call import Codec
from goverse.errors import FailedPrecondition, InvalidArgument, TooLarge
from goverse.objects import encoding, foreign
from goverse.objects.context import CURRENT
from goverse.transport.pushes import Push

T = TypeVar("T")

_NAME = "__goverse_message__"
_BREAK = re.compile(rb"[\r\n]")

MAX_CLIENTS = 100_000
"""Clients that one push may name."""

MAX_NAME_CHARS = 256


class PushSink(Protocol):
    """Takes the pushes of a turn that has succeeded, in order, and never waits."""

    def send(self, pushes: list[Push]) -> None: ...


@overload
def message(cls: type[T], /) -> type[T]: ...
@overload
def message(*, name: str = "") -> Callable[[type[T]], type[T]]: ...
@dataclass_transform(frozen_default=True, field_specifiers=(msgspec.field,))
def message(cls: type[Any] | None = None, /, *, name: str = "") -> Any:
    """Make a class of annotated fields a message that can be pushed to clients.

    ::

        @goverse.message
        class ChatMessage:
            author: str
            text: str

    The class becomes a frozen msgspec struct; a class that is one already stays what it is.

    :param name: what clients know it by; the class's name unless told otherwise.
    """

    def decorate(cls: type[Any]) -> type[Any]:
        if not isinstance(cls, type):
            raise TypeError(f"@goverse.message is for classes, not for {cls!r:.60}")
        chosen = name or cls.__name__
        if len(chosen) > MAX_NAME_CHARS or not chosen.isprintable():
            raise TypeError(f"{cls.__qualname__}: {chosen[:40]!r} cannot name a message")
        made = cls if issubclass(cls, msgspec.Struct) else _struct(cls)
        setattr(made, _NAME, chosen)
        return made

    return decorate if cls is None else decorate(cls)


def _struct(cls: type[Any]) -> type[Any]:
    if cls.__bases__ != (object,):
        raise TypeError(f"{cls.__qualname__}: a message class has no base class but msgspec.Struct")
    body = {
        name: value for name, value in vars(cls).items() if name not in ("__dict__", "__weakref__")
    }
    try:
        return types.new_class(
            cls.__name__, (msgspec.Struct,), {"frozen": True}, lambda made: made.update(body)
        )
    except TypeError as error:
        raise TypeError(f"{cls.__qualname__} cannot be a message: {error}") from None


def message_name(kind: type) -> str:
    """What clients know messages of this class by. Raises TypeError for what is no message."""
    found = vars(kind).get(_NAME) if isinstance(kind, type) else None
    if isinstance(found, str):
        return found
    if isinstance(kind, type) and foreign.is_protobuf(kind):
        full_name: str = kind.DESCRIPTOR.full_name  # type: ignore[attr-defined]
        return full_name
    shown = getattr(kind, "__qualname__", repr(kind)[:60])
    raise TypeError(
        f"{shown} is no message: decorate its class with @goverse.message, or use a message of "
        "protobuf"
    )


def decoder_of(kind: type[T]) -> Callable[[Codec, bytes], T]:
    """Makes messages of a class from what a session delivers.

    The function raises ValueError for bytes that are none.
    """
    if foreign.is_protobuf(kind):

        def protobuf(codec: Codec, data: bytes) -> T:
            made: T
            if codec is Codec.ANY:
                made = foreign.unpack_any(kind, data)
            else:
                made = foreign.decode(kind, msgspec.json.decode(data))
            return made

        return protobuf
    decoder = msgspec.json.Decoder(kind, dec_hook=encoding.decode_hook)

    def struct(codec: Codec, data: bytes) -> T:
        try:
            return decoder.decode(data)
        except encoding.DECODE_ERRORS as error:
            path, why = encoding.explain(error)
            raise ValueError(f"{path}: {why}" if path else why) from None

    return struct


def push(clients: str | Iterable[str], message: object) -> None:
    """Send a message to one client, or to many, when this turn has succeeded.

    Best effort: a client that has left, or takes less than is pushed, does not get it, which is
    counted (`goverse_pushes`) and not told. A turn that fails pushes nothing. One object's
    messages reach one client in the order in which they were pushed.

    :param clients: ids, as `goverse.context().client_id` gives them.

    Raises RuntimeError outside of an object's turn, TypeError for what is no message,
    `InvalidArgument` for what JSON cannot carry, `TooLarge`.
    """
    ids = (clients,) if isinstance(clients, str) else tuple(dict.fromkeys(clients))
    for id in ids:
        if not isinstance(id, str):
            raise TypeError(f"a client id is a string, not {id!r:.60}")
    if len(ids) > MAX_CLIENTS:
        raise TooLarge(f"{len(ids)} clients at once, the limit is {MAX_CLIENTS}")
    _push(ids, message, "push")


def broadcast(message: object) -> None:
    """Send a message to every client of every gate, as `push` does."""
    _push(None, message, "broadcast")


def _push(clients: tuple[str, ...] | None, message: object, verb: str) -> None:
    frame = CURRENT.get()
    if frame is None:
        raise RuntimeError(f"goverse.{verb}() works inside an object's method only")
    name = message_name(type(message))
    try:
        json = encoding.encode(message, Codec.JSON)
    except encoding.EncodingFault as fault:
        where = f"{name}.{fault.path}" if fault.path else name
        raise InvalidArgument(f"the message {where} cannot be pushed: {fault.why}") from None
    json = _in_one_line(name, json)
    any = foreign.pack_any(message) if foreign.is_protobuf(type(message)) else b""
    made = Push(name, json, any, clients)
    if clients is None or clients:
        frame.push(made)


def _in_one_line(name: str, json: bytes) -> bytes:
    """Line breaks end an event of an event stream, and text must be text. What is neither can
    only come out of a msgspec.Raw."""
    try:
        if not json.isascii():
            json.decode()
        return msgspec.json.format(json, indent=-1) if _BREAK.search(json) else json
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise InvalidArgument(f"the message {name} is not JSON: {error}") from None


def refuse_outside_of_turns(push: Push) -> None:
    """For frames that are no turn: there is no success that the push could wait for."""
    raise FailedPrecondition(
        f"the push of {push.type} is made in a background task; a push leaves with the success of "
        "a turn: push from a method, or from a timer's action"
    )
