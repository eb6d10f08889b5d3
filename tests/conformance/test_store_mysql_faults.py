"""What can go wrong between a store's client and MariaDB 10.11."""

from __future__ import annotations

import asyncio
import os
import shutil
import signal
import sys
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pymysql
import pytest

from goverse.aio.runtime import Runtime
from goverse.config.settings import StorageSettings
from goverse.ids import Epoch
from goverse.storage.api import OutcomeUnknown, StorageUnavailable, StoreRefused
from goverse.storage.mysql import MysqlStore, schema
from goverse.storage.mysql.commit import CommitPlan
from goverse.storage.mysql.running import BEGIN
from goverse.storage.values import Acceptance, CallStatus, Outcome, Payload, Verdict
from goverse.testing.conformance.store_kit import Owner, fresh_epoch
from tests.support.certificates import Authority
from tests.support.eventually import eventually
from tests.support.mariadb import DATABASE, PASSWORD, USER, MariadbOptions, MariadbServer, serving
from tests.support.mysql_proxy import MysqlProxy
from tests.support.pacing import last
from tests.support.postgres import open_folder

FROZEN_CLIENT = Path(__file__).parents[1] / "support" / "frozen_mysql_client.py"


@pytest.fixture(scope="module")
def server() -> Iterator[MariadbServer]:
    with serving() as server:
        asyncio.run(server.migrate())
        yield server


@pytest.fixture
async def store(server: MariadbServer) -> AsyncIterator[MysqlStore]:
    store = MysqlStore(server.settings(), Runtime())
    yield store
    await store.close()


@pytest.fixture
async def proxy(server: MariadbServer) -> AsyncIterator[MysqlProxy]:
    proxy = await MysqlProxy(server.options.port).start()
    yield proxy
    await proxy.close()


slots = iter(range(1000, 60_000))


async def owner_of(store: MysqlStore) -> Owner:
    return await Owner(store, next(slots), fresh_epoch(), "first").open()


def waiting(server: MariadbServer) -> int:
    """How many of the nodes' statements have not got on for a while.

    The tables of locks are no help: they are refreshed only when nobody asked for 0.1 s.
    """
    found = server.query(
        "SELECT count(*) FROM information_schema.processlist "
        f"WHERE user = '{USER}' AND command = 'Query' AND time_ms > 100"
    )
    return int(found[0][0])


class Session:
    """A transaction beside the store, which tells the server that it may write."""

    def __init__(self, server: MariadbServer, user: str = USER) -> None:
        self.connection = server.connect(user=user)
        self.cursor = self.connection.cursor()
        self.cursor.execute("SET SESSION TRANSACTION ISOLATION LEVEL READ COMMITTED")
        for statement in BEGIN:
            self.cursor.execute(statement)

    def execute(self, statement: str) -> Any:
        self.cursor.execute(statement)
        return self.cursor.fetchall()

    def end(self, how: str = "ROLLBACK") -> None:
        self.cursor.execute(how)
        self.connection.close()


# ---- late delivery


async def test_a_late_batch_would_be_written_if_nobody_raised(
    server: MariadbServer, store: MysqlStore, proxy: MysqlProxy
) -> None:
    """What the suite's late deliveries are up against: the batch that comes late is a whole one."""
    gated = MysqlStore(server.settings(port=proxy.port), Runtime())
    owner = await owner_of(gated)
    await owner.commit(b"", id="first")
    proxy.hold()
    committing = asyncio.ensure_future(owner.commit(b"late"))
    await eventually(lambda: proxy.holds)
    proxy.heal()
    with pytest.raises(OutcomeUnknown):
        await committing
    assert await store.load([owner.object()]) == {}
    await proxy.release()
    assert (await store.load([owner.object()]))[owner.object()].version == 1
    await gated.close()


async def test_a_late_commit_does_not_overwrite_what_another_connection_committed(
    server: MariadbServer, store: MysqlStore, proxy: MysqlProxy
) -> None:
    """Connection 1 fails after connection 2 committed the same object, under the same fence."""
    gated = MysqlStore(server.settings(port=proxy.port), Runtime())
    owner = await owner_of(gated)
    await owner.commit(b"", id="first")
    proxy.hold()
    committing = asyncio.ensure_future(owner.commit(b"late"))
    await eventually(lambda: proxy.holds)
    proxy.heal()
    with pytest.raises(OutcomeUnknown):
        await committing
    owner.store = store
    assert (await owner.commit(b"newer")).version == 1
    await proxy.release()
    assert await owner.state() == b"newer"
    await gated.close()


