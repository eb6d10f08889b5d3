"""Parts of the store on MariaDB that need no server."""

from __future__ import annotations

import ssl
from pathlib import Path
from types import MappingProxyType

import pytest
from asyncmy.errors import IntegrityError, InterfaceError, OperationalError

from goverse.aio.runtime import Runtime
from goverse.config.settings import StorageSettings
from goverse.ids import ObjectId
from goverse.storage import opening
from goverse.storage.api import OutcomeUnknown, StorageUnavailable
from goverse.storage.halving import BatchRefused
from goverse.storage.mysql import MysqlStore, locks, schema, sql
from goverse.storage.mysql.address import address
from goverse.storage.mysql.failures import Again, Raced, of_write
from goverse.storage.mysql.session import Answer

SOUND = MappingProxyType(
    {
        "innodb_flush_log_at_trx_commit": "1",
        "innodb_doublewrite": "ON",
        "innodb_flush_method": "O_DIRECT",
        "log_bin": "OFF",
        "wsrep_on": "OFF",
        "wsrep_provider": "none",
        "read_only": "OFF",
        "max_allowed_packet": "268435456",
    }
)


def test_a_sound_server_has_no_faults() -> None:
    assert schema.faults("10.11.19-MariaDB-0+deb12u1", dict(SOUND)) == []
    logged = {**SOUND, "log_bin": "ON", "sync_binlog": "1", "binlog_format": "MIXED"}
    assert schema.faults("5.5.5-11.4.2-MariaDB", logged) == []


@pytest.mark.parametrize(
    ("version", "changed", "said"),
    [
        ("10.6.18-MariaDB", {}, "10.6.18-MariaDB is too old"),
        ("8.0.40", {}, "this is MySQL 8.0.40"),
        ("", {"innodb_flush_log_at_trx_commit": "2"}, "innodb_flush_log_at_trx_commit=2"),
        ("", {"innodb_doublewrite": "OFF"}, "innodb_doublewrite=OFF"),
        ("", {"innodb_flush_method": "nosync"}, "innodb_flush_method=nosync"),
        ("", {"log_bin": "ON", "sync_binlog": "0", "binlog_format": "ROW"}, "sync_binlog=0"),
        ("", {"log_bin": "ON", "sync_binlog": "1", "binlog_format": "STATEMENT"}, "binlog_format"),
        ("", {"wsrep_on": "ON"}, "Galera"),
        ("", {"wsrep_provider": "/usr/lib/galera/libgalera_smm.so"}, "Galera"),
        ("", {"group_replication_single_primary_mode": "OFF"}, "several primaries"),
        ("", {"read_only": "ON"}, "read-only"),
        ("", {"max_allowed_packet": "16777216"}, "max_allowed_packet=16777216 is too small"),
    ],
)
def test_what_nodes_must_not_work_with_is_named(
    version: str, changed: dict[str, str], said: str
) -> None:
    found = schema.faults(version or "10.11.19-MariaDB", {**SOUND, **changed})
    assert len(found) == 1 and said in found[0], found


def test_one_primary_of_a_group_is_a_sound_server() -> None:
    grouped = {**SOUND, "group_replication_single_primary_mode": "ON"}
    assert schema.faults("10.11.19-MariaDB", grouped) == []


# ---- addresses


def test_an_address_is_read_from_the_url() -> None:
    found = address("mariadb://us%40er@127.0.0.1:3307/go%20verse")
    assert (found.host, found.port, found.user, found.database, found.tls) == (
        *("127.0.0.1", 3307, "us@er", "go verse"),
        None,
    )
    assert address("mysql://u@[::1]/d").port == 3306
    local = address("mysql://u@localhost/d?socket=/run/mysqld.sock")
    assert local.parameters["unix_socket"] == "/run/mysqld.sock"


