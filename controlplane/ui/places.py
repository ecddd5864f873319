"""Nodes, reasoners, limits, schedules, webhooks, approvals, settings: what there is, and what can be done with it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any
from urllib.parse import quote

from starlette.requests import Request
from starlette.responses import Response

from controlplane.api.doors import asker_of, doors_of, namespace_of
from controlplane.api.operation import EXECUTE_OR_OPERATE, OPERATE
from controlplane.domain.approval import WAITING_FOR_APPROVAL
from controlplane.domain.key import KeyScope
from controlplane.errors import ControlPlaneError, PayloadsHidden, ScopeMissing
from controlplane.ui.action import REASON, Action, Entry, command, not_allowed
from controlplane.ui.asking import Api
from controlplane.ui.chart import sparkline
from controlplane.ui.execution import resend
from controlplane.ui.paint import paint

Json = Any
PAGE_ROWS = 50
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

    async def nodes(self, request: Request) -> Response:
        """Every node that was ever here, those with a live process first."""
        items = (await self._api.get(request, "/api/v1/nodes", [("show_all", "true")]))["nodes"]
        items.sort(key=lambda one: (not one["sessions"], one["node_id"]))
        off = not_allowed(asker_of(request), OPERATE)
        return paint(request, "nodes.html", title="Nodes", at="nodes", nodes=[(one, drains(one, off)) for one in items])

    async def node(self, request: Request) -> Response:
        """One node: what it serves, and what it runs."""
        node_id = request.path_params["node_id"]
        it = await self._api.get(request, f"/api/v1/nodes/{quote(node_id, safe='')}")
        going = await self._api.get(
            request, "/api/v1/executions", [("node_id", node_id), ("status", "running,waiting"), ("limit", "50")]
        )
        off = not_allowed(asker_of(request), OPERATE)
        return paint(
            request,
            "node.html",
            title=node_id,
            at="nodes",
            it=it,
            actions=drains(it, off),
            items=going["items"],
        )

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
        found = await self._api.get(request, "/api/v1/limits", self._paged(request))
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

    async def schedules(self, request: Request) -> Response:
        """What begins by itself, and when next."""
        found = await self._api.get(request, "/api/v1/schedules", self._paged(request))
        caller = asker_of(request)
        rows = [
            (one, turns(one, not_allowed(caller, OPERATE), not_allowed(caller, EXECUTE_OR_OPERATE)))
            for one in found["items"]
        ]
        return paint(
            request,
            "schedules.html",
            title="Schedules",
            at="schedules",
            new=new_schedule(not_allowed(caller, OPERATE)),
            schedules=rows,
            next_cursor=found.get("next_cursor"),
        )

    async def webhooks(self, request: Request) -> Response:
        """Deliveries, the newest first, and the endpoints that were registered."""
        state = request.query_params.get("state", "")
        wanted = [*self._paged(request), ("state", state if state in STATES else "")]
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

    async def settings(self, request: Request) -> Response:
        """How it goes with the server; its keys and its audit log, for whoever may see them."""
        health = await self._api.get(request, "/api/v1/health")
        retention = await self._api.get(request, "/api/v1/retention")
        keys: list[Json] = []
        audit: list[Json] = []
        if KeyScope.ADMIN in asker_of(request).scopes:
            keys = (await self._api.get(request, "/api/v1/keys", [("limit", "200")]))["items"]
            audit = (await self._api.get(request, "/api/v1/audit", [("limit", "50")]))["items"]
        return paint(
            request,
            "settings.html",
            title="Settings",
            at="settings",
            health=health,
            retention=retention,
            keys=keys,
            audit=audit,
        )

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

    @staticmethod
    def _paged(request: Request) -> list[tuple[str, str]]:
        return [("limit", str(PAGE_ROWS)), ("cursor", request.query_params.get("cursor", ""))]


def drains(node: Mapping[str, Json], off: str | None) -> list[Action]:
    """What can be done with a node."""
    id_ = node["node_id"]
    path = f"api/v1/nodes/{quote(id_, safe='')}"
    gone = None if node["sessions"] else "No process of it is connected."
    paused = node.get("paused", False)
    verb = "resume" if paused else "pause"
    drain = "undrain" if node.get("draining") else "drain"
    return [
        Action(
            name=f"{drain}-{id_}",
            label=drain.capitalize(),
            path=f"{path}/{drain}",
            says="Its processes finish what they run and take nothing new." if drain == "drain" else "",
            cli=command("nodes", drain, id_),
            python=f"await client.nodes.{drain}({id_!r}, {{}})",
            entries=(REASON,) if drain == "drain" else (),
            off=off or gone,
        ),
        Action(
            name=f"{verb}-{id_}",
            label=verb.capitalize(),
            path=f"{path}/{verb}",
            says="" if paused else "Nothing of it is handed out until it is resumed; what runs goes on.",
            cli=command(verb, "--node", id_),
            python=f"await client.pauses.{verb}(node={id_!r}, {{}})",
            entries=() if paused else (REASON,),
            off=off,
        ),
    ]


def pauses(reasoner: Mapping[str, Json], off: str | None) -> Action:
    """Hold one reasoner back, or let it go on."""
    target = reasoner["target"]
    verb = "resume" if reasoner.get("paused") else "pause"
    return Action(
        name=f"{verb}-{target}",
        label=verb.capitalize(),
        path=f"api/v1/reasoners/{quote(target, safe='')}/{verb}",
        says="" if verb == "resume" else "Nothing of it is handed out until it is resumed; what runs goes on.",
        cli=command(verb, "--reasoner", target),
        python=f"await client.pauses.{verb}(reasoner={target!r}, {{}})",
        entries=() if verb == "resume" else (REASON,),
        off=off,
    )


def turns(schedule: Mapping[str, Json], operate: str | None, run: str | None) -> list[Action]:
    """What can be done with a schedule."""
    name = schedule["name"]
    path = f"api/v1/schedules/{quote(name, safe='')}"
    verb = "resume" if schedule.get("paused") else "pause"
    return [
        Action(
            name=f"run-{name}",
            label="Run now",
            path=f"{path}/run",
            cli=command("schedules", "run", name),
            python=f"await client.schedules.run({name!r})",
            goes_to="execution_id",
            off=run,
        ),
        Action(
            name=f"{verb}-{name}",
            label=verb.capitalize(),
            path=f"{path}/{verb}",
            cli=command("schedules", verb, name),
            python=f"await client.schedules.{verb}({name!r})",
            off=operate,
        ),
        Action(
            name=f"delete-{name}",
            label="Delete",
            path=path,
            method="DELETE",
            says="Nothing begins by it any more; what it has submitted goes on.",
            cli=command("schedules", "delete", name),
            python=f"await client.schedules.delete({name!r})",
            danger=True,
            off=operate,
        ),
    ]


def new_schedule(off: str | None) -> Action:
    """Say what shall begin, and when."""
    return Action(
        name="new",
        label="New schedule",
        path="api/v1/schedules",
        says="When: a cron expression or an interval, one of them.",
        cli=command("schedules", "create"),
        python="await client.schedules.create({})",
        entries=(
            Entry(name="name", label="Name", kind="word", required=True),
            Entry(name="target", label="Target (node.reasoner)", kind="word", required=True),
            Entry(name="cron", label="Cron (as 30 9 * * MON-FRI)", option="--cron"),
            Entry(name="time_zone", label="Time zone of it (else UTC)", option="--time-zone"),
            Entry(name="interval_seconds", label="Interval in seconds", kind="number", option="--interval-seconds"),
            Entry(
                name="overlap",
                label="While one runs",
                option="--overlap",
                choices=("skip", "queue", "cancel_other"),
            ),
            Entry(name="input", label="Input (JSON object, optional)", kind="json", option="--input"),
        ),
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