async def test_a_connection_cut_in_the_middle_of_an_answer_is_unknown(
    server: MariadbServer, store: MysqlStore, proxy: MysqlProxy
) -> None:
    gated = MysqlStore(server.settings(port=proxy.port), Runtime())
    owner = await owner_of(gated)
    await owner.commit(b"", id="first")
    # It is certainly under way when it is cut: it waits for its fence.
    beside = Session(server)
    beside.execute(f"SELECT 1 FROM goverse_fences WHERE slot = {owner.slot} FOR UPDATE")
    committing = asyncio.ensure_future(owner.commit(b"1"))
    await eventually(lambda: waiting(server) == 1)
    proxy.abort()
    with pytest.raises(OutcomeUnknown, match="connection to MariaDB was lost"):
        await committing
    beside.end()
    owner.store = store
    await owner.open()
    stored = await owner.stored()
    assert (await owner.commit(b"2", version=stored.version if stored else 0)).version >= 1
    assert gated.snapshot().unknown == 1
    await gated.close()


async def test_who_was_shut_out_locks_nothing_of_his_successor(
    server: MariadbServer, store: MysqlStore
) -> None:
    """A former owner's first journey arrives late, and its client never takes the second."""
    old = await owner_of(store)
    await old.commit(b"1")
    new = await Owner(store, old.slot, fresh_epoch(), "second", name=old.name).open()
    late = Session(server)
    gate, *rest = CommitPlan([old.commit_of(b"2", version=1)]).locks()
    with pytest.raises(pymysql.Error, match="more than 1 row"):
        late.execute(gate)
    assert rest, "it would have locked the object next, and a script ends with its first error"
    assert (await new.commit(b"2", version=1)).version == 2
    late.end()


# ---- frozen owners


