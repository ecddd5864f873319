"""One execution: where it stands and why, what it did, what it was asked and found, and what can be done with it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any
from urllib.parse import quote

from starlette.requests import Request
from starlette.responses import Response

from controlplane.api.doors import asker_of, doors_of
from controlplane.api.events import SEQ_MAX
from controlplane.api.operation import EXECUTE, EXECUTE_OR_OPERATE, OPERATE
from controlplane.domain.execution import FINAL, Status
from controlplane.domain.ids import made_at
from controlplane.domain.key import Caller
from controlplane.domain.notice import moment
from controlplane.errors import ControlPlaneError, NotFound, PayloadsHidden, ScopeMissing
from controlplane.ui.action import EXECUTION, REASON, Action, Entry, command, not_allowed, turn
from controlplane.ui.asking import Api
from controlplane.ui.paint import paint
from controlplane.ui.timeline import timeline

Json = Any
TABS = {
    "timeline": "Timeline",
    "logs": "Logs",
    "data": "Input and output",
    "attempts": "Attempts",
    "children": "Children",
    "steps": "Steps and memory",
    "webhooks": "Webhooks",
    "events": "Events",
}
TIMELINE_ROWS_MAX = 200
CHILDREN_MAX = 1_000
LOGS_PAGE = 500
EVENTS_PAGE = 200
YES = "yes"
ENDED = {one.value for one in FINAL}
UNHAPPY = {Status.FAILED.value, Status.TIMEOUT.value, Status.CANCELLED.value}


class Execution:
    """The page of an execution, its head and its tabs, each at an address of its own. `api`: what they ask."""

    def __init__(self, api: Api) -> None:
        self._api = api

    async def page(self, request: Request) -> Response:
        """All of it, with the tab that the address names."""
        head = await self._head(request)
        tab = request.query_params.get("tab", "timeline")
        if tab not in TABS:
            tab = "timeline"
        body = await self._tab(request, tab, head["it"])
        return paint(request, "execution.html", title=head["it"]["target"], at="executions", **head, **body)

    async def head(self, request: Request) -> Response:
        """Where it stands, and what can be done."""
        return paint(request, "head.html", **await self._head(request))

    async def tab(self, request: Request) -> Response:
        """One tab by itself."""
        tab = request.path_params["tab"]
        if tab not in TABS:
            raise NotFound("There is no such tab.")
        it = await self._api.get(request, _path(request))
        return paint(request, "tab.html", it=it, tabs=TABS, **await self._tab(request, tab, it))

    async def log_lines(self, request: Request) -> Response:
        """The lines behind the one that was shown last."""
        return paint(request, "lines.html", **await self._lines(request))

    async def _head(self, request: Request) -> dict[str, Json]:
        path = _path(request)
        it = await self._api.get(request, path)
        why = await self._api.get(request, f"{path}/explain")
        return {"it": it, "why": why, "actions": actions(asker_of(request), it, why), "tabs": TABS}

    async def _tab(self, request: Request, tab: str, it: Mapping[str, Json]) -> dict[str, Json]:
        find = getattr(self, f"_{tab}")
        shown: dict[str, Json] = await find(request, it)
        return shown | {"tab": tab}

    async def _timeline(self, request: Request, it: Mapping[str, Json]) -> dict[str, Json]:
        path = _path(request)
        limit = [("limit", str(TIMELINE_ROWS_MAX))]
        attempts = (await self._api.get(request, f"{path}/attempts", limit))["items"]
        steps = (await self._api.get(request, f"{path}/steps", limit))["steps"]
        tree = await self._tree(request, it, TIMELINE_ROWS_MAX)
        children = [one for one in tree["items"] if one.get("parent_execution_id") == it["execution_id"]]
        now = moment(made_at(doors_of(request).ids.new(0)))
        bars, whole = timeline(it, attempts, steps, children, now)
        return {"bars": bars[:TIMELINE_ROWS_MAX], "whole": whole, "more_bars": max(0, len(bars) - TIMELINE_ROWS_MAX)}

    async def _data(self, request: Request, _: Mapping[str, Json]) -> dict[str, Json]:
        return {"asked": await self._api.get(request, f"{_path(request)}/input")}

    async def _attempts(self, request: Request, _: Mapping[str, Json]) -> dict[str, Json]:
        return {"attempts": (await self._api.get(request, f"{_path(request)}/attempts", [("limit", "200")]))["items"]}

    async def _children(self, request: Request, it: Mapping[str, Json]) -> dict[str, Json]:
        tree = await self._tree(request, it, CHILDREN_MAX)
        return {"run": tree, "below": _below(tree["items"], it["execution_id"])}

    async def _steps(self, request: Request, it: Mapping[str, Json]) -> dict[str, Json]:
        steps = await self._api.get(request, f"{_path(request)}/steps", [("limit", "200")])
        memory: list[Json] = []
        refusal = None
        try:
            listed = await self._api.get(
                request, "/api/v1/memory/list", [("scope", "run"), ("scope_id", it["run_id"]), ("limit", "200")]
            )
            memory = listed if isinstance(listed, list) else listed.get("items", [])
        except (ScopeMissing, PayloadsHidden) as error:
            refusal = error
        return {"steps": steps["steps"], "memory": memory, "refusal": refusal}

    async def _webhooks(self, request: Request, _: Mapping[str, Json]) -> dict[str, Json]:
        items = (await self._api.get(request, f"{_path(request)}/deliveries"))["items"]
        off = not_allowed(asker_of(request), OPERATE)
        return {"deliveries": [(one, resend(one, off)) for one in items]}

    async def _events(self, request: Request, _: Mapping[str, Json]) -> dict[str, Json]:
        query = request.query_params
        before = str(SEQ_MAX) if query.get("newest") == YES else query.get("before", "")
        wanted = [("limit", str(EVENTS_PAGE)), ("cursor", query.get("cursor", "")), ("before", before)]
        found = await self._api.get(request, f"{_path(request)}/events", wanted)
        return {"events": found["items"], "later": found["next_cursor"], "earlier": found.get("previous_cursor")}

    async def _logs(self, request: Request, it: Mapping[str, Json]) -> dict[str, Json]:
        """Of what goes on, the newest lines, which are followed; of what has ended, the first."""
        query = request.query_params
        placed = any(query.get(name) for name in ("after", "before", "newest"))
        newest = query.get("newest") == YES or (not placed and it["status"] not in ENDED)
        found = await self._lines(request, before=str(SEQ_MAX) if newest else query.get("before", ""))
        return found | {"follows": newest and it["status"] not in ENDED}

    async def _lines(self, request: Request, before: str = "") -> dict[str, Json]:
        attempt, after = request.query_params.get("attempt", ""), request.query_params.get("after", "")
        found = await self._api.get(
            request,
            f"{_path(request)}/logs",
            [("limit", str(LOGS_PAGE)), ("attempt", attempt), ("after", after), ("before", before)],
        )
        more = found["next_cursor"] or before not in ("", str(SEQ_MAX))
        return {"lines": found["items"], "more": more, "earlier": found.get("previous_cursor"), "attempt": attempt}

    async def _tree(self, request: Request, it: Mapping[str, Json], limit: int) -> Json:
        path = f"/api/v1/runs/{quote(it['run_id'], safe='')}"
        try:
            return await self._api.get(request, path, [("limit", str(limit))])
        except ControlPlaneError as error:
            if "/" in it["run_id"] or isinstance(error, NotFound):  # a name that its caller made up, which is no path
                return {"items": [], "counts": {}, "executions": 0}
            raise


def actions(caller: Caller, it: Mapping[str, Json], why: Mapping[str, Json]) -> list[Action]:
    """What can be done with an execution; what cannot be done now says why."""
    id_, status = it["execution_id"], it["status"]
    path = f"api/v1/executions/{id_}"
    over = f"It has ended: {status}." if status in ENDED else None
    going = None if over else "It has not ended yet."
    operate, execute = not_allowed(caller, OPERATE), not_allowed(caller, EXECUTE)
    either = not_allowed(caller, EXECUTE_OR_OPERATE)
    paused = it.get("status_reason") == "paused" or why["code"] in ("paused", "pausing")
    cancelling = "It is being cancelled already." if why["code"] == "cancelling" else None
    found = [
        Action(
            name="cancel",
            label="Cancel",
            path=f"{path}/cancel",
            says="From here on it can only end as cancelled: what its attempt still reports is discarded.",
            cli=command("executions", "cancel", id_),
            python=f"await client.execution({id_!r}).cancel({{}})",
            entries=(REASON,),
            danger=True,
            off=over or either or cancelling,
        ),
        turn(
            ("pause", "resume"),
            id_,
            path,
            lambda verb: (command("executions", verb, id_), f"await client.{verb}({id_!r}, {{}})"),
            back=paused,
            says="An attempt that runs goes on to its end; what comes after it waits.",
            off=over or operate,
        ),
        Action(
            name="retry",
            label="Retry",
            path=f"{path}/retry",
            says="A new execution in the same run, with its memory: calls that had succeeded are not made again.",
            cli=command("executions", "retry", id_),
            python=f"await client.retry({id_!r}, {{}})",
            entries=(
                REASON,
                Entry(
                    name="reuse",
                    label="Calls that had succeeded",
                    option="--reuse",
                    choices=("succeeded-before", "none"),
                ),
            ),
            goes_to=EXECUTION,
            off=(None if status in UNHAPPY else going or "It has succeeded; run it again instead.") or execute,
        ),
        Action(
            name="restart",
            label="Run again",
            path=f"{path}/restart",
            says="The same question in a new run with an empty memory; other input makes it a branch.",
            cli=command("executions", "restart", id_),
            python=f"await client.restart({id_!r}, {{}})",
            entries=(
                Entry(
                    name="scope",
                    label="What begins again",
                    option="--scope",
                    choices=("workflow", "execution"),
                ),
                Entry(
                    name="reuse",
                    label="Calls that are taken over",
                    option="--reuse",
                    choices=("succeeded-before", "all-succeeded", "none"),
                ),
                Entry(name="input", label="Other input (JSON object, optional)", kind="json", option="--input"),
                REASON,
            ),
            goes_to=EXECUTION,
            off=execute,
        ),
        Action(
            name="signal",
            label="Signal",
            path=f"{path}/signals/{{event}}",
            says="What has happened outside; one that does not wait for it yet will find it.",
            cli=command("executions", "signal", id_),
            python=f"await client.signal({id_!r}, {{}})",
            entries=(
                Entry(name="event", label="Event", kind="path", required=True),
                Entry(name="payload", label="Payload (JSON, optional)", kind="json", option="--payload", whole=True),
            ),
            off=over or either or cancelling,
        ),
    ]
    if why["code"] == "waiting_for_approval":
        found = [*_decisions(it, path, operate), *found]
    return found


def _decisions(it: Mapping[str, Json], path: str, off: str | None) -> list[Action]:
    """The two answers to what it asks people."""
    id_ = it["execution_id"]
    return [
        Action(
            name=word,
            label=label,
            path=f"{path}/approval-response",
            body={"decision": decision},
            cli=command("approvals", word, id_),
            python=f"await client.{word}({id_!r}, {{}})",
            entries=(Entry(name="feedback", label="Comment (optional)", option="--feedback"),),
            danger=word == "reject",
            off=off,
        )
        for word, label, decision in (("approve", "Approve", "approved"), ("reject", "Reject", "rejected"))
    ]


def resend(delivery: Mapping[str, Json], off: str | None) -> Action:
    """The same bytes under the same id, once more."""
    id_ = delivery["delivery_id"]
    flies = "It is being sent right now." if delivery["state"] == "leased" else None
    return Action(
        name=f"resend-{id_}",
        label="Send again",
        path=f"api/v1/deliveries/{id_}/retry",
        cli=command("deliveries", "retry", id_),
        python=f"await client.deliveries.retry({id_!r})",
        off=off or flies,
    )


def _path(request: Request) -> str:
    return f"/api/v1/executions/{request.path_params['execution_id']}"


def _below(members: list[Json], root: str) -> list[tuple[int, Json]]:
    """What grew from this execution, each behind its parent, with how deep it lies."""
    children: dict[str, list[Json]] = {}
    for one in members:
        children.setdefault(one.get("parent_execution_id", ""), []).append(one)
    found: list[tuple[int, Json]] = []
    waiting = [(0, one) for one in reversed(children.get(root, []))]
    while waiting:
        depth, one = waiting.pop()
        found.append((depth, one))
        waiting += [(depth + 1, child) for child in reversed(children.get(one["execution_id"], []))]
    return found
