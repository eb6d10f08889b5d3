"""Declared state as the store keeps it, and how it comes back to a class that has changed since.

::

    [[names of the fields], [their values]]         and beside it ``state_version`` of the class

Values are those of `StateCodec`, in its order, so that packing is one concatenation. Rules for a
class that changes between versions:

* A new field takes its default. A field that the class does not have any more, or not yet (the
  state was written by a newer process during a rolling upgrade), is kept and written back as it
  was.
* What a field means, or its type, may change only together with the class option
  ``state_version``; then `Object.upgrade_state` turns the older state into the newer.
* A state of a later ``state_version`` is not touched: `NewerState`.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import msgspec

from goverse.objects import encoding
from goverse.objects.state import StateCodec
from goverse.storage.values import State

Upgrade = Callable[[int, dict[str, Any]], dict[str, Any]]

#: The values of a class that declares none.
_NO_FIELDS = b"\x90"

_stored = msgspec.msgpack.Decoder(tuple[tuple[str, ...], msgspec.Raw])
_values = msgspec.msgpack.Decoder(list[msgspec.Raw])


class StateFault(Exception):
    """What the store has cannot be made into the declared state of the class; says why."""


class NewerState(StateFault):
    """The state was written by a newer version of the class than this process has."""


class StoredForm:
    """Packs and unpacks the declared state of one class.

    :param version: class option ``state_version``.
    :param upgrade: see `Object.upgrade_state`.
    """

    def __init__(self, codec: StateCodec, version: int, upgrade: Upgrade) -> None:
        self._codec = codec
        self._version = version
        self._upgrade = upgrade
        self._names = tuple(codec.fields)
        self._head = _head(self._names)

    def pack(self, encoded: bytes, kept: Kept | None) -> State:
        """:param encoded: by `StateCodec.encode`. :param kept: what `unpack` returned."""
        encoded = encoded or _NO_FIELDS
        if kept is None:
            return State(self._head + encoded, self._version)
        values = [bytes(raw) for raw in _values.decode(encoded)]
        head = _head(self._names + kept.names)
        return State(head + _array(values + kept.values), self._version)

    def unpack(self, stored: State, instance: Any) -> Kept | None:
        """Put the stored fields into ``instance``; what must be packed again with the next state.

        Raises `StateFault`, naming the field where there is one.
        """
        version = stored.schema
        if version > self._version:
            raise NewerState(
                f"its state has version {version}, this process knows up to {self._version}"
            )
        try:
            names, raw = _stored.decode(stored.data)
            if version == self._version and names == self._names:
                self._codec.restore(instance, bytes(raw))
                return None
            if version < self._version:
                return self._restore_upgraded(version, names, bytes(raw), instance)
            return self._restore_by_name(names, bytes(raw), instance)
        except (*encoding.DECODE_ERRORS, ValueError) as error:
            path, why = encoding.explain(error)
            raise StateFault(f"the stored state does not fit: {self._named(path)}{why}") from None

    def _named(self, path: str) -> str:
        """A decoder's ``[1].x`` as ``amount.x: ``."""
        index, bracket, rest = path.partition("]")
        if not bracket or not index[1:].isdigit() or int(index[1:]) >= len(self._names):
            return ""
        return f"{self._names[int(index[1:])]}{rest}: "

    def _restore_by_name(self, names: tuple[str, ...], raw: bytes, instance: Any) -> Kept | None:
        found = dict(zip(names, (bytes(value) for value in _values.decode(raw)), strict=True))
        own = self._codec.encode(instance) or _NO_FIELDS  # defaults, for what is not stored
        values = [
            found.pop(name, bytes(default))
            for name, default in zip(self._names, _values.decode(own), strict=True)
        ]
        self._codec.restore(instance, _array(values))
        return Kept(tuple(found), list(found.values())) if found else None

    def _restore_upgraded(
        self, version: int, names: tuple[str, ...], raw: bytes, instance: Any
    ) -> Kept | None:
        old = dict(zip(names, encoding.decode_plain(raw), strict=True))
        try:
            new = self._upgrade(version, old)
            if not isinstance(new, dict):
                raise TypeError(f"returned {type(new).__qualname__}, not a dict")
            values = [encoding.encode(value) for value in new.values()]
        except Exception as error:
            raise StateFault(
                f"upgrade_state({version}, ...) failed: {type(error).__qualname__}: {error}"
            ) from error
        unknown = [name for name in new if name not in self._names]
        if unknown:
            raise StateFault(
                f"upgrade_state({version}, ...) returned {unknown[0]!r}, which is not declared"
            )
        return self._restore_by_name(tuple(new), _array(values), instance)


class Kept(msgspec.Struct, frozen=True):
    """Stored fields that the class does not declare."""

    names: tuple[str, ...]
    values: list[bytes]


def _head(names: tuple[str, ...]) -> bytes:
    return b"\x92" + encoding.encode(names)


def _array(values: list[bytes]) -> bytes:
    """A msgpack array of values that are encoded already."""
    count = len(values)
    if count < 16:
        head = bytes([0x90 | count])
    elif count < 2**16:
        head = b"\xdc" + count.to_bytes(2, "big")
    else:
        head = b"\xdd" + count.to_bytes(4, "big")
    return head + b"".join(values)
