"""HTTP over the ASGI application alone, with a stand-in for the door."""

from __future__ import annotations

import asyncio
import math
from collections.abc import AsyncIterator
from typing import Any

import httpx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from goverse.call import Call, Codec, Reply, Verb
from goverse.errors import ApplicationError, Executed, InvalidArgument, Unavailable
from goverse_gate.http_app import HttpApp, HttpLimits
from goverse_gate.http_front import Doors

ADD = "/v1/objects/Counter/a/add"
ORIGIN = {"origin": "https://app.example"}


class FakeDoor:
    def __init__(self) -> None:
        self.calls: list[Call] = []
        self.error: Exception | None = None
        self.reply = Reply(b"5", Codec.JSON)

    async def invoke(self, call: Call) -> Reply:
        self.calls.append(call)
        if self.error is not None:
            raise self.error
        return self.reply


class Http:
    def __init__(self, **limits: Any) -> None:
        self.door = FakeDoor()
        self.app = HttpApp(Doors(self.door), HttpLimits(**limits), ("https://app.example",))
        transport = httpx.ASGITransport(app=self.app)
        self.client = httpx.AsyncClient(transport=transport, base_url="http://gate")

    async def post(self, path: str = ADD, **kwargs: Any) -> httpx.Response:
        response = await self.client.post(path, **kwargs)
        at_rest = self.app.snapshot()
        assert (at_rest.requests, at_rest.held_bytes) == (0, 0)
        return response


@pytest.fixture
async def http() -> AsyncIterator[Http]:
    yield Http()


async def test_the_body_goes_through_as_it_came_and_so_does_the_result(http: Http) -> None:
    http.door.reply = Reply(b'{"value" :  5}', Codec.JSON)
    response = await http.post(content=b' {"amount": 5}\n')
    assert response.status_code == 200
    assert response.headers["content-type"] == "application/json"
    assert response.content == b'{"value" :  5}'
    (call,) = http.door.calls
    assert (call.type, call.id, call.method) == ("Counter", "a", "add")
    assert (call.payload, call.codec, call.verb) == (b' {"amount": 5}\n', Codec.JSON, Verb.CALL)
    assert call.deadline == math.inf


async def test_an_empty_body_means_no_arguments(http: Http) -> None:
    assert (await http.post()).status_code == 200
    assert http.door.calls[0].payload == b""


async def test_none_is_null(http: Http) -> None:
    http.door.reply = Reply(b"", Codec.JSON)
    assert (await http.post()).content == b"null"


async def test_the_form_type_of_curl_is_read_as_json(http: Http) -> None:
    response = await http.post(
        content=b'{"amount": 5}',
        headers={"content-type": "application/x-www-form-urlencoded"},
    )
    assert response.status_code == 200


@pytest.mark.parametrize("id", ["shard%235%2Fx", "%C3%BC", "a%20b", "a:b@c"])
async def test_ids_are_percent_encoded(http: Http, id: str) -> None:
    assert (await http.post(f"/v1/objects/Counter/{id}/add")).status_code == 200
    expected = {"shard%235%2Fx": "shard#5/x", "%C3%BC": "ü", "a%20b": "a b"}.get(id, id)
    assert http.door.calls[0].id == expected


async def test_arguments_in_the_query_are_refused_not_ignored(http: Http) -> None:
    response = await http.post(ADD + "?amount=5")
    assert response.status_code == 400
    assert not http.door.calls


async def test_a_timeout_becomes_a_deadline(http: Http) -> None:
    now = asyncio.get_running_loop().time()
    await http.post(headers={"Goverse-Timeout": "5s"})
    assert http.door.calls[0].deadline == pytest.approx(now + 5, abs=1)


@pytest.mark.parametrize("value", ["5", "soon", "-1s", "0s"])
async def test_a_malformed_timeout_is_refused(http: Http, value: str) -> None:
    response = await http.post(headers={"Goverse-Timeout": value})
    assert response.status_code == 400
    assert "Goverse-Timeout" in response.json()["detail"]


