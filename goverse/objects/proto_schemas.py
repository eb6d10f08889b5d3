"""JSON schemas of protobuf messages: their ProtoJSON, as protobuf's own parser takes it.

https://protobuf.dev/programming-guides/json/. protobuf is not imported: a descriptor is handed in
by an application that has.
"""

from __future__ import annotations

from typing import Any

Schema = dict[str, Any]

# Numbers of descriptor.proto, FieldDescriptorProto.Type.
_DOUBLE, _FLOAT = 1, 2
_SIGNED_64, _UNSIGNED_64 = (3, 16, 18), (4, 6)
_SIGNED_32, _UNSIGNED_32 = (5, 15, 17), (7, 13)
_BOOL, _STRING, _BYTES, _ENUM = 8, 9, 12, 14

_MAX_FLOAT = 3.4028234663852886e38
_REALS: dict[int, Schema] = {
    # No bounds: a number a little beyond the largest double is read as that double.
    _DOUBLE: {"type": "number", "format": "double"},
    _FLOAT: {"type": "number", "format": "float", "minimum": -_MAX_FLOAT, "maximum": _MAX_FLOAT},
}
_NULL: Schema = {"type": "null"}
_INTEGERS: dict[tuple[int, ...], tuple[str, int, int]] = {
    _SIGNED_64: ("protobuf.int64", -(2**63), 2**63 - 1),
    _UNSIGNED_64: ("protobuf.uint64", 0, 2**64 - 1),
    _SIGNED_32: ("protobuf.int32", -(2**31), 2**31 - 1),
    _UNSIGNED_32: ("protobuf.uint32", 0, 2**32 - 1),
}

_WRAPPED = {
    "DoubleValue": _DOUBLE, "FloatValue": _FLOAT, "Int64Value": 3, "UInt64Value": 4,
    "Int32Value": 5, "UInt32Value": 13,
    "BoolValue": _BOOL, "StringValue": _STRING, "BytesValue": _BYTES,
}  # fmt: skip
_WELL_KNOWN: dict[str, Schema] = {
    "Timestamp": {"type": "string", "format": "date-time"},
    "Duration": {"type": "string", "pattern": "^-?[0-9]{1,9}(?:[.][0-9]{1,9})?s$"},
    "FieldMask": {"type": "string"},
    "Struct": {"type": "object"},
    "ListValue": {"type": "array"},
    "Value": {},
    # Only types that the node's process has loaded can be in it.
    "Any": {"type": "object", "properties": {"@type": {"type": "string"}}},
}


def message_schema(descriptor: Any, defs: dict[str, Schema]) -> Schema:
    """A reference to the message's schema, which is put into ``defs`` with those it needs."""
    package, _, name = descriptor.full_name.rpartition(".")
    if package == "google.protobuf":
        if name in _WELL_KNOWN:
            return dict(_WELL_KNOWN[name])
        if name in _WRAPPED:
            return _scalar(_WRAPPED[name], defs)
    key: str = descriptor.full_name
    if key not in defs:
        defs[key] = {}  # known before it is written: a message can contain itself
        defs[key] = _object(descriptor, defs)
    return {"$ref": f"#/$defs/{key}"}


def _object(descriptor: Any, defs: dict[str, Schema]) -> Schema:
    # null stands for an absent field, of every kind.
    properties = {
        field.json_name: {"anyOf": [_field(field, defs), _NULL]} for field in descriptor.fields
    }
    schema: Schema = {
        "title": descriptor.full_name,
        "type": "object",
        "properties": properties,
        "additionalProperties": False,
    }
    required = [field.json_name for field in descriptor.fields if _is_required(field)]
    if required:
        schema["required"] = required
        for name in required:
            properties[name] = properties[name]["anyOf"][0]
    exclusive: dict[str, Schema] = {}
    for choice in descriptor.oneofs:
        names = [field.json_name for field in choice.fields]
        for name in names:
            others = {other: _NULL for other in names if other != name}
            if others:  # one alone is how `optional` is described
                exclusive[name] = {"properties": others}
    if exclusive:
        schema["dependentSchemas"] = exclusive
    return schema


