"""What can go wrong between a store's client and MariaDB alone; see test_store_faults.py."""

from __future__ import annotations

import asyncio
import shutil
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import pymysql
import pytest

from goverse.aio.runtime import Runtime
from goverse.config.settings import StorageSettings
from goverse.storage.api import StorageUnavailable, StoreRefused
from goverse.storage.mysql import MysqlStore, schema
from goverse.storage.mysql.commit import CommitPlan
from goverse.storage.values import Acceptance, CallStatus, Outcome, Payload, Verdict
from goverse.testing.conformance.store_kit import Owner, fresh_epoch
from tests.support.certificates import Authority
from tests.support.faulty_servers import FaultyMariadb, fresh_owner, fresh_slot, serving
from tests.support.mariadb import PASSWORD, USER, MariadbOptions, MariadbServer
from tests.support.pacing import last
from tests.support.postgres import open_folder


@pytest.fixture(scope="module")
def server() -> Iterator[FaultyMariadb]:
    with serving("mariadb") as server:
        assert isinstance(server, FaultyMariadb)
        yield server


@pytest.fixture
async def store(server: FaultyMariadb) -> AsyncIterator[MysqlStore]:
    store = server.store()
    yield store
    await store.close()


# ---- owners that come late


async def test_who_was_shut_out_locks_nothing_of_his_successor(
    server: FaultyMariadb, store: MysqlStore
) -> None:
    """A former owner's first journey arrives late, and its client never takes the second."""
    old = await fresh_owner(store)
    await old.commit(b"1")
    new = await Owner(store, old.slot, fresh_epoch(), "second", name=old.name).open()
    late = server.beside()
    gate, *rest = CommitPlan([old.commit_of(b"2", version=1)]).locks()
    with pytest.raises(pymysql.Error, match="more than 1 row"):
        late.execute(gate)
    assert rest, "it would have locked the object next, and a script ends with its first error"
    assert (await new.commit(b"2", version=1)).version == 2
    late.end()


async def test_a_commit_that_waits_beside_a_frozen_owner_is_not_ended(
    server: FaultyMariadb, store: MysqlStore
) -> None:
    """Whoever waits for nobody is in the way; who waits for him gets on when he is gone."""
    owner = await fresh_owner(store)
    await owner.commit(b"0")
    frozen = server.beside()
    frozen.execute(f"SELECT 1 FROM goverse_fences WHERE slot = {owner.slot} LOCK IN SHARE MODE")
    frozen.execute(
        "SELECT 1 FROM goverse_objects WHERE object_type = 'Thing' "
        f"AND object_id = '{owner.object().id}' FOR UPDATE"
    )
    committing = asyncio.ensure_future(owner.commit(b"1", version=1))
    await server.someone_waits()
    new = Owner(store, owner.slot, fresh_epoch(), "second", name=owner.name)
    await new.open()
    assert (await committing).version == 2
    assert store.snapshot().ended_sessions == 1
    assert await new.state() == b"1"


async def test_many_raisers_that_are_in_want_at_once_all_get_their_slots(
    server: FaultyMariadb,
) -> None:
    """The tables of locks are shown as they were to whoever asks too often: all together they must
    not ask too often."""
    stores = [server.store() for _ in range(12)]
    mine = [fresh_slot() for _ in stores]
    holding = [server.beside() for _ in stores]

    async def take_over(place: int) -> None:
        # One after the other, so that no single look shows them all.
        await last(place * 0.05)
        slot = mine[place]
        holding[place].execute(
            f"SELECT 1 FROM goverse_fences WHERE slot = {slot} LOCK IN SHARE MODE"
        )
        await Owner(stores[place], slot, fresh_epoch(), "new").open()

    began = time.monotonic()
    await asyncio.gather(*(take_over(place) for place in range(len(stores))))
    print(f"all open after {time.monotonic() - began:.3f} s")
    assert sum(store.snapshot().ended_sessions for store in stores) == len(stores)
    for store in stores:
        await store.close()


async def test_a_session_that_nodes_may_not_end_is_said_to_hold_the_fence(
    server: FaultyMariadb, caplog: pytest.LogCaptureFixture
) -> None:
    store = MysqlStore(server.process.settings(operation_timeout_s=0.5), Runtime())
    owner = await fresh_owner(store)
    holding = server.beside(user="root")
    holding.execute(f"SELECT 1 FROM goverse_fences WHERE slot = {owner.slot} LOCK IN SHARE MODE")
    with pytest.raises(StorageUnavailable, match="connect as the same user"):
        await owner.open()
    assert "cannot end sessions" in caplog.text
    holding.end()
    await owner.open()
    await store.close()


