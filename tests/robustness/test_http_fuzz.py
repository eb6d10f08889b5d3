"""The HTTP surface against requests made out of its own description."""

from __future__ import annotations

import random

import httpx

from tests.robustness.http_fuzz import fuzz
from tests.robustness.http_world import AT_REST, STATE, field_of, http_world, numbers, unrest
from tests.support.eventually import eventually
from tests.support.every_kind import Chain

SECONDS = 30


async def test_every_number_of_a_snapshot_is_known_to_be_at_rest_or_not() -> None:
    """So that what is added later is looked at after the fuzzing too."""
    async with http_world(Chain) as (gate, nodes):
        async with httpx.AsyncClient() as http:
            url = f"http://{gate.http_address}/v1/objects/Chain/a/pass_on"
            assert (await http.post(url, json={"to": "b"})).status_code == 200
        objects = [found for node in nodes for found in node.catalog.census.objects()]
        assert objects
        found = {
            field_of(path)
            for snapshot in (gate.snapshot(), *(node.snapshot() for node in nodes), *objects)
            for path, _ in numbers(snapshot)
        }
        assert found <= AT_REST | STATE, found - AT_REST - STATE
        assert not AT_REST & STATE


async def test_what_is_under_way_is_seen() -> None:
    async with http_world(Chain) as (gate, nodes):
        everything = [gate, *nodes]
        await eventually(lambda: not unrest(*(part.snapshot() for part in everything)), 10.0)
        door = gate.ingress.door(client_id="", max_calls=1)
        door.calls = gate.ingress._calls = 1
        assert "GateSnapshot.ingress.calls=1" in unrest(gate.snapshot())


async def test_schemathesis_finds_nothing_and_leaves_nothing_under_way() -> None:
    outcome = await fuzz(seconds=SECONDS, seed=random.SystemRandom().randrange(2**32))
    assert outcome.ok, str(outcome)
