"""Ports, examples, and what is started where."""

from __future__ import annotations

import asyncio
import dataclasses
import json
import shlex
from pathlib import Path
from typing import Any

import pytest

from goverse_cli.dev import plan as planning
from goverse_cli.dev import ports as port_module
from goverse_cli.dev.examples import Example, find_example, lines_to_try, source_of
from goverse_cli.dev.plan import (
    AskedPorts,
    banner,
    gate_command,
    make_plan,
    node_command,
    plan_from_json,
    single_command,
)
from goverse_cli.dev.ports import Ports, PortTaken
from goverse_cli.dev.watch import Watch, folders_of, syntax_fault

ROOT = Path(__file__).resolve().parents[3]
COUNTER = ROOT / "samples" / "counter" / "counter.py"


@pytest.fixture
def taken(monkeypatch: pytest.MonkeyPatch) -> dict[int, None]:
    """Ports that somebody else listens on."""
    ports: dict[int, None] = {}
    monkeypatch.setattr(port_module, "is_free", lambda port: port not in ports)
    return ports


def test_the_usual_ports_are_taken_when_they_are_free(taken: dict[int, None]) -> None:
    ports = Ports()
    plan = make_plan("app.py", nodes=0, ports=ports, asked=AskedPorts())
    assert (plan.http_port, plan.gate_port, plan.gate_ops_port) == (8080, 49000, 49001)
    assert [(n.name, n.port, n.ops_port) for n in plan.nodes] == [("n1", 48000, 48001)]
    assert plan.etcd_port == 0
    assert ports.moved == {}


def test_several_nodes_have_ports_and_names_of_their_own(taken: dict[int, None]) -> None:
    plan = make_plan("app.py", nodes=3, ports=Ports(), asked=AskedPorts())
    assert [(n.name, n.port, n.ops_port) for n in plan.nodes] == [
        ("n1", 48000, 48001),
        ("n2", 48002, 48003),
        ("n3", 48004, 48005),
    ]
    assert (plan.etcd_port, plan.etcd_peer_port) == (2379, 2380)


def test_a_port_in_use_is_passed_over_and_said(taken: dict[int, None]) -> None:
    taken.update(dict.fromkeys((8080, 8081, 48001, 48002, 2379)))
    ports = Ports()
    plan = make_plan("app.py", nodes=2, ports=ports, asked=AskedPorts())
    assert plan.http_port == 8082
    everything = [plan.http_port, plan.gate_port, plan.gate_ops_port, plan.etcd_port]
    everything += [plan.etcd_peer_port, *(p for n in plan.nodes for p in (n.port, n.ops_port))]
    assert len(set(everything)) == len(everything)
    assert not set(everything) & set(taken)
    assert ports.moved[8080] == 8082
    assert "port 8080 is in use by somebody else: took 8082" in banner(plan, ports.moved, None, 1)


def test_a_port_that_was_asked_for_is_not_replaced(taken: dict[int, None]) -> None:
    asked = AskedPorts(http=9000)
    assert make_plan("a", nodes=0, ports=Ports(), asked=asked).http_port == 9000
    taken[9000] = None
    with pytest.raises(PortTaken, match="9000"):
        make_plan("a", nodes=0, ports=Ports(), asked=asked)


def test_when_no_port_is_free_that_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(port_module, "is_free", lambda port: False)
    with pytest.raises(PortTaken, match="no free port from 8080"):
        Ports().pick(8080)


def test_a_plan_survives_the_way_to_its_process(taken: dict[int, None]) -> None:
    plan = make_plan("app.py", nodes=0, ports=Ports(), asked=AskedPorts())
    assert plan_from_json(json.dumps(dataclasses.asdict(plan))) == plan
    assert plan_from_json(single_command(plan).argv[-1]) == plan


def test_nodes_and_gate_are_the_real_commands(taken: dict[int, None]) -> None:
    plan = make_plan("app.py", nodes=2, ports=Ports(), asked=AskedPorts())
    node = " ".join(node_command(plan, plan.nodes[1]).argv[1:])
    assert node == (
        "-m goverse_node serve --id n2 --listen 127.0.0.1:48002 --ops-listen 127.0.0.1:48003 "
        "--module app.py --etcd-endpoints 127.0.0.1:2379"
    )
    gate = " ".join(gate_command(plan).argv[1:])
    assert gate == (
        "-m goverse_gate serve --id gate --listen 127.0.0.1:49000 --http-listen 127.0.0.1:8080 "
        "--ops-listen 127.0.0.1:49001 --etcd-endpoints 127.0.0.1:2379"
    )


