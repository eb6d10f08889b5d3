"""What operators are told about a given state of the cluster."""

from __future__ import annotations

import pytest

from goverse.errors import InvalidArgument, NotFound, Unavailable
from goverse.sharding import Cordon
from goverse.sharding.placement import slot_of
from goverse_node.admin import report
from tests.support.cluster_state import cluster_state


def codes(**facts: object) -> dict[str, tuple[int, ...]]:
    found = report.cluster_status(cluster_state(**facts), source="n1", current=True)
    return {warning.code: warning.shards for warning in found.warnings}


def test_a_healthy_cluster_has_no_warnings() -> None:
    state = cluster_state(
        nodes=("n1", "n2"), leader="n1", targets={0: "n1", 1: "n2"}, claims={0: "n1", 1: "n2"},
        num_shards=2,
    )  # fmt: skip
    found = report.cluster_status(state, source="n2", current=True)
    assert found.warnings == ()
    assert (found.source, found.leader, found.num_shards, found.generation) == ("n2", "n1", 2, 1)
    assert (found.shards.total, found.shards.claimed, found.shards.owned) == (2, 2, 2)
    assert [(m.name, m.leader, m.claimed, m.targeted) for m in found.nodes] == [
        ("n1", True, 1, 1),
        ("n2", False, 1, 1),
    ]


def test_shards_are_counted_and_shown_by_state() -> None:
    state = cluster_state(
        nodes=("n1", "n2"), leader="n1", num_shards=4,
        targets={0: "n1", 1: "n2", 2: "n1"}, claims={0: "n1", 1: "n1"},
    )  # fmt: skip
    counts = report.cluster_status(state, source="n1", current=True).shards
    assert (counts.owned, counts.migrating, counts.unclaimed, counts.unassigned) == (1, 1, 1, 1)
    shards = report.shard_page(state).shards
    assert [shard.state for shard in shards] == ["owned", "migrating", "unclaimed", "unassigned"]
    assert shards[1].target == "n2"
    assert shards[1].owner == "n1"
    assert shards[1].owner_address == "n1:48000"
    assert shards[1].epoch.startswith("1.")
    assert shards[3].epoch == ""


def test_what_operators_said_of_nodes_is_their_state_and_a_warning_also_of_those_away() -> None:
    state = cluster_state(
        nodes=("n1", "n2", "n3"), leader="n1", targets={0: "n1", 1: "n2"},
        claims={0: "n1", 1: "n2"}, num_shards=2,
        cordons={"n1": Cordon.CORDONED, "n2": Cordon.DRAINING, "n3": Cordon.DRAINING,
                 "n9": Cordon.CORDONED},
    )  # fmt: skip
    found = report.cluster_status(state, source="n1", current=True)
    assert [node.state for node in found.nodes] == ["cordoned", "draining", "drained"]
    (warning,) = found.warnings
    assert warning.code == "node_cordoned"
    assert warning.message.startswith(
        "n1 cordoned, n2 draining, n3 draining, n9 cordoned (away): given no shards until"
    )
    assert report.takers(state, apart_from="n1") == ()
    assert report.one_node(state, "n9").state == ""


def test_warnings_say_what_is_wrong_and_where() -> None:
    assert codes(nodes=(), num_shards=1)["no_nodes"] == ()
    assert "no_leader" in codes(nodes=("n1",), num_shards=1)
    found = codes(
        nodes=("n1", "n3"), leader="n1", num_shards=4, pins={3: "n2", 0: "n1"},
        targets={0: "n1", 1: "n3", 3: "n1"}, claims={0: "n1", 1: "n1", 3: "n1"},
    )  # fmt: skip
    assert found == {
        "pin_failed_over": (3,),
        "shards_without_owner": (2,),
        "shards_migrating": (1,),
    }
    stale = report.cluster_status(cluster_state(num_shards=1), source="n1", current=False)
    assert stale.warnings[0].code == "stale_view"


def test_a_claim_of_a_member_that_is_gone_owns_nothing() -> None:
    state = cluster_state(nodes=("n1",), num_shards=1, targets={0: "n1"}, claims={0: "n2"})
    assert report.one_shard(state, 0).state == "unclaimed"


def test_pins_are_told_whether_or_not_they_are_obeyed() -> None:
    state = cluster_state(nodes=("n1",), num_shards=2, pins={0: "n1", 1: "n2"})
    here, away = (report.one_shard(state, number) for number in (0, 1))
    assert (here.pinned, here.pinned_node, here.failed_over) == (True, "n1", False)
    assert (away.pinned, away.pinned_node, away.failed_over) == (True, "n2", True)


def test_pages_of_shards_are_bounded_and_complete() -> None:
    state = cluster_state(nodes=("n1",), num_shards=8, targets=dict.fromkeys(range(0, 8, 2), "n1"))
    seen, token, pages = [], "", 0
    while pages == 0 or token:
        page = report.shard_page(state, node="n1", page_size=3, page_token=token)
        seen += [shard.shard for shard in page.shards]
        token, pages = page.next_page_token, pages + 1
    assert (seen, pages) == ([0, 2, 4, 6], 2)


def test_shards_can_be_asked_for_by_state_and_pin() -> None:
    state = cluster_state(nodes=("n1",), num_shards=4, targets={1: "n1"}, pins={2: "n1"})
    assert [s.shard for s in report.shard_page(state, shard_state="unclaimed").shards] == [1]
    assert [s.shard for s in report.shard_page(state, shard_state="pinned").shards] == [2]


@pytest.mark.parametrize(
    "question", [{"shard_state": "lost"}, {"page_token": "x"}, {"page_size": -1}]
)
def test_questions_that_make_no_sense_are_refused(question: dict[str, object]) -> None:
    with pytest.raises(InvalidArgument):
        report.shard_page(cluster_state(num_shards=2), **question)


@pytest.mark.parametrize("number", [-1, 2, 65_536])
def test_a_shard_that_does_not_exist_is_not_found(number: int) -> None:
    with pytest.raises(NotFound, match="0 to 1"):
        report.one_shard(cluster_state(num_shards=2), number)


def test_without_a_layout_nothing_is_made_up() -> None:
    with pytest.raises(Unavailable):
        report.cluster_status(cluster_state(num_shards=0), source="n1", current=True)


def test_an_object_is_located_by_its_slot() -> None:
    shard = slot_of("a") % 8
    state = cluster_state(nodes=("n1",), num_shards=8, claims={shard: "n1"})
    found = report.location(state, "Counter", "a")
    assert (found.slot, found.shard, found.owner) == (slot_of("a"), shard, "n1")
    nowhere = report.location(state, "Counter", "b")
    assert (nowhere.owner, nowhere.epoch) == ("", "")


def test_an_object_named_after_a_node_is_on_that_node() -> None:
    state = cluster_state(nodes=("n1",), num_shards=8)
    found = report.location(state, "Monitor", "node#n1/cpu")
    assert (found.slot, found.shard, found.owner) == (-1, -1, "n1")
    assert found.epoch == str(state.nodes["n1"].epoch)
    assert report.location(state, "Monitor", "node#n9/cpu").owner == ""


@pytest.mark.parametrize(("type", "id"), [("Not a type", "a"), ("T", ""), ("T", "shard#x/y")])
def test_what_cannot_be_an_object_is_refused(type: str, id: str) -> None:
    with pytest.raises(InvalidArgument):
        report.location(cluster_state(num_shards=8), type, id)
