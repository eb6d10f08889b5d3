"""How the databases that speak PostgreSQL's protocol differ. Nobody else asks which one it is.

`COCKROACH` was written from CockroachDB's documentation and source. Its statements, its isolation
and its retries are tested on PostgreSQL at SERIALIZABLE; none of it has met the real thing. What
each line is about, and why the fence holds there, stands in the DESIGN.md of `goverse.storage`.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cache
from types import MappingProxyType

from psycopg import ConnectionInfo

_LOCK = re.compile(rb" FOR SHARE\b")
_COLLATION = re.compile(rb' COLLATE "C"')
_NUMBER = re.compile(rb"nextval\('goverse_seq'\) /\* in the order of ([a-z_.]+) \*/")
_PLACED = rb"(((SELECT nextval('goverse_seq')) << 20) + \1)"


@dataclass(frozen=True, eq=False, kw_only=True)
class Dialect:
    """One of them.

    :param name: what a store's snapshot calls its backend.
    :param scheme: of the URLs that choose it.
    :param parameters: of a connection, where its URL does not say otherwise.
    :param settings: of each session, beside the limits of time.
    :param faults: what is wrong with a server, by what it says when it is connected to.
    :param not_durable: settings, and their values, under which a crash can take a commit back.
    :param unknown: how SQLSTATE begins after which a write may have been carried out.
    :param trusts_errors: whether a write is certainly not carried out after an ERROR that came
        before the connection broke.
    :param max_tries: of a transaction that is aborted because of others.
    :param ends_sessions: whether the sessions of former owners that hold a fence can be ended.
    :param settle_s: seconds after a raise until no clock of the cluster is behind it.
    :param written: a statement in its words.
    :param ledger_size: a statement that returns the bytes of the ledger and of its indexes.
    :param warning: what an operator must know; empty: nothing.
    """

    name: str
    scheme: str
    parameters: Mapping[str, str]
    settings: Mapping[str, str]
    faults: Callable[[ConnectionInfo], list[str]]
    not_durable: tuple[tuple[str, str], ...]
    unknown: tuple[str, ...]
    trusts_errors: bool
    max_tries: int
    ends_sessions: bool
    settle_s: float
    written: Callable[[bytes], bytes]
    ledger_size: str
    warning: str = ""

    def url(self, url: str) -> str:
        """``url`` as libpq knows it."""
        scheme, separator, rest = url.partition("://")
        return f"postgresql://{rest}" if separator and scheme == self.scheme else url


# ---- PostgreSQL

OLDEST_POSTGRES = 150_000


def _postgres_faults(info: ConnectionInfo) -> list[str]:
    if info.parameter_status("crdb_version"):
        return ["this is CockroachDB: storage.url must begin with cockroachdb://"]
    if info.server_version < OLDEST_POSTGRES:
        return [f"PostgreSQL {info.server_version // 10_000} is too old: use 15 or newer"]
    return []


def _as_it_is(statement: bytes) -> bytes:
    return statement


POSTGRES = Dialect(
    name="postgres",
    scheme="postgresql",
    # Reads too: a standby may not have yet what was confirmed.
    parameters=MappingProxyType({"target_session_attrs": "read-write"}),
    settings=MappingProxyType(
        {
            # A plan is made for tables that are still empty, and kept while they grow.
            "enable_seqscan": "off",
            # One plan for every size of a batch. Planning such a statement for the batch at hand
            # takes longer than carrying it out, and the server may choose that for ever.
            "plan_cache_mode": "force_generic_plan",
            # The statements are written for it; a role or a database may have another default.
            "default_transaction_isolation": r"read\ committed",
        }
    ),
    faults=_postgres_faults,
    not_durable=(("fsync", "off"), ("synchronous_commit", "off"), ("full_page_writes", "off")),
    unknown=("08007", "40003"),
    trusts_errors=True,
    max_tries=5,
    ends_sessions=True,
    settle_s=0.0,
    written=_as_it_is,
    ledger_size=(
        "SELECT pg_table_size('goverse_reliable_calls'), pg_indexes_size('goverse_reliable_calls')"
    ),
)


# ---- CockroachDB

OLDEST_COCKROACH = (25, 1)


def _cockroach_faults(info: ConnectionInfo) -> list[str]:
    said = info.parameter_status("crdb_version")
    if not said:
        return ["this is not CockroachDB: storage.url must begin with postgresql://"]
    version = re.search(r"v(\d+)\.(\d+)", said)
    if version is None or (int(version[1]), int(version[2])) < OLDEST_COCKROACH:
        return [f"{said[:64]} is not known to be v25.1 or newer, which is needed"]
    return []


@cache
def cockroach_words(statement: bytes) -> bytes:
    """No lock where isolation is enough, no collation, and numbers that follow no order of rows.

    Rows come in no order there, whatever a subquery says. So a number is drawn for a statement as
    a whole, and has 2**20 places below it: to it the place of a row in its batch is added.
    """
    return _NUMBER.sub(_PLACED, _COLLATION.sub(b"", _LOCK.sub(b"", statement)))


COCKROACH = Dialect(
    name="cockroachdb",
    scheme="cockroachdb",
    parameters=MappingProxyType({"port": "26257"}),
    settings=MappingProxyType(
        {
            "default_transaction_isolation": "serializable",
            # A role may have reads of the past as its default.
            "default_transaction_use_follower_reads": "off",
            # A statement changes no row twice: an object, a call and a delivery stand once in it.
            "enable_multiple_modifications_of_table": "on",
            # A migration is one transaction.
            "autocommit_before_ddl": "off",
        }
    ),
    faults=_cockroach_faults,
    not_durable=(),
    # 40003 is an ambiguous result. A timeout or a shutdown is said in the place of it, also in the
    # middle of a commit, and what comes from between the nodes has no class of its own.
    unknown=("08", "40003", "57", "58", "XX"),
    trusts_errors=False,
    max_tries=20,
    ends_sessions=False,
    # --max-offset, as servers are started by default.
    settle_s=0.5,
    written=cockroach_words,
    # Nobody may ask for it without a right of its own.
    ledger_size="SELECT NULL::int8, NULL::int8",
    warning=(
        "CockroachDB is UNTESTED: this store was only ever run on PostgreSQL, at the same "
        "isolation. Do not trust it with what you cannot lose; see docs/how-to/keep-state.md"
    ),
)
