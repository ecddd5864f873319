"""The overview: how much goes on, and what somebody has to look after."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

from starlette.requests import Request
from starlette.responses import Response

from controlplane.api.doors import doors_of, namespace_of
from controlplane.domain.execution import Status
from controlplane.domain.ids import made_at
from controlplane.reads import figures
from controlplane.reads.figures import Figure
from controlplane.ui.asking import Api
from controlplane.ui.chart import chart
from controlplane.ui.paint import paint

Json = Any
LATELY_SECONDS = 3_600.0
ATTENTION_MAX = 8
STUCK_MAX = 200
"""Of what waits, as many are looked at."""
NEWEST = 8
OVERDUE_SECONDS = 60.0
"""What has waited for so long is looked at: why."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Tile:
    """A number, and where the list of what it counts is."""

    label: str
    looks: str
    figure: Figure
    leads_to: str


class Overview:
    """`api`: what it asks."""

    def __init__(self, api: Api) -> None:
        self._api = api

    async def page(self, request: Request) -> Response:
        """Tiles, what needs attention, and what is newest."""
        return paint(request, "overview.html", title="Overview", at="overview", **await self._shown(request))

    async def part(self, request: Request) -> Response:
        """What changes of it."""
        return paint(request, "overview_part.html", **await self._shown(request))

    async def _shown(self, request: Request) -> dict[str, Json]:
        lately = await doors_of(request).lately.of(namespace_of(request))
        return {
            "chart": lately and chart(lately, lately.whole),
            "tiles": await self._tiles(request),
            "attention": await self._attention(request),
            "nodes": (await self._api.get(request, "/api/v1/nodes", [("show_all", "true")]))["nodes"],
            "newest": (await self._api.get(request, "/api/v1/executions", [("limit", str(NEWEST))]))["items"],
        }

    async def _tiles(self, request: Request) -> list[Tile]:
        doors, namespace = doors_of(request), namespace_of(request)
        since = made_at(doors.ids.new(0)) - timedelta(seconds=LATELY_SECONDS)
        buckets = doors.placement.all()
        said = await doors.run(figures.read, namespace=namespace, since=since, buckets=buckets)
        failed_at = f"executions?status=failed&status=timeout&ended_after={since.isoformat().replace('+00:00', 'Z')}"
        shown = [
            ("Running", "running", said.stands[Status.RUNNING], "executions?status=running"),
            ("Queued", "queued", said.stands[Status.QUEUED], "executions?status=queued"),
            ("Waiting", "waiting", said.stands[Status.WAITING], "executions?status=waiting"),
            ("Failed in the last hour", "failed", said.unhappy, failed_at),
            ("Webhooks dead in the last hour", "dead", said.dead, "webhooks?state=dead"),
        ]
        return [Tile(label=label, looks=looks, figure=one, leads_to=leads) for label, looks, one, leads in shown]

    async def _attention(self, request: Request) -> list[Mapping[str, Json]]:
        """What has waited for long, those of a kind as one, with why; what is paused; the last dead webhooks."""
        now = made_at(doors_of(request).ids.new(0))
        before = (now - timedelta(seconds=OVERDUE_SECONDS)).isoformat().replace("+00:00", "Z")
        stuck = await self._api.get(
            request,
            "/api/v1/executions",
            [("status", "queued,waiting"), ("created_before", before), ("limit", str(STUCK_MAX))],
        )
        alike: dict[tuple[str, str, str], list[Json]] = {}
        for one in stuck["items"]:
            alike.setdefault((one["target"], one["status"], one.get("status_reason", "")), []).append(one)
        found: list[Mapping[str, Json]] = []
        for these in sorted(alike.values(), key=lambda these: these[-1]["created_at"])[:ATTENTION_MAX]:
            oldest = these[-1]
            why = await self._api.get(request, f"/api/v1/executions/{oldest['execution_id']}/explain")
            found.append({"it": oldest, "why": why, "count": len(these), "more": len(stuck["items"]) == STUCK_MAX})
        pauses = await self._api.get(request, "/api/v1/pauses", [("limit", str(ATTENTION_MAX))])
        found += [{"pause": one} for one in pauses["items"]]
        dead = await self._api.get(request, "/api/v1/deliveries", [("state", "dead"), ("limit", "4")])
        found += [{"delivery": one} for one in dead["items"]]
        return found
