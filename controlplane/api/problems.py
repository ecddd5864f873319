"""Errors on the wire: problem+json (RFC 9457) that also carries `error` and `message`, which AgentField's clients read.

Nothing that came in is echoed back raw.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Mapping, Sequence
from difflib import get_close_matches
from functools import lru_cache

import orjson
from fastapi import FastAPI
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response

from controlplane import errors
from controlplane.api.agentfield import absent
from controlplane.postgres.pool import PASSING, unavailable

log = logging.getLogger(__name__)

MEDIA_TYPE = "application/problem+json"
TYPE_BASE = "urn:controlplane:error:"
EVERY_PATH = "GET /openapi.json lists every path."
PATH_MAX = 200
PATH_CUTOFF = 0.7
REQUEST_ID = "controlplane.request_id"
"""Where in a request's scope the guard leaves its id."""
NAME_MAX = 20
"""What is longer between two slashes of a path is an id."""

STATUS_OF: dict[type[errors.ControlPlaneError], int] = {
    errors.ControlPlaneError: 500,
    errors.NotFound: 404,
    errors.ExecutionNotFound: 404,
    errors.TargetNotFound: 404,
    errors.NodeNotFound: 404,
    errors.SessionNotFound: 404,
    errors.MemoryNotFound: 404,
    errors.DeliveryNotFound: 404,
    errors.NoApprovalRequest: 404,
    errors.ScheduleNotFound: 404,
    errors.BulkNotFound: 404,
    errors.StepNotFound: 404,
    errors.LimitNotFound: 404,
    errors.KeyNotFound: 404,
    errors.NamespaceNotFound: 404,
    errors.TriggerNotFound: 404,
    errors.TriggerEventNotFound: 404,
    errors.EndpointNotFound: 404,
    errors.Conflict: 409,
    errors.LeaseLost: 409,
    errors.AlreadyFinished: 409,
    errors.InvalidState: 409,
    errors.SessionClosed: 409,
    errors.SessionDraining: 409,
    errors.NodeInUse: 409,
    errors.LengthMismatch: 409,
    errors.NotAList: 409,
    errors.ApprovalAlreadyRequested: 409,
    errors.ScheduleExists: 409,
    errors.SignalsFull: 409,
    errors.NamespaceExists: 409,
    errors.KeyReplaced: 409,
    errors.KeyRevoked: 409,
    errors.TriggerExists: 409,
    errors.EndpointExists: 409,
    errors.EndpointsFull: 409,
    errors.IdempotencyConflict: 422,
    errors.Refused: 400,
    errors.Malformed: 400,
    errors.Invalid: 422,
    errors.InvalidParameter: 400,
    errors.TooLarge: 413,
    errors.TargetMalformed: 400,
    errors.EgressRefused: 422,
    errors.NoWebhook: 400,
    errors.Unauthorized: 401,
    errors.NotItsNode: 403,
    errors.NotHttp: 400,
    errors.HeadTooLarge: 431,
    errors.TooSlow: 408,
    errors.RateLimited: 429,
    errors.CapReached: 422,
    errors.NamespaceFull: 429,
    errors.ScopeMissing: 403,
    errors.PagesReadOnly: 403,
    errors.NodeNotAllowed: 403,
    errors.NamespaceNotAllowed: 403,
    errors.PayloadsHidden: 403,
    errors.Unavailable: 503,
    errors.DatabaseUnavailable: 503,
    errors.DatabaseFull: 503,
    errors.ShuttingDown: 503,
    errors.WaitedTooLong: 504,
    errors.TooManyConnections: 503,
}

TITLES = {
    400: "Bad request",
    401: "Unauthorized",
    403: "Forbidden",
    404: "Not found",
    405: "Method not allowed",
    408: "Took too long",
    409: "Conflict",
    413: "Too large",
    422: "Not valid",
    429: "Too many requests",
    431: "Head too large",
    500: "Internal error",
    502: "The execution failed",
    503: "Not available right now",
    504: "Waited too long",
}


def status_of(error: errors.ControlPlaneError) -> int:
    return STATUS_OF[type(error)]


