"""etcd as a child process, and choosing a coordinator by URL."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from goverse.aio.runtime import Runtime
from goverse.config.settings import ClusterSettings, EtcdSettings
from goverse.coordination import Put, open
from goverse.coordination.supervised import EtcdOptions, EtcdProcess
from tests.support.eventually import eventually


async def test_start_use_stop_and_start_again(tmp_path: Path) -> None:
    etcd = EtcdProcess(EtcdOptions(tmp_path / "etcd"))
    await etcd.start()
    settings = ClusterSettings(etcd=EtcdSettings(endpoints=(etcd.endpoint,)))
    client = await open(settings, Runtime())
    await client.transact([], [Put("/goverse/a", b"kept")])
    await etcd.stop()
    await etcd.start()
    found = await client.get("/goverse/a")
    assert found is not None
    assert found.value == b"kept"
    await client.close()
    await etcd.stop()
    await etcd.stop()


async def test_a_failed_start_says_why(tmp_path: Path) -> None:
    etcd = EtcdProcess(EtcdOptions(tmp_path / "etcd", arguments=("--no-such-flag",)))
    with pytest.raises(RuntimeError, match="no-such-flag"):
        await etcd.start()


def test_it_dies_with_its_parent(tmp_path: Path) -> None:
    program = (
        "import asyncio, pathlib, sys\n"
        "from goverse.coordination.supervised import *\n"
        "etcd = EtcdProcess(EtcdOptions(pathlib.Path(sys.argv[1])))\n"
        "asyncio.run(etcd.start())\n"
        "print(etcd.pid, flush=True)\n"
        "sys.stdin.read()\n"
    )
    parent = subprocess.Popen(
        [sys.executable, "-c", program, str(tmp_path / "etcd")],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    )
    assert parent.stdin is not None
    assert parent.stdout is not None
    child = int(parent.stdout.readline())
    os.kill(child, 0)
    parent.send_signal(signal.SIGKILL)
    parent.wait()

    def is_gone() -> bool:
        # Whoever inherits orphans here may take its time to reap them.
        status = Path(f"/proc/{child}/status")
        return not status.exists() or "State:\tZ" in status.read_text()

    asyncio.run(eventually(is_gone))
    parent.stdin.close()
    parent.stdout.close()


async def test_a_memory_coordinator_is_new_each_time() -> None:
    settings = ClusterSettings(coordinator="memory://")
    first, second = await open(settings, Runtime()), await open(settings, Runtime())
    await first.transact([], [Put("/goverse/a", b"")])
    assert await second.get("/goverse/a") is None
    await first.close()
    await second.close()


@pytest.mark.parametrize("url", ["", "etcd", "zookeeper://", "://"])
async def test_another_scheme_is_refused(url: str) -> None:
    with pytest.raises(ValueError, match="etcd:// or memory://"):
        await open(ClusterSettings(coordinator=url), Runtime())
