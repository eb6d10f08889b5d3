"""Interleaved runs, and figures that other programs print."""

from __future__ import annotations

import asyncio
import itertools
import json
import time

import pytest

from benchmarks import wrk
from benchmarks.bootstrap import rpcs
from benchmarks.load import Load, drive
from benchmarks.rounds import Subject, interleaved, medians, ratio


def load(calls: int) -> Load:
    return Load(calls=calls, seconds=1.0, p50_ms=1.0, p99_ms=2.0, all_calls=calls, cpu_s=0.0)


class Runs:
    """Subjects whose runs are noted; some fail in a round."""

    def __init__(self) -> None:
        self.order: list[str] = []

    def subject(self, name: str, *rates: int, fails_in: int = 0, required: bool = True) -> Subject:
        results = iter(rates)

        async def run(seconds: float) -> Load:
            assert seconds == 3.0
            self.order.append(name)
            if self.order.count(name) == fails_in:
                raise RuntimeError("it is gone")
            return load(next(results))

        return Subject(name, run, required)


async def test_every_round_begins_with_another_subject() -> None:
    runs, faults = Runs(), []
    subjects = [runs.subject("a", 1, 2, 3), runs.subject("b", 4, 5, 6)]
    samples = await interleaved(subjects, 3, 3.0, faults)
    assert runs.order == ["a", "b", "b", "a", "a", "b"]
    assert [run.calls for run in samples["a"]] == [1, 2, 3]
    assert not faults


async def test_a_peer_that_fails_is_left_out_and_told() -> None:
    runs, faults = Runs(), []
    subjects = [
        runs.subject("ours", 1, 2, 3),
        runs.subject("peer", 4, 5, 6, fails_in=2, required=False),
        runs.subject("echo", 7, 8, 9),
    ]
    samples = await interleaved(subjects, 3, 3.0, faults)
    assert faults == ["peer failed in round 2: it is gone"]
    assert {name: len(found) for name, found in samples.items()} == {"ours": 3, "echo": 3}
    assert runs.order.count("peer") == 2


async def test_without_what_is_measured_there_is_no_benchmark() -> None:
    runs = Runs()
    with pytest.raises(RuntimeError, match="gone"):
        await interleaved([runs.subject("ours", 1, fails_in=1)], 3, 3.0, [])


def test_ratios_are_those_of_runs_in_the_same_round() -> None:
    samples = {
        "ours": [load(10), load(40), load(30)],
        "echo": [load(100), load(100), load(200)],
    }
    assert ratio(samples, "ours", "echo") == pytest.approx(0.15)
    assert medians(samples)["ours"] == {"per_s": 30, "p50_ms": 1.0, "p99_ms": 2.0}


async def test_a_load_counts_calls_within_the_measured_time_only(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    looks = itertools.count()
    monkeypatch.setattr(time, "perf_counter", lambda: next(looks) / 1000)  # 1 ms each
    loop, made = asyncio.get_running_loop(), 0

    async def call(_: int) -> None:
        nonlocal made
        made += 1
        passed = loop.create_future()
        loop.call_soon(passed.set_result, None)
        await passed

    seen = await drive(call, 2, warmup_s=0.1, seconds=0.2)
    assert seen.all_calls == made == pytest.approx(150, abs=5)  # two looks a call
    assert seen.calls == pytest.approx(100, abs=5)
    assert seen.per_second == pytest.approx(500, abs=25)


async def test_an_error_of_a_call_ends_the_load() -> None:
    async def call(_: int) -> None:
        raise OSError("refused")

    with pytest.raises(ExceptionGroup):
        await drive(call, 2, 0.0, 60.0)


def printed(**errors: int) -> bytes:
    none = {"connect": 0, "read": 0, "write": 0, "status": 0, "timeout": 0}
    seen = {"requests": 500, "duration_us": 2_000_000, "p50_us": 1500, "p99_us": 9000}
    line = json.dumps({**seen, "errors": none | errors})
    return f"Running 2s test\n  some table\n{line}\n".encode()


def test_the_figures_of_wrk() -> None:
    seen = wrk.read(printed())
    assert (seen.per_second, seen.p50_ms, seen.p99_ms) == (250, 1.5, 9.0)


@pytest.mark.parametrize("error", ["connect", "read", "write", "status", "timeout"])
def test_an_answer_that_is_an_error_fails_the_run(error: str) -> None:
    with pytest.raises(RuntimeError, match=error):
        wrk.read(printed(**{error: 1}))


def test_transactions_are_counted_over_all_codes() -> None:
    text = """
# TYPE grpc_server_handled_total counter
grpc_server_handled_total{grpc_code="OK",grpc_method="Txn",grpc_service="KV",x="y"} 41
grpc_server_handled_total{grpc_code="Unavailable",grpc_method="Txn",grpc_service="KV"} 2
grpc_server_handled_total{grpc_code="OK",grpc_method="Range",grpc_service="KV"} 7
grpc_server_handled_total{grpc_code="OK",grpc_method="Compact",grpc_service="KV"} 0
"""
    assert rpcs(text) == {"Txn": 43, "Range": 7}
