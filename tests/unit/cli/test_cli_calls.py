"""``reliable-calls list|retry|cancel|cleanup|archive``, the store's part on a real file."""

from __future__ import annotations

import asyncio
import datetime
import json
import logging
import sqlite3
import stat
import sys
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from goverse.aio.runtime import Runtime
from goverse.config.settings import StorageSettings
from goverse.ids import Epoch
from goverse.reliable.archive import delete_archived, export
from goverse.reliable.archive_files import ArchiveFault, Format, JsonLines, Parquet
from goverse.reliable.cleanup import FINISHED, Deleted, delete, select
from goverse.sharding import slot_of
from goverse.storage.sqlite import SqliteStore
from goverse.storage.values import CallStatus, CallStep, OutboxChange, OutboxStep, Step
from goverse.testing.conformance.store_kit import Owner

if TYPE_CHECKING:
    from .conftest import Terminal

DAY = 86_400


def rows_of(url: str, statement: str, *values: Any) -> list[tuple[Any, ...]]:
    """What SQL says."""
    with closing(sqlite3.connect(url.removeprefix("sqlite:///"))) as connection:
        found = connection.execute(statement, values).fetchall()
        connection.commit()
        return found


def everything(url: str) -> list[tuple[Any, ...]]:
    return [
        row
        for table in ("goverse_reliable_calls", "goverse_outbox", "goverse_objects")
        for row in rows_of(url, f"SELECT * FROM {table} ORDER BY 1")
    ]


@pytest.fixture
def url(tmp_path: Path) -> str:
    """Live calls of Thing, and 300 finished ones of all outcomes, a day apart, of Old/o."""
    url = f"sqlite:///{tmp_path}/store.db"

    async def fill() -> None:
        store = SqliteStore(StorageSettings(url=url), Runtime())
        await store.migrate()
        owner = await Owner(store, slot_of("t-o"), Epoch(1, 5), "me", name="t").open()
        await owner.accept("p1", "p2", "bad")
        parking = CallStep(owner.fence, owner.id("bad"), Step.PARK, "3 attempts ended")
        await store.change_calls([parking])
        await owner.commit(b"1", outbox=(owner.call("child"), owner.call("lost")))
        await store.change_outbox(
            [OutboxChange(owner.fence, owner.id("lost"), OutboxStep.PARK, "no such method")]
        )
        await store.close()

    asyncio.run(fill())
    now = int(datetime.datetime.now(datetime.UTC).timestamp() * 1e6)
    old = [
        (
            f"old-{n:03d}" if n != 200 else "t/child",  # its delivery still stands
            ("success", "failed", "skipped")[n % 3],
            bytes([n % 256, 0, 255]),
            None if n % 3 == 2 else b"\xc0",
            now - n * DAY * 1_000_000 - 3_600_000_001,
            now - n * DAY * 1_000_000 - 3_600_000_000,
        )
        for n in range(300)
    ]
    with closing(sqlite3.connect(url.removeprefix("sqlite:///"))) as connection:
        connection.executemany(
            "INSERT INTO goverse_reliable_calls (call_id, slot, status, object_type, object_id, "
            "method, arguments, codec, digest, principal, context, parent, result, result_codec, "
            "created_at, finished_at) VALUES (?, 5, ?, 'Old', 'o', 'm', ?, 0, x'01', 'p', x'', "
            "'', ?, 0, ?, ?)",
            old,
        )
        connection.commit()
    return url


def answer(terminal: Terminal, *arguments: str, exit_code: int = 0) -> Any:
    result = terminal.run("reliable-calls", *arguments, "-o", "json")
    assert result.exit_code == exit_code, result.output
    return json.loads(result.stdout)


def ids(found: Any) -> list[str]:
    return [call["call_id"] for call in found["calls"]]


# ---- list


def test_live_calls_are_listed_and_finished_ones_when_asked_for(
    terminal: Terminal, url: str
) -> None:
    terminal.cluster.up.clear()  # no node is needed
    found = answer(terminal, "list", "--url", url)
    assert ids(found) == ["t/p1", "t/p2", "t/bad"] and found["complete"]
    assert found["calls"][2]["reason"] == "3 attempts ended"
    parked = answer(terminal, "list", "--url", url, "--status", "parked")
    assert ids(parked) == ["t/bad"]
    by_object = answer(terminal, "list", "--url", url, "--type", "Thing", "--id", "t-o")
    assert ids(by_object) == ids(found)
    assert not ids(answer(terminal, "list", "--url", url, "--type", "Thing", "--id", "t-p"))
    failed = answer(
        terminal, "list", "--url", url, "--status", "failed,skipped", "--younger-than", "10d"
    )
    assert ids(failed) == ["old-007", "old-004", "old-001", "old-008", "old-005", "old-002"]
    older = answer(terminal, "list", "--url", url, "--status", "failed", "--older-than", "290d")
    assert ids(older) == ["old-298", "old-295", "old-292"]
    few = answer(terminal, "list", "--url", url, "--status", "success", "--limit", "2")
    assert ids(few) == ["old-297", "old-294"] and not few["complete"]
    text = terminal.run("reliable-calls", "list", "--url", url)
    assert "3 attempts ended" in text.stdout and "t/p1" in text.stdout