@pytest.mark.parametrize("where", ["between journeys", "in a packet", "before commit"])
async def test_L02_a_frozen_owner_is_ended_and_the_slot_opens_within_a_second(
    server: MariadbServer, store: MysqlStore, where: str
) -> None:
    owner = await owner_of(store)
    frozen = await asyncio.create_subprocess_exec(
        sys.executable,
        str(FROZEN_CLIENT),
        str(server.options.port),
        DATABASE,
        str(owner.slot),
        where,
        env={**os.environ, "MYSQL_PASSWORD": PASSWORD},
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    assert frozen.stdout is not None
    try:
        assert await frozen.stdout.readline() == b"stopping\n"
        new = Owner(store, owner.slot, fresh_epoch(), "second")
        began = time.monotonic()
        await new.open()
        took_s = time.monotonic() - began
        print(f"opened after {took_s:.3f} s")
        # Half a second of patience, and then the time to end a session.
        assert 0.4 < took_s < 1.5
        assert store.snapshot().ended_sessions == 1
        assert (await new.commit(b"1")).verdict is Verdict.DONE
    finally:
        frozen.send_signal(signal.SIGCONT)
        await frozen.wait()
    assert server.query("SELECT 1 FROM goverse_objects WHERE object_type = 'Frozen'") == ()


async def test_a_raiser_ends_the_head_of_the_queue_and_not_who_waits_beside_it(
    server: MariadbServer, store: MysqlStore
) -> None:
    """Two owners raise at once while a third holds the fence: both get an answer."""
    owner = await owner_of(store)
    other = MysqlStore(server.settings(), Runtime())
    holding = Session(server)
    holding.execute(f"SELECT 1 FROM goverse_fences WHERE slot = {owner.slot} LOCK IN SHARE MODE")
    beside = Session(server)
    beside.execute(f"SELECT 1 FROM goverse_fences WHERE slot = {next(slots)} LOCK IN SHARE MODE")
    low = Owner(store, owner.slot, fresh_epoch(), "low")
    high = Owner(other, owner.slot, fresh_epoch(), "high")
    results = await asyncio.gather(low.open(), high.open(), return_exceptions=True)
    assert isinstance(results[1], Owner), results
    assert not isinstance(results[0], OutcomeUnknown | StorageUnavailable), results
    with pytest.raises(pymysql.Error):
        holding.execute("COMMIT")
    beside.end()  # who holds another fence is left alone
    assert store.snapshot().ended_sessions + other.snapshot().ended_sessions >= 1
    assert (await high.commit(b"1")).verdict is Verdict.DONE
    assert (await low.commit(b"1", id="x")).verdict is Verdict.FENCED
    await other.close()


async def test_a_commit_that_waits_beside_a_frozen_owner_is_not_ended(
    server: MariadbServer, store: MysqlStore
) -> None:
    """Whoever waits for nobody is in the way; who waits for him gets on when he is gone."""
    owner = await owner_of(store)
    await owner.commit(b"0")
    frozen = Session(server)
    frozen.execute(f"SELECT 1 FROM goverse_fences WHERE slot = {owner.slot} LOCK IN SHARE MODE")
    frozen.execute(
        "SELECT 1 FROM goverse_objects WHERE object_type = 'Thing' "
        f"AND object_id = '{owner.object().id}' FOR UPDATE"
    )
    committing = asyncio.ensure_future(owner.commit(b"1", version=1))
    await eventually(lambda: waiting(server) == 1)
    new = Owner(store, owner.slot, fresh_epoch(), "second", name=owner.name)
    await new.open()
    assert (await committing).version == 2
    assert store.snapshot().ended_sessions == 1
    assert await new.state() == b"1"


async def test_many_raisers_that_are_in_want_at_once_all_get_their_slots(
    server: MariadbServer,
) -> None:
    """The tables of locks are shown as they were to whoever asks too often: all together they must
    not ask too often."""
    stores = [MysqlStore(server.settings(), Runtime()) for _ in range(12)]
    mine = [next(slots) for _ in stores]
    holding = [Session(server) for _ in stores]

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
    server: MariadbServer, caplog: pytest.LogCaptureFixture
) -> None:
    store = MysqlStore(server.settings(operation_timeout_s=0.5), Runtime())
    owner = await owner_of(store)
    holding = Session(server, user="root")
    holding.execute(f"SELECT 1 FROM goverse_fences WHERE slot = {owner.slot} LOCK IN SHARE MODE")
    with pytest.raises(StorageUnavailable, match="connect as the same user"):
        await owner.open()
    assert "cannot end sessions" in caplog.text
    holding.end()
    await owner.open()
    await store.close()


# ---- deciding under a concurrent raise


@pytest.mark.parametrize("outcome", ["raised", "rolled back", "rewritten"])
async def test_a_commit_that_waited_for_a_raiser_decides_on_what_that_left(
    server: MariadbServer, store: MysqlStore, outcome: str
) -> None:
    """New objects and old ones, of several slots, with calls: all or none of each."""
    first, second = await owner_of(store), await owner_of(store)
    await first.commit(b"0", id="old")
    await first.commit(b"0", id="gone")
    batch = [
        first.commit_of(b"1", id="new"),
        first.commit_of(b"1", id="old", version=1),
        first.commit_of(b"1", id="stale")._replace(version=9),
        second.commit_of(b"1", id="new"),
    ]
    raiser = Session(server)
    raised = 0 if outcome == "rewritten" else 1
    raiser.execute(
        f"UPDATE goverse_fences SET opening = opening + {raised}, incarnation = 'first' "
        f"WHERE slot = {first.slot}"
    )
    raiser.execute(f"SELECT 1 FROM goverse_fences WHERE slot = {first.slot} FOR UPDATE")
    committing = asyncio.ensure_future(store.commit(batch))
    await eventually(lambda: waiting(server) == 1)
    raiser.end("ROLLBACK" if outcome == "rolled back" else "COMMIT")
    verdicts = [result.verdict for result in await committing]
    if outcome == "raised":
        assert verdicts == [Verdict.FENCED] * 3 + [Verdict.DONE]
        assert await first.stored("new") is None and await first.state("old") == b"0"
    else:
        assert verdicts == [Verdict.DONE, Verdict.DONE, Verdict.VERSION, Verdict.DONE]
        assert await first.state("new") == b"1" and await first.state("old") == b"1"
    assert await second.state("new") == b"1"


