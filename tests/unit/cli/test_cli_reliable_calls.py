"""What waits in the ledger, asked for without a node, on a real file."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable, Coroutine
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from goverse import storage
from goverse.aio.runtime import Runtime
from goverse.config.settings import StorageSettings
from goverse.errors import ApplicationError
from goverse.ids import Epoch, ObjectId
from goverse.objects.recording import failed
from goverse.storage.memory import MemoryStore
from goverse.storage.sqlite import SqliteStore
from goverse.storage.values import (
    Acceptance,
    CallStatus,
    CallStep,
    CatchUp,
    Outcome,
    Payload,
    Step,
    Timing,
    Verdict,
)
from goverse.testing.conformance.store_kit import Owner

if TYPE_CHECKING:
    from .conftest import Terminal


async def _fill(owner: Owner) -> None:
    """Of ``Thing`` one call succeeded, one failed, three wait; of ``Other`` one is parked."""
    await owner.accept("a", "b", "c", object="long")
    await owner.accept("d", "e", object="short")
    parked = replace(owner.call("bad"), object=ObjectId("Other", "x[red]"))
    [result] = await owner.store.accept([Acceptance(owner.fence, parked)])
    assert result.verdict is Verdict.DONE
    await owner.store.change_calls(
        [CallStep(owner.fence, owner.id("bad"), Step.PARK, "3 attempts ended")]
    )
    outcomes = (
        Outcome(owner.id("a"), CallStatus.SUCCESS, Payload(b"")),
        failed(owner.id("b"), ApplicationError("no_money", "none at all", {})),
    )
    await owner.commit(b"1", id="long", outcomes=outcomes)


def with_owner(url: str, work: Callable[[Owner], Coroutine[Any, Any, None]]) -> None:
    async def run() -> None:
        store = SqliteStore(StorageSettings(url=url), Runtime())
        await store.migrate()
        await work(await Owner(store, 7, Epoch(1, 5), "me", name="t").open())
        await store.close()

    asyncio.run(run())


@pytest.fixture
def url(tmp_path: Path) -> str:
    url = f"sqlite:///{tmp_path}/store.db"
    with_owner(url, _fill)
    return url


def answer(terminal: Terminal, *arguments: str) -> Any:
    result = terminal.run("reliable-calls", *arguments, "-o", "json")
    assert result.exit_code == 0, result.output
    return json.loads(result.stdout)


def test_what_waits_is_counted_by_type_and_the_longest_queues_are_named(
    terminal: Terminal, url: str
) -> None:
    terminal.cluster.up.clear()  # no node is needed
    found = answer(terminal, "stats", "--url", url)
    other, thing = found["types"]
    assert other == {
        "type": "Other", "pending": 0, "delayed": 0, "parked": 1, "oldest_pending_s": None,
        "overdue_s": None,
    }  # fmt: skip
    assert (thing["type"], thing["pending"], thing["parked"]) == ("Thing", 3, 0)
    assert thing["oldest_pending_s"] >= 0
    assert [(queue["id"], queue["pending"]) for queue in found["longest"]] == [
        ("t-short", 2),
        ("t-long", 1),
    ]
    assert len(answer(terminal, "stats", "--url", url, "--top", "1")["longest"]) == 1

    text = terminal.run("reliable-calls", "stats", "--url", url).stdout
    assert "LONGEST QUEUES" in text and "t-short" in text and "Other" in text


def test_outcomes_are_counted_when_asked_for(terminal: Terminal, url: str) -> None:
    other, thing = answer(terminal, "stats", "--finished", "--url", url)["types"]
    assert (thing["success"], thing["failed"], thing["skipped"]) == (1, 1, 0)
    assert (other["success"], other["failed"], other["skipped"]) == (0, 0, 0)
    assert "SUCCESS" in terminal.run("reliable-calls", "stats", "--finished", "--url", url).stdout


def test_an_empty_ledger_says_that_nothing_waits(terminal: Terminal, tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path}/empty.db"
    missing = terminal.run("reliable-calls", "stats", "--url", url)
    assert missing.exit_code == 6 and "db status" in missing.stderr

    async def nothing(owner: Owner) -> None:
        pass

    with_owner(url, nothing)
    assert "No calls wait." in terminal.run("reliable-calls", "stats", "--url", url).stdout
    assert answer(terminal, "stats", "--url", url) == {"types": [], "longest": []}


def test_one_call_is_shown_as_it_stands(terminal: Terminal, url: str) -> None:
    parked = answer(terminal, "get", "t/bad", "--url", url)
    assert (parked["status"], parked["reason"]) == ("parked", "3 attempts ended")
    assert (parked["type"], parked["id"], parked["method"]) == ("Other", "x[red]", "add")
    assert parked["finished_at"] is None and parked["expires_at"] == "2033-05-18T03:33:20.250+00:00"
    failure = answer(terminal, "get", "t/b", "--url", url)
    assert (failure["status"], failure["reason"]) == ("failed", "no_money: none at all")
    assert "x[red]" in terminal.run("reliable-calls", "get", "t/bad", "--url", url).stdout


def test_a_call_for_later_is_shown_with_its_time(terminal: Terminal, tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path}/delayed.db"

    async def fill(owner: Owner) -> None:
        far = Timing(2_000_000_000.5, 60.0, CatchUp.EACH)
        repeated, late = owner.call("far", timing=far), owner.call("late", timing=Timing(1.0))
        calls = [Acceptance(owner.fence, call) for call in (repeated, late)]
        await owner.store.accept(calls)

    with_owner(url, fill)
    found = answer(terminal, "get", "t/far", "--url", url)
    assert (found["status"], found["run_at"]) == ("delayed", "2033-05-18T03:33:20.500+00:00")
    assert (found["every_s"], found["catch_up"]) == (60.0, "each")
    found = answer(terminal, "get", "t/late", "--url", url)
    assert (found["every_s"], found["catch_up"]) == (None, None)
    [line] = answer(terminal, "stats", "--url", url)["types"]
    assert (line["delayed"], line["pending"]) == (2, 0) and 0 <= line["overdue_s"] < 60
    assert "OVERDUE" in terminal.run("reliable-calls", "stats", "--url", url).stdout
    listed = answer(terminal, "list", "--status", "delayed", "--url", url)
    calls = listed["calls"] if isinstance(listed, dict) else listed
    assert [one["run_at"] for one in calls] == [
        "2033-05-18T03:33:20.500+00:00", "1970-01-01T00:00:01.000+00:00",
    ]  # fmt: skip


def test_an_unknown_call_and_a_wrong_id_are_told_apart(terminal: Terminal, url: str) -> None:
    unknown = terminal.run("reliable-calls", "get", "nobody", "--url", url)
    assert unknown.exit_code == 3 and "cleaned up" in unknown.stderr
    wrong = terminal.run("reliable-calls", "get", "a\x01b", "--url", url)
    assert wrong.exit_code == 2
    assert terminal.run("reliable-calls", "stats", "--top", "0", "--url", url).exit_code == 2
    assert "no store" in terminal.run("reliable-calls", "stats").stderr


def test_a_store_that_does_not_answer_ends_the_command(
    terminal: Terminal, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def silent_store(settings: StorageSettings, runtime: Runtime) -> Any:
        client = MemoryStore(runtime).connect()

        async def never() -> Any:
            await asyncio.get_running_loop().create_future()

        monkeypatch.setattr(client, "live_calls", never)
        return client

    monkeypatch.setattr(storage, "open", silent_store)
    result = terminal.run("reliable-calls", "stats", "--url", "memory://", "--timeout", "100ms")
    assert result.exit_code == 8
    assert "within 0.1 s" in result.stderr and "--timeout" in result.stderr
