"""The bank under faults, with real processes: the two-minute form. `make robustness` has the rest.

These need network namespaces, and fail where this machine has none: that nothing was tried is not
to look like success.
"""

from __future__ import annotations

import random
from collections import Counter
from itertools import pairwise
from pathlib import Path

import pytest

from tests.robustness.faults import CUT, ETCD, KINDS, NODES, PAUSE, POSTGRES, Fault, Minima, plan
from tests.robustness.paused_owner import paused_owner
from tests.robustness.scenarios import FULL, SHORT, robustness

LIMIT_S = 240.0
REPORTS = Path(__file__).parents[2] / "reports"
PAUSES = 3


@pytest.mark.system
async def test_L01_L02_L03_L07_L11_L36_the_bank_keeps_its_promises_whatever_fails(
    tmp_path: Path,
) -> None:
    seed = random.SystemRandom().randrange(2**32)
    report = await robustness(seed, SHORT, tmp_path, limit_s=LIMIT_S, reports=REPORTS)
    print(report)
    assert report.ok, str(report)


@pytest.mark.system
async def test_L02_nothing_is_written_by_an_owner_that_stood_still(tmp_path: Path) -> None:
    seed = random.SystemRandom().randrange(2**32)
    print(f"paused owner: seed {seed}")
    outcome = await paused_owner(PAUSES, seed, tmp_path)
    print(outcome)
    assert outcome.fenced >= PAUSES


def overlap(first: Fault, second: Fault) -> bool:
    return second.after_s < first.after_s + first.lasts_s


@pytest.mark.parametrize("seed", range(20))
@pytest.mark.parametrize("wanted", [SHORT, FULL], ids=["short", "full"])
def test_a_plan_has_what_a_run_must_show(seed: int, wanted: Minima) -> None:
    steps = plan(seed, wanted)
    assert steps == plan(seed, wanted), "a seed gives one plan"
    assert steps != plan(seed + 1, wanted)
    faults = [fault for step in steps for fault in step.faults]
    kinds = Counter(fault.kind for fault in faults)
    assert all(kinds[kind] == wanted.of(kind) for kind in KINDS)
    pairs = [step.faults for step in steps if len(step.faults) > 1]
    assert 3 * 2 * len(pairs) >= len(faults)
    assert all(overlap(first, second) for pair in pairs for first, second in pairwise(pair))
    assert all(1.0 <= step.gap_s <= 3.0 for step in steps)
    late = [pair for pair in pairs if pair[0].kind == CUT and pair[1].kind == PAUSE]
    assert any(cut.peer == POSTGRES and cut.target == pause.target for cut, pause in late)


def test_full_plans_cut_every_kind_of_link() -> None:
    cuts = [
        fault
        for seed in range(5)
        for step in plan(seed, FULL)
        for fault in step.faults
        if fault.kind == CUT
    ]
    kinds = {
        (cut.target[0], cut.peer if cut.peer in (POSTGRES, ETCD) else "member") for cut in cuts
    }
    assert {("n", POSTGRES), ("n", ETCD), ("n", "member"), ("g", "member")} <= kinds
    assert {cut.one_way for cut in cuts} == {True, False}
    assert {cut.target for cut in cuts} >= set(NODES)
