"""An OpenAPI 3.1 document out of what nodes describe. Pure: descriptions in, a document out.

Every method of every type is ``POST /v1/objects/{Type}/{id}/{method}``. Types and methods that
only some nodes host are in it too: during a rolling upgrade old and new nodes serve side by side.
Where two describe the same method, the newest does.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Sequence
from typing import Any
from urllib.parse import quote

from goverse.objects.description import MethodDescription, TypeDescription, TypesDescription
from goverse.objects.schemas import ID, with_references

Schema = dict[str, Any]

_PROBLEM = "goverse.Problem"
_PREFIX = "#/components/schemas/"
_DEFS = "#/$defs/"

#: What can go wrong, by HTTP status: the codes, and the sentence of the document.
FAILURES: dict[int, tuple[tuple[str, ...], str]] = {
    400: (
        ("invalid_argument", "malformed_request"),
        "The call cannot be understood; `details` names the field or path.",
    ),
    401: (("unauthenticated",), "Who is calling is not known."),
    403: (("permission_denied",), "The caller, or the page's origin, may not."),
    404: (("not_found",), "No such type or method."),
    405: (("method_not_allowed",), "The path takes another HTTP method, named in `Allow`."),
    408: (("request_timeout",), "The request did not arrive in time."),
    409: (("conflict", "failed_precondition"), "Not possible in this state."),
    413: (("too_large",), "The body is above its limit."),
    422: ((), "The method raised an application error; `code` is the application's own."),
    429: (("rate_limited",), "Too many calls by this caller; try again later."),
    431: (("head_too_large",), "Path and headers are above their limit."),
    500: (
        ("object_failed", "internal"),
        "The method raised something unexpected (`object_failed`), or the cluster failed.",
    ),
    501: (("unimplemented",), "Asked for something that this version lacks."),
    503: (("overloaded", "unavailable"), "Nobody could take the call; try again later."),
    504: (("deadline_exceeded",), "The deadline passed; `executed` says what is known."),
}

_PARAMETERS: dict[str, Schema] = {
    "id": {
        "name": "id",
        "in": "path",
        "required": True,
        "description": "The object: 1 to 512 bytes of UTF-8 without control characters. A slash "
        "in it is written %2F. `shard#<slot>/<name>` and `node#<node>/<name>` are placed by hand.",
        "schema": ID,
    },
    "Goverse-Timeout": {
        "name": "Goverse-Timeout",
        "in": "header",
        "description": "The longest that the call may take, waiting included: 5s, 200ms, 1.5m. "
        "The gate's own limit holds when it is shorter.",
        "schema": {
            "type": "string",
            "pattern": "^(?:[1-9][0-9]{0,8}(?:[.][0-9]{1,9})?|0[.][1-9][0-9]{0,8})(?:ms|s|m)$",
        },
    },
    "traceparent": {
        "name": "traceparent",
        "in": "header",
        "description": "W3C trace context; anything else is ignored.",
        "schema": {"type": "string"},
    },
}


def document(
    descriptions: Sequence[TypesDescription], *, version: str, missing: Sequence[str] = ()
) -> dict[str, Any]:
    """
    :param descriptions: newest first.
    :param version: of the gate.
    :param missing: digests of types that some nodes host and that are not known here.
    """
    lifted = _Components()
    paths: dict[str, Any] = {}
    tags: dict[str, str] = {}
    for name, described, methods in _merged(descriptions):
        tags[name] = described.doc
        for method, how in methods:
            path = f"/v1/objects/{quote(name)}/{{id}}/{quote(method)}"
            paths[path] = {"post": _operation(name, method, how, lifted)}
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "Goverse objects",
            "version": version,
            "description": "Every method of every object type that the nodes host. Arguments are "
            "one JSON object by name, no body means none; the answer is the bare value.",
            "x-goverse-types": {
                "digests": [described.digest for described in descriptions],
                "missing": list(missing),
            },
        },
        "servers": [{"url": "/"}],
        "tags": [_described({"name": name}, doc) for name, doc in tags.items()],
        "paths": paths,
        "components": {
            "parameters": _PARAMETERS,
            "responses": {str(status): _failure(status) for status in FAILURES},
            "schemas": {_PROBLEM: _problem(), **lifted.schemas},
        },
    }


def _merged(
    descriptions: Sequence[TypesDescription],
) -> Iterable[tuple[str, TypeDescription, list[tuple[str, MethodDescription]]]]:
    """Types by name, each with its methods by name: of all, told by the newest that has them."""
    types: dict[str, TypeDescription] = {}
    methods: dict[str, dict[str, MethodDescription]] = {}
    for described in descriptions:
        for name, found in described.types.items():
            types.setdefault(name, found)
            for method, how in found.methods.items():
                methods.setdefault(name, {}).setdefault(method, how)
    for name in sorted(types):
        yield name, types[name], sorted(methods.get(name, {}).items())


def _operation(name: str, method: str, how: MethodDescription, lifted: _Components) -> Schema:
    arguments = lifted.lift(how.arguments)
    operation = {
        "operationId": f"{name}.{method}",
        "tags": [name],
        "parameters": [{"$ref": f"#/components/parameters/{key}"} for key in _PARAMETERS],
        "requestBody": {
            # A message that is the whole body has no field that must be there.
            "required": bool(how.arguments.get("required")),
            "content": {"application/json": {"schema": arguments}},
        },
        "responses": {
            "200": {
                "description": "What the method returned.",
                "content": {"application/json": {"schema": lifted.lift(how.result)}},
            },
            **{str(status): {"$ref": f"#/components/responses/{status}"} for status in FAILURES},
        },
        "x-goverse-read-only": how.read_only,
    }
    first, _, _ = how.doc.partition("\n")
    if first:
        operation["summary"] = first
    return _described(operation, how.doc)


def _described(target: Schema, doc: str) -> Schema:
    return {**target, "description": doc} if doc else target


def _failure(status: int) -> Schema:
    codes, text = FAILURES[status]
    told: Schema = {"status": {"const": status}}
    if codes:
        told["code"] = {"enum": list(codes)}
    response: Schema = {
        "description": text,
        "content": {
            "application/problem+json": {
                "schema": {"allOf": [{"$ref": _PREFIX + _PROBLEM}, {"properties": told}]}
            }
        },
    }
    if status in (429, 503):
        response["headers"] = {
            "Retry-After": {"description": "Seconds to wait.", "schema": {"type": "integer"}}
        }
    if status == 405:
        response["headers"] = {
            "Allow": {"description": "What the path takes.", "schema": {"type": "string"}}
        }
    return response


def _problem() -> Schema:
    return {
        "type": "object",
        "description": "A problem of RFC 9457. `executed` says whether the call was executed, "
        "over all attempts: repeating it is safe after `no`.",
        "properties": {
            "type": {"type": "string"},
            "title": {"type": "string"},
            "status": {"type": "integer"},
            "detail": {"type": "string"},
            "code": {"type": "string"},
            "executed": {"enum": ["no", "yes", "unknown"]},
            "details": {"type": "object"},
        },
        "required": ["type", "title", "status", "detail", "code", "executed", "details"],
    }


class _Components:
    """Definitions of many schemas in one place: equal ones once, others under another name."""

    def __init__(self) -> None:
        self.schemas: dict[str, Schema] = {}
        self._names: dict[tuple[str, str], str] = {}

    def lift(self, schema: Schema) -> Schema:
        """``schema`` without definitions of its own, referring to those kept here."""
        defs: dict[str, Schema] = schema.get("$defs", {})
        names: dict[str, str] = {}
        fresh: list[str] = []
        for name in defs:
            # What a definition means depends on all that it refers to.
            meaning = json.dumps(
                {key: defs[key] for key in sorted(_reached(name, defs))}, sort_keys=True
            )
            found = self._names.get((name, meaning))
            if found is None:
                found = self._names[name, meaning] = self._free(name)
                self.schemas[found] = {}
                fresh.append(name)
            names[name] = found
        for name in fresh:
            self.schemas[names[name]] = with_references(defs[name], _DEFS, names, _PREFIX)
        bare = {key: value for key, value in schema.items() if key != "$defs"}
        lifted: Schema = with_references(bare, _DEFS, names, _PREFIX)
        return lifted

    def _free(self, name: str) -> str:
        # The characters that OpenAPI allows.
        plain = re.sub(r"[^A-Za-z0-9._-]", "_", name)
        number, found = 1, plain
        while found in self.schemas or found == _PROBLEM:
            number += 1
            found = f"{plain}_{number}"
        return found


def _reached(name: str, defs: dict[str, Schema]) -> dict[str, None]:
    """``name`` and all definitions that it refers to."""
    reached: dict[str, None] = {name: None}
    pending: list[Any] = [defs[name]]
    while pending:
        part = pending.pop()
        if isinstance(part, list):
            pending.extend(part)
        elif isinstance(part, dict):
            target = part.get("$ref")
            if isinstance(target, str) and target.startswith(_DEFS):
                key = target[len(_DEFS) :]
                if key in defs and key not in reached:
                    reached[key] = None
                    pending.append(defs[key])
            pending.extend(part.values())
    return reached
