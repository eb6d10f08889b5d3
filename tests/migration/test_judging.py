"""What trials find wrong is found: by callers, by reports, and by the page made of these."""

from __future__ import annotations

import sys
from collections import Counter
from importlib.machinery import SourceFileLoader
from importlib.util import module_from_spec, spec_from_loader
from pathlib import Path
from types import ModuleType

import pytest

from goverse.cluster import Keys
from goverse.cluster.records import ClaimValue, encode
from goverse.coordination import Changes, KeyValue, Snapshot
from goverse.errors import Executed
from tests.migration import older
from tests.migration.follower import Follower
from tests.migration.report import TrialRecord, TrialReport
from tests.support.tallying import Added, Afresh, Called, Tallying

ROOT = Path(__file__).resolve().parents[2]


def called(*values: int | Executed, kind: str = "volatile") -> Tallying:
    """One object whose calls were answered with these values, or failed as told; a second each."""
    load = Tallying([], volatile=0)
    found = Called(kind, "x")
    for number, value in enumerate(values):
        if isinstance(value, Executed):
            made = Added(f"x:{number}", number, number + 0.5, executed=value, error="lost")
        else:
            made = Added(f"x:{number}", number, number + 0.5, value, 7)
        found.calls.append(made)
    load.called = [found]
    return load


def once(load: Tallying) -> Counter[str]:
    """Every call was executed once, but those of which nobody has heard."""
    return Counter(call.token for call in load.called[0].calls if call.executed is not Executed.NO)


def test_what_is_as_promised_is_not_wrong() -> None:
    load = called(1, 2, Executed.NO, 3, Executed.UNKNOWN, 5, 6)
    assert list(load.violations(once(load), ())) == []
    # The unknown one may also not have come to anything.
    load = called(1, 2, Executed.UNKNOWN, 3)
    assert list(load.violations(once(load), ())) == []


@pytest.mark.parametrize(
    "values",
    [(1, 2, 1), (1, 2, 2), (1, 3), (1, Executed.NO, 3), (2,), (1, Executed.UNKNOWN, 4)],
)
@pytest.mark.parametrize("kind", ["volatile", "durable"])
def test_a_value_that_goes_back_or_leaps_is_wrong(values: tuple[int, ...], kind: str) -> None:
    load = called(*values, kind=kind)
    (text,) = load.violations(once(load), ())
    assert text.startswith(f"x ({kind}) is")


def test_afresh_is_excused_where_a_node_died_and_for_volatile_objects_alone() -> None:
    load = called(1, 2, 1, 2)
    assert list(load.violations(once(load), [Afresh(1.2, 2.2)])) == []
    assert len(list(load.violations(once(load), [Afresh(3.1, 4.0)]))) == 1
    load = called(1, 2, 1, 2, kind="durable")
    assert len(list(load.violations(once(load), [Afresh(1.2, 2.2)]))) == 1


def test_what_begins_afresh_more_often_than_was_counted_is_wrong() -> None:
    load = called(1, 2, 1, 1)
    window = Afresh(0.0, 9.0, 2)
    assert list(load.violations(once(load), [window])) == []
    (text,) = load.violations(once(load), [Afresh(0.0, 9.0, 1)])
    assert text == "2 objects began afresh, and 1 were counted"


def test_turns_are_held_against_what_callers_were_told() -> None:
    load = called(1, 2, Executed.NO, 3)
    right = once(load)
    (twice,) = load.violations(right + Counter(["x:1"]), ())
    assert twice.startswith("x:1 was executed 2 times")
    (never,) = load.violations(right - Counter(["x:0"]), ())
    assert never.startswith("x:0 was answered and never executed")
    (lied,) = load.violations(right + Counter(["x:2"]), ())
    assert "told that it was not" in lied


def test_a_shard_has_moved_if_another_node_has_it_and_not_if_it_came_back() -> None:
    keys = Keys()

    def claim(node: str) -> KeyValue:
        value = encode(ClaimValue(node, "i", 1))
        return KeyValue(keys.claim(3), value, 1, 1, 1)

    now = [0.0]
    follower = Follower(keys, lambda: now[0])
    follower.seen(Snapshot(1, {keys.claim(3): claim("n1"), keys.leader: claim("n1")}))
    steps: list[tuple[str | None, int]] = [(None, 0), ("n1", 0), (None, 0), ("n2", 1), ("n1", 2)]
    for number, (node, moved) in enumerate(steps, 1):
        now[0] = float(number)
        item = None if node is None else claim(node)
        follower.seen(Changes(number + 1, {keys.claim(3): item}))
        assert follower.since(0.0).total() == moved
    assert follower.owners == {3: "n1"}
    assert follower.since(4.0) == {3: 1}


def records(*seconds: float) -> list[TrialRecord]:
    return [
        TrialRecord("it dies", "dies", 1.0, 2.0, 2.0 + each, expected="it lives", failed=number)
        for number, each in enumerate(seconds)
    ]


def test_a_report_sums_up_each_kind_of_fault(tmp_path: Path) -> None:
    report = TrialReport("trials", 3, records(1.0, 2.0, 6.0))
    (row,) = report.summary()
    assert (row["fault"], row["expected"], row["times"]) == ("dies", "it lives", 3)
    assert (row["median_s"], row["worst_s"], row["failed"]) == (2.0, 6.0, 2)
    assert report.ok
    report.violations.append("it does not")
    assert not report.ok and "WRONG: it does not" in str(report)
    report.write(tmp_path)
    assert page().good_reports(tmp_path) == []


def test_the_page_of_failures_is_made_of_good_reports(tmp_path: Path) -> None:
    TrialReport("trials", 3, records(1.0, 2.0, 6.0)).write(tmp_path)
    TrialReport("trials", 4, records(9.0)).write(tmp_path)
    (tmp_path / "other.json").write_text("[]")
    (row,) = page().rows(page().good_reports(tmp_path))
    assert row == "| dies | it lives | 4 | 4.0 s | 9.0 s | 2 |"


def page() -> ModuleType:
    loader = SourceFileLoader("failures_doc", str(ROOT / "scripts" / "failures-doc"))
    spec = spec_from_loader(loader.name, loader)
    assert spec is not None
    module = module_from_spec(spec)
    sys.dont_write_bytecode, before = True, sys.dont_write_bytecode
    try:
        loader.exec_module(module)
    finally:
        sys.dont_write_bytecode = before
    return module


def test_the_older_version_is_missed_only_where_history_is(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    answers: dict[str, bytes | None] = {"archive": None, "rev-parse": b"false\n"}
    monkeypatch.setattr(older, "_git", lambda command, *rest: answers[command])
    with pytest.raises(RuntimeError, match="is not in the history"):
        older.older_version(tmp_path)
    for shallow in (b"true\n", None):  # a clone of the newest commits, or no clone at all
        answers["rev-parse"] = shallow
        found = older.older_version(tmp_path)
        assert found.node_module == "tests.support.older_node"
        assert "is not in this clone" in found.what
