"""The document that a gate makes out of descriptions."""

from __future__ import annotations

import json
from typing import Any

import jsonschema_rs
import msgspec
import pytest

import goverse
from goverse.errors import BY_CODE, ApplicationError, ClusterError
from goverse.objects import Registry
from goverse.objects.description import TypesDescription
from goverse_gate.http_calls import HttpProblem, problem
from goverse_gate.openapi import FAILURES, document
from tests.support.every_kind import Chain, Kinds


def described(*classes: type[goverse.Object]) -> TypesDescription:
    registry = Registry()
    for cls in classes:
        registry.add(cls)
    return registry.describe()


def made(*descriptions: TypesDescription, **more: Any) -> dict[str, Any]:
    found = document(descriptions, version="1.2", **more)
    text = json.dumps(found)
    for reference in _references(found):
        assert reference.startswith("#/"), reference
        assert _follow(found, reference) is not None, reference
    return json.loads(text)  # type: ignore[no-any-return]


def _references(part: Any) -> list[str]:
    if isinstance(part, list):
        return [found for item in part for found in _references(item)]
    if isinstance(part, dict):
        own = [part["$ref"]] if isinstance(part.get("$ref"), str) else []
        return own + [found for item in part.values() for found in _references(item)]
    return []


def _follow(found: Any, reference: str) -> Any:
    for step in reference.removeprefix("#/").split("/"):
        found = found.get(step.replace("~1", "/").replace("~0", "~"))
    return found


def operation(found: dict[str, Any], type: str, method: str) -> dict[str, Any]:
    return found["paths"][f"/v1/objects/{type}/{{id}}/{method}"]["post"]  # type: ignore[no-any-return]


def test_every_method_of_every_type_is_an_operation() -> None:
    found = made(described(Kinds, Chain))
    ids = {path["post"]["operationId"] for path in found["paths"].values()}
    assert ids == {f"Kinds.{name}" for name in Kinds.__goverse__.methods} | {
        "Chain.add",
        "Chain.pass_on",
    }
    assert found["openapi"] == "3.1.0"
    assert found["info"]["version"] == "1.2"
    add = operation(found, "Chain", "add")
    assert (add["summary"], add["tags"]) == ("Add to the total.", ["Chain"])
    assert add["requestBody"]["required"] is False
    assert operation(found, "Chain", "pass_on")["requestBody"]["required"] is True
    assert {"name": "Chain", "description": "Objects that call each other."} in found["tags"]


def test_every_error_of_the_tree_is_a_problem_of_its_status() -> None:
    """A code that is added to `goverse.errors` must be added to the document."""
    for code, cls in BY_CODE.items():
        if not issubclass(cls, ClusterError):
            assert code in FAILURES[cls.http_status][0], code
    assert ApplicationError.http_status in FAILURES
    responses = made(described(Chain))["components"]["responses"]
    assert set(responses) == {str(status) for status in FAILURES}


@pytest.mark.parametrize(
    "error",
    [
        goverse.InvalidArgument("no"),
        goverse.Unavailable("away"),
        ApplicationError("no_money", "none", {"missing": 3}),
        HttpProblem(405, "method_not_allowed", "no"),
    ],
    ids=lambda error: error.code,
)
def test_what_a_gate_answers_is_as_the_document_says(error: goverse.GoverseError) -> None:
    status, headers, body = problem(error)
    found = made(described(Chain))
    content = found["components"]["responses"][str(status)]["content"]
    (kind,) = content
    assert (b"content-type", kind.encode()) in headers
    schema = {**content[kind]["schema"], "components": found["components"]}
    check = jsonschema_rs.Draft202012Validator(schema)
    assert check.is_valid(json.loads(body))
    assert not check.is_valid({**json.loads(body), "status": 999})


def test_classes_of_one_name_in_two_types_get_two_names() -> None:
    def make(name: str, kind: Any) -> type[goverse.Object]:
        item = msgspec.defstruct("Item", [("a", kind)])

        class Shop(goverse.Object, name=name):
            @goverse.method
            async def sell(self, one: item) -> None: ...  # type: ignore[valid-type]

        return Shop

    found = made(described(make("A", int), make("B", str), make("C", int)))

    def item(type: str) -> str:
        body = operation(found, type, "sell")["requestBody"]
        schema = body["content"]["application/json"]["schema"]
        return str(schema["properties"]["one"]["$ref"])

    assert item("A") == item("C") == "#/components/schemas/Item"
    assert item("B") == "#/components/schemas/Item_2"


def test_a_class_called_as_our_own_schema_keeps_away_from_it() -> None:
    item = msgspec.defstruct("goverse.Problem", [("a", int)])

    class Shop(goverse.Object):
        @goverse.method
        async def sell(self, one: item) -> None: ...  # type: ignore[valid-type]

    schemas = made(described(Shop))["components"]["schemas"]
    assert "executed" in schemas["goverse.Problem"]["properties"]
    assert "a" in schemas["goverse.Problem_2"]["properties"]


def test_old_and_new_nodes_are_described_together_and_the_newest_wins() -> None:
    class Old(goverse.Object, name="Thing"):
        """Old."""

        @goverse.method
        async def both(self, a: int) -> int:
            return a

        @goverse.method
        async def dropped(self) -> None: ...

    class New(goverse.Object, name="Thing"):
        """New."""

        @goverse.method
        async def both(self, a: str) -> str:
            return a

        @goverse.method
        async def added(self) -> None: ...

    new, old = described(New, Chain), described(Old)
    found = made(new, old, missing=["d3"])
    body = operation(found, "Thing", "both")["requestBody"]["content"]["application/json"]
    assert body["schema"]["properties"]["a"]["type"] == "string"
    assert operation(found, "Thing", "dropped")
    assert operation(found, "Thing", "added")
    assert operation(found, "Chain", "add")
    assert {"name": "Thing", "description": "New."} in found["tags"]
    assert found["info"]["x-goverse-types"] == {
        "digests": [new.digest, old.digest],
        "missing": ["d3"],
    }


def test_the_id_parameter_has_the_limits_of_ids() -> None:
    found = made(described(Chain))
    schema = found["components"]["parameters"]["id"]["schema"]
    check = jsonschema_rs.Draft202012Validator(schema)
    for id in ("a", "ü", "a/b c", "shard#5/x", "node#n1/x", "#", "x" * 512):
        assert check.is_valid(id), id
    for id in ("", "a\nb", "\x9f", "x" * 513, "shard#/x", "shard#05/x", "shard#5", "node#/x"):
        assert not check.is_valid(id), id
