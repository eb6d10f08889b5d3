"""What a process says that cannot start."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from pathlib import Path

from goverse.coordination.supervised import free_port

ROOT = Path(__file__).parents[2]


def serve(*flags: str, **environment: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "goverse_node", "serve", "--ops-listen", "off"]
    command += ["--module", "samples/counter/counter.py", "--etcd-endpoints", "127.0.0.1:1"]
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
