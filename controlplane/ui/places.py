"""Reasoners, limits, webhooks, approvals: what there is, and what can be done with it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any
from urllib.parse import quote

from starlette.requests import Request
from starlette.responses import Response

from controlplane.api.doors import asker_of, doors_of, namespace_of
from controlplane.api.operation import OPERATE
from controlplane.domain.approval import WAITING_FOR_APPROVAL
from controlplane.errors import ControlPlaneError, PayloadsHidden, ScopeMissing
from controlplane.ui.action import HOLDS_BACK, Action, Entry, command, not_allowed, turn
from controlplane.ui.asking import Api, paged
from controlplane.ui.chart import sparkline
from controlplane.ui.execution import resend
from controlplane.ui.paint import paint

Json = Any
WAITING_MAX = 200
STATES = ("pending", "leased", "delivered", "dead")
SETS = "The limit is what stands here; a lower one lets what runs run to its end."
NUMBERS = (
    ("concurrency_max", "Under way at once, at most", "--concurrency-max"),
    ("rate_max", "Begin, at most", "--rate-max"),
    ("rate_seconds", "in so many seconds", "--rate-seconds"),
)


class Places:
    """`api`: what these pages ask."""

    def __init__(self, api: Api) -> None:
        self._api = api

    async def reasoners(self, request: Request) -> Response:
        """Every function that was ever registered, whether somebody serves it, and what became of its work lately."""
        lately = await doors_of(request).lately.of(namespace_of(request))
        items = (await self._api.get(request, "/api/v1/reasoners"))["items"]
        off = not_allowed(asker_of(request), OPERATE)
        return paint(
            request,
            "reasoners.html",
            title="Reasoners",
            at="reasoners",
            reasoners=[(one, pauses(one, off)) for one in items],
            figures={one["target"]: lately.of(one["target"]) for one in items} if lately else {},
            sparks={one["target"]: sparkline(lately, lately.of(one["target"])) for one in items} if lately else {},
            lately=lately,
        )

    async def limits(self, request: Request) -> Response:
        """What holds work back, how much it holds, and how many wait for it."""
        found = await self._api.get(request, "/api/v1/limits", paged(request))
        off = not_allowed(asker_of(request), OPERATE)
        return paint(
            request,
            "limits.html",
            title="Limits",
            at="limits",
            new=new_limit(off),
            limits=[(one, holds(one, off)) for one in found["items"]],
            next_cursor=found["next_cursor"],
        )

    async def webhooks(self, request: Request) -> Response:
        """Deliveries, the newest first, and the endpoints that were registered."""
        state = request.query_params.get("state", "")
        wanted = [*paged(request), ("state", state if state in STATES else "")]
        found = await self._api.get(request, "/api/v1/deliveries", wanted)
        endpoints: list[Json] = []
        refusal: ControlPlaneError | None = None
        try:
            endpoints = (await self._api.get(request, "/api/v1/endpoints", [("limit", "50")]))["items"]
        except (PayloadsHidden, ScopeMissing) as error:
            refusal = error
        off = not_allowed(asker_of(request), OPERATE)
        return paint(
            request,
            "webhooks.html",
            title="Webhooks",
            at="webhooks",
            deliveries=[(one, resend(one, off)) for one in found["items"]],
            next_cursor=found["next_cursor"],
            state=state,
            states=STATES,
            endpoints=endpoints,
            refusal=refusal,
        )

    async def bulk(self, request: Request) -> Response:
        """How far a bulk is."""
        path = f"/api/v1/bulk/{request.path_params['bulk_id']}"
        it = await self._api.get(request, path)
        caller = asker_of(request)
        stop = Action(
            name="stop",
            label="Stop",
            path=f"{path[1:]}/stop",
            says="No further batch begins; what was done stays done.",
            cli=command("bulk", "stop", it["bulk_id"]),
            python=f"await client.bulk.stop({it['bulk_id']!r})",
            danger=True,
            off=(None if it["state"] == "running" else f"It is over: {it['state']}.") or not_allowed(caller, OPERATE),
        )
        return paint(request, "bulk.html", title=f"Bulk {it['action']}", at="executions", it=it, stop=stop)

    async def approvals(self, request: Request) -> Response:
        """What executions ask people just now."""
        waiting = await self._api.get(
            request, "/api/v1/executions", [("status", "waiting"), ("limit", str(WAITING_MAX))]
        )
        asked = [one for one in waiting["items"] if one.get("status_reason") == WAITING_FOR_APPROVAL]
        rows = [
            (one, await self._api.get(request, f"/api/v1/executions/{one['execution_id']}/approval-status"))
            for one in asked
        ]
        return paint(request, "approvals.html", title="Approvals", at="approvals", rows=rows)


def pauses(reasoner: Mapping[str, Json], off: str | None) -> Action:
    """Hold one reasoner back, or let it go on."""
    target = reasoner["target"]
    return turn(
        ("pause", "resume"),
        target,
        f"api/v1/reasoners/{quote(target, safe='')}",
        lambda verb: (
            command(verb, "--reasoner", target),
            f"await client.pauses.{verb}(reasoner={target!r}, {{}})",
        ),
        back=reasoner["paused"],
        says=HOLDS_BACK,
        off=off,
    )


def new_limit(off: str | None) -> Action:
    """Hold something back that is not held back yet."""
    key = Entry(
        name="key",
        label="Of (reasoner:node.name, node:name or key: and a concurrency key)",
        kind="path",
        required=True,
    )
    return Action(
        name="new",
        label="Set a limit",
        path="api/v1/limits/{key}",
        method="PUT",
        says=SETS,
        cli=command("limits", "set"),
        python="await client.limits.set({})",
        entries=(key, *_most({})),
        off=off,
    )


def holds(limit: Mapping[str, Json], off: str | None) -> list[Action]:
    """What can be done with a limit. What its node says of it is the node's."""
    key = limit["key"]
    path = f"api/v1/limits/{quote(key, safe='/:')}"
    declared = limit.get("declared_max")
    own = "rate_max" in limit or limit.get("concurrency_max") != declared
    return [
        Action(
            name=f"set-{key}",
            label="Change",
            path=path,
            method="PUT",
            says=SETS,
            cli=command("limits", "set", key),
            python=f"await client.limits.set({key!r}, {{}})",
            entries=_most(limit),
            off=off,
        ),
        Action(
            name=f"delete-{key}",
            label="Delete",
            path=path,
            method="DELETE",
            says="What waits for it is let in."
            + (f" What its node says, {declared} at once, holds again." if declared is not None else ""),
            cli=command("limits", "delete", key),
            python=f"await client.limits.delete({key!r})",
            danger=True,
            off=(None if own else "It is what its node declares: there is nothing to delete.") or off,
        ),
    ]


def _most(limit: Mapping[str, Json]) -> tuple[Entry, ...]:
    """The numbers of a limit, as they stand."""
    return tuple(
        Entry(name=name, label=label, kind="number", option=option, value=f"{limit.get(name, '')}".removesuffix(".0"))
        for name, label, option in NUMBERS
    )