@pytest.mark.parametrize(
    ("url", "message"),
    [
        ("mysql://u@h", "names no database"),
        ("mysql://u@h/a/b", "names no database"),
        ("mysql://u@h:99999/d", "port"),
        ("mysql://u@db.example/d", "sslmode is not stated, and db.example is another machine"),
        ("mysql://u@10.0.0.1/d", "sslmode is not stated"),
        ("mysql://u@h/d?sslmode=prefer", "sslmode is 'prefer'"),
        ("mysql://u@h/d?charset=latin1", "'charset' is unknown"),
        ("mysql://u@h/d?sslmode=require&sslrootcert=/nowhere", "cannot be used"),
    ],
)
def test_what_is_no_address_is_said(url: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        address(url)


def test_what_is_asked_of_the_way_is_what_tls_checks() -> None:
    assert address("mysql://u@db.example/d?sslmode=disable").tls is None
    full = address("mysql://u@db.example/d?sslmode=verify-full").tls
    ca = address("mysql://u@db.example/d?sslmode=verify-ca").tls
    bare = address("mysql://u@db.example/d?sslmode=require").tls
    assert full is not None and ca is not None and bare is not None
    assert (full.verify_mode, full.check_hostname) == (ssl.CERT_REQUIRED, True)
    assert (ca.verify_mode, ca.check_hostname) == (ssl.CERT_REQUIRED, False)
    assert (bare.verify_mode, bare.check_hostname) == (ssl.CERT_NONE, False)


@pytest.mark.parametrize("scheme", ["mysql", "mariadb"])
async def test_both_schemes_open_it_and_nothing_shows_the_password(scheme: str) -> None:
    settings = StorageSettings(url=f"{scheme}://u@127.0.0.1:1/d", password="s3cret")
    store = await opening.open(settings, Runtime())
    assert isinstance(store, MysqlStore)
    assert store.snapshot().place == f"{scheme}://127.0.0.1:1/d"
    assert "s3cret" not in repr(store.snapshot()) + repr(settings)
    await store.close()


# ---- errors


@pytest.mark.parametrize(
    ("error", "committing", "meaning"),
    [
        (OperationalError(2013, "Lost connection"), False, OutcomeUnknown),
        (InterfaceError(0, "Not connected"), False, OutcomeUnknown),
        (OperationalError(1927, "Connection was killed"), False, OutcomeUnknown),
        (OperationalError(1026, "Error writing file"), True, OutcomeUnknown),
        (OperationalError(1213, "Deadlock found"), False, Again),
        (OperationalError(1205, "Lock wait timeout exceeded"), False, StorageUnavailable),
        (OperationalError(1969, "max_statement_time exceeded"), False, StorageUnavailable),
        (OperationalError(1021, "Disk full"), False, StorageUnavailable),
        (OperationalError(1290, "read-only option"), False, StorageUnavailable),
        (IntegrityError(1062, "Duplicate entry 'secret' for key 'PRIMARY'"), False, Raced),
        (OperationalError(1406, "Data too long for column 'x'"), False, BatchRefused),
    ],
)
def test_an_error_means_what_its_number_says(
    error: Exception, committing: bool, meaning: type[Exception]
) -> None:
    found = of_write(error, lost=False, committing=committing)  # type: ignore[arg-type]
    assert type(found) is meaning
    assert "secret" not in str(found)


def test_whatever_is_said_on_a_connection_that_is_gone_is_no_answer() -> None:
    deadlock = OperationalError(1213, "Deadlock found")
    assert isinstance(of_write(deadlock, lost=True, committing=False), OutcomeUnknown)


# ---- statements


def test_nothing_that_a_client_sends_ends_a_literal() -> None:
    for value in ("'", "\\'", "x'; DROP TABLE goverse_objects; -- ", "é", "\U0010ffff"):
        literal = sql.text(value)
        assert literal.startswith("x'") and literal.endswith("'")
        assert bytes.fromhex(literal[2:-1]).decode() == value
    assert (sql.blob(None), sql.blob(b""), sql.number(None)) == ("NULL", "x''", "NULL")


def test_rows_are_spread_over_statements() -> None:
    rows = ["(" + "x" * (sql.MAX_STATEMENT_CHARS // 2) + ")"] * 3
    found = sql.statements("INSERT INTO t (a)", rows, " tail")
    assert [statement.count("(x") for statement in found] == [1, 1, 1]
    assert all(statement.endswith(" tail") for statement in found)
    assert sql.statements("INSERT", []) == []


def test_locks_are_taken_in_the_order_of_bytes() -> None:
    wanted = [ObjectId("B", "z"), ObjectId("A", "é"), ObjectId("A", "z"), ObjectId("A", "Z")]
    first, second = locks.objects(wanted)
    assert f"object_type = {sql.text('A')}" in first and f"= {sql.text('B')}" in second
    places = [first.index(sql.text(id)) for id in ("Z", "z", "é")]
    assert places == sorted(places)
    listed = locks.calls(f"{n:04}" for n in range(2500, 0, -1))
    assert [statement.count("x'") for statement in listed] == [1024, 1024, 452]
    assert listed[0].index(sql.text("0001")) < listed[0].index(sql.text("1024"))


def test_numbers_are_drawn_by_the_thousand() -> None:
    assert locks.draw(0) == []
    [one] = locks.draw(1024)
    [two] = locks.draw(1025)
    assert one.count("(NULL)") == 1 and two.count("(NULL)") == 2
    earlier = locks.drawn(Answer((), 1, 7), 1024)
    later = locks.drawn(Answer((), 2, 8), 1025)
    assert earlier[-1] < later[0] and len(later) == 1025
    assert locks.put_back(later) == ["DELETE FROM goverse_seq WHERE drawn BETWEEN 8 AND 9"]


def test_migrations_are_statements_that_may_be_repeated() -> None:
    for migration in schema.known():
        for statement in schema.statements(migration):
            text = "\n".join(
                line for line in statement.splitlines() if not line.startswith("--")
            ).strip()
            assert "IF NOT EXISTS" in text or "ON DUPLICATE KEY" in text, text


def test_the_page_of_packets_is_the_default_of_payloads() -> None:
    assert schema.LEAST_PACKET == 129 * 1024 * 1024
    assert Path(schema.__file__).with_name("migrations").is_dir()
