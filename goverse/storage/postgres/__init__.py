"""The store on PostgreSQL 15 or newer, and what speaks its protocol. Nobody else knows psycopg."""

from goverse.storage.postgres.dialect import COCKROACH
from goverse.storage.postgres.store import PostgresStore

__all__ = ["COCKROACH", "PostgresStore"]