def test_deliveries_are_listed_with_their_senders(terminal: Terminal, url: str) -> None:
    found = answer(terminal, "list", "--url", url, "--outbox")
    [lost] = found["calls"]
    assert (lost["call_id"], lost["reason"]) == ("t/lost", "no such method")
    assert (lost["sender_type"], lost["sender_id"]) == ("Thing", "t-o")
    waiting = answer(terminal, "list", "--url", url, "--outbox", "--status", "pending")
    assert ids(waiting) == ["t/child"]


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("--status", "done"), "not among"),
        (("--older-than", "30"), "not an age"),
        (("--id", "x"), "--type"),
        (("--outbox", "--status", "failed"), "pending or parked"),
        (("--type", "T", "--id", "shard#x/y"), "--id"),
    ],
)
def test_what_cannot_be_listed_is_said(
    terminal: Terminal, url: str, arguments: tuple[str, ...], said: str
) -> None:
    result = terminal.run("reliable-calls", "list", "--url", url, *arguments)
    assert result.exit_code == 2 and said in result.stderr, result.output


# ---- retry and cancel


def test_a_call_is_cancelled_by_a_node(terminal: Terminal) -> None:
    found = answer(terminal, "cancel", "c-1", "--reason", "typed wrongly")
    assert (found["call_id"], found["status"], found["changed"]) == ("c-1", "skipped", True)
    assert terminal.cluster.asked[-1] == ("cancel_call", "c-1", "", "", "typed wrongly", 10.0)
    answer(terminal, "cancel", "c-2", "--type", "Account", "--id", "a", "--timeout", "1s")
    assert terminal.cluster.asked[-1] == ("cancel_call", "c-2", "Account", "a", "", 1.0)
    half = terminal.run("reliable-calls", "cancel", "c-2", "--type", "Account")
    assert half.exit_code == 2 and "go together" in half.stderr


@pytest.mark.parametrize(
    ("command", "status", "changed", "exit_code"),
    [
        ("cancel", "success", False, 6),
        ("cancel", "skipped", False, 0),
        ("retry", "pending", True, 0),
        ("retry", "pending", False, 0),
        ("retry", "failed", False, 6),
    ],
)
def test_the_exit_status_tells_what_became_of_it(
    terminal: Terminal, command: str, status: str, changed: bool, exit_code: int
) -> None:
    terminal.cluster.change = type(terminal.cluster.change)(
        type="A", id="a", status=status, changed=changed
    )
    found = answer(terminal, command, "c", exit_code=exit_code)
    assert (found["status"], found["changed"]) == (status, changed)


# ---- cleanup


def old_calls(url: str, days: int) -> dict[str, int]:
    """By status, what SQL says is to go."""
    before = (datetime.datetime.now(datetime.UTC).timestamp() - days * DAY) * 1e6
    return dict(
        rows_of(
            url,
            "SELECT status, count(*) FROM goverse_reliable_calls WHERE finished_at < ? "
            "AND call_id NOT IN (SELECT call_id FROM goverse_outbox) GROUP BY status",
            before,
        )
    )


def test_a_dry_run_says_what_the_real_run_deletes_and_writes_nothing(
    terminal: Terminal, url: str
) -> None:
    before = everything(url)
    wanted = old_calls(url, 30)
    found = answer(terminal, "cleanup", "--older-than", "30d", "--dry-run", "--url", url)
    assert found["by_status"] == wanted and found["calls"] == sum(wanted.values()) == 269
    assert found["spared"] == 1 and found["dry_run"]
    by_age = {(a["status"], a["older_than_s"] / DAY): a["calls"] for a in found["by_age"]}
    assert by_age["success", 30.0] == 20 and by_age["success", 90.0] == 70
    assert sum(by_age.values()) == 269
    assert found["table_bytes"] > 0 and found["oldest"] < found["newest"]
    assert everything(url) == before
    text = terminal.run(
        "reliable-calls", "cleanup", "--older-than", "30d", "--dry-run", "--url", url
    )
    assert "269 calls" in text.stdout and "runs again" in text.stdout
    assert everything(url) == before

    done = answer(
        terminal, "cleanup", "--older-than", "30d", "--yes", "--pause", "1ms", "--url", url
    )
    assert (done["deleted"], done["complete"]) == (269, True)
    assert done["deleted_by_status"] == wanted and old_calls(url, 30) == {}
    left = everything(url)
    assert [row for row in before if row in left] == left and len(before) - len(left) == 269
    again = answer(terminal, "cleanup", "--older-than", "30d", "--yes", "--url", url)
    assert (again["deleted"], again["spared"]) == (0, 1)


