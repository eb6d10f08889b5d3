"""The examples of docs/how-to/delay-a-call.md do what the page says."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest

import goverse
from goverse.storage.values import CallStatus
from goverse.testing import Cluster
from goverse_gate.http_delays import HEADERS
from tests.support.virtual import elapse

PAGE = Path(__file__).resolve().parents[2] / "docs" / "how-to" / "delay-a-call.md"

pytestmark = pytest.mark.virtual_time


def loaded() -> dict[str, Any]:
    names: dict[str, Any] = {"goverse": goverse, "__name__": __name__}
    for block in re.findall(r"^```python\n(.*?)^```$", PAGE.read_text(), re.M | re.S):
        exec(block, names)
    return names


async def test_a_subscription_is_charged_until_it_is_stopped() -> None:
    names = loaded()
    async with Cluster(names["Subscription"], nodes=2) as cluster:
        client = await cluster.client()
        ada: Any = client.get("Subscription", "ada")
        await ada.start(every_s=10.0)
        await ada.start(every_s=10.0)
        await elapse(25.0)
        assert await ada.total() == 10
        cluster.kill("n1")
        await elapse(20.0)
        charged = await ada.total()
        assert charged == 20
        await ada.stop()
        await elapse(60.0)
        assert await ada.total() == charged
        # The end of the year comes all the same, and finds nothing to do.
        calls = list(cluster.store.tables._calls.values())
        assert sorted((call.call.method, call.status.value) for call in calls) == [
            ("charge", "skipped"),
            ("stop", "delayed"),
        ]


async def test_a_client_schedules_and_cancels() -> None:
    names = loaded()
    async with Cluster(names["Subscription"]) as cluster:
        call_id = await names["remind"](await cluster.client())
        assert cluster.store.tables.get_calls([call_id])[call_id].status is CallStatus.SKIPPED


def test_the_page_names_every_header() -> None:
    text = PAGE.read_text().lower()
    for header in HEADERS:
        assert f"`{header.decode()}`" in text, header
    for target in re.findall(r"\]\(([^)#]+)\)", PAGE.read_text()):
        assert (PAGE.parent / target).exists(), target
