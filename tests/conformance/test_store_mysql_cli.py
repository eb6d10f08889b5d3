"""Operators' commands on real MariaDB."""

from __future__ import annotations

import asyncio
import json
from typing import Any

from click.testing import CliRunner

from goverse.config.settings import StorageSettings
from goverse_cli.app import cli
from goverse_cli.outside import real_outside
from goverse_cli.session import Options
from tests.support.mariadb import PASSWORD, serving


def told(settings: StorageSettings, *arguments: str) -> tuple[int, Any, str]:
    """Exit status, what was printed for programs, and for people."""
    environment = {"GOVERSE_STORAGE__PASSWORD": settings.password}
    options = Options(outside=real_outside(), environ=environment)
    result = CliRunner().invoke(cli, [*arguments, "--url", settings.url, "-o", "json"], obj=options)
    assert PASSWORD not in result.output
    return result.exit_code, json.loads(result.stdout) if result.stdout else None, result.stderr


def test_the_commands_of_the_store_work_as_on_any_other() -> None:
    with serving() as server:
        settings = asyncio.run(server.new_database())

        def db(*arguments: str) -> tuple[int, Any, str]:
            return told(settings, "db", *arguments)

        code, found, _ = db("check")
        assert code == 6 and "goverse-cli db migrate" in found["problems"][0]
        assert db("migrate")[1] == {"applied": ["0001_initial"], "version": 1}
        assert db("migrate")[1] == {"applied": [], "version": 1}
        assert db("check")[:2] == (0, {"ok": True, "problems": []})
        assert db("adopt", "some-cluster", "--yes")[1]["cluster_id"] == "some-cluster"
        _, status, _ = db("status")
        assert (status["backend"], status["cluster_id"]) == ("mysql", "some-cluster")
        assert status["place"] == settings.url.replace("goverse@", "")
        server.query("SET GLOBAL innodb_flush_log_at_trx_commit = 2")
        code, found, _ = db("check")
        assert code == 6 and "innodb_flush_log_at_trx_commit=2" in found["problems"][0]
        server.query("SET GLOBAL innodb_flush_log_at_trx_commit = 1")
        asyncio.run(server.kill())
        code, _, errors = db("status")
        assert code != 0 and "no connection to MariaDB" in errors
