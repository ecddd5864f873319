"""The list of executions: a filter that is the address, rows that stay where they are, and what is done to many."""

from __future__ import annotations

from datetime import timedelta
from urllib.parse import urlencode

import orjson
from starlette.requests import Request
from starlette.responses import RedirectResponse, Response

from controlplane.api import shapes
from controlplane.api.doors import asker_of, doors_of, namespace_of
from controlplane.api.operation import OPERATE
from controlplane.api.paging import words
from controlplane.domain.ids import is_execution, made_at, read_execution
from controlplane.domain.notice import moment
from controlplane.errors import Refused
from controlplane.reads import executions
from controlplane.ui.action import not_allowed
from controlplane.ui.asking import Api
from controlplane.ui.paint import paint, root_of

LIST = "/api/v1/executions"
FILTERS = (
    "target",
    "node_id",
    "run_id",
    "session_key",
    "actor_key",
    "error_class",
    "created_after",
    "created_before",
    "ended_after",
    "ended_before",
)
SINCE = {"15m": 900, "1h": 3_600, "24h": 86_400, "7d": 7 * 86_400}
"""`since` in an address: a view that stays fresh when it is opened again."""
COLUMNS = {
    "execution_id": "Id",
    "run_id": "Run",
    "session_key": "Session",
    "actor_key": "Actor",
    "concurrency_key": "Concurrency key",
    "priority": "Priority",
    "duration_ms": "Ran",
    "attempt": "Try",
    "failures": "Failures",
    "created_at": "Created",
    "started_at": "Began",
    "completed_at": "Ended",
}
"""What a list may show beside status and target, by the names of the API, in the order in which it stands."""
USUAL = ("execution_id", "duration_ms", "attempt", "created_at")
"""`columns` of an address that says nothing of them."""
ALWAYS = "target"
"""A choice of columns that names no other is a list of targets."""
PAGE_ROWS = 50
ROWS_MAX = 200
"""Rows that are looked at again at once."""
NEW_MAX = 50


class Executions:
    """Pages of the list. `api`: what they ask."""

    def __init__(self, api: Api) -> None:
        self._api = api

    async def page(self, request: Request) -> Response:
        """The newest that match; a filter that cannot be is said beside the form that it came from."""
        pairs, bulk = _asked(request)
        items: list[object] = []
        refusal: Refused | None = None
        next_cursor = None
        try:
            found = await self._api.get(request, LIST, [*pairs, *_cursor(request), ("limit", str(PAGE_ROWS))])
            items, next_cursor = found["items"], found["next_cursor"]
        except Refused as error:
            refusal = error
        known = await self._api.get(request, "/api/v1/reasoners")
        return paint(
            request,
            "executions.html",
            200 if refusal is None else 422,
            title="Executions",
            at="executions",
            items=items,
            next_cursor=next_cursor,
            refusal=refusal,
            asked=_said(request),
            chosen=words(request, "status"),
            since=request.query_params.get("since", ""),
            since_choices=tuple(SINCE),
            query=_query(request),
            columns={name: COLUMNS[name] for name in _columns(request)},
            choices=COLUMNS,
            usual=_columns(request) == USUAL,
            columned=_encoded(_columned(request)),
            plain=_encoded(_kept(request)),
            kept=_kept(request),
            bulk=orjson.dumps(bulk).decode(),
            filtered=bool(pairs),
            paged="cursor" in request.query_params,
            targets=[one["target"] for one in known["items"]],
            bulk_off=not_allowed(asker_of(request), OPERATE),
        )

    async def rows(self, request: Request) -> Response:
        """These rows as they stand now, in the order that they have on the page."""
        texts = [one for one in words(request, "ids") if is_execution(one)][:ROWS_MAX]
        ids = [read_execution(one.partition("~")[0]) for one in texts]
        views = await doors_of(request).run(executions.read, ids, namespace=namespace_of(request))
        shape = {"items": [shapes.execution(views[id_], payloads=False) for id_ in ids if id_ in views]}
        items = self._api.seen(request, LIST, shape)["items"]
        return paint(request, "rows.html", items=items, columns={name: COLUMNS[name] for name in _columns(request)})

    async def new(self, request: Request) -> Response:
        """How many match that are newer than the first row of the page."""
        pairs, _ = _asked(request)
        above = request.query_params.get("above", "")
        found = await self._api.get(request, LIST, [*pairs, ("limit", str(NEW_MAX))])
        fresh = sum(one["execution_id"] > above for one in found["items"])
        return paint(request, "new.html", fresh=fresh, most=NEW_MAX, query=_query(request))

    async def find(self, request: Request) -> Response:
        """Wherever the text in the search box leads: an id, a run, a target."""
        text = request.query_params.get("q", "").strip()[:300]
        root = root_of(request)
        if is_execution(text):
            where = f"executions/{text.partition('~')[0]}"
        else:
            name = "run_id" if text.startswith("run_") else "target" if "." in text else "node_id"
            where = f"executions?{_encoded([(name, text)])}" if text else "executions"
        return RedirectResponse(f"{root}{where}", 303)


def _asked(request: Request) -> tuple[list[tuple[str, str]], dict[str, object]]:
    """The filter of the address, for the list and for a bulk."""
    pairs = _said(request)
    since = SINCE.get(request.query_params.get("since", ""))
    if since is not None and "created_after" not in pairs:
        now = made_at(doors_of(request).ids.new(0))
        pairs["created_after"] = moment(now - timedelta(seconds=since))
    statuses = words(request, "status")
    bulk: dict[str, object] = dict(pairs) | ({"status": statuses} if statuses else {})
    return [*pairs.items(), *(("status", one) for one in statuses)], bulk


def _said(request: Request) -> dict[str, str]:
    """The fields of the filter that say something."""
    return {name: text for name in FILTERS if (text := request.query_params.get(name, "").strip())}


def _cursor(request: Request) -> list[tuple[str, str]]:
    return [("cursor", request.query_params.get("cursor", ""))]


def _query(request: Request) -> str:
    """The filter and the columns as they stand in the address, without the place in the list."""
    return _encoded([*_kept(request), *_columned(request)])


def _kept(request: Request) -> list[tuple[str, str]]:
    """The filter as an address says it."""
    since = request.query_params.get("since", "")
    pairs = [*_said(request).items(), *(("status", one) for one in words(request, "status"))]
    return pairs + ([("since", since)] if since in SINCE else [])


def _columns(request: Request) -> tuple[str, ...]:
    """The columns of the address that there are, in their order; the usual ones if it names none."""
    asked = words(request, "columns")
    return tuple(name for name in COLUMNS if name in asked) if {*COLUMNS, ALWAYS} & {*asked} else USUAL


def _columned(request: Request) -> list[tuple[str, str]]:
    """The columns as an address says them, unless they are the usual ones."""
    columns = _columns(request)
    return [] if columns == USUAL else [("columns", ",".join(columns) or ALWAYS)]


def _encoded(pairs: list[tuple[str, str]]) -> str:
    return urlencode(pairs, safe=",")
