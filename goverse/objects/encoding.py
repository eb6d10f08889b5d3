"""Bytes in, values out, and back: the encoders, their hooks, and faults told with a path.

msgpack and JSON go through msgspec. What either cannot carry faithfully (integers beyond 64
bits, NaN in JSON, keys that are not strings in JSON) is refused, naming where in the value it
is, because a receiver would otherwise read something else than was sent.
"""

from __future__ import annotations

import dataclasses
import datetime
import decimal
import enum
import math
import re
import uuid
from collections.abc import Iterator, Mapping
from typing import Any

import msgspec

from goverse.call import ANY, MSGPACK, Codec
from goverse.objects import foreign

_JSON_KEYS = (str, uuid.UUID, datetime.date, datetime.time, decimal.Decimal)
_MIN_INT, _MAX_INT = -(2**63), 2**64 - 1
_PATH = re.compile(r"(.*?)(?: - at `(key in |keys in )?\$(.*)`)?\Z", re.DOTALL)
_FIELD = re.compile(r"Object (missing required|contains unknown) field `(.*)`\Z", re.DOTALL)
# What a decoder can raise for bytes that came from outside. RecursionError: nesting bombs.
DECODE_ERRORS = (
    msgspec.DecodeError,
    UnicodeDecodeError,
    RecursionError,
    OverflowError,
    foreign.ForeignFault,
)
ENCODE_ERRORS = (TypeError, ValueError, OverflowError, RecursionError)


class EncodingFault(Exception):
    """A value that the codec cannot carry. ``path`` is where it is: empty for the value itself."""

    def __init__(self, path: str, why: str) -> None:
        super().__init__(f"{path}: {why}" if path else why)
        self.path = path
        self.why = why


def _encode_hook(value: Any) -> Any:
    address = getattr(value, "__goverse_address__", None)
    if address is not None:
        type_name, id = address()
        return {"type": type_name, "id": id}
    return foreign.encode(value)


def _encode_json_hook(value: Any) -> Any:
    if hasattr(value, "__goverse_address__"):
        return _encode_hook(value)
    return foreign.encode_json(value)


def decode_hook(kind: type, value: Any) -> Any:
    """Make a value of a type that msgspec does not know: a reference, a foreign message."""
    reference = getattr(kind, "__goverse_reference__", None)
    if reference is not None:
        return reference(value)
    return foreign.decode(kind, value)


_msgpack = msgspec.msgpack.Encoder(enc_hook=_encode_hook)
_json = msgspec.json.Encoder(enc_hook=_encode_json_hook)
_canonical = msgspec.msgpack.Encoder(enc_hook=_encode_hook, order="deterministic")
_plain_msgpack = msgspec.msgpack.Decoder()

_VALUE_URL = b"type.googleapis.com/google.protobuf.Value"
NONE = {
    Codec.MSGPACK: b"\xc0",
    Codec.JSON: b"null",
    # An Any with a Value that is null, written out so that protobuf need not be loaded.
    Codec.ANY: b"\x0a%c%b\x12\x02\x08\x00" % (len(_VALUE_URL), _VALUE_URL),
}
NO_ARGUMENTS = {Codec.MSGPACK: b"\x80", Codec.JSON: b"{}", Codec.ANY: b""}


def encode(value: Any, codec: Codec = Codec.MSGPACK, *, checked: bool = False) -> bytes:
    """Encode ``value``. Raises `EncodingFault` naming the path of what cannot be carried.

    :param checked: the value's type rules out what JSON encodes unfaithfully without a word.
    """
    if codec is ANY:
        from goverse.objects import any_codec  # loads protobuf, which few processes need

        return any_codec.encode(value)
    try:
        if codec is MSGPACK:
            return _msgpack.encode(value)
        if not checked:
            _refuse(find_fault(value, json=True))
        return _json.encode(value)
    except ENCODE_ERRORS as error:
        fault = find_fault(value, json=codec is Codec.JSON)
        raise fault or EncodingFault("", str(error)) from None


def json_builtins(value: Any) -> Any:
    """``value`` as what its JSON would be read as. Raises what encoders raise."""
    return msgspec.to_builtins(value, str_keys=True, enc_hook=_encode_json_hook)


def encode_canonical(value: Any) -> bytes:
    """The same bytes for equal values, whatever the order of their dicts and sets. Raises
    `EncodingFault`."""
    try:
        return _canonical.encode(value)
    except ENCODE_ERRORS as error:
        raise find_fault(value, json=False) or EncodingFault("", str(error)) from None


def decode_plain(payload: bytes) -> Any:
    """Decode msgpack into builtins. Raises msgspec.DecodeError."""
    return _plain_msgpack.decode(payload)


def refuse_big_integers(value: Any) -> None:
    """Raise `EncodingFault` for integers beyond 64 bits, which only JSON can bring in."""
    _refuse(find_fault(value, json=False))


class WholeFloats:
    """Decodes JSON in which an integer may be written as ``5.0``: to JSON that is the same number,
    and some languages write nothing else. Slower than a decoder: for what one refused.

    :param decimals: ``kind`` has decimals, whose digits a float would lose.
    """

    def __init__(self, kind: Any, *, decimals: bool) -> None:
        self._kind = kind
        hook = _decimal if decimals else None
        self._plain = msgspec.json.Decoder(float_hook=hook)

    def decode(self, payload: bytes) -> Any:
        """Raises `DECODE_ERRORS`."""
        plain = _whole(self._plain.decode(payload))
        return msgspec.convert(
            plain, self._kind, dec_hook=decode_hook, builtin_types=(), str_keys=True
        )

    @staticmethod
    def may_help(error: Exception) -> bool:
        """Whether a decoder refused a payload, with ``error``, that `decode` could take."""
        return "got `float`" in str(error)


