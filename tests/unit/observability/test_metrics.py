"""What is counted, how it reaches a scrape, and that it costs next to nothing."""

import asyncio
import math
import random
import timeit
from collections.abc import Iterator

import prometheus_client.parser
import pytest
from hypothesis import given
from hypothesis import strategies as st

from goverse.errors import (
    ApplicationError,
    DeadlineExceeded,
    Executed,
    LinkBroken,
    NotFound,
    Overloaded,
)
from goverse.observability.families import MAX_CHILDREN, OTHER, Counter, Gauge, Histogram
from goverse.observability.metrics import SECONDS, Metrics, status_of


def scraped(metrics: Metrics, *, sample: bool = True) -> dict[str, float]:
    """Samples by their text, ``name{a="b"}``, as a dashboard reads them."""
    text = metrics.exposition(metrics.sample() if sample else None).decode()
    return {
        found.name + "".join(f" {k}={v}" for k, v in sorted(found.labels.items())): found.value
        for family in prometheus_client.parser.text_string_to_metric_families(text)
        for found in family.samples
    }


def test_a_counter_without_labels_is_zero_before_it_moves() -> None:
    metrics = Metrics()
    assert scraped(metrics)["goverse_leases_lost_total"] == 0
    metrics.leases_lost.inc()
    assert scraped(metrics)["goverse_leases_lost_total"] == 1


def test_labels_are_values_in_the_order_of_their_names() -> None:
    metrics = Metrics()
    metrics.retries.inc("not_owner")
    metrics.retries.inc("not_owner", by=2)
    metrics.retries.inc("link_broken")
    found = scraped(metrics)
    assert found["goverse_retries_total reason=not_owner"] == 3
    assert found["goverse_retries_total reason=link_broken"] == 1
    with pytest.raises(ValueError, match="has the labels"):
        metrics.retries.inc("a", "b")
    with pytest.raises(ValueError, match="has the labels"):
        metrics.turn_seconds.observe(1.0, "Counter")


def test_operations_carry_the_member() -> None:
    metrics = Metrics()
    metrics.operation_ended("call", "ok", 0.003)
    metrics.operation_ended("call", "deadline_exceeded", 30.0)
    metrics.member = "n1"  # known only once the port is bound
    found = scraped(metrics)
    ok = "member=n1 operation=call status=ok"
    assert found[f"goverse_operation_duration_seconds_count {ok}"] == 1
    assert found[f"goverse_operation_duration_seconds_sum {ok}"] == 0.003
    assert found["goverse_operation_timeouts_total member=n1 operation=call"] == 1


@pytest.mark.parametrize(
    ("error", "status"),
    [
        (None, "ok"),
        (NotFound("x"), "not_found"),
        (Overloaded("x"), "overloaded"),
        (DeadlineExceeded("x", executed=Executed.UNKNOWN), "deadline_exceeded"),
        (TimeoutError(), "deadline_exceeded"),
        (asyncio.CancelledError(), "cancelled"),
        (LinkBroken("x", sent=True), "link_broken"),
        (ZeroDivisionError(), "internal"),
        # As many codes as applications like: they must not become labels.
        (ApplicationError("no_money"), "application_error"),
    ],
)
def test_the_status_of_an_outcome_is_one_of_few_words(
    error: BaseException | None, status: str
) -> None:
    assert status_of(error) == status


async def test_an_operation_is_counted_when_it_ends() -> None:
    metrics = Metrics("n1")
    with metrics.operation("connect"):
        assert metrics.operation_seconds.children() == {}
    with pytest.raises(NotFound), metrics.operation("connect"):
        raise NotFound("x")
    with pytest.raises(TimeoutError), metrics.operation("connect"):
        raise TimeoutError
    statuses = {labels: sum(b.counts) for labels, b in metrics.operation_seconds.children().items()}
    assert statuses == {
        ("connect", "ok"): 1,
        ("connect", "not_found"): 1,
        ("connect", "deadline_exceeded"): 1,
    }
    assert metrics.operation_timeouts.children() == {("connect",): 1}


@given(st.lists(st.floats(min_value=0, max_value=100)))
def test_a_histogram_counts_each_observation_in_its_bucket(seconds: list[float]) -> None:
    histogram = Histogram("h", "", ("a",), SECONDS)
    for value in seconds:
        histogram.observe(value, "x")
    if not seconds:
        assert histogram.children() == {}
        return
    buckets = histogram.children()[("x",)]
    assert math.isclose(buckets.sum, math.fsum(seconds), abs_tol=1e-6)
    below = 0
    for bound, count in zip([*SECONDS, math.inf], buckets.counts, strict=True):
        below += count
        assert below == sum(value <= bound for value in seconds)


def test_buckets_reach_a_scrape_cumulated() -> None:
    metrics = Metrics("n1")
    for value in (0.0001, 0.003, 0.003, 99.0):
        metrics.operation_seconds.observe(value, "call", "ok")
    found = scraped(metrics)
    name = "goverse_operation_duration_seconds_bucket le={} member=n1 operation=call status=ok"
    assert found[name.format("0.0001")] == 1
    assert found[name.format("0.0025")] == 1
    assert found[name.format("0.005")] == 3
    assert found[name.format("60.0")] == 3
    assert found[name.format("+Inf")] == 4
    assert found["goverse_operation_duration_seconds_count member=n1 operation=call status=ok"] == 4


