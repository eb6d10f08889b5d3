"""Calls of Restate: its server and its service, called from this process through its ingress.

Every call has an idempotency key of its own. The server writes its log with fsync, as is looked
up in the configuration that it says it has.

``python -m benchmarks.peers.restate_calls [tuned]``: deployed as its documentation says, or as
fast as we could make it.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import random
import secrets
import shutil
import socket
import subprocess
import sys
import tempfile
import time
import tomllib
from collections.abc import Callable
from dataclasses import dataclass, replace
from importlib.metadata import version
from pathlib import Path
from typing import Any

import uvloop

from benchmarks.load import Load, drive
from benchmarks.peers.driver import private_stdout, serve_runs
from benchmarks.peers.http1 import Http1
from benchmarks.report import ROOT

HOST = "127.0.0.1"
START_S = 60.0
STOP_S = 5.0
SETTLE_S = 120.0
DEPOSIT = 1_000_000_000
AUDITOR = "main"

_LAUNCHER = ROOT / "goverse" / "aio" / "_launch.py"
_SERVICE = "benchmarks.peers.restate_service"

_CONFIGURATION = """
disable-telemetry = true
log-filter = "warn"
listen-mode = "tcp"
bind-ip = "{host}"
bind-port = {fabric}
{more}

[admin]
bind-port = {admin}

[ingress]
bind-port = {ingress}

