"""Halving a batch until the culprit is alone."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from goverse.storage.api import OutcomeUnknown, StorageUnavailable
from goverse.storage.halving import BatchRefused, halved


async def culprits(size: int, bad: set[int]) -> tuple[list[str], list[Sequence[int]]]:
    sent: list[Sequence[int]] = []

    async def send(part: Sequence[int]) -> list[str]:
        sent.append(part)
        if bad.intersection(part):
            raise BatchRefused("poison")
        return [f"done {item}" for item in part]

    return await halved(list(range(size)), send, lambda message: message), sent


async def test_the_culprit_of_64_is_found_in_a_dozen_sends() -> None:
    results, sent = await culprits(64, {17})
    assert [n for n, result in enumerate(results) if result == "poison"] == [17]
    assert results[18] == "done 18"
    assert len(sent) == 13  # whole, then two halves at each of six levels
    accepted = [item for part in sent if 17 not in part for item in part]
    assert sorted(accepted) == [n for n in range(64) if n != 17]


@given(size=st.integers(1, 40), bad=st.sets(st.integers(0, 39)))
async def test_each_gets_its_own_result_in_order(size: int, bad: set[int]) -> None:
    results, _ = await culprits(size, bad)
    assert results == ["poison" if n in bad else f"done {n}" for n in range(size)]


@pytest.mark.parametrize("error", [StorageUnavailable, OutcomeUnknown])
async def test_what_comes_after_a_written_half_is_unknown(error: type[Exception]) -> None:
    async def send(part: Sequence[int]) -> list[int]:
        if len(part) == 4:
            raise BatchRefused("poison")
        if 3 in part:
            raise error("gone")
        return list(part)

    with pytest.raises(OutcomeUnknown):
        await halved([0, 1, 2, 3], send, lambda message: 0)


async def test_nothing_written_is_unavailable() -> None:
    async def send(part: Sequence[int]) -> list[int]:
        raise StorageUnavailable("gone")

    with pytest.raises(StorageUnavailable):
        await halved([0, 1], send, lambda message: 0)
