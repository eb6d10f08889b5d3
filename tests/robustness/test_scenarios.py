"""How a run goes through its plan."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any, cast

from tests.robustness.faults import CUT, KILL, Fault, Step
from tests.robustness.report import Report
from tests.robustness.scenarios import SHORT, Run
from tests.support.virtual import virtual

STEP = Step(2.0, (Fault(CUT, "n3", 1.2, peer="n1"), Fault(KILL, "n2", 5.9, after_s=0.7)))


class CalmWorld:
    """Whatever is done to it, it is ready at once; notes whether callers rushed then."""

    def __init__(self, traffic: Any) -> None:
        self.traffic = traffic
        self.rushed: list[tuple[str, bool]] = []

    async def begin(self, fault: Fault) -> None:
        self.rushed.append((fault.kind, self.traffic.rush))

    async def undo(self, fault: Fault) -> None:
        pass

    async def not_ready(self) -> list[str]:
        return []


@virtual
async def test_callers_rush_until_the_last_fault_of_a_step_has_begun() -> None:
    """Those that think may all be thinking when the second of a pair begins."""
    traffic = SimpleNamespace(rush=False, in_flight=9, silent_since=lambda moment: [])
    world = CalmWorld(traffic)
    await Run(cast(Any, world), cast(Any, traffic), Report(1, [], SHORT), 0.0)._step(STEP)
    assert world.rushed == [(CUT, True), (KILL, True)]
    assert not traffic.rush, "and think again while it lasts"