async def test_a_commit_that_waited_for_a_call_decides_on_what_that_left(
    server: MariadbServer, store: MysqlStore
) -> None:
    """Locked rows are read as they are then, and not as they were when the transaction began."""
    owner = await owner_of(store)
    await owner.accept("c")
    await owner.commit(b"0", id="old")
    beside = Session(server)
    beside.execute(
        f"UPDATE goverse_reliable_calls SET status = 'parked' WHERE call_id = '{owner.id('c')}'"
    )
    outcome = Outcome(owner.id("c"), CallStatus.SUCCESS, Payload(b"r"))
    committing = asyncio.ensure_future(owner.commit(b"1", outcomes=(outcome,)))
    await eventually(lambda: waiting(server) == 1)
    beside.end("COMMIT")
    assert (await committing).verdict is Verdict.NOT_PENDING
    assert await owner.stored() is None


async def test_a_commit_that_waited_for_an_object_decides_on_what_that_left(
    server: MariadbServer, store: MysqlStore
) -> None:
    owner = await owner_of(store)
    await owner.commit(b"0")
    beside = Session(server)
    beside.execute(
        "UPDATE goverse_objects SET version = 2, state = 'x' WHERE object_type = 'Thing' "
        f"AND object_id = '{owner.object().id}'"
    )
    committing = asyncio.ensure_future(owner.commit(b"1", version=1))
    await eventually(lambda: waiting(server) == 1)
    beside.end("COMMIT")
    assert (await committing).verdict is Verdict.VERSION
    assert await owner.state() == b"x"


# ---- errors of the server


async def test_a_deadlock_is_a_definite_abort_and_is_sent_again(
    server: MariadbServer, store: MysqlStore
) -> None:
    owner = await owner_of(store)
    await owner.commit(b"0")
    await owner.accept("c")
    beside = Session(server)
    # Whoever has changed less is the victim.
    beside.execute("INSERT INTO goverse_seq (drawn) VALUES " + ", ".join(["(NULL)"] * 50))
    beside.execute(
        "SELECT 1 FROM goverse_objects WHERE object_type = 'Thing' "
        f"AND object_id = '{owner.object().id}' FOR UPDATE"
    )
    outcome = Outcome(owner.id("c"), CallStatus.SUCCESS, Payload(b"r"))
    committing = asyncio.ensure_future(owner.commit(b"1", version=1, outcomes=(outcome,)))
    await eventually(lambda: waiting(server) == 1)
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
    server: MariadbServer,
) -> None:
    """It ends the statement only: the locks before it stay, unless they are given back."""
    store = MysqlStore(server.settings(operation_timeout_s=0.5), Runtime())
    owner = await owner_of(store)
    await owner.commit(b"0", id="a")
    await owner.commit(b"0", id="b")
    beside = Session(server)
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
    server: MariadbServer, store: MysqlStore
) -> None:
    """The later one has looked before the earlier one commits, and looks again."""
    owner = await owner_of(store)
    beside = Session(server)
    beside.execute(
        "INSERT INTO goverse_reliable_calls (call_id, slot, seq, status, object_type, object_id, "
        "method, arguments, codec, digest, principal, context, parent, created_at) VALUES "
        f"('{owner.id('c')}', {owner.slot}, 1, 'pending', 'Thing', '{owner.object().id}', 'add', "
        "'', 0, '', '', '', '', 0)"
    )
    accepting = asyncio.ensure_future(
        owner.store.accept([Acceptance(owner.fence, owner.call("c"))])
    )
    await eventually(lambda: waiting(server) == 1)
    beside.end("COMMIT")
    [result] = await accepting
    assert result.verdict is Verdict.KNOWN and result.stored is not None and result.seq == 1


async def test_a_value_beyond_what_a_packet_holds_is_refused_alone(server: MariadbServer) -> None:
    server.query("SET GLOBAL max_allowed_packet = 16777216")
    try:
        store = MysqlStore(server.settings(), Runtime())
        with pytest.raises(StoreRefused, match=r"max_allowed_packet=16777216.*256M"):
            await store.check()
        owner = await owner_of(store)
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
        server.query("SET GLOBAL max_allowed_packet = 268435456")


# ---- outages


