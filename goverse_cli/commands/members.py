"""Tables of nodes and gates."""

from __future__ import annotations

from collections.abc import Iterable

from rich.table import Table

from goverse.admin.api import Member
from goverse_cli.output import rows


def node_table(members: Iterable[Member]) -> Table:
    return rows(
        ("name", "address", "ops", "state", "leader", "claimed", "targeted", "weight", "version"),
        (
            (
                m.name,
                m.address,
                m.ops_address,
                m.state,
                m.leader,
                m.claimed,
                m.targeted,
                m.weight,
                m.version,
            )
            for m in members
        ),
    )


def gate_table(members: Iterable[Member]) -> Table:
    return rows(
        ("name", "address", "ops", "state", "version"),
        ((m.name, m.address, m.ops_address, m.state, m.version) for m in members),
    )