def test_only_the_named_outcomes_go(terminal: Terminal, url: str) -> None:
    done = answer(
        terminal, "cleanup", "--older-than", "100d", "--status", "failed", "--yes", "--url", url
    )
    assert done["deleted_by_status"] == {"failed": 67}
    wrong = terminal.run(
        "reliable-calls", "cleanup", "--older-than", "1d", "--status", "pending", "--url", url
    )
    assert wrong.exit_code == 2 and "success, failed, skipped" in wrong.stderr
    missing = terminal.run("reliable-calls", "cleanup", "--url", url)
    assert missing.exit_code == 2 and "--older-than" in missing.stderr


def test_off_a_terminal_it_deletes_nothing_without_yes(terminal: Terminal, url: str) -> None:
    before = everything(url)
    for command in (("cleanup",), ("archive", "--to", url.removeprefix("sqlite:///") + ".jsonl")):
        result = terminal.run("reliable-calls", *command, "--older-than", "30d", "--url", url)
        assert result.exit_code == 6 and "--yes" in result.stderr, result.output
    assert everything(url) == before


def test_a_cleanup_is_in_the_audit_log(
    terminal: Terminal, url: str, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "goverse.audit")
    result = terminal.run(
        "reliable-calls", "cleanup", "--older-than", "1h", "--yes", "--pause", "1ms", "--url", url
    )
    assert result.exit_code == 0, result.output
    first, last = [record for record in caplog.records if record.name == "goverse.audit"]
    assert first.action == last.action == "cleanup_calls"  # type: ignore[attr-defined]
    assert first.outcome == "begun, 299 calls"  # type: ignore[attr-defined]
    assert last.outcome == "done, 299 deleted"  # type: ignore[attr-defined]
    assert "@" in last.by and "goverse.audit: cleanup_calls" in result.stderr  # type: ignore[attr-defined]


def opened(url: str) -> SqliteStore:
    return SqliteStore(StorageSettings(url=url), Runtime())


async def test_stopped_and_repeated_it_deletes_exactly_those(url: str) -> None:
    wanted = sum(old_calls(url, 30).values())
    store = opened(url)
    selection = await select(store, FINISHED, 30 * DAY)
    first, second = Deleted(), Deleted()
    reached = asyncio.Event()

    def half(calls: int) -> None:
        if calls >= wanted // 2:
            reached.set()

    running = asyncio.ensure_future(
        delete(store, selection, first, batch=10, pause_s=0.001, progress=half)
    )
    await reached.wait()
    running.cancel()
    await asyncio.wait([running])
    assert running.cancelled() and first.calls < wanted
    assert await delete(store, selection, second, batch=10, pause_s=0.001)
    assert first.calls + second.calls == wanted and old_calls(url, 30) == {}
    assert len(rows_of(url, "SELECT 1 FROM goverse_reliable_calls WHERE finished_at > 0")) == 31
    await store.close()


async def test_a_part_is_as_large_as_it_may_be(url: str) -> None:
    store = opened(url)
    selection = await select(store, FINISHED, 30 * DAY)
    deleted = Deleted()
    assert not await delete(store, selection, deleted, batch=7, pause_s=0.001, max_calls=20)
    assert deleted.calls == 20
    now = asyncio.get_running_loop().time()
    assert not await delete(store, selection, deleted, until=now)
    assert deleted.calls == 20
    for wrong in ((), (CallStatus.PENDING,)):
        with pytest.raises(ValueError, match="cleaned up"):
            await select(store, wrong, DAY)
    with pytest.raises(ValueError, match="age"):
        await select(store, FINISHED, 0)
    await store.close()


# ---- archive


