"""Delayed and repeated calls through a whole cluster in virtual time: over HTTP and by clients,
and what becomes of them when their owner ends."""

from __future__ import annotations

import datetime
import time
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from typing import Any

import httpx
import pytest

import goverse
from goverse.call import Call, Verb
from goverse.errors import PermissionDenied
from goverse.storage.values import CallStatus, StoredCall
from goverse.testing import Cluster
from goverse_gate.http_app import HttpApp, HttpLimits
from goverse_gate.http_front import Doors
from tests.support.virtual import elapse

pytestmark = pytest.mark.virtual_time


class Meter(goverse.Object, durability="acknowledged"):
    ticks: int = 0
    reminder: str = ""

    @goverse.method
    async def tick(self, by: int = 1) -> int:
        self.ticks += by
        return self.ticks

    @goverse.method
    async def fail(self) -> None:
        raise goverse.ApplicationError("no", "not today")

    @goverse.method
    async def start(self, every_s: float) -> str:
        if not self.reminder:
            me = goverse.get(Meter, self.id)
            self.reminder = goverse.issue(me.tick(), every_s=every_s, catch_up="each")
        return self.reminder

    @goverse.method
    async def stop(self) -> None:
        goverse.cancel(goverse.get(Meter, self.id), self.reminder)
        self.reminder = ""

    @goverse.method(read_only=True)
    async def get(self) -> int:
        return self.ticks


class Fleeting(goverse.Object):
    @goverse.method
    async def tick(self) -> None:
        pass


@asynccontextmanager
async def http(**options: Any) -> AsyncGenerator[tuple[Cluster, httpx.AsyncClient], None]:
    async with Cluster(Meter, Fleeting, **options) as cluster:
        gate = cluster.member("g1").gate
        assert gate is not None
        door = gate.ingress.door(client_id="", max_calls=100)
        app = HttpApp(Doors(door), HttpLimits(), ("https://app.example",))
        transport = httpx.ASGITransport(app)  # type: ignore[arg-type]
        async with httpx.AsyncClient(transport=transport, base_url="http://gate") as client:
            yield cluster, client


def row(cluster: Cluster, call_id: str) -> StoredCall:
    return cluster.store.tables.get_calls([call_id])[call_id]


async def test_a_request_for_later_is_accepted_and_found() -> None:
    async with http() as (cluster, client):
        url = "/v1/objects/Meter/m/tick"
        headers = {"Goverse-Call-Id": "a/1", "Goverse-Delay": "60s"}
        for _ in range(2):
            response = await client.post(url, json={"by": 5}, headers=headers)
            assert response.status_code == 202, response.text
            assert response.json() == {"call_id": "a/1", "status": "accepted"}
            assert response.headers["location"] == "/v1/calls/a%2F1"
        found = (await client.get(response.headers["location"])).json()
        assert found["status"] == "delayed" and "every_s" not in found
        due_at = row(cluster, "a/1").call.timing
        assert due_at is not None and found["run_at"] == due_at.run_at
        await elapse(55.0)
        assert (await client.get("/v1/calls/a%2F1")).json()["status"] == "delayed"
        await elapse(6.0)
        found = (await client.get("/v1/calls/a%2F1")).json()
        assert (found["status"], found["result"]) == ("success", 5)
        finished_at = row(cluster, "a/1").finished_at
        assert finished_at is not None and 0 <= finished_at - due_at.run_at < 0.5
        conflict = await client.post(url, json={"by": 6}, headers=headers)
        assert conflict.status_code == 409


async def test_a_request_without_an_id_gets_one() -> None:
    async with http() as (cluster, client):
        moment = datetime.datetime(2100, 1, 1, tzinfo=datetime.UTC)
        told = await client.post(
            "/v1/objects/Meter/m/tick", headers={"Goverse-Run-At": moment.isoformat()}
        )
        assert told.status_code == 202
        timing = row(cluster, told.json()["call_id"]).call.timing
        assert timing is not None and timing.run_at == moment.timestamp()
        # Seconds since 1970 long ago: due at once.
        told = await client.post("/v1/objects/Meter/n/tick", headers={"Goverse-Run-At": "1.5"})
        await elapse(1.0)
        assert row(cluster, told.json()["call_id"]).status is CallStatus.SUCCESS


async def test_a_repeated_request_ticks_until_it_is_deleted() -> None:
    async with http() as (_, client):
        headers = {"Goverse-Every": "500ms", "Goverse-Catch-Up": "each", "Goverse-Call-Id": "r"}
        assert (await client.post("/v1/objects/Meter/m/fail", headers=headers)).status_code == 202
        await elapse(2.2)
        found = (await client.get("/v1/calls/r")).json()
        assert (found["status"], found["every_s"], found["catch_up"]) == ("delayed", 0.5, "each")
        assert (found["last_tick"], found["error"]["code"]) == ("failed", "no")
        other = {**headers, "Goverse-Every": "1s"}
        assert (await client.post("/v1/objects/Meter/m/fail", headers=other)).status_code == 409
        gone = await client.delete("/v1/calls/r")
        assert (gone.status_code, gone.json()["status"]) == (200, "skipped")
        assert gone.json()["reason"] == "cancelled"
        assert (await client.delete("/v1/calls/r")).json()["status"] == "skipped"
        assert (await client.delete("/v1/calls/unknown")).status_code == 404
        assert (await client.request("PUT", "/v1/calls/r")).headers["allow"] == "GET, DELETE"


