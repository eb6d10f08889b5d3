"""Every metric of a process, by name. The only module that knows prometheus_client.

Components get the process's `Metrics` and move one of its attributes::

    metrics.retries.inc("not_owner")
    metrics.turn_seconds.observe(elapsed_s, type, method, "ok")
    metrics.activations.watch(lambda: {("Counter",): 3})

Each attribute's help text says when it moves. Counters move after the fact.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Iterator, Mapping
from contextlib import contextmanager

import prometheus_client
from prometheus_client.core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    HistogramMetricFamily,
    Metric,
)
from prometheus_client.registry import Collector

from goverse.errors import ApplicationError, GoverseError
from goverse.observability.families import Counter, Gauge, Histogram, Labels

log = logging.getLogger(__name__)

CONTENT_TYPE = prometheus_client.CONTENT_TYPE_LATEST

#: From a local turn (tens of microseconds) to the longest default deadline.
SECONDS = (
    *(0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5),
    *(1.0, 2.5, 5.0, 10.0, 30.0, 60.0),
)

#: From a hand-over on an idle cluster to a shard that was stuck for an hour.
MIGRATION_SECONDS = (
    *(0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0),
    *(300.0, 900.0, 3600.0),
)

#: Of batches.
ITEMS = (1.0, 2.0, 4.0, 8.0, 16.0, 32.0, 64.0, 128.0, 256.0, 512.0, 1024.0)

Sample = Mapping[str, Mapping[Labels, float]]


def status_of(error: BaseException | None) -> str:
    """The bounded word for an outcome: ``ok``, an error code, ``application_error``, ..."""
    if error is None:
        return "ok"
    if isinstance(error, ApplicationError):
        return "application_error"  # its code is the application's: as many as it likes
    if isinstance(error, GoverseError):
        return error.code
    if isinstance(error, TimeoutError):
        return "deadline_exceeded"
    if isinstance(error, asyncio.CancelledError):
        return "cancelled"
    return "internal"


class Metrics:
    """One per process, handed down from the composition root.

    :param member: this process's name, a label of the operation metrics; it may be set later,
        once the name is known.
    """

    def __init__(self, member: str = "") -> None:
        self.member = member

        # Operations: what a caller in this process asked for, with its deadline.
        self.operation_seconds = Histogram(
            "goverse_operation_duration_seconds",
            "Moves when an operation of this process ends, whatever its outcome.",
            ("operation", "status"),
            SECONDS,
        )
        self.operation_timeouts = Counter(
            "goverse_operation_timeouts",
            "Moves when an operation of this process ends by its deadline.",
            ("operation",),
        )
        self.retries = Counter(
            "goverse_retries",
            "Moves when the router sends a call again, by why the attempt before it failed.",
            ("reason",),
        )
        self.waiting_calls = Gauge(
            "goverse_waiting_calls", "Calls that wait in this process for a shard's owner."
        )

        # Objects.
        self.turn_seconds = Histogram(
            "goverse_turn_duration_seconds",
            "Moves when a turn ends, whatever its outcome.",
            ("type", "method", "status"),
            SECONDS,
        )
        self.activations = Gauge("goverse_activations", "Activations on this node.", ("type",))

        # The latches of shards: turns hold them, and who opens, closes or hands over waits.
        self.latch_acquisitions = Counter(
            "goverse_latch_acquisitions",
            "Moves when a writer waits no more for a shard, by its purpose (open, close, "
            "hand_over) and how that ended: acquired, forced (turns were cancelled for it), "
            "called_off, cancelled, lost (the shard went with the lease, or to a newer claim).",
            ("purpose", "outcome"),
        )
        self.latch_wait_seconds = Histogram(
            "goverse_latch_wait_seconds",
            "Moves when goverse_latch_acquisitions does: how long the writer had waited, this "
            "time; open: how long callers have.",
            ("purpose",),
            SECONDS,
        )
        self.latch_holders = Gauge(
            "goverse_latch_holders",
            "Turns and hooks that run or wait on this node, by the state of the shard that they "
            "hold: opening, open, draining, leaving; cut_loose are those that still run, and hold "
            "nothing.",
            ("state",),
        )
        self.latch_writers = Gauge(
            "goverse_latch_writers",
            "Shards of this node that somebody waits for, or has, alone, by purpose.",
            ("purpose",),
        )
        self.latch_removed = Counter(
            "goverse_latch_removed_holders",
            "Moves when a turn has held a shard for node.latch_max_hold while a writer waited: "
            "cancelled, and cut_loose if it did not end then.",
            ("how",),
        )

        # Links and sessions.
        self.links = Gauge("goverse_links", "Open links to other members.")
        self.calls_in_flight = Gauge(
            "goverse_calls_in_flight", "Calls sent on links of this process and not yet answered."
        )
        self.sessions = Gauge("goverse_sessions", "Client sessions open on this gate.")
        self.commit_objects = Counter(
            "goverse_committed_objects",
            "Moves when the store has taken a batch, by its objects.",
        )
        self.commits_refused = Counter(
            "goverse_refused_commits",
            "Moves when an object was not committed (fenced, version, not_pending, refused), or a "
            "batch has no answer (unavailable, unknown).",
            ("reason",),
        )

        # The store. Operations are named as in `goverse.storage.api.Store`.
        self.store_seconds = Histogram(
            "goverse_store_operation_duration_seconds",
            "Moves when an operation of the store ends: ok, fenced, unavailable (nothing was "
            "written), unknown (no answer to a write), refused, cancelled, error.",
            ("operation", "status"),
            SECONDS,
        )
        self.store_batch_items = Histogram(
            "goverse_store_batch_items",
            "Moves when a batch is handed to the store, by its items.",
            ("operation",),
            ITEMS,
        )
        self.fence_rejections = Counter(
            "goverse_fence_rejections",
            "Moves when a fence has refused an item, or a claim that is over: another owner, or a "
            "later opening of this one, has the slot.",
            ("operation",),
        )

        # Reliable calls.
        self.reliable_pending = Gauge(
            "goverse_reliable_pending_calls",
            "Reliable calls that this node has accepted or is accepting and not finished. Of a "
            "shard that was just opened those count that have been read.",
            ("type",),
        )
        self.reliable_oldest_seconds = Gauge(
            "goverse_reliable_oldest_pending_seconds",
            "How long the oldest of the pending calls has been accepted, also by former owners.",
            ("type",),
        )
        self.reliable_accepted = Counter(
            "goverse_reliable_accepted_calls",
            "Moves when a reliable call has been recorded in the store.",
            ("type",),
        )
        self.accepts_refused = Counter(
            "goverse_reliable_refused_accepts",
            "Moves when a reliable call is not recorded, by the code that its caller is told: "
            "not_owner (a fence has refused it: another owner has the shard), conflict, "
            "invalid_argument, unavailable.",
            ("type", "reason"),
        )
        self.reliable_repeated = Counter(
            "goverse_reliable_repeated_calls",
            "Moves when a call id was known already, for the same call.",
            ("type",),
        )
        self.reliable_seconds = Histogram(
            "goverse_reliable_call_duration_seconds",
            "Moves when a reliable call is finished, with the time since its accept was known: "
            "success, failed, skipped.",
            ("type", "status"),
            SECONDS,
        )
        self.reliable_parked = Counter(
            "goverse_reliable_parked_calls",
            "Moves when a call is parked whose attempts ended too many processes.",
            ("type",),
        )
        self.delayed_soon = Gauge(
            "goverse_delayed_calls",
            "Delayed calls that this node knows to be due soon. All that there are: goverse-cli "
            "reliable-calls stats.",
            ("type",),
        )
        self.delayed_lateness = Histogram(
            "goverse_delayed_call_lateness_seconds",
            "Moves when a delayed call, or a tick of a repeated one, is finished, with how long "
            "after its time its turn had begun.",
            ("type",),
            SECONDS,
        )
        self.ticks_left_out = Counter(
            "goverse_reliable_missed_ticks",
            "Moves when ticks of a repeated call were missed and will not be run.",
            ("type",),
        )
        self.deliveries = Counter(
            "goverse_reliable_deliveries",
            "Moves when the owner of a target has taken a call from an outbox, or has refused it "
            "for good: delivered, parked.",
            ("outcome",),
        )

        self.refused = Counter(
            "goverse_refused_calls",
            "Moves when a call is refused because a limit was reached, by which one.",
            ("limit",),
        )

        # Pushes.
        self.pushes = Counter(
            "goverse_pushes",
            "Moves when it is settled what became of one message for one client. On gates: "
            "delivered, unknown_client, buffer_full, disconnected, too_large, no_handler, refused, "
            "unknown. On nodes: sent (a gate has it, and counts it), no_gate, no_link, "
            "buffer_full, lease_lost, refused, unknown.",
            ("outcome",),
        )
        self.push_queue = Gauge(
            "goverse_push_queue",
            "Messages that wait in this process for clients or gates, their bytes, and the most "
            "bytes that may wait: messages, bytes, max_bytes.",
            ("of",),
        )
        self.clients = Gauge(
            "goverse_clients",
            "Clients of this gate by transport: session, events, websocket, grpc; away are those "
            "whose event stream broke and may come back.",
            ("transport",),
        )

        # Ownership.
        self.shards = Gauge(
            "goverse_shards",
            "Shards by what they are to this node: targeted; claimed, and not being given up; of "
            "these opening and open; closing, waiting (for their turn to close) and releasing.",
            ("state",),
        )
        self.unserved_seconds = Gauge(
            "goverse_unserved_shard_age_seconds",
            "How long the longest of the shards that belong to this node is not served by it.",
        )
        self.shard_step_seconds = Histogram(
            "goverse_shard_step_duration_seconds",
            "Moves when this node has done its part of a migration: hand_over (from the beginning "
            "of the drain until nothing runs and state is sent), release (until the claim is "
            "deleted), claim (from when a shard is to be claimed until it is), open (until calls "
            "are let in).",
            ("step",),
            SECONDS,
        )
        self.moves_called_off = Counter(
            "goverse_shard_moves_called_off",
            "Moves when a shard is open here again, as its turns ran longer than "
            "node.drain_timeout.",
        )
        self.shard_objects = Gauge(
            "goverse_shard_objects",
            "Activations of a shard of this node: the least (quantile 0), the median, 0.9, 0.99 "
            "and the most (1) over its shards.",
            ("quantile",),
        )
        self.objects_of_shard = Gauge(
            "goverse_objects_of_shard",
            "Activations of each shard of this node that has any; only with metrics.per_shard.",
            ("shard",),
        )
        self.members = Gauge(
            "goverse_members", "Members that this process sees, by kind: node, gate.", ("kind",)
        )
        self.lease_remaining_seconds = Gauge(
            "goverse_lease_remaining_seconds", "How long this member's lease certainly still holds."
        )
        self.leases_lost = Counter(
            "goverse_leases_lost",
            "Moves when this member has given everything up: its lease ended.",
        )
        self.claims = Counter(
            "goverse_claims",
            "Moves when the coordinator has answered: made, refused, released.",
            ("outcome",),
        )
        self.shard_moves = Counter(
            "goverse_shard_moves",
            "Moves when this leader has written a target that differs from the one before, by "
            "why: failover, drain, unclaimed, pin, first, balance.",
            ("reason",),
        )
        self.moved_objects = Counter(
            "goverse_moved_objects",
            "Moves when it is known what became of a volatile object whose shard moves. Where it "
            "leaves: sent, and for those that begin afresh timeout, no_link, too_old, no_target, "
            "refused, failed, unencodable, cut_off. Where it comes: restored, idle (nobody called "
            "it), deleted, and for those that begin afresh superseded, stale, unsure, source_lost, "
            "lease_lost, overdue, unknown_type, undecodable, left_behind.",
            ("outcome",),
        )
        self.plan_decisions = Counter(
            "goverse_plan_decisions",
            "Moves when this leader has planned, once for each reason that the plan has to move a "
            "shard or to leave one: failover, drain, unclaimed, pin, first, balance; balanced, "
            "not_stable, not_all_assigned, not_claiming, pinned, pin_unavailable, cooldown, "
            "batch_limit, rate_limit, changes_limit, restarting, loads_unknown, no_node.",
            ("decision",),
        )
        self.migration_seconds = Histogram(
            "goverse_shard_migration_duration_seconds",
            "Moves when this leader sees that a shard has arrived, with the time since its owner "
            "and its target were first different.",
            (),
            MIGRATION_SECONDS,
        )

        # What the leader knows; no other member has these.
        self.cluster_shards = Gauge(
            "goverse_cluster_shards",
            "Shards of the cluster: owned (by their target), migrating (another has them), "
            "unclaimed (nobody has them), unassigned (no target either), pinned, and moving "
            "(followed by the leader until they arrive).",
            ("state",),
        )
        self.held_shards = Gauge(
            "goverse_held_shards",
            "Shards that the leader's last plan leaves where balance or a pin does not want "
            "them, by why: see goverse_plan_decisions.",
            ("reason",),
        )
        self.stuck_shards = Gauge(
            "goverse_stuck_shards",
            "Shards on their way for longer than cluster.stuck_after, by the step in which they "
            "hang: handing_over, claiming, no_taker.",
            ("step",),
        )
        self.stuck_shard_age_seconds = Gauge(
            "goverse_stuck_shard_age_seconds",
            "How long the longest of the stuck shards has been on its way; 0: none is stuck.",
        )
        self.shunned_nodes = Gauge(
            "goverse_shunned_nodes",
            "Nodes that are given no shards for a while, as they did not claim those they were.",
        )
        self.imbalance = Gauge(
            "goverse_imbalance",
            "How far the node that is farthest from its share is from it, as a part of that: by "
            "count, and by load with cluster.strategy load.",
            ("by",),
        )
        self.pins_unserved = Gauge(
            "goverse_pins_unserved", "Pins whose node is away, so that another has the shard."
        )

        # The process itself.
        self.loop_lag_seconds = Gauge(
            "goverse_loop_lag_seconds",
            "How long ago the event loop last came round, beyond its usual beat.",
            threadsafe=True,
        )
        self.log_records_dropped = Counter(
            "goverse_log_records_dropped", "Log records lost because their queue was full."
        )

        self.registry = prometheus_client.CollectorRegistry()
        self._families = _Families(self)
        self.registry.register(self._families)
        prometheus_client.ProcessCollector(registry=self.registry)

    def operation_ended(self, operation: str, status: str, duration_s: float) -> None:
        """Count an operation: ``status`` is a result of `status_of`."""
        self.operation_seconds.observe(duration_s, operation, status)
        if status == "deadline_exceeded":
            self.operation_timeouts.inc(operation)

    @contextmanager
    def operation(self, operation: str) -> Iterator[None]:
        """Count what happens inside as one operation. Needs the running event loop's clock."""
        now = asyncio.get_running_loop().time
        started = now()
        try:
            yield
        except BaseException as error:
            self.operation_ended(operation, status_of(error), now() - started)
            raise
        self.operation_ended(operation, "ok", now() - started)

    def sample(self) -> Sample:
        """Ask every gauge's source. Called in the event loop, which owns what they read."""
        found: dict[str, Mapping[Labels, float]] = {}
        for gauge in self._families.gauges:
            if gauge.threadsafe:
                continue
            try:
                found[gauge.name] = gauge.read()
            except Exception:
                # One broken source must not take the others away from the operator.
                log.exception("metric %s cannot be read", gauge.name)
        return found

    def exposition(self, sample: Sample | None = None) -> bytes:
        """The text for a scrape; callable in any thread, by one at a time.

        Without a ``sample`` the gauges that need the event loop are left out: an old number
        would say that all is as it was.
        """
        self._families.sample = sample or {}
        return prometheus_client.generate_latest(self.registry)

    def names(self) -> tuple[str, ...]:
        """Attribute names of all metrics."""
        return tuple(self._families.by_attribute)