def test_labels_chosen_by_others_cannot_fill_the_memory() -> None:
    counter = Counter("c", "", ("a", "b"))
    histogram = Histogram("h", "", ("a",), SECONDS)
    for number in range(MAX_CHILDREN + 50):
        counter.inc(str(number), "x")
        histogram.observe(1.0, str(number))
    assert len(counter.children()) == MAX_CHILDREN + 1
    assert counter.children()[(OTHER, OTHER)] == 50
    assert sum(counter.children().values()) == MAX_CHILDREN + 50
    assert sum(histogram.children()[(OTHER,)].counts) == 50


def test_L35_a_gauge_tells_what_is_and_not_what_was_added() -> None:
    metrics = Metrics()
    active = {"Counter": 3, "Lobby": 1}
    metrics.activations.watch(lambda: {(type,): count for type, count in active.items()})
    metrics.links.watch(lambda: len(active))
    found = scraped(metrics)
    assert found["goverse_activations type=Counter"] == 3
    assert found["goverse_links"] == 2

    active["Counter"] = 1
    del active["Lobby"]
    found = scraped(metrics)
    assert found["goverse_activations type=Counter"] == 1
    assert "goverse_activations type=Lobby" not in found
    assert found["goverse_links"] == 1


def test_L35_a_gauge_that_nobody_feeds_is_not_shown() -> None:
    found = scraped(Metrics())
    assert not any(name.startswith("goverse_activations") for name in found)
    assert not any(name.startswith("goverse_lease_remaining") for name in found)


def test_L35_without_the_event_loop_its_gauges_are_left_out_and_not_repeated() -> None:
    metrics = Metrics()
    metrics.links.watch(lambda: 5)
    metrics.loop_lag_seconds.watch(lambda: 7.5)
    assert scraped(metrics)["goverse_links"] == 5
    stuck = scraped(metrics, sample=False)
    assert "goverse_links" not in stuck
    assert stuck["goverse_loop_lag_seconds"] == 7.5


def test_a_broken_source_takes_nothing_else_away(caplog: pytest.LogCaptureFixture) -> None:
    metrics = Metrics()
    metrics.links.watch(lambda: 1 // 0)
    metrics.sessions.watch(lambda: 4)
    found = scraped(metrics)
    assert "goverse_links" not in found
    assert found["goverse_sessions"] == 4
    assert "goverse_links cannot be read" in caplog.text


def test_a_counter_can_follow_what_is_counted_elsewhere() -> None:
    metrics = Metrics()
    numbers = iter([2, 5])
    metrics.log_records_dropped.follow(lambda: next(numbers))
    assert scraped(metrics)["goverse_log_records_dropped_total"] == 2
    assert scraped(metrics)["goverse_log_records_dropped_total"] == 5
    with pytest.raises(ValueError, match="has labels"):
        metrics.retries.follow(lambda: 1)


def test_two_processes_in_one_interpreter_share_nothing() -> None:
    one, two = Metrics("n1"), Metrics("n2")
    one.leases_lost.inc()
    assert scraped(two)["goverse_leases_lost_total"] == 0


def families(metrics: Metrics) -> Iterator[Counter | Gauge | Histogram]:
    for name in metrics.names():
        yield getattr(metrics, name)


def test_names_follow_the_conventions() -> None:
    for family in families(Metrics()):
        assert family.name.startswith("goverse_")
        assert family.help.endswith("."), family.name
        assert not family.name.endswith("_total"), "the exposition adds it"
        if isinstance(family, Gauge):
            continue
        if family.name != "goverse_log_records_dropped":
            assert family.help.startswith("Moves when"), f"{family.name} says when it moves"
        if isinstance(family, Histogram):
            assert family.name.endswith(("_seconds", "_items"))


def test_an_observation_costs_less_than_a_microsecond() -> None:
    metrics = Metrics("n1")
    types = [f"Type{number}" for number in range(50)]
    random.Random(1).shuffle(types)

    def observe() -> None:
        for type in types:
            metrics.turn_seconds.observe(0.003, type, "add", "ok")

    best = min(timeit.repeat(observe, number=100, repeat=20)) / 100 / len(types)
    # 0.2 microseconds where this was written; ten times that is still no cost to a call.
    assert best < 2e-6


def test_a_child_found_once_counts_with_those_found_each_time() -> None:
    histogram = Histogram("h", "", ("a",), (0.1, 1.0))
    child = histogram.child("x")
    assert histogram.children() == {}
    child.observe(0.5)
    histogram.observe(5.0, "x")
    child.observe(0.05)
    found = histogram.children()[("x",)]
    assert found.counts == (1, 1, 1) and found.sum == pytest.approx(5.55)
    for number in range(MAX_CHILDREN):
        histogram.observe(0.0, f"{number}")
    late = histogram.child("late")
    late.observe(0.0)
    assert ("late",) not in histogram.children()
    assert sum(histogram.children()[(OTHER,)].counts) == 2
    with pytest.raises(ValueError, match="labels"):
        histogram.child("x", "y")