@pytest.mark.parametrize(
    ("headers", "field"),
    [
        ({"Goverse-Run-At": "tomorrow"}, "Goverse-Run-At"),
        ({"Goverse-Run-At": "2031-05-18T03:33:20"}, "Goverse-Run-At"),
        ({"Goverse-Run-At": "2031-05-18T03:33:20Z", "Goverse-Delay": "5s"}, "Goverse-Run-At"),
        ({"Goverse-Delay": "5"}, "Goverse-Delay"),
        ({"Goverse-Delay": "-5s"}, "Goverse-Delay"),
        ({"Goverse-Every": "1ms"}, "Goverse-Every"),
        ({"Goverse-Every": "0s"}, "Goverse-Every"),
        ({"Goverse-Catch-Up": "each"}, "Goverse-Catch-Up"),
        ({"Goverse-Every": "1s", "Goverse-Catch-Up": "some"}, "Goverse-Catch-Up"),
    ],
)
async def test_headers_that_cannot_be_meant_are_refused(
    headers: dict[str, str], field: str
) -> None:
    async with http() as (_, client):
        response = await client.post("/v1/objects/Meter/m/tick", headers=headers)
        assert response.status_code == 400
        assert response.json()["details"]["field"] == field
        assert response.json()["executed"] == "no"


async def test_what_cannot_be_run_is_refused_when_it_is_asked_for() -> None:
    async with http() as (_, client):
        delay = {"Goverse-Delay": "5s"}
        bad = await client.post("/v1/objects/Meter/m/tick", json={"by": "x"}, headers=delay)
        assert (bad.status_code, bad.json()["code"]) == (400, "invalid_argument")
        missing = await client.post("/v1/objects/Meter/m/nothing", headers=delay)
        assert missing.status_code == 404
        fleeting = await client.post("/v1/objects/Fleeting/m/tick", headers=delay)
        assert (fleeting.status_code, fleeting.json()["code"]) == (409, "failed_precondition")
        page = {**delay, "Origin": "https://evil.example"}
        assert (await client.post("/v1/objects/Meter/m/tick", headers=page)).status_code == 403


async def test_a_client_schedules_and_cancels() -> None:
    async with Cluster(Meter) as cluster:
        client = await cluster.client()
        meter = client.get(Meter, "m")
        once = await client.schedule(meter.tick(by=3), delay_s=2.0)
        never = await client.schedule(meter.tick(by=100), run_at=time.time() + 1e6)
        mine = await client.schedule(
            goverse.options(meter, call_id="mine").tick(), every_s=1.0, catch_up="none"
        )
        assert mine == "mine"
        await elapse(3.5)
        assert await meter.get() == 3 + 3
        assert await client.cancel(meter, once) == "success"
        assert await client.cancel(meter, never) == "skipped"
        assert await client.cancel(meter, mine) == "skipped"
        assert await client.cancel(meter, "nobody's") == "skipped"
        await elapse(5.0)
        assert await meter.get() == 6
        with pytest.raises(ValueError, match="delay_s"):
            await client.schedule(meter.tick())
        with pytest.raises(goverse.Conflict):
            await client.cancel(client.get(Meter, "other"), "mine")


async def test_only_operators_retry() -> None:
    async with Cluster(Meter) as cluster:
        gate = cluster.member("g1").gate
        assert gate is not None
        door = gate.ingress.door(client_id="", max_calls=10)
        with pytest.raises(PermissionDenied):
            await door.invoke(Call("Meter", "m", "", b"", 1e9, verb=Verb.RETRY, call_id="x"))
        for verb in (Verb.SCHEDULE, Verb.CANCEL):
            with pytest.raises(goverse.InvalidArgument, match="call id"):
                await door.invoke(Call("Meter", "m", "", b"", 1e9, verb=verb))


async def test_a_reminder_survives_its_owners() -> None:
    """Its ticks are neither lost nor doubled by crashes and orderly stops: each is run, and so
    there are as many as periods."""
    async with Cluster(Meter, nodes=3) as cluster:
        client = await cluster.client()
        meter = client.get(Meter, "m")
        reminder = await meter.start(every_s=0.5)
        assert await meter.start(every_s=0.5) == reminder
        await elapse(0.3)
        first = row(cluster, reminder).call.timing
        assert first is not None
        for name in ("n1", "n2", "n3"):
            await elapse(3.0)
            cluster.kill(name)
            await elapse(9.0)
            await cluster.start_node(name)
        for name in ("n2", "n3", "n1"):
            await elapse(3.0)
            await cluster.stop(name)
            await cluster.start_node(name)
        await elapse(10.0)
        stood = row(cluster, reminder)
        assert stood.status is CallStatus.DELAYED and stood.call.timing is not None
        passed = (stood.call.timing.run_at - first.run_at) / 0.5
        assert await meter.get() == pytest.approx(passed) and passed > 90
        await meter.stop()
        await elapse(2.0)
        stopped = row(cluster, reminder)
        assert (stopped.status, stopped.reason) == (CallStatus.SKIPPED, "cancelled")
        last = await meter.get()
        await elapse(5.0)
        assert await meter.get() == last