@pytest.mark.parametrize("suffix", ["jsonl", "parquet"])
def test_calls_are_exported_verified_and_deleted(
    terminal: Terminal, url: str, tmp_path: Path, suffix: str
) -> None:
    wanted = dict(
        rows_of(url, "SELECT call_id, arguments FROM goverse_reliable_calls WHERE finished_at > 0")
    )
    del wanted["t/child"]  # its delivery stands
    rows_of(
        url,
        "UPDATE goverse_reliable_calls SET run_at = 1500000, every = 2500000, catch_up = 'each' "
        "WHERE call_id = 'old-002'",
    )
    path = tmp_path / f"calls.{suffix}"
    common = ("--older-than", "30m", "--to", str(path), "--pause", "1ms", "--url", url)
    kept = answer(terminal, "archive", *common, "--keep")
    assert (kept["exported"], kept["deleted"]) == (299, 0)
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    format: Format = JsonLines() if suffix == "jsonl" else Parquet()
    records = [record for page in format.read(path) for record in page]
    assert {record["call_id"]: record["arguments"] for record in records} == wanted
    assert {record["result"] for record in records} == {None, b"\xc0"}
    timings = {
        record["call_id"]: (record["run_at"].timestamp(), record["every_s"], record["catch_up"])
        for record in records
        if record["run_at"] or record["every_s"] or record["catch_up"]
    }
    assert timings == {"old-002": (1.5, 2.5, "each")}

    there = terminal.run("reliable-calls", "archive", *common, "--yes")
    assert there.exit_code == 6 and "is there already" in there.stderr
    path.unlink()
    done = answer(terminal, "archive", *common, "--yes")
    assert (done["exported"], done["deleted"], done["digest"]) == (299, 299, kept["digest"])
    left = rows_of(url, "SELECT call_id FROM goverse_reliable_calls WHERE finished_at > 0")
    assert left == [("t/child",)] and list(tmp_path.glob("*.part")) == []


class Lossy(JsonLines):
    """A disk that changes what is written."""

    def read(self, path: Path) -> Any:
        for page in super().read(path):
            page[0]["arguments"] = b"other"
            yield page


@pytest.mark.parametrize("fault", ["changed", "short"])
async def test_a_file_that_does_not_hold_what_was_written_deletes_nothing(
    url: str, tmp_path: Path, fault: str
) -> None:
    class Short(JsonLines):
        def read(self, path: Path) -> Any:
            yield from list(super().read(path))[:-1]

    store = opened(url)
    selection = await select(store, FINISHED, 3000)
    path, part = tmp_path / "calls.jsonl", tmp_path / "calls.jsonl.part"
    with pytest.raises(ArchiveFault, match="does not hold"):
        await export(store, selection, Lossy() if fault == "changed" else Short(), path)
    assert not path.exists() and not part.exists()
    assert sum(old_calls(url, 0).values()) == 299
    await store.close()


async def test_only_what_the_file_holds_is_deleted(url: str, tmp_path: Path) -> None:
    store = opened(url)
    selection = await select(store, FINISHED, 100 * DAY)
    archive = await export(store, selection, JsonLines(), tmp_path / "calls.jsonl")
    # Somebody cleans one of them up meanwhile, and its id runs again; another is old enough, and
    # was not seen.
    rows_of(
        url,
        "UPDATE goverse_reliable_calls SET finished_at = ? WHERE call_id = 'old-150'",
        int(selection.now * 1e6),
    )
    rows_of(
        url,
        "UPDATE goverse_reliable_calls SET finished_at = 1 WHERE call_id = 'old-000'",
    )
    deleted = Deleted()
    await delete_archived(
        store, archive, JsonLines(), selection.before, deleted, batch=16, pause_s=0.001
    )
    assert deleted.calls == archive.calls - 1
    left = {call_id for (call_id,) in rows_of(url, "SELECT call_id FROM goverse_reliable_calls")}
    assert {"old-150", "old-000"} <= left
    await store.close()


def test_what_cannot_be_archived_is_said(
    terminal: Terminal, url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    common = ("reliable-calls", "archive", "--older-than", "30d", "--yes", "--url", url, "--to")
    unknown = terminal.run(*common, str(tmp_path / "calls.csv"))
    assert unknown.exit_code == 2 and ".parquet" in unknown.stderr
    nowhere = terminal.run(*common, str(tmp_path / "no" / "calls.jsonl"))
    assert nowhere.exit_code == 6 and "nothing was deleted" in nowhere.stderr
    broken = tmp_path / "broken.jsonl"
    broken.write_text('{"call_id": "x"}\n')
    with pytest.raises(ArchiveFault, match="line 1"):
        list(JsonLines().read(broken))
    with pytest.raises(ArchiveFault):
        list(Parquet().read(broken))

    monkeypatch.setitem(sys.modules, "pyarrow", None)
    missing = terminal.run(*common, str(tmp_path / "calls.parquet"))
    assert missing.exit_code == 2 and "goverse[archive]" in missing.stderr
