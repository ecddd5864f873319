"""The way in: one table of paths in front of the framework's own routing.

FastAPI's exception, exit-stack and router layers cost more per request than a submit itself; what is in the table does
not pass through them. Everything else (OpenAPI, sockets, paths that do not exist) goes on to FastAPI.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

from starlette.requests import Request
from starlette.types import ASGIApp, Receive, Scope, Send

from controlplane.api import problems
from controlplane.api.operation import Handler, Operation

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
                    path = PARAMETER.sub(r"(?P<\1>[^/]+)", re.escape(one.path))
                    pattern = re.compile(f"{path.removesuffix('[^/]+)')}.+)" if one.slashes else path)
                    self._patterns.setdefault(method, []).append((pattern, one.handler))
                else:
                    self._exact[method, one.path] = one.handler

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        found = self._find(scope["method"], scope["path"]) if scope["type"] == "http" else None
        if found is None:
            await self._app(scope, receive, send)
            return
        handler, scope["path_params"] = found
        request = Request(scope, receive, send)
        try:
            response = await handler(request)
        except Exception as error:  # noqa: BLE001 - a broken request must not take its connection with it
            response = problems.of(request, error)
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
