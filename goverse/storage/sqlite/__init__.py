"""The store in one SQLite file, for one process: what development on one process uses."""

from goverse.storage.sqlite.store import SqliteStore

__all__ = ["SqliteStore"]
