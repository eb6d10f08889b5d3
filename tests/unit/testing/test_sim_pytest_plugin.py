"""The plugin runs marked tests in virtual time, beside an asyncio plugin or without one."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

TESTS = """
import asyncio, time
import pytest
from goverse.testing.loop import SimLoop

@pytest.mark.virtual_time
@pytest.mark.parametrize("hours", [1, 2])
async def test_long(hours, tmp_path):
    started = time.monotonic()
    done = asyncio.get_running_loop().create_future()
    asyncio.get_running_loop().call_later(hours * 1000, done.set_result, None)
    await done
    assert time.monotonic() - started < 10
    assert isinstance(asyncio.get_running_loop(), SimLoop)

class TestInAClass:
    @pytest.mark.virtual_time(max_time_s=5)
    async def test_limited(self):
        with pytest.raises(Exception, match="virtual s"):
            raise RuntimeError("5 virtual s")
"""


WITHOUT: list[str] = []
BESIDE = ["-p", "pytest_asyncio.plugin", "-o", "asyncio_default_fixture_loop_scope=function"]


@pytest.mark.parametrize("asyncio_plugin", [WITHOUT, BESIDE])
def test_marked_tests_run_in_virtual_time(tmp_path: Path, asyncio_plugin: list[str]) -> None:
    (tmp_path / "test_it.py").write_text(TESTS)
    (tmp_path / "pytest.ini").write_text(
        "[pytest]\naddopts=--strict-markers -W error\n"
        if asyncio_plugin == WITHOUT
        else "[pytest]\naddopts=--strict-markers -W error\nasyncio_mode=auto\n"
    )
    command = [sys.executable, "-m", "pytest", "-q", "-p", "goverse.testing.pytest_plugin"]
    ran = subprocess.run(
        [*command, *asyncio_plugin, "-p", "no:cacheprovider"],
        cwd=tmp_path,
        env=os.environ
        # An installed goverse brings the plugin by its entry point: here it comes by name alone.
        | {"PYTHONPATH": str(Path(__file__).parents[3]), "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert ran.returncode == 0, ran.stdout + ran.stderr
    assert "3 passed" in ran.stdout