# ---- deciding under a concurrent raise


async def test_a_commit_that_waited_for_a_call_decides_on_what_that_left(
    server: FaultyMariadb, store: MysqlStore
) -> None:
    """Locked rows are read as they are then, and not as they were when the transaction began."""
    owner = await fresh_owner(store)
    await owner.accept("c")
    await owner.commit(b"0", id="old")
    beside = server.beside()
    beside.execute(
        f"UPDATE goverse_reliable_calls SET status = 'parked' WHERE call_id = '{owner.id('c')}'"
    )
    outcome = Outcome(owner.id("c"), CallStatus.SUCCESS, Payload(b"r"))
    committing = asyncio.ensure_future(owner.commit(b"1", outcomes=(outcome,)))
    await server.someone_waits()
    beside.end("COMMIT")
    assert (await committing).verdict is Verdict.NOT_PENDING
    assert await owner.stored() is None


async def test_a_commit_that_waited_for_an_object_decides_on_what_that_left(
    server: FaultyMariadb, store: MysqlStore
) -> None:
    owner = await fresh_owner(store)
    await owner.commit(b"0")
    beside = server.beside()
    beside.execute(
        "UPDATE goverse_objects SET version = 2, state = 'x' WHERE object_type = 'Thing' "
        f"AND object_id = '{owner.object().id}'"
    )
    committing = asyncio.ensure_future(owner.commit(b"1", version=1))
    await server.someone_waits()
    beside.end("COMMIT")
    assert (await committing).verdict is Verdict.VERSION
    assert await owner.state() == b"x"


# ---- errors of the server


async def test_a_deadlock_is_a_definite_abort_and_is_sent_again(
    server: FaultyMariadb, store: MysqlStore
) -> None:
    owner = await fresh_owner(store)
    await owner.commit(b"0")
    await owner.accept("c")
    beside = server.beside()
    # Whoever has changed less is the victim.
    beside.execute("INSERT INTO goverse_seq (drawn) VALUES " + ", ".join(["(NULL)"] * 50))
    beside.execute(
        "SELECT 1 FROM goverse_objects WHERE object_type = 'Thing' "
        f"AND object_id = '{owner.object().id}' FOR UPDATE"
    )
    outcome = Outcome(owner.id("c"), CallStatus.SUCCESS, Payload(b"r"))
    committing = asyncio.ensure_future(owner.commit(b"1", version=1, outcomes=(outcome,)))
    await server.someone_waits()
    await asyncio.to_thread(
        beside.execute,
        f"SELECT 1 FROM goverse_reliable_calls WHERE call_id = '{owner.id('c')}' FOR UPDATE",
    )
    assert not committing.done()
    beside.end()
    assert (await committing).version == 2
    assert (await owner.row("c")).status is CallStatus.SUCCESS
    assert store.snapshot().unknown == 0


async def test_a_lock_that_is_waited_for_in_vain_leaves_nothing_behind(
    server: FaultyMariadb,
) -> None:
    """It ends the statement only: the locks before it stay, unless they are given back."""
    store = MysqlStore(server.process.settings(operation_timeout_s=0.5), Runtime())
    owner = await fresh_owner(store)
    await owner.commit(b"0", id="a")
    await owner.commit(b"0", id="b")
    beside = server.beside()
    which = "SELECT 1 FROM goverse_objects WHERE object_type = 'Thing' AND object_id = '{}'"
    beside.execute(which.format(owner.object("b").id) + " FOR UPDATE")
    with pytest.raises(StorageUnavailable):
        await store.commit([owner.commit_of(b"1", id=id, version=1) for id in "ab"])
    # The first object, and the fence, are free.
    beside.execute(which.format(owner.object("a").id) + " FOR UPDATE NOWAIT")
    beside.execute(f"SELECT 1 FROM goverse_fences WHERE slot = {owner.slot} FOR UPDATE NOWAIT")
    beside.end()
    assert (await owner.commit(b"1", id="a", version=1)).version == 2
    assert await owner.state("b") == b"0"
    await store.close()