[log-server]
rocksdb-disable-wal-fsync = false
"""

#: What the documentation of the Python SDK recommends for production.
_HYPERCORN = """
bind = "{host}:{port}"
h2_max_concurrent_streams = 2147483647
keep_alive_max_requests = 2147483647
keep_alive_timeout = 2147483647
workers = {workers}
"""


@dataclass(frozen=True)
class Deployment:
    """:param settings: lines of the server's configuration, beside addresses and fsync.
    :param service: the command that serves at a port, which may write into a folder.
    :param registration: what is asked for when the service is registered.
    """

    settings: str
    service: Callable[[int, Path], list[str]]
    registration: dict[str, bool]


async def main(deployment: Deployment) -> None:
    answers = private_stdout()
    folder = Path(tempfile.mkdtemp(prefix="goverse-restate."))
    try:
        async with contextlib.AsyncExitStack() as stack:
            fabric, admin, ingress, service = _free_ports(4)
            configuration = folder / "restate.toml"
            configuration.write_text(
                _CONFIGURATION.format(
                    host=HOST,
                    fabric=fabric,
                    admin=admin,
                    ingress=ingress,
                    more=deployment.settings,
                )
            )
            server = [_server_program(), "--no-logo", "--config-file", str(configuration)]
            about = _about(server)
            stack.enter_context(_child([*server, "--base-dir", str(folder / "data")]))
            stack.enter_context(_child(deployment.service(service, folder)))
            await _register(admin, service, deployment.registration)
            http = Http1(HOST, ingress)
            stack.callback(http.close)
            works = {"counter": _counter, "bank": _bank}

            async def run(work: str, *shape: Any) -> Load:
                return await works[work](http, *shape)

            await serve_runs(run, about, answers)
    finally:
        shutil.rmtree(folder, ignore_errors=True)


# -- the two kinds of work


async def _counter(http: Http1, callers: int, warmup_s: float, seconds: float) -> Load:
    """Each caller adds to a counter of its own. Raises RuntimeError if the sum is wrong."""
    name = secrets.token_hex(8)
    post = _once(http, name)
    load = await drive(
        lambda number: post(f"/Counter/{name}-{number}/add", 1), callers, warmup_s, seconds
    )
    total = 0
    for number in range(callers):
        total += await http.post(f"/Counter/{name}-{number}/value", None)
    if total != load.all_calls:
        raise RuntimeError(f"{load.all_calls} calls were made, and the counters say {total}")
    return load


async def _bank(http: Http1, callers: int, warmup_s: float, seconds: float) -> Load:
    """Each caller sends from an account of its own to the next. Raises RuntimeError if money is
    lost or made."""
    name = secrets.token_hex(8)
    # The same accounts in each run: what the auditor keeps of them is written with every note.
    accounts = [f"account-{number}" for number in range(callers)]
    post = _once(http, name)
    total = sum((await _balances(http, accounts)).values()) + DEPOSIT * callers
    for account in accounts:
        await post(f"/Account/{account}/deposit", DEPOSIT)
    load = await drive(
        lambda number: post(
            f"/Account/{accounts[number]}/transfer",
            {"to": accounts[number - 1], "amount": 1 + number % 7},
        ),
        callers,
        warmup_s,
        seconds,
    )
    began = time.perf_counter()
    while True:
        balances = await _balances(http, accounts)
        expected = await http.post(f"/Auditor/{AUDITOR}/get_expected", None)
        mine = {one: expected.get(one) for one in accounts}
        if mine == balances and sum(balances.values()) == total:
            return replace(load, settled_s=round(time.perf_counter() - began, 3))
        if time.perf_counter() - began > SETTLE_S:
            raise RuntimeError(f"the bank's sums are wrong after {SETTLE_S:.0f} s: {balances}")
        await asyncio.sleep(0.1)


async def _balances(http: Http1, accounts: list[str]) -> dict[str, int]:
    return {one: await http.post(f"/Account/{one}/get_balance", None) for one in accounts}


def _once(http: Http1, name: str) -> Any:
    """POSTs with an idempotency key each."""
    numbers = iter(range(sys.maxsize))

    def post(path: str, body: Any) -> Any:
        return http.post(path, body, f"idempotency-key: {name}/{next(numbers)}\r\n")

    return post


# -- processes


def _server_program() -> str:
    modules = Path(sys.prefix) / "node_modules" / "@restatedev"
    [found] = modules.glob("restate-server-*/bin/restate-server")
    return str(found)


def _hypercorn(port: int, folder: Path) -> list[str]:
    """A worker for each processor."""
    configuration = folder / "hypercorn.toml"
    workers = os.cpu_count()
    configuration.write_text(_HYPERCORN.format(host=HOST, port=port, workers=workers))
    return [sys.executable, "-m", "hypercorn", "--config", str(configuration), f"{_SERVICE}:app"]


def _uvicorn(port: int, folder: Path) -> list[str]:
    """One process is as fast as two."""
    options = ["--loop", "uvloop", "--http", "httptools", "--no-access-log"]
    where = ["--host", HOST, "--port", str(port), "--log-level", "warning"]
    return [sys.executable, "-m", "uvicorn", *options, *where, f"{_SERVICE}:app_without_streams"]


DOCUMENTED = Deployment("", _hypercorn, {})
#: The fastest of 1, 2, 4 and 24 (the default) partitions on two cores; a service over HTTP/1.1 is
#: faster than one over HTTP/2.
TUNED = Deployment("default-num-partitions = 4", _uvicorn, {"use_http_11": True})


def _about(server: list[str]) -> dict[str, Any]:
    """Versions and settings. Raises RuntimeError if what is confirmed could be lost."""
    said = subprocess.check_output([*server, "--dump-config"], text=True)
    settings = tomllib.loads(said)
    fsync = not settings["log-server"]["rocksdb-disable-wal-fsync"]
    if not fsync:
        raise RuntimeError("the Restate server would run without fsync")
    program = subprocess.check_output([server[0], "--version"], text=True).strip()
    names = ("restate_sdk", "hypercorn", "h2", "uvicorn", "httptools", "uvloop")
    return {
        "versions": {"server": program, **{name: version(name) for name in names}},
        "log-server.rocksdb-disable-wal-fsync": not fsync,
        "partitions": settings["default-num-partitions"],
    }


@contextlib.contextmanager
def _child(command: list[str]) -> Any:
    """A process that ends with this one, and at the end in order: it may have workers."""
    launched = [sys.executable, "-I", "-S", str(_LAUNCHER), str(os.getpid()), "", *command]
    process = subprocess.Popen(launched, cwd=ROOT, stdin=subprocess.DEVNULL)
    try:
        yield
    finally:
        process.terminate()
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(STOP_S)
        process.kill()
        process.wait()


async def _register(admin: int, service: int, wanted: dict[str, bool]) -> None:
    http = Http1(HOST, admin)
    asked = {"uri": f"http://{HOST}:{service}", **wanted}
    async with asyncio.timeout(START_S):
        while True:
            try:
                await http.post("/deployments", asked)
                break
            except (OSError, RuntimeError) as error:
                print(f"not ready: {error}", file=sys.stderr)
                await asyncio.sleep(0.25)
    http.close()


def _free_ports(count: int) -> list[int]:
    """Below the range from which systems choose the ports of outgoing connections."""
    ports: list[int] = []
    while len(ports) < count:
        port = random.randrange(20_000, 32_000)
        with socket.socket() as probe, contextlib.suppress(OSError):
            probe.bind((HOST, port))
            ports.append(port)
    return ports


if __name__ == "__main__":
    uvloop.run(main(TUNED if sys.argv[1:] == ["tuned"] else DOCUMENTED))