async def test_a_restart_between_two_operations_is_not_noticed(server: MariadbServer) -> None:
    store = MysqlStore(server.settings(), Runtime())
    owner = await owner_of(store)
    await owner.commit(b"1")
    await owner.accept("before")
    await server.stop()
    await server.start()
    assert (await owner.commit(b"2", version=1)).version == 2
    # Numbers go on where they were.
    await owner.accept("after")
    assert (await owner.row("after")).seq > (await owner.row("before")).seq
    assert store.snapshot().unknown == 0
    await store.close()


async def test_L27_an_outage_is_said_and_is_no_hot_loop(server: MariadbServer) -> None:
    store = MysqlStore(server.settings(), Runtime())
    owner = await owner_of(store)
    await owner.commit(b"1")
    await server.kill()
    began = time.monotonic()
    for _ in range(4):
        with pytest.raises(StorageUnavailable, match="no connection to MariaDB") as caught:
            await owner.commit(b"2", version=1)
        assert PASSWORD not in str(caught.value)
    # Who asks again at once is made to wait.
    assert time.monotonic() - began > 3 * 0.05
    assert "no connection" in store.snapshot().last_error
    await server.start()
    assert (await owner.commit(b"2", version=1)).version == 2
    await store.close()


async def test_a_crash_of_the_server_under_load_leaves_whole_batches(
    server: MariadbServer,
) -> None:
    store = MysqlStore(server.settings(), Runtime())
    owner = await owner_of(store)
    confirmed = 0

    async def load() -> None:
        nonlocal confirmed
        while True:
            results = await store.commit(
                [owner.commit_of(b"x", id=id, version=confirmed) for id in "ab"]
            )
            assert all(result.verdict is Verdict.DONE for result in results)
            confirmed += 1

    loading = asyncio.ensure_future(load())
    await eventually(lambda: confirmed >= 20)
    await server.kill()
    with pytest.raises((OutcomeUnknown, StorageUnavailable)):
        await loading
    await server.start()
    await owner.open()
    a, b = await owner.stored("a"), await owner.stored("b")
    assert a is not None and b is not None
    assert a.version == b.version and a.version in (confirmed, confirmed + 1)
    await store.close()


# ---- what is refused


async def test_a_wrong_password_is_said_without_the_right_one(server: MariadbServer) -> None:
    settings = replace(server.settings(), password="wr0ng-word")
    store = MysqlStore(settings, Runtime())
    with pytest.raises(StorageUnavailable, match="Access denied") as caught:
        await store.check()
    for text in (str(caught.value), repr(store.snapshot()), repr(settings)):
        assert "wr0ng-word" not in text
    assert store.snapshot().place == f"mysql://127.0.0.1:{server.options.port}/{DATABASE}"
    await store.close()


async def test_the_way_is_protected_as_the_url_says(server: MariadbServer, tmp_path: Path) -> None:
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
    bare = server.settings()
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
def globally(server: MariadbServer, name: str, value: str) -> Iterator[None]:
    [[before]] = server.query(f"SELECT @@global.{name}")
    server.query(f"SET GLOBAL {name} = {value}")
    try:
        yield
    finally:
        server.query(
            f"SET GLOBAL {name} = '{before}'"
            if isinstance(before, str)
            else f"SET GLOBAL {name} = {before}"
        )


@pytest.mark.parametrize(
    ("name", "value"),
    [("innodb_flush_log_at_trx_commit", "2"), ("innodb_flush_log_at_trx_commit", "0")],
)
async def test_L11_a_server_that_can_lose_commits_is_refused(
    server: MariadbServer, store: MysqlStore, name: str, value: str
) -> None:
    await store.check()
    with globally(server, name, value):
        with pytest.raises(StoreRefused, match=f"{name}={value}: a crash could lose"):
            await store.check()
    await store.check()


async def test_a_server_that_takes_no_writes_is_not_used(server: MariadbServer) -> None:
    """A replica may not have yet what was confirmed."""
    with globally(server, "read_only", "1"):
        store = MysqlStore(server.settings(), Runtime())
        with pytest.raises(StorageUnavailable, match="read-only"):
            await store.load([])  # asks nothing
            await store.cluster_id()
        await store.close()


