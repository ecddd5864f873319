"""Figures that are kept as it goes, in no registry: `metrics.py` shows them beside what it looks up."""

from __future__ import annotations

from prometheus_client import Counter, Gauge

WEBHOOKS_IN_FLIGHT = Gauge(
    "controlplane_webhooks_in_flight", "Webhook attempts under way in this replica.", registry=None
)
BREAKERS_OPEN = Gauge(
    "controlplane_breakers_open",
    "Receiving hosts that are left alone because they fail, as this replica saw it last.",
    registry=None,
)
KEYS_WRONG = Counter("controlplane_wrong_keys", "Requests with a key that lets nobody in.", registry=None)
KEYS_THROTTLED = Counter(
    "controlplane_wrong_keys_throttled", "Requests with an unknown key that was not looked at.", registry=None
)
