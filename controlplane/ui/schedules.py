"""Schedules: what begins by itself and when next, what became of it, and to change it."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from typing import Any
from urllib.parse import quote
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

from starlette.requests import Request
from starlette.responses import Response

from controlplane.api.doors import asker_of
from controlplane.api.operation import EXECUTE_OR_OPERATE, OPERATE
from controlplane.domain.key import Caller
from controlplane.domain.schedule import declared_by
from controlplane.ui.action import EXECUTION, Action, Entry, command, not_allowed, turn
from controlplane.ui.asking import Api, paged
from controlplane.ui.paint import paint

Json = Any
TICKS_SHOWN = 20
WHEN = "When: a cron expression, an interval or one moment, just one of them."
NOTHING_IS_ZERO = frozenset({"jitter_seconds", "priority"})
BLIND = "Your key hides payloads: the input, which it does not see, would be lost."


class Schedules:
    """`api`: what these pages ask."""

    def __init__(self, api: Api) -> None:
        self._api = api

    async def page(self, request: Request) -> Response:
        """By name, with what comes next."""
        found = await self._api.get(request, "/api/v1/schedules", paged(request))
        caller = asker_of(request)
        return paint(
            request,
            "schedules.html",
            title="Schedules",
            at="schedules",
            new=new(not_allowed(caller, OPERATE)),
            schedules=[(one, turns(one, caller)) for one in found["items"]],
            next_cursor=found["next_cursor"],
        )

    async def one(self, request: Request) -> Response:
        """One schedule: its next ticks, what became of its latest, and a form with all that it says."""
        path = f"/api/v1/schedules/{quote(request.path_params['name'], safe='')}"
        it = await self._api.get(request, path)
        ticks = await self._api.get(request, f"{path}/ticks", [("limit", str(TICKS_SHOWN))])
        caller = asker_of(request)
        return paint(
            request,
            "schedule.html",
            title=it["name"],
            at="schedules",
            it=it,
            coming=[(at, zoned(at, it.get("time_zone", "UTC"))) for at in it["next"]],
            ticks=ticks["items"],
            declared_by=declared_by(it["name"], it["target"]),
            actions=turns(it, caller),
            change=change(it, not_allowed(caller, OPERATE) or (BLIND if caller.hide_payloads else None)),
        )


def turns(schedule: Mapping[str, Json], caller: Caller) -> list[Action]:
    """What can be done with a schedule."""
    name = schedule["name"]
    path = f"api/v1/schedules/{quote(name, safe='')}"
    operate = not_allowed(caller, OPERATE)
    return [
        Action(
            name=f"run-{name}",
            label="Run now",
            path=f"{path}/run",
            cli=command("schedules", "run", name),
            python=f"await client.schedules.run({name!r})",
            goes_to=EXECUTION,
            off=not_allowed(caller, EXECUTE_OR_OPERATE),
        ),
        turn(
            ("pause", "resume"),
            name,
            path,
            lambda verb: (command("schedules", verb, name), f"await client.schedules.{verb}({name!r})"),
            back=schedule["paused"],
            says="What falls into the pause is not made up for.",
            entries=(),
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
            goes_to="schedules",
            danger=True,
            off=operate,
        ),
    ]


def new(off: str | None) -> Action:
    """Say what shall begin, and when."""
    return Action(
        name="new",
        label="New schedule",
        path="api/v1/schedules",
        says=WHEN,
        cli=command("schedules", "create"),
        python="await client.schedules.create({})",
        entries=(Entry(name="name", label="Name", kind="word", required=True), *_rule({})),
        goes_to="schedules/{name}",
        off=off,
    )


def change(schedule: Mapping[str, Json], off: str | None) -> Action:
    """All that it says, said again: whoever says when in the same words keeps the tick that is planned next."""
    name = schedule["name"]
    return Action(
        name="change",
        label="Change it",
        path=f"api/v1/schedules/{quote(name, safe='')}",
        method="PUT",
        says=WHEN,
        cli=command("schedules", "create", "--replace", name),
        python=f"await client.schedules.create({name!r}, {{}}, replace=True)",
        entries=_rule(schedule),
        off=off,
    )


def _rule(schedule: Mapping[str, Json]) -> tuple[Entry, ...]:
    """What a schedule says, as it says it now."""

    def said(name: str, label: str, kind: str = "text", **more: Json) -> Entry:
        option = "" if kind == "word" else f"--{name.replace('_', '-')}"
        return Entry(
            name=name, label=label, kind=kind, option=option, value=_typed(name, schedule.get(name, "")), **more
        )

    return (
        said("target", "Target (node.reasoner)", "word", required=True),
        said("cron", "Cron (as 30 9 * * MON-FRI)"),
        said("time_zone", "Time zone of it (else UTC)"),
        said("interval_seconds", "Interval in seconds", "number"),
        said("run_at", "Once (as 2030-01-31T09:00:00Z)", "moment"),
        said("overlap", "While one runs", choices=("skip", "queue", "cancel_other")),
        said("catch_up", "Made up for after an outage", choices=("one", "none", "all")),
        said("jitter_seconds", "Up to so many seconds later", "number"),
        said("timeout_seconds", "Seconds for one attempt, at most", "number"),
        said("retries", "Retries, at most", "number"),
        said("priority", "Priority (0 is usual)", "number"),
        said("input", "Input (JSON object)", "json"),
        said("context", "Context (JSON object)", "json"),
    )


def _typed(name: str, value: Json) -> str:
    """As one would type it: nothing for what nothing means."""
    if name in NOTHING_IS_ZERO and not value:
        return ""
    return f"{value}".removesuffix(".0") if isinstance(value, float) else f"{value}"


def zoned(at: str, zone: str) -> str | None:
    """This moment as the clocks of the zone show it; None where that is UTC, or nobody here knows the zone."""
    try:
        local = datetime.fromisoformat(at).astimezone(ZoneInfo(zone))
    except (ZoneInfoNotFoundError, ValueError):
        return None
    return None if zone == "UTC" else f"{local:%Y-%m-%d %H:%M:%S}"
