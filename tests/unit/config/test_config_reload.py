"""Following the file: what is applied, what is only said, and what changes nothing."""

import asyncio
import logging
import os
from pathlib import Path

import pytest

from goverse.config.load import load
from goverse.config.reload import Reloader
from goverse.config.settings import Settings
from tests.support.eventually import eventually


class Followed:
    """A file, its reloader, and what was applied. Every write has a change time of its own."""

    def __init__(self, path: Path, interval_s: float = 60) -> None:
        self.path = path
        self.applied: list[Settings] = []
        self._time = 1_000_000_000
        self.write("log: {level: info}")
        self.reloader = Reloader(
            path,
            load(path, {}, {}),
            lambda: load(path, {}, {}),
            self.applied.append,
            interval_s=interval_s,
        )

    def write(self, text: str) -> None:
        self.path.write_text(text)
        self._time += 1
        os.utime(self.path, (self._time, self._time))


@pytest.fixture
def followed(tmp_path: Path) -> Followed:
    return Followed(tmp_path / "cluster.yaml")


def test_the_log_level_follows_the_file(followed: Followed) -> None:
    followed.reloader.look()
    assert followed.applied == []
    followed.write("log: {level: debug}")
    followed.reloader.look()
    followed.reloader.look()
    assert [settings.log.level for settings in followed.applied] == ["debug"]
    followed.write("log: {level: error}")
    followed.reloader.look()
    assert [settings.log.level for settings in followed.applied] == ["debug", "error"]


def test_what_needs_a_restart_is_named(
    followed: Followed, caplog: pytest.LogCaptureFixture
) -> None:
    followed.write("node: {capacity: 2}\ncluster: {lease_ttl: 3s}")
    followed.reloader.look()
    assert followed.applied == []
    assert "take effect after a restart: cluster.lease_ttl, node.capacity" in caplog.text


def test_a_file_with_faults_changes_nothing(
    followed: Followed, caplog: pytest.LogCaptureFixture
) -> None:
    followed.write("log: {level: debug}\nnode: {capacity: heavy}")
    followed.reloader.look()
    assert followed.applied == []
    assert "is not used" in caplog.text
    assert "node.capacity: 'heavy' is not a number" in caplog.text


def test_a_file_that_is_gone_for_a_moment_is_read_when_it_is_back(followed: Followed) -> None:
    followed.path.unlink()
    followed.reloader.look()
    followed.write("log: {level: debug}")
    followed.reloader.look()
    assert [settings.log.level for settings in followed.applied] == ["debug"]


async def test_it_looks_by_itself(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    followed = Followed(tmp_path / "cluster.yaml", interval_s=0.01)
    task = asyncio.create_task(followed.reloader.run())
    followed.write("log: {level: warning}")
    await eventually(lambda: followed.applied)
    task.cancel()
    assert "applied log.level" in caplog.text