def test_the_environment_has_the_last_word(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("GOVERSE_STABILITY_DURATION", "GOVERSE_CLUSTER__LEASE_TTL"):
        monkeypatch.delenv(name, raising=False)
    assert planning.environment()["GOVERSE_CLUSTER__STABILITY_DURATION"] == "0.2s"
    monkeypatch.setenv("GOVERSE_STABILITY_DURATION", "9s")
    monkeypatch.setenv("GOVERSE_CLUSTER__LEASE_TTL", "20s")
    assert not {"GOVERSE_CLUSTER__STABILITY_DURATION", "GOVERSE_CLUSTER__LEASE_TTL"} & set(
        planning.environment()
    )


def test_the_sample_gives_the_well_known_lines() -> None:
    example = find_example(COUNTER)
    assert example == Example("Counter", "add", {"amount": 5})
    curl, command, python = lines_to_try(example, http=8080, gate=49000, node=48000)
    assert curl == ("curl -d '{\"amount\": 5}' localhost:8080/v1/objects/Counter/my-counter/add")
    assert command.endswith("object call Counter my-counter add amount=5")
    assert "--server" not in command
    compile(shlex.split(python)[-1], "line", "exec")


def test_other_ports_are_in_the_lines() -> None:
    example = Example("ChatRoom", "say", {"text": "it's", "loud": True})
    curl, command, python = lines_to_try(example, http=1, gate=2, node=3)
    words = shlex.split(curl)
    assert json.loads(words[2]) == example.arguments
    assert words[3] == "localhost:1/v1/objects/ChatRoom/my-chat-room/say"
    assert shlex.split(command)[-4:] == ["text=it's", "loud=true", "--server", "localhost:3"]
    program = shlex.split(python)[-1]
    compile(program, "line", "exec")
    assert "localhost:2" in program


@pytest.mark.parametrize(
    ("code", "expected"),
    [
        ("class A(Object):\n @method\n async def f(self): ...", Example("A", "f")),
        ("class A(goverse.Object):\n @goverse.method(read_only=True)\n async def f(self): ...",
         Example("A", "f")),
        ("class A(goverse.Object, name='Z'):\n @goverse.method\n async def f(self): ...",
         Example("Z", "f")),
        ("class A(goverse.Object):\n @goverse.method\n async def f(self, x: Thing): ...\n"
         " @goverse.method\n async def g(self, x: str, y: Thing = None): ...",
         Example("A", "g", {"x": "hello"})),
        ("class A(goverse.Object):\n @goverse.method\n async def f(self, *, x: float): ...",
         Example("A", "f", {"x": 1.5})),
        ("class A(goverse.Object):\n async def f(self): ...", None),
        ("class A:\n @goverse.method\n async def f(self): ...", None),
        ("def broken(", None),
    ],
)  # fmt: skip
def test_an_example_is_found_without_running_the_module(
    tmp_path: Path, code: str, expected: Any
) -> None:
    path = tmp_path / "app.py"
    path.write_text(code + "\nraise SystemExit('it was run')\n")
    assert find_example(path) == expected


def test_a_module_may_be_named_or_a_path() -> None:
    assert source_of(str(COUNTER)) == COUNTER
    assert source_of("json.decoder") == Path(json.decoder.__file__)
    assert source_of("no_such_module.at_all") is None


def test_the_banner_names_every_address(taken: dict[int, None]) -> None:
    plan = make_plan("app.py", nodes=2, ports=Ports(), asked=AskedPorts())
    text = banner(plan, {}, Example("Counter", "add", {"amount": 5}), 1.234)
    for part in (
        "ready (1.2 s)", "http://localhost:8080", "localhost:49000", "http://localhost:49001",
        "n2    grpc localhost:48002  ops http://localhost:48003", "etcd  localhost:2379", "curl",
    ):  # fmt: skip
        assert part in text


def test_the_folder_and_its_packages_are_watched_and_no_more(tmp_path: Path) -> None:
    for folder in ("pkg/sub", "data/deep"):
        (tmp_path / folder).mkdir(parents=True)
    for init in ("pkg/__init__.py", "pkg/sub/__init__.py"):
        (tmp_path / init).touch()
    app = tmp_path / "app.py"
    app.touch()
    names = [str(path.relative_to(tmp_path.resolve())) for path in folders_of(app)]
    assert names == [".", "pkg", "pkg/sub"]


async def test_a_change_before_the_system_watches_is_told_too(tmp_path: Path) -> None:
    app = tmp_path / "app.py"
    app.write_text("x = 1\n")
    watch = Watch(app)
    app.write_text("x = 22\n")
    (tmp_path / "notes.txt").touch()
    changes = watch.changes()
    async with asyncio.timeout(20):
        assert await anext(changes) == ("app.py",)
        (tmp_path / "other.py").touch()
        assert await anext(changes) == ("other.py",)
    await changes.aclose()


def test_a_syntax_error_is_shown_with_its_place(tmp_path: Path) -> None:
    app = tmp_path / "app.py"
    app.write_text("x = 1\ndef f(:\n")
    assert "line 2" in syntax_fault(app)
    assert "SyntaxError" in syntax_fault(app)
    app.write_text("x = 1\n")
    assert syntax_fault(app) == ""
    app.unlink()
    assert "app.py" in syntax_fault(app)