@pytest.mark.parametrize("call_id", ["r1", "größe", "a/b"])
async def test_a_call_id_reaches_the_door(http: Http, call_id: str) -> None:
    await http.post(headers=[(b"Goverse-Call-Id", call_id.encode())])
    assert http.door.calls[0].call_id == call_id


@pytest.mark.parametrize("values", [[b""], [b"\xff"], [b"a", b"b"]])
async def test_a_malformed_call_id_is_refused(http: Http, values: list[bytes]) -> None:
    response = await http.post(headers=[(b"Goverse-Call-Id", value) for value in values])
    assert response.status_code == 400
    assert "Goverse-Call-Id" in response.json()["detail"]
    assert not http.door.calls


async def test_outcomes_are_looked_up_by_call_id(http: Http) -> None:
    response = await http.client.get("/v1/calls/a%2Fb")
    assert response.status_code == 200
    (call,) = http.door.calls
    assert (call.verb, call.call_id, call.codec) == (Verb.LOOKUP, "a/b", Codec.JSON)


@pytest.mark.parametrize(
    ("error", "status", "code", "executed"),
    [
        (InvalidArgument("bad", details={"path": "$.amount"}), 400, "invalid_argument", "no"),
        (ApplicationError("no_money", "x"), 422, "no_money", "yes"),
        (Unavailable("gone", executed=Executed.UNKNOWN), 503, "unavailable", "unknown"),
        (RuntimeError("inside"), 500, "internal", "unknown"),
    ],
)
async def test_errors_are_problems(
    http: Http, error: Exception, status: int, code: str, executed: str
) -> None:
    http.door.error = error
    response = await http.post()
    assert response.status_code == status
    assert response.headers["content-type"] == "application/problem+json"
    told = response.json()
    assert (told["status"], told["code"], told["executed"]) == (status, code, executed)
    assert "inside" not in response.text
    assert ("retry-after" in response.headers) == (status == 503)


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [
        ("GET", "/", 404),
        ("GET", ADD, 405),
        ("PUT", ADD, 405),
        ("HEAD", ADD, 405),
        ("OPTIONS", ADD, 405),
        ("POST", "/v1/objects/Counter/a", 404),
        ("POST", "/v1/calls/x", 405),
    ],
)
async def test_unknown_paths_and_methods_are_problems(
    http: Http, method: str, path: str, status: int
) -> None:
    response = await http.client.request(method, path)
    assert response.status_code == status
    assert response.headers["content-type"] == "application/problem+json"
    assert not http.door.calls


class TestWebPages:
    async def test_an_allowed_origin_with_json_passes_and_is_named(self, http: Http) -> None:
        headers = {**ORIGIN, "content-type": "application/json"}
        response = await http.post(content=b"{}", headers=headers)
        assert response.status_code == 200
        assert response.headers["access-control-allow-origin"] == "https://app.example"
        assert response.headers["vary"] == "origin"

    async def test_a_page_of_an_allowed_origin_can_read_errors(self, http: Http) -> None:
        http.door.error = InvalidArgument("bad")
        headers = {**ORIGIN, "content-type": "application/json"}
        response = await http.post(content=b"{}", headers=headers)
        assert response.status_code == 400
        assert response.headers["access-control-allow-origin"] == "https://app.example"

    @pytest.mark.parametrize(
        "headers",
        [
            {"origin": "https://evil.example", "content-type": "application/json"},
            {**ORIGIN, "content-type": "text/plain"},
            ORIGIN,
            {"origin": "null", "content-type": "application/json"},
        ],
    )
    async def test_any_other_page_is_refused(self, http: Http, headers: dict[str, str]) -> None:
        response = await http.post(content=b"{}", headers=headers)
        assert response.status_code == 403
        assert not http.door.calls

    async def test_a_browser_may_ask_first(self, http: Http) -> None:
        headers = {**ORIGIN, "access-control-request-method": "POST"}
        response = await http.client.options(ADD, headers=headers)
        assert response.status_code == 204
        assert response.headers["access-control-allow-origin"] == "https://app.example"
        assert "content-type" in response.headers["access-control-allow-headers"]
        refused = await http.client.options(ADD, headers={"origin": "https://evil.example"})
        assert refused.status_code == 403
        assert "access-control-allow-origin" not in refused.headers


