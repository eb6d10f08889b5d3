"""The words of CockroachDB, spoken to PostgreSQL at the isolation that CockroachDB has."""

from __future__ import annotations

from dataclasses import replace

from goverse.storage.postgres.dialect import COCKROACH, POSTGRES

#: What of CockroachDB can be tried on PostgreSQL: statements without the lock of the fence,
#: numbers, serializable transactions and their retries, no session ended, a pause after a raise.
SERIALIZABLE = replace(
    COCKROACH,
    scheme=POSTGRES.scheme,
    parameters=POSTGRES.parameters,
    settings={**POSTGRES.settings, "default_transaction_isolation": "serializable"},
    faults=POSTGRES.faults,
    not_durable=POSTGRES.not_durable,
    settle_s=0.002,
    warning="",
)
