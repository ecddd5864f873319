"""One reasoner: who serves it, how it does, what it did last, and a form to run it."""

from __future__ import annotations

from typing import Any
from urllib.parse import quote

from starlette.requests import Request
from starlette.responses import Response

from controlplane.api.doors import asker_of, doors_of, namespace_of
from controlplane.api.operation import EXECUTE, OPERATE
from controlplane.ui.action import EXECUTION, Action, Entry, command, not_allowed
from controlplane.ui.asking import Api
from controlplane.ui.chart import chart
from controlplane.ui.paint import paint
from controlplane.ui.places import pauses
from controlplane.ui.schema import fields_of

Json = Any
NEWEST = 8
SCHEDULES_SHOWN = 50


class Reasoner:
    """`api`: what this page asks."""

    def __init__(self, api: Api) -> None:
        self._api = api

    async def page(self, request: Request) -> Response:
        """What it takes, in fields where its node has said it. Raises: TargetNotFound, which names the nearest."""
        doors, namespace, target = doors_of(request), namespace_of(request), request.path_params["target"]
        entry = await doors.catalogue.find(namespace, target)
        node = await self._api.get(request, f"/api/v1/nodes/{quote(entry.node_id, safe='')}")
        it = next(one for one in [*node["reasoners"], *node["skills"]] if one["target"] == target)
        newest = await self._of(request, "executions", target, NEWEST)
        planned = await self._of(request, "schedules", target, SCHEDULES_SHOWN)
        lately = await doors.lately.of(namespace)
        caller, schema = asker_of(request), it.get("input_schema")
        return paint(
            request,
            "reasoner.html",
            title=target,
            at="reasoners",
            it=it,
            node=node,
            figures=lately and lately.of(target),
            chart=lately and chart(lately, lately.of(target), target=target),
            newest=newest,
            schedules=planned,
            pause=pauses(it, not_allowed(caller, OPERATE)),
            run=runs(it, not_allowed(caller, EXECUTE)),
            fields=fields_of(schema.raw) if schema else [],
            schema=schema,
        )

    async def _of(self, request: Request, what: str, target: str, limit: int) -> Json:
        asked = [("target", target), ("limit", str(limit))]
        return (await self._api.get(request, f"/api/v1/{what}", asked))["items"]


def runs(reasoner: dict[str, Json], off: str | None) -> Action:
    """Submit it; what is submitted while nobody takes it would wait, which a person at a form does not expect."""
    target = reasoner["target"]
    paused = "It is paused: resume it first." if reasoner["paused"] else None
    gone = None if reasoner["up"] else "No node serves it just now."
    return Action(
        name="run",
        label="Run",
        path=f"api/v1/execute/async/{quote(target, safe='')}",
        cli=command("call", target, "--no-wait"),
        python=f"await client.start({target!r}, {{}})",
        entries=(Entry(name="input", label="Input", kind="json", option="--input"),),
        goes_to=EXECUTION,
        off=off or paused or gone,
    )
