"""goverse.Goverse beside what tests/compat sees of it: its limit, its clock."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from goverse.errors import TooLarge
from goverse_node.goverse_service import MAX_ANSWER_BYTES, GoverseService


class Clock:
    def __init__(self) -> None:
        self.seconds = 100.0

    def now(self) -> float:
        return self.seconds

    def wall(self) -> float:
        return 1_000_000.0


def service(count: int, clock: Clock) -> GoverseService:
    found = [SimpleNamespace(type="T", id="x" * 100, age_s=7.9)] * count
    catalog: Any = SimpleNamespace(
        census=SimpleNamespace(objects=lambda: found),
        snapshot=lambda: SimpleNamespace(objects=count),
    )
    return GoverseService(catalog, lambda: "n1:48000", clock)


def test_status_and_objects() -> None:
    clock = Clock()
    made = service(3, clock)
    clock.seconds += 5.9
    status = made.status()
    assert (status.advertise_addr, status.num_objects, status.uptime_seconds) == ("n1:48000", 3, 5)
    objects = made.list_objects().objects
    assert [(one.type, one.creation_time) for one in objects] == [("T", 999_992)] * 3


def test_more_objects_than_fit_are_refused_and_not_cut() -> None:
    fits = MAX_ANSWER_BYTES // 120
    assert len(service(fits, Clock()).list_objects().objects) == fits
    with pytest.raises(TooLarge, match="has pages"):
        service(fits * 2, Clock()).list_objects()
