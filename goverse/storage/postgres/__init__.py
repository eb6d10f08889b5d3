"""The store on PostgreSQL 15 or newer. Nobody else knows psycopg."""

from goverse.storage.postgres.store import PostgresStore

__all__ = ["PostgresStore"]
