"""The harness of the benchmarks with real processes: what fails is told, and nothing is left."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import subprocess
import sys
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import pytest

from benchmarks import cleanup
from benchmarks.peers import outside
from benchmarks.peers.http1 import Http1
from benchmarks.processes import descendants, output
from benchmarks.report import ROOT, Check, Options, Report
from tests.support.eventually import eventually

READY = "import json, sys; print(json.dumps({'versions': {}}), flush=True);"
LOAD = {"calls": 8, "seconds": 1.0, "p50_ms": 1, "p99_ms": 2, "all_calls": 9, "cpu_s": 0.1}


def python(code: str) -> list[str]:
    return [sys.executable, "-c", code]


def alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


async def test_a_peer_answers_runs_until_it_is_asked_to_end(tmp_path: Path) -> None:
    code = READY + f"[print({json.dumps(LOAD)!r}, flush=True) for _ in sys.stdin]"
    async with outside.running("good", tmp_path, python(code)) as peer:
        assert peer.about == {"versions": {}}
        assert (await peer.run(8, 0.1, 0.1)).calls == 8
        pid = peer._process.pid
    assert not alive(pid)


@pytest.mark.parametrize(
    "code",
    [
        "raise SystemExit('no such library')",
        "print('not json: no such library')",
        "print(5); import sys; sys.stderr.write('no such library')",
    ],
)
async def test_a_peer_that_does_not_start_makes_the_run_not_ok(tmp_path: Path, code: str) -> None:
    report = Report("calls", [Check("ratio", 2.0, 1.0)])
    commands = {"bad": python(code), "good": python(READY + "sys.stdin.read()")}
    async with AsyncExitStack() as stack:
        peers, faults = await outside.started(stack, tmp_path, commands)
        assert [peer.name for peer in peers] == ["good"]
    report.faults += faults
    assert len(faults) == 1 and "bad" in faults[0]
    assert not report.ok


async def test_a_peer_that_gives_up_in_a_run_says_why(tmp_path: Path) -> None:
    code = READY + "sys.stdin.readline(); sys.exit('out of memory')"
    async with outside.running("weak", tmp_path, python(code)) as peer:
        with pytest.raises(outside.PeerFailed, match="out of memory"):
            await peer.run(8, 0.1, 0.1)


async def test_an_environment_is_made_once_and_again_when_its_requirements_change(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    requirements = tmp_path / "peer.txt"
    requirements.write_text("# none\n")
    interpreter = await outside.installed(requirements, tmp_path / "env")
    prefix = await output([str(interpreter), "-c", "import sys; print(sys.prefix)"])
    assert prefix.decode().strip() == str(tmp_path / "env")
    capfd.readouterr()
    assert await outside.installed(requirements, tmp_path / "env") == interpreter
    assert capfd.readouterr().err == ""

    requirements.write_text("./there-is-no-such-folder\n")
    with pytest.raises(outside.PeerFailed, match="could not be installed"):
        await outside.installed(requirements, tmp_path / "env")
    requirements.write_text("# none\n")
    assert await outside.installed(requirements, tmp_path / "env") == interpreter


async def benchmark(*arguments: str, **environment: str) -> asyncio.subprocess.Process:
    return await asyncio.create_subprocess_exec(
        sys.executable,
        "-m",
        "benchmarks",
        *arguments,
        cwd=ROOT,
        env={**os.environ, **environment},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )


def closing_line(out: bytes) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(out.decode().strip().splitlines()[-1])
    return found


async def test_a_benchmark_that_cannot_run_says_why_and_fails(tmp_path: Path) -> None:
    kept = tmp_path / "samples" / "http.json"
    process = await benchmark("http", "--output", str(kept), PATH="")
    out, _ = await process.communicate()
    line = closing_line(out)
    assert process.returncode == 1
    assert not line["ok"]
    assert "wrk is missing" in line["faults"][0]
    assert json.loads(kept.read_text())["faults"] == line["faults"]


@pytest.mark.parametrize(
    "arguments",
    [
        ("nothing",),
        ("calls", "--peers", "akka"),
        ("http", "--peers", "ray"),
        ("calls", "--peers", "restate"),
        ("durable", "--peers", "restate"),
        ("calls", "--rounds", "0"),
    ],
)
async def test_a_mistyped_benchmark_is_refused(arguments: tuple[str, ...]) -> None:
    process = await benchmark(*arguments)
    _, err = await process.communicate()
    assert process.returncode == 2
    assert b"error:" in err


#: What each shows, and how many calls had their sums compared or were committed.
SHORT = {
    "reliable": {"64 callers", "1 caller", "bank, 64 callers"},
    "durable": {
        "volatile objects",
        "durable objects",
        "one durable object",
        "bare commits",
        "bare commits, 4 connections",
    },
}


@pytest.mark.parametrize("name", SHORT)
async def test_a_benchmark_of_durable_objects_runs_in_a_short_form(
    tmp_path: Path, name: str
) -> None:
    kept = tmp_path / "samples.json"
    process = await benchmark(name, "--rounds", "1", "--seconds", "0.3", "--output", str(kept))
    out, _ = await process.communicate()
    line = closing_line(out)
    assert line["faults"] == []
    shown = {subject.removeprefix("reliable calls, ") for subject in line["figures"]["medians"]}
    assert shown == SHORT[name]
    assert all(one["per_s"] > 0 for one in line["figures"]["medians"].values())
    assert len(line["checks"]) == (1 if name == "reliable" else 3)
    assert process.returncode == (0 if line["ok"] else 1)
    if name == "durable":
        assert set(line["figures"]["states"]) == {"1 KiB", "64 KiB", "1 MiB"}
        assert line["figures"]["objects_per_commit"] > 1
    assert json.loads(kept.read_text())["samples"]


async def test_delayed_calls_run_once_while_a_node_is_killed(tmp_path: Path) -> None:
    """The short form of `make delayed`. How late they are says nothing here: others are at work."""
    process = await benchmark("delayed", "--seconds", "3", "--output", str(tmp_path / "d.json"))
    out, _ = await process.communicate()
    line = closing_line(out)
    assert line["faults"] == []
    wrong = [check for check in line["checks"] if not check["ok"]]
    assert [check["name"] for check in wrong if "lateness" not in check["name"]] == []
    assert len(line["checks"]) == 8 and line["figures"]["lateness_s"]["calls"] == 1000


async def test_a_cleanup_deletes_what_was_counted_beside_live_calls() -> None:
    report = Report("cleanup")
    # It would take 40 s, and is stopped after the calls.
    size = cleanup.Size(8_000, 4, ("--batch-size", "5"))
    await cleanup.measure(Options(rounds=1, seconds=1.0), report, size)
    # How long live calls take says nothing here: others are at work.
    wrong = [check.name for check in report.checks if not check.ok]
    assert [name for name in wrong if "p99" not in name] == []
    assert len(report.checks) == 6 and report.figures["to_be_deleted"]["success"] > 2000


async def test_a_peers_packages_from_npm_need_npm(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    requirements, packages = tmp_path / "peer.txt", tmp_path / "peer.json"
    requirements.write_text("# none\n")
    packages.write_text('{"private": true}')
    monkeypatch.setattr("shutil.which", lambda _: None)
    with pytest.raises(outside.PeerFailed, match="npm is missing"):
        await outside.installed(requirements, tmp_path / "env", packages)


async def test_the_client_of_peers_speaks_http_over_kept_connections() -> None:
    asked: list[bytes] = []
    connections = 0

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal connections
        connections += 1
        while head := await reader.readuntil(b"\r\n\r\n"):
            length = int(head.lower().partition(b"content-length:")[2].partition(b"\r\n")[0])
            asked.append(head + await reader.readexactly(length))
            if b"/bad" in head:
                writer.write(b"HTTP/1.1 404 Not Found\r\ncontent-length: 4\r\n\r\nnone")
            elif b"/gone" in head:
                break
            else:
                writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 6\r\n\r\n[1, ")
                await writer.drain()
                writer.write(b"2]")
            await writer.drain()
        writer.close()

    async with await asyncio.start_server(serve, "127.0.0.1", 0) as server:
        http = Http1(*server.sockets[0].getsockname())
        assert await http.post("/good", {"a": 1}, "x: y\r\n") == [1, 2]
        assert asked[0].endswith(b'x: y\r\ncontent-type: application/json\r\n\r\n{"a": 1}')
        with pytest.raises(RuntimeError, match="/bad was answered 404: none"):
            await http.post("/bad", None)
        assert b"content-type" not in asked[1]
        assert connections == 1
        with pytest.raises(OSError):
            await http.post("/gone", 1)
        http.close()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGKILL])
async def test_an_interrupted_benchmark_leaves_no_process(
    tmp_path: Path, number: signal.Signals
) -> None:
    process = await benchmark("bootstrap", "--output", str(tmp_path / "samples.json"))

    def nodes() -> list[int]:
        return [pid for pid in descendants(process.pid) if "goverse_node" in command_line(pid)]

    await eventually(lambda: len(nodes()) == 3, timeout_s=30)
    started = descendants(process.pid)
    process.send_signal(number)
    out, _ = await process.communicate()
    if number is not signal.SIGKILL:
        assert process.returncode == 1
        assert closing_line(out)["faults"] == ["interrupted"]
    await eventually(lambda: not any(map(alive, started)))


def command_line(pid: int) -> str:
    try:
        return Path(f"/proc/{pid}/cmdline").read_text()
    except OSError:
        return ""
