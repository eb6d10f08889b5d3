"""The HTTP endpoints of existing clients, with a stand-in for the door."""

from __future__ import annotations

import asyncio
import base64
from collections.abc import AsyncIterator
from typing import Any

import httpx
import pytest
from hypothesis import given
from hypothesis import strategies as st

from goverse.call import Call, Codec, Reply, Verb
from goverse.errors import (
    ApplicationError,
    Conflict,
    DeadlineExceeded,
    Executed,
    GoverseError,
    NotImplementedYet,
    Overloaded,
)
from goverse_gate.http_app import HttpApp, HttpLimits
from goverse_gate.http_compat import CompatibleCalls
from goverse_gate.http_front import Doors

CALL = "/api/v1/objects/call/Counter/a/add"
CREATE = "/api/v1/objects/create/Counter/a"
DELETE = "/api/v1/objects/delete/Counter/a"
ORIGIN = {"origin": "https://app.example"}


class FakeDoor:
    def __init__(self) -> None:
        self.calls: list[Call] = []
        self.error: Exception | None = None
        self.reply = Reply(b"\x00\xff", Codec.ANY)

    async def invoke(self, call: Call) -> Reply:
        self.calls.append(call)
        if self.error is not None:
            raise self.error
        return self.reply


class Http:
    def __init__(self, **limits: Any) -> None:
        self.door = FakeDoor()
        fronts = {CompatibleCalls.prefix: CompatibleCalls(Doors(self.door))}
        self.app = HttpApp(Doors(self.door), HttpLimits(**limits), ("https://app.example",), fronts)
        transport = httpx.ASGITransport(app=self.app)
        self.client = httpx.AsyncClient(transport=transport, base_url="http://gate")

    async def post(self, path: str = CALL, **kwargs: Any) -> httpx.Response:
        response = await self.client.post(path, **kwargs)
        at_rest = self.app.snapshot()
        assert (at_rest.requests, at_rest.held_bytes) == (0, 0)
        return response


@pytest.fixture
async def http() -> AsyncIterator[Http]:
    yield Http()


async def test_a_call_carries_the_bytes_of_an_any_in_base64(http: Http) -> None:
    response = await http.post(json={"request": base64.b64encode(b"\x01\xfe").decode()})
    assert (response.status_code, response.json()) == (200, {"response": "AP8="})
    assert response.headers["content-type"] == "application/json"
    (call,) = http.door.calls
    assert (call.type, call.id, call.method, call.verb) == ("Counter", "a", "add", Verb.CALL)
    assert (call.payload, call.codec) == (b"\x01\xfe", Codec.ANY)


@pytest.mark.parametrize("body", [b"", b"{}", b'{"request": null}', b'{"request": ""}'])
async def test_no_request_means_no_arguments(http: Http, body: bytes) -> None:
    assert (await http.post(content=body)).status_code == 200
    assert http.door.calls[0].payload == b""


async def test_create_and_delete(http: Http) -> None:
    response = await http.post("/api/v1/objects/create/Counter/shard%235%2Fx")
    assert (response.status_code, response.json()) == (200, {"id": "shard#5/x"})
    response = await http.post(DELETE, content=b"{}")
    assert (response.status_code, response.json()) == (200, {"success": True})
    created, deleted = http.door.calls
    assert (created.verb, created.id, created.method) == (Verb.CREATE, "shard#5/x", "")
    assert (deleted.verb, deleted.id, deleted.method) == (Verb.DELETE, "a", "")


@pytest.mark.parametrize(
    ("path", "body", "text"),
    [
        (CALL, b"{", "truncated"),
        (CALL, b"[]", "Expected `object`"),
        (CALL, b'{"request": 5}', "$.request"),
        (CALL, b'{"request": "%"}', "$.request"),
        (CALL, b'{"client_id": "someone else"}', "unknown field `client_id`"),
        (CALL, b"\xff", ""),
        (CALL, b"[" * 100_000, ""),
        (CREATE, b'{"id": "b"}', "unknown field `id`"),
        (DELETE, b"x", ""),
    ],
)
async def test_a_body_that_is_not_understood_is_refused(
    http: Http, path: str, body: bytes, text: str
) -> None:
    response = await http.post(path, content=body)
    told = response.json()
    assert (response.status_code, told["code"]) == (400, "invalid_argument")
    assert list(told) == ["error", "code"] and text in told["error"]
    assert response.headers["goverse-executed"] == "no"
    assert not http.door.calls


