"""JSON schemas (2020-12) of what methods take and give, as strict as the decoder is.

msgspec writes schemas itself, but leaves out what its decoder and ours refuse: integers beyond 64
bits, text that is no base64, no date, no number. Programs that make calls out of a schema (and
tests that do) need to know, so the schemas are made here, out of msgspec's own view of a type.

A schema is complete in itself: classes stand under ``$defs`` and are referred to as
``#/$defs/Name``.
"""

from __future__ import annotations

import enum
from collections.abc import Callable
from typing import Any

import msgspec
from msgspec import inspect as types

from goverse.call import Codec
from goverse.ids import MAX_ID_BYTES, MAX_TYPE_CHARS
from goverse.objects import encoding, foreign, proto_schemas

Schema = dict[str, Any]

MIN_INT, MAX_INT = -(2**63), 2**64 - 1

_BASE64 = "^(?:[A-Za-z0-9+/]{4})*(?:[A-Za-z0-9+/]{2}==|[A-Za-z0-9+/]{3}=)?$"
_DECIMAL = "^-?[0-9]{1,28}(?:[.][0-9]{1,28})?$"
_DURATION = (
    "^[+-]?P(?:[0-9]{1,6}D(?:T(?:[0-9]{1,6}H)?(?:[0-9]{1,6}M)?[0-9]{1,6}(?:[.][0-9]{1,6})?S)?"
    "|T(?:[0-9]{1,6}H)?(?:[0-9]{1,6}M)?[0-9]{1,6}(?:[.][0-9]{1,6})?S)$"
)
_ANY_DURATION = "^[+-]?P(?:[0-9]+D)?(?:T(?:[0-9]+H)?(?:[0-9]+M)?(?:[0-9.]+S)?)?$"
_NAIVE_TIME = "[0-9]{2}:[0-9]{2}:[0-9]{2}(?:[.][0-9]{1,6})?"
_INTEGER_KEY = "^(?:0|-?[1-9][0-9]{0,17})$"
#: What an id may hold: see `goverse.ids.check_id`. The prefix of placed objects is for others.
ID: Schema = {
    "type": "string",
    "minLength": 1,
    "maxLength": MAX_ID_BYTES,
    "pattern": "^(?!shard#|node#)[^\\u0000-\\u001f\\u007f-\\u009f]+$"
    "|^shard#(?:0|[1-9][0-9]{0,3})/[^\\u0000-\\u001f\\u007f-\\u009f]+$"
    "|^node#[^\\u0000-\\u001f\\u007f-\\u009f/]+/[^\\u0000-\\u001f\\u007f-\\u009f]+$",
}

#: A Python identifier; those with other letters exist too.
_TYPE: Schema = {
    "type": "string",
    "maxLength": MAX_TYPE_CHARS,
    "pattern": "^[A-Za-z_][A-Za-z0-9_]*$",
}

_SIMPLE: dict[type[types.Type], Schema] = {
    # Integers beyond 64 bits are refused: that cannot be said without refusing such floats too.
    types.AnyType: {},
    types.RawType: {},
    types.NoneType: {"type": "null"},
    types.BoolType: {"type": "boolean"},
    types.BytesType: {"type": "string", "contentEncoding": "base64", "pattern": _BASE64},
    types.ByteArrayType: {"type": "string", "contentEncoding": "base64", "pattern": _BASE64},
    types.MemoryViewType: {"type": "string", "contentEncoding": "base64", "pattern": _BASE64},
    types.DateType: {"type": "string", "format": "date"},
    types.UUIDType: {"type": "string", "format": "uuid"},
}


def arguments_schema(struct: type[msgspec.Struct]) -> Schema:
    """Of a JSON object of arguments by name; ``struct`` is the method's `Signature.struct`."""
    writer = _Writer(result=False)
    info = types.type_info(struct)
    assert isinstance(info, types.StructType)
    return writer.whole(writer.object(info))


