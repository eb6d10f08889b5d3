"""What development mode starts, on which ports, and what it says about it."""

from __future__ import annotations

import json
import os
import sys
from dataclasses import asdict, dataclass
from pathlib import Path

from goverse.config.settings import StorageSettings
from goverse_cli.dev.examples import Example, lines_to_try, source_of
from goverse_cli.dev.ports import Ports
from goverse_cli.dev.processes import Command

#: The folder of the state, beside the application, unless ``--data-dir`` names another one.
FOLDER = ".goverse"

HOST = "127.0.0.1"

#: Exit code of a node process whose application could not be loaded.
CODE_BROKEN = 3

# What is right on one developer's machine; the environment can say otherwise.
_DEFAULTS = {
    "GOVERSE_CLUSTER__STABILITY_DURATION": "0.2s",
    "GOVERSE_CLUSTER__LEASE_TTL": "3s",
    "GOVERSE_OBJECTS__EXPOSE_ERRORS": "true",
    # When everything stops at once there is nobody to hand shards to.
    "GOVERSE_NODE__SHUTDOWN_MODE": "restart",
    "GOVERSE_GATE__SHUTDOWN_NOTICE": "0s",
}
_ALIASES = {
    "GOVERSE_CLUSTER__STABILITY_DURATION": "GOVERSE_STABILITY_DURATION",
    "GOVERSE_NODE__SHUTDOWN_MODE": "GOVERSE_SHUTDOWN_MODE",
}


@dataclass(frozen=True)
class AskedPorts:
    """Ports named on the command line; None: the usual one, or the next that is free."""

    http: int | None = None
    gate: int | None = None
    node: int | None = None
    etcd: int | None = None


@dataclass(frozen=True)
class NodePlan:
    name: str
    port: int
    ops_port: int


@dataclass(frozen=True)
class Plan:
    """``etcd_port`` is 0 where node and gate share a process, and with it a coordinator.

    :param state: the folder that keeps durable objects; made when there is one to keep.
    :param state_asked: whether the user named it.
    :param postgres_port: where their store listens if there are several processes.
    """

    module: str
    nodes: tuple[NodePlan, ...]
    gate_port: int
    http_port: int
    gate_ops_port: int
    etcd_port: int = 0
    etcd_peer_port: int = 0
    postgres_port: int = 0
    state: str = FOLDER
    state_asked: bool = False

    @property
    def ops_ports(self) -> tuple[int, ...]:
        return (*(node.ops_port for node in self.nodes), self.gate_ops_port)


def make_plan(
    module: str, *, nodes: int, ports: Ports, asked: AskedPorts, state: Path | None = None
) -> Plan:
    """``nodes`` 0: one process for all. Raises PortTaken.

    :param state: the folder that the user named for it; None: one beside the application.
    """
    http = ports.pick(8080, asked.http)
    gate = ports.pick(49000, asked.gate)
    gate_ops = ports.pick(49001)
    members = []
    for index in range(max(nodes, 1)):
        first = asked.node if index == 0 else None
        port = ports.pick(48000 + 2 * index, first)
        members.append(NodePlan(f"n{index + 1}", port, ports.pick(48001 + 2 * index)))
    return Plan(
        module=module,
        nodes=tuple(members),
        gate_port=gate,
        http_port=http,
        gate_ops_port=gate_ops,
        etcd_port=ports.pick(2379, asked.etcd) if nodes else 0,
        etcd_peer_port=ports.pick(2380) if nodes else 0,
        postgres_port=ports.pick(25432) if nodes else 0,
        state=str((state or _beside(module)).resolve()),
        state_asked=state is not None,
    )


def _beside(module: str) -> Path:
    source = source_of(module)
    return (source.resolve().parent if source is not None else Path.cwd()) / FOLDER


def environment(nodes: int = 1) -> dict[str, str]:
    """Settings for the children of so many nodes, less what the environment already says."""
    defaults = dict(_DEFAULTS)
    if nodes > 1:
        # Nodes that start together are planned together: no shard moves right after the start.
        defaults["GOVERSE_CLUSTER__STABILITY_DURATION"] = "1s"
    return {
        key: value
        for key, value in defaults.items()
        if key not in os.environ and _ALIASES.get(key, key) not in os.environ
    }


def single_command(plan: Plan) -> Command:
    """Node and gate in one process."""
    return Command(
        name="dev",
        argv=(sys.executable, "-m", "goverse_cli.dev.serve", json.dumps(asdict(plan))),
        env=environment(),
        final_codes=(CODE_BROKEN,),
    )


def plan_from_json(text: str) -> Plan:
    fields = json.loads(text)
    fields["nodes"] = tuple(NodePlan(**node) for node in fields["nodes"])
    return Plan(**fields)


def node_command(plan: Plan, node: NodePlan, store: StorageSettings | None = None) -> Command:
    """:param store: the session's own; None: what the node is configured to have."""
    env = environment(len(plan.nodes))
    if store is not None:
        env["GOVERSE_STORAGE__URL"] = store.url
        env["GOVERSE_STORAGE__PASSWORD"] = store.password
    return Command(
        name=node.name,
        argv=(
            *(sys.executable, "-m", "goverse_node", "serve"),
            *("--id", node.name),
            *("--listen", f"{HOST}:{node.port}"),
            *("--ops-listen", f"{HOST}:{node.ops_port}"),
            *("--module", plan.module),
            *("--etcd-endpoints", f"{HOST}:{plan.etcd_port}"),
        ),
        env=env,
        final_codes=(CODE_BROKEN,),
    )


def gate_command(plan: Plan) -> Command:
    return Command(
        name="gate",
        argv=(
            *(sys.executable, "-m", "goverse_gate", "serve"),
            *("--id", "gate"),
            *("--listen", f"{HOST}:{plan.gate_port}"),
            *("--http-listen", f"{HOST}:{plan.http_port}"),
            *("--ops-listen", f"{HOST}:{plan.gate_ops_port}"),
            *("--etcd-endpoints", f"{HOST}:{plan.etcd_port}"),
        ),
        env=environment(len(plan.nodes)),
    )


def banner(plan: Plan, moved: dict[int, int], example: Example | None, seconds: float) -> str:
    """Where everything is, and what to try. Printed once it all answers."""
    lines = ["", f"Goverse is ready ({seconds:.1f} s): {plan.module}", ""]
    lines.append(
        f"  gate  http://localhost:{plan.http_port}  grpc localhost:{plan.gate_port}  "
        f"ops http://localhost:{plan.gate_ops_port}"
    )
    lines.extend(
        f"  {node.name:<4}  grpc localhost:{node.port}  ops http://localhost:{node.ops_port}"
        for node in plan.nodes
    )
    if plan.etcd_port:
        lines.append(f"  etcd  localhost:{plan.etcd_port}")
    lines.extend(
        f"  port {usual} is in use by somebody else: took {taken}" for usual, taken in moved.items()
    )
    if example is not None:
        tries = lines_to_try(
            example, http=plan.http_port, gate=plan.gate_port, node=plan.nodes[0].port
        )
        lines += ["", "Try:", *(f"  {line}" for line in tries)]
    else:
        lines += ["", f"{plan.module} has no object class with a method that can be called yet."]
    lines += ["", "It restarts when the code changes. Ctrl-C stops it.", ""]
    return "\n".join(lines)
