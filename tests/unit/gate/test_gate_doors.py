"""Every way into the cluster through a gate, listed from its source."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import goverse_gate

PACKAGE = Path(goverse_gate.__file__).parent


def calls() -> Iterator[tuple[str, ast.Call]]:
    for path in sorted(PACKAGE.rglob("*.py")):
        for found in ast.walk(ast.parse(path.read_text())):
            if isinstance(found, ast.Call):
                yield path.name, found


def named(wanted: str) -> list[tuple[str, str]]:
    """Where something called ``wanted`` is called: (file, source of what it is called on)."""
    found = []
    for file, call in calls():
        function = call.func
        if isinstance(function, ast.Attribute) and function.attr == wanted:
            found.append((file, ast.unparse(function.value)))
        elif isinstance(function, ast.Name) and function.id == wanted:
            found.append((file, ""))
    return found


def test_L31_only_the_ingress_calls_into_the_cluster() -> None:
    assert named("invoke") == [
        ("gate_service.py", "door"),  # of a registered client
        ("gate_service.py", "door"),  # of a connection
        ("http_app.py", "door"),  # the listener's own, or that of a client by its token
        ("http_app.py", "self._doors.of(head)"),  # likewise, for a delayed call
        ("http_compat.py", "door"),  # create and delete
        ("http_compat.py", "door"),  # call
        ("http_delays.py", "door"),  # whose call it is that is to be cancelled
        ("http_delays.py", "door"),  # its cancellation
        ("http_delays.py", "door"),  # what stands of it then
        ("ingress.py", "self._router"),
        # Not a client's call: the gate asks a node itself, see test_gate_ingress for clients.
        ("node_types.py", "self._pool.target(record.member, record.address)"),
        ("session.py", "self._link"),  # to the client: what was pushed to it
    ]
    assert named("forward") == [("ingress.py", "self._router")]


def test_L31_the_router_is_given_to_the_ingress_alone() -> None:
    tree = ast.parse((PACKAGE / "app.py").read_text())
    uses = [
        found
        for found in ast.walk(tree)
        if isinstance(found, ast.Name) and found.id == "router" and isinstance(found.ctx, ast.Load)
    ]
    givings = [
        call for file, call in calls() if file == "app.py" and "Ingress" in ast.dump(call.func)
    ]
    closings = [found for found in ast.walk(tree) if ast.unparse(found) == "router.close"]
    assert len(uses) == 1 + len(closings)
    assert next(ast.unparse(argument) for call in givings for argument in call.args) == "router"
    assert named("Router") == [("app.py", "")]


def test_L31_every_listener_gets_a_door() -> None:
    """A front that is added must be added here, with the door it was given."""
    listeners = sorted(named("listen") + named("open_http") + named("OpsServer"))
    assert listeners == [
        ("app.py", ""),  # open_http: an HttpApp around a door
        ("app.py", ""),  # OpsServer: no calls
        ("app.py", "network"),  # sessions: a door each; GateService: its clients' and its own
        ("http_server.py", "listening"),  # the socket of open_http
    ]
    assert named("door") == [
        ("app.py", "gate.ingress"),
        ("clients.py", "self._ingress"),
        ("gate_service.py", "self._ingress"),
    ]


def test_L31_every_transport_connects_its_clients_through_the_registry() -> None:
    """Which asks the ingress for each of them: a transport that is added must be added here."""
    assert sorted(named("connect")) == [
        ("events.py", "clients"),  # attach(): event streams and WebSockets
        ("events.py", "self._clients"),  # the compatible event stream
        ("gate_service.py", "self._clients"),
        ("session.py", "self._clients"),
    ]
    assert named("Client") == [("clients.py", "")]