def result_schema(annotation: Any) -> Schema:
    """Of what a method returns."""
    writer = _Writer(result=True)
    return writer.whole(writer.of(types.type_info(annotation)))


def value_schema(annotation: Any) -> Schema:
    """Of a value that may go in and come out: a field of the declared state."""
    writer = _Writer(result=False)
    return writer.whole(writer.of(types.type_info(annotation)))


class _Writer:
    """Writes one schema. What is only ever read by clients (``result``) may be less exact: a
    value of a class that converts on its way in leaves in one form."""

    def __init__(self, *, result: bool) -> None:
        self._result = result
        self._names: dict[type, str] = {}
        self._defs: dict[str, Schema] = {}
        self._kinds: tuple[tuple[type[types.Type], Callable[[Any], Schema]], ...] = (
            (types.IntType, self._integer),
            (types.FloatType, self._float),
            (types.StrType, self._text),
            (types.DateTimeType, self._datetime),
            (types.TimeType, self._time),
            (types.TimeDeltaType, self._duration),
            (types.DecimalType, self._decimal),
            (types.EnumType, lambda kind: self._named(kind.cls, lambda: _enum(kind.cls))),
            (types.LiteralType, lambda kind: {"enum": list(kind.values)}),
            (types.Metadata, self._metadata),
            (types.UnionType, lambda kind: {"anyOf": [self.of(part) for part in kind.types]}),
            (types.TupleType, self._tuple),
            (types.DictType, self._dict),
            (types.SetType, self._list),
            (types.FrozenSetType, self._list),
            (types.ListType, self._list),
            (types.VarTupleType, self._list),
            (types.StructType, lambda kind: self._named(kind.cls, lambda: self.object(kind))),
            (types.DataclassType, lambda kind: self._named(kind.cls, lambda: self.object(kind))),
            (types.TypedDictType, lambda kind: self._named(kind.cls, lambda: self.object(kind))),
            (types.NamedTupleType, lambda kind: self._named(kind.cls, lambda: self._row(kind))),
            (types.CustomType, self._custom),
        )

    def whole(self, root: Schema) -> Schema:
        return {**root, "$defs": self._defs} if self._defs else root

    def of(self, kind: types.Type) -> Schema:
        simple = _SIMPLE.get(type(kind))
        if simple is not None:
            return _sized(dict(simple), kind, "Length")
        for known, write in self._kinds:
            if type(kind) is known:
                return write(kind)
        return {}  # an extension of msgpack: nothing that JSON has

    def object(self, kind: Any) -> Schema:
        """A struct, dataclass or typed dict."""
        if getattr(kind, "array_like", False):
            return self._row(kind)
        properties, required = {}, []
        tag = getattr(kind, "tag_field", None)
        if tag is not None:
            properties[tag] = {"const": kind.tag}
            required.append(tag)
        for field in kind.fields:
            schema = self.of(field.type)
            default = _default(field)
            if default is not msgspec.UNSET:
                schema = {**schema, "default": default}
            properties[field.encode_name] = schema
            if field.required:
                required.append(field.encode_name)
        written: Schema = {"type": "object", "properties": properties, "required": required}
        if getattr(kind, "forbid_unknown_fields", False):
            written["additionalProperties"] = False
        return written

    def _row(self, kind: Any) -> Schema:
        """What is written as an array: a named tuple, a struct that is ``array_like``."""
        items = [self.of(field.type) for field in kind.fields]
        least = sum(field.required for field in kind.fields)
        if getattr(kind, "tag_field", None) is not None:
            items, least = [{"const": kind.tag}, *items], least + 1
        row: Schema = {"type": "array", "minItems": least, "prefixItems": items}
        # Decoders of structs skip what is more, unless they forbid it.
        if not isinstance(kind, types.StructType) or kind.forbid_unknown_fields:
            row["maxItems"] = len(items)
        return row

    def _named(self, cls: type, write: Callable[[], Schema]) -> Schema:
        name = self._names.get(cls)
        if name is None:
            name = self._names[cls] = _free(_plain_name(cls), self._defs)
            self._defs[name] = {}  # known before it is written: a class can contain itself
            self._defs[name] = {"title": cls.__name__, **_doc(cls), **write()}
        return {"$ref": f"#/$defs/{name}"}

    def _integer(self, kind: types.IntType) -> Schema:
        schema = _bounds({"type": "integer"}, kind)
        if "exclusiveMinimum" not in schema:
            schema.setdefault("minimum", MIN_INT)
        if "exclusiveMaximum" not in schema:
            schema.setdefault("maximum", MAX_INT)
        return schema

    def _float(self, kind: types.FloatType) -> Schema:
        # No bounds of our own: a number a little beyond the largest float is read as that float.
        return _bounds({"type": "number", "format": "double"}, kind)

    def _text(self, kind: types.StrType) -> Schema:
        schema = _sized({"type": "string"}, kind, "Length")
        return {**schema, "pattern": kind.pattern} if kind.pattern is not None else schema

    def _datetime(self, kind: types.DateTimeType) -> Schema:
        naive = "^[0-9]{4}-[0-9]{2}-[0-9]{2}T" + _NAIVE_TIME + "$"
        return self._clock(kind.tz, {"type": "string", "format": "date-time"}, naive)

    def _time(self, kind: types.TimeType) -> Schema:
        return self._clock(kind.tz, {"type": "string", "format": "time"}, "^" + _NAIVE_TIME + "$")

    def _clock(self, zone: bool | None, aware: Schema, naive: str) -> Schema:
        """``zone``: whether a time must, must not or may say its zone; formats always do."""
        if zone is False:
            return {"type": "string", "pattern": naive}
        if zone or not self._result:
            return aware
        return {"anyOf": [aware, {"type": "string", "pattern": naive}]}

    def _duration(self, kind: types.TimeDeltaType) -> Schema:
        # The format of that name knows no fractions, and months, which nobody can convert.
        return {"type": "string", "pattern": _ANY_DURATION if self._result else _DURATION}

    def _decimal(self, kind: types.DecimalType) -> Schema:
        text = {"type": "string", "pattern": _DECIMAL}
        if self._result:
            return {"type": "string", "format": "decimal"}
        return {"anyOf": [text, {"type": "number"}]}

    def _metadata(self, kind: types.Metadata) -> Schema:
        return {**self.of(kind.type), **(kind.extra_json_schema or {})}

    def _list(self, kind: Any) -> Schema:
        return _sized({"type": "array", "items": self.of(kind.item_type)}, kind, "Items")

    def _tuple(self, kind: types.TupleType) -> Schema:
        items = [self.of(part) for part in kind.item_types]
        number = len(items)
        schema: Schema = {"type": "array", "minItems": number, "maxItems": number}
        return {**schema, "prefixItems": items} if items else schema

    def _dict(self, kind: types.DictType) -> Schema:
        schema = _sized(
            {"type": "object", "additionalProperties": self.of(kind.value_type)},
            kind,
            "Properties",
        )
        if isinstance(kind.key_type, types.IntType):
            schema["propertyNames"] = {"pattern": _INTEGER_KEY}
        elif not isinstance(kind.key_type, types.AnyType):
            names = self.of(kind.key_type)
            if names != {"type": "string"}:
                schema["propertyNames"] = names
        return schema

    def _custom(self, kind: types.CustomType) -> Schema:
        cls: Any = kind.cls
        if hasattr(cls, "__goverse_reference__"):
            return _reference(cls)
        if foreign.is_protobuf(cls):
            return proto_schemas.message_schema(cls.DESCRIPTOR, self._defs)
        mode = "serialization" if self._result else "validation"
        try:
            schema = cls.model_json_schema(mode=mode, ref_template="#/$defs/{model}")
            msgspec.json.encode(schema)
        except Exception:
            # A model can hold what has no schema, and is called all the same.
            return {"title": cls.__name__}
        return self._adopt(schema)

    def _adopt(self, schema: Schema) -> Schema:
        """Take over a schema that brings definitions of its own, under names that are free."""
        brought: dict[str, Schema] = schema.pop("$defs", {})
        renamed: dict[str, str] = {}
        for name, definition in brought.items():
            taken = self._defs.get(name)
            renamed[name] = name if taken in (None, definition) else _free(name, self._defs)
            self._defs[renamed[name]] = definition
        moved = {old: new for old, new in renamed.items() if old != new}
        if moved:
            for new in renamed.values():
                self._defs[new] = with_references(self._defs[new], "#/$defs/", moved)
            schema = with_references(schema, "#/$defs/", moved)
        return schema