class TestBodies:
    async def test_a_declared_size_above_the_limit_is_refused_unread(self) -> None:
        http = Http(max_body_bytes=10)
        response = await http.post(content=b"x" * 11)
        assert response.status_code == 413
        assert response.headers["connection"] == "close"
        assert (await http.post(content=b"x" * 10)).status_code == 200

    async def test_a_stream_above_the_limit_is_cut(self) -> None:
        http = Http(max_body_bytes=10)

        async def chunks() -> AsyncIterator[bytes]:
            for _ in range(5):
                yield b"1234"

        assert (await http.post(content=chunks())).status_code == 413

    async def test_all_bodies_together_have_a_limit(self) -> None:
        http = Http(max_held_bytes=10)
        response = await http.post(content=b"x" * 11)
        assert (response.status_code, response.json()["code"]) == (503, "overloaded")

    async def test_a_stream_arrives_whole(self, http: Http) -> None:
        async def chunks() -> AsyncIterator[bytes]:
            for part in (b'{"amo', b"", b'unt":', b"5}"):
                yield part

        assert (await http.post(content=chunks())).status_code == 200
        assert http.door.calls[0].payload == b'{"amount":5}'

    @pytest.mark.parametrize(
        ("timeout", "status", "code"),
        [({}, 408, "request_timeout"), ({"Goverse-Timeout": "1ms"}, 504, "deadline_exceeded")],
    )
    async def test_a_body_that_does_not_come_is_given_up(
        self, timeout: dict[str, str], status: int, code: str
    ) -> None:
        http = Http(body_timeout_s=0.02)
        never = asyncio.Event()

        async def chunks() -> AsyncIterator[bytes]:
            yield b"{"
            await never.wait()

        response = await http.post(content=chunks(), headers=timeout)
        assert (response.status_code, response.json()["code"]) == (status, code)
        assert response.json()["executed"] == "no"
        assert not http.door.calls

    async def test_more_requests_than_the_limit_are_refused(self) -> None:
        http = Http(max_requests=0)
        response = await http.post()
        assert (response.status_code, response.json()["code"]) == (503, "overloaded")


async def one_request(scope: dict[str, Any]) -> list[dict[str, Any]]:
    app = HttpApp(Doors(FakeDoor()), HttpLimits())
    sent: list[Any] = []

    async def receive() -> dict[str, Any]:
        return {"type": "http.request", "body": b"", "more_body": False}

    async def send(message: Any) -> None:
        sent.append(message)

    await app({"type": "http", **scope}, receive, send)
    assert app.snapshot().requests == 0
    return sent


@settings(max_examples=200, deadline=None)
@given(
    st.sampled_from(["GET", "POST", "OPTIONS", "PUT"]),
    st.binary(max_size=60),
    st.lists(st.tuples(st.sampled_from([
        b"origin", b"content-length", b"goverse-timeout", b"content-type", b"traceparent",
    ]), st.binary(max_size=20)), max_size=4),
)  # fmt: skip
def test_any_request_has_exactly_one_answer(
    method: str, tail: bytes, headers: list[tuple[bytes, bytes]]
) -> None:
    scope = {
        "method": method,
        "raw_path": b"/v1/objects/Counter/" + tail,
        "query_string": b"",
        "headers": headers,
    }
    sent = asyncio.run(one_request(scope))
    assert [message["type"] for message in sent] == ["http.response.start", "http.response.body"]
    assert sent[0]["status"] in (200, 204, 400, 403, 404, 405, 413)