def body_of(error: errors.ControlPlaneError) -> dict[str, object]:
    """The problem as a JSON object. AgentField's own words stand in `error` where its clients look for them."""
    status = status_of(error)
    body: dict[str, object] = {
        "type": TYPE_BASE + error.code,
        "title": TITLES.get(status, "Error"),
        "status": status,
        "detail": error.detail,
        "code": error.code,
        "error": error.code,
        "message": error.detail,
    }
    if error.where is not None:
        body["where"] = error.where
    if error.fix is not None:
        body["fix"] = error.fix
    # RFC 9457 has a `status` of its own.
    return body | {"execution_status" if name == "status" else name: fact for name, fact in error.facts.items()}


def answer(error: errors.ControlPlaneError, headers: Mapping[str, str] | None = None) -> Response:
    status = status_of(error)
    more = dict(headers or {})
    if status == 503:
        more["Retry-After"] = "1"
    if status == 429:
        more.setdefault("Retry-After", str(error.facts.get("retry_after_seconds", 1)))
    if status == 401:
        more["WWW-Authenticate"] = "Bearer"
    return Response(orjson.dumps(body_of(error)), status, more, media_type=MEDIA_TYPE)


def of(request: Request, error: Exception) -> Response:
    """What a request answers that ended in this; what is nobody's fault but ours or the database's is logged."""
    if isinstance(error, errors.ControlPlaneError):
        return answer(error)
    if isinstance(error, ClientDisconnect):
        return Response(status_code=400)  # nobody is left to read it
    facts = {"path": request.url.path, "error": repr(error), "request_id": request.scope.get(REQUEST_ID)}
    if isinstance(error, PASSING):
        log.warning("request.unavailable", extra=facts)
        return answer(unavailable(error))
    log.error("request.broken", extra=facts, exc_info=error)
    return answer(errors.ControlPlaneError("Something broke in here; it was logged."))


async def broken(request: Request, error: Exception) -> Response:
    """As `of`, for whoever awaits."""
    return of(request, error)


def install(
    app: FastAPI,
    *,
    paths: Sequence[str],
    methods: Callable[[str], Iterable[str]],
    shown: Callable[[Request, Response], Response],
) -> None:
    """Errors of what does not pass through `front.py` look the same. `paths`: what there is, to name the nearest.

    `methods`: what a path takes; the framework only names those of the first route that has it. `shown` makes a page of
    it for whoever looks with a browser.
    """
    known = tuple(dict.fromkeys(paths))

    async def http(request: Request, error: Exception) -> Response:
        assert isinstance(error, HTTPException)
        detail, fix = _missing(request.url.path[:PATH_MAX], known) if error.status_code == 404 else ("", EVERY_PATH)
        headers = dict(error.headers or {})
        if error.status_code == 405:
            detail = "This path does not take this method."
            headers["Allow"] = ", ".join(methods(request.url.path)) or headers.get("Allow", "")
        body = {
            "type": "about:blank",
            "title": TITLES.get(error.status_code, "Error"),
            "status": error.status_code,
            "detail": detail or str(error.detail),
            "error": TITLES.get(error.status_code, "error").lower().replace(" ", "_"),
            "message": detail or str(error.detail),
            "fix": fix,
        }
        return shown(request, Response(orjson.dumps(body), error.status_code, headers, media_type=MEDIA_TYPE))

    app.add_exception_handler(HTTPException, http)
    for kind in (errors.ControlPlaneError, ClientDisconnect, *PASSING, Exception):
        app.add_exception_handler(kind, broken)


@lru_cache(maxsize=1_024)
def _missing(path: str, known: tuple[str, ...]) -> tuple[str, str]:
    """What to say of a path that is not here, and the next step."""
    part = absent.part_of(path)
    if part is not None:
        detail = f"{part}: this part of AgentField is not served here, see {absent.PAGE}."
        return detail, f"{absent.PAGE} says what to use instead. {EVERY_PATH}"
    plain = "/".join("{execution_id}" if len(one) > NAME_MAX else one for one in path.split("/"))
    near = get_close_matches(plain, known, n=3, cutoff=PATH_CUTOFF)
    return "There is no such path.", f"Did you mean {' or '.join(near)}? {EVERY_PATH}" if near else EVERY_PATH