def with_references(
    schema: Any, base: str, names: dict[str, str], new_base: str | None = None
) -> Any:
    """A copy whose references ``base + old`` are ``new_base + new``; other names stay."""
    if isinstance(schema, list):
        return [with_references(part, base, names, new_base) for part in schema]
    if not isinstance(schema, dict):
        return schema
    copied = {}
    for key, value in schema.items():
        if key == "$ref" and isinstance(value, str) and value.startswith(base):
            name = value[len(base) :]
            start = base if new_base is None else new_base
            copied[key] = start + names.get(name, name)
        else:
            copied[key] = with_references(value, base, names, new_base)
    return copied


def _reference(cls: Any) -> Schema:
    """An object class stands for the address of one of its objects."""
    names = sorted(_type_names(cls))
    type_schema: Schema = {"enum": names} if names else _TYPE
    return {
        "type": "object",
        "title": f"reference to {cls.__name__}",
        "properties": {"type": type_schema, "id": ID},
        "required": ["type", "id"],
        "additionalProperties": False,
    }


def _type_names(cls: Any) -> dict[str, None]:
    """Of a class and those derived from it; none for the root of all, which takes any."""
    if cls.__goverse_root__:
        return {}
    names = {cls.__goverse__.name: None}
    for child in cls.__subclasses__():
        names |= _type_names(child)
    return names


