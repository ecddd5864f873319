"""The figures of one reasoner: what became of its work in the last 24 hours, and who serves it."""

from __future__ import annotations

from typing import Any
from urllib.parse import quote

from starlette.requests import Request
from starlette.responses import Response

from controlplane.api.doors import doors_of, namespace_of
from controlplane.errors import NotFound
from controlplane.ui.asking import Api
from controlplane.ui.chart import chart
from controlplane.ui.paint import paint

Json = Any
NEWEST = 8


class Figures:
    """`api`: what this page asks."""

    def __init__(self, api: Api) -> None:
        self._api = api

    async def page(self, request: Request) -> Response:
        """Bars, times and the share that failed. Raises: NotFound."""
        target = request.path_params["target"]
        items = (await self._api.get(request, "/api/v1/reasoners"))["items"]
        it = next((one for one in items if one["target"] == target), None)
        if it is None:
            raise NotFound("No node has ever registered this target.", fix="GET /api/v1/reasoners lists all.")
        return paint(
            request,
            "figures.html",
            title=f"Figures of {target}",
            at="reasoners",
            it=it,
            node=await self._api.get(request, f"/api/v1/nodes/{quote(it['node_id'], safe='')}"),
            newest=(await self._api.get(request, "/api/v1/executions", [("target", target), ("limit", str(NEWEST))]))[
                "items"
            ],
            **await figures(request, target),
        )


async def figures(request: Request, target: str) -> dict[str, Json]:
    """What `reasoner_figures.html` shows."""
    lately = await doors_of(request).lately.of(namespace_of(request))
    if lately is None:
        return {"figures": None, "chart": None}
    return {"figures": lately.of(target), "chart": chart(lately, lately.of(target), target=target)}
