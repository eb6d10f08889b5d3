"""A store that another package brings is found by entry point and judged by the public suite."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

BACKEND = '''
"""Stores in memory that have a name, for whoever names them in this process."""

from goverse.aio.runtime import Runtime
from goverse.storage.memory import MemoryStore

BOXES = {}


async def open(settings, runtime):
    name = settings.url.partition("://")[2]
    box = BOXES.setdefault(name, MemoryStore(Runtime()))
    return box.connect(operation_timeout_s=settings.operation_timeout_s)
'''

SUITE = """
import itertools

import pytest

from goverse import storage
from goverse.aio.runtime import Runtime
from goverse.config.settings import StorageSettings
from goverse.testing.conformance.store import StoreBackend, StoreConformance

numbers = itertools.count(1)


class Boxes(StoreBackend):
    async def connect(self):
        return await storage.open(StorageSettings(url="boxes://shared"), Runtime())

    async def connect_new(self):
        url = f"boxes://new-{next(numbers)}"
        return await storage.open(StorageSettings(url=url), Runtime())


class TestBoxes(StoreConformance):
    @pytest.fixture
    async def backend(self):
        yield Boxes()
"""


def install(site: Path) -> None:
    """What pip leaves of a package with an entry point."""
    info = site / "goverse_boxes-1.0.dist-info"
    info.mkdir(parents=True)
    (site / "goverse_boxes.py").write_text(BACKEND)
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: goverse-boxes\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text("[goverse.stores]\nboxes = goverse_boxes:open\n")


def run(tmp_path: Path, *command: str) -> subprocess.CompletedProcess[str]:
    """A Python of its own, with the package beside ours."""
    root = Path(__file__).resolve().parents[2]
    environment = os.environ | {"PYTHONPATH": os.pathsep.join((str(tmp_path / "site"), str(root)))}
    return subprocess.run(
        [sys.executable, "-m", *command],
        cwd=tmp_path,
        env=environment,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )


def test_a_package_of_its_own_passes_the_public_suite(tmp_path: Path) -> None:
    install(tmp_path / "site")
    (tmp_path / "test_boxes.py").write_text(SUITE)
    (tmp_path / "pytest.ini").write_text("[pytest]\nasyncio_mode = auto\n")
    done = run(tmp_path, "pytest", "-q", "-p", "no:cacheprovider", "test_boxes.py")
    assert done.returncode == 0, done.stdout + done.stderr
    summary = done.stdout.strip().splitlines()[-1]
    assert int(summary.split(" passed")[0].split()[-1]) > 50, summary


def test_the_command_line_reaches_it_and_names_what_is_missing(tmp_path: Path) -> None:
    install(tmp_path / "site")
    stats = ("goverse_cli", "reliable-calls", "stats", "--url")
    found = run(tmp_path, *stats, "boxes://any")
    assert (found.returncode, found.stdout) == (0, "No calls wait.\n"), found.stderr
    missing = run(tmp_path, *stats, "crates://any")
    assert missing.returncode == 2 and "goverse.stores" in missing.stderr