async def test_two_accepts_of_one_id_meet_in_its_row(
    server: FaultyMariadb, store: MysqlStore
) -> None:
    """The later one has looked before the earlier one commits, and looks again."""
    owner = await fresh_owner(store)
    beside = server.beside()
    beside.execute(
        "INSERT INTO goverse_reliable_calls (call_id, slot, seq, status, object_type, object_id, "
        "method, arguments, codec, digest, principal, context, parent, created_at) VALUES "
        f"('{owner.id('c')}', {owner.slot}, 1, 'pending', 'Thing', '{owner.object().id}', 'add', "
        "'', 0, '', '', '', '', 0)"
    )
    accepting = asyncio.ensure_future(
        owner.store.accept([Acceptance(owner.fence, owner.call("c"))])
    )
    await server.someone_waits()
    beside.end("COMMIT")
    [result] = await accepting
    assert result.verdict is Verdict.KNOWN and result.stored is not None and result.seq == 1


async def test_a_value_beyond_what_a_packet_holds_is_refused_alone(server: FaultyMariadb) -> None:
    server.process.query("SET GLOBAL max_allowed_packet = 16777216")
    try:
        store = server.store()
        with pytest.raises(StoreRefused, match=r"max_allowed_packet=16777216.*256M"):
            await store.check()
        owner = await fresh_owner(store)
        batch = [
            owner.commit_of(b"1", id="a"),
            owner.commit_of(bytes(9_000_000), id="b"),
            owner.commit_of(b"1", id="c"),
            # Together they need more than one packet.
            *(owner.commit_of(bytes(3_000_000), id=f"d{n}") for n in range(5)),
        ]
        results = await store.commit(batch)
        assert results[1].verdict is Verdict.REFUSED and "max_allowed_packet" in results[1].message
        others = [result.verdict for result in (results[0], *results[2:])]
        assert others == [Verdict.DONE] * 7
        assert await owner.state("d4") == bytes(3_000_000)
        await store.close()
    finally:
        server.process.query("SET GLOBAL max_allowed_packet = 268435456")


# ---- what is refused


async def test_the_way_is_protected_as_the_url_says(server: FaultyMariadb, tmp_path: Path) -> None:
    authority, other = Authority(tmp_path / "a"), Authority(tmp_path / "b")
    with open_folder() as folder:
        files = {}
        for name, path in (
            ("ssl-ca", authority.pair.certificate),
            ("ssl-cert", (pair := authority.issue("server")).certificate),
            ("ssl-key", pair.key),
        ):
            files[name] = folder / path.name
            shutil.copyfile(path, files[name])
            files[name].chmod(0o644)
        settings = tuple(f"{name}={path}" for name, path in files.items())
        protected = MariadbServer(MariadbOptions(folder / "data", settings=settings))
        try:
            await protected.start()
            protected_settings = protected.settings()

            async def cipher(mode: str, authority: Authority) -> str:
                url = (
                    f"{protected_settings.url}?sslmode={mode}"
                    f"&sslrootcert={authority.pair.certificate}"
                )
                store = MysqlStore(replace(protected_settings, url=url), Runtime())
                try:
                    [[_, found]] = await store._work.read("SHOW SESSION STATUS LIKE 'Ssl_cipher'")
                finally:
                    await store.close()
                return str(found)

            assert await cipher("disable", authority) == ""
            for mode in ("require", "verify-ca", "verify-full"):
                assert await cipher(mode, authority) != ""
            assert await cipher("require", other) != ""
            with pytest.raises(StorageUnavailable, match="certificate verify failed"):
                await cipher("verify-full", other)
        finally:
            await protected.kill()
    # A server that knows no TLS, or somebody in between who says so, gets no password.
    bare = server.process.settings()
    store = MysqlStore(replace(bare, url=f"{bare.url}?sslmode=require"), Runtime())
    with pytest.raises(StorageUnavailable, match="no connection to MariaDB"):
        await store.cluster_id()
    await store.close()