class _Families(Collector):
    """Hands the plain numbers to prometheus_client when it asks for them."""

    def __init__(self, metrics: Metrics) -> None:
        self._metrics = metrics
        kinds = (Counter, Gauge, Histogram)
        self.by_attribute = {k: v for k, v in vars(metrics).items() if isinstance(v, kinds)}
        self.gauges = [f for f in self.by_attribute.values() if isinstance(f, Gauge)]
        self.sample: Sample = {}

    def collect(self) -> Iterator[Metric]:
        for family in self.by_attribute.values():
            if isinstance(family, Counter):
                yield self._counter(family)
            elif isinstance(family, Histogram):
                yield self._histogram(family)
            else:
                yield from self._gauge(family)

    def _counter(self, family: Counter) -> Metric:
        labels, values = self._with_member(family.name, family.labels)
        metric = CounterMetricFamily(family.name, family.help, labels=labels)
        for child, value in family.children().items():
            metric.add_metric([*child, *values], value)
        return metric

    def _histogram(self, family: Histogram) -> Metric:
        labels, values = self._with_member(family.name, family.labels)
        metric = HistogramMetricFamily(family.name, family.help, labels=labels)
        bounds = [*map(str, family.bounds), "+Inf"]
        for child, buckets in family.children().items():
            total, cumulative = 0, []
            for bound, count in zip(bounds, buckets.counts, strict=True):
                total += count
                cumulative.append((bound, float(total)))
            metric.add_metric([*child, *values], cumulative, buckets.sum)
        return metric

    def _gauge(self, family: Gauge) -> Iterator[Metric]:
        values = family.read() if family.threadsafe else self.sample.get(family.name, {})
        if values:
            metric = GaugeMetricFamily(family.name, family.help, labels=family.labels)
            for child, value in values.items():
                metric.add_metric(list(child), value)
            yield metric

    def _with_member(self, name: str, labels: Labels) -> tuple[list[str], list[str]]:
        if name.startswith("goverse_operation_"):
            return [*labels, "member"], [self._metrics.member]
        return list(labels), []
