"""A cluster of real processes on loopback: for system tests and benchmarks.

etcd is started by whoever uses this; nodes and gates are the real commands, configured by
environment alone. Signals are sent to processes that this object started, by id.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import signal
import sys
from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from goverse.coordination.supervised import free_port, tied_to_this_process

READY_TIMEOUT_S = 30.0
STOP_TIMEOUT_S = 20.0


async def http_get(address: str, path: str, *, timeout_s: float = 5.0) -> tuple[int, str]:
    """A GET over a connection of its own: status and body. Raises OSError or TimeoutError."""
    host, _, port = address.rpartition(":")
    async with asyncio.timeout(timeout_s):
        reader, writer = await asyncio.open_connection(host, int(port))
        try:
            writer.write(
                f"GET {path} HTTP/1.1\r\nHost: {address}\r\nConnection: close\r\n\r\n".encode()
            )
            head, _, body = (await reader.read()).partition(b"\r\n\r\n")
            if not head:
                raise OSError(f"{address} closed the connection without an answer")
            return int(head.split()[1]), body.decode(errors="replace")
        finally:
            writer.close()


@dataclass
class Server:
    """One node or gate process."""

    name: str
    kind: str
    address: str
    ops_address: str
    http_address: str
    process: asyncio.subprocess.Process
    log_path: Path

    @property
    def alive(self) -> bool:
        return self.process.returncode is None

    def log(self) -> str:
        return self.log_path.read_text(errors="replace") if self.log_path.exists() else ""

    def signal(self, number: signal.Signals) -> None:
        self.process.send_signal(number)

    def cpu_seconds(self) -> float:
        """User and system time used so far. Linux."""
        fields = Path(f"/proc/{self.process.pid}/stat").read_text().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


@dataclass
class ProcessCluster:
    """Starts, disturbs and stops node and gate processes.

    :param etcd: endpoint host:port.
    :param folder: logs go here.
    :param modules: what nodes host.
    :param environment: more settings for every process, as GOVERSE_... variables.
    :param node_module: run by ``python -m`` for a node, with the command line of `goverse_node`.
    """

    etcd: str
    folder: Path
    modules: tuple[str, ...] = ()
    environment: Mapping[str, str] = field(default_factory=dict)
    node_module: str = "goverse_node"
    servers: dict[str, Server] = field(default_factory=dict)

    async def start_node(self, name: str, **environment: str) -> Server:
        return await self._start("node", name, environment)

    async def start_gate(self, name: str, **environment: str) -> Server:
        return await self._start("gate", name, environment)

    async def _start(self, kind: str, name: str, extra: Mapping[str, str]) -> Server:
        address, ops, http = (f"127.0.0.1:{free_port()}" for _ in range(3))
        upper = kind.upper()
        environment = {
            **{k: v for k, v in os.environ.items() if not k.startswith("GOVERSE_")},
            "GOVERSE_CLUSTER__ETCD__ENDPOINTS": self.etcd,
            f"GOVERSE_{upper}__ID": name,
            f"GOVERSE_{upper}__LISTEN": address,
            f"GOVERSE_{upper}__OPS_LISTEN": ops,
            **self.environment,
            **extra,
        }
        if kind == "gate":
            environment["GOVERSE_GATE__HTTP_LISTEN"] = http
        elif self.modules:
            environment.setdefault("GOVERSE_OBJECTS__MODULES", ",".join(self.modules))
        module = self.node_module if kind == "node" else f"goverse_{kind}"
        log_path = self.folder / f"{name}.log"
        with log_path.open("ab") as log:
            process = await asyncio.create_subprocess_exec(
                *tied_to_this_process([sys.executable, "-m", module, "serve"]),
                env=environment,
                stdin=asyncio.subprocess.DEVNULL,
                stdout=log,
                stderr=log,
            )
        server = Server(name, kind, address, ops, http, process, log_path)
        self.servers[name] = server
        return server

    async def wait_ready(self, *names: str, timeout_s: float = READY_TIMEOUT_S) -> None:
        """Until every named (or every) process says that it is ready. Raises RuntimeError."""
        waiting = [self.servers[name] for name in names or list(self.servers)]
        last = ""
        try:
            async with asyncio.timeout(timeout_s):
                for server in waiting:
                    while True:
                        if not server.alive:
                            raise RuntimeError(f"{server.name} ended:\n{server.log()[-4000:]}")
                        with contextlib.suppress(OSError, TimeoutError):
                            status, last = await http_get(server.ops_address, "/ready")
                            if status == 200:
                                break
                        await asyncio.sleep(0.05)
        except TimeoutError:
            raise RuntimeError(
                f"{server.name} is not ready after {timeout_s:g} s: {last}\n{server.log()[-4000:]}"
            ) from None

    async def admin(self, *arguments: str) -> Any:
        """Run ``goverse-cli`` against this cluster's etcd with ``-o json``; its parsed output."""
        process = await asyncio.create_subprocess_exec(
            sys.executable,
            "-m",
            "goverse_cli",
            "--etcd-endpoints",
            self.etcd,
            "-o",
            "json",
            *arguments,
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
        )
        out, err = await process.communicate()
        if process.returncode != 0:
            raise RuntimeError(f"goverse-cli {' '.join(arguments)}: {err.decode()}")
        return json.loads(out)

    async def kill(self, name: str) -> None:
        """kill -9, and wait until the process is gone."""
        server = self.servers.pop(name)
        if server.alive:
            server.process.kill()
        await server.process.wait()

    async def stop(self, name: str) -> int:
        """SIGTERM, and wait. Returns the exit status; kills what does not end."""
        server = self.servers.pop(name)
        if server.alive:
            server.process.terminate()
        try:
            async with asyncio.timeout(STOP_TIMEOUT_S):
                return await server.process.wait()
        except TimeoutError:
            server.process.kill()
            await server.process.wait()
            raise RuntimeError(f"{name} did not stop:\n{server.log()[-4000:]}") from None

    async def close(self) -> None:
        """Kill whatever is left: tests end with nothing running, also when they fail."""
        for name in list(self.servers):
            # A stopped process can be killed too; SIGCONT is not needed.
            await self.kill(name)


@contextlib.asynccontextmanager
async def process_cluster(
    etcd: str,
    folder: Path,
    *,
    modules: tuple[str, ...] = (),
    environment: Mapping[str, str] | None = None,
    node_module: str = "goverse_node",
) -> AsyncIterator[ProcessCluster]:
    """A `ProcessCluster` that leaves nothing running."""
    cluster = ProcessCluster(etcd, folder, modules, environment or {}, node_module)
    try:
        yield cluster
    finally:
        await cluster.close()