async def test_a_server_that_asks_for_the_password_itself_does_not_get_it() -> None:
    """Somebody in between can say so, on a way that is not protected."""
    heard = bytearray()

    async def ask(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        greeting = (
            b"\x0a10.11.19-MariaDB\0\1\0\0\0"
            + b"a" * 8
            + b"\0\xfe\xf7\x2d\2\0\xff\x81\x15"
            + b"\0" * 10
            + b"b" * 12
            + b"\0mysql_native_password\0"
        )
        writer.write(len(greeting).to_bytes(3, "little") + b"\0" + greeting)
        heard.extend(await reader.read(4096))
        switch = b"\xfemysql_clear_password\0"
        writer.write(len(switch).to_bytes(3, "little") + b"\2" + switch)
        heard.extend(await reader.read(4096))
        writer.close()

    async with await asyncio.start_server(ask, "127.0.0.1", 0) as listening:
        port = listening.sockets[0].getsockname()[1]
        settings = StorageSettings(url=f"mysql://u@127.0.0.1:{port}/d", password=PASSWORD)
        store = MysqlStore(settings, Runtime())
        with pytest.raises(StorageUnavailable, match="password in plain text"):
            await store.cluster_id()
        await store.close()
    assert heard and PASSWORD.encode() not in heard


@contextmanager
def globally(server: FaultyMariadb, name: str, value: str) -> Iterator[None]:
    [[before]] = server.process.query(f"SELECT @@global.{name}")
    server.process.query(f"SET GLOBAL {name} = {value}")
    try:
        yield
    finally:
        server.process.query(
            f"SET GLOBAL {name} = '{before}'"
            if isinstance(before, str)
            else f"SET GLOBAL {name} = {before}"
        )


@pytest.mark.parametrize(
    ("name", "value"),
    [("innodb_flush_log_at_trx_commit", "2"), ("innodb_flush_log_at_trx_commit", "0")],
)
async def test_L11_a_server_that_can_lose_commits_is_refused(
    server: FaultyMariadb, store: MysqlStore, name: str, value: str
) -> None:
    await store.check()
    with globally(server, name, value):
        with pytest.raises(StoreRefused, match=f"{name}={value}: a crash could lose"):
            await store.check()
    await store.check()


async def test_a_server_that_takes_no_writes_is_not_used(server: FaultyMariadb) -> None:
    """A replica may not have yet what was confirmed."""
    with globally(server, "read_only", "1"):
        store = server.store()
        with pytest.raises(StorageUnavailable, match="read-only"):
            await store.load([])  # asks nothing
            await store.cluster_id()
        await store.close()


async def test_another_isolation_level_of_the_server_changes_nothing(
    server: FaultyMariadb,
) -> None:
    with globally(server, "tx_isolation", "'SERIALIZABLE'"):
        store = server.store()
        [[level]] = await store._work.read("SELECT @@tx_isolation")
        assert level == "READ-COMMITTED"
        await store.close()


async def test_a_user_who_may_not_see_locks_is_refused(server: FaultyMariadb) -> None:
    server.process.query(f"REVOKE PROCESS ON *.* FROM {USER}@'%'")
    try:
        store = server.store()
        with pytest.raises(StoreRefused, match="GRANT PROCESS"):
            await store.check()
        await store.close()
    finally:
        server.process.query(f"GRANT PROCESS ON *.* TO {USER}@'%'")


async def test_a_table_that_was_moved_to_another_engine_is_refused(server: FaultyMariadb) -> None:
    settings = await server.process.migrated_database()
    name = settings.url.rpartition("/")[2]
    store = MysqlStore(settings, Runtime())
    await store.check()
    server.process.query(f"ALTER TABLE {name}.goverse_outbox ENGINE = Aria")
    with pytest.raises(StoreRefused, match=r"goverse_outbox \(Aria\)"):
        await store.check()
    await store.close()


async def test_a_migration_that_was_interrupted_anywhere_is_carried_out_again(
    server: FaultyMariadb,
) -> None:
    """Each definition commits by itself: some of them are there, and what they hold is kept."""
    [migration] = schema.known()
    parts = schema.statements(migration)
    settings = await server.process.new_database()
    store = MysqlStore(settings, Runtime())
    name = settings.url.rpartition("/")[2]
    with server.process.connect(database=name) as session, session.cursor() as cursor:
        for part in parts:
            cursor.execute(part)
            cursor.execute(part)
        cursor.execute("UPDATE goverse_fences SET opening = 7 WHERE slot = 3")
    assert (await store.schema_status()).version == 0
    assert await store.migrate() == ("0001_initial",)
    found = server.process.query(f"SELECT count(*), max(opening) FROM {name}.goverse_fences")
    assert found == ((65_536, 7),)
    await store.check()
    await store.close()
