"""The layout key: created once, followed by everybody, raised when history was lost."""

from __future__ import annotations

import logging
from dataclasses import dataclass

from goverse.cluster.keys import Keys
from goverse.cluster.records import Layout, decode_layout, encode
from goverse.coordination.api import Compare, Coordinator, Put
from goverse.errors import FailedPrecondition

log = logging.getLogger(__name__)


async def ensure_layout(coordinator: Coordinator, keys: Keys, wanted: Layout) -> tuple[Layout, int]:
    """The cluster's layout and its revision; ``wanted`` becomes it if there is none.

    Raises `BadValue` if the one that stands cannot be read (a person must mend it: every epoch
    depends on it), `CoordinatorUnavailable`.
    """
    while True:
        item = await coordinator.get(keys.layout)
        if item is not None:
            return decode_layout(item), item.mod_revision
        created = await coordinator.transact(
            [Compare.absent(keys.layout)], [Put(keys.layout, encode(wanted))]
        )
        if created.succeeded:
            log.info(
                "created the layout of cluster %s: %d shards, generation %d",
                wanted.cluster_id,
                wanted.num_shards,
                wanted.generation,
            )


def successor(known: Layout) -> Layout:
    """The layout to create where ``known`` has vanished: the coordinator lost its history.

    Its revisions may start low again, and epochs must not: the generation is raised.
    """
    return Layout(known.cluster_id, known.generation + 1, known.num_shards, known.next)


@dataclass(frozen=True, slots=True)
class Proof:
    """A key whose standing shows that its holder owns something now: a claim, or a node's own."""

    key: str
    create_revision: int
    lease: int


async def raise_generation(
    coordinator: Coordinator, keys: Keys, proof: Proof, *, above: int
) -> Layout:
    """Lift the generation above ``above``, that of an epoch which is known.

    For the holder of ``proof`` only, and conditional on it: a node whose own claim stands in a
    linearizable read, and who knows a higher epoch of this very cluster, or whose store does, has
    met a coordinator that lost its history. Returns the layout that stands afterwards, which
    somebody else may have raised. Raises FailedPrecondition if the claim does not stand.
    """
    while True:
        item = await coordinator.get(keys.layout)
        if item is None:
            raise FailedPrecondition("the cluster has no layout")
        layout = decode_layout(item)
        if layout.generation > above:
            return layout
        raised = Layout(layout.cluster_id, above + 1, layout.num_shards, layout.next)
        result = await coordinator.transact(
            [
                Compare.modified_at(keys.layout, item.mod_revision),
                Compare.created_at(proof.key, proof.create_revision),
                Compare.has_lease(proof.key, proof.lease),
            ],
            [Put(keys.layout, encode(raised))],
        )
        if result.succeeded:
            log.error(
                "epochs of generation %d are known, the coordinator was at %d: it lost its "
                "history; the generation is now %d",
                above,
                layout.generation,
                raised.generation,
            )
            return raised
        standing = await coordinator.get(proof.key)
        if standing is None or standing.create_revision != proof.create_revision:
            raise FailedPrecondition(f"{proof.key} does not stand any more")
