"""The parts of a store that need no database."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import replace
from importlib.metadata import EntryPoint
from pathlib import Path

import psycopg
import pytest

from goverse import storage
from goverse.aio.runtime import Runtime
from goverse.config.settings import StorageSettings
from goverse.ids import Epoch, ObjectId
from goverse.storage import checks, migrations
from goverse.storage.api import OutcomeUnknown, SchemaStatus, StorageUnavailable, StoreRefused
from goverse.storage.halving import BatchRefused
from goverse.storage.memory import MemoryStore
from goverse.storage.migrations import Migration, status_of
from goverse.storage.postgres.dialect import POSTGRES
from goverse.storage.postgres.failures import Again, of_write
from goverse.storage.rules import STEP_FROM, known_or_conflict
from goverse.storage.supervised import PostgresOptions, PostgresProcess, bundled_postgres
from goverse.storage.values import (
    CallStatus,
    Fence,
    Payload,
    ReliableCall,
    Step,
    StoredCall,
    Verdict,
)

# ---- choosing a backend


async def test_a_backend_is_chosen_by_scheme() -> None:
    runtime = Runtime()
    for url, backend in (
        ("postgresql://u@127.0.0.1/x", "postgres"),
        ("sqlite:///x.db", "sqlite"),
        ("memory://", "memory"),
    ):
        store = await storage.open(StorageSettings(url=url, password="s3cret"), runtime)
        assert store.snapshot().backend == backend
        assert "s3cret" not in repr(store.snapshot())
        await store.close()


async def opener(settings: StorageSettings, runtime: Runtime) -> storage.Store:
    return MemoryStore(runtime).connect()


async def test_others_bring_a_backend_as_an_entry_point(monkeypatch: pytest.MonkeyPatch) -> None:
    mine = EntryPoint("mine", f"{__name__}:opener", "goverse.stores")
    monkeypatch.setattr(
        "goverse.storage.opening.entry_points",
        lambda group, name: [mine] if (group, name) == ("goverse.stores", "mine") else [],
    )
    store = await storage.open(StorageSettings(url="mine://anything"), Runtime())
    assert store.snapshot().backend == "memory"
    with pytest.raises(ValueError, match=r"'other'.*goverse\.stores"):
        await storage.open(StorageSettings(url="other://x"), Runtime())
    monkeypatch.setattr("goverse.storage.opening.entry_points", lambda group, name: [mine, mine])
    with pytest.raises(ValueError, match="several packages"):
        await storage.open(StorageSettings(url="mine://x"), Runtime())


# ---- migrations


def test_the_migrations_of_both_databases_have_the_same_numbers() -> None:
    names = [
        [(m.number, m.name) for m in migrations.migrations(f"goverse.storage.{backend}")]
        for backend in ("postgres", "sqlite")
    ]
    assert names[0] == names[1] != []


def test_what_is_pending_is_named_and_what_is_unknown_refused() -> None:
    known = (Migration(1, "one", "a"), Migration(2, "two", "b"))
    assert status_of(known, {}) == SchemaStatus(0, 2, ("0001_one", "0002_two"))
    assert status_of(known, {1: known[0].digest}).pending == ("0002_two",)
    applied = {m.number: m.digest for m in known}
    assert status_of(known, applied).current
    newer = status_of(known, {**applied, 3: "x"})
    with pytest.raises(StoreRefused, match="newer version"):
        migrations.require_current(newer)
    with pytest.raises(StoreRefused, match="another form"):
        status_of(known, {1: "x"})


# ---- what errors of psycopg mean


@pytest.mark.parametrize(
    ("error", "broken", "meaning"),
    [
        (psycopg.errors.DeadlockDetected, False, Again),
        (psycopg.errors.SerializationFailure, False, Again),
        (psycopg.errors.UniqueViolation, False, BatchRefused),
        (psycopg.errors.ProgramLimitExceeded, False, BatchRefused),
        (psycopg.DataError, False, BatchRefused),
        (psycopg.errors.DiskFull, False, StorageUnavailable),
        (psycopg.errors.QueryCanceled, False, StorageUnavailable),
        (psycopg.errors.ReadOnlySqlTransaction, False, StorageUnavailable),
        (psycopg.errors.UndefinedTable, False, StorageUnavailable),
        (psycopg.errors.AdminShutdown, True, OutcomeUnknown),
        (psycopg.OperationalError, True, OutcomeUnknown),
        (psycopg.errors.UniqueViolation, True, OutcomeUnknown),
    ],
)
def test_a_lost_connection_is_unknown_and_an_error_is_an_answer(
    error: Callable[[str], psycopg.Error], broken: bool, meaning: type[Exception]
) -> None:
    assert type(of_write(error("words"), POSTGRES, broken=broken)) is meaning


# ---- rules

CALL = ReliableCall("c", ObjectId("T", "o"), "add", Payload(b"1"), b"digest")


def stored(call: ReliableCall) -> StoredCall:
    return StoredCall(call, 1, 1, CallStatus.PENDING, 0, None, "", 0.0, None)


def test_only_the_same_call_is_known() -> None:
    assert known_or_conflict(CALL, stored(CALL)).verdict is Verdict.KNOWN
    # Arguments are told apart by their digest: other bytes may mean the same.
    assert known_or_conflict(replace(CALL, arguments=Payload(b"x")), stored(CALL)).verdict is (
        Verdict.KNOWN
    )
    for other in (
        replace(CALL, digest=b"x"),
        replace(CALL, method="x"),
        replace(CALL, object=ObjectId("T", "O")),
        replace(CALL, object=ObjectId("t", "o"), digest=b""),
    ):
        assert known_or_conflict(other, stored(CALL)).verdict is Verdict.CONFLICT


def test_no_step_leads_away_from_a_finished_call() -> None:
    assert set(STEP_FROM) == set(Step)
    assert not any(status.finished for statuses in STEP_FROM.values() for status in statuses)


def test_a_batch_in_flight_is_let_go_whatever_happens() -> None:
    flight = checks.InFlight()
    a, b = ObjectId("T", "a"), ObjectId("T", "b")
    with flight.holding([a]):
        with pytest.raises(ValueError, match="T/a has a batch under way"), flight.holding([b, a]):
            pass
        assert len(flight) == 1
        with flight.holding([b, b]):
            assert len(flight) == 2
    with pytest.raises(RuntimeError), flight.holding([a]):
        raise RuntimeError
    assert len(flight) == 0


def test_fences_of_other_epochs_are_other_fences() -> None:
    fence = Fence(1, Epoch(1, 2), 3)
    assert fence != fence._replace(epoch=Epoch(2, 2))
    assert fence == Fence(1, Epoch(1, 2), 3)


# ---- the supervised server


def test_a_password_is_not_in_what_is_printed() -> None:
    options = PostgresOptions(Path("/x"), bundled_postgres(), password="s3cret", port=5)
    assert "s3cret" not in repr(options)
    server = PostgresProcess(options)
    assert "s3cret" not in server.url + repr(vars(server)["options"])
    # An own password is made where none is given.
    assert len(PostgresProcess(replace(options, password="")).password) >= 32


async def test_a_memory_store_whose_answer_is_lost_says_that_nobody_knows() -> None:
    class Silent:
        async def request(self, operation: Callable[[], object]) -> object:
            operation()
            return await asyncio.Event().wait()

    tables = MemoryStore(Runtime())
    client = tables.connect(Silent(), operation_timeout_s=0.01)  # type: ignore[arg-type]
    with pytest.raises(OutcomeUnknown):
        await client.claim_cluster("one")
    with pytest.raises(StorageUnavailable):
        await client.cluster_id()
    assert tables.tables.cluster_id == "one"
    assert client.snapshot().unknown == 1
