"""What a process says that cannot start."""

from __future__ import annotations

import asyncio
import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from goverse import coordination, storage
from goverse.aio.runtime import Runtime
from goverse.cluster.keys import Keys
from goverse.cluster.layout import ensure_layout
from goverse.cluster.records import Layout
from goverse.config.settings import ClusterSettings, EtcdSettings, StorageSettings
from goverse.coordination.supervised import EtcdOptions, EtcdProcess, free_port

ROOT = Path(__file__).parents[2]


DURABLE = """\
import goverse

class Kept(goverse.Object, durability="acknowledged"):
    value: int = 0
"""


def serve(*flags: str, **environment: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "goverse_node", "serve", "--ops-listen", "off"]
    command += ["--etcd-endpoints", "127.0.0.1:1"]
    if "--module" not in flags:
        command += ["--module", "samples/counter/counter.py"]
    return subprocess.run(
        [*command, *flags],
        cwd=ROOT,
        env=os.environ | environment,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


def test_an_address_that_is_in_use_is_named_without_a_traceback() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        address = f"127.0.0.1:{taken.getsockname()[1]}"
        ended = serve("--listen", address)
    assert ended.returncode == 1
    assert f"cannot start: cannot listen on {address}" in ended.stderr
    assert "Traceback" not in ended.stderr


def test_a_token_file_that_others_can_read_is_refused_with_what_to_do(tmp_path: Path) -> None:
    token = tmp_path / "token"
    token.write_text("0123456789abcdef\n")
    token.chmod(0o644)
    ended = serve(
        "--listen",
        f"127.0.0.1:{free_port()}",
        GOVERSE_SECURITY__ADMIN_TOKEN_FILE=str(token),
    )
    assert ended.returncode == 1
    assert f"chmod 600 {token}" in ended.stderr
    assert "Traceback" not in ended.stderr


@pytest.mark.parametrize(
    ("url", "said"),
    [
        ("", "Kept must be durable, and storage.url names no store; set it, for example to"),
        ("sqlite:///{folder}/new.db", "this program needs 3: run goverse-cli db migrate"),
        ("postgresql://goverse@127.0.0.1:1/goverse", "no connection to PostgreSQL: "),
        ("sqlite:///{folder}/no/such/folder.db", "unable to open database file"),
        ("mongodb://127.0.0.1/goverse", "it must begin with postgresql://"),
        ("postgresql://goverse@127.0.0.1:x/goverse", 'invalid integer value "x"'),
        ("postgresql://[goverse", "storage.url is not a URL of PostgreSQL: "),
        ("sqlite://relative.db", "write sqlite:///relative/path or sqlite:////absolute/path"),
    ],
)
def test_a_store_that_cannot_be_used_is_one_line_that_says_what_to_do(
    tmp_path: Path, url: str, said: str
) -> None:
    app = tmp_path / "app.py"
    app.write_text(DURABLE)
    ended = serve(
        "--listen",
        f"127.0.0.1:{free_port()}",
        "--module",
        str(app),
        GOVERSE_STORAGE__URL=url.format(folder=tmp_path),
    )
    assert ended.returncode in (1, 2), ended.stderr
    assert said in ended.stderr
    assert len(ended.stderr.strip().splitlines()) == 1, ended.stderr


def test_the_store_of_another_cluster_is_refused_at_the_start(tmp_path: Path) -> None:
    server = EtcdProcess(EtcdOptions(tmp_path / "etcd"))
    file = tmp_path / "other.db"

    async def prepare() -> None:
        await server.start()
        runtime = Runtime()
        cluster = ClusterSettings(
            coordinator="etcd://", etcd=EtcdSettings(endpoints=(server.endpoint,))
        )
        coordinator = await coordination.open(cluster, runtime)
        await ensure_layout(coordinator, Keys(), Layout("a" * 32, 1, 256))
        await coordinator.close()
        store = await storage.open(StorageSettings(url=f"sqlite:///{file}"), runtime)
        await store.migrate()
        await store.claim_cluster("b" * 32)
        await store.close()

    try:
        asyncio.run(prepare())
        ended = serve(
            "--listen",
            f"127.0.0.1:{free_port()}",
            "--etcd-endpoints",
            server.endpoint,
            GOVERSE_STORAGE__URL=f"sqlite:///{file}",
        )
    finally:
        asyncio.run(server.stop())
    assert ended.returncode == 1
    assert f"belongs to the cluster {'b' * 32}, not to {'a' * 32}" in ended.stderr
    assert "goverse-cli db adopt" in ended.stderr
    assert "Traceback" not in ended.stderr
