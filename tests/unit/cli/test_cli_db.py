"""The store from the command line, on a real file."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from goverse.aio.runtime import Runtime
from goverse.config.settings import StorageSettings
from goverse.ids import Epoch
from goverse.storage.sqlite import SqliteStore
from goverse.testing.conformance.store_kit import Owner

if TYPE_CHECKING:
    from .conftest import Terminal


@pytest.fixture
def url(tmp_path: Path) -> str:
    return f"sqlite:///{tmp_path}/store.db"


def answer(terminal: Terminal, *arguments: str) -> Any:
    result = terminal.run(*arguments, "-o", "json")
    assert result.exit_code == 0, result.output
    return json.loads(result.stdout)


def test_migrate_then_check_then_status(terminal: Terminal, url: str) -> None:
    refused = terminal.run("db", "check", "--url", url, "-o", "json")
    assert refused.exit_code == 6
    assert "db migrate" in json.loads(refused.stdout)["problems"][0]
    status = answer(terminal, "db", "status", "--url", url)
    assert status["schema"] == {
        "version": 0,
        "known": 3,
        "pending": ["0001_initial", "0002_finished", "0003_delayed"],
    }
    assert status["calls"] is None

    assert answer(terminal, "db", "migrate", "--url", url) == {
        "applied": ["0001_initial", "0002_finished", "0003_delayed"],
        "version": 3,
    }
    assert answer(terminal, "db", "migrate", "--url", url)["applied"] == []
    assert answer(terminal, "db", "check", "--url", url) == {"ok": True, "problems": []}
    status = answer(terminal, "db", "status", "--url", url)
    assert (status["backend"], status["cluster_id"]) == ("sqlite", "")
    assert status["calls"]["pending_calls"] == 0
    text = terminal.run("db", "status", "--url", url).stdout
    assert "0 pending, 0 parked" in text and "store.db" in text


def test_the_store_is_found_as_a_node_finds_it(
    terminal: Terminal, url: str, tmp_path: Path
) -> None:
    (tmp_path / "cluster.yaml").write_text(f"storage:\n  url: {url}\n")
    config = str(tmp_path / "cluster.yaml")
    assert answer(terminal, "db", "migrate", "--config", config)["version"] == 3
    terminal.environ["GOVERSE_CONFIG"] = config
    assert answer(terminal, "db", "check")["ok"]
    del terminal.environ["GOVERSE_CONFIG"]
    terminal.environ["GOVERSE_STORAGE__URL"] = url
    assert answer(terminal, "db", "check")["ok"]


def test_without_a_store_it_says_how_to_name_one(terminal: Terminal) -> None:
    result = terminal.run("db", "status")
    assert result.exit_code == 2
    assert "no store is configured" in result.stderr and "GOVERSE_STORAGE__URL" in result.stderr


@pytest.mark.parametrize(
    ("url", "message"),
    [
        ("oracle://x", "postgresql://"),
        ("nonsense", "is no URL"),
        ("postgresql://me:s3cret@db/x", "has a password in it"),
        ("sqlite://x", "sqlite:///relative/path"),
    ],
)
def test_a_wrong_url_is_said_without_its_secrets(
    terminal: Terminal, url: str, message: str
) -> None:
    result = terminal.run("db", "check", "--url", url)
    assert result.exit_code == 2
    assert message in result.stderr and "s3cret" not in result.stderr


async def _own(url: str, cluster_id: str) -> Owner:
    store = SqliteStore(StorageSettings(url=url), Runtime())
    await store.migrate()
    await store.claim_cluster(cluster_id)
    owner = await Owner(store, 7, Epoch(1, 5), "old").open()
    await owner.commit(b"1")
    await store.close()
    return owner


def test_adopting_shuts_the_former_cluster_out(terminal: Terminal, url: str) -> None:
    owner = asyncio.run(_own(url, "one"))
    assert terminal.run("db", "check", "--url", url, "--cluster-id", "two").exit_code == 6
    asked = terminal.run("db", "adopt", "two", "--url", url)
    assert asked.exit_code != 0
    assert answer(terminal, "db", "status", "--url", url)["cluster_id"] == "one"

    adopted = answer(terminal, "db", "adopt", "two", "--yes", "--url", url)
    assert adopted == {"cluster_id": "two", "before": "one"}
    assert answer(terminal, "db", "check", "--url", url, "--cluster-id", "two")["ok"]

    async def late() -> str:
        owner.store = SqliteStore(StorageSettings(url=url), Runtime())
        result = await owner.commit(b"2", version=1)
        await owner.store.close()
        return result.verdict.value

    assert asyncio.run(late()) == "fenced"


def test_adopting_without_a_name_asks_the_cluster_that_answers(
    terminal: Terminal, url: str
) -> None:
    asyncio.run(_own(url, "one"))
    found = answer(terminal, "db", "adopt", "--yes", "--url", url)
    assert found["cluster_id"] and found["before"] == "one"
    terminal.cluster.up.clear()
    refused = terminal.run("db", "adopt", "--yes", "--url", url)
    assert refused.exit_code == 4 and "name it" in refused.stderr


def test_a_store_that_is_no_store_is_unavailable(terminal: Terminal, tmp_path: Path) -> None:
    (tmp_path / "x.db").write_bytes(b"something else entirely" * 100)
    result = terminal.run("db", "status", "--url", f"sqlite:///{tmp_path}/x.db")
    assert result.exit_code == 4 and "not a database" in result.stderr