async def test_another_isolation_level_of_the_server_changes_nothing(
    server: MariadbServer,
) -> None:
    with globally(server, "tx_isolation", "'SERIALIZABLE'"):
        store = MysqlStore(server.settings(), Runtime())
        [[level]] = await store._work.read("SELECT @@tx_isolation")
        assert level == "READ-COMMITTED"
        await store.close()


async def test_a_user_who_may_not_see_locks_is_refused(server: MariadbServer) -> None:
    server.query(f"REVOKE PROCESS ON *.* FROM {USER}@'%'")
    try:
        store = MysqlStore(server.settings(), Runtime())
        with pytest.raises(StoreRefused, match="GRANT PROCESS"):
            await store.check()
        await store.close()
    finally:
        server.query(f"GRANT PROCESS ON *.* TO {USER}@'%'")


async def test_a_table_that_was_moved_to_another_engine_is_refused(server: MariadbServer) -> None:
    settings = await server.migrated_database()
    name = settings.url.rpartition("/")[2]
    store = MysqlStore(settings, Runtime())
    await store.check()
    server.query(f"ALTER TABLE {name}.goverse_outbox ENGINE = Aria")
    with pytest.raises(StoreRefused, match=r"goverse_outbox \(Aria\)"):
        await store.check()
    await store.close()


async def test_a_schema_that_is_not_ours_is_refused(server: MariadbServer) -> None:
    settings = await server.new_database()
    store = MysqlStore(settings, Runtime())
    with pytest.raises(StoreRefused, match=r"no schema.*goverse-cli db migrate"):
        await store.check()
    known = tuple(f"{one.number:04d}_{one.name}" for one in schema.known())
    first, second = await asyncio.gather(store.migrate(), store.migrate())
    assert (first, second) in ((known, ()), ((), known))
    name = settings.url.rpartition("/")[2]
    server.query(f"INSERT INTO {name}.goverse_migrations VALUES (999, 'later', 'x', 0)")
    with pytest.raises(StoreRefused, match=r"schema version 999.*newer version"):
        await store.check()
    with pytest.raises(StoreRefused, match="999"):
        await store.migrate()
    server.query(f"DELETE FROM {name}.goverse_migrations WHERE number = 999")
    server.query(f"UPDATE {name}.goverse_migrations SET digest = 'x'")
    with pytest.raises(StoreRefused, match="another form"):
        await store.check()
    await store.close()


async def test_a_migration_that_was_interrupted_anywhere_is_carried_out_again(
    server: MariadbServer,
) -> None:
    """Each definition commits by itself: some of them are there, and what they hold is kept."""
    [migration] = schema.known()
    parts = schema.statements(migration)
    settings = await server.new_database()
    store = MysqlStore(settings, Runtime())
    name = settings.url.rpartition("/")[2]
    with server.connect(database=name) as session, session.cursor() as cursor:
        for part in parts:
            cursor.execute(part)
            cursor.execute(part)
        cursor.execute("UPDATE goverse_fences SET opening = 7 WHERE slot = 3")
    assert (await store.schema_status()).version == 0
    assert await store.migrate() == ("0001_initial",)
    found = server.query(f"SELECT count(*), max(opening) FROM {name}.goverse_fences")
    assert found == ((65_536, 7),)
    await store.check()
    await store.close()


async def test_deadlocks_and_fences_of_many_owners_end_well(
    server: MariadbServer, store: MysqlStore
) -> None:
    """Raises, commits and accepts of the same slots, all at once: each gets an answer."""
    epoch = fresh_epoch()
    mine = [next(slots) for _ in range(8)]
    await store.raise_fence(mine, epoch, "first", 1)
    owners = [Owner(store, slot, epoch, "first", 1) for slot in mine]

    async def commit(owner: Owner) -> None:
        for version in range(10):
            result = await owner.commit(b"x", version=version)
            if result.verdict is Verdict.FENCED:
                return
            assert result.verdict is Verdict.DONE

    async def take_over() -> None:
        higher = Epoch(epoch.generation, epoch.revision + 1_000_000)
        await store.raise_fence(list(reversed(mine)), higher, "second", 1)

    await asyncio.gather(*(commit(owner) for owner in owners), take_over())
    results = await store.commit([owner.commit_of(b"y", id="z") for owner in owners])
    assert [result.verdict for result in results] == [Verdict.FENCED] * len(mine)
