"""Nodes: who is there, how long ago it was heard of, what it runs and serves; to drain one, and to hold it back."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any
from urllib.parse import quote

from starlette.requests import Request
from starlette.responses import Response

from controlplane.api.doors import asker_of
from controlplane.api.operation import OPERATE
from controlplane.ui.action import HOLDS_BACK, Action, command, not_allowed, turn
from controlplane.ui.asking import Api
from controlplane.ui.paint import paint

Json = Any
UNDER_WAY_MAX = 50


class Nodes:
    """`api`: what these pages ask."""

    def __init__(self, api: Api) -> None:
        self._api = api

    async def page(self, request: Request) -> Response:
        """Every node that was ever here, those with a live process first."""
        items = (await self._api.get(request, "/api/v1/nodes", [("show_all", "true")]))["nodes"]
        items.sort(key=lambda one: (not one["sessions"], one["node_id"]))
        off = not_allowed(asker_of(request), OPERATE)
        return paint(request, "nodes.html", title="Nodes", at="nodes", nodes=[(one, drains(one, off)) for one in items])

    async def one(self, request: Request) -> Response:
        """One node: what it serves, and what it runs."""
        node_id = request.path_params["node_id"]
        it = await self._api.get(request, f"/api/v1/nodes/{quote(node_id, safe='')}")
        wanted = [("node_id", node_id), ("status", "running,waiting"), ("limit", str(UNDER_WAY_MAX))]
        off = not_allowed(asker_of(request), OPERATE)
        going = await self._api.get(request, "/api/v1/executions", wanted)
        return paint(
            request,
            "node.html",
            title=node_id,
            at="nodes",
            it=it,
            actions=[*drains(it, off), forgets(it, off)],
            items=going["items"],
            more=going["next_cursor"],
        )


def drains(node: Mapping[str, Json], off: str | None) -> list[Action]:
    """What can be done with a node."""
    id_ = node["node_id"]
    path = f"api/v1/nodes/{quote(id_, safe='')}"
    gone = None if node["sessions"] else "No process of it is connected."
    return [
        turn(
            ("drain", "undrain"),
            id_,
            path,
            lambda verb: (command("nodes", verb, id_), f"await client.nodes.{verb}({id_!r}, {{}})"),
            back=bool(node["draining"]),
            says="Its processes finish what they run and take nothing new.",
            off=off or gone,
        ),
        turn(
            ("pause", "resume"),
            id_,
            path,
            lambda verb: (command(verb, "--node", id_), f"await client.pauses.{verb}(node={id_!r}, {{}})"),
            back=node["paused"],
            says=HOLDS_BACK,
            off=off,
        ),
    ]


def forgets(node: Mapping[str, Json], off: str | None) -> Action:
    """Let one that is gone for good leave the list."""
    id_, kept = node["node_id"], node.get("kept_by")
    return Action(
        name="forget",
        label="Forget",
        path=f"api/v1/nodes/{quote(id_, safe='')}",
        method="DELETE",
        says="For one that is gone for good: it leaves the list with all that it served. What it has run stays.",
        cli=command("nodes", "forget", id_),
        python=f"await client.nodes.forget({id_!r})",
        goes_to="nodes",
        danger=True,
        off=off or (kept and f"{kept['detail']} {kept['fix']}"),
    )
