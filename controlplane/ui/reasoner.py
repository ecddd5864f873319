"""One reasoner: who serves it, and a form to run it."""

from __future__ import annotations

from typing import Any
from urllib.parse import quote

from starlette.requests import Request
from starlette.responses import Response

from controlplane.api.doors import asker_of
from controlplane.api.operation import EXECUTE, OPERATE
from controlplane.errors import NotFound
from controlplane.ui.action import Action, Entry, command, not_allowed
from controlplane.ui.asking import Api
from controlplane.ui.paint import paint
from controlplane.ui.places import pauses
from controlplane.ui.schema import fields_of

Json = Any


class Reasoner:
    """`api`: what this page asks."""

    def __init__(self, api: Api) -> None:
        self._api = api

    async def page(self, request: Request) -> Response:
        """What it takes, in fields where its node has said it. Raises: NotFound."""
        target = request.path_params["target"]
        node = await self._api.get(request, f"/api/v1/nodes/{quote(target.partition('.')[0], safe='')}")
        it = next((one for one in [*node["reasoners"], *node["skills"]] if one["target"] == target), None)
        if it is None:
            raise NotFound("No node has registered this reasoner.")
        caller = asker_of(request)
        schema = it.get("input_schema")
        return paint(
            request,
            "reasoner.html",
            title=target,
            at="reasoners",
            it=it,
            pause=pauses(it, not_allowed(caller, OPERATE)),
            run=runs(it, not_allowed(caller, EXECUTE)),
            fields=fields_of(schema.raw) if schema else [],
            schema=schema,
        )


def runs(reasoner: dict[str, Json], off: str | None) -> Action:
    """Submit it; what is submitted while nobody takes it would wait, which a person at a form does not expect."""
    target = reasoner["target"]
    paused = "It is paused: resume it first." if reasoner.get("paused") else None
    gone = None if reasoner["up"] else "No node serves it just now."
    return Action(
        name="run",
        label="Run",
        path=f"api/v1/execute/async/{quote(target, safe='')}",
        cli=command("call", target, "--no-wait"),
        python=f"await client.start({target!r}, {{}})",
        entries=(Entry(name="input", label="Input", kind="json", option="--input"),),
        goes_to="execution_id",
        off=off or paused or gone,
    )
