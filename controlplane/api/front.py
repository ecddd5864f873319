"""The way in: one table of paths in front of the framework's own routing.

FastAPI's exception, exit-stack and router layers cost more per request than a submit itself; what is in the table does
not pass through them. Everything else (OpenAPI, sockets, paths that do not exist) goes on to FastAPI.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Sequence

from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response
from starlette.types import ASGIApp, Receive, Scope, Send

from controlplane.api import problems
from controlplane.api.operation import Handler, Operation
from controlplane.errors import ControlPlaneError, DatabaseUnavailable
from controlplane.postgres.pool import PASSING

log = logging.getLogger(__name__)

PARAMETER = re.compile(r"\\\{(\w+)\\\}")


class Front:
    """Calls the handler of an operation, and turns whatever it raises into a problem."""

    def __init__(self, app: ASGIApp, *, operations: Sequence[Operation]) -> None:
        self._app = app
        self._exact: dict[tuple[str, str], Handler] = {}
        self._patterns: dict[str, list[tuple[re.Pattern[str], Handler]]] = {}
        for one in operations:
            methods = ("GET", "HEAD") if one.method == "GET" else (one.method,)
            for method in methods:
                if "{" in one.path:
                    pattern = re.compile(PARAMETER.sub(r"(?P<\1>[^/]+)", re.escape(one.path)))
                    self._patterns.setdefault(method, []).append((pattern, one.handler))
                else:
                    self._exact[method, one.path] = one.handler

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        found = self._find(scope["method"], scope["path"]) if scope["type"] == "http" else None
        if found is None:
            await self._app(scope, receive, send)
            return
        handler, scope["path_params"] = found
        response = await self._answer(handler, Request(scope, receive, send))
        if response is not None:
            await response(scope, receive, send)

    def _find(self, method: str, path: str) -> tuple[Handler, dict[str, str]] | None:
        exact = self._exact.get((method, path))
        if exact is not None:
            return exact, {}
        for pattern, handler in self._patterns.get(method, ()):
            match = pattern.fullmatch(path)
            if match is not None:
                return handler, match.groupdict()
        return None

    async def _answer(self, handler: Handler, request: Request) -> Response | None:
        try:
            return await handler(request)
        except ControlPlaneError as error:
            return problems.answer(error)
        except ClientDisconnect:
            return None  # nobody is left to read an answer
        except PASSING as error:
            log.warning("request.unavailable", extra={"path": request.url.path, "error": repr(error)})
            return problems.answer(DatabaseUnavailable())
        except Exception as error:  # one broken request must not take its connection with it
            log.error("request.broken", extra={"path": request.url.path, "error": repr(error)}, exc_info=error)
            return problems.answer(ControlPlaneError("Something broke in here; it was logged."))