def _field(field: Any, defs: dict[str, Schema]) -> Schema:
    if not _is_repeated(field):
        return _single(field, defs)
    entry = field.message_type
    if entry is not None and entry.GetOptions().map_entry:
        values = entry.fields_by_name["value"]
        schema: Schema = {"type": "object", "additionalProperties": _single(values, defs)}
        names = _key(entry.fields_by_name["key"].type)
        return {**schema, "propertyNames": names} if names else schema
    return {"type": "array", "items": _single(field, defs)}


def _is_required(field: Any) -> bool:
    """Of proto2."""
    found = getattr(field, "is_required", None)
    return bool(found if found is not None else field.label == 2)


def _is_repeated(field: Any) -> bool:
    # `label` is what older releases have and newer ones warn about.
    found = getattr(field, "is_repeated", None)
    return bool(found if found is not None else field.label == 3)


def _single(field: Any, defs: dict[str, Schema]) -> Schema:
    if field.message_type is not None:
        return message_schema(field.message_type, defs)
    if field.type == _ENUM:
        names = [value.name for value in field.enum_type.values]
        numbers = [value.number for value in field.enum_type.values]
        # An open enum takes numbers that it does not know.
        number = {"type": "integer", "minimum": -(2**31), "maximum": 2**31 - 1}
        known = {"enum": sorted(dict.fromkeys(numbers))}
        return {"anyOf": [{"enum": names}, known if field.enum_type.is_closed else number]}
    return _scalar(field.type, defs)


def _scalar(kind: int, defs: dict[str, Schema]) -> Schema:
    if kind == _BOOL:
        return {"type": "boolean"}
    if kind == _STRING:
        return {"type": "string"}
    if kind == _BYTES:
        # Either alphabet, padded or not.
        pattern = "^(?:[A-Za-z0-9+/_-]{4})*(?:[A-Za-z0-9+/_-]{2,3})?={0,2}$"
        return {"type": "string", "contentEncoding": "base64", "pattern": pattern}
    if kind in _REALS:
        return {"anyOf": [_REALS[kind], {"enum": ["NaN", "Infinity", "-Infinity"]}]}
    for kinds, (name, least, most) in _INTEGERS.items():
        if kind in kinds:
            number = {"type": "integer", "minimum": least, "maximum": most}
            text = {"type": "string", "pattern": _digits(least, most)}
            defs[name] = {"anyOf": [number, text]}
            return {"$ref": f"#/$defs/{name}"}
    return {}


def _key(kind: int) -> Schema:
    """What the keys of a map look like: always text in JSON."""
    if kind == _BOOL:
        return {"enum": ["true", "false"]}
    for kinds, (_, least, most) in _INTEGERS.items():
        if kind in kinds:
            return {"pattern": _digits(least, most)}
    return {}


def _digits(least: int, most: int) -> str:
    """A pattern of the decimal numbers from ``least`` (0 or below) to ``most``."""
    positive = f"(?:{_up_to(most)})"
    return f"^{positive}$" if least == 0 else f"^(?:{positive}|-(?:{_up_to(-least)}))$"


def _up_to(most: int) -> str:
    """Alternatives for 0 to ``most``: fewer digits, or the same and a lower one somewhere."""
    digits = str(most)
    found = ["0", f"[1-9][0-9]{{0,{len(digits) - 2}}}"]
    for place, digit in enumerate(digits):
        first = "1" if place == 0 else "0"
        if digit > first:
            rest = len(digits) - place - 1
            lower = f"[{first}-{int(digit) - 1}]"
            found.append(digits[:place] + lower + (f"[0-9]{{{rest}}}" if rest else ""))
    return "|".join([*found, digits])