def _enum(cls: type[enum.Enum]) -> Schema:
    return {"enum": [member.value for member in cls]}


def _bounds(schema: Schema, kind: Any) -> Schema:
    for name, keyword in (
        ("gt", "exclusiveMinimum"),
        ("ge", "minimum"),
        ("lt", "exclusiveMaximum"),
        ("le", "maximum"),
        ("multiple_of", "multipleOf"),
    ):
        value = getattr(kind, name)
        if value is not None:
            schema[keyword] = value
    return schema


def _sized(schema: Schema, kind: Any, what: str) -> Schema:
    for name, keyword in (("min_length", f"min{what}"), ("max_length", f"max{what}")):
        value = getattr(kind, name, None)
        if value is not None:
            schema[keyword] = value
    return schema


def _default(field: types.Field) -> Any:
    """As JSON, or UNSET where there is none that JSON can say."""
    value = field.default
    if value is msgspec.NODEFAULT and field.default_factory is not msgspec.NODEFAULT:
        value = field.default_factory()
    if value is msgspec.NODEFAULT:
        return msgspec.UNSET
    try:
        return msgspec.json.decode(encoding.encode(value, Codec.JSON))
    except (encoding.EncodingFault, *encoding.ENCODE_ERRORS):
        return msgspec.UNSET


def _doc(cls: type) -> Schema:
    text = cls.__dict__.get("__doc__") or ""
    # A dataclass without docstring gets its signature as one.
    if not text or text.startswith(f"{cls.__name__}(") or issubclass(cls, enum.Enum):
        return {}
    return {"description": text.strip()}


def _plain_name(cls: type) -> str:
    return "".join(c if c.isalnum() or c in "._-" else "_" for c in cls.__name__)


def _free(name: str, taken: dict[str, Any]) -> str:
    number, found = 1, name
    while found in taken:
        number += 1
        found = f"{name}_{number}"
    return found