@pytest.mark.parametrize(
    ("method", "path", "status", "code"),
    [
        ("GET", CALL, 405, "method_not_allowed"),
        ("POST", "/api/v1/objects/call/Counter/a", 404, "not_found"),
        ("POST", "/api/v1/objects/call/Counter/a/b/c", 404, "not_found"),
        ("POST", "/api/v1/objects/create/Counter", 404, "not_found"),
        ("POST", "/api/v1/objects/destroy/Counter/a", 404, "not_found"),
        ("POST", "/api/v1/objects/call/Counter/%ff/add", 400, "invalid_argument"),
        ("POST", "/api/v1/objects/call/Counter/%/add", 400, "invalid_argument"),
    ],
)
async def test_other_paths_and_methods(
    http: Http, method: str, path: str, status: int, code: str
) -> None:
    response = await http.client.request(method, path)
    assert (response.status_code, response.json()["code"]) == (status, code)
    assert not http.door.calls


@pytest.mark.parametrize(
    ("error", "status", "code"),
    [
        (ApplicationError("no_money", "kein Geld"), 422, "no_money"),
        (Conflict("active"), 409, "conflict"),
        (DeadlineExceeded("late", executed=Executed.UNKNOWN), 504, "deadline_exceeded"),
        (NotImplementedYet("reliable"), 501, "unimplemented"),
        (Overloaded("full"), 503, "overloaded"),
        (RuntimeError("inside"), 500, "internal"),
    ],
)
@pytest.mark.parametrize("path", [CALL, CREATE, DELETE])
async def test_errors_have_one_shape(
    http: Http, path: str, error: Exception, status: int, code: str
) -> None:
    http.door.error = error
    response = await http.post(path)
    assert response.status_code == status
    told = response.json()
    assert list(told) == ["error", "code"] and told["code"] == code
    assert "inside" not in told["error"]
    executed = error.executed.value if isinstance(error, GoverseError) else "unknown"
    assert response.headers["goverse-executed"] == executed
    assert ("retry-after" in response.headers) is isinstance(error, Overloaded)


async def test_text_that_has_no_encoding_does_not_hide_the_error(http: Http) -> None:
    http.door.error = ApplicationError("odd", "\ud800")
    assert (await http.post()).json() == {"error": "?", "code": "odd"}


@pytest.mark.parametrize("path", [CALL, CREATE, DELETE])
async def test_L31_compatible_paths_check_what_plain_ones_check(http: Http, path: str) -> None:
    """Origin, its content type, query, deadline, call id, size: each reaches the same check."""
    assert (await http.post(f"{path}?amount=5")).status_code == 400
    json = {"content-type": "application/json"}
    for headers, status in (
        ({"origin": "https://evil.example", **json}, 403),
        (ORIGIN, 403),  # a form that any page could send
        ({**ORIGIN, **json}, 200),
        ({"Goverse-Timeout": "soon"}, 400),
    ):
        response = await http.post(path, headers=headers)
        assert response.status_code == status, headers
        assert len(http.door.calls) == (status == 200)
        http.door.calls.clear()
    now = asyncio.get_running_loop().time()
    await http.post(path, headers={"Goverse-Timeout": "5s", "Goverse-Call-Id": "r1"})
    (call,) = http.door.calls
    assert call.call_id == "r1" and call.deadline == pytest.approx(now + 5, abs=1)
    small = Http(max_body_bytes=10)
    response = await small.post(path, content=b'{"request": "AAAAAAAAAAAA"}')
    assert (response.status_code, response.json()["code"]) == (413, "too_large")
    assert response.headers["connection"] == "close"


async def test_preflights_are_answered(http: Http) -> None:
    response = await http.client.options(CALL, headers=ORIGIN)
    assert response.status_code == 204
    assert response.headers["access-control-allow-origin"] == "https://app.example"


async def test_an_answer_that_is_no_any_is_our_fault(http: Http) -> None:
    http.door.reply = Reply(b"5", Codec.JSON)
    response = await http.post()
    assert (response.status_code, response.json()["code"]) == (500, "internal")
    assert response.headers["goverse-executed"] == "yes"


@given(st.binary(max_size=40), st.sampled_from([CALL, CREATE, DELETE]))
def test_any_body_is_understood_or_refused(body: bytes, path: str) -> None:
    async def run() -> None:
        response = await Http().post(path, content=body)
        assert response.status_code in (200, 400)

    asyncio.run(run())
