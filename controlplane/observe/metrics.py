"""What `/metrics` tells beside the process's own figures. No label ever holds a word that callers choose."""

from __future__ import annotations

from prometheus_client import Gauge

WEBHOOKS_IN_FLIGHT = Gauge("controlplane_webhooks_in_flight", "Webhook attempts under way in this replica.")
BREAKERS_OPEN = Gauge(
    "controlplane_breakers_open", "Receiving hosts that are left alone because they fail, as this replica saw it last."
)