def _decimal(digits: str) -> decimal.Decimal:
    try:
        return decimal.Decimal(digits)
    except decimal.InvalidOperation:
        raise msgspec.ValidationError("a number beyond what a decimal can hold") from None


def _whole(value: Any) -> Any:
    if isinstance(value, float | decimal.Decimal):
        # Beyond that, floats do not tell neighbours apart.
        near = -(2**53) <= value <= 2**53
        return int(value) if near and value == int(value) else value
    if isinstance(value, list):
        return [_whole(part) for part in value]
    if isinstance(value, dict):
        return {key: _whole(part) for key, part in value.items()}
    return value


def explain(error: Exception) -> tuple[str, str]:
    """A decoder's error as (path, sentence); the path is plain: ``items[0].amount``."""
    if isinstance(error, RecursionError):
        return "", "nested too deeply"
    if isinstance(error, foreign.ForeignFault):
        return error.path, error.why
    cause, text = error.__cause__, str(error)
    if isinstance(cause, foreign.ForeignFault):
        # Their text may hold anything; only what msgspec appended to it is a path of ours.
        outer, _ = explain(msgspec.ValidationError(text[len(str(cause)) :]))
        step = cause.path if cause.path[:1] in ("", "[") else f".{cause.path}"
        return _join(outer, step), cause.why
    match = _PATH.match(text)
    if match is None:  # cannot happen: every part of the pattern is optional
        return "", text
    text, key, path = match.group(1), match.group(2), (match.group(3) or "").lstrip(".")
    field = _FIELD.match(text)
    if field is not None:
        kind = "missing" if field.group(1) == "missing required" else "unknown"
        path = f"{path}.{field.group(2)}" if path else field.group(2)
        return path, f"{kind} field" if "." in path else f"{kind} argument"
    text = text.replace("`", "")
    text = text[:1].lower() + text[1:] if not text.startswith("JSON") else text
    return path, f"a key: {text}" if key else text


def find_fault(value: Any, *, json: bool, path: str = "", depth: int = 0) -> EncodingFault | None:
    """The first part of ``value`` that cannot be carried, or None.

    Walks in Python: used for JSON, whose encoder is silent about unfaithful numbers and keys,
    and to find the place once an encoder has refused a value.
    """
    if value is None or isinstance(value, bool | bytes | bytearray):
        return None
    if isinstance(value, enum.Enum):
        return find_fault(value.value, json=json, path=path, depth=depth)
    if isinstance(value, int):
        if _MIN_INT <= value <= _MAX_INT:
            return None
        return EncodingFault(path, "integer beyond 64 bits")
    if isinstance(value, float):
        if not json or math.isfinite(value):
            return None
        return EncodingFault(path, f"JSON has no {value}")
    if isinstance(value, str):
        return None if _is_text(value) else EncodingFault(path, "text with a lone surrogate")
    if depth > 200:
        return EncodingFault(path, "nested too deeply")
    if isinstance(value, Mapping) and json:
        for key in value:
            if not isinstance(key.value if isinstance(key, enum.Enum) else key, _JSON_KEYS):
                why = f"the key {key!r:.40} is not a string, and JSON has no other keys"
                return EncodingFault(path, why)
    entered = False
    for step, child in _children(value):
        entered = True
        fault = find_fault(child, json=json, path=_join(path, step), depth=depth + 1)
        if fault is not None:
            return fault
    return None if entered else _leaf_fault(value, json=json, path=path)


def _children(value: Any) -> Iterator[tuple[str, Any]]:
    if isinstance(value, Mapping):
        for key, child in value.items():
            # Keys are looked at too: an integer key can be too large.
            yield "[key]", key
            yield (f".{key}" if isinstance(key, str) else f"[{key!r:.40}]"), child
    elif isinstance(value, msgspec.Struct):
        for name in value.__struct_fields__:
            yield f".{name}", getattr(value, name)
    elif dataclasses.is_dataclass(value) and not isinstance(value, type):
        for field in dataclasses.fields(value):
            yield f".{field.name}", getattr(value, field.name)
    elif isinstance(value, list | tuple | set | frozenset):
        for index, child in enumerate(value):
            yield f"[{index}]", child
    else:
        inner = foreign.parts(value)
        if inner is not None:
            yield "", inner


def _leaf_fault(value: Any, *, json: bool, path: str) -> EncodingFault | None:
    try:
        (_json if json else _msgpack).encode(value)
    except ENCODE_ERRORS as error:
        if isinstance(error, TypeError):
            return EncodingFault(path, f"type {type(value).__qualname__} cannot be encoded")
        return EncodingFault(path, str(error))
    return None


def _is_text(value: str) -> bool:
    if value.isascii():
        return True
    try:
        value.encode()
    except UnicodeEncodeError:
        return False
    return True


def _join(path: str, step: str) -> str:
    return path + step if path else step.lstrip(".")


def _refuse(fault: EncodingFault | None) -> None:
    if fault is not None:
        raise fault
