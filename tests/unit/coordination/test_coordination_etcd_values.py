"""Messages of etcd, what errors mean, and lost histories: pure functions of their input."""

from __future__ import annotations

import logging
from types import SimpleNamespace
from typing import Any

import grpc
import pytest
from aetcd import rpc

from goverse.coordination import Changes, KeyValue
from goverse.coordination.etcd.codec import Assembler, prefix_end
from goverse.coordination.etcd.failures import Fate, explain
from goverse.coordination.etcd.lineage import Lineage


def event(key: str, revision: int, *, deleted: bool = False) -> Any:
    kind = rpc.Event.DELETE if deleted else rpc.Event.PUT
    kv = rpc.KeyValue(key=key.encode(), mod_revision=revision, create_revision=revision)
    return rpc.Event(type=kind, kv=kv)


def test_several_revisions_in_one_response() -> None:
    response = rpc.WatchResponse(
        events=[event("/a", 2), event("/b", 2), event("/a", 3, deleted=True), event("/c", 5)]
    )
    assert Assembler().add(response) == [
        Changes(2, {"/a": KeyValue("/a", b"", 2, 2, 0), "/b": KeyValue("/b", b"", 2, 2, 0)}),
        Changes(3, {"/a": None}),
        Changes(5, {"/c": KeyValue("/c", b"", 5, 5, 0)}),
    ]


def test_a_revision_in_several_fragments() -> None:
    assembler = Assembler()
    first = rpc.WatchResponse(events=[event("/a", 2), event("/b", 3)], fragment=True)
    second = rpc.WatchResponse(events=[event("/c", 3)], fragment=True)
    last = rpc.WatchResponse(events=[event("/d", 3)])
    assert assembler.add(first) == []
    assert assembler.add(second) == []
    whole = assembler.add(last)
    assert [change.revision for change in whole] == [2, 3]
    assert list(whole[1].items) == ["/b", "/c", "/d"]
    assert assembler.add(rpc.WatchResponse()) == []


def test_the_end_of_a_prefix() -> None:
    assert b"/a/" < b"/a/\xff\xff" < prefix_end("/a/") <= b"/a0"


@pytest.mark.parametrize(
    ("code", "details", "fate", "blames_member"),
    [
        (grpc.StatusCode.UNAVAILABLE, "etcdserver: no leader", Fate.NOT_TAKEN, True),
        (grpc.StatusCode.UNAVAILABLE, "etcdserver: leader changed", Fate.UNKNOWN, False),
        (grpc.StatusCode.UNAVAILABLE, "etcdserver: request timed out", Fate.UNKNOWN, True),
        (grpc.StatusCode.UNAVAILABLE, "Socket closed", Fate.UNKNOWN, True),
        (grpc.StatusCode.DEADLINE_EXCEEDED, "Deadline Exceeded", Fate.UNKNOWN, False),
        (grpc.StatusCode.PERMISSION_DENIED, "etcdserver: permission denied", Fate.REFUSED, False),
        (
            grpc.StatusCode.RESOURCE_EXHAUSTED,
            "etcdserver: too many requests",
            Fate.NOT_TAKEN,
            False,
        ),
        (grpc.StatusCode.UNKNOWN, "", Fate.UNKNOWN, True),
    ],
)
def test_fates(code: grpc.StatusCode, details: str, fate: Fate, blames_member: bool) -> None:
    failed = explain(code, details)
    assert (failed.fate, failed.blames_member) == (fate, blames_member)
    assert failed.text


def header(revision: int, term: int = 5, cluster_id: int = 7) -> Any:
    return SimpleNamespace(revision=revision, raft_term=term, cluster_id=cluster_id)


class Losses:
    """Counts what a lineage took for a lost history."""

    def __init__(self, caplog: pytest.LogCaptureFixture) -> None:
        self.lineage = Lineage()
        self._caplog = caplog

    def after(self, *headers: Any) -> int:
        for each in headers:
            self.lineage.check(each, self.lineage.mark())
        logged = [record for record in self._caplog.records if record.levelno == logging.ERROR]
        assert len(logged) == self.lineage.number, "every loss is logged as an error"
        return self.lineage.number


@pytest.mark.parametrize(
    "later",
    [header(99, 5), header(200, 4), header(200, 9, cluster_id=8)],
    ids=["lower revision", "lower term", "another cluster"],
)
def test_a_lost_history_is_noticed_once(later: Any, caplog: pytest.LogCaptureFixture) -> None:
    losses = Losses(caplog)
    assert losses.after(header(100), header(100), header(101, 6 - 1)) == 0
    assert losses.after(later) == 1
    assert losses.after(later, header(later.revision + 1, later.raft_term, later.cluster_id)) == 1


def test_an_answer_that_was_overtaken_is_no_loss(caplog: pytest.LogCaptureFixture) -> None:
    losses = Losses(caplog)
    losses.after(header(100))
    mark = losses.lineage.mark()
    losses.after(header(110, 6))
    losses.lineage.check(header(105), mark)
    assert losses.after() == 0


def test_a_witness_that_is_contradicted(caplog: pytest.LogCaptureFixture) -> None:
    losses = Losses(caplog)
    losses.after(header(100))
    witness = KeyValue("/a", b"1", 90, 95, 0)
    losses.lineage.remember(KeyValue("/b", b"", 80, 80, 0))
    losses.lineage.remember(witness)
    losses.lineage.remember(KeyValue("/c", b"", 85, 85, 0))
    assert losses.lineage.witness == witness
    losses.lineage.confront(witness, witness, header(120))
    assert losses.after() == 0
    losses.lineage.confront(witness, KeyValue("/a", b"2", 90, 95, 0), header(120))
    assert losses.after() == 1
    assert losses.lineage.witness is None
    losses.lineage.confront(witness, None, header(120))  # another watch, at the same time
    assert losses.after() == 1
