"""The store on MariaDB 10.11 or newer. Nobody else knows asyncmy."""

from goverse.storage.mysql.store import MysqlStore

__all__ = ["MysqlStore"]
