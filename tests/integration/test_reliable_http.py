"""Reliable calls over HTTP, from the request to the ledger and back."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager

import httpx
import pytest

import goverse
from goverse.storage.values import CallStatus
from goverse.testing import Cluster
from goverse_gate.http_app import HttpApp, HttpLimits
from goverse_gate.http_front import Doors
from tests.support.virtual import elapse

pytestmark = pytest.mark.virtual_time


class Money(goverse.Object, durability="acknowledged"):
    amount: int = 0

    @goverse.method
    async def add(self, amount: int, note: str | None = None) -> dict[str, int]:
        self.amount += amount
        return {"amount": self.amount}

    @goverse.method
    async def refuse(self) -> None:
        raise goverse.ApplicationError("no_money", "none at all", {"missing": 5})

    @goverse.method
    async def infinite(self) -> float:
        self.amount += 1
        return float("inf")

    @goverse.method
    async def slow(self) -> int:
        await elapse(60.0)
        return 1


@asynccontextmanager
async def http() -> AsyncGenerator[tuple[Cluster, httpx.AsyncClient], None]:
    async with Cluster(Money) as cluster:
        gate = cluster.member("g1").gate
        assert gate is not None
        door = gate.ingress.door(client_id="", max_calls=100)
        app = HttpApp(Doors(door), HttpLimits())
        transport = httpx.ASGITransport(app)  # type: ignore[arg-type]
        async with httpx.AsyncClient(transport=transport, base_url="http://gate") as client:
            yield cluster, client


async def post(
    client: httpx.AsyncClient, method: str, call_id: str, body: object
) -> httpx.Response:
    headers = {"Goverse-Call-Id": call_id, "Goverse-Timeout": "20s"}
    return await client.post(f"/v1/objects/Money/m/{method}", json=body, headers=headers)


async def test_a_repeated_request_has_one_effect_and_the_same_answer() -> None:
    async with http() as (_, client):
        for body in ({"amount": 5}, {"amount": 5, "note": None}):
            response = await post(client, "add", "c1", body)
            assert (response.status_code, response.json()) == (200, {"amount": 5})
        conflict = await post(client, "add", "c1", {"amount": 6})
        assert (conflict.status_code, conflict.json()["code"]) == (409, "conflict")
        found = await client.get("/v1/calls/c1")
        assert found.status_code == 200
        assert found.json() == {
            "call_id": "c1",
            "type": "Money",
            "id": "m",
            "method": "add",
            "status": "success",
            "result": {"amount": 5},
        }


async def test_errors_of_the_method_are_told_again_and_found() -> None:
    async with http() as (_, client):
        for _ in range(2):
            response = await post(client, "refuse", "c2", {})
            assert response.status_code == 422
            problem = response.json()
            assert (problem["code"], problem["executed"]) == ("no_money", "yes")
            assert problem["details"] == {"missing": 5}
        found = (await client.get("/v1/calls/c2")).json()
        assert found["status"] == "failed"
        assert found["error"]["code"] == "no_money"
        assert found["error"]["details"] == {"missing": 5}


async def test_L08_a_result_without_a_json_form_has_run_and_says_so() -> None:
    async with http() as (cluster, client):
        for _ in range(2):
            response = await post(client, "infinite", "c3", {})
            assert response.status_code == 500
            assert response.json()["executed"] == "yes"
        row = cluster.store.tables.get_calls(["c3"])["c3"]
        assert row.status is CallStatus.SUCCESS
        found = (await client.get("/v1/calls/c3")).json()
        assert found["status"] == "success" and "result" not in found
        assert "cannot be told in json" in found["reason"]
        # For who can take it, it is there.
        ref = (await cluster.client()).get(Money, "m")
        assert await goverse.options(ref, call_id="c3").infinite() == float("inf")


async def test_L36_after_a_timeout_the_outcome_can_be_asked_for() -> None:
    async with http() as (cluster, client):
        headers = {"Goverse-Call-Id": "größe/1".encode(), "Goverse-Timeout": b"1s"}
        url = "/v1/objects/Money/m/slow"
        response = await client.post(url, json={}, headers=headers)
        assert response.status_code == 504
        assert response.json()["executed"] == "unknown"
        path = "/v1/calls/gr%C3%B6%C3%9Fe%2F1"
        assert (await client.get(path)).json()["status"] == "pending"
        await cluster.stop("n1")
        await cluster.start_node("n1")


async def test_an_unknown_id_is_not_said_to_have_never_run() -> None:
    async with http() as (_, client):
        response = await client.get("/v1/calls/nothing")
        assert response.status_code == 404
        problem = response.json()
        assert problem["executed"] == "unknown"
        assert "not to say that it never ran" in problem["detail"]
        assert problem["details"] == {"call_id": "nothing", "status": "unknown"}


async def test_the_ids_of_the_system_are_not_for_clients() -> None:
    async with http() as (_, client):
        response = await post(client, "add", "~1", {"amount": 1})
        assert response.status_code == 400
        assert response.json()["details"] == {"field": "call_id"}
        assert (await client.get("/v1/calls/~1")).status_code == 400
