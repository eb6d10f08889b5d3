"""What a process is started in. A simulation starts the same process in other surroundings."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

from goverse.aio.runtime import Runtime
from goverse.coordination.api import Coordinator
from goverse.observability.metrics import Metrics
from goverse.observability.quota import Machine
from goverse.storage.api import Store
from goverse.transport.carrier import Network


@dataclass(frozen=True)
class Surroundings:
    """Given to the composition roots of node and gate, which do not close any of it.

    :param coordinator: says who owns what.
    :param network: makes links; its listener also serves the admin service where it can.
    :param runtime: time and chance.
    :param metrics: this process's metrics.
    :param machine: what this process may use, and does.
    :param store: keeps durable objects; None: a node hosts none.
    :param stop: has the process stop in order, as its first signal does.
    """

    coordinator: Coordinator
    network: Network
    runtime: Runtime = field(default_factory=Runtime)
    metrics: Metrics = field(default_factory=Metrics)
    store: Store | None = None
    machine: Machine = field(default_factory=Machine)
    stop: Callable[[], None] = lambda: None
