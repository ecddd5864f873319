"""Metrics in Prometheus' text format.

Every label has a value from a list of ours (a route, a state, the name of a lane), never one that a caller chooses: no
id, no host, no target, no namespace. So the number of series does not grow with what there is.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field

from prometheus_client import CollectorRegistry, GCCollector, PlatformCollector, ProcessCollector, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily
from prometheus_client.metrics_core import Metric
from prometheus_client.registry import Collector

from controlplane.observe.gauges import BREAKERS_OPEN, KEYS_THROTTLED, KEYS_WRONG, WEBHOOKS_IN_FLIGHT

MEDIA_TYPE = "text/plain; version=0.0.4"
SECONDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0)
"""Bounds of the histogram of answers; a long poll is in the last ones."""
OTHER = "other"
"""The route of what there is not."""
METHODS = frozenset({"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"})
EXECUTIONS = "executions."
DELIVERIES = "deliveries."
SESSIONS = "sessions."
INVARIANTS = "invariants."
UNFINISHED = ("ready", "delayed", "leased", "waiting", "paused", "blocked")
UNDELIVERED = ("pending", "leased")
OLDEST_READY = "executions.oldest_ready_seconds"
OLDEST_DUE = "deliveries.oldest_due_seconds"


@dataclass(slots=True)
class Meter:
    """What was answered by this replica: how often, how, and how quickly. Two additions for each answer."""

    answers: dict[tuple[str, str, int], int] = field(default_factory=dict)
    slots: list[int] = field(default_factory=lambda: [0] * (len(SECONDS) + 1))
    seconds: float = 0.0

    def answered(self, method: str, route: str, status: int, seconds: float) -> None:
        """`route`: as it is declared, never as it was asked for."""
        key = (method if method in METHODS else OTHER, route, status // 100)
        self.answers[key] = self.answers.get(key, 0) + 1
        self.slots[bisect_left(SECONDS, seconds)] += 1
        self.seconds += seconds


@dataclass(frozen=True, slots=True, kw_only=True)
class LaneLook:
    """A lane as it stands: what waits, and what it has done since the start."""

    name: str
    waiting: int
    flushes: int
    items: int
    flush_seconds: float
    connection_seconds: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Look:
    """Everything at one moment. `totals` by the words of the census; None while the database is out of reach."""

    totals: Mapping[str, int] | None
    counted_seconds_ago: float | None
    lanes: tuple[LaneLook, ...]
    connections: int
    connections_idle: int
    connections_max: int
    verifies: bool
    snapshot_seconds: float | None = None


def text(meter: Meter, look: Look) -> bytes:
    """As a scraper reads it: our own, and those of the process."""
    registry = CollectorRegistry()
    ProcessCollector(registry=registry)
    PlatformCollector(registry=registry)
    GCCollector(registry=registry)
    registry.register(_Ours(meter, look))
    return generate_latest(registry)


class _Ours(Collector):
    def __init__(self, meter: Meter, look: Look) -> None:
        self._meter, self._look = meter, look

    def collect(self) -> Iterable[Metric]:
        yield from _answers(self._meter)
        yield from _lanes(self._look.lanes)
        yield from _connections(self._look)
        yield from WEBHOOKS_IN_FLIGHT.collect()
        yield from BREAKERS_OPEN.collect()
        yield from KEYS_WRONG.collect()
        yield from KEYS_THROTTLED.collect()
        up = self._look.totals is not None
        yield GaugeMetricFamily("controlplane_database_up", "Whether the database answers.", value=float(up))
        if self._look.totals is not None:
            yield from _totals(self._look.totals, self._look.counted_seconds_ago)
            if self._look.verifies:
                yield _violations(self._look.totals)
        if self._look.snapshot_seconds is not None:
            yield GaugeMetricFamily(
                "controlplane_oldest_snapshot_seconds",
                "For how long somebody keeps the database from clearing away what is dead.",
                value=self._look.snapshot_seconds,
            )


def _answers(meter: Meter) -> Iterator[Metric]:
    answers = CounterMetricFamily(
        "controlplane_http_answers", "Answers of this replica.", labels=["method", "route", "status"]
    )
    for (method, route, status), count in sorted(meter.answers.items()):
        answers.add_metric([method, route, f"{status}xx"], count)
    yield answers
    took, below = HistogramMetricFamily("controlplane_http_answer_seconds", "Until an answer began."), 0
    bounds = []
    for bound, count in zip((*map(str, SECONDS), "+Inf"), meter.slots, strict=True):
        below += count
        bounds.append((bound, below))
    took.add_metric([], bounds, meter.seconds)
    yield took


def _lanes(lanes: Iterable[LaneLook]) -> Iterator[Metric]:
    waiting = GaugeMetricFamily("controlplane_lane_waiting", "Calls that wait for their flush.", labels=["lane"])
    items = CounterMetricFamily("controlplane_lane_items", "Calls that were flushed.", labels=["lane"])
    flushes = CounterMetricFamily("controlplane_lane_flushes", "Transactions.", labels=["lane"])
    took = CounterMetricFamily("controlplane_lane_flush_seconds", "Spent in transactions.", labels=["lane"])
    pooled = CounterMetricFamily(
        "controlplane_lane_connection_seconds", "Spent in waiting for a connection of the pool.", labels=["lane"]
    )
    for one in lanes:
        waiting.add_metric([one.name], one.waiting)
        items.add_metric([one.name], one.items)
        flushes.add_metric([one.name], one.flushes)
        took.add_metric([one.name], one.flush_seconds)
        pooled.add_metric([one.name], one.connection_seconds)
    yield from (waiting, items, flushes, took, pooled)


def _connections(look: Look) -> Iterator[Metric]:
    gauge = GaugeMetricFamily("controlplane_database_connections", "Of this replica's pool.", labels=["state"])
    gauge.add_metric(["used"], look.connections - look.connections_idle)
    gauge.add_metric(["idle"], look.connections_idle)
    yield gauge
    yield GaugeMetricFamily(
        "controlplane_database_connections_max", "What the pool may have.", value=look.connections_max
    )


def _totals(totals: Mapping[str, int], counted_seconds_ago: float | None) -> Iterator[Metric]:
    """Of all replicas together, so that every one of them says the same."""
    kinds = (
        ("controlplane_executions", "Unfinished executions.", EXECUTIONS, UNFINISHED),
        ("controlplane_deliveries", "Deliveries that are not over.", DELIVERIES, UNDELIVERED),
        ("controlplane_sessions", "Live processes of nodes.", SESSIONS, ("open", "draining")),
    )
    for name, help_, prefix, states in kinds:
        gauge = GaugeMetricFamily(name, help_, labels=["state"])
        for state in states:  # the states in which there is nothing, too: an alert cannot tell absent from broken
            gauge.add_metric([state], totals.get(prefix + state, 0))
        yield gauge
    yield GaugeMetricFamily(
        "controlplane_oldest_ready_seconds",
        "How long the oldest execution that is ready has waited for a node.",
        value=totals.get(OLDEST_READY, 0),
    )
    yield GaugeMetricFamily(
        "controlplane_oldest_due_delivery_seconds",
        "How late the oldest delivery is that has come due.",
        value=totals.get(OLDEST_DUE, 0),
    )
    if counted_seconds_ago is not None:
        yield GaugeMetricFamily(
            "controlplane_counted_seconds_ago", "How old the counts of all replicas are.", value=counted_seconds_ago
        )


def _violations(totals: Mapping[str, int]) -> Metric:
    gauge = GaugeMetricFamily(
        "controlplane_invariant_violations",
        "What broke a promise that is always kept, when it was last looked; up to 20 of each bucket.",
        labels=["invariant"],
    )
    for key, count in sorted(totals.items()):
        if key.startswith(INVARIANTS):
            gauge.add_metric([key.removeprefix(INVARIANTS)], count)
    return gauge
