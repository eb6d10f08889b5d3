"""samples/counter_pb as its README shows it: over HTTP, our client and GateService."""

from __future__ import annotations

import asyncio
import importlib
import re
import shlex
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import grpc
import grpc.aio
import httpx
import pytest

import goverse.client
from goverse.objects import Registry
from goverse.objects.loading import load_modules
from goverse.transport.pb.gate import gate_pb2 as pb
from goverse.transport.pb.gate.gate_pb2_grpc import GateServiceStub
from tests.support.real_gate import Running, real_gate

SAMPLE = Path(__file__).resolve().parents[2] / "samples" / "counter_pb"


@pytest.fixture(scope="module")
def sample() -> Iterator[Any]:
    """The application, loaded as a node loads it; its messages are in ``counter_pb2``."""
    path, known = list(sys.path), dict(sys.modules)
    registry = Registry()
    load_modules([str(SAMPLE / "counter_pb.py")], registry)
    yield registry.get("CounterPb").cls
    sys.path[:] = path
    for name in [name for name in sys.modules if name not in known and "counter_pb" in name]:
        del sys.modules[name]


def readme(language: str) -> list[str]:
    return re.findall(
        rf"^```{language}\n(.*?)^```$", (SAMPLE / "README.md").read_text(), re.M | re.S
    )


def test_the_readme_shows_the_file() -> None:
    (block,) = readme("python")
    assert block == "# samples/counter_pb/counter_pb.py\n" + (SAMPLE / "counter_pb.py").read_text()


async def test_over_http_in_protojson_by_the_line_of_the_readme(sample: Any) -> None:
    _, curl = readme("sh")
    program, flag, body, url = shlex.split(curl)
    assert (program, flag) == ("curl", "-d")
    async with real_gate(sample) as running, httpx.AsyncClient() as http:
        url = url.replace("localhost:8080", f"http://{running.gate.http_address}")
        answer = await http.post(url, content=body)
        assert answer.status_code == 200
        assert answer.text == '{"value":"5","lastNote":"first"}'
        assert answer.text in (SAMPLE / "README.md").read_text()
        answer = await http.post(url, json={"amount": "9007199254740993"})
        assert answer.json() == {"value": "9007199254740998"}
        assert (await http.post(url.replace("/add", "/read"))).json() == answer.json()
        answer = await http.post(url, json={"amout": 1})
        assert answer.status_code == 400
        assert answer.json()["details"] == {"path": "amout"}


async def test_over_our_client(sample: Any) -> None:
    messages = importlib.import_module("counter_pb2")
    async with real_gate(sample) as running:
        async with goverse.client.connect(running.gate.address) as client:
            counter = client.get(sample, "a")
            assert await counter.add(messages.AddRequest(amount=5, note="x")) == messages.Count(
                value=5, last_note="x"
            )
            assert (await counter.read()).value == 5


async def test_over_gate_service(sample: Any) -> None:
    messages = importlib.import_module("counter_pb2")
    async with real_gate(sample) as running:
        async with grpc.aio.insecure_channel(running.gate.address) as channel:
            stub: Any = GateServiceStub(channel)
            request = pb.CallObjectRequest(type="CounterPb", id="a", method="add")
            request.request.Pack(messages.AddRequest(amount=5, note="x"))
            answer = messages.Count()
            assert (await stub.CallObject(request, timeout=10)).response.Unpack(answer)
            assert answer == messages.Count(value=5, last_note="x")
            request.method = "read"
            request.ClearField("request")
            assert (await stub.CallObject(request, timeout=10)).response.Unpack(answer)
            assert answer.value == 5
            request.request.Pack(messages.Count())
            request.method = "add"
            with pytest.raises(grpc.aio.AioRpcError, match=r"expected counter\.AddRequest"):
                await stub.CallObject(request, timeout=10)


@pytest.mark.parametrize("program", ["call.py", "call_grpc.py"])
async def test_programs_of_the_sample_run(sample: Any, program: str, tmp_path: Path) -> None:
    async with real_gate(sample) as running:
        assert await _run(running, program, tmp_path) == "5"


async def _run(running: Running, program: str, folder: Path) -> str:
    text = (SAMPLE / program).read_text()
    assert "localhost:49000" in text
    copy = folder / program
    copy.write_text(text.replace("localhost:49000", running.gate.address))
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        str(copy),
        env={"PYTHONPATH": f"{SAMPLE}:{SAMPLE.parents[1]}"},
        stdout=asyncio.subprocess.PIPE,
    )
    out, _ = await asyncio.wait_for(process.communicate(), 60)
    assert process.returncode == 0
    return out.decode().strip()
